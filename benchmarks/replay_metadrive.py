"""Do exported scenarios replay in MetaDrive, to the end, where they were exported to be?

    sdiff export --scenarios URI --windows URI --to scenarionet --output DIR --limit 50
    python3 -m venv metadrive && metadrive/bin/pip install metadrive-simulator==0.4.3
    metadrive/bin/python benchmarks/replay_metadrive.py DIR [--output REPORT.json] [--pictures FOLDER] [--boxes]

Needs nothing of this project. Every scenario must pass MetaDrive's own sanity check; then the AV and all road users
replay in ScenarioEnv without a screen, and at every step their pose in the simulator is compared with the file's.
--boxes: every road user as a box of its own size; otherwise as the MetaDrive model that is nearest in length.
Prints one JSON object, and writes it; ends with status 1 where a scenario does not pass.
"""

import argparse
import json
import os
import pickle
import platform
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from metadrive.engine.base_engine import BaseEngine
from metadrive.envs.scenario_env import ScenarioEnv
from metadrive.policy.replay_policy import ReplayEgoCarPolicy
from metadrive.scenario.scenario_description import ScenarioDescription
from metadrive.scenario.utils import read_dataset_summary

NEAR_M, NEAR_RAD = 0.01, 0.01
"""A road user is where its file says if it is this near [m, rad]."""
REPLAYED = ("VEHICLE", "CYCLIST", "PEDESTRIAN")
"""Types that MetaDrive replays; it leaves others out."""


def check(description: dict[str, Any]) -> None:
    """MetaDrive's own check, with values of steps at which nobody is there. Raises AssertionError."""
    ScenarioDescription.sanity_check(description, check_self_type=True, valid_check=True)


def errors_at(env: ScenarioEnv, raw: dict[str, Any], step: int) -> dict[str, tuple[float, float]]:
    """By road user: how far its pose in the simulator is from the file's [m, rad]; infinite where it is missing."""
    av = raw["metadata"]["sdc_id"]
    moved = raw["tracks"][av]["state"]["position"][0, :2]  # MetaDrive puts its origin where the AV starts
    ids = env.engine.traffic_manager.scenario_id_to_obj_id
    there = env.engine.get_objects(list(ids.values()))
    found = {}
    for name, track in raw["tracks"].items():
        state = track["state"]
        if track["type"] not in REPLAYED or not state["valid"][step]:
            continue
        body = there.get(ids.get(name))
        if body is None:
            found[name] = (float("inf"), float("inf"))
            continue
        off = np.asarray(body.position)[:2] + moved - state["position"][step, :2]
        turn = body.heading_theta - state["heading"][step]
        found[name] = (float(np.hypot(*off)), float(abs((turn + np.pi) % (2 * np.pi) - np.pi)))
    return found


def replay(env: ScenarioEnv, index: int, raw: dict[str, Any], picture: Path | None) -> dict[str, Any]:
    """Replay one scenario to its end; what happened, and the largest errors of the AV and of the others."""
    env.reset(seed=index)
    av, steps = raw["metadata"]["sdc_id"], raw["length"]
    worst: dict[str, tuple[float, float]] = {}
    flags: Counter[str] = Counter()
    compared = 0
    for step in range(steps):
        if step:
            info = env.step([0.0, 0.0])[4]
            flags.update(k for k in ("crash_vehicle", "crash_human", "crash_object", "out_of_road") if info.get(k))
        errors = errors_at(env, raw, step)
        compared += len(errors)
        for name, (off_m, off_rad) in errors.items():
            before = worst.get(name, (0.0, 0.0))
            worst[name] = (max(off_m, before[0]), max(off_rad, before[1]))
        if picture is not None and step == raw["metadata"]["current_time_index"]:
            draw(env, picture)
    info = env.step([0.0, 0.0])[4]  # past the last pose: MetaDrive says whether the replay has come to its end
    others = [e for name, e in worst.items() if name != av]
    by_type = Counter(t["type"] for t in raw["tracks"].values())
    return {
        "steps": steps,
        "replay_done": bool(info.get("replay_done", False)),
        "types": dict(sorted(by_type.items())),
        "lanes": sum(f["type"].startswith("LANE") for f in raw["map_features"].values()),
        "lights": len(raw["dynamic_map_states"]),
        "poses_compared": compared,
        "moved_m": round(sum(o["moving_distance"] for o in raw["metadata"]["object_summary"].values()), 1),
        "av_worst_m": round(worst[av][0], 4),
        "av_worst_rad": round(worst[av][1], 4),
        "others_worst_m": round(max((e[0] for e in others), default=0.0), 4),
        "others_worst_rad": round(max((e[1] for e in others), default=0.0), 4),
        "steps_flagged": dict(sorted(flags.items())),
    }


