"""Job files: places, directives, how many, seed, model, output."""

import math
from collections import ChainMap, Counter
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sdiff import KINDS, WINDOW_M, query, storage
from sdiff.directives import library
from sdiff.directives.directive import (
    AT_ORIGIN,
    AV,
    FACING,
    LANES,
    REFERENCES,
    Agent,
    Directive,
    End,
    InWindow,
    LoggedAgents,
    OnLane,
    Scene,
    Severity,
)
from sdiff.directives.judging import NOTHING_AMISS, Accept
from sdiff.directives.reading import JobFileError, Section, read_yaml
from sdiff.maps.lanes import TURNS
from sdiff.maps.places import ANYWHERE, LIGHT_WORDS, Wanted
from sdiff.span import Span

SAMPLERS = ("dpmpp2m", "euler", "heun")

HALF_M = WINDOW_M / 2
TOP_SPEED_MPS = 70.0


COUNT_MOST = 10_000_000
"""Scenarios of one job: its plan is held in memory."""
UNITS_LEAST, UNIT_MOST = 32, 8192
"""A large job has at least so many units, of at most so many scenarios. A scenario of 9 agents is 6.4 KB, so that from
80,000 scenarios of one directive on, objects have 16 to 70 MB."""

NAME_LONGEST = 100
"""Characters of a directive's name, which is a part of names of files."""

SPACING_M = 10.0
"""Between two poses along a lane of a bare map that may become places [m]."""

NEED_LOG = ("where", "light", "ego_speed_mps")
"""Fields of places that mean nothing on a bare map."""


@dataclass(frozen=True)
class Places:
    """Where: SQL condition over the flat columns of windows, predicates, and how many at most.

    spacing_m: between the poses of a bare map along its lanes. trained_maps: on maps that the model has seen, too.
    """

    where: str | None = None
    wanted: Wanted = ANYWHERE
    limit: int | None = None
    spacing_m: float = SPACING_M
    trained_maps: bool = False


@dataclass(frozen=True)
class Resources:
    """What a job runs on. actors None: one per share of a GPU, or per core. gpus_per_actor: on CPUs none is taken."""

    actors: int | None = None
    gpus_per_actor: float = 1.0


