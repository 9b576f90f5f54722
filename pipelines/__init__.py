"""The jobs that a person runs, one thin file each."""

import logging

_BEAM_WITHOUT_GOOGLE = ("Failed to import GCSFileSystem", "apitools not found")


def _is_asked_for(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_BEAM_WITHOUT_GOOGLE)


# Beam warns of parts for Google's cloud that it lacks whenever it is imported, whether anybody wants them or not.
for _name in (None, "apache_beam.io.filesystems"):
    logging.getLogger(_name).addFilter(_is_asked_for)
