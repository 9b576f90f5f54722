"""How readers take damaged files: crashes, hangs and memory among N mutations of real ones.

    PYTHONPATH=tests python benchmarks/fuzz_readers.py FORMAT INPUT [--mutations N] [--seed S] [--json FILE]

Each mutation (tests/mutations.py) damages one file of one source and does what ingest does with it: reads it, indexes
its map, mends its tracks, cuts its windows, draws the first ones of each log and makes their tables. That happens in a
process of its own with LONGEST_S seconds, and MOST_BYTES above what its libraries take; where one dies, the next
mutation gets a new one. Mutation I of a seed is always the same: --only I repeats it without limits and shows where it
ends. Exit status 1 after a crash, hang or memory above the limit.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from mutations import mutated

from sdiff import logs, raster, storage, window_tables, windows
from sdiff.logs.driving_log import BadRecord
from sdiff.logs.quality import mend
from sdiff.window_tables import Cut

LONGEST_S = 10.0
MOST_BYTES = 2 << 30
DRAWN = 2
"""Windows of each log that are drawn."""


class Sources:
    """The sources of a format at a place, and copies of them with one file damaged."""

    def __init__(self, format: str, input: str, seed: int) -> None:
        self.reader, self.seed = logs.reader(format), seed
        self.sources = [s.removeprefix("file://") for s in self.reader.find(input)]

    def take(self, source: str) -> Counter[str]:
        """What ingest does with a source; counts logs and the reasons of dead letters."""
        counts: Counter[str] = Counter()
        letters: list[BadRecord] = []
        try:
            for item in self.reader.read(source):
                if isinstance(item, BadRecord):
                    letters.append(item)
                    continue
                try:
                    item.validate()
                    index = raster.MapIndex.of(item.map)
                    window_tables.maps_table(item.map)
                    log = mend(item)
                except BadRecord as error:
                    letters.append(error)
                    continue
                counts["logs"] += 1
                cuts = [Cut(w, log, windows.split_of(log, 0.5)) for w in windows.cut(log, 2.0, 3)][:DRAWN]
                maps = [raster.map_bev(index, log.lights, c.window.step, c.window.map_SE2_window) for c in cuts]
                images = [raster.agent_bev(c.window.agents) for c in cuts]
                if cuts:
                    window_tables.windows_table(cuts, np.stack(maps), np.stack(images))
                    window_tables.agent_tokens_table(cuts)
        except BadRecord as error:
            letters.append(error)
        except storage.StorageError as error:
            counts[f"dead letter: {_alike(str(error).replace(source, 'source'))}"] += 1
        window_tables.dead_letters_table([(source, bad.record, bad.stage, bad.reason) for bad in letters])
        counts.update(f"dead letter: {_alike(bad.reason.replace(source, 'source'))}" for bad in letters)
        return counts

    def damaged(self, number: int, folder: Path) -> str:
        """A copy of one source, in `folder`, in which one file is damaged."""
        random = np.random.default_rng([self.seed, number])
        source = Path(self.sources[random.integers(len(self.sources))])
        files = [Path(f.removeprefix("file://")) for f in logs.files(self.reader, str(source))]
        victim = files[random.integers(len(files))]
        root = source if source.is_dir() else source.parent
        for file in files:
            copy = folder / root.name / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            data = file.read_bytes()
            copy.write_bytes(mutated(file.name, data, random) if file == victim else data)
        return str(folder / root.name / source.relative_to(root))


def _alike(reason: str) -> str:
    return "".join("#" if c.isdigit() else c for c in reason.partition("\n")[0])[:70]


def work(pipe: Connection, format: str, input: str, seed: int) -> None:
    """Answer numbers of mutations with what became of them, until told to stop."""
    sources = Sources(format, input, seed)
    sources.take(sources.sources[0])  # compiles and imports what is needed, before memory is limited
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_BYTES, held + MOST_BYTES))
    pipe.send(None)
    for number in iter(pipe.recv, None):
        with tempfile.TemporaryDirectory() as folder:
            source = sources.damaged(number, Path(folder))
            pipe.send("start")
            start, failure = time.perf_counter(), ""
            counts: Counter[str] = Counter()
            try:
                counts = sources.take(source)
            except MemoryError:
                failure = "memory"
            except BaseException:
                failure = "crash: " + traceback.format_exc()
            seconds = time.perf_counter() - start
            pipe.send((counts, failure, seconds, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def fuzz(format: str, input: str, mutations: int, seed: int, note: str = "") -> dict[str, Any]:
    """Run all mutations; returns the counts, with the numbers of those that failed."""
    context = multiprocessing.get_context("spawn")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    failures: dict[str, str] = {}
    slowest_s, most_bytes, worker, started = 0.0, 0, None, time.perf_counter()
    for number in range(mutations):
        if worker is None:
            pipe, theirs = context.Pipe()
            worker = context.Process(target=work, args=(theirs, format, input, seed), daemon=True)
            worker.start()
            theirs.close()
            pipe.recv()
        failure, counts = "", Counter[str]()
        try:
            pipe.send(number)
            pipe.recv()
            if pipe.poll(LONGEST_S):
                counts, failure, seconds, bytes_held = pipe.recv()
                slowest_s, most_bytes = max(slowest_s, seconds), max(most_bytes, bytes_held)
            else:
                failure = f"hang: more than {LONGEST_S:.0f} s"
        except (EOFError, ConnectionError):
            worker.join()
            failure = f"crash: the process ended with {worker.exitcode}"
        if failure:
            failures[str(number)] = failure
            worker.kill()
            worker.join()
            worker = None
        letters = [k for k in counts if k.startswith("dead letter")]
        reasons.update({k.removeprefix("dead letter: "): counts[k] for k in letters})
        whole = "whole" if not letters else "partly dead letters" if counts["logs"] else "wholly dead letters"
        outcomes[failure.partition(":")[0] or whole] += 1
    if worker:
        pipe.send(None)
        worker.join()
    return {
        "format": format,
        "input": input.rstrip("/").rsplit("/", 1)[-1],
        "mutations": mutations,
        "note": note,
        "commit": commit.stdout.strip(),
        "seed": seed,
        "outcomes": dict(outcomes),
        "slowest_s": slowest_s,
        "most_mib": most_bytes / 2**20,
        "seconds": time.perf_counter() - started,
        "reasons": dict(reasons.most_common(40)),
        "failures": failures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=logs.FORMATS)
    parser.add_argument("input")
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="what the input is, for the result")
    parser.add_argument("--only", type=int, metavar="I", help="this mutation alone, in this process")
    parser.add_argument("--json", type=Path, help="the result is appended here")
    args = parser.parse_args()
    if args.only is not None:
        sources = Sources(args.format, args.input, args.seed)
        with tempfile.TemporaryDirectory() as folder:
            print(sources.take(sources.damaged(args.only, Path(folder))))
        return 0
    result = fuzz(args.format, args.input, args.mutations, args.seed, args.note)
    print(json.dumps(result, indent=1))
    if args.json:
        about = {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count()}
        with args.json.open("a", encoding="utf-8") as out:
            out.write(json.dumps({**result, "machine": about}) + "\n")
    return int(bool(result["failures"]))


if __name__ == "__main__":
    sys.exit(main())
