"""From a job to its units, and from a unit to its scenarios."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import schemas
import sdiff
from sdiff import columns, tables
from sdiff.directives.directive import Directive, DoesNotFit, Logs
from sdiff.directives.job import Job
from sdiff.directives.judging import Accept, Verdict, judge
from sdiff.directives.search import Found, MapSpot, Spot, chunks
from sdiff.directives.steering import steered
from sdiff.maps.places import Place, place_columns
from sdiff.metrics import brief
from sdiff.metrics.matching import alike, token_index
from sdiff.metrics.safety import found_columns, scenario_columns
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, Agents, AgentTokens, Sample, SceneToken
from sdiff.span import Span

DRIVABLE = MAP_CHANNELS.index("drivable_area")
COMPARED = 8
"""A scenario is compared with that many others of its directive and place."""
BATCHES_AT_ONCE = 16
"""A unit is made in slices of that many batches, so that its maps need not be in memory all at once."""

NoiseKey = tuple[int, str, int]


class Sampler(Protocol):
    """What makes scenes: `sdiff.model.checkpoint.ScenarioModel`."""

    model_id: str
    trained_maps: frozenset[str]

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
        ttc_s: Span | None = ...,
    ) -> list[Sample]:
        """One per row of the batch."""


@dataclass(frozen=True)
class Unit:
    """The retryable slice of a job: scenarios `first` to `first + len(spots)` of one directive, one place each."""

    unit_id: str
    index: int
    directive: str
    first: int
    spots: tuple[Spot | MapSpot, ...]

    def to_json(self) -> str:
        """The unit as text, each place once."""
        places: list[Any] = list(dict.fromkeys(self.spots))
        position = {spot: i for i, spot in enumerate(places)}
        fields = {**asdict(self), "spots": [position[s] for s in self.spots], "places": [asdict(p) for p in places]}
        return json.dumps(fields, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Unit":
        """The unit that `to_json` wrote."""
        fields = json.loads(text)
        places = [Spot(**p) if "window_id" in p else MapSpot(**p) for p in fields.pop("places")]
        return Unit(**{**fields, "spots": tuple(places[i] for i in fields["spots"])})


@dataclass(frozen=True)
class Request:
    """One scenario to be made at a place. logs gives the agents that `from_log` names."""

    scenario_id: str
    number: int
    place: Place
    map_bev: NDArray[np.uint8]
    logs: Logs


class Asked(NamedTuple):
    """What the model is asked for in one scenario."""

    scenario_id: str
    map_bev: NDArray[np.uint8]
    tokens: AgentTokens
    scene: SceneToken


@dataclass(frozen=True)
class Scenario:
    """One that was accepted. measured: columns of `scenarios` that are computed from it."""

    scenario_id: str
    number: int
    attempt: int
    tokens: AgentTokens
    scene: SceneToken
    agents: Agents
    measured: dict[str, float | bool | str]


def job_id(job: Job, places: dict[str, Any], model_id: str) -> str:
    """The fingerprint of all that decides a job's result. places: the tables that lend them, what their objects are."""
    versions = {"schema": schemas.table_schema("scenarios").version, "code": sdiff.__version__}
    return tables.fingerprint({"job": job.decides(), **places, "model": model_id, **versions})


