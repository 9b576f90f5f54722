"""How fast ingest is: windows per second and core, bytes per window, share of each step.

    python benchmarks/ingest.py FORMAT INPUT [--sources N] [--json FILE]

One process, one thread. Time is processor time, so that other work on the machine counts little; the compilation of
the kernels, which happens once per machine, is left out.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numba
import numpy
import pyarrow

from sdiff import logs
from sdiff.ingestion import Images, Options, Slice, SliceJob

OPTIONS = Options(stride_s=0.5, stand_ins=3, val_share=0.1)


def measure(format: str, input: str, sources: int | None) -> dict[str, Any]:
    """Ingest the sources into a temporary folder, after one of them as a warm-up."""
    reader = logs.reader(format)
    found = reader.find(input)[:sources]
    images = Images()

    def ingest(source: str) -> Counter[str]:
        with tempfile.TemporaryDirectory() as output:
            return SliceJob(reader, Slice(source, 0, 1), output, OPTIONS, images, time.process_time).run()

    ingest(min(found, key=lambda s: sum(Path(f.removeprefix("file://")).stat().st_size for f in logs.files(reader, s))))
    wall, start = time.perf_counter(), time.process_time()
    total: Counter[str] = Counter()
    for source in found:
        total += ingest(source)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    steps = {k.removeprefix("ms "): v / 1000 / seconds for k, v in total.items() if k.startswith("ms ")}
    return {
        "format": format,
        "input": input.rstrip("/").rsplit("/", 1)[-1],
        "sources": len(found),
        "logs": total["logs"],
        "windows": total["windows"],
        "agents_per_window": total["agents"] / total["windows"],
        "windows_per_s_and_core": total["windows"] / seconds,
        "ms_per_window": 1000 * seconds / total["windows"],
        "bytes_per_window": total["bytes windows"] / total["windows"],
        "bytes_per_window_of_agent_tokens": total["bytes agent_tokens"] / total["windows"],
        "share": dict(sorted(steps.items(), key=lambda item: -item[1])) | {"other": 1 - sum(steps.values())},
        "processor_s": seconds,
        "wall_s": wall,
    }


def machine() -> dict[str, str]:
    """Where and with what it was measured."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((x.split(":")[1].strip() for x in about if x.startswith("model name")), platform.processor())
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "load_average": " ".join(f"{x:.1f}" for x in os.getloadavg()),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "pyarrow": pyarrow.__version__,
    }


def main() -> None:
    """Measure and print; with --json, append the result as one line to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format")
    parser.add_argument("input")
    parser.add_argument("--sources", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = measure(args.format, args.input, args.sources)
    for name, value in result.items():
        if name != "share":
            print(f"{name:36} {value:.1f}" if isinstance(value, float) else f"{name:36} {value}")
    for name, share in result["share"].items():
        print(f"  {name:34} {share:6.1%}  {share * result['ms_per_window']:6.2f} ms per window")
    line = json.dumps({**result, "machine": machine()})
    if args.json:
        with args.json.open("a", encoding="utf-8") as out:
            out.write(line + "\n")


if __name__ == "__main__":
    main()
