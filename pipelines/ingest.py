"""Raw driving logs to the tables windows, agent_tokens, maps and dead_letters, on Beam.

One element per source (a file or folder of raw logs); a source is read, cut, drawn and written inside one step, so that
no image is ever shuffled. Every object is named by the source's content, the options and the schema versions, and a
marker under `<output>/_ingest/` says that a source is done: a run does what is missing and touches nothing else.
"""

import hashlib
import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

import schemas
from sdiff import logs, raster, storage, tables, window_tables
from sdiff.logs.driving_log import BadRecord, DrivingLog, VectorMap
from sdiff.scene import AGENT_CHANNELS, BEV_PIXELS, MAP_CHANNELS
from sdiff.window_tables import Cut
from sdiff.windows import cut, split_of

WINDOWS_PER_OBJECT = 256
_NAMESPACE = "ingest"
_log = logging.getLogger(__name__)


class IngestFailed(ValueError):
    """More logs were bad than the caller accepts; the good ones are done."""


@dataclass(frozen=True)
class Options:
    """What decides the rows of a table. All tables under one output are made with the same."""

    stride_s: float
    stand_ins: int
    val_share: float


@dataclass
class IngestLogs(beam.PTransform):
    """Sources to one report each: what it held, after its objects are written."""

    format: str
    output: str
    options: Options

    def expand(self, sources: beam.PCollection) -> beam.PCollection:
        return (
            sources
            | "one bundle each" >> beam.Reshuffle()
            | "read, cut, draw, write" >> beam.ParDo(IngestSource(self.format, self.output, self.options))
        )


class IngestSource(beam.DoFn):
    """Writes all objects of a source, then its marker; counts what they hold."""

    def __init__(self, format: str, output: str, options: Options) -> None:
        self.format, self.output, self.options = format, output, options

    def setup(self) -> None:
        self.reader = logs.reader(self.format)

    def process(self, source: str) -> Iterator[Counter[str]]:
        done = SourceJob(self.reader, source, self.output, self.options).run()
        for name, count in done.items():
            Metrics.counter(_NAMESPACE, name).inc(count)
        yield done


class SourceJob:
    """All that is done with one source."""

    def __init__(self, reader: logs.Reader, source: str, output: str, options: Options) -> None:
        self.reader, self.source, self.output, self.options = reader, source, output, options
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.letters: list[tuple[str, str, str, str]] = []
        self.map: VectorMap | None = None

    def run(self) -> Counter[str]:
        """Make what is missing; returns the counts of the source, and the milliseconds by step of this run."""
        unit = self._name()
        marker = storage.join(self.output, "_ingest", f"{unit}.done.json")
        if unit and storage.exists(marker):
            counts = json.loads(storage.read_bytes(marker))["counts"]
            return Counter({**counts, "sources_done_before": 1})
        finished = unit is not None and self._write_windows(unit)
        unit = unit or tables.fingerprint({"unreadable": self.source})
        self.counts["sources"] = 1
        self.counts["bad_logs"] += int(not self.counts["logs"])
        self._write_letters(unit)
        if finished:
            report = {"source": _last_part(self.source), "counts": self.counts}
            storage.write_bytes(marker, json.dumps(report, indent=1, sort_keys=True).encode())
        _log.info("%s: %d logs, %d windows", self.source, self.counts["logs"], self.counts["windows"])
        return self.counts + Counter({f"ms {step}": round(1000 * s) for step, s in self.seconds.items()})

    def _write_letters(self, unit: str) -> None:
        if not self.letters:
            return
        self.counts["dead_letters"] = len(self.letters)
        for _, _, stage, reason in self.letters:
            self.counts[f"dead letter: {stage}: {re.sub('[0-9]+', '#', reason)[:100]}"] += 1
        tables.write(window_tables.dead_letters_table(self.letters), "dead_letters", self.output, unit)

    def _name(self) -> str | None:
        """The name of the source's objects; None where its content cannot be read."""
        try:
            with self._clock("fingerprint"):
                content = _content(self.source)
        except OSError as error:
            self._bury(BadRecord(str(error)))
            return None
        versions = {t: schemas.table_schema(t).version for t in ("windows", "agent_tokens", "maps")}
        return tables.fingerprint(
            {"source": _last_part(self.source), "content": content, "schema": versions, **asdict(self.options)}
        )

    def _write_windows(self, unit: str) -> bool:
        """Write the objects of the source. False where it cannot be read to its end, whatever its content."""
        batch = Batch()
        for log in self._logs():
            if log is None:
                return False
            with self._clock("cut"):
                split = split_of(log, self.options.val_share)
                windows = list(cut(log, self.options.stride_s, self.options.stand_ins))
            for window in windows:
                self._draw(batch, Cut(window, log, split))
                if len(batch.cuts) == WINDOWS_PER_OBJECT:
                    self._write(batch, unit)
        if batch.cuts:
            self._write(batch, unit)
        return True

    def _logs(self) -> Iterator[DrivingLog | None]:
        """The good logs; a last None where the source cannot be read to its end."""
        items = self.reader.read(self.source)
        while True:
            try:
                with self._clock("read"):
                    item = next(items, None)
                if isinstance(item, DrivingLog):
                    item.tracks.validate()
                    self._use_map(item.map)
            except BadRecord as error:
                self._bury(error)
                if item is None:
                    return
                continue
            except storage.StorageError as error:
                self._bury(BadRecord(str(error)))
                yield None
                return
            if item is None:
                return
            if isinstance(item, BadRecord):
                self._bury(item)
                continue
            self.counts["logs"] += 1
            yield item

    def _use_map(self, map: VectorMap) -> None:
        if map is self.map:
            return
        with self._clock("map"):
            map.validate()
            self.map, self.index = map, raster.MapIndex.of(map)
            data = tables.encode(window_tables.maps_table(map), "maps")
            name = f"{hashlib.sha256(data).hexdigest()[:16]}.parquet"
        with self._clock("write"):
            uri = storage.join(storage.table_uri(self.output, "maps"), name)
            if not storage.exists(uri):
                storage.write_bytes(uri, data)

    def _draw(self, batch: "Batch", row: Cut) -> None:
        n, window = len(batch.cuts), row.window
        with self._clock("draw map"):
            batch.map_bev[n] = raster.map_bev(self.index, row.log.lights, window.step, window.map_SE2_window)
        with self._clock("draw agents"):
            batch.agent_bev[n] = raster.agent_bev(window.agents)
        batch.cuts.append(row)

    def _write(self, batch: "Batch", unit: str) -> None:
        n = len(batch.cuts)
        name = f"{unit}-{self.counts['objects']:05d}"
        with self._clock("tokens and Arrow"):
            windows = window_tables.windows_table(batch.cuts, batch.map_bev[:n], batch.agent_bev[:n])
            tokens = window_tables.agent_tokens_table(batch.cuts)
        for table, rows, metadata in (
            ("windows", windows, window_tables.WINDOWS_METADATA),
            ("agent_tokens", tokens, {}),
        ):
            with self._clock("encode"):
                data = tables.encode(rows, table, metadata)
            with self._clock("write"):
                storage.write_bytes(storage.join(storage.table_uri(self.output, table), f"{name}.parquet"), data)
            self.counts[f"bytes {table}"] += len(data)
        self.counts["objects"] += 1
        self.counts["windows"] += n
        self.counts["agents"] += tokens.num_rows
        batch.cuts.clear()

    def _bury(self, bad: BadRecord) -> None:
        self.letters.append((self.source, bad.record, bad.stage, bad.reason))

    @contextmanager
    def _clock(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] += time.perf_counter() - start


