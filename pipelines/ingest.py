"""Raw driving logs to the tables windows, agent_tokens, maps and dead_letters, on Beam.

One element per slice of a source (a file or folder of raw logs); a slice is read, cut, drawn and written inside one
step, so that no image is ever shuffled. Every object is named by the source's content, the options and the schema
versions, and a marker under `<output>/_ingest/` says that a slice is done: a run does what is missing and touches
nothing else. The last step writes a ledger, which says of every slice what became of it; with it the command compares
the table, so that a runner that loses work does not end as if it had not.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import orjson
from apache_beam.metrics import Metrics

from pipelines.runners import counters, expect_nothing_lost, finish, pipeline_options, runner
from pipelines.watch import every
from sdiff import logs, storage, tables, windows
from sdiff.ingestion import DONE, REPAIRED, Images, Options, Slice, SliceJob, schema_versions, slices

_NAMESPACE = "ingest"
_LEDGERS, _DONE_BEFORE = "ledgers", "slices_done_before"
LEDGER = ".ledger.jsonl"
"""Ending of the files under `<output>/_ingest/` that say what became of every slice of an input."""
_log = logging.getLogger(__name__)

REPORT_S = 10.0


class IngestFailed(ValueError):
    """More logs were bad than the caller accepts; the good ones are done, and `report` says what they hold."""

    def __init__(self, reason: str, report: dict[str, Any]) -> None:
        super().__init__(reason)
        self.report = report


class Entry(NamedTuple):
    """What became of a slice. unit: None where the source could not be read; counts: of SliceJob."""

    source: str
    part: int
    parts: int
    unit: str | None
    counts: dict[str, int]


@dataclass
class IngestLogs(beam.PTransform):
    """Sources to the ledger of their slices, written after all objects are."""

    format: str
    output: str
    options: Options
    ledger: str
    folder: str

    def expand(self, sources: beam.PCollection) -> beam.PCollection:
        return (
            sources
            | "spread sources" >> beam.Reshuffle()
            | "slice" >> beam.FlatMap(_slices, self.format)
            | "spread slices" >> beam.Reshuffle()
            | "read, cut, draw, write" >> beam.ParDo(IngestSlice(self.format, self.output, self.options))
            | "gather" >> beam.combiners.ToList()
            | "write the ledger" >> beam.Map(_write_ledger, self.ledger, self.folder)
        )


class IngestSlice(beam.DoFn):
    """Writes all objects of a slice inside `process`; counts what they hold."""

    def __init__(self, format: str, output: str, options: Options) -> None:
        self.format, self.output, self.options = format, output, options

    def setup(self) -> None:
        self.reader, self.images = logs.reader(self.format), Images()

    def process(self, work: Slice) -> Iterator[Entry]:
        job = SliceJob(self.reader, work, self.output, self.options, self.images)
        counts = job.run()
        for name, count in counts.items():
            Metrics.counter(_NAMESPACE, name).inc(count)
        kept = counts - _of_this_run(counts)
        yield Entry(*work, None if job.unreadable else job.unit, dict(sorted(kept.items())))


def _slices(source: str, format: str) -> list[Slice]:
    return slices(logs.reader(format), source)


def _write_ledger(entries: list[Entry], uri: str, folder: str) -> None:
    """Write what became of all slices, sources named within `folder`; untouched where the same is there."""
    once = {entry[:3]: entry._replace(source=entry.source.removeprefix(folder)) for entry in entries}
    data = b"".join(orjson.dumps(once[key]._asdict(), option=orjson.OPT_APPEND_NEWLINE) for key in sorted(once))
    if not storage.exists(uri) or storage.read_bytes(uri) != data:
        storage.write_bytes(uri, data)
    Metrics.counter(_NAMESPACE, _LEDGERS).inc()


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
    options, storage.StorageError where a place cannot be read or written, RunFailed where the runner lost a part of the
    work or of itself. beam_args: Beam's pipeline options; the
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
    folder = _folder(sources)
    planned = [source.removeprefix(folder) for source in sources]
    ledger = storage.join(output, "_ingest", f"{tables.fingerprint(planned)}{LEDGER}")
    with every(REPORT_S, _progress(output, len(sources))):
        pipeline = beam.Pipeline(runner(beam_options), beam_options)
        create = beam.Create(sources, reshuffle=False)
        _ = pipeline | create | IngestLogs(format, output, options, ledger, folder)
        result = finish(pipeline)
    counted = counters(result, _NAMESPACE)
    entries = _entries(ledger) if counted.get(_LEDGERS) else []
    lost = [*_without_entry(entries, planned), *_without_objects(entries, output)]
    expect_nothing_lost(lost, max(len(entries), len(planned)), "slices", beam_options)
    counts = sum((Counter(entry.counts) for entry in entries), Counter()) + _of_this_run(counted)
    report = _report(counts, time.perf_counter() - start)
    bad, logs_read = counts.get("bad_logs", 0), counts.get("logs", 0)
    accepted = max(1.0, max_bad_share * (bad + logs_read)) if max_bad_share > 0 else 0.0
    if bad > accepted or not logs_read:
        reasons = "; ".join(f"{n} x {reason}" for reason, n in report["dead_letters_by_reason"].items())
        raise IngestFailed(
            f"{bad} bad logs or files beside {logs_read} good logs of {input}, at most {accepted:.0f} accepted "
            f"(max_bad_share {max_bad_share}): {reasons}; see {storage.table_uri(output, 'dead_letters')}",
            report,
        )
    return report


def _folder(sources: list[str]) -> str:
    """The folder that all sources are in: without it their names are the same wherever they lie."""
    common = os.path.commonprefix([source.rsplit("/", 1)[0] + "/" for source in sources])  # noqa: RUF071
    return common.rpartition("/")[0] + "/"


def _entries(ledger: str) -> list[Entry]:
    return [Entry(**orjson.loads(line)) for line in storage.read_bytes(ledger).splitlines()]


def _without_entry(entries: list[Entry], sources: list[str]) -> Iterator[str]:
    """Slices that the ledger says nothing of: all of a source, or parts beside other parts."""
    parts = {(entry.source, entry.parts, entry.part) for entry in entries}
    known = {entry.source: entry.parts for entry in entries}
    for source in sources:
        n = known.get(source, 1)
        yield from (f"part {i + 1} of {n} of {source}" for i in range(n) if (source, n, i) not in parts)


def _without_objects(entries: list[Entry], output: str) -> Iterator[str]:
    """Finished slices whose marker is not there, or whose objects are not all there with the bytes that were counted.

    Asks for three listings, however many objects there are; what is in an object is for `sdiff verify` to say.
    """
    markers = storage.sizes(storage.join(output, "_ingest"))
    sizes = {table: storage.sizes(storage.table_uri(output, table)) for table in ("windows", "agent_tokens")}
    for source, part, parts, unit, counts in entries:
        if unit is None:
            continue
        names = [f"{unit}-{i:05d}.parquet" for i in range(counts.get("objects", 0))]
        whole = all(
            sum(found.get(name, 0) for name in names) == counts.get(f"bytes {table}", 0)
            for table, found in sizes.items()
        )
        if not whole or f"{unit}{DONE}" not in markers:
            slice = f"part {part + 1} of {parts} of {source}"
            yield f"the objects {unit} of {slice}, which is marked as done (sdiff verify {output} says what to do)"


def _of_this_run(counted: dict[str, int]) -> Counter[str]:
    """What only this run's counters say; all else is in the ledger, where a slice that was tried twice counts once."""
    return Counter({name: n for name, n in counted.items() if name.startswith("ms ") or name == _DONE_BEFORE})


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
        "tracks_repaired": _named(counts, REPAIRED),
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
