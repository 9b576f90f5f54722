"""What a training takes of a Linux machine as its data grows: memory of all its processes, share of time it waits.

python benchmarks/training.py --windows URI [--parts 16 4 1] [--minutes 2] [--config small]

Trains the autoencoder on every 16th, every 4th and every object of the table; one JSON line each.
"""

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

from pipelines import train
from sdiff import storage

SAMPLE_S = 2.0


class Peak(threading.Thread):
    """Largest memory of this process and all below it [bytes], shared pages counted once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(SAMPLE_S):
            self.bytes = max(self.bytes, sum(_memory(pid) for pid in _below(os.getpid())))


def _below(pid: int) -> set[int]:
    """A process and all that it started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _memory(pid: int) -> int:
    """Proportional set size [bytes]; 0 for a process that is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", required=True, help="a folder of this machine")
    parser.add_argument("--parts", type=int, nargs="+", default=[16, 4, 1])
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--config", default="small")
    options = parser.parse_args()
    objects = [Path(o.removeprefix("file://")) for o in storage.objects(storage.table_uri(options.windows, "windows"))]
    for part in options.parts:
        folder = Path(tempfile.mkdtemp(prefix="sdiff-training-"))
        (folder / "windows").mkdir()
        for one in objects[::part]:
            os.link(one, folder / "windows" / one.name)
        peak = Peak()
        peak.start()
        result = train.run(
            "autoencoder",
            str(folder),
            str(folder / "run"),
            options.config,
            minutes=options.minutes,
            report=lambda line: None,
        )
        peak.over.set()
        lines = [json.loads(x) for x in (folder / "run/autoencoder/loss.jsonl").read_text().splitlines()][2:]
        facts = json.loads((folder / "run/model/model.json").read_text())
        print(
            json.dumps(
                {
                    "windows": facts["data"]["windows"],
                    "megabytes": round(sum(o.stat().st_size for o in objects[::part]) / 1e6),
                    "peak_memory_gb": round(peak.bytes / 1e9, 2),
                    "steps": result["step"],
                    "waiting_share": round(sum(x["waiting_share"] for x in lines) / len(lines), 4),
                    "windows_per_s": round(sum(x["windows_per_s"] for x in lines) / len(lines), 1),
                }
            ),
            flush=True,
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
