"""Directives by name: what a job says over them, where they come from, and what errors say."""

from pathlib import Path

import pyarrow as pa
import pytest
from crossroads import crossroads

import schemas
from sdiff import tables
from sdiff.directives import library
from sdiff.directives.directive import Directive, fits
from sdiff.directives.job import JobFileError, parse
from sdiff.geometry import SE2
from sdiff.maps.lanes import LaneGraph
from sdiff.maps.places import Place
from sdiff.span import Span

GRAPH = LaneGraph(crossroads())
PAGE = Path(__file__).parents[1] / "docs" / "directives.md"


def directives(text: str) -> list[Directive]:
    return list(parse(text, "job.yaml").directives)


def test_every_directive_that_comes_with_sdiff_has_a_place_on_a_crossroads() -> None:
    along = [Place(lambda: GRAPH, SE2(x, y, 0.0), 8.0) for x in range(-60, 60, 2) for y in (-1.75, -5.25)]
    across = [Place(lambda: GRAPH, SE2(24.0, y, 1.5708), 8.0) for y in range(-80, 60, 2)]
    without = {
        d.name
        for d in directives('directives: ["*"]')
        if not any(
            all(d.places.holds(n, p) for n in d.places.asked() if n != "light") and fits(d, p) for p in along + across
        )
    }
    assert without == set()


def test_every_one_is_on_the_page_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("### The library\n")[2].partition("\n### ")[0]
    listed = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert listed == list(library.shipped())


def test_a_name_alone_is_the_directive_of_the_library() -> None:
    assert directives("directives: [cut_in]") == directives("directives: [{use: cut_in}]")
    (cut_in,) = directives("directives: [cut_in]")
    assert cut_in.name == "cut_in" and cut_in.places.straight_ahead_m == 40.0


def test_what_a_job_says_stands_over_what_the_library_says() -> None:
    text = "{use: cut_in, name: b, ego: {length_m: 5}, agents: [{kind: bus, lane: left}], severity: {ttc_s: [1, 2]}}"
    (base,), (own,) = directives("directives: [cut_in]"), directives(f"directives: [{text}]")
    (agent,), (before,) = own.agents, base.agents
    assert (own.name, own.severity.ttc_s, own.places) == ("b", Span(1, 2), base.places)
    assert own.ego.length_m == Span(5, 5) and own.ego.speed_mps == base.ego.speed_mps  # type: ignore[union-attr]
    assert agent.kinds == ("bus",) and agent.pose.lanes == ("left",)  # type: ignore[union-attr]
    assert agent.pose.distance_m == before.pose.distance_m  # type: ignore[union-attr]
    assert (agent.end, agent.speed_mps) == (before.end, before.speed_mps)  # type: ignore[union-attr]


def test_null_takes_a_field_away_and_more_agents_come_behind() -> None:
    text = "{use: cut_in, agents: [{ahead_m: null, junction_m: -5}, {kind: car, lane: ego, ahead_m: 30}]}"
    (own,) = directives(f"directives: [{text}]")
    assert [a.pose.reference for a in own.agents] == ["junction_m", "ahead_m"]  # type: ignore[union-attr]
    (slow,) = directives("directives: [{use: close_cut_in, severity: null}]")
    assert slow.severity.ttc_s is None


def test_a_pattern_stands_for_all_that_it_matches() -> None:
    names = [d.name for d in directives('directives: ["*cut_in", stopped_car]')]
    assert names == ["cut_in", "close_cut_in", "stopped_car"]
    fast = directives('directives: [{use: "*cut_in", ego: {speed_mps: 12}}]')
    assert {d.ego.speed_mps for d in fast} == {Span(12, 12)}  # type: ignore[union-attr]


OWN = "directives:\n  - {name: mine, agents: [{kind: bus, lane: ego, ahead_m: 20}]}\n"


def test_a_file_of_ones_own_is_a_library(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(OWN)
    (mine,) = directives(f"library: {file}\ndirectives: [mine]")
    assert mine == parse(OWN, "x.yaml").directives[0]
    file.write_text(OWN.replace("kind: bus", "kind: buss"))
    with pytest.raises(
        JobFileError, match=rf"{file}:2: directives\[0\]\.agents\[0\]\.kind: found 'buss' \(did you mean bus"
    ):
        directives(f"library: {file}\ndirectives: [mine]")


@pytest.fixture
def mined(tmp_path: Path) -> str:
    """A table directives of two cut-ins and a tailgater, with their times to collision."""
    schema = schemas.arrow_schema("directives")
    found = {"cut_in-1": 1.0, "cut_in-2": 4.0, "tailgating-3": 2.0}
    blank = {f.name: "" if pa.types.is_string(f.type) else None if f.nullable else True for f in schema}
    rows = [
        blank | {"name": n, "kind": n.split("-")[0], "min_ttc_s": s, "directive": OWN.replace("mine", n)}
        for n, s in found.items()
    ]
    tables.write(pa.Table.from_pylist(rows, schema=schema), "directives", str(tmp_path), "a")
    return str(tmp_path)


def test_what_was_mined_is_a_library(mined: str) -> None:
    def names(where: str, use: str) -> list[str]:
        return [d.name for d in directives(f"library: {{uri: {mined}, where: {where!r}}}\ndirectives: [{use}]")]

    assert names("min_ttc_s < 3", "'*-*'") == ["cut_in-1", "tailgating-3"]
    assert names("true", "'cut_in-*', stopped_car") == ["cut_in-1", "cut_in-2", "stopped_car"]
    with pytest.raises(JobFileError, match=r"job\.yaml:1: library: .*no_such_column"):
        names("no_such_column", "cut_in")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("directives: [cut_inn]", ["job.yaml:1: directives[0].use", "'cut_inn'", "did you mean cut_in?", "jaywalker"]),
        ("directives: [cut_in, cut_in]", ["two directives have one name, cut_in"]),
        ('directives: [{use: "*cut_in", name: a}]', ["directives[0].name", "use stands for 2"]),
        ("directives:\n  - use: cut_in\n    agents: [{junction_m: 3}]", ["job.yaml:3", "beside ahead_m"]),
        ("directives: [{use: cut_in, ego: {a: 1, a: 2}}]", ["given twice"]),
        ("directives: [{use: cut_in, places: {where: a}}]", ["directives[0].places.where: unknown field", "light"]),
        ("library: {where: a}", ["job.yaml:1: library: has no uri"]),
        ("library: no/where.yaml", ["job.yaml:1: library: cannot read no/where.yaml"]),
        ("places: {map: m}\ndirectives: [red_light_runner]", ["library.yaml:", "places.light: asks for a log"]),
    ],
)
def test_an_error_names_file_line_and_field(text: str, says: list[str]) -> None:
    with pytest.raises(JobFileError) as error:
        parse(text, "job.yaml")
    for part in says:
        assert part in str(error.value)
