"""Who drives, rides and walks: vehicle types of many sizes, and random trips."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from sdiff.logs.sumo_net import Net
from sdiff.simulate.regions import Region
from sdiff.simulate.tools import run


class Population(NamedTuple):
    """One kind of road user: how many types, their share of the distribution, sizes from uniform ranges [m]."""

    name: str
    distribution: str
    vehicle_class: str
    share: float
    types: int
    length_m: tuple[float, float]
    width_m: tuple[float, float]
    max_speed_mps: tuple[float, float]
    behaviour: str = ""


_DRIVER = 'minGap="{gap:.2f}" tau="{tau:.2f}" sigma="{sigma:.2f}" accel="{accel:.2f}" speedFactor="normc({factor:.2f},0.10,0.6,1.35)"'

POPULATIONS = (
    Population("car", "motor", "passenger", 0.68, 24, (3.7, 5.1), (1.65, 1.95), (45, 55)),
    Population("van", "motor", "passenger", 0.12, 6, (5.0, 6.4), (1.95, 2.1), (40, 45)),
    Population("truck", "motor", "truck", 0.08, 8, (6.8, 12.0), (2.35, 2.55), (25, 28)),
    Population("bus", "motor", "coach", 0.05, 4, (10.5, 13.2), (2.5, 2.55), (23, 28)),
    Population("motorcycle", "motor", "motorcycle", 0.07, 4, (2.0, 2.4), (0.75, 0.95), (45, 55)),
    Population("bicycle", "bike", "bicycle", 1.0, 6, (1.65, 1.95), (0.6, 0.7), (4.5, 7.5)),
    Population("pedestrian", "walk", "pedestrian", 1.0, 8, (0.45, 0.7), (0.45, 0.75), (1.0, 1.9)),
)
_ACCEL = {"passenger": 2.6, "truck": 1.3, "coach": 1.2, "motorcycle": 3.5, "bicycle": 1.2}


def vehicle_types(seed: int) -> str:
    """SUMO vehicle types of many sizes and tempers, as an additional file's text."""
    rng = np.random.default_rng(seed)
    groups: dict[str, list[str]] = {}
    for p in POPULATIONS:
        for i in range(p.types):
            s = rng.uniform(size=7)
            size = np.array([p.length_m, p.width_m, p.max_speed_mps])
            length, width, speed = size[:, 0] + s[:3] * (size[:, 1] - size[:, 0])
            driver = ""
            if p.vehicle_class != "pedestrian":
                accel = _ACCEL[p.vehicle_class] * (0.8 + 0.4 * s[6])
                temper = {"gap": 1.2 + 1.6 * s[3], "tau": 0.9 + 0.8 * s[4], "sigma": 0.1 + 0.4 * s[5]}
                driver = _DRIVER.format(accel=accel, factor=0.85 + 0.2 * s[5], **temper)
            groups.setdefault(p.distribution, []).append(
                f'<vType id="{p.name}_{i}" vClass="{p.vehicle_class}" probability="{p.share / p.types:.4f}" '
                f'length="{length:.2f}" width="{width:.2f}" maxSpeed="{speed:.2f}" {driver}/>'
            )
    body = "".join(
        f'  <vTypeDistribution id="{name}">\n    ' + "\n    ".join(types) + "\n  </vTypeDistribution>\n"
        for name, types in groups.items()
    )
    return f"<additional>\n{body}</additional>\n"


def trips(region: Region, net: Net, net_file: Path, seed: int, end_s: float, folder: Path) -> tuple[list[str], int]:
    """Random trips for vehicles, bicycles and walkers in `folder`; the files' names, and how many vehicles at once."""
    vehicles = max(12, round(region.vehicles_per_km * net.length_m("vehicle") / 1000))
    motor_s, bike_s = 60 / (vehicles * (1 - region.bikes)), 60 / max(vehicles * region.bikes, 1e-9)
    walkers = region.walkers_per_km * net.length_m("pedestrian") / 1000
    drive = 'departLane="best" departPos="random_free" departSpeed="avg"'
    plan = [("motor", "passenger", motor_s, drive), ("bike", "bicycle", bike_s, drive)]
    if walkers >= 1:
        plan.append(("walk", "pedestrian", 90 / walkers, 'departPos="random"'))
    files = []
    for i, (name, permission, period_s, attributes) in enumerate(plan):
        persons = ["--persons"] if name == "walk" else ["--edge-permission", permission, "--fringe-factor", "4"]
        run(
            "tools/randomTrips.py",
            *("--net-file", str(net_file), "--additional-files", "vtypes.add.xml", "--output-trip-file", f"{name}.xml"),
            *("--seed", str(seed + i), "--prefix", name[0], "--end", f"{end_s:.1f}", "--period", f"{period_s:.4f}"),
            *("--length", "--lanes", "--validate", "--min-distance", "100", *persons),
            *("--trip-attributes", f'type="{name}" {attributes}'),
            folder=folder,
        )
        files.append(f"{name}.xml")
    return files, vehicles
