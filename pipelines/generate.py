"""Directed bulk generation on Ray Data: a job file to the table scenarios, one object per unit.

The plan is written first, as an object of the table jobs. A unit whose object exists is not done again, so a job that
was killed goes on where it stopped, and comes out as if it never had been.
"""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

import sdiff
from pipelines import cluster
from sdiff import columns, storage, tables
from sdiff.directives import job as job_files
from sdiff.directives.job import Job
from sdiff.directives.search import Maps, Spot, chunks, find, place_of, spots_of, window_rows
from sdiff.directives.units import (
    BATCHES_AT_ONCE,
    PROVENANCE,
    Asked,
    Request,
    Sampler,
    Scenario,
    Unit,
    job_id,
    make,
    make_again,
    map_image,
    near_duplicates,
    places_wanted,
    plan,
    plan_table,
    scenario_table,
)
from sdiff.scene import Agents

NO_PROGRESS_TIMEOUT_S = 3600
"""Ray gives up when no unit ends for this long [s]."""
REPORT_EVERY_S = 2.0
READERS = 16
"""Objects whose metadata are read at a time."""

LoadModel = Callable[[str | None, str], Sampler]


def load_checkpoint(uri: str | None, device: str) -> Sampler:
    """The model at `uri`; None is the shipped one."""
    from sdiff.model import checkpoint

    return checkpoint.load(uri, device)


def run(
    job_file: str,
    *,
    windows: str | None = None,
    where: str | None = None,
    count: int | None = None,
    seed: int | None = None,
    model: str | None = None,
    output: str | None = None,
    actors: int | None = None,
    device: str | None = None,
    report: Callable[[str], None] = lambda line: None,
    load_model: LoadModel = load_checkpoint,
) -> dict[str, Any]:
    """Make the scenarios of a job, those that its output lacks; the options override the job file.

    actors: processes with the model, default one per GPU or core. device: cuda or cpu, default what is there.
    report: takes a line of progress. Returns counts. Raises JobFileError, NoPlace, TableError, StorageError.
    """
    job = job_files.read(job_file).with_options(
        windows=windows, where=where, count=count, seed=seed, model=model, output=output
    )
    if job.windows is None or job.output is None:
        missing = "places.windows (option --windows)" if job.windows is None else "output (option --output)"
        raise job_files.JobFileError(f"{job_file}: {missing} is missing, expected a URI")
    started = time.monotonic()
    device = device or default_device()
    model_id = load_model(job.model, "cpu").model_id
    windows, output = storage.absolute(job.windows), storage.absolute(job.output)
    model = storage.absolute(job.model) if job.model else None
    job = job.with_options(windows=windows, output=output, model=model)
    this = job_id(job, _object_names(windows), model_id)
    found = find(job, windows, places_wanted(job))
    report(found.summary())
    units = plan(job, this, found)
    _write_plan(job, this, model_id, units)
    folder = storage.table_uri(output, "scenarios")
    done = {uri.rsplit("/", 1)[-1].removesuffix(".parquet") for uri in storage.objects(folder)}
    todo = [u for u in units if u.unit_id not in done]
    named = spots_of(windows, sorted({w for d in job.directives for w in d.windows_needed()}))
    work = Work(job, this, device, named, load_model)
    tally = _run_units(work, todo, actors, report) if todo else Counter()
    return {
        "job_id": this,
        "model_id": model_id,
        "output": job.output,
        "units": len(units),
        "units_done_before": len(units) - len(todo),
        "places": {name: len(spots) for name, spots in found.spots.items()},
        "seconds": round(time.monotonic() - started, 2),
        **dict(sorted(tally.items())),
        "directives": _yields(units, folder),
    }


