"""Files that are made to do harm: what unpacks without end, calls, leads elsewhere or holds absurd values."""

import gzip
import json
import os
import pickle
import re
import sqlite3
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import sources
import test_argoverse2
import test_argoverse2_sensor
import test_commonroad
import test_gpudrive
import test_nuplan
import test_scenarionet
import test_waymo_motion
from synthetic import driving_log, road_map

from sdiff import ingestion, logs, raster, tables
from sdiff.geometry import SE2
from sdiff.logs import POSE_FIELDS, argoverse2, argoverse2_sensor, arrow_file, quality, sumo
from sdiff.logs.driving_log import FARTHEST_M, LONGEST_NAME, BadRecord, DrivingLog, Lights, Tracks, plain_name

MIB = 1 << 20


def read(format: str, source: Path | str) -> tuple[list[DrivingLog], list[BadRecord]]:
    """The logs of a source and what is wrong with it, whether it is told of a part or of all."""
    good: list[DrivingLog] = []
    bad: list[BadRecord] = []
    try:
        for item in logs.reader(format).read(str(source)):
            if isinstance(item, DrivingLog):
                item.validate()
                good.append(item)
            else:
                bad.append(item)
    except BadRecord as error:
        bad.append(error)
    return good, bad


def ingest(format: str, source: Path | str, output: Path) -> Path:
    """Ingest a source whole."""
    options = ingestion.Options(stride_s=2.0, stand_ins=1, val_share=0.1)
    work = ingestion.Slice(str(source), 0, 1)
    ingestion.SliceJob(logs.reader(format), work, str(output), options, ingestion.Images()).run()
    return output


@contextmanager
def memory_below(most_bytes: int) -> Iterator[None]:
    """Fails where Python and NumPy take more than that at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


def files(format: str, source: Path) -> list[Path]:
    return [Path(uri.removeprefix("file://")) for uri in logs.files(logs.reader(format), str(source))]


# What unpacks without end


@pytest.fixture(scope="module")
def endless() -> dict[str, bytes]:
    """A GiB of zeros, in one piece and in many."""
    some = gzip.compress(bytes(8 * MIB), 1)
    packer, parts = zlib.compressobj(1, wbits=31), []
    for _ in range(12):
        parts.append(packer.compress(bytes(8 * MIB)))
    return {"one": b"".join(parts) + packer.flush(), "many": some * 128}


@pytest.mark.parametrize("pieces", ["one", "many"])
@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("gpudrive", "a.json.gz"),
        ("commonroad", "a.xml.gz"),
        ("argoverse2_motion", f"log_map_archive_{test_argoverse2.SCENARIO}.json.gz"),
        ("sumo", "net.xml.gz"),
        ("sumo", "vtypes.add.xml.gz"),
        ("sumo", "tls.xml.gz"),
    ],
)
def test_gzip_that_unpacks_without_end_is_given_up(
    format: str, name: str, pieces: str, endless: dict[str, bytes], tmp_path: Path
) -> None:
    source = sources.write(format, tmp_path)
    folder = source if source.is_dir() else source.parent
    if format == "argoverse2_motion":
        (folder / name.removesuffix(".gz")).unlink()
    (folder / name).write_bytes(endless[pieces])
    with memory_below(300 * MIB):
        good, (bad,) = read(format, folder / name if format in ("gpudrive", "commonroad") else source)
    assert not good and re.search("more than [0-9]+ MiB", bad.reason)


def test_gzip_in_pieces_is_read_whole_and_what_follows_it_is_not_passed_over(tmp_path: Path) -> None:
    whole = json.dumps({"a": list(range(99))}).encode()
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(whole[:50]) + gzip.compress(whole[50:]))
    assert logs.read_json(str(path)) == {"a": list(range(99))}
    path.write_bytes(gzip.compress(whole) + b"more")
    with pytest.raises(BadRecord, match="4 bytes follow"):
        logs.read_json(str(path))


ENTITIES = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 99}">' for i in range(12))


@pytest.mark.parametrize(
    ("format", "name"),
    [("commonroad", ""), ("sumo", "net.xml"), ("sumo", "vtypes.add.xml"), ("sumo", "tls.xml")],
)
@pytest.mark.parametrize(
    "dtd", [f"<!DOCTYPE a [{ENTITIES}]>", '<!DOCTYPE a [<!ENTITY e11 SYSTEM "file:///etc/passwd">]>']
)
def test_xml_with_entities_is_refused(format: str, name: str, dtd: str, tmp_path: Path) -> None:
    source = sources.write(format, tmp_path)
    (source / "net.xml.gz").unlink(missing_ok=True) if name == "net.xml" else None
    path = source / name if name else source
    path.write_text(f"<?xml version='1.0'?>{dtd}<a>&e11;</a>")
    good, (bad,) = read(format, source)
    assert not good and "DTD" in bad.reason


def packed(table: pa.Table, **options: Any) -> bytes:
    out = BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def alike(columns: dict[str, pa.DataType], rows: int) -> pa.Table:
    """A table that holds one value per column `rows` times: some KB in a file."""
    nothing, text = pa.array(np.zeros(rows, np.int8)), pa.array(["x"])
    return pa.table(
        {
            name: pa.DictionaryArray.from_arrays(nothing, text) if pa.types.is_string(kind) else nothing
            for name, kind in columns.items()
        }
    )


TABLES = {
    "argoverse2_motion": (arrow_file.parquet, argoverse2.COLUMNS),
    "sumo": (arrow_file.parquet, sumo.COLUMNS),
    "argoverse2_sensor": (arrow_file.feather, argoverse2_sensor._ANNOTATION),
}


@pytest.mark.parametrize("format", TABLES)
def test_a_table_of_too_many_rows_is_not_read(format: str) -> None:
    read_table, columns = TABLES[format]
    table = alike(columns, arrow_file.MOST_ROWS * 3 // 2)
    if format == "argoverse2_sensor":
        out = BytesIO()
        feather.write_feather(table, out, compression="zstd")
        data = out.getvalue()
    else:
        data = packed(table)
    assert len(data) < MIB
    before = pa.total_allocated_bytes()
    with pytest.raises(BadRecord, match="expected at most"):
        read_table(data, columns, "it")
    assert pa.total_allocated_bytes() <= before


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def test_pages_are_counted_though_the_footer_tells_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that a column unpacks to stand in the footer and in the heads of its pages: the latter are counted."""
    table = pa.table({"x": np.zeros(200_000)})
    data = packed(table, compression="zstd", use_dictionary=False, data_page_size=MIB)
    told = pq.ParquetFile(BytesIO(data)).metadata.row_group(0).column(0).total_uncompressed_size
    footer = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    honest = _varint(2 * told)
    lie = b"\x80" * (len(honest) - 1) + b"\x00"
    assert data[footer:].count(honest) == 2  # of the column, and of all columns
    data = data[:footer] + data[footer:].replace(honest, lie)
    assert pq.ParquetFile(BytesIO(data)).metadata.row_group(0).column(0).total_uncompressed_size == 0
    columns = {"x": pa.float64()}
    assert arrow_file.parquet(data, columns, "it").num_rows == 200_000
    monkeypatch.setattr(arrow_file, "MOST_BYTES", MIB)
    with pytest.raises(BadRecord, match=r"it says that it holds .* MiB, expected at most"):
        arrow_file.parquet(data, columns, "it")


