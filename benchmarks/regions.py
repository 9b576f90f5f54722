"""How well a model trained in one region does in another: a denoiser for each, and one for all, each tested in each.

    python benchmarks/regions.py --windows URI --output DIR [--region NAME ...] [--minutes 30] [--count 64] [--seed 0]

All on one autoencoder, the shipped one unless --autoencoder names another. Run again to go on. Prints a table for every
measure of MEASURED and writes all to regions.json.
"""

import argparse
import json
from pathlib import Path

import pyarrow.compute as pc

from pipelines import evaluate, generate, train
from sdiff import tables
from sdiff.model import checkpoint

MEASURED = ("mmd2.position", "mmd2.heading", "mmd2.velocity", "drivable_share", "lane_heading_error_rad")
ALL = "all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--region", action="append", help="those of the table unless named")
    parser.add_argument("--autoencoder", default=checkpoint.shipped())
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    table = tables.read(options.windows, "windows", ["region", "split"])
    held_back = table.filter(pc.equal(table["split"], "val"))
    regions = options.region or sorted(set(held_back["region"].to_pylist()))
    job = output / "free.yaml"
    job.write_text("accept: {off_road: true, impossible_motion: true, unfulfilled: true}\n")
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for trained in (*regions, ALL):
        train.run(
            "denoiser",
            options.windows,
            str(output / trained),
            autoencoder=options.autoencoder,
            regions=regions if trained == ALL else [trained],
            minutes=options.minutes,
            seed=options.seed,
        )
        for tested in regions:
            made = output / trained / f"in_{tested}"
            generate.run(
                str(job),
                windows=options.windows,
                where=f"split = 'val' AND region = '{tested}'",
                trained_maps=True,
                model=str(output / trained / "model"),
                count=options.count,
                seed=options.seed,
                output=str(made),
            )
            # A model of a few steps may make no scene with an AV in it.
            some = tables.read(str(made), "scenarios", ["scenario_id"]).num_rows
            result = evaluate.run(str(made), options.windows, seed=options.seed) if some else None
            found.setdefault(trained, {})[tested] = result["columns"]["generated"] if result else {}
            (output / "regions.json").write_text(json.dumps(found, indent=1))
    for key in MEASURED:
        print(f"\n{key}: trained in (down), tested in (across)")
        print("".join(f"{name:>20}" for name in ("", *regions)))
        for trained, row in found.items():
            print("".join(f"{cell:>20}" for cell in (trained, *(_number(row[tested].get(key)) for tested in regions))))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
