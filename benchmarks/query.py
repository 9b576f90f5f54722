"""How fast the questions of docs/query.md are answered over many scenarios.

python benchmarks/query.py make SCENARIOS FOLDER [--rows 1000000] [--per-object 1024]
python benchmarks/query.py ask FOLDER

make: replicates the scenarios of a table (a job's output) with ids, places and severities of their own, as the generate
job writes them. ask: wall and CPU seconds per question, median of 5, each on a connection of its own; files in the
page cache. CPU seconds are those of all threads: where other work runs beside, they say more than the clock.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from sdiff import query, storage, tables
from sdiff.directives.units import SORTED_BY

PAGE = Path(__file__).parents[1] / "docs" / "query.md"
ROUNDS = 5
REGIONS = [f"region{i}" for i in range(8)]
JOB_ID = "0123456789abcdef"


def questions() -> dict[str, str]:
    """Every SQL block of the page by the heading that it stands under."""
    parts = re.split(r"^##+ (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    found = zip(parts[::2], parts[1::2], strict=True)
    return {title: sql for title, text in found for sql in re.findall(r"```sql\n(.+?)```", text, re.S)}


def make(scenarios: str, folder: str, rows: int, per_object: int) -> None:
    """Write tables scenarios and jobs; directives take equal parts of the job, one directive per object."""
    source = tables.read(scenarios, "scenarios")
    directives = sorted(set(source["directive"].to_pylist()))
    n_objects = -(-rows // per_object)
    units = []
    for index in range(n_objects):
        directive = directives[index * len(directives) // n_objects]
        n = min(per_object, rows - index * per_object)
        unit = {"unit_id": f"{JOB_ID}-{index:06d}", "unit_index": index, "directive": directive, "n_scenarios": n}
        units.append({**unit, "job_id": JOB_ID, "seed": 0, "model_id": "replicated", "sampler": "none", "job": "{}"})
        if not storage.exists(f"{folder}/scenarios/{unit['unit_id']}.parquet"):
            alike = source.filter(pc.equal(source["directive"], directive))
            tables.write(_unit(alike, unit, index * per_object), "scenarios", folder, str(unit["unit_id"]))
    tables.write(pa.Table.from_pylist(units, schema=schemas.arrow_schema("jobs")), "jobs", folder, JOB_ID)


def _unit(source: pa.Table, unit: dict[str, Any], first: int) -> pa.Table:
    """A unit's rows: drawn from `source`, nine of ten accepted; numbers that people filter on vary by a factor."""
    rng = np.random.default_rng(unit["unit_index"])
    number = first + np.flatnonzero(rng.random(unit["n_scenarios"]) < 0.9)
    n = len(number)
    rows = source.take(rng.integers(0, len(source), n))
    place = number // 4
    own: dict[str, Any] = {
        "scenario_id": [f"{JOB_ID}-{unit['directive']}-{i:07d}" for i in number],
        "window_id": [f"window{i}" for i in place],
        "region": np.array(REGIONS)[place % len(REGIONS)],
        "job_id": [JOB_ID] * n,
        "unit_id": [unit["unit_id"]] * n,
        "origin_x_m": place * 1.0,
        "lanes_same_direction": pa.array(rng.integers(1, 4, n), pa.int32()),
    }
    for field in rows.schema:
        if field.type == pa.float32():
            own[field.name] = pc.multiply(rows[field.name], pa.array(rng.uniform(0.5, 1.5, n), pa.float32()))
    own |= {name: _shaken(rows[name].combine_chunks(), rng) for name in ("agents", "agents_t0")}
    columns = [own.get(f.name, rows[f.name]) for f in rows.schema]
    table = pa.table([c if isinstance(c, pa.ChunkedArray | pa.Array) else pa.array(c) for c in columns], rows.schema)
    return table.sort_by([(name, "ascending") for name in SORTED_BY])


def _shaken(agents: pa.StructArray, rng: np.random.Generator) -> pa.StructArray:
    """The agents with all their numbers changed by millimetres: rows that repeat would compress to nothing."""
    members = [_shaken_list(agents.field(i), rng) for i in range(agents.type.num_fields)]
    return pa.StructArray.from_arrays(members, fields=list(agents.type))


def _shaken_list(values: pa.Array, rng: np.random.Generator) -> pa.Array:
    if pa.types.is_list(values.type):
        return pa.ListArray.from_arrays(values.offsets, _shaken_list(values.values, rng))
    if not pa.types.is_floating(values.type):
        return values
    return pc.add(values, pa.array(1e-3 * rng.standard_normal(len(values), np.float32)))


def ask(folder: str) -> dict[str, Any]:
    """Median seconds of every question, and what was asked over."""
    objects = storage.objects(f"{folder}/scenarios")
    with query.connect(folder) as con:
        rows = con.sql("SELECT count(*) FROM scenarios").fetchall()[0][0]
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        took = {title: [_seconds(sql, folder) for _ in range(ROUNDS)] for title, sql in questions().items()}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        "duckdb": duckdb.__version__,
        "rows": rows,
        "objects": len(objects),
        "bytes": sum(map(storage.size, objects)),
        "median_s": {title: round(statistics.median(wall for wall, _ in s), 3) for title, s in took.items()},
        "median_cpu_s": {title: round(statistics.median(cpu for _, cpu in s), 3) for title, s in took.items()},
        "all_s": {title: [round(wall, 3) for wall, _ in s] for title, s in took.items()},
    }


def _seconds(sql: str, folder: str) -> tuple[float, float]:
    """Seconds on the clock and of all threads."""
    began, worked = time.perf_counter(), time.process_time()
    query.run(sql, folder)
    return time.perf_counter() - began, time.process_time() - worked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = parser.add_subparsers(dest="work", required=True)
    maker = work.add_parser("make")
    maker.add_argument("scenarios")
    maker.add_argument("folder")
    maker.add_argument("--rows", type=int, default=1_000_000)
    maker.add_argument("--per-object", type=int, default=1024)
    work.add_parser("ask").add_argument("folder")
    options = parser.parse_args()
    if options.work == "make":
        make(options.scenarios, options.folder, options.rows, options.per_object)
    else:
        print(json.dumps(ask(storage.absolute(options.folder)), indent=1))


if __name__ == "__main__":
    main()
