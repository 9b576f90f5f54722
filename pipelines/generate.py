"""Directed bulk generation on Ray Data: a job file to the table scenarios, one object per unit.

The plan is written first, as an object of the table jobs. A unit whose object exists is not done again, so a job that
was killed goes on where it stopped, and comes out as if it never had been.
"""

import json
import logging
import os
import pickle
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipelines import cluster
from sdiff import storage, tables, window_tables
from sdiff.directives import job as job_files
from sdiff.directives.job import Job
from sdiff.directives.search import (
    Found,
    IndexedMap,
    Maps,
    MapSpot,
    Spot,
    find,
    find_on_maps,
    spots_of,
    spots_on_map,
)
from sdiff.directives.units import (
    Unit,
    job_id,
    map_objects,
    places_wanted,
    plan,
    plan_table,
)
from sdiff.generation import LoadModel, MakeUnits, Work, default_device, estimate, load_checkpoint
from sdiff.maps import files as map_files
from sdiff.maps.lanes import map_from_rows

NO_PROGRESS_TIMEOUT_S = 3600
"""Ray gives up when no unit ends for this long [s]."""
REPORT_EVERY_S = 2.0
READERS = 16
"""Objects whose metadata are read at a time."""


def run(
    job_file: str,
    *,
    windows: str | None = None,
    map: str | None = None,
    where: str | None = None,
    trained_maps: bool | None = None,
    count: int | None = None,
    seed: int | None = None,
    model: str | None = None,
    output: str | None = None,
    actors: int | None = None,
    device: str | None = None,
    dry_run: bool = False,
    price_per_hour: float | None = None,
    report: Callable[[str], None] = lambda line: None,
    load_model: LoadModel = load_checkpoint,
) -> dict[str, Any]:
    """Make the scenarios of a job, those that its output lacks; the options override the job file.

    actors: processes with the model, default as many as share the GPUs, or one per core. device: cuda or cpu, default
    what is there. dry_run: plan, make one batch of each directive to say what the job will take, and write nothing;
    price_per_hour: of one actor. report: takes a line of progress. Returns counts. Raises JobFileError, NoPlace,
    TableError, StorageError, CheckpointError, ValueError for a device that is not there.
    """
    job = job_files.read(job_file, map).with_options(
        windows=windows,
        where=where,
        trained_maps=trained_maps,
        count=count,
        seed=seed,
        model=model,
        output=output,
        actors=actors,
    )
    if job.windows is None and job.map is None:
        lacking = "places.windows (option --windows) or places.map (option --map)"
        raise job_files.JobFileError(f"{job_file}: {lacking} is missing, expected a URI")
    if job.output is None:
        raise job_files.JobFileError(f"{job_file}: output (option --output) is missing, expected a URI")
    if job.map is not None and job.places.where is not None:
        raise job_files.JobFileError(f"{job_file}: --where asks for logs, and a bare map has none; expected --windows")
    started = time.monotonic()
    device = device or default_device()
    if device == "cuda" and default_device() != "cuda" and "RAY_ADDRESS" not in os.environ:
        raise ValueError(
            "device cuda: torch sees no GPU on this machine; give --device cpu, or a cluster by RAY_ADDRESS"
        )
    actors = job.resources.actors or _processes(device, job.resources.gpus_per_actor)
    sampler = load_model(job.model, "cpu")
    model_id, trained = sampler.model_id, sampler.trained_maps
    del sampler
    output = storage.absolute(job.output)
    model = storage.absolute(job.model) if job.model else None
    job = job.with_options(output=output, model=model)
    lent = _on_windows(job, model_id, trained) if job.map is None else _on_maps(job, model_id, trained, report)
    this, found = lent.job_id, lent.found
    report(found.summary())
    units = plan(job, this, found)
    work = Work(job, this, device, lent.named, load_model)
    planned = {
        "job_id": this,
        "model_id": model_id,
        "output": job.output,
        "units": len(units),
        "places": {name: len(spots) for name, spots in found.spots.items()},
    }
    if dry_run:
        return planned | estimate(work, units, actors, price_per_hour, lent.maps)
    _write_maps(job, this, lent, units)
    _write_plan(job, this, model_id, units)
    folder = storage.table_uri(output, "scenarios")
    done = {uri.rsplit("/", 1)[-1].removesuffix(".parquet") for uri in storage.objects(folder)}
    todo = [u for u in units if u.unit_id not in done]
    tally = _run_units(work, todo, actors, report) if todo else Counter()
    return {
        **planned,
        "units_done_before": len(units) - len(todo),
        "seconds": round(time.monotonic() - started, 2),
        **dict(sorted(tally.items())),
        "directives": _yields(units, folder),
    }


@dataclass(frozen=True)
class Lent:
    """The places of a job. named: windows that directives take agents from.

    On bare maps: maps, those that were read; objects, the bytes of each as an object of the table maps, by name; bad:
    files that cannot be used, and why.
    """

    job_id: str
    found: Found[Spot] | Found[MapSpot]
    named: dict[str, Spot] = field(default_factory=dict)
    maps: Maps | None = None
    objects: dict[str, bytes] = field(default_factory=dict)
    bad: list[tuple[str, str]] = field(default_factory=list)


