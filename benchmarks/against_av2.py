"""Windows beside the official loader of Argoverse 2: one JSON line with the largest difference of each value.

    python benchmarks/against_av2.py argoverse2_motion INPUT --python VENV/bin/python [--windows 20]
    python benchmarks/against_av2.py argoverse2_sensor INPUT --python VENV/bin/python [--windows 20]

`av2` runs in its own virtual environment and says where each agent is in the city at each time stamp; the windows are
cut as `sdiff ingest` cuts them, mended and rounded, and brought back into the city by their origin. Agents that were
mended are left out of velocities and headings, and counted. Exit status 1 above 1 cm or 0.001 rad.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from sdiff import logs, windows
from sdiff.geometry import wrap_angle
from sdiff.logs.driving_log import DrivingLog
from sdiff.logs.quality import mend

MOTION = """
import json, sys
from pathlib import Path
from av2.datasets.motion_forecasting.scenario_serialization import load_argoverse_scenario_parquet

tracks = load_argoverse_scenario_parquet(Path(sys.argv[1])).tracks
print(json.dumps({
    t.track_id: {s.timestep: [*s.position, s.heading, *s.velocity] for s in t.object_states} for t in tracks
}))
"""

SENSOR = """
import json, sys
from pathlib import Path
import numpy as np
from av2.structures.cuboid import CuboidList
from av2.utils.io import read_city_SE3_ego, read_feather

annotations = Path(sys.argv[1])
poses = read_city_SE3_ego(annotations.parent)
rows = read_feather(annotations)
stamps = sorted(rows["timestamp_ns"].unique())
found = {}
for row, cuboid in zip(rows.itertuples(), CuboidList.from_feather(annotations).cuboids):
    city = poses[row.timestamp_ns].compose(cuboid.dst_SE3_object)
    heading = np.arctan2(city.rotation[1, 0], city.rotation[0, 0])
    found.setdefault(row.track_uuid, {})[stamps.index(row.timestamp_ns)] = [*city.translation[:2], heading]
print(json.dumps(found))
"""


def main() -> None:
    """Compare and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=("argoverse2_motion", "argoverse2_sensor"))
    parser.add_argument("input")
    parser.add_argument("--python", required=True)
    parser.add_argument("--windows", type=int, default=20)
    options = parser.parse_args()
    reader = logs.reader(options.format)
    code = MOTION if options.format == "argoverse2_motion" else SENSOR
    worst = {"position_m": 0.0, "heading_rad": 0.0, "velocity_mps": 0.0}
    compared = poses = mended = 0
    for source in reader.find(options.input):
        if not any(Path(f).name.startswith(("log_map", "city_SE3")) for f in logs.files(reader, source)):
            continue  # a dead letter: there is no map, or no pose
        path = source.removeprefix("file://")
        found = json.loads(
            subprocess.run([options.python, "-c", code, path], stdout=subprocess.PIPE, check=True).stdout
        )
        (log,) = (item for item in reader.read(source) if isinstance(item, DrivingLog))
        cut = list(windows.cut(mend(log)))
        share = -(-options.windows // len(reader.find(options.input)))
        for window in cut[:: max(1, len(cut) // share)][:share]:
            compared += 1
            agents, back = window.agents, window.map_SE2_window
            x, y = back.apply(agents.x_m, agents.y_m)
            vx, vy = back.rotate(agents.vx_mps, agents.vy_mps)
            heading = back.turn(agents.heading_rad)
            for i, name in enumerate(agents.agent_id.tolist()):
                states = found.get(name, {})
                for step in np.flatnonzero(agents.valid[i]).tolist():
                    state = states.get(str(window.step - windows.STEPS_PAST + step))
                    if state is None:
                        continue
                    poses += 1
                    worst["position_m"] = max(
                        worst["position_m"], float(np.hypot(x[i, step] - state[0], y[i, step] - state[1]))
                    )
                    if agents.repaired is not None and agents.repaired[i]:
                        mended += 1
                        continue
                    worst["heading_rad"] = max(
                        worst["heading_rad"], abs(float(wrap_angle(heading[i, step] - state[2])))
                    )
                    if len(state) > 3:
                        off = float(np.hypot(vx[i, step] - state[3], vy[i, step] - state[4]))
                        worst["velocity_mps"] = max(worst["velocity_mps"], off)
    worst = {name: round(value, 6) for name, value in worst.items()}
    print(
        json.dumps({"format": options.format, "windows": compared, "poses": poses, "of mended tracks": mended, **worst})
    )
    sys.exit(int(max(worst["position_m"], worst["velocity_mps"]) > 0.01 or worst["heading_rad"] > 0.001 or not poses))


if __name__ == "__main__":
    main()
