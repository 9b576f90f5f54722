"""Waymo Open Motion: scenarios come out as they stand in the file; what is broken costs itself alone."""

import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from on_lanes import share_along_lanes
from waymo_records import Message, Single, crc32c, decode, encode, frame, masked, unframe

from sdiff import KINDS, storage
from sdiff.geometry import wrap_angle
from sdiff.ingestion import slices
from sdiff.logs import waymo_motion
from sdiff.logs.driving_log import BadRecord, DrivingLog

STEPS = 30


def state(x: float, y: float = 0.0, **changed: Any) -> Message:
    """A car that drives along x at 10 m/s."""
    values = {"x": x, "y": y, "length": 4.5, "width": 2.0, "heading": 0.0, "vx": 10.0, "vy": 0.0, "valid": 1, **changed}
    singles = [(n, Single(values[name])) for n, name in enumerate(("length", "width"), 5)]
    singles += [(n, Single(values[name])) for n, name in enumerate(("heading", "vx", "vy"), 8)]
    return [(2, float(values["x"])), (3, float(values["y"])), *singles, (11, values["valid"])]


def track(id: int, y: float = 0.0, type: int = 1, steps: int = STEPS, **changed: Any) -> Message:
    return [(1, id), (2, type), *((3, state(**{"x": 1.0 * t, "y": y, **changed})) for t in range(steps))]


def point(x: float, y: float) -> Message:
    return [(1, float(x)), (2, float(y)), (3, 0.0)]


def lane(id: int, points: list[tuple[float, float]], **more: Any) -> Message:
    fields = [(1, more.get("mph", 25.0)), (2, more.get("type", 2)), *((8, point(*p)) for p in points)]
    fields += [(9, i) for i in more.get("entries", [])] + [(10, i) for i in more.get("exits", [])]
    for number, side in ((11, "left"), (12, "right")):
        fields += [(number, [(1, i), (2, a), (3, b)]) for i, a, b in more.get(side, [])]
    return [(1, id), (3, fields)]


def shape(id: int, field: int, points: list[tuple[float, float]], number: int) -> Message:
    return [
        (1, id),
        (field, [(1, 1), *((number, point(*p)) for p in points)] if number == 2 else [(1, point(*p)) for p in points]),
    ]


def road() -> list[Message]:
    """Lane 1, and 2 on its left, for 40 m; then lane 3 after 1; a stop sign for lane 3; what lies around."""
    return [
        lane(1, [(0, 0), (20, 0), (40, 0)], exits=[3, 99], left=[(2, 0, 2), (77, 0, 2)]),
        lane(2, [(0, 3.5), (40, 3.5)], type=1, right=[(3, 0, 0), (1, 0, 1)], mph=0.0),
        lane(3, [(40, 0), (80, 0)], entries=[1], type=3),
        lane(4, [(80, 0)]),
        shape(5, 4, [(0, 1.75), (40, 1.75)], 2),
        shape(6, 5, [(0, -2), (80, -2)], 2),
        [(1, 7), (7, [(1, 3), (2, point(41.0, -3.0))])],
        shape(8, 8, [(42, -2), (45, -2), (45, 5), (42, 5)], 1),
        shape(9, 9, [(52, -2), (53, -2), (53, 5)], 1),
        shape(10, 10, [(60, -2), (65, -2), (62, -8)], 1),
    ]


def signal(lane_id: int, word: int) -> Message:
    return [(1, [(1, lane_id), (2, word), (3, point(38.0, 0.0))])]


