"""Pickles are read as data: what they hold is there, what they would do does not happen."""

import collections
import contextlib
import os
import pickle
import struct
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdiff.logs import plain_pickle
from sdiff.logs.driving_log import BadRecord

DATA = {
    "text": "Zürich \u202e \U0001f697",
    "numbers": [0, 1, 255, 65535, -1, 2**31, -(2**40), 2**62, 0.5, float("inf")],
    "none": None,
    "nested": {"a": [(1, 2.0, 3), (True, False), ()], "b": {}},
    "bytes": b"\x00\xff" * 200,
    "counts": collections.defaultdict(int, {"VEHICLE": 3}),
}
ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(6, dtype=">i4")[::2],
    np.array([True, False]),
    np.array(["GO", "STOP"]),
    np.zeros((0, 3)),
    np.zeros((2, 3, 4), np.int8),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_comes_back(protocol: int) -> None:
    assert plain_pickle.loads(pickle.dumps(DATA, protocol)) == DATA
    assert sorted(plain_pickle.loads(pickle.dumps({"a", "b"}, protocol))) == ["a", "b"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_come_back(array: np.ndarray, protocol: int) -> None:
    twice = plain_pickle.loads(pickle.dumps([array, {"again": array}], protocol))
    for found in (twice[0], twice[1]["again"]):
        assert found.dtype == array.dtype and found.shape == array.shape
        np.testing.assert_array_equal(found, array)


def test_numpy_scalars_come_back() -> None:
    assert plain_pickle.loads(pickle.dumps([np.float32(0.5), np.int64(-3)])) == [0.5, -3]


def test_real_pickles_are_what_python_loads(real_data: Path) -> None:
    def same(a: Any, b: Any) -> bool:
        match b:
            case np.ndarray():
                return a.dtype == b.dtype and np.array_equal(a, b)
            case dict():
                return list(a) == list(b) and all(same(a[k], b[k]) for k in b)
            case set():
                return sorted(map(repr, a)) == sorted(map(repr, b))
            case list() | tuple():
                return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
        return type(a) is type(b) and bool(a == b)

    files = sorted(real_data.glob("scenarionet_*/*.pkl"))
    assert len(files) == 9
    for file in files:
        data = file.read_bytes()
        assert same(plain_pickle.loads(data), pickle.loads(data)), file


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class HasState:
    def __init__(self) -> None:
        self.x = 1


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (os.system, ("touch {}",)),
        (eval, ("open('{}', 'w')",)),
        (exec, ("open('{}', 'w')",)),
        (open, ("{}", "w")),
        (subprocess.Popen, (["touch", "{}"],)),
        (getattr, (Calls(__import__, "os"), "system")),
        (Calls(getattr, Calls(__import__, "os"), "mkdir"), ("{}",)),
        (np.load, ("{}",)),
        (np.memmap, ("{}", "u1", "w+", 0, 8)),
        (np._core.multiarray._reconstruct, (HasState, (0,), b"b")),
        (map, (os.mkdir, ["{}"])),
        (pickle.loads, (pickle.dumps(Calls(os.system, "touch {}")),)),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_nothing_is_called(function: Any, args: tuple[Any, ...], protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "called"
    args = tuple(a.replace("{}", str(mark)) if isinstance(a, str) else a for a in args)
    if isinstance(args[0], list):
        args = ([a.replace("{}", str(mark)) for a in args[0]],)
    try:
        bad = pickle.dumps({"metadata": Calls(function, *args)}, protocol)
    except (pickle.PicklingError, TypeError):
        bad = pickle.dumps(Calls(os.mkdir, str(mark)), protocol)
    with pytest.raises(BadRecord, match="no plain data"):
        plain_pickle.loads(bad)
    assert not mark.exists()


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def mention(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


RECONSTRUCT = mention("numpy.core.multiarray", "_reconstruct") + mention("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
DTYPE = (
    mention("numpy", "dtype")
    + short("f8")
    + b"\x89\x88\x87R(K\x03"
    + short("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
HUGE = b"\x8a\x06" + (1 << 40).to_bytes(6, "little")
EMPTY_ARRAY = RECONSTRUCT + b"(K\x01" + HUGE + b"\x85" + DTYPE + b"\x89C\x00tb"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends before"),
        (b"\x80\x04", "ends before"),
        (b"\x80\x00N.", "protocol 0"),
        (b"I1\n.", "builds no plain data"),
        (b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little"), "bytes are announced"),
        (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little"), "bytes are announced"),
        (b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little"), "bytes are announced"),
        (b"\x80\x04\x8a\xff" + b"\x7f" * 255 + b".", "a whole number of 255 bytes"),
        (b"\x80\x04\x8b" + struct.pack("<i", 1 << 30), "builds no plain data"),
        (b"\x80\x04" + EMPTY_ARRAY + b".", "cannot reshape"),
        (b"\x80\x04" + RECONSTRUCT + b"}b.", "KeyError|TypeError"),
        (b"\x80\x04}" + b"}b.", "a state for what is no array"),
        (b"\x80\x04cos\nsystem\n.", "mentions os.system"),
        (b"\x80\x04(cos\nsystem\no.", "no plain data"),
        (b"\x80\x04)" + mention("numpy", "ndarray") + b")\x81.", "builds no plain data"),
        (b"\x80\x04" + mention("numpy", "dtype") + b")R.", ""),
        (b"\x80\x04" + mention("numpy", "ndarray") + b"K\x01\x85R.", "only mentioned"),
        (b"\x80\x04\x82\x01.", "builds no plain data"),
        (b"\x80\x04Pname\n.", "builds no plain data"),
        (b"\x80\x04}K\x01K\x02s.", "a key that is not text"),
        (b"\x80\x04}]K\x02s.", "a key that is not text"),
        (b"\x80\x04N.N", ""),
        (b"\x80\x04NN.", "ValueError"),
        (b"\x80\x04h\x07.", "KeyError"),
        (b"\x80\x04t.", "IndexError"),
    ],
)
def test_what_is_no_plain_data_is_a_bad_record(data: bytes, reason: str) -> None:
    if not reason:
        plain_pickle.loads(data)  # harmless: it neither calls nor takes anything
        return
    with pytest.raises(BadRecord, match=reason):
        plain_pickle.loads(data)


def test_object_arrays_and_records_are_refused() -> None:
    for array in (np.array([None, {}]), np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]), np.array(["2020"], "M8[Y]")):
        with pytest.raises(BadRecord):
            plain_pickle.loads(pickle.dumps(array, 4))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04Nr\xff\xff\xff\xff.",  # remembered under number 2^32 - 1
        b"\x80\x05\x96" + (1 << 33).to_bytes(8, "little"),
        b"\x80\x04" + EMPTY_ARRAY + b".",
        b"\x80\x04](" + b"]\x94" + b"(" + b"h\x00" * 1000 + b"e" + b"e.",
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    ],
    ids=["memo", "bytes", "array", "references", "depth"],
)
def test_memory_is_bounded_by_the_size_of_the_pickle(data: bytes) -> None:
    tracemalloc.start()
    with contextlib.suppress(BadRecord):
        plain_pickle.loads(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 + 300 * len(data)


def test_a_pickle_that_is_cut_off_anywhere_is_a_bad_record() -> None:
    whole = pickle.dumps({**DATA, "arrays": ARRAYS})
    for length in range(len(whole)):
        with pytest.raises(BadRecord):
            plain_pickle.loads(whole[:length])


def test_instructions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "MAX_INSTRUCTIONS", 100)
    with pytest.raises(BadRecord, match="more than 100 instructions"):
        plain_pickle.loads(pickle.dumps(list(range(200))))
