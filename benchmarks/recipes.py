"""Recipes beside each other: trained on the same windows for the same time or steps, measured at the same places.

    python benchmarks/recipes.py --windows URI --output DIR [--variant small paper without_map]
        [--minutes 20 40 | --steps 500 500] [--count 64]

`without_map` is `small` on windows whose map image is blank: what is left when the model cannot see the streets. Run
again to go on. Prints one column of the evaluation for each and writes all to recipes.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import evaluate, generate, train
from sdiff import storage, tables
from sdiff.metrics.measures import MEASURES
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, SIGNED_MAP_CHANNELS

WITHOUT_MAP = "without_map"
ASKED = """
name: recipes
accept: {off_road: true, impossible_motion: true, unfulfilled: true}
directives:
  - {name: free}
  - {name: half_of_the_log, ego: from_log, agents: [{from_log: place, share: 0.5}]}
"""
AS_PUBLISHED = "sampler: {name: euler, steps: 100, rules: false}\nmin_score: 0.8\n"
JOBS = {"small": ASKED, "base": ASKED, WITHOUT_MAP: ASKED, "paper": ASKED + AS_PUBLISHED}
"""What each is asked for: nothing, and half of the agents that the log has."""


def blanked(windows: str, output: Path) -> str:
    """A copy of the table and its maps on this machine, with nothing on the map images."""
    for uri in storage.objects(storage.table_uri(windows, "windows").rpartition("/")[0] + "/maps"):
        storage.write_bytes(str(output / "maps" / uri.rsplit("/", 1)[-1]), storage.read_bytes(uri))
    signed = np.array([name in SIGNED_MAP_CHANNELS for name in MAP_CHANNELS], np.uint8)
    blank = (128 * np.repeat(signed, BEV_PIXELS**2)).tobytes()
    for uri in storage.objects(storage.table_uri(windows, "windows")):
        target = output / "windows" / uri.rsplit("/", 1)[-1]
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        fs, path = storage.filesystem(uri)
        table = pq.read_table(path, filesystem=fs)
        at = table.schema.get_field_index("map_bev")
        table = table.set_column(at, table.schema.field(at), pa.array([blank] * len(table), pa.binary()))
        pq.write_table(table, f"{target}.part", compression="zstd")
        Path(f"{target}.part").rename(target)
    return str(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--variant", nargs="+", choices=JOBS, default=["small", "paper", WITHOUT_MAP])
    parser.add_argument("--minutes", type=float, nargs=2, default=[20, 40], help="autoencoder, denoiser")
    parser.add_argument("--steps", type=int, nargs=2, help="of each, instead of minutes")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    output = Path(options.output)
    found: dict[str, dict[str, float | None]] = {}
    for variant in options.variant:
        folder = output / variant
        folder.mkdir(parents=True, exist_ok=True)
        seen = blanked(options.windows, output / "blank") if variant == WITHOUT_MAP else options.windows
        recipe = "small" if variant == WITHOUT_MAP else variant
        for i, stage in enumerate(train.STAGES):
            until = {"steps": options.steps[i]} if options.steps else {"minutes": options.minutes[i]}
            train.run(stage, seen, str(folder), recipe, seed=options.seed, **until)
        job = folder / "job.yaml"
        job.write_text(JOBS[variant])
        generate.run(
            str(job),
            windows=seen,
            where="split = 'val'",
            trained_maps=True,
            model=str(folder / "model"),
            count=options.count,
            seed=options.seed,
            output=str(folder),
        )
        # A model of a few steps may make no scene with an AV in it.
        some = tables.read(str(folder), "scenarios", ["scenario_id"]).num_rows
        result = evaluate.run(str(folder), options.windows, seed=options.seed) if some else None
        found[variant] = result["columns"]["generated"] if result else {}
        (output / "recipes.json").write_text(json.dumps(found, indent=1))
    print("".join(f"{cell:>16}" for cell in ("", *found)))
    for measure in MEASURES:
        values = [row.get(measure.key) for row in found.values()]
        if any(values):
            cells = ("–" if v is None else f"{v:.3f}" for v in values)
            print(f"{measure.key:<32}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