def scenario(**changed: Any) -> Message:
    value: dict[str, Any] = {
        "id": b"abc",
        "time": [0.1 * t for t in range(STEPS)],
        "tracks": [track(7), track(8, 3.5), track(9, 9.0, type=2)],
        "sdc": 1,
        "signals": [signal(1, t // 10 + 4) for t in range(STEPS)],
        "map": road(),
        **changed,
    }
    return [
        *((1, float(t)) for t in value["time"]),
        *((2, t) for t in value["tracks"]),
        (5, value["id"]),
        *([] if value["sdc"] is None else [(6, value["sdc"])]),
        *((7, s) for s in value["signals"]),
        *((8, f) for f in value["map"]),
    ]


def write(folder: Path, *records: bytes | Message, name: str = "a.tfrecord-00000-of-00001") -> str:
    data = frame([r if isinstance(r, bytes) else encode(r) for r in records], google_crc32c.value)
    (folder / name).write_bytes(data)
    return str(folder / name)


def read(source: str) -> tuple[list[DrivingLog], list[BadRecord]]:
    items = list(waymo_motion.read(source))
    return [i for i in items if isinstance(i, DrivingLog)], [i for i in items if isinstance(i, BadRecord)]


def test_a_scenario_is_read_whole(tmp_path: Path) -> None:
    (log,), bad = read(write(tmp_path, scenario()))
    assert not bad
    assert (log.log_id, log.split_key, log.dataset, log.region, log.recorder) == (
        "abc",
        "abc",
        "waymo_motion",
        "waymo",
        1,
    )
    t, m = log.tracks, log.map
    assert t.agent_id.tolist() == ["7", "8", "9"] and [KINDS[k] for k in t.kind] == ["vehicle", "vehicle", "pedestrian"]
    np.testing.assert_allclose(t.x_m[1], np.arange(STEPS))
    assert (t.y_m[1] == 3.5).all() and (t.vx_mps == 10).all() and t.valid.all() and (t.length_m == 4.5).all()
    assert m.feature_id[:3].tolist() == ["lane_1", "lane_2", "lane_3"] and not m.links_derived
    assert m.successors.tolist() == [[0, 2]], "known from both ends, each pair once; lanes out of the map drop"
    assert m.left[:3].tolist() == [1, -1, -1] and m.right[:3].tolist() == [-1, 0, -1]
    assert m.lane_type[:3].tolist() == [0, 0, 2]
    np.testing.assert_allclose(m.speed_limit_mps[:3], [11.176, np.nan, 11.176], rtol=1e-5)
    counts = {k: len(m.of_kind(k)) for k in ("lane_boundary", "road_edge", "crosswalk", "speed_bump", "driveway")}
    assert counts == dict.fromkeys(counts, 1)
    (stop,) = m.of_kind("stop_line")
    np.testing.assert_allclose(m.points(stop).mean(0), [40, 0], atol=1e-9)
    assert log.lights.lane.tolist() == [0] and (log.lights.x_m[0], log.lights.y_m[0]) == (38.0, 0.0)
    assert log.lights.state[0, [0, 10, 20]].tolist() == [1, 2, 3], "stop, caution, go"


@pytest.mark.parametrize(
    ("word", "index"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 1), (5, 2), (6, 3), (7, 1), (8, 2), (9, 0)]
)
def test_every_word_of_a_signal(tmp_path: Path, word: int, index: int) -> None:
    (log,), _ = read(write(tmp_path, scenario(signals=[signal(1, word)])))
    assert log.lights.state[0].tolist() == [index] + [0] * (STEPS - 1)


@pytest.mark.parametrize(
    ("bad_track", "reason"),
    [
        (track(1, steps=STEPS - 1), "29 steps, expected 30"),
        (track(1, type=17), "object type is 17"),
        (track(1, x=float("nan")), "x_m is not a finite number"),
        (track(1, vx=float("inf")), "vx_mps is not a finite number"),
        (track(1, length=0.0), "box size"),
        (track(1, valid=0), "no valid step"),
    ],
)
def test_a_bad_track_costs_itself_alone(tmp_path: Path, bad_track: Message, reason: str) -> None:
    (log,), (bad,) = read(write(tmp_path, scenario(tracks=[track(7), bad_track], sdc=0)))
    assert log.tracks.agent_id.tolist() == ["7"] and log.recorder == 0
    assert reason in bad.reason and bad.record == "record 0 at byte 0, 1" and not bad.is_log


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (scenario(time=[0.2 * t for t in range(STEPS)]), "step 0 lasts 0.2 s"),
        (scenario(time=[0.1 * (t % 20) for t in range(STEPS)]), "step 19 lasts -1.9 s"),
        (scenario(time=[float("nan")] * STEPS), "not a finite number"),
        (scenario(time=[]), "no time"),
        (scenario(tracks=[]), "sdc_track_index is 1"),
        (scenario(tracks=[], sdc=None), "no usable track"),
        (scenario(sdc=3), "sdc_track_index is 3, expected 0 to 2"),
        (scenario(id=b""), "no scenario_id"),
        (scenario(map=[]), "no lanes"),
        (scenario(map=[lane(1, [(0, 0), (float("inf"), 0)])]), "vertex of the map"),
        (scenario(map=[lane(1, [(0, 0), (1e12, 0)])]), "one of them 1e+12 m"),
        (scenario(map=[*road(), *road()]), "a feature id comes twice"),
        (scenario(signals=[signal(1, 4)] * (STEPS + 1)), "31 dynamic_map_states"),
        ([*scenario(time=[]), (1, (np.arange(1_800_000) * 0.1).tobytes())], "3 tracks of 1800000 steps"),
        (encode(scenario())[:-3], "not a whole Scenario"),
        (b"\n\x0c\n\n\n\x08state/id", "a tf.Example"),
        (b"\xff" * 50, "not a whole Scenario"),
        (b"", "no time"),
    ],
    ids=lambda v: v[:20] if isinstance(v, str) else "",
)
def test_a_bad_scenario_leaves_the_others(tmp_path: Path, broken: Message | bytes, reason: str) -> None:
    logs, (bad,) = read(write(tmp_path, scenario(id=b"a"), broken, scenario(id=b"b")))
    assert [log.log_id for log in logs] == ["a", "b"]
    assert reason in bad.reason and bad.record.startswith("record 1 at byte") and bad.is_log