def _on_windows(job: Job, model_id: str, trained_maps: frozenset[str]) -> Lent:
    windows = storage.absolute(job.windows or "")
    job = job.with_options(windows=windows)
    this = job_id(job, {"windows": _object_names(windows)}, model_id)
    found = find(job, windows, places_wanted(job), trained_maps)
    return Lent(this, found, spots_of(windows, sorted({w for d in job.directives for w in d.windows_needed()})))


def _on_maps(job: Job, model_id: str, trained_maps: frozenset[str], report: Callable[[str], None]) -> Lent:
    files, bad = map_files.read_all(storage.absolute(job.map or ""))
    for uri, reason in bad:
        report(f"left out: {uri}: {reason}")
    rows = [window_tables.maps_table(f.map) for f in files]
    objects = dict(window_tables.map_object(r) for r in rows)
    maps = Maps({f.map.map_id: IndexedMap(map_from_rows(r)) for f, r in zip(files, rows, strict=True)})
    folder = storage.table_uri(job.output or "", "maps")
    spots = [
        spot
        for file, name in zip(files, objects, strict=True)
        for spot in spots_on_map(file, storage.join(folder, name), job.places.spacing_m)
    ]
    told = zip(objects, ((f.dataset, f.region, f.license) for f in files), strict=True)
    this = job_id(job, {"maps": sorted([name, *about] for name, about in told)}, model_id)
    found = find_on_maps(job, spots, maps, places_wanted(job), trained_maps)
    return Lent(this, found, maps=maps, objects=objects, bad=bad)


def _write_maps(job: Job, job_id: str, lent: Lent, units: list[Unit]) -> None:
    """The maps that lend places, as objects of the table maps beside the scenarios, and what could not be read."""
    for name in map_objects(units):
        uri = storage.join(storage.table_uri(job.output or "", "maps"), name)
        if not storage.exists(uri):
            storage.write_bytes(uri, lent.objects[name])
    if lent.bad:
        letters = [(uri, "", "read", reason) for uri, reason in lent.bad]
        tables.write(window_tables.dead_letters_table(letters), "dead_letters", job.output or "", job_id)


class Actor:
    """Makes units on Ray. An error comes back as a row: Ray would wrap it, lose what it says, and start it again."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.maker: MakeUnits | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (text,) = batch["unit"]
        try:
            self.maker = self.maker or MakeUnits(self.work)
            return {"tally": [json.dumps(self.maker.make(Unit.from_json(str(text))))], "failed": [b""]}
        except Exception as error:
            error.add_note(f"in an actor:\n{traceback.format_exc()}")  # which pickle drops, unlike notes
            return {"tally": [""], "failed": [pickle.dumps(error)]}


def _run_units(work: Work, todo: list[Unit], actors: int, report: Callable[[str], None]) -> Counter[str]:
    actors = min(actors, len(todo))
    cluster.connect(actors + 1)
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cluster.quiet_data()
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    # One block per unit from the start: a repartition would be a task that waits for a core when actors hold them all.
    made = ray.data.from_items([{"unit": u.to_json()} for u in todo], override_num_blocks=len(todo)).map_batches(
        Actor,
        fn_constructor_args=(work,),
        batch_size=1,
        num_cpus=1,
        num_gpus=work.job.resources.gpus_per_actor if work.device == "cuda" else 0,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    tally: Counter[str] = Counter()
    started = said = time.monotonic()
    for row in made.iter_rows():
        if row["failed"]:
            raise pickle.loads(row["failed"])
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
            "yield": total["made"] / total["attempts"] if total["attempts"] else None,
            "alike": total["near_duplicates"],
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


def _processes(device: str, gpus_per_actor: float) -> int:
    """As many as share the GPUs, or one per core."""
    import torch

    return max(1, torch.cuda.device_count()) * int(1 / gpus_per_actor) if device == "cuda" else os.cpu_count() or 1


def _object_names(windows: str) -> list[str]:
    """Names of a table's objects, which come from the work that made them."""
    names = [uri.rsplit("/", 1)[-1] for uri in storage.objects(storage.table_uri(windows, "windows"))]
    if not names:
        raise tables.TableError(f"no table windows at {windows}; run sdiff ingest first, or give --windows or --map")
    return names


def _write_plan(job: Job, job_id: str, model_id: str, units: list[Unit]) -> None:
    data = tables.encode(plan_table(job, job_id, model_id, units), "jobs")
    uri = storage.join(storage.table_uri(job.output or "", "jobs"), f"{job_id}.parquet")
    if not storage.exists(uri):
        storage.write_bytes(uri, data)
    elif storage.read_bytes(uri) != data:
        raise tables.TableError(f"{uri} holds another job of the same id; give another --output")
