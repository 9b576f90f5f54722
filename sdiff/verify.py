"""Whether tables are whole: what their plans and markers name is there, nothing else is, and all of it can be read."""

import hashlib
import json
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import schemas
from sdiff import mining, storage, tables
from sdiff.ingestion import DONE

AT_ONCE = 4
"""Objects that are read side by side."""
SUFFIX = ".parquet"

AGAIN_GENERATE = "run the same sdiff generate command again"
AGAIN_INGEST = "run the same sdiff ingest command again"
AGAIN_MINE = "run the same sdiff mine command again"


@dataclass(frozen=True)
class Problem:
    """What is wrong with an object, and what to do."""

    object: str
    found: str
    remedy: str


@dataclass
class TableReport:
    """What was found in one table. rows, bytes: of what could be read; compared: objects of which every byte was."""

    table: str
    objects: int = 0
    compared: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Expected:
    """An object that a plan or marker names: rows at most, and exactly where it is known."""

    at_most: int | None
    remedy: str
    job_id: str | None = None


def verify(uri: str) -> list[TableReport]:
    """A report on every table at `uri`, the parent of tables; every object is read in full.

    Of `scenarios` every unit of every plan in `jobs` has to be there, of `maps` every bare map that lent places,
    of `windows`, `agent_tokens` every object of every finished slice of ingest, and of `interactions`, `directives` one
    for every object of windows that mine was run over. An object that nothing names is a
    problem, as is one that is damaged, of another schema, or of another number of rows than was counted when it was
    made. Raises tables.TableError where there is no table, storage.StorageError where a place cannot be listed.
    """
    found = {name: _names(uri, name) for name in schemas.TABLES}
    if not any(found.values()):
        raise tables.TableError(
            f"no table at {uri}; expected a folder that holds one of {', '.join(schemas.TABLES)}, "
            f"each a folder of {SUFFIX} objects"
        )
    reports = {name: TableReport(name) for name, names in found.items() if names}
    expected = _expected(uri, found, reports)
    for name, wanted in expected.items():
        report = reports.setdefault(name, TableReport(name))
        missing = sorted(set(wanted) - set(found[name]))
        report.problems += [Problem(f"{name}/{m}", "is missing", wanted[m].remedy) for m in missing]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, report in reports.items():
            named = expected.get(name)
            work = [(uri, name, n, named.get(n) if named else None) for n in found[name]]
            for checked in pool.map(_check, work):
                report.objects += 1
                report.compared += checked.compared
                report.rows += checked.rows
                report.bytes += checked.bytes
                report.problems += checked.problems
            if named is not None and name in _FOREIGN:
                report.problems += [Problem(f"{name}/{n}", *_FOREIGN[name]) for n in found[name] if n not in named]
    return list(reports.values())


_FOREIGN = {
    "scenarios": (
        "no plan in table jobs names it",
        "run the sdiff generate command that made it again, which writes a lost plan anew; delete it only if no such "
        "command is known",
    ),
    **dict.fromkeys(
        ("windows", "agent_tokens"),
        ("no finished slice names it", f"{AGAIN_INGEST}; delete it only if that does not name it either"),
    ),
    **dict.fromkeys(
        mining.MADE,
        ("no run of mine names it", f"{AGAIN_MINE}; delete it only if that does not name it either"),
    ),
}


def _names(uri: str, table: str) -> list[str]:
    """Names of all objects of a table, those too that no reader takes for a part of it."""
    folder = storage.join(uri, table)
    return [o.rsplit("/", 1)[-1] for o in storage.objects(folder, "")]


