"""All that ingest does with a slice of a source: read it, cut windows, draw them, write its objects."""

import hashlib
import itertools
import json
import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

import schemas
from sdiff import STEP_S, logs, raster, storage, tables, window_tables
from sdiff.logs.driving_log import BadRecord, DrivingLog, VectorMap
from sdiff.logs.quality import mend
from sdiff.scene import AGENT_CHANNELS, BEV_PIXELS, MAP_CHANNELS
from sdiff.window_tables import Cut
from sdiff.windows import MIN_PATH_M, cut, split_of

WINDOWS_PER_OBJECT = 256
SLICE_BYTES = 8 << 20
"""A source is worked on in slices, one per so many bytes of its files."""
DONE = ".done.json"
"""Ending of the markers, under `<output>/_ingest/`, that say that a slice is done."""
REPAIRED = "repaired: "
"""Beginning of the counts of tracks that were mended, by what was wrong."""

_log = logging.getLogger(__name__)


def schema_versions() -> dict[str, int]:
    """Of the tables that ingest writes: objects of two versions must not lie in one table."""
    return {t: schemas.table_schema(t).version for t in ("windows", "agent_tokens", "maps")}


@dataclass(frozen=True)
class Options:
    """What decides the rows of a table. All tables under one output are made with the same."""

    stride_s: float
    stand_ins: int
    val_share: float


class Slice(NamedTuple):
    """The unit of work: one of `parts` stretches of a source, where its reader has `read_part`; otherwise every
    `parts`-th log of it, from number `part`."""

    source: str
    part: int
    parts: int


def slices(reader: logs.Reader, source: str) -> list[Slice]:
    """The slices of a source; one where it is undivided, or its files cannot be found, so that one reports it."""
    try:
        reader = logs.of_source(reader, source)
        if getattr(reader, "UNDIVIDED", False):
            return [Slice(source, 0, 1)]
        size = sum(storage.size(uri) for uri in logs.divided(reader, source))
    except OSError:
        size = 0
    parts = max(1, round(size / SLICE_BYTES))
    return [Slice(source, part, parts) for part in range(parts)]


class Images:
    """Memory for the images of one object, used again for the next."""

    def __init__(self) -> None:
        shape = (BEV_PIXELS, BEV_PIXELS)
        self.map_bev = np.empty((WINDOWS_PER_OBJECT, len(MAP_CHANNELS), *shape), np.uint8)
        self.agent_bev = np.empty((WINDOWS_PER_OBJECT, len(AGENT_CHANNELS), *shape), np.uint8)


