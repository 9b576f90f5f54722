"""Units of a job to objects of the table scenarios, in one process; what a job will take; one scenario made again."""

import json
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import sdiff
from sdiff import columns, storage, tables
from sdiff.directives.job import Job
from sdiff.directives.search import IndexedMap, Maps, MapSpot, Spot, chunks, place_of, spots_of, window_rows
from sdiff.directives.units import (
    BATCHES_AT_ONCE,
    PROVENANCE,
    Asked,
    Request,
    Sampler,
    Scenario,
    Unit,
    make,
    make_again,
    map_image,
    near_duplicates,
    scenario_table,
)
from sdiff.geometry import SE2
from sdiff.maps.lanes import map_from_rows
from sdiff.scene import Agents

TRIED = 8
"""Directives of which a dry run makes a batch."""
ORIGIN = ("origin_x_m", "origin_y_m", "origin_heading_rad")
LoadModel = Callable[[str | None, str], Sampler]


def load_checkpoint(uri: str | None, device: str) -> Sampler:
    """The model at `uri`; None is the shipped one."""
    from sdiff.model import checkpoint

    return checkpoint.load(uri, device)


@dataclass(frozen=True)
class Work:
    """What every actor of a job knows. named: windows that directives take agents from."""

    job: Job
    job_id: str
    device: str
    named: dict[str, Spot]
    load_model: LoadModel


class MakeUnits:
    """Loads the model once, then makes unit after unit, each into one object.

    maps: those that it need not read.
    """

    def __init__(self, work: Work, maps: Maps | None = None) -> None:
        if work.device == "cpu":
            _one_thread()
        self.work, self.maps = work, maps or Maps()
        self.model = work.load_model(work.job.model, work.device)
        self.named = {w: _agents(row) for w, row in zip(work.named, _rows(list(work.named.values()), ()), strict=True)}
        self.directives = {d.name: d for d in work.job.directives}

    def make(self, unit: Unit) -> Counter[str]:
        """Make one unit and write its object; returns what was counted."""
        started = time.monotonic()
        table, tally = self.table(unit)
        metadata = {"sdiff.unit": json.dumps(tally, sort_keys=True), "sdiff.made_with": _made_with(self.work.device)}
        tables.write(table, "scenarios", self.work.job.output or "", unit.unit_id, metadata)
        tally.update(units_made=1, ms_working=round(1000 * (time.monotonic() - started)))
        return tally

    def table(self, unit: Unit) -> tuple[pa.Table, Counter[str]]:
        """The rows of one unit, and what was counted."""
        job, directive = self.work.job, self.directives[unit.directive]
        scenarios: list[Scenario] = []
        lent: list[dict[str, Any]] = []
        tally: Counter[str] = Counter(attempts=0)
        for a, b in chunks(len(unit.spots), BATCHES_AT_ONCE * job.batch):
            rows = self._lent(unit.spots[a:b])
            requests = [self._request(unit, a + i, row) for i, row in enumerate(rows)]
            made, counted = make(self.model, job, directive, requests)
            scenarios += made
            lent += [{c: rows[s.number - unit.first - a][c] for c in PROVENANCE} for s in made]
            tally.update(counted)
        if copies := near_duplicates(scenarios, [unit.spots[s.number - unit.first] for s in scenarios]):
            tally["near_duplicates"] = copies
        table = scenario_table(job, self.work.job_id, self.model.model_id, unit, scenarios, lent)
        tally["scenarios"] = len(scenarios)
        return table, tally

    def _lent(self, spots: tuple[Spot | MapSpot, ...]) -> list[dict[str, Any]]:
        """Per place the columns that it lends, and what else is known of it."""
        windows = _rows([s for s in spots if isinstance(s, Spot)], (*PROVENANCE, "lights", "map_bev"))
        on_maps = [s for s in spots if isinstance(s, MapSpot)]
        images = (self.maps.indexed(s.map_id, s.map_object).image(s.map_SE2_window) for s in on_maps)
        return windows + [{**s.row(), "map_bev": bev.tobytes()} for s, bev in zip(on_maps, images, strict=True)]

    def _request(self, unit: Unit, i: int, row: dict[str, Any]) -> Request:
        number, spot = unit.first + i, unit.spots[i]
        place = place_of(row, lambda: self.maps.graph(spot.map_id, spot.map_object))

        def logs(window_id: str | None) -> Agents:
            return _agents(row) if window_id is None else self.named[window_id]

        name = f"{self.work.job_id}-{unit.directive}-{number:07d}"
        return Request(name, number, place, map_image(row["map_bev"]), logs)


