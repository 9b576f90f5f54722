"""How fast scenarios are made on this machine, and what each costs beside the model.

    python benchmarks/throughput.py outside JOB.yaml --windows URI [--scenarios 64] [--of 10000]
    python benchmarks/throughput.py whole JOB.yaml --windows URI [--scenarios 64] [--actors 2]

outside: CPU milliseconds per scenario that one process spends on everything but sampling, by part. The first unit of a
job of --of scenarios, cut to --scenarios, is made twice: with the model, whose samples are recorded, and with what was
recorded in the model's place. All other work is that of the job; code is compiled and lane graphs are loaded by then.
whole: `sdiff generate`, from its start to its end, into Parquet; scenarios per second.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sdiff import generation, storage, tables
from sdiff.directives import job as job_files
from sdiff.directives import search, units
from sdiff.metrics import brief
from sdiff.scene import Sample

PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "tokens and steering": ((units, "steered"),),
    "judging": ((units, "_judged"),),
    "measures": (
        (units, "scenario_columns"),
        (units, "found_columns"),
        (units, "place_columns"),
        (brief, "scene_columns"),
    ),
    "near duplicates": ((generation, "near_duplicates"),),
    "Arrow": ((generation, "scenario_table"),),
    "Parquet": ((tables, "encode"),),
    "writing": ((storage, "write_bytes"),),
    "reading windows": ((generation, "_rows"),),
    "lane graphs": ((search.Maps, "graph"),),
}
"""Functions by the part that their time belongs to; what they call that is another part's is not theirs."""


class Recorder:
    """The model, and afterwards what it made: each scenario and attempt as it was."""

    def __init__(self, model: units.Sampler) -> None:
        self.model, self.model_id = model, model.model_id
        self.made: dict[units.NoiseKey, Sample] = {}
        self.seconds = 0.0

    def sample(self, maps: Any, tokens: Any, scene: Any, noise_keys: list[units.NoiseKey], **options: Any) -> Any:
        """One per row of the batch."""
        if not all(key in self.made for key in noise_keys):
            began = time.process_time()
            samples = self.model.sample(maps, tokens, scene, noise_keys, **options)
            self.seconds += time.process_time() - began
            self.made |= zip(noise_keys, samples, strict=True)
        return [self.made[key] for key in noise_keys]


class Stopwatch:
    """CPU time of this process by part [s]; a part within another stops that one's clock."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running, self.since = ["rest"], 0.0

    def switch(self) -> None:
        """Charge what passed to what ran."""
        now = time.process_time()
        self.seconds[self.running[-1]] += now - self.since
        self.since = now

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, on the clock."""

        def run(*args: Any, **options: Any) -> Any:
            self.switch()
            self.running.append(part)
            try:
                return work(*args, **options)
            finally:
                self.switch()
                self.running.pop()

        return run


def outside(job: job_files.Job, n: int, of: int) -> dict[str, Any]:
    """Milliseconds per accepted scenario, by part."""
    with tempfile.TemporaryDirectory(prefix="sdiff-throughput-") as folder:
        job = job.with_options(count=of, output=folder, windows=storage.absolute(job.windows or ""))
        found = search.find(job, job.windows or "", units.places_wanted(job))
        first = units.plan(job, "benchmark", found)[0]
        work = generation.Work(job, "benchmark", "cpu", {}, lambda uri, device: recorder)
        recorder = Recorder(generation.load_checkpoint(job.model, "cpu"))
        maker = generation.MakeUnits(work)
        unit = replace(first, spots=first.spots[:n])
        maker.make(unit)
        watch = Stopwatch()
        for part, functions in PARTS.items():
            for owner, name in functions:
                setattr(owner, name, watch.timed(part, getattr(owner, name)))
        watch.since = began = time.process_time()
        tally = maker.make(unit)
        watch.switch()
        whole = time.process_time() - began
        size = sum(storage.size(uri) for uri in storage.objects(f"{folder}/scenarios"))
        agents = tables.read(folder, "scenarios", ["n_agents"])["n_agents"].to_numpy()
    made = tally["scenarios"]
    return {
        "asked": n,
        "of a job of": of,
        "units of": len(first.spots),
        "attempts": tally["attempts"],
        "made": made,
        "agents": round(float(np.mean(agents)), 1),
        "kilobytes": round(size / made / 1e3, 2),
        "sampling_ms_per_attempt": round(1000 * recorder.seconds / len(recorder.made), 1),
        "outside_ms_per_scenario": round(1000 * whole / made, 2),
        "outside_ms_per_attempt": round(1000 * whole / tally["attempts"], 2),
        "parts_ms_per_scenario": {
            name: round(1000 * s / made, 2) for name, s in sorted(watch.seconds.items(), key=lambda item: -item[1])
        },
    }


def whole(file: str, windows: str, n: int, actors: int) -> dict[str, Any]:
    """Scenarios per second of the command."""
    with tempfile.TemporaryDirectory(prefix="sdiff-throughput-") as folder:
        program = [sys.executable, "-c", "from sdiff.cli import main; main()", "generate", file, "--windows", windows]
        options = ["--output", folder, "--count", str(n), "--actors", str(actors), "--device", "cpu", "--json"]
        began = time.monotonic()
        done = subprocess.run([*program, *options], stdout=subprocess.PIPE, check=True)
        seconds = time.monotonic() - began
    result = json.loads(done.stdout)
    return {
        "asked": n,
        "actors": actors,
        "attempts": result["attempts"],
        "made": result["scenarios"],
        "seconds": round(seconds, 1),
        "scenarios_per_s": round(result["scenarios"] / seconds, 3),
        "actors_busy_s": round(result["ms_working"] / 1000, 1),
        "scenarios_per_s_of_busy_actors": round(result["scenarios"] * actors / result["ms_working"] * 1000, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("outside", "whole"))
    parser.add_argument("job")
    parser.add_argument("--windows", required=True)
    parser.add_argument("--scenarios", type=int, default=64)
    parser.add_argument("--of", type=int, default=10_000)
    parser.add_argument("--actors", type=int, default=2)
    options = parser.parse_args()
    if options.what == "outside":
        job = job_files.read(options.job).with_options(windows=options.windows)
        found = outside(job, options.scenarios, options.of)
    else:
        found = whole(options.job, options.windows, options.scenarios, options.actors)
    facts = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "job": Path(options.job).stem}
    print(json.dumps({**facts, **found}))


if __name__ == "__main__":
    main()