class Batch:
    """The windows of one object and their images, drawn into memory that the next object reuses."""

    def __init__(self) -> None:
        shape = (BEV_PIXELS, BEV_PIXELS)
        self.cuts: list[Cut] = []
        self.map_bev = np.empty((WINDOWS_PER_OBJECT, len(MAP_CHANNELS), *shape), np.uint8)
        self.agent_bev = np.empty((WINDOWS_PER_OBJECT, len(AGENT_CHANNELS), *shape), np.uint8)


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
    an unknown format, tables.TableError where `output` was made with other options, storage.StorageError where a
    place cannot be read or written. beam_args: Beam's pipeline options; the runner is FnApiRunner unless named there.
    """
    reader = logs.reader(format)
    options = Options(stride_s, stand_ins, val_share)
    pipeline_options = _pipeline_options(workers, beam_args)
    _claim(output, options)
    sources = reader.find(input)
    start = time.perf_counter()
    with _progress(output, len(sources)):
        pipeline = beam.Pipeline(options=pipeline_options)
        _ = pipeline | beam.Create(sources, reshuffle=False) | IngestLogs(format, output, options)
        result = pipeline.run()
        result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))["counters"]
    counts = {c.key.metric.name: c.committed if c.committed is not None else c.attempted for c in found}
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


def _pipeline_options(workers: int, beam_args: Sequence[str]) -> PipelineOptions:
    args = list(beam_args)
    if workers > 1:
        args += ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    options = PipelineOptions(args)
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or "FnApiRunner"
    if "dask" in standard.runner.lower():
        raise ValueError("the Dask runner loses rows silently (it never finishes a bundle); name another --runner")
    return options


def _claim(output: str, options: Options) -> None:
    """Make `output` ours: writable, and made with these options only."""
    uri = storage.join(output, "_ingest", "options.json")
    want = asdict(options)
    if storage.exists(uri):
        have = json.loads(storage.read_bytes(uri))
        differing = [f"{k} {have.get(k)} there, {v} now" for k, v in want.items() if have.get(k) != v]
        if differing:
            raise tables.TableError(
                f"{output} was made with other options: {', '.join(differing)}; give the same ones or another output"
            )
    else:
        storage.write_bytes(uri, json.dumps(want, indent=1, sort_keys=True).encode())


def _content(source: str) -> str:
    """SHA-256 of the names and bytes of the source's files."""
    fs, path = storage.filesystem(source)
    digest = hashlib.sha256()
    for name in sorted(fs.find(path)) or [path]:
        digest.update(name[len(path) :].encode() + b"\0")
        with fs.open(name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _last_part(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _report(counts: dict[str, int], seconds: float) -> dict[str, Any]:
    plain = ("sources", "sources_done_before", "logs", "windows", "agents", "objects", "dead_letters", "bad_logs")
    windows = max(counts.get("windows", 0), 1)
    return {
        "dead_letters_by_reason": _named(counts, "dead letter: "),
        "seconds_by_step": {k: v / 1000 for k, v in _named(counts, "ms ").items()},
        **{name: counts.get(name, 0) for name in plain},
        "bytes": counts.get("bytes windows", 0) + counts.get("bytes agent_tokens", 0),
        "bytes_per_window": counts.get("bytes windows", 0) / windows,
        "seconds": seconds,
    }


def _named(counts: dict[str, int], prefix: str) -> dict[str, int]:
    return {k.removeprefix(prefix): v for k, v in sorted(counts.items()) if k.startswith(prefix)}


@contextmanager
def _progress(output: str, sources: int) -> Iterator[None]:
    """Say every few seconds how many sources are done: their markers are counted, so it works on any runner."""
    stop = threading.Event()
    folder = storage.join(output, "_ingest")

    def watch() -> None:
        while not stop.wait(5):
            done = len(storage.objects(folder, ".done.json"))
            _log.info("%d sources to do or done before, %d done in all", sources, done)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