def test_points_without_a_height_or_in_another_order_are_read_too(tmp_path: Path) -> None:
    features = road()
    features[0] = [(1, 1), (3, [(8, point(0, 0)), (8, [(2, 1.0), (1, 20.0)]), (8, [(1, 40.0)])])]
    (log,), _ = read(write(tmp_path, scenario(map=features)))
    assert log.map.points(0).tolist() == [[0, 0], [20, 1], [40, 0]]
    features[0] = [(1, 1), (3, [(8, point(0, 0)), (8, b"\x09half")])]
    _, (bad,) = read(write(tmp_path, scenario(map=features)))
    assert bad.reason.startswith("not a whole MapPoint message")


def test_an_id_that_is_no_text_is_spelt_out(tmp_path: Path) -> None:
    (log,), _ = read(write(tmp_path, scenario(id=b"../\xff")))
    assert log.log_id == "../\\xff"


def test_checksums_are_those_of_the_description() -> None:
    assert crc32c(b"123456789") == 0xE3069283, "the check value of CRC-32C"
    assert google_crc32c.value(b"123456789") == 0xE3069283


def test_a_record_with_a_wrong_checksum_is_skipped(tmp_path: Path) -> None:
    source = Path(write(tmp_path, scenario(id=b"a"), scenario(id=b"b")))
    data = bytearray(source.read_bytes())
    data[40] ^= 1
    source.write_bytes(data)
    logs, (bad,) = read(str(source))
    assert [log.log_id for log in logs] == ["b"] and bad.reason == "the checksum of the record is wrong" and bad.is_log


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"\x01", "checksum of a record's length"),
        (struct.pack("<Q", 5) + b"\0\0\0\0hello\0\0\0\0", "checksum of a record's length"),
        *(
            (
                struct.pack("<Q", n) + masked(crc32c(struct.pack("<Q", n))) + b"x" * 9,
                f"{n} bytes long, but the file ends",
            )
            for n in (6, 1 << 40, (1 << 64) - 1)
        ),
    ],
)
def test_what_follows_broken_framing_is_lost_and_what_came_before_is_not(
    tmp_path: Path, tail: bytes, reason: str
) -> None:
    source = Path(write(tmp_path, scenario()))
    source.write_bytes(source.read_bytes() + tail)
    items = waymo_motion.read(str(source))
    assert isinstance(next(items), DrivingLog)
    with pytest.raises(BadRecord, match=reason) as caught:
        next(items)
    assert caught.value.record.startswith("record 1 at byte")


