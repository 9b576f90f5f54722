"""YAML read field by field, so that every error names file, line, field and what may stand there."""

import difflib
from typing import Any

import numpy as np
import yaml

from sdiff.span import Span

DEEPEST = 16
"""Levels of lists and mappings in each other; a job has six."""


class JobFileError(ValueError):
    """A job file says something that cannot be: file, line, field, what was found and what is allowed."""


class Section:
    """One mapping of a job file. Each read takes a key; `done` rejects those that nothing took."""

    def __init__(self, node: yaml.Node, field: str = "") -> None:
        self.field, self.node = field, node
        if not isinstance(node, yaml.MappingNode):
            raise self.error(None, f"found {_shown(node)}, expected a mapping of fields")
        self._nodes: dict[str, yaml.Node] = {}
        self._keys: dict[str, yaml.Node] = {}
        self._taken: list[str] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error(None, f"found {_shown(key)} as a field's name, expected a word", key)
            if key.value in self._nodes:
                first = self._keys[key.value].start_mark.line + 1
                raise self.error(key.value, f"given twice, first in line {first}", key)
            self._nodes[key.value], self._keys[key.value] = value, key

    def error(self, key: str | None, problem: str, node: yaml.Node | None = None) -> JobFileError:
        """The error of a field, to be raised."""
        node = node or (self._nodes.get(key) if key else None) or self.node
        name = self._named(key)
        return _error_at(node, (f"{name}: " if name else "") + problem)

    def has(self, key: str) -> bool:
        """Whether the field is given."""
        return key in self._nodes

    def done(self) -> None:
        """Raise JobFileError for a field that does not exist."""
        unknown = [k for k in self._nodes if k not in self._taken]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._taken, 1)
            hint = f"; did you mean {near[0]}?" if near else "."
            allowed = f"unknown field{hint} Allowed: {', '.join(self._taken)}"
            raise self.error(unknown[0], allowed, self._keys[unknown[0]])

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
        return None if node is None else Section(node, self._named(key))

    def sections(self, key: str) -> "list[Section]":
        """A list of mappings; [] where not given."""
        return [Section(item, name) for name, item in self.items(key)]

    def items(self, key: str) -> list[tuple[str, yaml.Node]]:
        """The items of a list, with their names; [] where not given."""
        node = self._take(key)
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(key, f"found {_shown(node)}, expected a list, each item after a dash")
        return [(f"{self._named(key)}[{i}]", item) for i, item in enumerate(node.value)]

    def is_word(self, key: str) -> bool:
        """Whether the field is a single word rather than a mapping or list."""
        return isinstance(self._nodes.get(key), yaml.ScalarNode)

    def _named(self, key: str | None) -> str:
        return ".".join(part for part in (self.field, key) if part)

    def _take(self, key: str) -> yaml.Node | None:
        if key not in self._taken:
            self._taken.append(key)
        return self._nodes.get(key)


def read_yaml(text: str, file: str) -> Section:
    """The top mapping of a YAML file. Raises JobFileError where it is no YAML, or no mapping."""
    try:
        loader = yaml.SafeLoader(text)
        loader.name = file  # of the marks of all nodes
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise JobFileError(f"{file}:{mark.line + 1 if mark else 1}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise JobFileError(f"{file}:1: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise JobFileError(f"{file}:1: lists or mappings are nested too deeply, expected {DEEPEST} at most") from None
    if node is None:
        raise JobFileError(f"{file}:1: the file is empty, expected a job; examples/ has some")
    _expect_shallow(node, DEEPEST)
    return Section(node)


def _expect_shallow(node: yaml.Node, levels: int) -> None:
    """Raise JobFileError where a node holds more levels than that, or itself."""
    if levels == 0:
        raise _error_at(node, f"nested too deeply, or in itself; expected {DEEPEST} levels at most")
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                _expect_shallow(part, levels - 1)


def overlaid(base: yaml.Node, own: yaml.Node) -> yaml.Node:
    """`own`, and from `base` what it does not say: by field in mappings, item by item in lists of mappings.

    A field that is null in `own` is left out. Raises JobFileError for one that is given twice.
    """
    if isinstance(base, yaml.MappingNode) and isinstance(own, yaml.MappingNode):
        Section(own)
        said = {key.value: (key, value) for key, value in base.value}
        for key, value in own.value:
            said[key.value] = key, overlaid(said[key.value][1], value) if key.value in said else value
        kept = [(key, value) for key, value in said.values() if not value.tag.endswith(":null")]
        return yaml.MappingNode(own.tag, kept, own.start_mark, own.end_mark)
    if all(_lists_mappings(node) for node in (base, own)):
        items = [overlaid(b, o) for b, o in zip(base.value, own.value, strict=False)]
        rest = max(base.value, own.value, key=len)[len(items) :]
        return yaml.SequenceNode(own.tag, items + rest, own.start_mark, own.end_mark)
    return own


def _lists_mappings(node: yaml.Node) -> bool:
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    return bool(items) and all(isinstance(item, yaml.MappingNode) for item in items)


def _error_at(node: yaml.Node, problem: str) -> JobFileError:
    return JobFileError(f"{node.start_mark.name}:{node.start_mark.line + 1}: {problem}")


def _plain(node: yaml.Node) -> Any:
    """The value of a node. Raises JobFileError where it is none, such as the 99th of a month."""
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        told = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        raise _error_at(node, f"found what is no value: {told}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _shown(node: yaml.Node | None) -> str:
    if node is None:
        return "nothing"
    return repr(_plain(node)) if isinstance(node, yaml.ScalarNode | yaml.SequenceNode) else "a mapping"