def _expected(uri: str, found: dict[str, list[str]], reports: dict[str, TableReport]) -> dict[str, dict[str, Expected]]:
    """Per table the objects that plans and markers name; no entry for a table of which nothing is known."""
    expected: dict[str, dict[str, Expected]] = {}
    if found["jobs"] or found["scenarios"]:
        expected["scenarios"] = {}
    for name in found["jobs"]:
        try:
            data = storage.read_bytes(storage.join(uri, "jobs", name))
            columns = ["job_id", "unit_id", "n_scenarios", "job"]
            plan = pq.read_table(pa.BufferReader(data), columns=columns).to_pylist()
        except (pa.ArrowException, OSError, KeyError):
            continue  # reported with the table jobs
        if plan and name != f"{plan[0]['job_id']}{SUFFIX}":
            reports["jobs"].problems.append(
                Problem(
                    f"jobs/{name}",
                    f"holds the plan of job {plan[0]['job_id']}",
                    f"name it {plan[0]['job_id']}{SUFFIX}, or delete it where that is there",
                )
            )
        for unit in plan:
            expected["scenarios"][f"{unit['unit_id']}{SUFFIX}"] = Expected(
                unit["n_scenarios"], AGAIN_GENERATE, unit["job_id"]
            )
            for map_object in json.loads(unit["job"]).get("maps", []):
                expected.setdefault("maps", {})[map_object] = Expected(None, AGAIN_GENERATE)
    for marker in storage.objects(storage.join(uri, "_ingest"), DONE):
        counts = json.loads(storage.read_bytes(marker))["counts"]
        unit = marker.rsplit("/", 1)[-1].removesuffix(DONE)
        for table in ("windows", "agent_tokens"):
            names = (f"{unit}-{i:05d}{SUFFIX}" for i in range(counts.get("objects", 0)))
            remedy = f"delete _ingest/{unit}{DONE}, which says that it is done, and {AGAIN_INGEST}"
            expected.setdefault(table, {}).update({n: Expected(None, remedy) for n in names})
    if mined := mining.planned(uri):
        expected |= {table: dict.fromkeys(mined, Expected(None, AGAIN_MINE)) for table in mining.MADE}
    return expected


def _check(work: tuple[str, str, str, Expected | None]) -> TableReport:
    """A report on one object."""
    uri, table, name, expected = work
    report = TableReport(table, 1)
    remedy = expected.remedy if expected else "make it again, or delete it"
    remedy = f"delete it, then {remedy}"
    try:
        data = storage.read_bytes(storage.join(uri, table, name))
        report.bytes = len(data)
        problems = list(_faults(data, table, name, expected, report)) if name.endswith(SUFFIX) else ["is no Parquet"]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        problems = [f"cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"]
    report.problems = [Problem(f"{table}/{name}", p, remedy) for p in problems]
    return report


def _faults(data: bytes, table: str, name: str, expected: Expected | None, report: TableReport) -> Iterator[str]:
    """What is wrong with the bytes of an object; page checksums are compared as it is read."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    metadata = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items() if not k.startswith(b"ARROW")}
    schema, version = schemas.arrow_schema(table), str(schemas.table_schema(table).version)
    if metadata.get("sdiff.table") != table:
        yield f"says that it is of table {metadata.get('sdiff.table')}"
        return
    if metadata.get("sdiff.schema_version") != version:
        yield f"has schema version {metadata.get('sdiff.schema_version')}, expected {version}"
        return
    if not file.schema_arrow.equals(schema):
        differing = sorted(f.name for f in {*file.schema_arrow} ^ {*schema})
        yield f"differs from the schema in {', '.join(dict.fromkeys(differing))}"
        return
    report.rows = file.metadata.num_rows
    rows = file.read()
    if metadata.get(tables.ENCODING) == tables.encoding(table):
        report.compared = 1
        known = {tables.ENCODING, *(k.decode() for k in schema.metadata or {})}
        kept = {k: v for k, v in metadata.items() if k not in known}
        if tables.encode(rows, table, kept) != data:
            yield "holds other bytes than its rows make: it was damaged or changed"
    if table == "maps" and name != f"{hashlib.sha256(data).hexdigest()[:16]}{SUFFIX}":
        yield "holds another map than its name says"
    if table == "scenarios" and expected is not None:
        counted = json.loads(metadata.get("sdiff.unit", "{}")).get("scenarios", len(rows))
        if len(rows) != counted:
            yield f"holds {len(rows)} scenarios, but {counted} were counted when it was made"
        if expected.at_most is not None and len(rows) > expected.at_most:
            yield f"holds {len(rows)} scenarios, but its plan asks for {expected.at_most}"
        unit_id = posixpath.splitext(name)[0]
        if set(rows["unit_id"].to_pylist()) - {unit_id} or set(rows["job_id"].to_pylist()) - {expected.job_id}:
            yield "holds scenarios of another unit"
        if len(set(rows["scenario_id"].to_pylist())) < len(rows):
            yield "holds a scenario twice"


def as_result(reports: list[TableReport]) -> dict[str, Any]:
    """The reports as plain values."""
    return {
        "tables": [
            {
                "table": r.table,
                "objects": r.objects,
                "compared byte by byte": r.compared,
                "rows": r.rows,
                "MB": r.bytes / 1e6,
                "problems": len(r.problems),
            }
            for r in reports
        ],
        "problems": [
            {"object": p.object, "found": p.found, "what to do": p.remedy} for r in reports for p in r.problems
        ],
    }
