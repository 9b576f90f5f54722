"""Severity beside SUMO's own surrogate-safety device: the same pairs, the same values, found by other code.

Source: https://sumo.dlr.de/docs/Simulation/Output/SSM_Device.html
"""

import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from sdiff.metrics.severity import approach, encroachment
from sdiff.scene import Agents
from sdiff.simulate.tools import run

STEP_S = 0.1
SIZES_M = {"car": (4.5, 1.8), "van": (6.0, 2.0), "bus": (12.0, 2.5)}

PET_S, TTC_S, DRAC_MPS2 = 0.1, 0.15, 0.05
"""Tolerances. The device times what happens within a step by the speed at its end, and lets boxes cross on centre
lines at right angles."""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs that cross without giving way, and others that come up behind a slow leader."""
    folder = tmp_path_factory.mktemp("ssm")
    grid = ("--grid", "--grid.number", "3", "--grid.length", "150", "--default.speed", "20", "--no-turnarounds")
    run("netgenerate", *grid, "-o", "net.xml", folder=folder)
    reckless = 'sigma="0" jmIgnoreFoeProb="1" jmIgnoreFoeSpeed="100" jmIgnoreJunctionFoeProb="1" minGap="0.5" tau="0.4"'
    kinds = {f"{k}{v}": (*SIZES_M[k], v) for k in SIZES_M for v in (6, 9, 12, 15)}
    rows = [
        f'<vType id="{name}" length="{length}" width="{width}" maxSpeed="{speed}" {reckless}/>'
        for name, (length, width, speed) in kinds.items()
    ]
    rng = np.random.default_rng(1)
    trips = []
    for i in range(16):
        first, second = rng.choice(list(kinds), 2)
        trips.append((15.0 * i, f"east{i}", first, "A1B1 B1C1"))
        trips.append((15.0 * i + rng.uniform(0, 4), f"north{i}", second, "B0B1 B1B2"))
    for i in range(6):
        trips.append((240.0 + 30 * i, f"slow{i}", "van6", "A1B1 B1C1"))
        trips.append((240.0 + 30 * i + 3 + i, f"fast{i}", "car15", "A1B1 B1C1"))
    for depart, name, kind, edges in sorted(trips):
        vehicle = f'<vehicle id="{name}" type="{kind}" depart="{depart:.1f}" departSpeed="max">'
        rows.append(f'{vehicle}<route edges="{edges}"/></vehicle>')
    (folder / "traffic.rou.xml").write_text(f"<routes>{''.join(rows)}</routes>")
    run(
        "sumo",
        *("-n", "net.xml", "-r", "traffic.rou.xml", "--step-length", str(STEP_S), "--end", "460", "--no-warnings"),
        *("--collision.action", "none", "--precision", "6", "--fcd-output", "fcd.xml", "--device.ssm.probability", "1"),
        *("--device.ssm.measures", "TTC DRAC PET", "--device.ssm.thresholds", "5 1 5", "--device.ssm.range", "60"),
        *("--device.ssm.extratime", "6", "--device.ssm.file", "ssm.xml"),
        folder=folder,
    )
    return folder


def tracks(folder: Path) -> dict[str, list[tuple[float, ...]]]:
    """Per vehicle: time, front bumper x, y, angle, speed, length, width."""
    found = defaultdict(list)
    for step in ET.parse(folder / "fcd.xml").getroot():
        for v in step:
            size = SIZES_M[v.get("type", "").rstrip("0123456789")]
            row = (float(v.get(name, "nan")) for name in ("x", "y", "angle", "speed"))
            found[v.get("id", "")].append((float(step.get("time", "nan")), *row, *size))
    return found


def pair(both: list[list[tuple[float, ...]]], begin_s: float, end_s: float) -> Agents:
    """Two vehicles from one time to another."""
    steps = round((end_s - begin_s) / STEP_S) + 1
    fields = np.zeros((5, 2, steps), np.float32)
    valid = np.zeros((2, steps), bool)
    for i, rows in enumerate(both):
        t, x, y, angle, speed, length, _ = np.array(rows).T
        heading = np.pi / 2 - np.radians(angle)
        c, s = np.cos(heading), np.sin(heading)
        at = np.round((t - begin_s) / STEP_S).astype(int)
        there = (at >= 0) & (at < steps)
        values = (x - length / 2 * c, y - length / 2 * s, heading, speed * c, speed * s)
        fields[:, i, at[there]] = np.stack(values)[:, there]
        valid[i, at[there]] = True
    size = np.array([rows[0][5:] for rows in both], np.float32)
    names, ego = np.array(["ego", "foe"]), np.array([True, False])
    return Agents(names, np.zeros(2, np.int8), size[:, 0], size[:, 1], ego, *fields, valid)


def test_the_same_pairs_have_the_same_severity(simulated: Path) -> None:
    driven = tracks(simulated)
    compared = {"PET": [], "TTC": [], "DRAC": []}  # type: dict[str, list[float]]
    for conflict in ET.parse(simulated / "ssm.xml").getroot().iter("conflict"):
        ego, foe = conflict.get("ego", ""), conflict.get("foe", "")
        scene = pair([driven[ego], driven[foe]], float(conflict.get("begin", "")), float(conflict.get("end", "")))
        near, pet = approach(scene), encroachment(scene).pet_s
        if near.min_distance_m[0, 1] == 0:  # in a collision the device ends its count a step before
            continue
        theirs = {m.tag: m.get("value", "NA") for m in conflict if m.tag != "timeSpan"}
        following = ego[:4] in ("slow", "fast") and foe[:4] in ("slow", "fast")
        if theirs["PET"] != "NA" and not following:
            compared["PET"].append(float(theirs["PET"]) - pet.min())
        if theirs["minTTC"] != "NA":
            compared["TTC"].append(float(theirs["minTTC"]) - near.min_ttc_s[0, 1])
        if theirs["maxDRAC"] != "NA" and following:  # across, the device asks of one vehicle to let the other pass
            compared["DRAC"].append(float(theirs["maxDRAC"]) - near.max_drac_mps2[0, 1])
    for name, tolerance, least in (("PET", PET_S, 15), ("TTC", TTC_S, 8), ("DRAC", DRAC_MPS2, 4)):
        assert len(compared[name]) >= least, name
        assert np.abs(compared[name]).max() < tolerance, name
