"""Does what one vehicle is to do change what the others do? A waiting vehicle is told to go, or to stay.

    python benchmarks/right_of_way.py --windows URI --output DIR [--model URI] [--places 40] [--draws 8]

Places are held-back windows whose AV stands before crossing lanes without a signal. Each is sampled twice from the same
noise, with the AV's final speed (at +2 s) set to 0 and to 8 m/s; nothing else is said of anyone. Counted are scenes in
which another vehicle drives through the stretch of road just ahead of the AV in those two seconds: who gives way
does not.
Prints one JSON object; writes right_of_way.png. Scenario Diffusion (arXiv 2311.02738) shows the example.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sdiff import KINDS, VEHICLE_KINDS, storage
from sdiff.columns import agents_from_arrow
from sdiff.geometry import SE2
from sdiff.model import checkpoint
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, STEPS_PAST, Agents, AgentTokens, SceneToken
from sdiff.view import draw
from sdiff.view.sheet import side_by_side

STAYS_MPS, GOES_MPS = 0.0, 8.0
AHEAD_M, HALF_WIDTH_M = (3.0, 16.0), 2.0
"""The stretch ahead of the AV's centre, and half its width."""
BESIDE_M = 8.0
MOVING_MPS = 1.0
CROSSING_PIXELS = 60
"""At least so much of the stretch is covered by lanes across."""
SHOWN = 4


def crossed(agents: Agents) -> bool:
    """Whether a vehicle other than the AV drives through the stretch ahead after t0."""
    later = slice(STEPS_PAST + 1, None)
    x, y = agents.x_m[:, later], agents.y_m[:, later]
    fast = np.hypot(agents.vx_mps[:, later], agents.vy_mps[:, later]) > MOVING_MPS
    across = np.abs(np.sin(agents.heading_rad[:, later])) > np.sin(np.pi / 6)
    inside = (x > AHEAD_M[0]) & (x < AHEAD_M[1]) & (np.abs(y) < HALF_WIDTH_M)
    vehicle = np.isin(agents.kind, [KINDS.index(k) for k in VEHICLE_KINDS]) & ~agents.is_ego
    return bool((inside & fast & across & agents.valid[:, later] & vehicle[:, None]).any())


def waits_at_crossing(agents: Agents, bev: NDArray[np.uint8]) -> bool:
    """Whether the AV stands, and lanes cross the stretch ahead of it."""
    ego = np.flatnonzero(agents.is_ego)
    if not len(ego) or np.hypot(agents.vx_mps[ego[0], STEPS_PAST], agents.vy_mps[ego[0], STEPS_PAST]) > 0.3:
        return False
    sin, cos = ((bev[MAP_CHANNELS.index(c)].astype(float) - 128) / 127 for c in ("lane_sin", "lane_cos"))
    axis = 50 - (np.arange(BEV_PIXELS) + 0.5) * 100 / BEV_PIXELS
    ahead = ((axis > AHEAD_M[0]) & (axis < AHEAD_M[1]))[:, None] & (np.abs(axis) < BESIDE_M)[None]
    return int((ahead & (np.abs(sin) > 0.7) & (np.abs(cos) < 0.5)).sum()) >= CROSSING_PIXELS


