"""Raw driving logs to the tables windows, agent_tokens, maps and dead_letters, on Beam.

One element per slice of a source (a file or folder of raw logs); a slice is read, cut, drawn and written inside one
step, so that no image is ever shuffled. Every object is named by the source's content, the options and the schema
versions, and a marker under `<output>/_ingest/` says that a slice is done: a run does what is missing and touches
nothing else.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipelines.runners import counters, pipeline_options, runner
from pipelines.watch import every
from sdiff import logs, storage, tables, windows
from sdiff.ingestion import DONE, Images, Options, Slice, SliceJob, schema_versions, slices

_NAMESPACE = "ingest"
_log = logging.getLogger(__name__)

REPORT_S = 10.0


class IngestFailed(ValueError):
    """More logs were bad than the caller accepts; the good ones are done."""


@dataclass
class IngestLogs(beam.PTransform):
    """Sources to one report each: what it held, after its objects are written."""

    format: str
    output: str
    options: Options

    def expand(self, sources: beam.PCollection) -> beam.PCollection:
        return (
            sources
            | "spread sources" >> beam.Reshuffle()
            | "slice" >> beam.FlatMap(_slices, self.format)
            | "spread slices" >> beam.Reshuffle()
            | "read, cut, draw, write" >> beam.ParDo(IngestSlice(self.format, self.output, self.options))
        )


class IngestSlice(beam.DoFn):
    """Writes all objects of a slice inside `process`; counts what they hold."""

    def __init__(self, format: str, output: str, options: Options) -> None:
        self.format, self.output, self.options = format, output, options

    def setup(self) -> None:
        self.reader, self.images = logs.reader(self.format), Images()

    def process(self, work: Slice) -> Iterator[Counter[str]]:
        counts = SliceJob(self.reader, work, self.output, self.options, self.images).run()
        for name, count in counts.items():
            Metrics.counter(_NAMESPACE, name).inc(count)
        yield counts


def _slices(source: str, format: str) -> list[Slice]:
    return slices(logs.reader(format), source)


def run(
    format: str,
    input: str,
    output: str,
    *,
    stride_s: float = 0.5,
    stand_ins: int = 3,
    val_share: float = 0.1,
    workers: int = 1,
    max_bad_share: float = 0.05,
    beam_args: Sequence[str] = (),
) -> dict[str, Any]:
    """Ingest every source of `format` under `input` into the tables under `output`; returns what they hold.

    Bad logs and files go to dead_letters. Raises IngestFailed, after the good ones are done, where no log was good or
    more logs were bad than one and than max_bad_share of all (with max_bad_share 0: than none). Raises ValueError for
    an unknown format or a stride that is no multiple of 0.1 s, tables.TableError where `output` was made with other
    options, storage.StorageError where a place cannot be read or written. beam_args: Beam's pipeline options; the
    runner is FnApiRunner unless named there.
    """
    reader = logs.reader(format)
    options = Options(stride_s, stand_ins, val_share)
    windows.stride_steps(stride_s)
    beam_options = pipeline_options(workers, beam_args)
    sources = reader.find(input)
    claimed = {**asdict(options), "schema_versions": schema_versions()}
    tables.claim(storage.join(output, "_ingest", "options.json"), claimed)
    start = time.perf_counter()
    with every(REPORT_S, _progress(output, len(sources))):
        pipeline = beam.Pipeline(runner(beam_options), beam_options)
        _ = pipeline | beam.Create(sources, reshuffle=False) | IngestLogs(format, output, options)
        result = pipeline.run()
        result.wait_until_finish()
    counts = counters(result, _NAMESPACE)
    report = _report(counts, time.perf_counter() - start)
    bad, logs_read = counts.get("bad_logs", 0), counts.get("logs", 0)
    accepted = max(1.0, max_bad_share * (bad + logs_read)) if max_bad_share > 0 else 0.0
    if bad > accepted or not logs_read:
        reasons = "; ".join(f"{n} x {reason}" for reason, n in report["dead_letters_by_reason"].items())
        raise IngestFailed(
            f"{bad} bad logs or files beside {logs_read} good logs of {input}, at most {accepted:.0f} accepted "
            f"(max_bad_share {max_bad_share}): {reasons}; see {storage.table_uri(output, 'dead_letters')}"
        )
    return report


def _report(counts: dict[str, int], seconds: float) -> dict[str, Any]:
    plain = (
        "sources",
        "slices",
        "slices_done_before",
        "logs",
        "windows",
        "agents",
        "objects",
        "dead_letters",
        "bad_logs",
    )
    steps = _named(counts, "ms ")
    worked = max(sum(steps.values()), 1)
    n_windows = max(counts.get("windows", 0), 1)
    return {
        "dead_letters_by_reason": _named(counts, "dead letter: "),
        "tracks_repaired": _named(counts, "repaired: "),
        "steps": {k: {"seconds": v / 1000, "share": v / worked} for k, v in steps.items()},
        **{name: counts.get(name, 0) for name in plain},
        "bytes": counts.get("bytes windows", 0) + counts.get("bytes agent_tokens", 0),
        "bytes_per_window": counts.get("bytes windows", 0) / n_windows,
        "seconds": seconds,
    }


def _named(counts: dict[str, int], prefix: str) -> dict[str, int]:
    return {k.removeprefix(prefix): v for k, v in sorted(counts.items()) if k.startswith(prefix)}


def _progress(output: str, sources: int) -> Callable[[], None]:
    """What says how many sources are done: their markers are counted, so it works on any runner."""
    folder = storage.join(output, "_ingest")
    windows_uri = storage.table_uri(output, "windows")
    before = len(storage.objects(folder, DONE))
    said = (0, 0)

    def look() -> None:
        nonlocal said
        now = len(storage.objects(folder, DONE)) - before, len(storage.objects(windows_uri))
        if now != said:
            _log.info("%d sources: %d slices done, %d objects of windows in the table", sources, *now)
        said = now

    return look
