"""From a job to its units, and from a unit to its scenarios."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import schemas
import sdiff
from sdiff import columns, tables
from sdiff.directives.directive import Directive, DoesNotFit, Logs, resolve
from sdiff.directives.job import Job
from sdiff.directives.search import Found, Spot, chunks
from sdiff.maps.places import Place, place_columns
from sdiff.metrics import brief
from sdiff.metrics.collision import meetings
from sdiff.metrics.matching import token_index
from sdiff.metrics.safety import found_columns, scenario_columns
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, STEPS_PAST, Agents, AgentTokens, Sample, SceneToken

EGO_WITHIN_M = 2.0
"""A scenario whose ego is farther from the origin at t0 is rejected [m]."""
DRAWS = 10
"""Draws of a directive's ranges until one fits the place."""

NoiseKey = tuple[int, str, int]


class Sampler(Protocol):
    """What makes scenes: `sdiff.model.checkpoint.ScenarioModel`."""

    model_id: str

    def sample(
        self,
        map_bev: NDArray[np.uint8],
        tokens: list[AgentTokens],
        scene: list[SceneToken],
        noise_keys: list[NoiseKey],
        sampler: str = ...,
        steps: int = ...,
        min_score: float = ...,
        rules: bool = ...,
        collisions: bool = ...,
    ) -> list[Sample]:
        """One per row of the batch."""


