"""S3 as jobs need it: an outage of the store that ends ends no job, and a listing is never an old one."""

import asyncio
import logging
import random
import time
from typing import Any

import s3fs
from botocore.exceptions import ConnectionError as NoConnection
from botocore.exceptions import NoCredentialsError, PartialCredentialsError
from s3fs.core import S3_RETRYABLE_ERRORS

PATIENCE_S = 120.0
"""How long an outage may last [s]."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Pauses between attempts double; drawn from their upper half, so that workers do not come back as one [s]."""
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 20
"""Until a connection stands, and between two of its bytes [s]."""
ONE_PUT = 5 * 2**30
"""Bytes that one PUT may hold. A killed upload in parts would leave parts that nobody sees and somebody pays for."""

PASSING_STATUS = frozenset({429, 500, 502, 503, 504})

_log = logging.getLogger(__name__)


class PatientS3(s3fs.S3FileSystem):
    """s3fs that waits for a store that is away, overloaded or slow, and lists anew each time.

    Credentials and endpoint come from botocore's own chain. patience_s: how long an outage may last [s], whichever
    requests meet it; FSSPEC_S3_PATIENCE_S sets it for a command and all its workers.
    Raises PermissionError where there are no credentials, ConnectionError after an outage that was too long.
    """

    def __init__(self, *args: Any, patience_s: float | str = PATIENCE_S, **options: Any) -> None:
        options.setdefault("use_listings_cache", False)
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"total_max_attempts": 1},  # botocore's own know neither a deadline nor an outage of a minute
            **options.get("config_kwargs", {}),
        }
        super().__init__(*args, **options)
        self.patience_s = float(patience_s)
        self._away_since: float | None = None

    async def _call_s3(self, method: str, *args: Any, **options: Any) -> Any:
        began, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                answer = await super()._call_s3(method, *args, **options)
            except (NoCredentialsError, PartialCredentialsError) as error:
                raise PermissionError(f"no credentials for S3: {error}") from error
            except Exception as error:
                if not _passes(error):
                    self._away_since = None  # an answer, too
                    raise
                now = time.monotonic()
                if self._away_since is None:
                    self._away_since = now
                    _log.warning("S3 does not answer (%s); trying again for %.0f s", _reason(error), self.patience_s)
                # A request that fails while others succeed has its own deadline; all share that of the outage.
                waited = now - min(began, self._away_since)
                if waited + pause > self.patience_s:
                    raise ConnectionError(
                        f"S3 did not answer for {waited:.0f} s ({_reason(error)}); see that the server runs, and that "
                        "AWS_ENDPOINT_URL_S3 is right, then run the same command again"
                    ) from error
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self._away_since = None
                return answer

    async def _pipe_file(self, path: str, data: bytes, **options: Any) -> Any:
        return await super()._pipe_file(path, data, **{"chunksize": ONE_PUT, **options})


def _passes(error: BaseException) -> bool:
    """Whether the store is away or overloaded; otherwise it has answered, and would answer the same again."""
    answer = getattr(error.__cause__, "response", None)
    if answer is None:
        return isinstance(error, (NoConnection, *S3_RETRYABLE_ERRORS))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in PASSING_STATUS or answer.get("Error", {}).get("Code") == "RequestTimeout"


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