@dataclass(frozen=True)
class Job:
    """A request for many scenarios. windows, map, model and output are URIs; model None is the shipped checkpoint.

    Places are lent by windows or by bare maps: at most one of the two is given.
    """

    name: str
    directives: tuple[Directive, ...] = (Directive(),)
    places: Places = Places()
    windows: str | None = None
    map: str | None = None
    model: str | None = None
    output: str | None = None
    count: int = 100
    seed: int = 0
    sampler: str = "dpmpp2m"
    steps: int = 20
    rules: bool = True
    min_score: float = 0.5
    attempts: int = 3
    accept: Accept = NOTHING_AMISS
    scenarios_per_unit: int | None = None
    batch: int = 16
    resources: Resources = Resources()

    def with_options(
        self, where: str | None = None, trained_maps: bool | None = None, actors: int | None = None, **options: Any
    ) -> "Job":
        """The job with the options that are not None in place of what its file says."""
        told: dict[str, Any] = {"where": where, "trained_maps": trained_maps}
        places = replace(self.places, **{k: v for k, v in told.items() if v is not None})
        resources = self.resources if actors is None else replace(self.resources, actors=actors)
        given = {k: v for k, v in options.items() if v is not None}
        other_places = {"map": None} if "windows" in given else {}
        return replace(self, places=places, resources=resources, **other_places | given)

    def unit_size(self) -> int:
        """Scenarios per unit: as written, or from one batch in a small job to UNIT_MOST in a large one."""
        return self.scenarios_per_unit or min(max(self.batch, self.count // UNITS_LEAST), UNIT_MOST)

    def decides(self) -> dict[str, Any]:
        """All that decides what comes out, as JSON values: everything but where it is read, made and written."""
        elsewhere = ("name", "windows", "map", "model", "output", "resources")
        return {k: v for k, v in asdict(self).items() if k not in elsewhere}


def read(uri: str, map: str | None = None) -> Job:
    """The job in a YAML file; map: URI that lends the places, whatever the file says.

    Raises JobFileError (file, line, field, what is allowed) and storage.StorageError.
    """
    return parse(storage.read_bytes(uri).decode("utf-8", "replace"), uri, map)


def parse(text: str, file: str, map: str | None = None) -> Job:
    """The job in the text of a YAML file; `file` names it in errors; map: as `read`. Raises JobFileError.

    A library that it names is read.
    """
    top = read_yaml(text, file)
    default = Job("")
    sampler = top.section("sampler")
    places = top.section("places")
    windows, own_map = (places.text("windows"), places.text("map")) if places else (None, None)
    if places and windows and own_map:
        raise places.error("map", "given beside windows, expected one of them")
    written = list(library.sections(top, ChainMap(_library(top), library.shipped())))
    listed = tuple(_directive(s) for s in written) or default.directives
    if twice := [name for name, n in Counter(d.name for d in listed).items() if n > 1]:
        raise top.error("directives", f"two directives have one name, {twice[0]}; give one of them another name")
    job = Job(
        name=top.text("name") or file.rsplit("/", 1)[-1].rsplit(".", 1)[0],
        directives=listed,
        places=default.places if places is None else _places(places),
        windows=windows if map is None else None,
        map=map or own_map,
        model=top.text("model"),
        output=top.text("output"),
        count=top.count("count", default.count, high=COUNT_MOST),
        seed=top.count("seed", default.seed, low=0, high=2**62),
        min_score=top.number("min_score", default.min_score, "", 0.0, 1.0),
        attempts=top.count("attempts", default.attempts, high=100),
        accept=_accept(top.section("accept")),
        scenarios_per_unit=top.count("scenarios_per_unit", 0, low=0, high=100_000) or None,
        batch=top.count("batch", default.batch, high=4096),
        resources=_resources(top.section("resources")),
    )
    top.done()
    if places:
        places.done()
    if job.map is not None:
        _needs_no_log([*([places] if places else []), *written])
    elif places and places.has("spacing_m"):
        raise places.error("spacing_m", "is between poses on a bare map, expected a field map in places, or --map")
    if sampler:
        name = sampler.words("name", SAMPLERS, "sampler")
        if len(name) > 1:
            raise sampler.error("name", "found several, expected one sampler")
        rules = sampler.flag("rules")
        job = replace(
            job,
            sampler=name[0] if name else job.sampler,
            steps=sampler.count("steps", job.steps, high=1000),
            rules=job.rules if rules is None else rules,
        )
        sampler.done()
    return job


def _library(top: Section) -> library.Library:
    """The directives that the job names beside those that come with sdiff."""
    section = None if top.is_word("library") else top.section("library")
    if section is not None:
        uri, where = section.text("uri"), section.text("where")
        section.done()
    else:
        uri, where = top.text("library"), None
        if uri is None:
            return {}
    if uri is None:
        raise top.error("library", "has no uri, expected that of a YAML file, or of what sdiff mine wrote")
    try:
        return library.read(uri, where)
    except (query.QueryError, storage.StorageError) as error:
        raise top.error("library", str(error)) from error


def _places(section: Section) -> Places:
    limit = section.count("limit", 0, low=0)
    return Places(
        where=section.text("where"),
        limit=limit or None,
        spacing_m=section.number("spacing_m", SPACING_M, "m", 1.0, 1000.0),
        trained_maps=section.flag("trained_maps") or False,
        wanted=_wanted(section),
    )


def _wanted(section: Section) -> Wanted:
    straight = section.span("straight_ahead_m", "m", 0, 80)
    if straight and straight.low < straight.high:
        raise section.error("straight_ahead_m", "found a range, expected one number: at least so far")
    return Wanted(
        junction_ahead_m=section.span("junction_ahead_m", "m", 0, 80),
        turn=section.words("turn", TURNS, "turn"),
        lane_left=section.flag("lane_left"),
        lane_right=section.flag("lane_right"),
        oncoming=section.flag("oncoming"),
        crosswalk_ahead_m=section.span("crosswalk_ahead_m", "m", 0, 80),
        straight_ahead_m=straight.low if straight else None,
        light=section.words("light", LIGHT_WORDS, "light"),
        ego_speed_mps=section.span("ego_speed_mps", "m/s", 0, TOP_SPEED_MPS),
    )


def _needs_no_log(sections: list[Section]) -> None:
    """Raise JobFileError for a field that asks for what only logs have: here a bare map lends the places.

    sections: the job's places and its directives.
    """

    def refuse(section: Section, field: str) -> JobFileError:
        return section.error(field, "asks for a log, and a bare map has none; expected no such field here, or windows")

    for section in sections:
        for places in (section, section.section("places")):
            for name in NEED_LOG:
                if places and places.has(name):
                    raise refuse(places, name)
        if section.is_word("ego") and section.words("ego", None) == ("from_log",):
            raise refuse(section, "ego")
        for agent in section.sections("agents"):
            if agent.has("from_log"):
                raise refuse(agent, "from_log")


def _accept(section: Section | None) -> Accept:
    if section is None:
        return NOTHING_AMISS
    found = Accept(**{f.name: bool(section.flag(f.name)) for f in fields(Accept)})
    section.done()
    return found


def _resources(section: Section | None) -> Resources:
    default = Resources()
    if section is None:
        return default
    actors = section.count("actors", 1, high=10_000)
    found = Resources(
        actors=actors if section.has("actors") else None,
        gpus_per_actor=section.number("gpus_per_actor", default.gpus_per_actor, "GPUs", 0.01, 1.0),
    )
    section.done()
    return found


def _directive(section: Section) -> Directive:
    name = section.text("name")
    if name is None:
        raise section.error(None, "has no name, expected name: a word for the column `directive`")
    if not name.isprintable() or "/" in name or "\\" in name or name.startswith(".") or len(name) > NAME_LONGEST:
        rule = f"up to {NAME_LONGEST} characters, no slash, none that cannot be seen, no dot at its begin"
        raise section.error("name", f"found {name!r}, expected a name that files can have: {rule}")
    section.words("use", None)  # what it names is a part of the section already
    scene = section.section("scene")
    severity = section.section("severity")
    places = section.section("places")
    directive = Directive(
        name=name,
        ego=_ego(section),
        agents=tuple(_agent(s) for s in section.sections("agents")),
        scene=Scene() if scene is None else _scene(scene),
        severity=Severity() if severity is None else _severity(severity),
        places=ANYWHERE if places is None else _wanted(places),
    )
    section.done()
    if places is not None:
        places.done()
    if severity is not None:
        _can_be_steered(directive, severity)
    return directive


def _severity(section: Section) -> Severity:
    severity = Severity(ttc_s=section.span("ttc_s", "s", 0.0, 10.0))
    section.done()
    return severity


def _can_be_steered(directive: Directive, severity: Section) -> None:
    """Raise JobFileError where the time to collision does not follow from what the directive says."""
    if not isinstance(directive.ego, Agent) or directive.ego.speed_mps is None:
        raise severity.error(None, "needs the AV's speed, expected a field ego with speed_mps in this directive")
    if not any(isinstance(a, Agent) and _is_whole(a.pose) and a.speed_mps is not None for a in directive.agents):
        raise severity.error(
            None,
            "needs another agent, expected one under agents with speed_mps and a lane, or x_m, y_m and heading_rad",
        )


def _is_whole(pose: InWindow | OnLane | None) -> bool:
    """Whether a pose says where, and in which direction."""
    return isinstance(pose, OnLane) or (pose is not None and None not in (pose.x_m, pose.y_m, pose.heading_rad))


def _scene(section: Section) -> Scene:
    scene = Scene(
        n_agents=section.span("n_agents", "agents", 1, 200),
        moving_share=section.span("moving_share", "", 0, 1),
        mean_speed_mps=section.span("mean_speed_mps", "m/s", 0, 50),
        vru_share=section.span("vru_share", "", 0, 1),
        p_mask=section.span("p_mask", "", 0, 1),
    )
    section.done()
    return scene


def _ego(section: Section) -> Any:
    if not section.has("ego"):
        return Directive().ego
    if section.is_word("ego"):
        word = section.words("ego", ("none", "from_log"), "mapping of fields, or a word")[0]
        return None if word == "none" else "from_log"
    ego = section.section("ego")
    assert ego is not None
    what = _what(ego)
    kinds = what.pop("kinds") or AV.kinds
    agent = Agent(kinds, AT_ORIGIN, **what, end=_end(ego, starts_on_lane=False) or "free")
    ego.done()
    return agent


def _what(section: Section) -> dict[str, Any]:
    """The fields of an agent that are no pose."""
    return {
        "kinds": section.words("kind", KINDS, "kind"),
        "speed_mps": section.span("speed_mps", "m/s", 0, TOP_SPEED_MPS),
        "length_m": section.span("length_m", "m", 0.1, 40),
        "width_m": section.span("width_m", "m", 0.1, 10),
    }


def _agent(section: Section) -> Agent | LoggedAgents:
    if section.has("from_log"):
        return _logged(section)
    what = _what(section)
    pose = _pose(section)
    if isinstance(pose, OnLane) and pose.distance_m is None:
        needed = " or ".join(r for r, lanes in REFERENCES.items() if pose.lanes[0] in lanes)
        raise section.error("lane", f"lane {pose.lanes[0]} without a place on it, expected {needed}")
    agent = Agent(pose=pose, **what, end=_end(section, isinstance(pose, OnLane)))
    section.done()
    return agent


def _end(section: Section, starts_on_lane: bool) -> Any:
    if section.has("end") and section.is_word("end"):
        section.words("end", ("free",), "mapping of fields, or the word")
        return "free"
    end = section.section("end")
    if end is None:
        return None
    found = End(pose=_pose(end), speed_mps=end.span("speed_mps", "m/s", 0, TOP_SPEED_MPS))
    end.done()
    if isinstance(found.pose, OnLane) and found.pose.distance_m is None and not section.has("speed_mps"):
        raise end.error("lane", "how far the agent gets is open, expected ahead_m here or speed_mps at its start")
    return found


def _pose(section: Section) -> InWindow | OnLane | None:
    window = {
        "x_m": section.span("x_m", "m", -HALF_M, HALF_M),
        "y_m": section.span("y_m", "m", -HALF_M, HALF_M),
        "heading_rad": section.span("heading_rad", "rad", -2 * math.pi, 2 * math.pi),
    }
    lanes = section.words("lane", LANES, "lane")
    distances = {r: section.span(r, "m", -2 * HALF_M, 2 * HALF_M) for r in REFERENCES}
    lateral = section.span("lateral_m", "m", -20, 20)
    facing = section.words("facing", tuple(FACING), "direction")
    if len(facing) > 1:
        raise section.error("facing", "found several, expected one direction")
    given = [k for k, v in window.items() if v is not None]
    along = [r for r, v in distances.items() if v is not None]
    if not lanes:
        for name, value in (*distances.items(), ("lateral_m", lateral), ("facing", facing or None)):
            if value is not None:
                raise section.error(name, f"is measured along a lane, expected a field lane: one of {', '.join(LANES)}")
        return InWindow(**window) if given else None
    if given:
        raise section.error(given[0], f"given beside lane {lanes[0]}, expected either lane or {', '.join(window)}")
    if len(along) > 1:
        raise section.error(along[1], f"given beside {along[0]}, expected one of them")
    reference = along[0] if along else "ahead_m"
    for lane in lanes:
        if along and lane not in REFERENCES[reference]:
            allowed = ", ".join(r for r, lanes_with in REFERENCES.items() if lane in lanes_with)
            raise section.error(reference, f"has no meaning on lane {lane}, expected {allowed}")
    return OnLane(lanes, reference, distances[reference], lateral or Span(0.0, 0.0), facing[0] if facing else None)


def _logged(section: Section) -> LoggedAgents:
    share = section.span("share", "", 0, 1) or Span(1.0, 1.0)
    kinds = section.words("kinds", KINDS, "kind")
    if section.is_word("from_log"):
        section.words("from_log", ("place",), "mapping with window_id and agents, or the word")
        found = LoggedAgents(None, (), kinds, share)
    else:
        log = section.section("from_log")
        assert log is not None
        window_id = log.text("window_id")
        if window_id is None:
            raise log.error("window_id", "is missing, expected the id of a window of the table")
        found = LoggedAgents(window_id, log.words("agents", None, "agent id"), kinds, share)
        log.done()
    section.done()
    return found


__all__ = ["Job", "JobFileError", "Places", "Resources", "parse", "read"]
