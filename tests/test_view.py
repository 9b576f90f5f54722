"""Pictures say what the scene holds: forward is up, left is left, the AV is red."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import schemas
from sdiff import storage, tables, view
from sdiff.geometry import SE2
from sdiff.scene import MAP_CHANNELS
from sdiff.view import canvas, draw, pictures, plots, sheet
from tests.test_query import agents_of, scenario_rows, window_rows

HERE = SE2(0.0, 0.0, 0.0)


def map_rows(features: list[dict[str, Any]]) -> pa.Table:
    """Rows of table maps; `xy` holds the vertices, the rest are nulls and empty lists."""
    schema = schemas.arrow_schema("maps")
    rows = []
    for i, feature in enumerate(features):
        x, y = np.asarray(feature["xy"], float).T.tolist()
        empty: dict[str, Any] = {
            f.name: None if f.nullable else [] if pa.types.is_list(f.type) else False for f in schema
        }
        rows.append({**empty, "map_id": "x", "feature_id": str(i), **feature, "x_m": x, "y_m": y})
    return pa.Table.from_pylist([{f.name: r[f.name] for f in schema} for r in rows], schema=schema)


def where(image: Image.Image, colour: canvas.Colour, tolerance: int = 24) -> np.ndarray:
    """(row, column) of the pixels of one colour, (n, 2)."""
    return np.argwhere(np.abs(np.asarray(image, int) - colour).max(-1) <= tolerance)


def placed(x_m: float, y_m: float, kind: str = "car", ego: bool = True):
    """One agent that stands at a point, heading forward."""
    agents = agents_of([kind], 0.0)
    agents.x_m[:] = x_m
    agents.y_m[:] = y_m
    agents.is_ego[:] = ego
    return agents


@pytest.mark.parametrize(("x_m", "y_m"), [(30.0, 0.0), (-30.0, 20.0), (0.0, -40.0)])
def test_forward_is_up_and_left_is_left(x_m, y_m):
    picture = draw.scene(None, HERE, placed(x_m, y_m), size_px=400)
    row, column = where(picture, canvas.EGO).mean(0) + 0.5
    assert row == pytest.approx((50 - x_m) * 4, abs=4)
    assert column == pytest.approx((50 - y_m) * 4, abs=4)


def test_a_box_covers_its_true_size():
    picture = draw.scene(None, HERE, placed(20.0, 10.0), size_px=640)
    corners = where(picture, canvas.EGO)
    height, width = (np.ptp(corners, axis=0) + 1) / 6.4
    assert height == pytest.approx(4.5, abs=0.35)
    assert width == pytest.approx(1.9, abs=0.35)


def test_the_av_is_red_the_directed_orange_the_others_neither():
    agents = agents_of(["car", "bus", "car"])
    plain, directed = (draw.scene(None, HERE, agents, orange=o) for o in (set(), {1}))
    assert len(where(plain, canvas.EGO)) > 100
    assert not len(where(plain, canvas.DIRECTED))
    assert len(where(directed, canvas.DIRECTED)) > 100
    assert len(where(directed, canvas.VEHICLE)) > 100


@pytest.mark.parametrize("kind", ["pedestrian", "cyclist"])
def test_road_users_without_a_car_stay_visible_in_a_small_picture(kind):
    agents = placed(10.0, 10.0, kind, ego=False)
    agents.length_m[:], agents.width_m[:] = 0.6, 0.5
    colour = {"pedestrian": canvas.PEDESTRIAN, "cyclist": canvas.CYCLIST}[kind]
    assert len(where(draw.scene(None, HERE, agents, size_px=320), colour)) >= 8


def test_the_past_is_pink_behind_and_the_future_blue_ahead():
    picture = draw.scene(None, HERE, agents_of(["car"], 15.0), size_px=400)
    past, future = where(picture, canvas.PAST, 40), where(picture, canvas.FUTURE, 40)
    assert len(past) > 20 and len(future) > 20
    assert np.percentile(past[:, 0], 2) > 200 > np.percentile(future[:, 0], 98)


def test_an_agent_is_drawn_only_at_the_steps_it_was_seen():
    agents = placed(20.0, 0.0)
    agents.valid[0, 25:] = False
    assert len(where(draw.scene(None, HERE, agents, step=24), canvas.EGO))
    assert not len(where(draw.scene(None, HERE, agents, step=25), canvas.EGO))


def test_the_map_is_seen_from_the_windows_frame():
    # A road that runs north, 20 m ahead and to the left of a window that faces east at (100, 50).
    road = map_rows([{"kind": "drivable_area", "xy": [(115, 60), (125, 60), (125, 70), (115, 70)]}])
    picture = draw.scene(road, SE2(100.0, 50.0, 0.0), placed(-40, -40), size_px=400)
    row, column = where(picture, canvas.ROAD, 2).mean(0) + 0.5
    assert (row, column) == (pytest.approx(120, abs=2), pytest.approx(140, abs=2))
    turned = draw.scene(road, SE2(100.0, 50.0, np.pi / 2), placed(-40, -40), size_px=400)
    row, column = where(turned, canvas.ROAD, 2).mean(0) + 0.5
    assert (row, column) == (pytest.approx(140, abs=2), pytest.approx(280, abs=2))


def test_the_map_image_alone_gives_the_same_road():
    bev = np.full((8, 256, 256), 0, np.uint8)
    bev[[MAP_CHANNELS.index(c) for c in ("lane_sin", "lane_cos", "light")]] = 128
    bev[0, 64:128, 128:192] = 255
    picture = draw.scene(bev.tobytes(), HERE, placed(-40, -40), size_px=256)
    road = where(picture, canvas.ROAD, 2)
    assert road.min(0) == pytest.approx([64, 128], abs=2)
    assert road.max(0) == pytest.approx([127, 191], abs=2)


def test_a_signal_shows_its_state_at_the_step():
    state = np.array([[1] * 20 + [3] * 21], np.int8)
    lights = draw.Signals.of({"x_m": [10.0], "y_m": [0.0], "state": state.tolist()})
    red, green = (draw.scene(None, HERE, placed(-40, -40, ego=False), lights, step=s) for s in (5, 30))
    assert len(where(red, canvas.SIGNAL[1], 4)) > 20 and not len(where(red, canvas.SIGNAL[3], 4))
    assert len(where(green, canvas.SIGNAL[3], 4)) > 20 and not len(where(green, canvas.SIGNAL[1], 4))


@pytest.mark.parametrize("encode", [draw.encode_gif, draw.encode_webp])
def test_an_animation_has_a_frame_per_step_even_when_nobody_moves(encode):
    frames = draw.animation(None, HERE, placed(0, 0), size_px=160)
    movie = Image.open(io.BytesIO(encode(frames)))
    assert (len(frames), movie.n_frames, movie.size) == (41, 41, (160, 160))


def test_a_sheet_has_room_for_every_picture_and_its_caption():
    pictures = [Image.new("RGB", (320, 320), (0, 0, 250)) for _ in range(5)]
    page = sheet.contact_sheet(pictures, [f"scene {i}" for i in range(5)], columns=3, header="five", legend=())
    assert page.width == 3 * 320 + 4 * sheet.GAP_PX
    assert page.height > 2 * (320 + sheet.GAP_PX)
    assert len(where(page, (0, 0, 250), 0)) == 5 * 320 * 320
    both = sheet.side_by_side(pictures[:2], pictures[2:4])
    assert len(where(both, (0, 0, 250), 0)) == 4 * 320 * 320


@pytest.mark.parametrize("log_y", [False, True])
def test_a_falling_loss_falls_in_the_chart(log_y):
    steps = np.arange(100)
    series = {"train": (steps, np.exp(-steps / 20)), "val": (steps, [np.nan] * 100)}
    line = where(plots.line_chart(series, title="loss", log_y=log_y), plots.SERIES[0], 30)
    line = line[line[:, 0] > 100]  # below the legend
    assert line[line[:, 1].argmin(), 0] < line[line[:, 1].argmax(), 0] - 200
    assert plots.line_chart({}).size == (960, 540)


@pytest.fixture
def data_uri():
    uri = "memory://view-test"
    scenes = [agents_of(["car", "bus", "pedestrian"], generated=True)] * 3
    windows = pa.array(["window0", None, "window1"])
    tables.write(scenario_rows(scenes, window_id=windows), "scenarios", uri, "a")
    tables.write(window_rows([agents_of(["car", "truck"])] * 2), "windows", uri, "a")
    road = [(-200, -4), (200, -4), (200, 4), (-200, 4)]
    tables.write(map_rows([{"kind": "drivable_area", "xy": road}]), "maps", uri, "a")
    return uri


def _picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(storage.read_bytes(uri)))


def test_scenarios_are_rendered_from_and_to_any_uri(data_uri):
    output = "memory://view-test-pictures"
    written = view.render(data_uri, output=output, animate=["webp"], size_px=200)
    names = [u.rsplit("/", 1)[-1] for u in written]
    assert names == [f"scenario{i}.{kind}" for i in range(3) for kind in ("png", "webp")] + ["contact_sheet.png"]
    picture = _picture(f"{output}/scenario0.png")
    assert picture.size == (200, 200)
    assert len(where(picture, canvas.DIRECTED)) and len(where(picture, canvas.ROAD, 2)) > 500


def test_windows_and_scenarios_together_are_set_side_by_side(data_uri, tmp_path):
    written = view.render(data_uri, data_uri, output=str(tmp_path), limit=9, size_px=160)
    assert [u.rsplit("/", 1)[-1] for u in written][-2:] == ["contact_sheet.png", "beside_logs.png"]
    assert _picture(written[-1]).width == 2 * 320 + 3 * sheet.GAP_PX


def test_a_caption_tells_the_av_from_a_stand_in():
    uri = "memory://view-test-captions"
    tables.write(window_rows([agents_of(["car"])] * 2, ego_is_recorder=pa.array([True, False])), "windows", uri, "a")
    captions = [scene.caption for scene in pictures.load("windows", None, uri)]
    assert captions == ["x · 1 agent\nx · AV", "x · 1 agent\nx · stand-in"]


def test_a_signal_is_seen_above_the_car_that_waits_at_it():
    lights = draw.Signals.of({"x_m": [2.0], "y_m": [0.0], "state": [[1] * 41]})
    assert len(where(draw.scene(None, HERE, placed(0, 0, ego=False), lights), canvas.SIGNAL[1], 4)) > 20


def test_only_the_asked_rows_are_rendered_and_unknown_ones_named(data_uri, tmp_path):
    written = view.render(windows=data_uri, output=str(tmp_path), ids=["window1"], contact=False, size_px=160)
    assert [u.rsplit("/", 1)[-1] for u in written] == ["window1.png"]
    with pytest.raises(ValueError, match="no window_id nowhere among the 2 rows"):
        view.render(windows=data_uri, output=str(tmp_path), ids=["nowhere"])