def draw(env: ScenarioEnv, picture: Path) -> None:
    """The simulator's own view from above, 100 m wide."""
    from PIL import Image

    frame = env.render(mode="topdown", window=False, film_size=(3000, 3000), screen_size=(900, 900), scaling=9)
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(frame)).save(picture)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="what sdiff export wrote")
    parser.add_argument("--output", help="the report is written here as well")
    parser.add_argument("--pictures", help="MetaDrive's view from above of each scenario at t0 goes here")
    parser.add_argument("--boxes", action="store_true", help="road users as boxes of their own size")
    options = parser.parse_args()
    folder = Path(options.folder).resolve()
    _, names, where = read_dataset_summary(str(folder))
    raws = [pickle.loads((folder / where[n] / n).read_bytes()) for n in names]
    # Models and textures are drawn, not simulated: without a screen MetaDrive has no need to download them.
    BaseEngine.try_pull_asset = staticmethod(lambda: None)
    env = ScenarioEnv(
        {
            "data_directory": str(folder),
            "num_scenarios": len(names),
            "agent_policy": ReplayEgoCarPolicy,
            "reactive_traffic": False,
            "use_render": False,
            "use_bounding_box": options.boxes,
            "vehicle_config": {"vehicle_model": "varying_dynamics_bounding_box"} if options.boxes else {},
            "store_data": False,
            "store_map": False,
            "log_level": 40,
        }
    )
    results: list[dict[str, Any]] = []
    began = time.perf_counter()
    for i, (name, raw) in enumerate(zip(names, raws, strict=True)):
        picture = Path(options.pictures) / f"{raw['id']}.png" if options.pictures else None
        result: dict[str, Any] = {"scenario": raw["id"], "directive": raw["metadata"]["sdiff"]["directive"]}
        try:
            check(raw)
            result |= replay(env, i, raw, picture)
            passed = (
                result["replay_done"]
                and result["others_worst_m"] <= NEAR_M
                and result["others_worst_rad"] <= NEAR_RAD
                and result["av_worst_m"] <= NEAR_M
                and result["av_worst_rad"] <= NEAR_RAD
            )
            result |= {"passed": passed}
        except Exception as error:  # whatever it is, this scenario has not replayed
            result |= {"passed": False, "error": f"{type(error).__name__}: {error}"}
        results.append(result)
        print(f"{i + 1} of {len(names)}: {name} {'passed' if result['passed'] else result}", file=sys.stderr)
    env.close()
    ran = [r for r in results if "error" not in r]
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "metadrive": version("metadrive-simulator"),
        "numpy": np.__version__,
        "command": " ".join(["benchmarks/replay_metadrive.py", "DIR", *(["--boxes"] if options.boxes else [])]),
        "scenarios": len(results),
        "passed": sum(r["passed"] for r in results),
        "errors": len(results) - len(ran),
        "steps": sum(r["steps"] for r in ran),
        "road_users": dict(sorted(sum((Counter(r["types"]) for r in ran), Counter()).items())),
        "poses_compared": sum(r["poses_compared"] for r in ran),
        "moved_m": round(sum(r["moved_m"] for r in ran), 1),
        "others_worst_m": max((r["others_worst_m"] for r in ran), default=None),
        "others_worst_rad": max((r["others_worst_rad"] for r in ran), default=None),
        "av_worst_m": max((r["av_worst_m"] for r in ran), default=None),
        "av_worst_rad": max((r["av_worst_rad"] for r in ran), default=None),
        "seconds": round(time.perf_counter() - began, 1),
        "bytes_per_scenario": round(np.mean([(folder / where[n] / n).stat().st_size for n in names])),
        "each": results,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        Path(options.output).write_text(text + "\n")
    return 0 if report["passed"] == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
