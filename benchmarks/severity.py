"""Whether a wanted time to collision is what comes out, and what that costs the rest of the scene: one JSON line.

    python benchmarks/severity.py JOB.yaml --windows URI [--where SQL] [--places 192] [--seed 0]

One attempt at each place, of the job's first directive three times: as it is; unsteered, without its severity; and
free, with the AV alone. `kept`: share of the attempts that keep all rules but that of severity; `inside`: of those that
have the wanted time to collision, too; `lift`: steered over unsteered. `mmd2`: of the agents that nobody asked for at
t0 beside the log's, mean over the places, unbiased, with its standard error: 0 for another sample of the same traffic,
and for the agents of another place's log what stands under `elsewhere`. `mmd2_trafficgen`: by TrafficGen's biased rule,
which small samples lift; `ratio`: steered over free, by that rule.
"""

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from sdiff import columns
from sdiff.directives import job as job_files
from sdiff.directives.directive import Directive, Severity
from sdiff.directives.search import Spot, find, window_rows
from sdiff.directives.units import Unit
from sdiff.generation import MakeUnits, Work, load_checkpoint
from sdiff.metrics.mmd import SIGMA, scene_mmd2, scene_mmd2_trafficgen
from sdiff.scene import Agents
from sdiff.span import Span


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("job")
    options.add_argument("--windows", required=True)
    options.add_argument("--where")
    options.add_argument("--places", type=int, default=192)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    job = job_files.read(given.job).with_options(where=given.where, seed=given.seed, count=given.places)
    wanted = job.directives[0]
    ttc_s = wanted.severity.ttc_s
    assert ttc_s is not None, "the job's first directive wants no time to collision"
    model = load_checkpoint(None, "cpu")
    spots = tuple(find(job, given.windows, {wanted.name: given.places}, model.trained_maps).spots[wanted.name])
    measured: dict[str, Any] = {"model": model.model_id, "places": len(spots)}
    directives = {"steered": wanted, "unsteered": replace(wanted, severity=Severity()), "free": Directive(wanted.name)}
    for name, directive in directives.items():
        one = replace(job, directives=(directive,), attempts=1)
        maker = MakeUnits(Work(one, "severity", "cpu", {}, lambda uri, device: model))
        rows, tally = maker.table(Unit("severity", 0, wanted.name, 0, spots))
        attempts, ttc = tally["attempts"], rows["target_min_ttc_s"].to_numpy()
        measured[name] = {
            "attempts": attempts,
            "kept": round((len(rows) + tally["rejected: severity"]) / attempts, 3),
            "inside": round(int(_inside(ttc, ttc_s).sum()) / attempts, 3),
            **_beside_logs(rows, spots),
            "tally": dict(tally),
        }
    steered, free = measured["steered"], measured["free"]
    measured["lift"] = round(steered["inside"] / max(measured["unsteered"]["inside"], 1 / len(spots)), 1)
    biased = [part["mmd2_trafficgen"] for part in (steered, free)]
    measured["ratio"] = {k: round(biased[0][k] / biased[1][k], 3) for k in biased[1]}
    logs = [columns.agents_from_arrow(row["agents"])[0] for row in window_rows(list(spots), ["agents"])]
    measured["elsewhere"] = _mmd2(list(zip(logs, logs[len(logs) // 2 :] + logs[: len(logs) // 2], strict=True)))
    print(json.dumps(measured))


def _inside(ttc_s: np.ndarray, wanted: Span) -> np.ndarray:
    return (ttc_s >= wanted.low) & (ttc_s <= wanted.high)


def _beside_logs(rows: pa.Table, spots: tuple[Spot, ...]) -> dict[str, dict[str, Any]]:
    """MMD per feature of those that nobody asked for beside the agents of the place's log."""
    of_place = {spot.window_id: spot for spot in spots}
    used = [of_place[w] for w in rows["window_id"].to_pylist()]
    pairs = []
    for made, log in zip(columns.agents_from_arrow(rows["agents"]), window_rows(used, ["agents"]), strict=True):
        assert made.token_index is not None
        rest = made.take((made.token_index < 0) | made.is_ego)
        pairs.append((rest, columns.agents_from_arrow(log["agents"])[0]))
    return _mmd2(pairs)


def _mmd2(pairs: list[tuple[Agents, Agents]]) -> dict[str, dict[str, Any]]:
    """Mean squared MMD of scenes by feature: [unbiased, its standard error], and by TrafficGen's rule."""
    unbiased, biased = (
        {name: np.array([rule(a, b)[name] for a, b in pairs]) for name in SIGMA}
        for rule in (scene_mmd2, scene_mmd2_trafficgen)
    )

    def mean_and_error(values: np.ndarray) -> list[float]:
        values = values[np.isfinite(values)]
        return [round(float(values.mean()), 4), round(float(values.std() / len(values) ** 0.5), 4)]

    return {
        "mmd2": {name: mean_and_error(values) for name, values in unbiased.items()},
        "mmd2_trafficgen": {name: round(float(np.nanmean(values)), 4) for name, values in biased.items()},
    }


if __name__ == "__main__":
    main()
