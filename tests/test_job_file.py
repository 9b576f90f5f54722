"""Job files: what may stand in them, and what an error says."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from sdiff.directives.directive import Agent, Directive, End, LoggedAgents, OnLane
from sdiff.directives.job import JobFileError, Resources, parse, read
from sdiff.directives.judging import Accept
from sdiff.span import Span

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "job.schema.json").read_text())
EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.yaml"))
OF_MINE = [e for e in EXAMPLES if e.stem == "mined"]
"""Needs what sdiff mine wrote: test_mine.py reads it."""


def agent(text: str) -> str:
    return f"directives:\n  - name: d\n    agents:\n      - {{{text}}}\n"


def first_agent(text: str) -> Agent | LoggedAgents:
    return parse(agent(text), "job.yaml").directives[0].agents[0]


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e not in OF_MINE], ids=lambda p: p.stem)
def test_every_example_is_a_job_named_as_its_file(example: Path) -> None:
    job = read(str(example))
    assert job.name == example.stem
    assert job.windows is None and job.output is None, "an example runs on any windows table"


def test_the_examples_are_those_the_readme_speaks_of() -> None:
    assert {e.stem for e in EXAMPLES} >= {"free", "bus_turns_right", "cut_in", "stopped_car", "pedestrian"}


def test_an_empty_mapping_is_the_free_job() -> None:
    job = parse("{}", "some/where/free.yaml")
    assert job.name == "free"
    assert job.directives == (Directive(),)


def test_options_override_the_file() -> None:
    job = parse("count: 5\nseed: 3\n", "job.yaml").with_options(count=7, seed=None)
    assert (job.count, job.seed) == (7, 3)


def test_what_decides_a_job_is_not_where_it_is_written() -> None:
    job = parse("count: 5", "job.yaml")
    assert job.decides() == job.with_options(output="s3://elsewhere", windows="x").decides()
    assert job.decides() != job.with_options(seed=1).decides()


def test_what_a_job_runs_on_is_in_its_file_and_decides_nothing() -> None:
    job = parse("resources: {actors: 3, gpus_per_actor: 0.5}", "job.yaml")
    assert job.resources == Resources(3, 0.5)
    assert job.with_options(actors=7).resources == Resources(7, 0.5)
    assert job.decides() == parse("{}", "job.yaml").decides()
    assert job.decides() != parse("batch: 8", "job.yaml").decides(), "other batches give other bits"
    assert parse("resources: {gpus_per_actor: 0.5}", "job.yaml").resources.actors is None


def test_nothing_amiss_is_accepted_unless_the_job_says_so() -> None:
    assert parse("count: 5", "job.yaml").accept == Accept(False, False, False, False)
    job = parse("accept: {off_road: true, unfulfilled: false}", "job.yaml")
    assert job.accept == Accept(off_road=True)
    with pytest.raises(JobFileError, match=r"job\.yaml:1: accept\.collisions: unknown field; did you mean collision\?"):
        parse("accept: {collisions: true}", "job.yaml")


SLOWER = "agents:\n      - {lane: ego, ahead_m: 20, speed_mps: [2, 5]}\n"


def test_a_severity_needs_speeds_to_follow_from() -> None:
    directive = "directives:\n  - name: d\n    severity: {ttc_s: [1.0, 1.5]}\n    "
    assert parse(f"{directive}ego: {{speed_mps: 8}}\n    {SLOWER}", "j.yaml").directives[0].severity.ttc_s == (1.0, 1.5)
    with pytest.raises(JobFileError, match=r"j\.yaml:3: directives\[0\]\.severity: needs the AV's speed"):
        parse(f"{directive}{SLOWER}", "j.yaml")
    with pytest.raises(JobFileError, match=r"j\.yaml:3: directives\[0\]\.severity: needs another agent"):
        parse(f"{directive}ego: {{speed_mps: 8}}\n", "j.yaml")


def test_words_numbers_and_ranges_are_read() -> None:
    bus = first_agent("kind: bus, lane: [left, right], ahead_m: [5, 10], speed_mps: 3, end: {lane: ego}")
    assert bus == Agent(
        ("bus",),
        OnLane(("left", "right"), "ahead_m", Span(5.0, 10.0)),
        Span(3.0, 3.0),
        end=End(OnLane(("ego",))),
    )
    assert first_agent("from_log: place, share: 0.5, kinds: [bus]") == LoggedAgents(None, (), ("bus",), Span(0.5, 0.5))
    assert first_agent("from_log: {window_id: w, agents: ['7']}") == LoggedAgents("w", ("7",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seeds: 3\n", ["job.yaml:1: seeds: unknown field", "did you mean seed?", "count"]),
        ("name: x\nplaces:\n  juction_ahead_m: 3\n", ["job.yaml:3: places.juction_ahead_m", "junction_ahead_m?"]),
        ("places:\n  turn: rihgt\n", ["job.yaml:2: places.turn", "'rihgt'", "did you mean right?", "straight"]),
        ("places:\n  junction_ahead_m: [30, 5]\n", ["job.yaml:2", "[30, 5]", "range [a, b] in m"]),
        (agent("kind: lorry"), ["job.yaml:4: directives[0].agents[0].kind", "'lorry'", "truck", "pedestrian"]),
        (agent("speed_kmh: 30"), ["job.yaml:4: directives[0].agents[0].speed_kmh: unknown field", "speed_mps"]),
        (agent("speed_mps: 30 km/h"), ["job.yaml:4", "speed_mps", "'30 km/h'", "in m/s"]),
        (agent("speed_mps: 130"), ["job.yaml:4", "found 130", "m/s", "70"]),
        (agent("x_m: 80, y_m: 0"), ["job.yaml:4", "x_m", "-50.0 to 50.0"]),
        (agent("ahead_m: 5"), ["job.yaml:4", "ahead_m", "lane"]),
        (agent("lane: ego"), ["job.yaml:4", "lane ego", "ahead_m or junction_m"]),
        (agent("lane: crossing_from_left, ahead_m: 3"), ["job.yaml:4", "ahead_m", "crossing_m"]),
        (agent("lane: ego, ahead_m: 5, junction_m: 3"), ["junction_m", "beside ahead_m"]),
        (agent("lane: ego, ahead_m: 5, x_m: 3"), ["x_m", "beside lane ego"]),
        (agent("lane: ego, ahead_m: 5, end: {lane: left}"), ["end.lane", "speed_mps"]),
        (agent("from_log: {agents: ['3']}"), ["from_log.window_id", "missing"]),
        ("count: many\n", ["job.yaml:1: count", "'many'", "whole number"]),
        ("sampler: {rules: maybe}\n", ["job.yaml:1: sampler.rules", "'maybe'", "true or false"]),
        ("sampler: {name: ddim}\n", ["job.yaml:1: sampler.name", "'ddim'", "dpmpp2m"]),
        ("resources: {gpus_per_actor: 2}\n", ["job.yaml:1: resources.gpus_per_actor", "found 2", "[0.01, 1.0]"]),
        ("resources: {actors: 0}\n", ["job.yaml:1: resources.actors", "found 0", "from 1 to"]),
        ("resources: {gpus: 1}\n", ["resources.gpus: unknown field", "gpus_per_actor"]),
        ("count: 3\nseed: 1\ncount: 4\n", ["job.yaml:3", "given twice", "line 1"]),
        ("directives:\n  - ego: none\n", ["job.yaml:2: directives[0]", "name"]),
        ("directives:\n  - {name: a, ego: nobody}\n", ["job.yaml:2", "ego", "'nobody'", "from_log"]),
        ("count: [\n", ["job.yaml:", "not YAML"]),
        ("", ["job.yaml:1", "empty", "examples/"]),
        ("- a\n", ["job.yaml:1", "mapping"]),
    ],
)
def test_an_error_names_file_line_field_and_what_is_allowed(text: str, says: list[str]) -> None:
    with pytest.raises(JobFileError) as error:
        parse(text, "job.yaml")
    for part in says:
        assert part in str(error.value)


def test_a_job_follows_the_rules_unless_it_says_otherwise() -> None:
    assert parse("name: a\n", "job.yaml").rules
    assert parse("sampler: {steps: 30}\n", "job.yaml").rules
    assert not parse("sampler: {rules: false}\n", "job.yaml").rules


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_the_published_schema_takes_every_example(example: Path) -> None:
    assert list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(yaml.safe_load(example.read_text()))) == []


@pytest.mark.parametrize(
    "text",
    [
        "cuont: 5",
        "count: 0",
        "accept: {collisions: true}",
        "places: {turn: wright}",
        "sampler: {name: dpm}",
        "resources: {actors: 0}",
        "resources: {gpus_per_actor: 2}",
        "directives: [{agents: []}]",
        agent("kind: tram"),
        agent("lane: ego, ahead_m: [1, 2, 3]"),
        agent("speed_mps: fast"),
        agent("lane: ego, ahead_m: 5, end: stop"),
    ],
)
def test_what_the_schema_refuses_is_refused_in_a_job_too(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), SCHEMA)
    with pytest.raises(JobFileError):
        parse(text, "job.yaml")


def test_the_schema_knows_every_field_that_a_job_file_may_have() -> None:
    with pytest.raises(JobFileError) as error:
        parse("nothing: 1", "job.yaml")
    allowed = str(error.value).split("Allowed: ")[1].split(", ")
    assert set(allowed) == set(SCHEMA["properties"])
    with pytest.raises(JobFileError) as error:
        parse(agent("nothing: 1"), "job.yaml")
    of_directive = SCHEMA["properties"]["directives"]["items"]["anyOf"][1]["properties"]
    of_agent = of_directive["agents"]["items"]["anyOf"][0]["properties"]
    assert set(str(error.value).split("Allowed: ")[1].split(", ")) == set(of_agent)
