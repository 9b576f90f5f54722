"""Reading driving logs, side by side with the datasets' own tools: one JSON line, all in one run, in turns.

    python benchmarks/loaders.py av2 INPUT --python VENV/bin/python [--runs 9]
    python benchmarks/loaders.py py123d INPUT --python VENV/bin/python [--runs 5]

The tool runs in its own virtual environment: `av2` loads the tracks and the map of Argoverse 2 motion scenarios;
`py123d` (with tensorflow) converts Waymo Open Motion files to its own tables. `read`: our reader, to tracks and a map
that is checked and completed; `ingest`: the same to windows and images in Parquet. Processor time of one thread without
imports and compilation, the median of the runs; `ratio`: the tool's over ours. Bytes are what lies on disk afterwards.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ingest import OPTIONS, machine

from sdiff import logs, storage
from sdiff.ingestion import Images, Slice, SliceJob
from sdiff.logs.driving_log import DrivingLog

FORMATS = {"av2": "argoverse2_motion", "py123d": "waymo_motion"}

AV2 = """
import json, sys, time
from pathlib import Path
from av2.datasets.motion_forecasting.scenario_serialization import load_argoverse_scenario_parquet
from av2.map.map_api import ArgoverseStaticMap

for line in sys.stdin:
    start = time.process_time()
    for scenario in map(Path, json.loads(line)):
        load_argoverse_scenario_parquet(scenario)
        archive = scenario.with_name(scenario.stem.replace("scenario_", "log_map_archive_") + ".json")
        ArgoverseStaticMap.from_json(archive)
    print(json.dumps({"seconds": time.process_time() - start, "bytes": None}), flush=True)
"""

PY123D = """
import json, os, sys, tempfile, time
from pathlib import Path
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from py123d.script.run_conversion import main

for line in sys.stdin:
    with tempfile.TemporaryDirectory() as folder:
        split = Path(folder, "raw", "training")
        split.mkdir(parents=True)
        for source in json.loads(line):
            name = Path(source).name + "-00000-of-00001"
            os.symlink(source, split / name)
        os.environ |= {"PY123D_DATA_ROOT": folder + "/out", "WOD_MOTION_DATA_ROOT": folder + "/raw"}
        GlobalHydra.instance().clear()
        with initialize_config_module("py123d.script.config.conversion", version_base=None):
            options = ["dataset=wod-motion", "execution=sequential_executor"]
            config = compose("default_conversion", [*options, "dataset.parser.splits=[wod-motion_train]"])
        start = time.process_time()
        main.__wrapped__(config)
        seconds = time.process_time() - start
        size = sum(p.stat().st_size for p in Path(folder, "out").rglob("*") if p.is_file())
        print(json.dumps({"seconds": seconds, "bytes": size}), flush=True)
"""


def read(reader: logs.Reader, sources: list[str]) -> int:
    """Read all sources; the number of logs."""
    return sum(isinstance(item, DrivingLog) for source in sources for item in reader.read(source))


def ingested(reader: logs.Reader, sources: list[str], images: Images) -> tuple[float, int, int]:
    """Seconds, windows and bytes of tables of the sources."""
    with tempfile.TemporaryDirectory() as output:
        start = time.process_time()
        counts = [SliceJob(reader, Slice(s, 0, 1), output, OPTIONS, images).run() for s in sources]
        seconds = time.process_time() - start
        size = sum(p.stat().st_size for p in Path(output).rglob("*.parquet"))
    return seconds, sum(c["windows"] for c in counts), size


def seconds_of(work: Callable[[], Any]) -> float:
    """Processor time that `work` takes [s]."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure in turns and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=FORMATS)
    parser.add_argument("input")
    parser.add_argument("--python", required=True)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    reader = logs.reader(FORMATS[options.tool])
    sources = [s.removeprefix("file://") for s in reader.find(options.input)]
    images, n_logs = Images(), read(reader, sources)
    raw = sum(storage.size(f) for s in sources for f in logs.files(reader, s))
    code = {"av2": AV2, "py123d": PY123D}[options.tool]
    times: dict[str, list[float]] = {"tool": [], "read": [], "ingest": []}
    with subprocess.Popen(
        [options.python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tool:
        assert tool.stdin and tool.stdout
        for _ in range(options.runs + 1):  # the first warms up
            tool.stdin.write(json.dumps(sources) + "\n")
            tool.stdin.flush()
            theirs = next(json.loads(line) for line in tool.stdout if line.startswith('{"seconds"'))
            times["tool"].append(theirs["seconds"])
            times["read"].append(seconds_of(lambda: read(reader, sources)))
            seconds, windows, size = ingested(reader, sources, images)
            times["ingest"].append(seconds)
        tool.stdin.close()
    middle = {name: statistics.median(values[1:]) / n_logs for name, values in times.items()}
    found = {
        "tool": options.tool,
        "input": Path(options.input).name,
        "logs": n_logs,
        "windows": windows,
        "runs": options.runs,
        "ms_per_log": {name: round(1000 * s, 2) for name, s in middle.items()},
        "ratio": {name: round(middle["tool"] / middle[name], 2) for name in ("read", "ingest")},
        "ingest_ms_per_window": round(1000 * middle["ingest"] * n_logs / windows, 2),
        "bytes_per_log": {
            "raw": raw // n_logs,
            "tool": theirs["bytes"] and theirs["bytes"] // n_logs,
            "ours": size // n_logs,
        },
    }
    print(json.dumps({**found, "machine": machine()}))


if __name__ == "__main__":
    main()