def again(
    scenario_id: str,
    output: str,
    windows: str,
    *,
    model: str | None = None,
    device: str | None = None,
    load_model: LoadModel = load_checkpoint,
) -> dict[str, Any]:
    """Make one scenario of the tables at `output` again from its row, and compare.

    Returns its id, whether it has the same agents, and by how much they differ at most [m]. Raises TableError where
    there is no such scenario, or the model is another one.
    """
    row = _scenario(output, scenario_id)
    loaded = load_model(model, device or default_device())
    if loaded.model_id != row["model_id"]:
        raise tables.TableError(
            f"{scenario_id} was made by model {row['model_id']}, found {loaded.model_id}; give its --model"
        )
    jobs = tables.read(output, "jobs", ["job"], pc.field("job_id") == row["job_id"])
    if not jobs.num_rows:
        raise tables.TableError(f"table jobs at {output} has no job {row['job_id']}, which made {scenario_id}")
    (place,) = _rows(list(spots_of(storage.absolute(windows), [row["window_id"]]).values()), ("map_bev",))
    asked = Asked(scenario_id, map_image(place["map_bev"]), row["tokens"], row["scene"])
    agents = make_again(loaded, json.loads(jobs["job"][0].as_py()), asked, row["attempt"])
    before: Agents = row["agents"]
    alike = len(agents) == len(before) and bool((agents.kind == before.kind).all())
    off = [np.abs(getattr(agents, name) - getattr(before, name)).max(initial=0.0) for name in ("x_m", "y_m") if alike]
    return {
        "scenario_id": scenario_id,
        "same_agents": alike,
        "differs_by_m": float(max(off)) if alike else None,
        "n_agents": len(agents),
        "n_agents_before": len(before),
    }


def _scenario(output: str, scenario_id: str) -> dict[str, Any]:
    """What the row of a scenario says of how it was made, and its agents."""
    plain = ["job_id", "model_id", "window_id", "attempt"]
    rows = tables.read(
        output, "scenarios", [*plain, "tokens", "scene_token", "agents"], pc.field("scenario_id") == scenario_id
    )
    if not rows.num_rows:
        raise tables.TableError(f"table scenarios at {output} has no scenario {scenario_id}")
    return {
        **{name: rows[name][0].as_py() for name in plain},
        "tokens": columns.tokens_from_arrow(rows["tokens"])[0],
        "scene": columns.scene_tokens_from_arrow(rows["scene_token"])[0],
        "agents": columns.agents_from_arrow(rows["agents"])[0],
    }


@dataclass(frozen=True)
class Work:
    """What every actor of a job knows. named: windows that directives take agents from."""

    job: Job
    job_id: str
    device: str
    named: dict[str, Spot]
    load_model: LoadModel


class MakeUnits:
    """An actor: loads the model once, then makes unit after unit, each into one object."""

    def __init__(self, work: Work) -> None:
        if work.device == "cpu":
            _one_thread()
        self.work, self.maps = work, Maps()
        self.model = work.load_model(work.job.model, work.device)
        self.named = {w: _agents(row) for w, row in zip(work.named, _rows(list(work.named.values()), ()), strict=True)}
        self.directives = {d.name: d for d in work.job.directives}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        tallies = [self.make(Unit.from_json(str(text))) for text in batch["unit"]]
        return {"tally": np.array([json.dumps(t) for t in tallies], object)}

    def make(self, unit: Unit) -> Counter[str]:
        """Make one unit and write its object; returns what was counted."""
        started = time.monotonic()
        job, directive = self.work.job, self.directives[unit.directive]
        scenarios: list[Scenario] = []
        lent: list[dict[str, Any]] = []
        tally: Counter[str] = Counter(attempts=0)
        for a, b in chunks(len(unit.spots), BATCHES_AT_ONCE * job.batch):
            rows = _rows(list(unit.spots[a:b]), (*PROVENANCE, "lights", "map_bev"))
            requests = [self._request(unit, a + i, row) for i, row in enumerate(rows)]
            made, counted = make(self.model, job, directive, requests)
            scenarios += made
            lent += [{c: rows[s.number - unit.first - a][c] for c in PROVENANCE} for s in made]
            tally.update(counted)
        if copies := near_duplicates(scenarios, [row["window_id"] for row in lent]):
            tally["near_duplicates"] = copies
        table = scenario_table(job, self.work.job_id, self.model.model_id, unit, scenarios, lent)
        tally["scenarios"] = len(scenarios)
        metadata = {"sdiff.unit": json.dumps(tally, sort_keys=True), "sdiff.made_with": _made_with(self.work.device)}
        tables.write(table, "scenarios", job.output or "", unit.unit_id, metadata)
        tally.update(units_made=1, ms_working=round(1000 * (time.monotonic() - started)))
        return tally

    def _request(self, unit: Unit, i: int, row: dict[str, Any]) -> Request:
        number, spot = unit.first + i, unit.spots[i]
        place = place_of(row, lambda: self.maps.graph(spot.map_id, spot.map_object))

        def logs(window_id: str | None) -> Agents:
            return _agents(row) if window_id is None else self.named[window_id]

        name = f"{self.work.job_id}-{unit.directive}-{number:07d}"
        return Request(name, number, place, map_image(row["map_bev"]), logs)


