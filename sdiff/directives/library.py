"""Directives by name: those that come with sdiff, those of a user's own file, and those that `sdiff mine` wrote."""

import difflib
from collections import ChainMap
from collections.abc import Iterator, MutableMapping
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from sdiff import query, storage
from sdiff.directives.reading import JobFileError, Section, overlaid, read_yaml

SHIPPED = Path(__file__).with_name("library.yaml")
NAMES_SHOWN = 30

Library = MutableMapping[str, yaml.Node]
"""Directives as they are written, by name."""


def shipped() -> Library:
    """Those that come with sdiff."""
    return _listed(SHIPPED.read_text(encoding="utf-8"), SHIPPED.name, {})


def read(uri: str, where: str | None = None) -> Library:
    """Those of a YAML file, or of the table directives at `uri`; where: SQL over the flat columns of that table.

    Raises JobFileError, storage.StorageError, query.QueryError.
    """
    if uri.endswith((".yaml", ".yml")):
        if where is not None:
            raise JobFileError(f"{uri}: where takes rows of a table, and this is a file; expected no where beside it")
        return _listed(storage.read_bytes(uri).decode("utf-8", "replace"), uri, shipped())
    sql = f"SELECT name, directive FROM directives WHERE {query.condition(where, 'library.where')} ORDER BY name"
    rows = query.run(sql, uri, sealed=True).to_pylist()
    found = {row["name"]: _listed(row["directive"], f"{uri} {row['name']}", {})[row["name"]] for row in rows}
    if len(found) < len(rows):
        raise JobFileError(f"{uri}: {len(rows) - len(found)} directives have the name of another; mine them anew")
    return found


def sections(top: Section, library: Library) -> Iterator[Section]:
    """The directives of a job, each in full.

    One that names others by `use`, or is a name alone, is what the library says, with its own fields over it; a pattern
    stands for all that it matches. Raises JobFileError.
    """
    for field, node in top.items("directives"):
        if isinstance(node, yaml.ScalarNode):
            key = yaml.ScalarNode(node.tag, "use", node.start_mark, node.end_mark)
            node = yaml.MappingNode("tag:yaml.org,2002:map", [(key, node)], node.start_mark, node.end_mark)
        section = Section(node, field)
        patterns = section.words("use", None, "name of a directive")
        bases = [base for pattern in patterns for base in _matching(section, pattern, library)]
        if len(bases) > 1 and section.has("name"):
            raise section.error("name", f"names one directive, but use stands for {len(bases)}; expected no name")
        yield from (Section(overlaid(base, node), field) for base in bases) if patterns else (section,)


def _matching(section: Section, pattern: str, library: Library) -> list[yaml.Node]:
    found = [node for name, node in library.items() if fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, library, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        names = ", ".join(list(library)[:NAMES_SHOWN]) + (", ..." if len(library) > NAMES_SHOWN else "")
        raise section.error("use", f"found {pattern!r}{hint}, expected a name, or a pattern such as cut_*: {names}")
    return found


def _listed(text: str, file: str, known: Library) -> Library:
    """The directives that a YAML file lists, by their names; a job file is one, too.

    They may use those that are known, and those before them.
    """
    found: Library = {}
    named = ChainMap(found, known)
    for section in sections(read_yaml(text, file), named):
        name = section.text("name")
        if name is None or name in found:
            raise section.error("name", "is missing, or given to two directives; expected a name of its own")
        found[name] = section.node
    if not found:
        raise JobFileError(f"{file}: no directives in it, expected a list `directives`, each with a name")
    return found
