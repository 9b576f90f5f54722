"""JSON Schema of job files, so that editors complete and check them while they are written.

It says which fields there are and what each may hold; what fields must not stand together, only `job.read` says.
"""

from dataclasses import fields
from typing import Any

from sdiff import KINDS, WINDOW_M
from sdiff.directives.directive import FACING, LANES, REFERENCES
from sdiff.directives.job import COUNT_MOST, NAME_LONGEST, SAMPLERS, TOP_SPEED_MPS
from sdiff.directives.judging import Accept
from sdiff.maps.lanes import TURNS
from sdiff.maps.places import LIGHT_WORDS

Schema = dict[str, Any]

HALF_M = WINDOW_M / 2
FLAG: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string", "minLength": 1}


def job_schema() -> Schema:
    """The schema, JSON Schema draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sdiff job",
        "description": "What sdiff generate makes; see docs/directives.md",
        **_mapping(
            name=TEXT,
            library={"anyOf": [TEXT, {**_mapping(uri=TEXT, where=TEXT), "required": ["uri"]}]},
            places=_places(),
            directives={"type": "array", "minItems": 1, "items": {"anyOf": [TEXT, _directive()]}},
            model=TEXT,
            output=TEXT,
            count=_whole(1, COUNT_MOST),
            seed=_whole(0, 2**62),
            sampler=_mapping(name={"enum": list(SAMPLERS)}, steps=_whole(1, 1000), rules=FLAG),
            min_score=_number(0.0, 1.0),
            attempts=_whole(1, 100),
            accept=_mapping(**{f.name: FLAG for f in fields(Accept)}),
            scenarios_per_unit=_whole(0, 100_000),
            batch=_whole(1, 4096),
            resources=_mapping(actors=_whole(1, 10_000), gpus_per_actor=_number(0.01, 1.0)),
        ),
    }


def _places() -> Schema:
    return _mapping(
        windows=TEXT,
        map=TEXT,
        spacing_m=_number(1.0, 1000.0),
        where=TEXT,
        trained_maps=FLAG,
        limit=_whole(0, 10**9),
        **_wanted(),
    )


def _wanted() -> Schema:
    ahead = _span(0, 80)
    return {
        "junction_ahead_m": ahead,
        "turn": _words(TURNS),
        "lane_left": FLAG,
        "lane_right": FLAG,
        "oncoming": FLAG,
        "crosswalk_ahead_m": ahead,
        "straight_ahead_m": _number(0, 80),
        "light": _words(LIGHT_WORDS),
        "ego_speed_mps": _span(0, TOP_SPEED_MPS),
    }


def _directive() -> Schema:
    what = {
        "kind": _words(KINDS),
        "speed_mps": _span(0, TOP_SPEED_MPS),
        "length_m": _span(0.1, 40),
        "width_m": _span(0.1, 10),
    }
    pose = {
        "x_m": _span(-HALF_M, HALF_M),
        "y_m": _span(-HALF_M, HALF_M),
        "heading_rad": _span(-6.284, 6.284),
        "lane": _words(LANES),
        **{reference: _span(-WINDOW_M, WINDOW_M) for reference in REFERENCES},
        "lateral_m": _span(-20, 20),
        "facing": {"enum": list(FACING)},
    }
    end = {"anyOf": [{"const": "free"}, _mapping(**pose, speed_mps=what["speed_mps"])]}
    log = _mapping(window_id=TEXT, agents=_words(None))
    taken = _mapping(from_log={"anyOf": [{"const": "place"}, log]}, kinds=_words(KINDS), share=_span(0, 1))
    directive = _mapping(
        name={"type": "string", "minLength": 1, "maxLength": NAME_LONGEST, "pattern": r"^[^./\\][^/\\]*$"},
        use=_words(None),
        places=_mapping(**_wanted()),
        ego={"anyOf": [{"enum": ["none", "from_log"]}, _mapping(**what, end=end)]},
        agents={"type": "array", "items": {"anyOf": [_mapping(**what, **pose, end=end), taken]}},
        scene=_mapping(
            n_agents=_span(1, 200),
            moving_share=_span(0, 1),
            mean_speed_mps=_span(0, 50),
            vru_share=_span(0, 1),
            p_mask=_span(0, 1),
        ),
        severity=_mapping(ttc_s=_span(0, 10)),
    )
    return {**directive, "anyOf": [{"required": ["name"]}, {"required": ["use"]}]}


def _mapping(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def _whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _span(low: float, high: float) -> Schema:
    """A number, or a range [a, b]."""
    number = _number(low, high)
    return {"anyOf": [number, {"type": "array", "items": number, "minItems": 2, "maxItems": 2}]}


def _words(allowed: tuple[str, ...] | None) -> Schema:
    """One word, or several of which any will do."""
    word: Schema = TEXT if allowed is None else {"enum": list(allowed)}
    return {"anyOf": [word, {"type": "array", "items": word, "minItems": 1}]}
