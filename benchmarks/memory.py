"""Memory that a generate job takes, against its size: one JSON line per size, and one for the plan alone.

    PYTHONPATH=tests RAY_worker_niceness=0 python benchmarks/memory.py --windows URI [--counts 1000 ...] [--plan N]

The model is a stand-in of one step (tests/crossroads.py: an agent per token, straight on): what is measured is all
that a job holds beside its model. The job asks for all agents of a place's log, accepts everything, and has one actor
and the units of a job of that size. Memory is proportional set size (Pss of /proc: what processes share is counted
once), sampled four times a second, and the largest sum. --plan: a job of that size is planned, and nothing made.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

SAMPLE_S = 0.25
JOB = """
directives: [{name: as_logged, ego: from_log, agents: [{from_log: place}]}]
accept: {collision: true, off_road: true, impossible_motion: true, unfulfilled: true}
attempts: 1
"""


class Peaks(threading.Thread):
    """Largest memory of this process and of Ray's processes below it, by what they are [bytes]."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes: dict[str, int] = defaultdict(int)
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(SAMPLE_S):
            now: dict[str, int] = defaultdict(int)
            for pid, name in _below(os.getpid()).items():
                now[name] += _memory(pid)
            for name, size in now.items():
                self.bytes[name] = max(self.bytes[name], size)
            self.bytes["all"] = max(self.bytes["all"], sum(now.values()))


def _below(pid: int) -> dict[int, str]:
    """A process and all that it started: driver, actor, or Ray's own."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {p: "driver" if p == pid else "actor" if "MapWorker" in _title(p) else "ray" for p in found}


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def _memory(pid: int) -> int:
    """Proportional set size [bytes]; 0 for a process that is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def measure(windows: str, count: int) -> dict[str, Any]:
    """Run a job of `count` scenarios in this process; its facts."""
    from crossroads import load_stand_in

    from pipelines import generate
    from sdiff import storage

    with tempfile.TemporaryDirectory(prefix="sdiff-memory-") as folder:
        job = Path(folder) / "job.yaml"
        job.write_text(f"{JOB}count: {count}\n")
        peaks = Peaks()
        peaks.start()
        began = time.monotonic()
        result = generate.run(
            str(job), windows=windows, output=folder, actors=1, device="cpu", load_model=load_stand_in
        )
        seconds = time.monotonic() - began
        peaks.over.set()
        sizes = [storage.size(uri) for uri in storage.objects(f"{folder}/scenarios")]
        plan = [storage.size(uri) for uri in storage.objects(f"{folder}/jobs")]
    return {
        "model": "stand-in of one step",
        "asked": count,
        "scenarios": result["scenarios"],
        "units": result["units"],
        "seconds": round(seconds, 1),
        "peak_mb": {name: round(size / 1e6) for name, size in sorted(peaks.bytes.items())},
        "object_mb": {"median": round(statistics.median(sizes) / 1e6, 3), "largest": round(max(sizes) / 1e6, 3)},
        "plan_mb": round(plan[0] / 1e6, 3),
    }


def measure_plan(windows: str, count: int) -> dict[str, Any]:
    """Plan a job of `count` scenarios as the command does, up to the point where Ray would begin."""
    from sdiff import storage, tables
    from sdiff.directives.job import parse
    from sdiff.directives.search import find
    from sdiff.directives.units import job_id, places_wanted, plan, plan_table

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.monotonic()
    windows = storage.absolute(windows)
    job = parse(f"{JOB}count: {count}", "plan.yaml")
    found = find(job, windows, places_wanted(job))
    units = plan(job, job_id(job, {}, "none"), found)
    texts = [unit.to_json() for unit in units]
    size = len(tables.encode(plan_table(job, "none", "none", units), "jobs"))
    return {
        "plan alone of": count,
        "places": len(found.spots["as_logged"]),
        "units": len(units),
        "seconds": round(time.monotonic() - began, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
        "before_mb": round(before / 1e6),
        "units_mb": round(sum(map(len, texts)) / 1e6, 1),
        "plan_mb": round(size / 1e6, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", required=True)
    parser.add_argument("--counts", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--plan", type=int)
    parser.add_argument("--only", choices=("job", "plan"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        work = measure if options.only == "job" else measure_plan
        print(json.dumps(work(options.windows, options.counts[0])), flush=True)
        return
    # Each in a process of its own: a peak is that of one job.
    for only, counts in (("job", options.counts), ("plan", [options.plan] if options.plan else [])):
        for count in counts:
            again = [sys.executable, __file__, "--windows", options.windows, "--only", only, "--counts", str(count)]
            subprocess.run(again, check=True)


if __name__ == "__main__":
    main()