def test_texts_that_stand_for_any_number_of_long_ones_are_refused() -> None:
    table = pa.table({"x": ["x" * 1000] * 1000})
    data = packed(table, use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY")
    assert len(data) < 10_000
    with pytest.raises(BadRecord, match="DELTA_BYTE_ARRAY"):
        arrow_file.parquet(data, {"x": pa.string()}, "it")


@pytest.mark.parametrize("says", [1 << 40, 1 << 62, -5, (1 << 63) - 1])
def test_a_buffer_of_feather_that_tells_an_absurd_size_is_not_unpacked(says: int) -> None:
    out = BytesIO()
    feather.write_feather(pa.table({"x": np.zeros(100_000)}), out, compression="lz4", chunksize=100_000)
    data = out.getvalue()
    at = data.index(struct.pack("<q", 800_000) + b"\x04\x22\x4d\x18")
    columns = {"x": pa.float64()}
    assert arrow_file.feather(data, columns, "it").num_rows == 100_000
    with pytest.raises(BadRecord):
        arrow_file.feather(data[:at] + struct.pack("<q", says) + data[at + 8 :], columns, "it")


def test_feather_that_names_one_batch_many_times_holds_it_once() -> None:
    """The rows are those of the messages: the footer, which may name one of them a million times, is not asked."""
    batch = pa.record_batch({"x": np.arange(10.0)})
    out = BytesIO()
    with pa.ipc.new_file(out, batch.schema) as file:
        file.write(batch)
    assert arrow_file.feather(out.getvalue(), {"x": pa.float64()}, "it")["x"].to_pylist() == list(range(10))


@pytest.mark.parametrize(
    "values",
    [
        pa.nulls(100_000),
        pa.RunEndEncodedArray.from_arrays([1 << 30], [1.0]),
        pa.array([[1.0]] * 9),
        pa.array([{"x": 1.0}] * 9),
        pa.array([b"x"] * 9, pa.binary(1)),
        pa.array([True] * 9),
        pa.array(["x" * 99] * 9, pa.string_view()),
    ],
    ids=lambda v: str(v.type)[:20],
)
def test_columns_of_other_types_are_refused(values: pa.Array) -> None:
    batch = pa.record_batch({"x": values})
    out = BytesIO()
    with pa.ipc.new_file(out, batch.schema) as file:
        file.write(batch)
    for kind in (pa.float64(), pa.string()):
        if not (pa.types.is_string(kind) and values.type == pa.string_view()):
            with pytest.raises(BadRecord, match=r"column x holds|not a whole Feather|expected at most"):
                arrow_file.feather(out.getvalue(), {"x": kind}, "it")


@pytest.mark.parametrize("format", ["argoverse2_motion", "argoverse2_sensor", "sumo"])
def test_one_long_id_does_not_take_its_room_for_every_row(format: str, tmp_path: Path) -> None:
    source = sources.write(format, tmp_path)
    path = source / "fcd.parquet" if format == "sumo" else source
    column = {"argoverse2_motion": "track_id", "argoverse2_sensor": "track_uuid", "sumo": "vehicle_id"}[format]
    table = feather.read_table(path) if path.suffix == ".feather" else pq.read_table(path)
    first = table[column][-1].as_py()
    other = table.set_column(
        table.column_names.index(column), column, pc.replace_substring(table[column], first, "\U0001f697" * MIB)
    )
    table = pa.concat_tables([table, other.filter(pc.not_equal(other[column], table[column]))])
    if format == "sumo":
        table = table.sort_by("timestep_time")
    feather.write_feather(table, path) if path.suffix == ".feather" else pq.write_table(table, path)
    with memory_below(250 * MIB):
        (log, *_), bad = read(format, source)
    assert first in log.tracks.agent_id
    assert any("more than 200 characters" in b.reason and b.record == "\U0001f697" * (LONGEST_NAME + 1) for b in bad)


@pytest.mark.parametrize("text", ["[" * MIB, '{"a":' * MIB, "1" + "0" * 5000, "[" + "{}," * 9 + "NaN]"])
@pytest.mark.parametrize("format", ["gpudrive", "argoverse2_motion", "argoverse2_sensor", "sumo"])
def test_json_that_is_nested_or_long_without_end_is_a_bad_record(format: str, text: str, tmp_path: Path) -> None:
    source = sources.write(format, tmp_path)
    (path,) = (p for p in files(format, source) if p.suffix == ".json") if format != "sumo" else [source / "run.json"]
    path.write_text(text)
    good, (bad,) = read(format, source)
    assert not good and bad.reason


# What calls


class Call:
    """Pickles as a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("format", logs.FORMATS)
def test_a_pickle_in_place_of_any_file_calls_nothing(format: str, tmp_path: Path) -> None:
    source, mark = sources.write(format, tmp_path), tmp_path / "called"
    bad = pickle.dumps(Call(mark))
    for file in files(format, source):
        whole = file.read_bytes()
        for data in (bad, gzip.compress(bad)):
            file.write_bytes(data)
            good, letters = read(format, source)
            assert not good and letters
        file.write_bytes(whole)
    assert not mark.exists()
    pickle.loads(bad)
    assert mark.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", TABLES)
def test_a_type_that_is_a_pickle_calls_nothing(format: str, tmp_path: Path) -> None:
    """Arrow once restored types of others by unpickling what a column says of itself (CVE-2023-47248)."""
    source, mark = sources.write(format, tmp_path), tmp_path / "called"
    path = source / "fcd.parquet" if format == "sumo" else source
    table = feather.read_table(path) if path.suffix == ".feather" else pq.read_table(path)
    about = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Call(mark)),
    }
    table = table.cast(pa.schema([field.with_metadata(about) for field in table.schema]))
    feather.write_feather(table, path) if path.suffix == ".feather" else pq.write_table(table, path)
    read(format, source)
    assert not mark.exists()


# What leads elsewhere


ELSEWHERE = ["../../x", "/etc/x", "..", "a/../../b", "C:\\x", "file:///etc/x", "s3://bucket/x"]


def named(format: str, folder: Path, name: str) -> Path:
    """A source of a format whose log and one of its agents are called `name`."""
    folder.mkdir(parents=True, exist_ok=True)
    match format:
        case "argoverse2_motion":
            rows = test_argoverse2.rows({"AV": "vehicle", name: "bus"}, 60)
            rows |= {"scenario_id": [name] * len(rows["city"]), "city": [name] * len(rows["city"])}
            return Path(test_argoverse2.write(folder, rows, test_argoverse2.street()))
        case "argoverse2_sensor" | "sumo":
            source = sources.write(format, folder)
            path, column = (source / "fcd.parquet", "vehicle_id") if format == "sumo" else (source, "track_uuid")
            table = feather.read_table(path) if path.suffix == ".feather" else pq.read_table(path)
            ids = [name if x in ("b", "car0") else x for x in table[column].to_pylist()]
            table = table.set_column(table.column_names.index(column), column, pa.array(ids))
            feather.write_feather(table, path) if path.suffix == ".feather" else pq.write_table(table, path)
            if format == "sumo":
                (source / "run.json").write_text(json.dumps({"region": name, "seed": name}))
            return source
        case "gpudrive":
            cars = [test_gpudrive.car(1), test_gpudrive.car(2, y=4.0, id=name)]
            return Path(test_gpudrive.write(folder, test_gpudrive.scene(*cars, scenario_id=name)))
        case "scenarionet":
            tracks = {"a": test_scenarionet.car(), name: test_scenarionet.car(3.5)}
            about = {"map": name, "dataset": name}
            return Path(
                test_scenarionet.write(
                    folder, test_scenarionet.scenario(id=name, tracks=tracks, metadata=about, dynamic_map_states={})
                )
            )
        case "waymo_motion":
            tracks = [test_waymo_motion.track(i, 3.5 * i, steps=test_waymo_motion.STEPS) for i in range(2)]
            data = test_waymo_motion.scenario(id=name.encode(errors="surrogatepass"), tracks=tracks)
            return Path(test_waymo_motion.write(folder, data, name="a.tfrecord"))
        case "commonroad":
            escaped = name.replace("&", "&amp;").replace("<", "&lt;")
            cars = test_commonroad.car(5) + test_commonroad.car(6).replace('id="6"', f'id="{escaped}"')
            text = test_commonroad.document(test_commonroad.STREET + cars, name=escaped)
            return Path(test_commonroad.write(folder, text))
        case "nuplan":
            source = sources.write(format, folder)
            with sqlite3.connect(source) as con:
                con.execute("UPDATE track SET token = ? WHERE token = ?", (name, test_nuplan.token("t", 0)))
                con.execute("UPDATE lidar_box SET track_token = ?", (name,))
            con.close()
            return source
    raise ValueError(format)


@pytest.mark.parametrize("format", logs.FORMATS)
def test_names_that_are_paths_lead_nowhere(format: str, tmp_path: Path) -> None:
    """Objects are named by fingerprints, and names in the rows stay as they are."""
    output, made = tmp_path / "deep" / "er" / "out", set()
    for i, name in enumerate(ELSEWHERE):
        source = named(format, tmp_path / "deep" / f"raw{i}", name)
        made |= set(source.parent.rglob("*")) | {source, source.parent}
        ingest(format, source, output)
    there = {p for p in tmp_path.rglob("*") if p.is_file()}
    objects = {p for p in there if output in p.parents}
    raw = {p for p in there if re.fullmatch(r"raw\d", p.relative_to(tmp_path / "deep").parts[0])}
    assert objects and there == objects | raw
    assert all(re.fullmatch(r"[0-9a-f]+(-[0-9]+)?(\.parquet|\.done\.json)", p.name) for p in objects)
    assert {p.relative_to(output).parts[0] for p in objects} <= {
        *("windows", "agent_tokens", "maps", "dead_letters", "_ingest")
    }


def test_the_map_of_a_scenario_is_the_one_beside_it_whatever_the_scenario_says(tmp_path: Path) -> None:
    raw, secret = tmp_path / "raw", tmp_path / "secret"
    secret.mkdir()
    far = json.dumps(test_argoverse2.street(x0=5000.0))
    (tmp_path / "secret" / "log_map_archive_x.json").write_text(far)
    for name in ("/../../secret/log_map_archive_x", "../secret/x", str(secret / "x")):
        (log,), _ = read("argoverse2_motion", named("argoverse2_motion", raw, name))
        assert log.map.xy_m.max() < 100 and log.log_id == name


@pytest.mark.parametrize("columns", ["location", "map_version", "location, map_version"])
@pytest.mark.parametrize("name", ["../secret", "/etc", "..", "a/b", ".hidden", "x" * 999])
def test_a_city_that_is_a_path_is_refused(name: str, columns: str, tmp_path: Path) -> None:
    source = sources.write("nuplan", tmp_path)
    with sqlite3.connect(source) as con:
        for column in columns.split(", "):
            con.execute(f"UPDATE log SET {column} = ?", (name,))
    con.close()
    good, (bad,) = read("nuplan", source)
    assert not good and "expected plain names" in bad.reason


def test_a_log_that_names_no_city_is_refused(tmp_path: Path) -> None:
    source = sources.write("nuplan", tmp_path)
    with sqlite3.connect(source) as con:
        con.execute("UPDATE log SET location = '', map_version = ''")
    con.close()
    good, (bad,) = read("nuplan", source)
    assert not good and "expected plain names" in bad.reason


# Absurd values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308, -1e18])
@pytest.mark.parametrize("format", logs.FORMATS)
def test_an_absurd_number_in_any_field_is_never_in_a_log(format: str, value: float, tmp_path: Path) -> None:
    whole = len(read(format, sources.write(format, _made(tmp_path / "whole")))[0])
    lost = 0
    for i, source in enumerate(_with_value(format, tmp_path, value)):
        good, bad = read(format, source)
        lost += len(good) < whole or bool(bad)
        assert all(letter.reason for letter in bad), i
        for log in good:
            for field in POSE_FIELDS:
                assert (np.abs(getattr(log.tracks, field)) < FARTHEST_M).all(), (i, field)
            assert (np.abs(log.map.xy_m) < FARTHEST_M).all() and np.isfinite(log.lights.x_m).all()
            assert log.tracks.length_m.max() < 40
    assert lost > 3


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _with_value(format: str, folder: Path, value: float) -> Iterator[Path]:
    """Sources in each of which one field of numbers holds `value` once."""
    text = {np.inf: "inf", -np.inf: "-inf"}.get(value, repr(value))
    match format:
        case "argoverse2_motion" | "argoverse2_sensor" | "sumo":
            source = sources.write(format, _made(folder / "one"))
            for path in files(format, source) if format != "sumo" else [source / "fcd.parquet"]:
                if path.suffix not in (".parquet", ".feather"):
                    continue
                table = feather.read_table(path) if path.suffix == ".feather" else pq.read_table(path)
                for i, field in enumerate(table.schema):
                    if not pa.types.is_floating(field.type):
                        continue
                    values = table[field.name].to_numpy().copy()
                    values[len(values) // 2 :: len(values)] = value
                    changed = table.set_column(i, field.name, pa.array(values))
                    feather.write_feather(changed, path) if path.suffix == ".feather" else pq.write_table(changed, path)
                    yield source
                feather.write_feather(table, path) if path.suffix == ".feather" else pq.write_table(table, path)
        case "gpudrive":
            for field in ("position", "velocity", "heading", "length", "width"):
                car = test_gpudrive.car(1)
                if field in ("position", "velocity"):
                    car[field] = [*car[field][:5], {**car[field][5], "x": value}, *car[field][6:]]
                else:
                    car[field] = [*car[field][:5], value, *car[field][6:]] if field == "heading" else value
                yield Path(
                    test_gpudrive.write(_made(folder / field), test_gpudrive.scene(car, test_gpudrive.car(2, y=4.0)))
                )
            scene = test_gpudrive.scene(test_gpudrive.car(1))
            scene["roads"][0]["geometry"][0]["x"] = value
            yield Path(test_gpudrive.write(_made(folder / "roads"), scene))
            signal = {"x": [value], "y": [0.0], "time_index": [0], "state": ["stop"]}
            lit = test_gpudrive.scene(test_gpudrive.car(1), tl_states={"11": signal})
            yield Path(test_gpudrive.write(_made(folder / "lights"), lit))
        case "scenarionet":
            for field, shape in test_scenarionet.car()["state"].items():
                changed = shape.astype(np.float64).copy()
                changed.reshape(-1)[5] = value
                if field != "valid":
                    tracks = {"a": test_scenarionet.car(), "b": test_scenarionet.car(3.5, **{field: changed})}
                    yield Path(test_scenarionet.write(_made(folder / field), test_scenarionet.scenario(tracks=tracks)))
            time_s = np.arange(test_scenarionet.STEPS) * 0.1
            time_s[7] = value
            about = test_scenarionet.scenario(metadata={"ts": time_s})
            yield Path(test_scenarionet.write(_made(folder / "ts"), about))
            lanes = {**test_scenarionet.MAP, "1": test_scenarionet.lane([(0, 0), (value, 0)])}
            yield Path(test_scenarionet.write(_made(folder / "map"), test_scenarionet.scenario(map_features=lanes)))
        case "waymo_motion":
            for field in ("x", "y", "length", "width", "heading", "vx", "vy"):
                number = value if field in "xy" or not np.isfinite(value) else np.copysign(3e38, value)
                states = [test_waymo_motion.state(1.0 * t, 3.5) for t in range(test_waymo_motion.STEPS)]
                states[5] = test_waymo_motion.state(**{"x": 5.0, "y": 3.5, field: number})
                track = [(1, 8), (2, 1), *((3, state) for state in states)]
                data = test_waymo_motion.scenario(tracks=[test_waymo_motion.track(7), track], sdc=0)
                yield Path(test_waymo_motion.write(_made(folder / field), data, name="a.tfrecord"))
            time_s = [0.1 * t if t != 7 else value for t in range(test_waymo_motion.STEPS)]
            for more in ({"time": time_s}, {"map": [test_waymo_motion.lane(1, [(0, 0), (value, 0)])]}):
                data = test_waymo_motion.scenario(**more)
                yield Path(test_waymo_motion.write(_made(folder / next(iter(more))), data, name="a.tfrecord"))
        case "commonroad":
            for i in range(4):
                odd = [text if i == k else normal for k, normal in enumerate((2.5, 2.0, 0.0, "5.0"))]
                first, *rest = (test_commonroad.state(s, 0.5 * s) for s in range(60))
                states = [first, *rest[:4], test_commonroad.state(5, *odd), *rest[5:]]
                body = states[0].replace("state>", "initialState>") + f"<trajectory>{''.join(states[1:])}</trajectory>"
                cars = test_commonroad.car(5) + test_commonroad.car(6, body)
                document = test_commonroad.document(test_commonroad.STREET + cars)
                yield Path(test_commonroad.write(_made(folder / str(i)), document))
            cars = test_commonroad.car(5) + test_commonroad.car(6, shape=test_commonroad.BOX.replace("4.5", text))
            yield Path(
                test_commonroad.write(_made(folder / "box"), test_commonroad.document(test_commonroad.STREET + cars))
            )
            odd_map = test_commonroad.document(test_commonroad.STREET.replace("<x>30</x>", f"<x>{text}</x>") + cars)
            yield Path(test_commonroad.write(_made(folder / "map"), odd_map))
        case "nuplan":
            source = sources.write(format, _made(folder / "one"))
            whole = source.read_bytes()
            for table, columns in {
                "ego_pose": "x y qw qz timestamp epsg",
                "lidar_box": "x y vx vy yaw",
                "track": "width length",
                "lidar_pc": "timestamp",
            }.items():
                for column in columns.split():
                    with sqlite3.connect(source) as con:
                        some = f"(SELECT rowid FROM {table} LIMIT 1 OFFSET {0 if table == 'track' else 40})"
                        con.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = {some}", (value,))
                    con.close()
                    yield source
                    source.write_bytes(whole)


def backwards(format: str, folder: Path) -> Path:
    """A source whose time goes backwards once."""
    source = sources.write(format, folder)
    order = np.r_[0:20, 19:9:-1, 20:30]
    match format:
        case "sumo":
            table = pq.read_table(source / "fcd.parquet")
            pq.write_table(table.take(np.r_[0:80, 79:40:-1, 80:162]), source / "fcd.parquet")
        case "gpudrive":  # the format has no time; signals have steps
            signal = {"x": [0.0], "y": [0.0], "time_index": [5, 4, -1], "state": ["stop"] * 3}
            test_gpudrive.write(folder, test_gpudrive.scene(test_gpudrive.car(1), tl_states={"11": signal}))
        case "scenarionet":
            test_scenarionet.write(folder, test_scenarionet.scenario(metadata={"ts": order[:30] * 0.1}))
        case "waymo_motion":
            data = test_waymo_motion.scenario(time=(order[:30] * 0.1).tolist())
            test_waymo_motion.write(folder, data, name="a.tfrecord")
        case "commonroad":
            text = source.read_text()
            source.write_text(text.replace("<time><exact>30</exact></time>", "<time><exact>3</exact></time>"))
        case "nuplan":
            with sqlite3.connect(source) as con:
                con.execute("UPDATE lidar_pc SET timestamp = timestamp - 400000 WHERE rowid = 50")
            con.close()
        case "argoverse2_motion":
            table = pq.read_table(source)
            step = np.array(table["timestep"].to_numpy())
            step[30] = 3
            pq.write_table(table.set_column(table.column_names.index("timestep"), "timestep", pa.array(step)), source)
        case "argoverse2_sensor":
            table = feather.read_table(source)
            time_ns = np.array(table["timestamp_ns"].to_numpy())
            time_ns[30] -= 1_234_567_890
            feather.write_feather(table.set_column(0, "timestamp_ns", pa.array(time_ns)), source)
    return source


@pytest.mark.parametrize("format", logs.FORMATS)
def test_time_that_goes_backwards_is_told(format: str, tmp_path: Path) -> None:
    _, bad = read(format, backwards(format, tmp_path))
    assert any(re.search(r"time|lasts -|step|frames? .*apart|pose", letter.reason) for letter in bad), bad


@pytest.mark.parametrize(
    "name",
    [
        "\U0001f697\U0001f6b2",
        "שלום \u202eabc\u202c",
        "Zürich 北京",
        "a\u0000b\u0000",
        "\n\t\x7f",
        "x" * LONGEST_NAME,
        "",
        "' OR 1=1; --",
        "\ud800",
    ],
    ids=["emoji", "right to left", "scripts", "NUL", "control", "longest", "empty", "quote", "surrogate"],
)
@pytest.mark.parametrize("format", logs.FORMATS)
def test_any_name_comes_back_from_the_table(
    format: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "\ud800" and (format in TABLES or format == "nuplan"):
        pytest.skip("the format cannot hold it")
    if format == "commonroad" and re.search("[\0-\x1f\ud800]", name):
        pytest.skip("the format cannot hold it")
    if format == "waymo_motion" and not name:
        pytest.skip("a scenario without an id is none")
    for module in (test_gpudrive, test_scenarionet, test_waymo_motion):
        monkeypatch.setattr(module, "STEPS", 60)
    output = str(ingest(format, named(format, tmp_path, name), tmp_path / "out"))
    logs_named = ("argoverse2_motion", "scenarionet", "waymo_motion")
    spelt = name.encode(errors="surrogatepass").decode(errors="backslashreplace") if format == "waymo_motion" else name
    if format in logs_named:
        assert set(tables.read(output, "windows")["log_id"].to_pylist()) == {plain_name(spelt)}
    if format != "waymo_motion":
        assert plain_name(name) in tables.read(output, "agent_tokens")["agent_id"].to_pylist()
    assert plain_name(name) == name or "\0" in name or name == "\ud800"


# What every reader says


@pytest.mark.parametrize("format", logs.FORMATS)
def test_a_dead_letter_names_file_record_and_reason(format: str, tmp_path: Path) -> None:
    """Of a bad track its id, of a bad record of many its place; of a file that is not whole, the file alone."""
    whole = sources.write(format, _made(tmp_path / "a"))
    source = named(format, tmp_path / "b", "x" * (LONGEST_NAME + 1)) if format != "waymo_motion" else whole
    if format == "waymo_motion":
        records = [
            test_waymo_motion.scenario(id=b"a", tracks=[test_waymo_motion.track(i) for i in range(3)]),
            b"\x0a\xff",
        ]
        source = Path(test_waymo_motion.write(_made(tmp_path / "b"), *records, name="a.tfrecord"))
    output = ingest(format, source, tmp_path / "out")
    (*_, row) = sorted(
        tables.read(str(output), "dead_letters").to_pylist(), key=lambda r: (r["stage"] == "read", r["record"] or "")
    )
    assert row["source"] == str(source) and row["stage"] in ("read", "validate", "cut") and len(row["reason"]) > 10
    if format == "waymo_motion":
        assert re.fullmatch(r"record 1 at byte \d+", row["record"])
    elif format in ("argoverse2_sensor", "nuplan", "sumo", "commonroad"):
        assert row["record"] == "x" * (LONGEST_NAME + 1)
    cut = files(format, whole)[0]
    cut.write_bytes(cut.read_bytes()[:99])
    (row, *_) = tables.read(str(ingest(format, whole, tmp_path / "cut")), "dead_letters").to_pylist()
    assert row["source"] == str(whole) and len(row["reason"]) > 10


def test_a_bad_record_passes_between_processes_whole() -> None:
    bad = BadRecord("no lanes", stage="validate", record="abc", is_log=True)
    again = pickle.loads(pickle.dumps(bad))
    assert isinstance(again, BadRecord) and vars(again) == vars(bad) and str(again) == "no lanes"


def test_what_a_bad_record_says_is_text_that_a_table_holds() -> None:
    bad = BadRecord("\ud800\0" + "x" * 10_000_000, record="\udfff" + "y" * 10_000_000)
    assert len(bad.reason) <= 2000 and len(bad.record) <= LONGEST_NAME + 1
    (bad.reason + bad.record).encode()


def test_ten_thousand_agents_are_windows(tmp_path: Path) -> None:
    agents, steps = 10_000, 45
    agent, step = np.repeat(np.arange(agents), steps), np.tile(np.arange(steps), agents)
    columns = {
        "track_id": pa.array(["AV", *map(str, range(1, agents))]).take(agent),
        "object_type": pa.repeat("vehicle", len(agent)),
        "timestep": step,
        "position_x": 6.0 * (agent % 100) + 0.5 * step,
        "position_y": 4.0 * (agent // 100),
        **{name: np.zeros(len(agent)) for name in ("heading", "velocity_y")},
        "velocity_x": np.full(len(agent), 5.0),
        "start_timestamp": np.full(len(agent), 1e17),
        **{name: pa.repeat("x", len(agent)) for name in ("scenario_id", "city")},
    }
    source = test_argoverse2.write(tmp_path, {}, test_argoverse2.street())
    pq.write_table(pa.table(columns), source)
    (log,), bad = read("argoverse2_motion", source)
    assert not bad and len(log.tracks.agent_id) == agents
    windows = tables.read(str(ingest("argoverse2_motion", source, tmp_path / "out")), "windows")
    assert windows.num_rows >= 1 and max(windows["n_agents"].to_pylist()) > 100


@pytest.mark.parametrize("format", ["argoverse2_motion", "gpudrive", "scenarionet"])
def test_more_tracks_than_memory_holds_are_refused_before_it_is_taken(format: str, tmp_path: Path) -> None:
    if format == "argoverse2_motion":
        rows = test_argoverse2.rows({str(i): "vehicle" for i in range(2000)}, 1)
        rows["timestep"][7] = argoverse2.MAX_STEPS - 1
        source = test_argoverse2.write(tmp_path, rows, test_argoverse2.street())
    elif format == "gpudrive":
        empty = [{"valid": [True] * 100_000}, *[{}] * 1000]
        source = test_gpudrive.write(tmp_path, test_gpudrive.scene(*empty))
    else:
        about = test_scenarionet.scenario(length=10**9, metadata={"ts": None, "sample_rate": 10})
        source = test_scenarionet.write(tmp_path, about)
    with memory_below(200 * MIB):
        good, (bad,) = read(format, source)
    assert not good and bad.reason


def test_rows_of_sumo_without_a_name_are_passed_over_and_a_long_type_is_unknown(tmp_path: Path) -> None:
    """Persons may have rows of their own, without a vehicle."""
    source = sources.sumo_run(tmp_path)
    (source / "vtypes.add.xml").write_text(sources.VTYPES.replace('id="c"', f'id="{"c" * 999}"/><vType id="c"'))
    table = sources.sumo_table(agents=3)
    names, kinds = table["vehicle_id"].to_pylist(), table["vehicle_type"].to_pylist()
    names = [None if name == "car1" else name for name in names]
    kinds = ["c" * 999 if name == "car2" else kind for name, kind in zip(names, kinds, strict=True)]
    table = table.set_column(1, "vehicle_id", pa.array(names)).set_column(5, "vehicle_type", pa.array(kinds))
    pq.write_table(table, source / "fcd.parquet")
    (log,), (bad,) = read("sumo", source)
    assert log.tracks.agent_id.tolist() == ["car0"] and bad.reason.startswith("81 rows")


def test_xml_of_too_many_tags_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.xml.gz"
    path.write_bytes(gzip.compress(b'<commonRoad benchmarkID="a" timeStepSize="0.1">' + b'<a b=""/>' * 4_000_000, 1))
    with memory_below(150 * MIB):
        good, (bad,) = read("commonroad", path)
    assert not good and "4000001 tags, expected at most" in bad.reason


# Tracks that keep those busy who mend them


def jumping(folder: Path, agents: int, steps: int) -> str:
    """An Argoverse 2 scenario in which every agent jumps at every step: some KB."""
    agent, step = np.repeat(np.arange(agents), steps), np.tile(np.arange(steps), agents)
    columns = {
        "track_id": pa.array(["AV", *map(str, range(1, agents))]).take(agent),
        "object_type": pa.repeat("vehicle", len(agent)),
        "timestep": step,
        "position_x": np.where(step % 2, 50.0, 0.0),
        **{name: np.zeros(len(agent)) for name in ("position_y", "heading", "velocity_x", "velocity_y")},
        "start_timestamp": np.full(len(agent), 1e17),
        **{name: pa.repeat("x", len(agent)) for name in ("scenario_id", "city")},
    }
    source = test_argoverse2.write(folder, {}, test_argoverse2.street())
    pq.write_table(pa.table(columns), source)
    return source


def test_tracks_that_come_apart_without_end_cost_their_log_alone(tmp_path: Path) -> None:
    source = jumping(tmp_path, agents=300, steps=300)
    with memory_below(100 * MIB):
        (log,), _ = read("argoverse2_motion", source)
        with pytest.raises(BadRecord, match="300 become 89701, over 300 steps each: expected 8000000"):
            quality.mend(log)
    (letter,) = tables.read(str(ingest("argoverse2_motion", source, tmp_path / "out")), "dead_letters").to_pylist()
    assert (letter["stage"], letter["record"]) == ("mend", log.log_id)
    (log,), _ = read("argoverse2_motion", jumping(tmp_path, agents=30, steps=300))
    assert len(quality.mend(log).tracks.agent_id) == 1 + 29 * 300


def test_a_day_of_standing_and_turning_is_mended_in_memory_that_it_fills_itself() -> None:
    """36,000 headings, each against each other, would be 10 GB."""
    shape = (1, 36_000)
    heading = np.random.default_rng(0).uniform(-3, 3, shape)
    still = np.zeros(shape)
    one = np.ones(1, np.float32)
    valid = np.ones(shape, bool)
    tracks = Tracks(np.array(["a"]), np.zeros(1, np.int8), one, one, still, still, heading, still, still, valid)
    with memory_below(30 * MIB):
        mended = quality.mend(replace(driving_log(), tracks=tracks, recorder=None))
    assert len(np.unique(mended.tracks.heading_rad)) == 1


# What is compared with each other


def test_a_straight_line_of_any_number_of_vertices_is_a_few_segments() -> None:
    road = road_map()
    n = 200_000
    lane = np.stack([np.linspace(-100.0, 100.0, n), np.full(n, -1.75)], 1)
    fine = replace(road, xy_m=np.concatenate([lane, road.xy_m[3:]]), start=np.where(road.start, road.start + n - 3, 0))
    index = raster.MapIndex.of(fine)
    assert len(index.lanes.box_m) <= n / raster.LONGEST_RUN + 2
    seen, expected = (raster.map_bev(map, Lights.none(1), 0, SE2(0.0, 0.0, 0.0)) for map in (fine, road))
    np.testing.assert_array_equal(seen, expected)


def test_more_riders_and_bicycles_than_can_be_compared_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some KB: each rider, and each bicycle, is there once; the log is long by another's track."""
    monkeypatch.setattr(test_argoverse2_sensor, "STEPS", 150)
    boxes = test_argoverse2_sensor.annotations({"bus": ("BUS", 10.0, 2.0)})
    for category in ("BICYCLIST", "BICYCLE"):
        for i in range(900):
            row = {name: column[0] for name, column in boxes.items()} | {"track_uuid": f"{category}{i}"}
            for name, value in (row | {"category": category}).items():
                boxes[name].append(value)
    poses, street = test_argoverse2_sensor.poses(), test_argoverse2_sensor.street()
    source = test_argoverse2_sensor.write(tmp_path, boxes, poses, street)
    with memory_below(50 * MIB):
        good, (bad,) = read("argoverse2_sensor", source)
    assert not good and bad.reason.startswith("900 riders and 900 things to ride are 121500000 pairs")