def counts(job: Job) -> dict[str, int]:
    """Scenarios per directive: as even as can be, the first ones get what is left over."""
    n = len(job.directives)
    return {d.name: job.count // n + (i < job.count % n) for i, d in enumerate(job.directives)}


def places_wanted(job: Job) -> dict[str, int]:
    """How many places each directive can use."""
    return {name: min(n, job.places.limit or n) for name, n in counts(job).items()}


def plan(job: Job, job_id: str, found: Found[Spot] | Found[MapSpot]) -> list[Unit]:
    """The units of a job. A directive's scenarios take its places in turn, those of one place beside one another."""
    units: list[Unit] = []
    first = 0
    for name, n in counts(job).items():
        spots = found.spots[name]
        for a, b in chunks(n, job.unit_size()):
            index = len(units)
            chosen = tuple(spots[i * min(len(spots), n) // n] for i in range(a, b))
            units.append(Unit(f"{job_id}-{index:06d}", index, name, first + a, chosen))
        first += n
    return units


def plan_table(job: Job, job_id: str, model_id: str, units: list[Unit]) -> pa.Table:
    """The job's object of the table jobs."""
    decides = job.decides()
    asked = {d["name"]: d for d in decides["directives"]}
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
            "job": json.dumps(
                {**decides, "directives": [asked[u.directive]], "maps": map_objects([u])}, sort_keys=True
            ),
        }
        for u in units
    ]
    return pa.Table.from_pylist(rows, schema=schemas.arrow_schema("jobs"))


def map_objects(units: list[Unit]) -> list[str]:
    """Names of the objects of the table maps, beside the scenarios, that lend places to a job."""
    used = {s.map_object for u in units for s in u.spots if isinstance(s, MapSpot)}
    return sorted(uri.rsplit("/", 1)[-1] for uri in used)


def sampler_name(job: Job) -> str:
    """Sampler, steps, and whether rules guide it, in one word."""
    return f"{job.sampler}-{job.steps}" + ("-rules" if job.rules else "")


def make(
    model: Sampler, job: Job, directive: Directive, requests: list[Request]
) -> tuple[list[Scenario], Counter[str]]:
    """Those of some requests of a unit that are accepted, and counts: attempts, rejections by reason, agents left out.

    Rejected ones are tried again, their ranges drawn anew, with other noise. A batch holds these requests only, and is
    always full. The first attempt that is accepted is a request's scenario; what was sampled beyond it does not count.
    """
    tally: Counter[str] = Counter(attempts=0)
    accepted: dict[int, Scenario] = {}
    left = dict.fromkeys(range(len(requests)), 0)  # the next attempt of each
    while left:
        tries = _tries(left, job)
        outcomes = _outcomes(model, job, directive, requests, tries)
        for (i, attempt), outcome in zip(tries, outcomes, strict=True):
            if i in accepted:
                continue
            left[i] = attempt + 1
            if isinstance(outcome, DoesNotFit):
                tally[f"rejected: {outcome.reason}"] += 1
                continue
            tally["attempts"] += 1
            verdict, made, asked = outcome
            if verdict.rejected:
                tally[f"rejected: {verdict.rejected}"] += 1
                continue
            tally += Counter({f"agents left out: {why}": n for why, n in verdict.left_out.items()})
            measured = {
                **scenario_columns(verdict.agents, asked.tokens, asked.map_bev[DRIVABLE]),
                **found_columns(made.found),
                **place_columns(requests[i].place),
                **brief.scene_columns(verdict.agents),
            }
            accepted[i] = Scenario(
                asked.scenario_id, requests[i].number, attempt, asked.tokens, asked.scene, verdict.agents, measured
            )
        left = {i: attempt for i, attempt in left.items() if i not in accepted and attempt < job.attempts}
    return [accepted[i] for i in sorted(accepted)], tally


def _tries(left: dict[int, int], job: Job) -> list[tuple[int, int]]:
    """Request and attempt: the next one of each, and in what is left of the last batch those after that."""
    every = (
        (i, attempt + later)
        for later in range(job.attempts)
        for i, attempt in left.items()
        if attempt + later < job.attempts
    )
    return list(itertools.islice(every, len(left) + -len(left) % job.batch))


def _outcomes(
    model: Sampler, job: Job, directive: Directive, requests: list[Request], tries: list[tuple[int, int]]
) -> list[DoesNotFit | tuple[Verdict, Sample, Asked]]:
    """What became of each try."""
    outcomes: list[Any] = []
    for i, attempt in tries:
        request = requests[i]
        try:
            outcomes.append(Asked(request.scenario_id, request.map_bev, *_tokens(directive, request, job, attempt)))
        except DoesNotFit as error:
            outcomes.append(error)
    wanted = [t for t, asked in enumerate(outcomes) if isinstance(asked, Asked)]
    ttc_s = directive.severity.ttc_s
    for a, b in chunks(len(wanted), job.batch):
        batch = [(outcomes[t], tries[t][1]) for t in wanted[a:b]]
        samples = _sample(model, job, ttc_s, batch)
        for t, (asked, _), made in zip(wanted[a:b], batch, samples, strict=True):
            outcomes[t] = _judged(made, asked, job, ttc_s), made, asked
    return outcomes


def _judged(made: Sample, asked: Asked, job: Job, ttc_s: Span | None = None) -> Verdict:
    agents = replace(made.agents, token_index=token_index(asked.tokens, made.agents))
    return judge(agents, asked.tokens, asked.map_bev[DRIVABLE], job.accept, ttc_s)


def make_again(model: Sampler, told: dict[str, Any], asked: Asked, attempt: int) -> Agents:
    """The agents of a scenario that was accepted, from what its row says. told: its unit's job, as table jobs has it.

    Sampled in a batch as large as then, since other sizes give other bits.
    """
    (severity,) = (d["severity"] for d in told["directives"])
    ttc_s = None if severity["ttc_s"] is None else Span(*severity["ttc_s"])
    kept = {key: told[key] for key in ("seed", "sampler", "steps", "rules", "min_score", "batch")}
    job = Job("", **kept, accept=Accept(**told["accept"]))
    return _judged(_sample(model, job, ttc_s, [(asked, attempt)])[0], asked, job).agents


def _tokens(directive: Directive, request: Request, job: Job, attempt: int) -> tuple[AgentTokens, SceneToken]:
    digest = hashlib.sha256(f"{job.seed}:{directive.name}:{request.number}:{attempt}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    return steered(directive, request.place, request.logs, rng, request.map_bev[DRIVABLE], job.accept)


def _sample(model: Sampler, job: Job, ttc_s: Span | None, tries: list[tuple[Asked, int]]) -> list[Sample]:
    """A sample for each of at most job.batch attempts."""
    full = tries + tries[-1:] * (job.batch - len(tries))
    samples = model.sample(
        np.stack([asked.map_bev for asked, _ in full]),
        [asked.tokens for asked, _ in full],
        [asked.scene for asked, _ in full],
        [(job.seed, asked.scenario_id, attempt) for asked, attempt in full],
        sampler=job.sampler,
        steps=job.steps,
        min_score=job.min_score,
        rules=job.rules,
        collisions=job.accept.collision,
        ttc_s=ttc_s,
    )
    return samples[: len(tries)]


def near_duplicates(scenarios: list[Scenario], places: Sequence[Hashable]) -> int:
    """How many scenarios are like one of the last COMPARED before them at the same place. places: one per scenario."""
    seen: dict[Hashable, list[Agents]] = {}
    count = 0
    for scenario, place in zip(scenarios, places, strict=True):
        before = seen.setdefault(place, [])
        count += any(alike(scenario.agents, other) for other in before[-COMPARED:])
        before.append(scenario.agents)
    return count


def scenario_table(
    job: Job, job_id: str, model_id: str, unit: Unit, scenarios: list[Scenario], provenance: list[dict[str, Any]]
) -> pa.Table:
    """The unit's object of the table scenarios, sorted by severity, see SORTED_BY.

    provenance: per scenario, the columns that its place lends.
    """
    schema = schemas.arrow_schema("scenarios")
    data: dict[str, Any] = {
        "scenario_id": [s.scenario_id for s in scenarios],
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
        lent = bool(provenance) and f.name in provenance[0]
        values = [row[f.name] for row in (provenance if lent else [s.measured for s in scenarios])]
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
"""Columns that a scenario takes from its place: the window, or the pose on a bare map."""


def map_image(data: bytes) -> NDArray[np.uint8]:
    """The map image of a window, (8, 256, 256)."""
    return np.frombuffer(data, np.uint8).reshape(len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS)