def places(windows: str, wanted: int) -> tuple[list[Agents], NDArray[np.uint8]]:
    """Held-back windows of a waiting AV, spread over the table's objects."""
    agents: list[Agents] = []
    maps: list[NDArray[np.uint8]] = []
    objects = storage.objects(storage.table_uri(windows, "windows"))
    share = max(1, wanted // 8)
    for uri in (objects[i] for i in np.random.default_rng(0).permutation(len(objects))):
        fs, path = storage.filesystem(uri)
        table: pa.Table = pq.read_table(
            path, filesystem=fs, columns=["map_bev", "agents", "lights"], filters=[("split", "=", "val")]
        )
        here = 0
        for one, row in zip(agents_from_arrow(table["agents"]), table.select([0, 2]).to_pylist(), strict=True):
            bev = np.frombuffer(row["map_bev"], np.uint8).reshape(-1, BEV_PIXELS, BEV_PIXELS)
            if here < share and not row["lights"]["feature_id"] and waits_at_crossing(one, bev):
                agents.append(one)
                maps.append(bev)
                here += 1
        if len(agents) >= wanted:
            break
    return agents[:wanted], np.stack(maps[:wanted])


def told(end_speed_mps: float) -> AgentTokens:
    """The AV as a car that stands at the origin."""
    values = {"x_m": 0.0, "y_m": 0.0, "heading_rad": 0.0, "speed_mps": 0.0, "end_speed_mps": end_speed_mps}
    token = AgentTokens.unspecified(1)
    named = {k: np.array([v], np.float32) for k, v in values.items()}
    return replace(token, **named, kind=np.array([KINDS.index("car")], np.int8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--model")
    parser.add_argument("--places", type=int, default=40)
    parser.add_argument("--draws", type=int, default=8)
    options = parser.parse_args()
    model = checkpoint.load(options.model)
    logs, maps = places(options.windows, options.places)
    made: dict[float, list[list[Agents]]] = {STAYS_MPS: [], GOES_MPS: []}
    for i, bev in enumerate(maps):
        for speed, found in made.items():
            keys = [(0, f"right_of_way-{i}-{n}", 0) for n in range(options.draws)]
            scene = SceneToken(p_mask=0.95, n_agents=float(len(logs[i])))
            batch = np.repeat(bev[None], options.draws, 0)
            samples = model.sample(batch, [told(speed)] * options.draws, [scene] * options.draws, keys)
            found.append([s.agents for s in samples])
    rates = {speed: np.array([np.mean([crossed(a) for a in of]) for of in found]) for speed, found in made.items()}
    speeds = {speed: float(np.nanmean([ego_end_mps(a) for of in found for a in of])) for speed, found in made.items()}
    difference = rates[STAYS_MPS] - rates[GOES_MPS]
    rng = np.random.default_rng(0)
    drawn = difference[rng.integers(0, len(difference), (2000, len(difference)))].mean(1)
    print(
        json.dumps(
            {
                "model": model.model_id,
                "places": len(logs),
                "draws": options.draws,
                "crossed_in_logs": round(float(np.mean([crossed(a) for a in logs])), 3),
                "crossed_when_it_stays": round(float(rates[STAYS_MPS].mean()), 3),
                "crossed_when_it_goes": round(float(rates[GOES_MPS].mean()), 3),
                "difference": round(float(difference.mean()), 3),
                "difference_95": [round(float(q), 3) for q in np.quantile(drawn, [0.025, 0.975])],
                "av_end_speed_mps": {f"{k:.0f}": round(v, 2) for k, v in speeds.items()},
            },
            indent=1,
        )
    )
    pairs = [
        (i, n)
        for i, (stay, go) in enumerate(zip(made[STAYS_MPS], made[GOES_MPS], strict=True))
        for n in range(options.draws)
        if crossed(stay[n]) and not crossed(go[n])
    ][:: max(1, options.draws // 2)][:SHOWN] or [(i, 0) for i in range(min(SHOWN, len(logs)))]
    pictures = {
        speed: [draw.scene(maps[i], SE2(0.0, 0.0, 0.0), found[i][n], size_px=320) for i, n in pairs]
        for speed, found in made.items()
    }
    page = side_by_side(
        pictures[STAYS_MPS],
        pictures[GOES_MPS],
        header="The AV waits. Told to stay, above; told to reach 8 m/s in two seconds, below; same noise",
        labels=("stays", "goes"),
    )
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "right_of_way.png").write_bytes(draw.encode_png(page))


def ego_end_mps(agents: Agents) -> float:
    """Speed of the AV at the end; NaN where there is none."""
    ego = np.flatnonzero(agents.is_ego)
    return float(np.hypot(agents.vx_mps[ego[0], -1], agents.vy_mps[ego[0], -1])) if len(ego) else float("nan")


if __name__ == "__main__":
    main()
