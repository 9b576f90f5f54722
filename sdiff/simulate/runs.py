"""Simulate regions and put SUMO's own files into one run folder each."""

import gzip
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sdiff import storage
from sdiff.logs import sumo_net
from sdiff.simulate.regions import REGIONS, Region, network
from sdiff.simulate.tools import run
from sdiff.simulate.traffic import trips, vehicle_types

WARM_UP_S = 120.0
"""Simulated before the recording starts, so that the network is filled."""


def simulate(
    output: str,
    minutes: float = 10.0,
    seed: int = 0,
    regions: int = 4,
    net: str | None = None,
    routes: str | None = None,
    report: Callable[[str], None] = lambda line: None,
    workers: int = 1,
) -> dict[str, object]:
    """Simulate traffic and write one run folder per region under `output` (any fsspec URI)."""
    chosen = REGIONS[:regions]
    done = []
    for region in chosen:
        done.append(_simulate(region, output, minutes, seed, report))
    return {"runs": done}


def _simulate(region: Region, output: str, minutes: float, seed: int, report: Callable[[str], None]) -> str:
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{region.name}".encode()).digest()[:4], "big") >> 1
    with tempfile.TemporaryDirectory(prefix="sdiff-simulate-") as temp:
        folder = Path(temp)
        net_file = network(region, own_seed, folder)
        raw = net_file.read_bytes()
        data = gzip.decompress(raw) if net_file.suffix == ".gz" else raw
        parsed = sumo_net.parse(data)
        (folder / "vtypes.add.xml").write_text(vehicle_types(own_seed))
        end_s = WARM_UP_S + 60 * minutes + 4  # 2 s before the first and after the last block
        files, vehicles = trips(region, parsed, net_file, own_seed, end_s, folder)
        (folder / "tls.add.xml").write_text(
            '<additional><timedEvent type="SaveTLSSwitchStates" dest="tls.xml"/></additional>'
        )
        report(f"{region.name}: {vehicles} vehicles at once, {minutes:g} min")
        began = time.monotonic()

        def on_time(now_s: float) -> None:
            spent = time.monotonic() - began
            left = spent * (end_s - now_s) / max(now_s, 1e-9)
            report(
                f"{region.name}: {now_s:.0f} of {end_s:.0f} s, {now_s / max(spent, 1e-9):.1f} x real time, {left:.0f} s left"
            )

        run(
            "sumo",
            *("--net-file", str(net_file), "--additional-files", "vtypes.add.xml,tls.add.xml"),
            *("--route-files", ",".join(files), "--seed", str(own_seed)),
            *("--step-length", "0.1", "--begin", "0", "--end", f"{end_s:.1f}", "--step-log.period", "200"),
            *("--max-num-vehicles", str(vehicles), "--max-depart-delay", "20"),
            *("--lanechange.duration", "3", "--collision.check-junctions", "--collision.action", "warn"),
            *("--time-to-teleport", "90", "--time-to-teleport.remove", "--ignore-route-errors"),
            *("--device.rerouting.probability", "0.6", "--device.rerouting.period", "30"),
            *("--fcd-output", "fcd.parquet", "--device.fcd.begin", f"{WARM_UP_S:.1f}"),
            *("--fcd-output.attributes", "x,y,angle,type,speed", "--no-warnings"),
            *("--statistic-output", "statistic.xml"),
            folder=folder,
            on_time=on_time,
        )
        report(
            re.sub(
                r"\s+",
                " ",
                " ".join(
                    re.findall(r"<(?:teleports|safety|vehicles|persons) .*?/>", (folder / "statistic.xml").read_text())
                ),
            )
        )
        target = storage.join(output, region.name)
        storage.write_bytes(storage.join(target, "net.xml.gz"), gzip.compress(data, 6, mtime=0))
        tls = re.sub(rb"<!--.*?-->\s*", b"", (folder / "tls.xml").read_bytes(), flags=re.S)
        storage.write_bytes(storage.join(target, "tls.xml.gz"), gzip.compress(tls, 6, mtime=0))
        storage.write_bytes(storage.join(target, "vtypes.add.xml"), (folder / "vtypes.add.xml").read_bytes())
        about = {"region": region.name, "seed": seed, "begin_s": WARM_UP_S, "minutes": minutes}
        storage.write_bytes(storage.join(target, "run.json"), json.dumps(about, indent=2).encode())
        storage.write_bytes(storage.join(target, "fcd.parquet"), (folder / "fcd.parquet").read_bytes())
    return target
