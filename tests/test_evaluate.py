"""The evaluation sets generated scenarios beside the logs and beside pasted logs, place by place."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from synthetic import road_map
from traffic import logged, traffic

import schemas
from pipelines import evaluate
from sdiff import tables
from sdiff.columns import agents_to_arrow, scene_tokens_to_arrow, tokens_to_arrow
from sdiff.logs.driving_log import FEATURE_KINDS, LANE_TYPES
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, Agents, AgentTokens, SceneToken

ROAD_ANGLE_RAD = 0.5


def fill(name: str, columns: dict[str, Any]) -> pa.Table:
    """A table of the schema `name`: the given columns, and something harmless in all others."""
    schema = schemas.arrow_schema(name)
    n = len(next(iter(columns.values())))
    plain = {pa.string(): "x", pa.bool_(): False, pa.binary(): b""}
    made = {}
    for f in schema:
        if f.name in columns:
            values = columns[f.name]
            made[f.name] = values if isinstance(values, pa.Array) else pa.array(values, f.type)
        elif pa.types.is_struct(f.type):
            made[f.name] = pa.array([{m.name: [] for m in f.type}] * n, f.type)
        else:
            made[f.name] = pa.array([[] if pa.types.is_list(f.type) else plain.get(f.type, 0)] * n, f.type)
    return pa.table(made, schema=schema)


def write_maps(uri: Path) -> None:
    """The made-up road of both lanes, turned by ROAD_ANGLE_RAD and moved, as table maps."""
    road = road_map()
    c, s = np.cos(ROAD_ANGLE_RAD), np.sin(ROAD_ANGLE_RAD)
    points = [road.points(f) @ np.array([[c, s], [-s, c]]) + (1000.0, 2000.0) for f in range(len(road.kind))]
    rows = {
        "map_id": ["road"] * len(points),
        "feature_id": road.feature_id.tolist(),
        "kind": [FEATURE_KINDS[k] for k in road.kind],
        "x_m": [p[:, 0].tolist() for p in points],
        "y_m": [p[:, 1].tolist() for p in points],
        "lane_type": [LANE_TYPES[t] if t >= 0 else None for t in road.lane_type],
        "width_m": [None if np.isnan(w) else float(w) for w in road.width_m],
    }
    tables.write(fill("maps", rows), "maps", str(uri), "road")


def write_windows(
    uri: Path, scenes: dict[str, Agents], split: str = "val", name: str = "part", t0_s: int = 0, ahead_m: float = 0.0
) -> None:
    """Windows at the middle of the road or ahead of it, along it; one log each."""
    bev = np.zeros((len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS), np.uint8)
    bev[0, :, 119:137] = 255  # |y| < 3.5 m
    n = len(scenes)
    rows = {
        "window_id": list(scenes),
        "log_id": [f"log of {w}" for w in scenes],
        "map_id": ["road"] * n,
        "split": [split] * n,
        "t0_us": [t0_s * 1_000_000] * n,
        "origin_x_m": [1000.0 + ahead_m * np.cos(ROAD_ANGLE_RAD)] * n,
        "origin_y_m": [2000.0 + ahead_m * np.sin(ROAD_ANGLE_RAD)] * n,
        "origin_heading_rad": [ROAD_ANGLE_RAD] * n,
        "n_agents": [len(a) for a in scenes.values()],
        "map_bev": [bev.tobytes()] * n,
        "agents": agents_to_arrow([logged(a) for a in scenes.values()], generated=False),
        "scene_token": scene_tokens_to_arrow([SceneToken()] * n),
    }
    tables.write(fill("windows", rows), "windows", str(uri), name)


def write_scenarios(uri: Path, scenes: list[tuple[str | None, Agents, AgentTokens]], name: str = "part") -> None:
    """Scenarios, each with the window that lends its place."""
    n = len(scenes)
    generated = [
        replace(a, score=np.ones(len(a), np.float32), token_index=np.full(len(a), -1, np.int32)) for _, a, _ in scenes
    ]
    rows = {
        "scenario_id": [f"{name} {i}" for i in range(n)],
        "window_id": [w for w, _, _ in scenes],
        "n_agents": [len(a) for a in generated],
        "agents": agents_to_arrow(generated, generated=True),
        "tokens": tokens_to_arrow([t for _, _, t in scenes]),
        "scene_token": scene_tokens_to_arrow([SceneToken()] * n),
    }
    tables.write(fill("scenarios", rows), "scenarios", str(uri), name)


FREE = AgentTokens.unspecified(0)


def queue(n: int, speed_mps: float = 5.0, first_m: float = 0.0) -> Agents:
    """Cars 8 m apart on the forward lane."""
    return traffic(first_m - 8.0 * np.arange(n), np.full(n, -1.75), 0.0, speed_mps)


def crash(n: int) -> Agents:
    """Cars that stand across the road beside it, the first two in each other."""
    return traffic(np.r_[0.0, 0.5, 10.0 * np.arange(1, n - 1)], np.full(n, -9.0), np.pi / 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_maps(tmp_path)
    write_windows(tmp_path, {"a": queue(4), "b": queue(5, 8.0)})
    write_windows(tmp_path, {"t": crash(4)}, "train", "train")
    return tmp_path


def test_the_logs_own_agents_score_as_the_logs_do_and_a_crash_does_not(data: Path) -> None:
    write_scenarios(data, [("a", queue(4), FREE), ("b", queue(5, 8.0), FREE)])
    result = evaluate.run(str(data), str(data), str(data / "out"))
    generated, logs, paste = (result["columns"][c] for c in ("generated", "logs", "paste"))
    for key, value in logs.items():
        if value is not None:
            assert generated[key] == value, key
    assert generated["agents"] == generated["agents.car"] == 4.5
    assert generated["agents_error"] == 0 and paste["agents_error"] == 0.5
    assert generated["drivable_share"] == generated["on_lane_share"] == 1
    assert generated["lane_heading_error_rad"] == pytest.approx(0, abs=1e-5)
    assert generated["collision"] == generated["has_collision"] == 0
    assert paste["drivable_share"] == 0 and paste["on_lane_share"] == 0
    assert paste["lane_heading_error_rad"] is None
    assert paste["collision_t0"] == paste["collision"] == 0.5 and paste["has_collision"] == 1
    for feature in ("position", "heading", "velocity"):
        assert generated[f"mmd2.{feature}"] < 0.01 < paste[f"mmd2.{feature}"]
    assert result["columns"]["replay"] == {**paste, "unlike": result["columns"]["replay"]["unlike"]}
    along = result["columns"]["lanes"]
    assert along["on_lane_share"] == 1 and along["lane_heading_error_rad"] == pytest.approx(0, abs=1e-6)
    assert result["baselines_from"] == {"split": "train", "windows": 1}
    assert json.loads((data / "out" / "evaluation.json").read_bytes()) == result


def test_tokens_are_matched_in_all_columns(data: Path) -> None:
    asked = AgentTokens.unspecified(2)
    asked.x_m[:], asked.y_m[:], asked.speed_mps[:] = [0.0, -9.0], [-1.75, -1.75], [5.0, 3.0]
    write_scenarios(data, [("a", queue(2), asked)])
    columns = evaluate.run(str(data), str(data))["columns"]
    generated, logs, paste = (columns[c] for c in ("generated", "logs", "paste"))
    assert generated["token_match"] == logs["token_match"] == 1 and paste["token_match"] == 0
    assert generated["token_speed_error_mps"] == pytest.approx(1.0)
    assert generated["token_end_speed_error_mps"] is None and paste["token_speed_error_mps"] is None


def test_places_count_as_often_as_they_have_scenarios(data: Path) -> None:
    write_scenarios(data, [("a", queue(4), FREE)] * 3 + [("b", queue(4), FREE)])
    logs = evaluate.run(str(data), str(data))["columns"]["logs"]
    assert logs["agents"] == pytest.approx((3 * 4 + 5) / 4)


def test_the_answer_does_not_depend_on_how_many_places_are_held_at_once(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenarios(data, [("a", queue(4), FREE), ("b", crash(4), FREE)])
    whole = evaluate.run(str(data), str(data))
    monkeypatch.setattr(evaluate, "PLACES_AT_ONCE", 1)
    assert evaluate.run(str(data), str(data)) == whole


def test_scenarios_without_their_window_are_counted_and_a_table_of_them_is_an_error(data: Path) -> None:
    write_scenarios(data, [("a", queue(4), FREE), (None, queue(4), FREE), ("elsewhere", queue(4), FREE)])
    result = evaluate.run(str(data), str(data))
    assert result["n_scenarios"] == 1
    assert result["skipped"] == {"place on a bare map": 1, "window not in the table": 1}
    other = data / "other"
    write_scenarios(other, [("elsewhere", queue(4), FREE)])
    with pytest.raises(
        tables.TableError, match=r"none of the 1 scenarios .* \(for instance elsewhere\); pass the windows"
    ):
        evaluate.run(str(other), str(data))
    with pytest.raises(tables.TableError, match="no table scenarios"):
        evaluate.run(str(data / "nowhere"), str(data))


def test_a_limit_draws_scenarios_by_the_seed(data: Path) -> None:
    write_scenarios(data, [("a", queue(1 + i), FREE) for i in range(6)])
    means = {seed: evaluate.run(str(data), str(data), seed=seed, limit=2) for seed in range(4)}
    assert all(r["n_scenarios"] == 2 for r in means.values())
    assert len({r["columns"]["generated"]["agents"] for r in means.values()}) > 1
    assert evaluate.run(str(data), str(data), seed=3, limit=2) == means[3]


def test_scenes_without_agents_are_measured(data: Path) -> None:
    write_scenarios(data, [("a", queue(1).take(np.zeros(1, bool)), FREE)])
    generated = evaluate.run(str(data), str(data))["columns"]["generated"]
    assert generated["agents"] == 0 and generated["agents_error"] == 4
    assert generated["drivable_share"] is None and generated["collision"] is None


def test_the_same_place_at_another_time_is_another_draw(data: Path) -> None:
    write_windows(data, {"later": queue(4, first_m=-1.0)}, name="later", t0_s=60, ahead_m=1.0)
    write_windows(data, {"soon": crash(4)}, name="soon", t0_s=30)
    write_windows(data, {"far": crash(4)}, name="far", t0_s=90, ahead_m=5.0)
    write_scenarios(data, [("a", crash(4), FREE)])
    result = evaluate.run(str(data), str(data))
    again = result["columns"]["again"]
    assert result["n_places_again"] == 1
    assert again["agents"] == 4 and again["collision"] == 0 and again["agents_error"] == 0
    assert again["unlike"] == 0 and again["mmd2.position"] < 0.01


def test_scenarios_of_one_directive_and_place_are_compared_with_each_other(data: Path) -> None:
    write_scenarios(data, [("a", queue(4), FREE), ("a", queue(4), FREE), ("b", queue(4), FREE)])
    assert evaluate.run(str(data), str(data))["columns"]["generated"]["unlike"] == 0
    other = data / "other"
    write_scenarios(other, [("a", queue(4), FREE), ("a", crash(4), FREE)])
    assert evaluate.run(str(other), str(data))["columns"]["generated"]["unlike"] == 1


def test_the_table_has_a_line_per_measure_and_no_kinds_that_nobody_has(data: Path) -> None:
    write_scenarios(data, [("a", queue(4), FREE)])
    console = Console(width=80, record=True)
    console.print(evaluate.table(evaluate.run(str(data), str(data))))
    text = console.export_text()
    assert "pasted" in text and "lane-heading error" in text and "car" in text
    assert "motorcyclist" not in text
    assert "…" not in text  # nothing is cut on a terminal of 80 columns
