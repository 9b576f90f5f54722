"""Memory that ingest takes, by the length of a log: one JSON line per input.

    python benchmarks/ingest_memory.py FORMAT INPUT ... [--stride-s 0.5] [--stand-ins 3] [--workers 1] [--json FILE]

Runs the command `sdiff ingest` on each input, into a temporary folder. Memory is the largest resident set of any of
its processes, as the system counts it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ingest import machine

from sdiff import logs, storage


def measure(format: str, input: str, options: list[str]) -> dict[str, Any]:
    """Ingest `input`; what it took."""
    reader = logs.reader(format)
    size = sum(storage.size(uri) for source in reader.find(input) for uri in logs.files(reader, source))
    program = [sys.executable, "-c", "from sdiff.cli import main; main()", "ingest", "--json", *options]
    with tempfile.TemporaryDirectory() as output:
        places = ["--format", format, "--input", input, "--output", output]
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*program, *places], stdout=subprocess.PIPE, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(done.stdout)
    return {
        "command": " ".join(["sdiff ingest --format", format, *options]),
        "input": input.rstrip("/").rsplit("/", 1)[-1],
        "input_mb": round(size / 1e6, 1),
        **{name: report[name] for name in ("slices", "logs", "windows", "bad_logs")},
        "largest_process_mb": round(after.ru_maxrss * 1024 / 1e6),
        "processor_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "wall_s": round(time.monotonic() - began, 1),
        "steps": {name: round(step["seconds"], 1) for name, step in report["steps"].items()},
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format")
    parser.add_argument("input", nargs="+")
    parser.add_argument("--stride-s", default="0.5")
    parser.add_argument("--stand-ins", default="3")
    parser.add_argument("--workers", default="1")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    options = ["--stride-s", args.stride_s, "--stand-ins", args.stand_ins, "--workers", args.workers]
    if len(args.input) > 1:  # each in a process of its own: a peak is that of one run
        again = [[sys.executable, __file__, args.format, input, *options] for input in args.input]
        for command in again:
            subprocess.run([*command, *(["--json", str(args.json)] if args.json else [])], check=True)
        return
    line = json.dumps(measure(args.format, args.input[0], options))
    print(line)
    if args.json:
        with args.json.open("a", encoding="utf-8") as out:
            out.write(line + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