def estimate(
    work: Work, units: list[Unit], actors: int, price_per_hour: float | None = None, maps: Maps | None = None
) -> dict[str, Any]:
    """What a job will take, from one batch of each directive that is made here and now, and not kept.

    Of a job with many directives TRIED are, which stand for all. price_per_hour: of one actor. maps: those of the
    places, where they are not written yet. Returns what each directive's batch gave, time, rate, size and cost of the
    whole.
    """
    maker = MakeUnits(work, maps)
    first: dict[str, Unit] = {}
    asked: Counter[str] = Counter()
    for unit in units:
        first.setdefault(unit.directive, unit)
        asked[unit.directive] += len(unit.spots)
    seconds = size = 0.0
    rows: list[dict[str, Any]] = []
    tried = list(first)[:: -(-len(first) // TRIED)]
    for name in tried:
        unit = first[name]
        sample = replace(unit, spots=unit.spots[: work.job.batch])
        if not rows:
            maker.table(sample)  # once to compile and warm up
        started = time.monotonic()
        table, tally = maker.table(sample)
        each = (time.monotonic() - started) / len(sample.spots)
        share = len(table) / len(sample.spots)
        per_row = len(tables.encode(table, "scenarios")) / len(table) if len(table) else 0.0
        seconds += asked[name] * each
        size += asked[name] * share * per_row
        rows.append({"directive": name, "asked": asked[name], "tried": len(sample.spots), "made": len(table), **tally})
    all_of_tried = sum(asked.values()) / sum(asked[name] for name in tried)
    seconds, size = seconds * all_of_tried, size * all_of_tried
    actors = min(actors, len(units))
    hours = seconds / actors / 3600
    return {
        "by_directive": rows,
        "actors": actors,
        "hours": round(hours, 4),
        "scenarios_per_s": round(sum(asked.values()) / max(seconds, 1e-9) * actors, 3),
        "megabytes": round(size / 1e6, 3),
        "megabytes_per_object": round(size / 1e6 / len(units), 3),
        "cost": None if price_per_hour is None else round(hours * actors * price_per_hour, 2),
    }


def again(
    scenario_id: str,
    output: str,
    windows: str | None = None,
    *,
    model: str | None = None,
    device: str | None = None,
    load_model: LoadModel = load_checkpoint,
) -> dict[str, Any]:
    """Make one scenario of the tables at `output` again from its row, and compare.

    windows: the table that lent its place, if it is no place on a bare map: those are in the table maps at `output`.
    Returns its id, whether its agents are the same to the bit, and which of their values are not. Raises TableError
    where there is no such scenario, or the model is another one.
    """
    row = _scenario(output, scenario_id)
    device = device or default_device()
    if device == "cpu":
        _one_thread()
    loaded = load_model(model, device)
    if loaded.model_id != row["model_id"]:
        raise tables.TableError(
            f"{scenario_id} was made by model {row['model_id']}, found {loaded.model_id}; give its --model"
        )
    jobs = tables.read(output, "jobs", ["job"], pc.field("unit_id") == row["unit_id"])
    if not jobs.num_rows:
        raise tables.TableError(f"table jobs at {output} has no unit {row['unit_id']}, which made {scenario_id}")
    asked = Asked(scenario_id, _image_again(row, output, windows), row["tokens"], row["scene"])
    agents, before = make_again(loaded, json.loads(jobs["job"][0].as_py()), asked, row["attempt"]), row["agents"]
    differing = [f.name for f in fields(Agents) if not _same(getattr(agents, f.name), getattr(before, f.name))]
    return {
        "scenario_id": scenario_id,
        "same": not differing,
        "differing": ", ".join(differing),
        "n_agents": len(agents),
        "n_agents_before": len(before),
    }


def _same(made: Any, before: Any) -> bool:
    """Whether two members of agents are equal; one that the table does not have is not compared."""
    return before is None or (made is not None and np.array_equal(made, before))


def _image_again(row: dict[str, Any], output: str, windows: str | None) -> NDArray[np.uint8]:
    """The map image of a scenario's place."""
    if row["window_id"] is None:
        rows = tables.read(output, "maps", where=pc.field("map_id") == row["map_id"])
        if not rows.num_rows:
            raise tables.TableError(f"table maps at {output} has no map {row['map_id']}, on which the scenario is")
        return IndexedMap(map_from_rows(rows)).image(SE2(*(row[c] for c in ORIGIN)))
    if windows is None:
        raise tables.TableError(f"its place is window {row['window_id']}; give --windows, the table that lent it")
    (place,) = _rows(list(spots_of(storage.absolute(windows), [row["window_id"]]).values()), ("map_bev",))
    return map_image(place["map_bev"])


def _scenario(output: str, scenario_id: str) -> dict[str, Any]:
    """What the row of a scenario says of how it was made, and its agents."""
    plain = ["unit_id", "model_id", "window_id", "map_id", *ORIGIN, "attempt"]
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


def default_device() -> str:
    """cuda where there is a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _one_thread() -> None:
    """Sums in another order give other bits: the result must not depend on how many cores there are."""
    import torch

    torch.set_num_threads(1)


def _rows(spots: list[Spot], wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """The wanted columns of windows and their agents, the latter still in Arrow."""
    plain, rows = list(wanted), window_rows(spots, [*wanted, "agents"])
    return [{**{c: t[c][0].as_py() for c in plain}, "agents": t["agents"]} for t in rows]


def _agents(row: dict[str, Any]) -> Agents:
    return columns.agents_from_arrow(row["agents"])[0]


def _made_with(device: str) -> str:
    import torch

    kind = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return json.dumps({"sdiff": sdiff.__version__, "torch": torch.__version__, "device": kind}, sort_keys=True)
