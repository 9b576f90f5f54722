"""Pickles of plain data, read without running them: containers, text, numbers and NumPy arrays, nothing else.

A pickle is a program. The instructions that build plain data are few and are carried out here; a name that a pickle
mentions is looked up in a table of this module and never imported, and arrays are views of bytes that stand in the
pickle. So no pickle can call anything, and what it holds is bounded by its size and by MAX_INSTRUCTIONS.
Instructions: https://github.com/python/cpython/blob/main/Lib/pickletools.py; arrays: numpy.ndarray.__reduce_ex__.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdiff.logs.driving_log import BadRecord

MAX_INSTRUCTIONS = 5_000_000
"""Some thirty times those of a busy scene of 20 s; none takes more than some 200 bytes of memory."""
PROTOCOLS = (2, 3, 4, 5)
SCALARS = "biufU"
"""Kinds of numpy.dtype whose values are plain bytes."""
MAX_WHOLE_NUMBER = 8
"""Bytes of the longest whole number."""


@dataclass
class _Unfinished:
    """An array or type that waits for its content. memo: under which numbers the pickle remembers it."""

    what: str
    args: tuple[Any, ...]
    memo: list[int] = field(default_factory=list)


def loads(data: bytes) -> Any:
    """What a pickle of protocol 2 to 5 holds; its sets come as lists, its default dictionaries as dictionaries.

    Raises BadRecord, with the offset, where the pickle is cut off or damaged, mentions any name besides NumPy's arrays,
    or has a dictionary whose keys are not text.
    """
    machine = _Machine(data)
    try:
        return machine.run()
    except BadRecord:
        raise
    except (IndexError, KeyError, ValueError, TypeError, struct.error, OverflowError) as error:
        raise machine.fault(f"{type(error).__name__} {error}") from error


class _Machine:
    """A stack, where its marks are, a memo, and the place in the pickle."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def fault(self, what: str) -> BadRecord:
        return BadRecord(f"not a whole pickle of plain data: {what}, at byte {self.at} of {len(self.data)}")

    def run(self) -> Any:
        data, steps = self.data, _STEPS
        for _ in range(MAX_INSTRUCTIONS):
            if self.at >= len(data):
                raise self.fault("it ends before its last instruction")
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                (result,) = self.stack
                return result
            step = steps[code]
            if step is None:
                raise self.fault(f"instruction {bytes([code])!r} builds no plain data")
            step(self)
        raise self.fault(f"more than {MAX_INSTRUCTIONS} instructions")

    def take(self, n: int) -> bytes:
        begin, self.at = self.at, self.at + n
        if self.at > len(self.data):
            self.at = begin
            raise self.fault(f"{n} bytes are announced, {len(self.data) - begin} are left")
        return self.data[begin : self.at]

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def line(self) -> str:
        end = self.data.index(b"\n", self.at)
        text, self.at = self.data[self.at : end].decode(), end + 1
        return text

    def since_mark(self) -> list[Any]:
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def remember(self, key: int) -> None:
        value = self.memo[key] = self.stack[-1]
        if isinstance(value, _Unfinished):
            value.memo.append(key)

    def name(self, module: Any, name: Any) -> None:
        if (module, name) not in _NAMES:
            raise self.fault(f"it mentions {str(module)[:60]}.{str(name)[:60]}, which is no plain data")
        self.stack.append(_NAMES[module, name])

    def call(self) -> None:
        args = self.stack.pop()
        build = self.stack[-1]
        if not isinstance(build, _Name) or not isinstance(args, tuple):
            raise self.fault("a call of what is no name")
        self.stack[-1] = build.build(*args)

    def finish(self) -> None:
        """Give an array or a type its content, on the stack and in the memo."""
        state = self.stack.pop()
        unfinished = self.stack[-1]
        if not isinstance(unfinished, _Unfinished):
            raise self.fault("a state for what is no array")
        value = _FINISH[unfinished.what](unfinished.args, state)
        self.stack[-1] = value
        for key in unfinished.memo:
            self.memo[key] = value

    def set_items(self, items: list[Any]) -> None:
        target, keys = _of(dict, self.stack[-1]), items[::2]
        if not all(type(key) is str for key in keys):
            raise self.fault("a dictionary has a key that is not text")
        target.update(zip(keys, items[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        _of(list, self.stack[-1]).extend(items)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


@dataclass(frozen=True)
class _Name:
    """A name that pickles of plain data mention, and what a call of it yields here."""

    build: Callable[..., Any]


def _dtype(args: tuple[Any, ...], state: Any) -> np.dtype[Any]:
    word, order = _of(str, args[0]), _of(str, state[1])
    dtype = np.dtype(order + word) if order in ("<", ">") else np.dtype(word)
    if dtype.kind not in SCALARS or dtype.subdtype or dtype.names:
        raise ValueError(f"an array of {word[:20]!r}, expected numbers or text")
    return dtype


def _array(dtype: Any, shape: Any, fortran: Any, content: Any) -> np.ndarray[Any, Any]:
    if not isinstance(content, bytes) or not isinstance(dtype, np.dtype):
        raise TypeError(f"an array of {type(dtype).__name__} in {type(content).__name__}, expected numbers in bytes")
    if not dtype.itemsize:
        raise ValueError("an array of empty text")
    sizes = tuple(_of(int, n) for n in _of(tuple, shape))
    if any(n < 0 for n in sizes):
        raise ValueError(f"an array of shape {sizes}")
    return np.frombuffer(content, dtype).reshape(sizes, order="F" if fortran else "C")


def _scalar(dtype: Any, content: Any) -> Any:
    return _array(dtype, (1,), False, content)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as protocol 2 writes them."""
    if encoding != "latin1":
        raise ValueError(f"bytes as {encoding[:20]!r}, expected latin1")
    return _of(str, text).encode("latin1")


def _only_mentioned(*_: Any) -> Any:
    raise TypeError("a call of a type that is only mentioned")


_NAMES: dict[Any, _Name] = {
    ("numpy", "ndarray"): _Name(_only_mentioned),
    ("numpy", "dtype"): _Name(lambda *args: _Unfinished("dtype", args)),
    ("collections", "defaultdict"): _Name(lambda *_: {}),
    ("collections", "OrderedDict"): _Name(lambda: {}),
    ("_codecs", "encode"): _Name(_latin1),
}
for _builtins in ("builtins", "__builtin__"):  # as protocol 2 calls them
    _NAMES |= {(_builtins, name): _Name(_only_mentioned) for name in ("int", "long", "float", "list", "dict")}
    _NAMES[_builtins, "set"] = _Name(lambda items=(): list(items))
    _NAMES[_builtins, "bytes"] = _Name(lambda: b"")
for _numpy in ("numpy.core", "numpy._core"):
    _NAMES[f"{_numpy}.multiarray", "_reconstruct"] = _Name(lambda *args: _Unfinished("array", args))
    _NAMES[f"{_numpy}.multiarray", "scalar"] = _Name(_scalar)
    _NAMES[f"{_numpy}.numeric", "_frombuffer"] = _Name(
        lambda content, dtype, shape, order: _array(dtype, shape, order == "F", content)
    )

_FINISH: dict[str, Callable[[tuple[Any, ...], Any], Any]] = {
    "dtype": _dtype,
    "array": lambda _, state: _array(state[2], state[1], state[3], state[4]),
}


def _instructions() -> dict[bytes, Callable[[_Machine], Any]]:
    def value(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
        return lambda m: m.stack.append(read(m))

    def constant(v: Any) -> Callable[[_Machine], None]:
        return lambda m: m.stack.append(v)

    def tuple_of(n: int) -> Callable[[_Machine], None]:
        def step(m: _Machine) -> None:
            items = m.stack[-n:]
            if len(items) < n:
                raise IndexError("the stack is empty")
            m.stack[-n:] = [tuple(items)]

        return step

    def protocol(m: _Machine) -> None:
        found = m.byte()
        if found not in PROTOCOLS:
            raise m.fault(f"protocol {found}, expected 2 to 5")

    def fraction(m: _Machine) -> None:
        m.stack.append(_FLOAT.unpack_from(m.data, m.at)[0])
        m.at += 8

    def whole(m: _Machine) -> int:
        n = m.byte()
        if n > MAX_WHOLE_NUMBER:
            raise m.fault(f"a whole number of {n} bytes, expected {MAX_WHOLE_NUMBER} at most")
        return int.from_bytes(m.take(n), "little", signed=True)

    def memoize(m: _Machine) -> None:
        m.remember(len(m.memo))

    def set_item(m: _Machine) -> None:
        v, k = m.stack.pop(), m.stack.pop()
        m.set_items([k, v])

    def stack_name(m: _Machine) -> None:
        name, module = m.stack.pop(), m.stack.pop()
        m.name(module, name)

    return {
        b"\x80": protocol,
        b"\x95": lambda m: m.take(8),  # frames only help those who read from a stream
        b"(": lambda m: m.marks.append(len(m.stack)),
        b"1": lambda m: m.since_mark(),
        b"0": lambda m: m.stack.pop(),
        b"N": constant(None),
        b"\x88": constant(True),
        b"\x89": constant(False),
        b"K": value(lambda m: m.byte()),
        b"M": value(lambda m: m.number(2)),
        b"J": value(lambda m: int.from_bytes(m.take(4), "little", signed=True)),
        b"\x8a": value(whole),
        b"G": fraction,
        b"\x8c": value(lambda m: m.take(m.byte()).decode("utf-8", "surrogatepass")),
        b"X": value(lambda m: m.take(m.number(4)).decode("utf-8", "surrogatepass")),
        b"\x8d": value(lambda m: m.take(m.number(8)).decode("utf-8", "surrogatepass")),
        b"C": value(lambda m: m.take(m.byte())),
        b"B": value(lambda m: m.take(m.number(4))),
        b"\x8e": value(lambda m: m.take(m.number(8))),
        b"\x96": value(lambda m: m.take(m.number(8))),
        b")": constant(()),
        b"\x85": tuple_of(1),
        b"\x86": tuple_of(2),
        b"\x87": tuple_of(3),
        b"t": lambda m: m.stack.append(tuple(m.since_mark())),
        b"]": value(lambda _: []),
        b"}": value(lambda _: {}),
        b"\x8f": value(lambda _: []),
        b"\x91": lambda m: m.stack.append(m.since_mark()),
        b"a": lambda m: m.append([m.stack.pop()]),
        b"e": lambda m: m.append(m.since_mark()),
        b"\x90": lambda m: m.append(m.since_mark()),
        b"s": set_item,
        b"u": lambda m: m.set_items(m.since_mark()),
        b"q": lambda m: m.remember(m.byte()),
        b"r": lambda m: m.remember(m.number(4)),
        b"\x94": memoize,
        b"h": value(lambda m: m.memo[m.byte()]),
        b"j": value(lambda m: m.memo[m.number(4)]),
        b"c": lambda m: m.name(m.line(), m.line()),
        b"\x93": stack_name,
        b"R": lambda m: m.call(),
        b"b": lambda m: m.finish(),
    }


_STOP = ord(".")
_FLOAT = struct.Struct(">d")
_STEPS: list[Callable[[_Machine], Any] | None] = [None] * 256
for _code, _step in _instructions().items():
    _STEPS[_code[0]] = _step
