"""YAML read field by field, so that every error names file, line, field and what may stand there."""

import difflib
from typing import Any

import numpy as np
import yaml

from sdiff.span import Span


class JobFileError(ValueError):
    """A job file says something that cannot be: file, line, field, what was found and what is allowed."""


class Section:
    """One mapping of a job file. Each read takes a key; `done` rejects those that nothing took."""

    def __init__(self, node: yaml.Node, file: str, field: str = "") -> None:
        self.file, self.field, self.node = file, field, node
        if not isinstance(node, yaml.MappingNode):
            raise self.error(None, f"found {_shown(node)}, expected a mapping of fields")
        self._nodes: dict[str, yaml.Node] = {}
        self._lines: dict[str, int] = {}
        self._taken: list[str] = []
        for key, value in node.value:
            if key.value in self._nodes:
                raise self.error(key.value, f"given twice, first in line {self._lines[key.value]}", key)
            self._nodes[key.value], self._lines[key.value] = value, key.start_mark.line + 1

    def error(self, key: str | None, problem: str, node: yaml.Node | None = None) -> JobFileError:
        """The error of a field, to be raised."""
        node = node or (self._nodes.get(key) if key else None) or self.node
        name = ".".join(part for part in (self.field, key) if part)
        where = f"{self.file}:{node.start_mark.line + 1}: "
        return JobFileError(where + (f"{name}: " if name else "") + problem)

    def has(self, key: str) -> bool:
        """Whether the field is given."""
        return key in self._nodes

    def done(self) -> None:
        """Raise JobFileError for a field that does not exist."""
        unknown = [k for k in self._nodes if k not in self._taken]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._taken, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise JobFileError(
                f"{self.file}:{self._lines[unknown[0]]}: {'.'.join(p for p in (self.field, unknown[0]) if p)}: "
                f"unknown field{hint} Allowed: {', '.join(self._taken)}".replace("field Allowed", "field. Allowed")
            )

    def text(self, key: str, default: str | None = None) -> str | None:
        """A string."""
        node = self._take(key)
        if node is None:
            return default
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            raise self.error(key, f"found {_shown(node)}, expected text")
        return str(node.value)

    def flag(self, key: str) -> bool | None:
        """True, false or not given."""
        node = self._take(key)
        value = None if node is None else _plain(node)
        if not isinstance(value, bool | None):
            raise self.error(key, f"found {_shown(node)}, expected true or false")
        return value

    def count(self, key: str, default: int, low: int = 1, high: int = 10**9) -> int:
        """A whole number."""
        node = self._take(key)
        value = default if node is None else _plain(node)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, f"found {_shown(node)}, expected a whole number from {low} to {high}")
        return value

    def number(self, key: str, default: float, unit: str, low: float, high: float) -> float:
        """A number."""
        node = self._take(key)
        value = default if node is None else _plain(node)
        if not _is_number(value) or not low <= value <= high:
            raise self.error(key, f"found {_shown(node)}, expected a number{unit and ' of '}{unit} in [{low}, {high}]")
        return float(value)

    def span(self, key: str, unit: str, low: float, high: float) -> Span | None:
        """A number or a range [a, b] in `unit`, both within [low, high]; None where not given."""
        node = self._take(key)
        if node is None:
            return None
        value = _plain(node)
        ends = value if isinstance(value, list) else [value, value]
        if len(ends) != 2 or not all(_is_number(e) for e in ends) or not low <= ends[0] <= ends[1] <= high:
            what = f"a number or a range [a, b]{unit and ' in '}{unit}, from {low} to {high}"
            raise self.error(key, f"found {_shown(node)}, expected {what}")
        return Span(float(ends[0]), float(ends[1]))

    def words(self, key: str, allowed: tuple[str, ...] | None, what: str = "word") -> tuple[str, ...]:
        """One word, or a list of which any will do; () where not given. allowed None: any word."""
        node = self._take(key)
        if node is None:
            return ()
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for item in items:
            if not isinstance(item, yaml.ScalarNode) or (allowed and item.value not in allowed) or not item.value:
                near = difflib.get_close_matches(str(item.value), allowed or (), 1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                rest = f": one or several of {', '.join(allowed)}" if allowed else ""
                raise self.error(key, f"found {_shown(item)}{hint}, expected a {what}{rest}", item)
        if not items:
            raise self.error(key, f"found an empty list, expected a {what}")
        return tuple(item.value for item in items)

    def section(self, key: str) -> "Section | None":
        """A mapping; None where not given."""
        node = self._take(key)
        return None if node is None else Section(node, self.file, ".".join(p for p in (self.field, key) if p))

    def sections(self, key: str) -> "list[Section]":
        """A list of mappings; [] where not given."""
        node = self._take(key)
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(key, f"found {_shown(node)}, expected a list, each item after a dash")
        name = ".".join(p for p in (self.field, key) if p)
        return [Section(item, self.file, f"{name}[{i}]") for i, item in enumerate(node.value)]

    def is_word(self, key: str) -> bool:
        """Whether the field is a single word rather than a mapping or list."""
        return isinstance(self._nodes.get(key), yaml.ScalarNode)

    def _take(self, key: str) -> yaml.Node | None:
        if key not in self._taken:
            self._taken.append(key)
        return self._nodes.get(key)


def read_yaml(text: str, file: str) -> Section:
    """The top mapping of a YAML file. Raises JobFileError where it is no YAML, or no mapping."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise JobFileError(f"{file}:{mark.line + 1 if mark else 1}: not YAML: {error.problem}") from None
    if node is None:
        raise JobFileError(f"{file}:1: the file is empty, expected a job; examples/ has some")
    return Section(node, file)


def _plain(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    return loader.construct_object(node, deep=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _shown(node: yaml.Node | None) -> str:
    if node is None:
        return "nothing"
    return repr(_plain(node)) if isinstance(node, yaml.ScalarNode | yaml.SequenceNode) else "a mapping"