class SliceJob:
    """Writes the objects of one slice, then its marker.

    Objects are named by the source's content, the slice, the options and the schema versions, so that what exists is
    not made again. A source that cannot be read gets no marker and is tried again by the next run.
    """

    def __init__(
        self,
        reader: logs.Reader,
        work: Slice,
        output: str,
        options: Options,
        images: Images,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.reader, self.output, self.options, self.images, self.clock = reader, output, options, images, clock
        self.source, self.part, self.parts = work
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.letters: list[tuple[str, str, str, str]] = []
        self.map: VectorMap | None = None
        self.unreadable = False

    def run(self) -> Counter[str]:
        """Make what is missing; returns the counts of the slice, and the milliseconds by step of this run.

        After it, `unit` is the name of the slice's marker and the beginning of those of its objects.
        """
        unit = self.unit = self._name()
        marker = storage.join(self.output, "_ingest", f"{unit}{DONE}")
        if not self.unreadable and storage.exists(marker):
            counts = json.loads(storage.read_bytes(marker))["counts"]
            return Counter({**counts, "slices_done_before": 1})
        if not self.unreadable:
            self._write_windows(unit)
        self.counts["slices"] = 1
        self.counts["sources"] = int(self.part == 0)
        self._write_letters(unit)
        if not self.unreadable:
            report = {"source": _last_part(self.source), "part": self.part, "counts": self.counts}
            storage.write_bytes(marker, json.dumps(report, indent=1, sort_keys=True).encode())
        which = f"{self.source}, part {self.part + 1} of {self.parts}"
        _log.info("%s: %d logs, %d windows", which, self.counts["logs"], self.counts["windows"])
        return self.counts + Counter({f"ms {step}": round(1000 * s) for step, s in self.seconds.items()})

    def _name(self) -> str:
        """The name of the slice's objects."""
        try:
            with self._clock("fingerprint"):
                content = _content(logs.files(self.reader, self.source))
        except OSError as error:
            self._bury_unreadable(error, self.part == 0)
            return tables.fingerprint({"unreadable": self.source})
        work = {
            "source": _last_part(self.source),
            "content": content,
            "slice": [self.part, self.parts],
            "schema": schema_versions(),
            **asdict(self.options),
        }
        return tables.fingerprint(work)

    def _write_windows(self, unit: str) -> None:
        rows: list[tuple[Cut, raster.MapIndex]] = []
        for log in self._logs():
            self.counts["logs"] += 1
            with self._clock("cut"):
                split = split_of(log, self.options.val_share)
                windows = list(cut(log, self.options.stride_s, self.options.stand_ins))
            if not windows:
                self._bury(_no_window(log, self.options.stride_s))
            rows += [(Cut(w, log, split), self.index) for w in windows]
            while len(rows) >= WINDOWS_PER_OBJECT:
                self._write(rows[:WINDOWS_PER_OBJECT], unit)
                del rows[:WINDOWS_PER_OBJECT]
        if rows:
            self._write(rows, unit)

    def _logs(self) -> Iterator[DrivingLog]:
        """The good logs of the slice; the bad ones become dead letters."""
        for item in self._items():
            if isinstance(item, BadRecord):
                self._bury(item, bad_logs=int(item.is_log))
                continue
            try:
                item.tracks.validate()
                self._use_map(item.map)
                with self._clock("mend"):
                    log = mend(item)
            except BadRecord as error:
                self._bury(error, bad_logs=1)
                continue
            self.counts.update({f"{REPAIRED}{word}": int(where.sum()) for word, where in log.repairs.items()})
            yield log

    def _items(self) -> Iterator[DrivingLog | BadRecord]:
        """The slice's share of what the reader yields; what the reader raises is the slice's whose turn it was."""
        reader = logs.of_source(self.reader, self.source) if self.parts > 1 else self.reader
        stretch = getattr(reader, "read_part", None) if self.parts > 1 else None
        items = stretch(self.source, self.part, self.parts) if stretch else reader.read(self.source)
        has_log = False
        for n in itertools.count():
            mine = n % self.parts == self.part
            try:
                with self._clock("read"):
                    item = next(items, None)
            except BadRecord as error:
                if mine:
                    self._bury(error, bad_logs=1)
                return
            except OSError as error:
                self._bury_unreadable(error, mine)
                return
            if item is None:
                break
            has_log |= isinstance(item, DrivingLog)
            if mine or stretch:
                yield item
        if not has_log and self.part == 0 and not stretch:
            self.counts["bad_logs"] = max(self.counts["bad_logs"], 1)
            if n == 0:
                self._bury(BadRecord("no log in it, expected at least one"))

    def _use_map(self, map: VectorMap) -> None:
        if map is self.map:
            return
        with self._clock("map"):
            map.validate()
            self.map, self.index = map, raster.MapIndex.of(map)
            name, data = window_tables.map_object(window_tables.maps_table(map))
        with self._clock("write"):
            uri = storage.join(storage.table_uri(self.output, "maps"), name)
            if not storage.exists(uri):
                storage.write_bytes(uri, data)

    def _write(self, rows: list[tuple[Cut, raster.MapIndex]], unit: str) -> None:
        """Write one object of windows and one of tokens, in this order, unless both are there."""
        cuts = [row for row, _ in rows]
        uris = {
            table: storage.join(storage.table_uri(self.output, table), f"{unit}-{self.counts['objects']:05d}.parquet")
            for table in ("windows", "agent_tokens")
        }
        if all(storage.exists(uri) for uri in uris.values()):
            sizes = {table: storage.size(uri) for table, uri in uris.items()}
        else:
            self._draw(rows)
            sizes = {table: self._write_object(table, cuts, uri) for table, uri in uris.items()}
        self.counts.update({f"bytes {table}": size for table, size in sizes.items()})
        self.counts["objects"] += 1
        self.counts["windows"] += len(cuts)
        self.counts["agents"] += sum(len(c.window.agents) for c in cuts)

    def _write_object(self, table: str, cuts: list[Cut], uri: str) -> int:
        """Returns the object's bytes."""
        n = len(cuts)
        with self._clock("tokens and Arrow"):
            if table == "windows":
                rows = window_tables.windows_table(cuts, self.images.map_bev[:n], self.images.agent_bev[:n])
            else:
                rows = window_tables.agent_tokens_table(cuts)
        with self._clock("encode"):
            data = tables.encode(rows, table, window_tables.WINDOWS_METADATA if table == "windows" else {})
        with self._clock("write"):
            storage.write_bytes(uri, data)
        return len(data)

    def _draw(self, rows: list[tuple[Cut, raster.MapIndex]]) -> None:
        with self._clock("draw map"):
            for image, (row, index) in zip(self.images.map_bev, rows, strict=False):
                image[:] = raster.map_bev(index, row.log.lights, row.window.step, row.window.map_SE2_window)
        with self._clock("draw agents"):
            for image, (row, _) in zip(self.images.agent_bev, rows, strict=False):
                image[:] = raster.agent_bev(row.window.agents)

    def _bury_unreadable(self, error: OSError, mine: bool) -> None:
        self.unreadable = True
        if mine:
            self._bury(BadRecord(str(error)), bad_logs=1)

    def _bury(self, bad: BadRecord, bad_logs: int = 0) -> None:
        self.counts["bad_logs"] += bad_logs
        self.letters.append((self.source, bad.record, bad.stage, bad.reason))

    def _write_letters(self, unit: str) -> None:
        if not self.letters:
            return
        self.counts["dead_letters"] = len(self.letters)
        for _, _, stage, reason in self.letters:
            alike = re.sub("[0-9]+", "#", reason.replace(self.source, "source"))[:100]
            self.counts[f"dead letter: {stage}: {alike}"] += 1
        tables.write(window_tables.dead_letters_table(self.letters), "dead_letters", self.output, unit)

    @contextmanager
    def _clock(self, step: str) -> Iterator[None]:
        start = self.clock()
        try:
            yield
        finally:
            self.seconds[step] += self.clock() - start


def _no_window(log: DrivingLog, stride_s: float) -> BadRecord:
    seconds = log.tracks.valid.shape[1] * STEP_S
    return BadRecord(
        f"no window in {seconds:.1f} s: at no t0, every {stride_s} s, is an ego (the recorder, or a vehicle that "
        f"drives {MIN_PATH_M:.0f} m) there from 2 s before to 2 s after",
        stage="cut",
        record=log.log_id,
    )


def _content(files: list[str]) -> str:
    """SHA-256 of the names and bytes of files."""
    digest = hashlib.sha256()
    for uri in sorted(files):
        digest.update(_last_part(uri).encode() + b"\0" + storage.digest(uri, hashlib.sha256))
    return digest.hexdigest()


def _last_part(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]
