"""The table windows to the tables interactions and directives, on Beam.

One element per object of windows; it is read, searched and written inside one step. What is made of an object is named
after it, so a run does what is missing and touches nothing else.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipelines.runners import counters, expect_nothing_lost, finish, pipeline_options, runner
from sdiff import storage, tables
from sdiff.directives.search import Maps
from sdiff.interactions.detectors import KINDS_FOUND
from sdiff.mining import MADE, SEVERE, map_objects, mine_object, object_name, versions, write_plan

_NAMESPACE = "mine"


@dataclass
class MineWindows(beam.PTransform):
    """Objects of windows to one report each: what was found, after it is written."""

    windows: str
    output: str

    def expand(self, objects: beam.PCollection) -> beam.PCollection:
        return (
            objects
            | "spread objects" >> beam.Reshuffle()
            | "read, find, measure, write" >> beam.ParDo(MineObject(self.windows, self.output))
        )


class MineObject(beam.DoFn):
    """Writes what one object of windows holds inside `process`; counts it."""

    def __init__(self, windows: str, output: str) -> None:
        self.windows, self.output = windows, output

    def setup(self) -> None:
        self.maps, self.map_objects = Maps(), map_objects(self.windows)

    def process(self, windows_object: str) -> Iterator[Counter[str]]:
        counts = mine_object(windows_object, self.output, self.maps, self.map_objects)
        for name, count in counts.items():
            Metrics.counter(_NAMESPACE, name).inc(count)
        yield counts


def run(windows: str, output: str, *, workers: int = 1, beam_args: Sequence[str] = ()) -> dict[str, Any]:
    """Mine every object of the table windows into the tables under `output`; returns what they hold, by kind.

    Raises tables.TableError where there are no windows or maps, or `output` was made with other versions of the
    schemas or the code; storage.StorageError where a place cannot be read or written; RunFailed where the runner lost
    a part of the work or of itself. beam_args: Beam's pipeline options; the runner is FnApiRunner unless named there.
    """
    options = pipeline_options(workers, beam_args)
    windows, output = storage.absolute(windows), storage.absolute(output)
    objects = storage.objects(storage.table_uri(windows, "windows"))
    if not objects:
        raise tables.TableError(f"no table windows at {storage.table_uri(windows, 'windows')}; run sdiff ingest first")
    map_objects(windows)
    tables.claim(storage.join(output, "_mine", "options.json"), versions())
    write_plan(output, objects)
    pipeline = beam.Pipeline(runner(options), options)
    _ = pipeline | beam.Create(objects, reshuffle=False) | MineWindows(windows, output)
    result = finish(pipeline)
    made = {table: storage.sizes(storage.join(output, table)) for table in MADE}
    names = {uri: f"{object_name(uri)}.parquet" for uri in objects}
    lost = [uri for uri, name in names.items() if not all(name in found for found in made.values())]
    expect_nothing_lost(lost, len(objects), "objects of windows", options)
    return _report(counters(result, _NAMESPACE))


def _report(counts: dict[str, int]) -> dict[str, Any]:
    by_kind = {kind: {name: counts.get(f"{kind}: {name}", 0) for name in ("found", *SEVERE)} for kind in KINDS_FOUND}
    plain = ("objects", "objects_done_before", "windows", "interactions", "directives")
    return {"by_kind": by_kind, **{name: counts.get(name, 0) for name in plain}}