def default_device() -> str:
    """cuda where there is a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _run_units(work: Work, todo: list[Unit], actors: int | None, report: Callable[[str], None]) -> Counter[str]:
    on_gpu = work.device == "cuda"
    actors = min(actors or (_gpus() if on_gpu else os.cpu_count() or 1), len(todo))
    cluster.connect(actors + 1)
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cluster.quiet_data()
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    # One block per unit from the start: a repartition would be a task that waits for a core when actors hold them all.
    made = ray.data.from_items([{"unit": u.to_json()} for u in todo], override_num_blocks=len(todo)).map_batches(
        MakeUnits,
        fn_constructor_args=(work,),
        batch_size=1,
        num_cpus=1,
        num_gpus=1 if on_gpu else 0,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    tally: Counter[str] = Counter()
    started = said = time.monotonic()
    for row in made.iter_rows():
        tally.update(json.loads(row["tally"]))
        now = time.monotonic()
        if now - said >= REPORT_EVERY_S or tally["units_made"] == len(todo):
            report(_progress(tally, len(todo), now - started))
            said = now
    return tally


def _yields(units: list[Unit], folder: str) -> dict[str, dict[str, Any]]:
    """Per directive what was asked for and what came of it, over all units of the job, by what their objects say."""

    def counted(unit: Unit) -> dict[str, int]:
        footer = tables.footer(storage.join(folder, f"{unit.unit_id}.parquet"))
        counts: dict[str, int] = json.loads(footer.metadata[b"sdiff.unit"])
        return {"asked": len(unit.spots), "made": footer.num_rows, **counts}

    totals: dict[str, Counter[str]] = {u.directive: Counter() for u in units}
    with ThreadPoolExecutor(READERS) as readers:
        for unit, counts in zip(units, readers.map(counted, units), strict=True):
            totals[unit.directive].update(counts)
    return {
        name: {
            "asked": total["asked"],
            "made": total["made"],
            "attempts": total["attempts"],
            "made_per_attempt": total["made"] / total["attempts"] if total["attempts"] else None,
            "near_duplicates": total["near_duplicates"],
            "rejected": ", ".join(
                f"{key.removeprefix('rejected: ')} {n}"
                for key, n in total.most_common()
                if key.startswith("rejected: ")
            ),
        }
        for name, total in totals.items()
    }


def _progress(tally: Counter[str], n_units: int, seconds: float) -> str:
    left = seconds / tally["units_made"] * (n_units - tally["units_made"])
    rate = tally["scenarios"] / max(seconds, 1e-9)
    return (
        f"{tally['units_made']} of {n_units} units, {tally['scenarios']} scenarios, {rate:.1f}/s, "
        f"{left // 60:.0f}:{left % 60:02.0f} left"
    )


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _one_thread() -> None:
    """Sums in another order give other bits: the result must not depend on how many cores there are."""
    import torch

    torch.set_num_threads(1)


def _object_names(windows: str) -> list[str]:
    """Names of a table's objects, which come from the work that made them."""
    names = [uri.rsplit("/", 1)[-1] for uri in storage.objects(storage.table_uri(windows, "windows"))]
    if not names:
        raise tables.TableError(f"no table windows at {windows}; run sdiff ingest first, or give --windows")
    return names


def _write_plan(job: Job, job_id: str, model_id: str, units: list[Unit]) -> None:
    data = tables.encode(plan_table(job, job_id, model_id, units), "jobs")
    uri = storage.join(storage.table_uri(job.output or "", "jobs"), f"{job_id}.parquet")
    if not storage.exists(uri):
        storage.write_bytes(uri, data)
    elif storage.read_bytes(uri) != data:
        raise tables.TableError(f"{uri} holds another job of the same id; give another --output")


def _rows(spots: list[Spot], wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """The wanted columns of windows and their agents, the latter still in Arrow."""
    plain, rows = list(wanted), window_rows(spots, [*wanted, "agents"])
    return [{**{c: t[c][0].as_py() for c in plain}, "agents": t["agents"]} for t in rows]


def _agents(row: dict[str, Any]) -> Agents:
    return columns.agents_from_arrow(row["agents"])[0]


def _made_with(device: str) -> str:
    import platform

    import torch

    kind = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return json.dumps({"sdiff": sdiff.__version__, "torch": torch.__version__, "device": kind}, sort_keys=True)