def test_an_absurdly_large_record_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, scenario(id=b"a"), b"x" * 100_000, scenario(id=b"b"))
    monkeypatch.setattr(waymo_motion, "MAX_RECORD_BYTES", 99_999)
    logs, (bad,) = read(source)
    assert [log.log_id for log in logs] == ["a", "b"] and "100000 bytes long, expected at most" in bad.reason


def test_records_are_found_across_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, *(scenario(id=b"%d" % i) for i in range(5)))
    monkeypatch.setattr(waymo_motion, "READ_BYTES", 1000)
    assert [log.log_id for log in read(source)[0]] == list("01234")


def test_files_are_found_by_name_and_are_one_slice(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no log")
    source = write(tmp_path, scenario())
    assert waymo_motion.find(str(tmp_path)) == [f"file://{source}"]
    Path(source).write_bytes(b"x" * (64 << 20))
    assert len(slices(waymo_motion, source)) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(storage.StorageError, match="no TFRecord"):
        waymo_motion.find(str(tmp_path / "empty"))


def test_the_real_scenario_is_what_its_bytes_say(real_data: Path) -> None:
    source = real_data / "waymo_tfrecord" / "motion_data_one_scenario.tfrecord"
    (log,), bad = read(str(source))
    assert not bad
    (record,) = unframe(source.read_bytes())
    fields = defaultdict(list)
    for number, value in decode(record):
        fields[number].append(value)
    assert log.log_id.encode() == fields[5][0] and log.recorder == fields[6][0]
    t = log.tracks
    assert len(fields[2]) == len(t.agent_id) == 83 and t.valid.shape[1] == len(fields[1]) == 91
    for i, raw in enumerate(fields[2]):
        described = decode(raw)
        states = [dict(decode(s)) for n, s in described if n == 3]
        valid = np.array([s.get(11, 0) for s in states], bool)
        assert dict(described)[1] == int(t.agent_id[i]) and (valid == t.valid[i]).all()
        for number, values, tolerance in (
            (2, t.x_m, 0.01),
            (3, t.y_m, 0.01),
            (8, t.heading_rad, 0.001),
            (9, t.vx_mps, 0.01),
            (10, t.vy_mps, 0.01),
        ):
            raw_values = np.array([s.get(number, 0.0) for s in states])
            off = values[i] - raw_values
            assert np.abs(wrap_angle(off) if number == 8 else off)[valid].max() < tolerance
        for number, size in ((5, t.length_m), (6, t.width_m)):
            sizes = np.array([s.get(number, 0.0) for s in states])[valid]
            assert sizes.min() <= size[i] <= sizes.max()
    lanes = {dict(f)[1]: [n for n, _ in decode(dict(f)[3])] for f in map(decode, fields[8]) if 3 in dict(f)}
    assert {f"lane_{i}" for i, numbers in lanes.items() if numbers.count(8) > 1} == set(
        log.map.feature_id[log.map.of_kind("lane_centerline")].tolist()
    )
    assert log.lights.state.shape == (12, 91)


def test_real_cars_drive_along_their_lanes(real_data: Path) -> None:
    (log,), _ = read(str(real_data / "waymo_tfrecord" / "motion_data_one_scenario.tfrecord"))
    assert share_along_lanes(log) > 0.95