@dataclass(frozen=True)
class Unit:
    """The retryable slice of a job: scenarios `first` to `first + len(spots)` of one directive, one place each."""

    unit_id: str
    index: int
    directive: str
    first: int
    spots: tuple[Spot, ...]

    def to_json(self) -> str:
        """The unit as text, each place once."""
        places = list(dict.fromkeys(self.spots))
        position = {spot: i for i, spot in enumerate(places)}
        fields = {**asdict(self), "spots": [position[s] for s in self.spots], "places": [asdict(p) for p in places]}
        return json.dumps(fields, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Unit":
        """The unit that `to_json` wrote."""
        fields = json.loads(text)
        places = [Spot(**p) for p in fields.pop("places")]
        return Unit(**{**fields, "spots": tuple(places[i] for i in fields["spots"])})


@dataclass(frozen=True)
class Request:
    """One scenario to be made at a place. logs gives the agents that `from_log` names."""

    scenario_id: str
    number: int
    place: Place
    map_bev: NDArray[np.uint8]
    logs: Logs


@dataclass(frozen=True)
class Scenario:
    """One that was accepted. found: the boxes that its agents were chosen from."""

    request: Request
    attempt: int
    tokens: AgentTokens
    scene: SceneToken
    agents: Agents
    found: Agents


def job_id(job: Job, windows: list[str], model_id: str) -> str:
    """The fingerprint of everything that decides a job's result. windows: names of the table's objects."""
    versions = {"schema": schemas.table_schema("scenarios").version, "code": sdiff.__version__}
    return tables.fingerprint({"job": job.decides(), "windows": windows, "model": model_id, **versions})


def counts(job: Job) -> dict[str, int]:
    """Scenarios per directive: as even as can be, the first ones get what is left over."""
    n = len(job.directives)
    return {d.name: job.count // n + (i < job.count % n) for i, d in enumerate(job.directives)}


def places_wanted(job: Job) -> dict[str, int]:
    """How many places each directive can use."""
    return {name: min(n, job.places.limit or n) for name, n in counts(job).items()}


def plan(job: Job, job_id: str, found: Found) -> list[Unit]:
    """The units of a job. A directive's scenarios take its places in turn, those of one place beside one another."""
    units: list[Unit] = []
    first = 0
    for name, n in counts(job).items():
        spots = found.spots[name]
        chosen = [spots[i * min(len(spots), n) // n] for i in range(n)]
        for a, b in chunks(n, job.unit_size()):
            index = len(units)
            units.append(Unit(f"{job_id}-{index:06d}", index, name, first + a, tuple(chosen[a:b])))
        first += n
    return units


def plan_table(job: Job, job_id: str, model_id: str, units: list[Unit]) -> pa.Table:
    """The job's object of the table jobs."""
    text = json.dumps({**job.decides(), "name": job.name}, sort_keys=True)
    rows = [
        {
            "job_id": job_id,
            "unit_id": u.unit_id,
            "unit_index": u.index,
            "directive": u.directive,
            "n_scenarios": len(u.spots),
            "seed": job.seed,
            "model_id": model_id,
            "sampler": sampler_name(job),
            "job": text,
        }
        for u in units
    ]
    return pa.Table.from_pylist(rows, schema=schemas.arrow_schema("jobs"))


def sampler_name(job: Job) -> str:
    """Sampler, steps, and whether rules guide it, in one word."""
    return f"{job.sampler}-{job.steps}" + ("-rules" if job.rules else "")


def make(
    model: Sampler, job: Job, directive: Directive, requests: list[Request]
) -> tuple[list[Scenario], Counter[str]]:
    """The scenarios of a unit that are accepted, and counts: attempts, rejections by reason, agents left out.

    Rejected ones are tried again with other noise. A batch holds this unit's scenarios only, and is always full.
    """
    tally: Counter[str] = Counter(attempts=0)
    wanted: dict[int, tuple[AgentTokens, SceneToken]] = {}
    for i, request in enumerate(requests):
        try:
            wanted[i] = _tokens(directive, request, job.seed)
        except DoesNotFit as error:
            tally[f"rejected: {error.reason}"] += 1
    accepted: dict[int, Scenario] = {}
    for attempt in range(job.attempts):
        pending = [i for i in wanted if i not in accepted]
        for a, b in chunks(len(pending), job.batch):
            for i, made in _sample(model, job, requests, wanted, pending[a:b], attempt):
                tally["attempts"] += 1
                agents = replace(made.agents, token_index=token_index(wanted[i][0], made.agents))
                stay = np.ones(len(agents), bool) if job.collisions else apart(agents)
                if not _ego_at_origin(agents):
                    tally["rejected: no_ego"] += 1
                elif stay is None:
                    tally["rejected: collision"] += 1
                else:
                    tally += Counter({"agents left out: collision": int((~stay).sum())})
                    accepted[i] = Scenario(requests[i], attempt, *wanted[i], agents.take(stay), made.found)
    return [accepted[i] for i in sorted(accepted)], tally


def _tokens(directive: Directive, request: Request, seed: int) -> tuple[AgentTokens, SceneToken]:
    digest = hashlib.sha256(f"{seed}:{directive.name}:{request.number}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    for draw in range(DRAWS):
        try:
            return resolve(directive, request.place, request.logs, rng)
        except DoesNotFit:
            if draw == DRAWS - 1:
                raise
    raise AssertionError


def _sample(
    model: Sampler,
    job: Job,
    requests: list[Request],
    wanted: dict[int, tuple[AgentTokens, SceneToken]],
    members: list[int],
    attempt: int,
) -> list[tuple[int, Sample]]:
    full = members + members[-1:] * (job.batch - len(members))
    samples = model.sample(
        np.stack([requests[i].map_bev for i in full]),
        [wanted[i][0] for i in full],
        [wanted[i][1] for i in full],
        [(job.seed, requests[i].scenario_id, attempt) for i in full],
        sampler=job.sampler,
        steps=job.steps,
        min_score=job.min_score,
        rules=job.rules,
        collisions=job.collisions,
    )
    return list(zip(members, samples, strict=False))


def apart(agents: Agents) -> NDArray[np.bool_] | None:
    """Which agents stay, (N,), so that no two boxes meet at any pose; of two that do, the more probable one does.

    The ego and the agents that tokens ask for come first. None where two of these meet.
    """
    meets = meetings(agents)
    asked = agents.is_ego | (agents.token_index >= 0) if agents.token_index is not None else agents.is_ego
    if meets[np.ix_(asked, asked)].any():
        return None
    score = np.zeros(len(agents)) if agents.score is None else agents.score
    stay = np.zeros(len(agents), bool)
    for i in np.lexsort((-score, ~asked)):
        stay[i] = not meets[i, stay].any()
    return stay


def _ego_at_origin(agents: Agents) -> bool:
    ego = np.flatnonzero(agents.is_ego)
    return len(ego) == 1 and bool(
        np.hypot(agents.x_m[ego[0], STEPS_PAST], agents.y_m[ego[0], STEPS_PAST]) <= EGO_WITHIN_M
    )


def scenario_table(
    job: Job, job_id: str, model_id: str, unit: Unit, scenarios: list[Scenario], provenance: list[dict[str, Any]]
) -> pa.Table:
    """The unit's object of the table scenarios, sorted by severity, see SORTED_BY.

    provenance: per scenario, the columns that its window lends.
    """
    drivable = MAP_CHANNELS.index("drivable_area")
    measured = [
        {
            **scenario_columns(s.agents, s.tokens, s.request.map_bev[drivable]),
            **found_columns(s.found),
            **place_columns(s.request.place),
            **brief.scene_columns(s.agents),
        }
        for s in scenarios
    ]
    schema = schemas.arrow_schema("scenarios")
    data: dict[str, Any] = {
        "scenario_id": [s.request.scenario_id for s in scenarios],
        "attempt": [s.attempt for s in scenarios],
        "tokens": columns.tokens_to_arrow([s.tokens for s in scenarios]),
        "scene_token": columns.scene_tokens_to_arrow([s.scene for s in scenarios]),
        "n_agents": [len(s.agents) for s in scenarios],
        "agents": columns.agents_to_arrow([s.agents for s in scenarios], generated=True),
        "agents_t0": columns.agents_t0_to_arrow([brief.agents_t0(s.agents) for s in scenarios]),
    }
    constant = {
        "job_id": job_id,
        "unit_id": unit.unit_id,
        "directive": unit.directive,
        "model_id": model_id,
        "sampler": sampler_name(job),
        "seed": job.seed,
    }
    data |= {name: [value] * len(scenarios) for name, value in constant.items()}
    for f in schema:
        if f.name in data:
            continue
        values = [row[f.name] for row in (provenance if provenance and f.name in provenance[0] else measured)]
        data[f.name] = pa.array(values, f.type, from_pandas=True)  # NaN becomes null
    table = pa.table(
        [v if isinstance(v, pa.Array) else pa.array(v, f.type) for f in schema for v in [data[f.name]]], schema=schema
    )
    return table.sort_by([(name, "ascending") for name in SORTED_BY])


SORTED_BY = ("ego_min_ttc_s", "scenario_id")
"""Order of the rows of an object: the critical ones lie together, so that a query for them reads few row groups."""

PROVENANCE = (
    "window_id",
    "map_id",
    "origin_x_m",
    "origin_y_m",
    "origin_heading_rad",
    "dataset",
    "region",
    "license",
)
"""Columns that a scenario takes from the window whose place it uses."""


def map_image(data: bytes) -> NDArray[np.uint8]:
    """The map image of a window, (8, 256, 256)."""
    return np.frombuffer(data, np.uint8).reshape(len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS)
