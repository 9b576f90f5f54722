"""Simulate street networks and lay SUMO's own files into one run folder each."""

import gzip
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from sdiff import storage
from sdiff.logs import sumo_net
from sdiff.logs.driving_log import BadRecord
from sdiff.simulate import route_file
from sdiff.simulate.regions import REGIONS, Region, generate
from sdiff.simulate.tools import SimulationError, home, run
from sdiff.simulate.traffic import Demand, routes, vehicle_types

WARM_UP_S = 90.0
"""Simulated before the recording starts, so that traffic has sorted itself."""
MARGIN_S = 4.0
"""Recorded beyond the minutes asked for: 2 s before the first and 2 s after the last log."""

SETTINGS = (
    *("--step-length", "0.1", "--lateral-resolution", "0.8", "--fcd-output.attributes", "x,y,angle,type,speed"),
    *("--collision.check-junctions", "--collision.mingap-factor", "0", "--collision.action", "remove"),
    *("--time-to-teleport", "90", "--time-to-teleport.remove", "--ignore-route-errors", "--no-warnings"),
    *("--device.rerouting.probability", "0.4", "--device.rerouting.period", "30"),
)
"""Of SUMO. The sublane model (lateral-resolution) makes lane changes take their time; who is stuck is taken out."""

Report = Callable[[str], None]


class Times(NamedTuple):
    """When a simulation begins, is recorded from, and ends [s]."""

    begin_s: float
    record_s: float
    end_s: float


def simulate(
    output: str,
    minutes: float = 10.0,
    seed: int = 0,
    regions: int = 4,
    net: str | None = None,
    routes: str | None = None,
    report: Report = lambda line: None,
    workers: int = 1,
) -> dict[str, object]:
    """Simulate traffic, and write a run folder `<output>/<region>_seed<seed>` per region.

    output: any fsspec URI. minutes: recorded time per region, at 10 Hz. regions: the first N of `REGIONS`.
    net, routes: a SUMO network (and route file) of one's own instead; without routes, random traffic is made for it.
    A simulation of one's own routes begins when the first one sets out.
    report: is given a line now and then. workers: simulations at a time. Same seed, same bytes; a run that is there
    already, made from the same, is not made again.
    Returns the runs' URIs and counts: {"runs": [...], "simulated_s": ..., "wall_s": ...}.
    Raises ValueError for a wrong argument, StorageError or SimulationError where the work fails.
    """
    if not 0 < minutes <= 24 * 60:
        raise ValueError(f"minutes is {minutes}, expected more than 0 and at most 1440")
    if routes and not net:
        raise ValueError("routes were given without a network; give the network they belong to as well")
    if not net and not 1 <= regions <= len(REGIONS):
        raise ValueError(f"regions is {regions}, expected 1 to {len(REGIONS)}")
    own = Region(_stem(net), net=net, license="unknown") if net else None
    chosen = (own,) if own else REGIONS[:regions]
    began = time.monotonic()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        runs = list(pool.map(lambda region: _region(region, routes, output, minutes, seed, report), chosen))
    return {"runs": runs, "simulated_s": 60 * minutes * len(runs), "wall_s": round(time.monotonic() - began, 1)}


def _stem(uri: str) -> str:
    """A network file's name without its endings: `town.net.xml.gz` -> `town`."""
    return re.sub(r"(\.net)?(\.xml)?(\.gz)?$", "", uri.rstrip("/").rsplit("/", 1)[-1]) or "net"


def _region(region: Region, own_routes: str | None, output: str, minutes: float, seed: int, report: Report) -> str:
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{region.name}".encode()).digest()[:4], "big") >> 1
    times = _times(60 * minutes)
    with tempfile.TemporaryDirectory(prefix="sdiff-simulate-") as temp:
        folder = Path(temp)
        data = _network(region, own_seed, folder)
        try:
            net = sumo_net.parse(data)
        except BadRecord as error:
            raise SimulationError(f"network of {region.name}: {error}") from None
        (folder / "net.xml").write_bytes(data)
        limit: list[str] = []
        if own_routes:
            own = _own_traffic(own_routes, folder)
            times = _times(60 * minutes, own)
        else:
            random = _demand(region, net, own_seed)
            for name in ("types.add.xml", "vtypes.add.xml"):
                (folder / name).write_text(vehicle_types(own_seed), "utf-8")
            (folder / "traffic.rou.xml").write_text(routes(net, random, own_seed, times.end_s), "utf-8")
            limit = ["--max-num-vehicles", str(random.vehicles), "--max-depart-delay", "30"]
            report(f"{region.name}: {random.vehicles} vehicles at once, {minutes:g} min to record")
        about = {"region": region.name, "seed": seed, "minutes": minutes, "license": region.license}
        about["inputs"] = _fingerprint(times, folder, "net.xml", "traffic.rou.xml", "vtypes.add.xml")
        target = storage.join(output, f"{region.name}_seed{seed}")
        if _is_done(target, about):
            report(f"{region.name}: {target} is there already")
            return target
        _sumo(folder, own_seed, times, limit, _progress(region.name, times, report))
        _expect_traffic(folder, region.name, times)
        _store(folder, data, about, target)
        return target


def _times(recorded_s: float, own: route_file.RouteFile | None = None) -> Times:
    """Random traffic begins at 0 s, one's own when the first one sets out, and warms up until the last one has."""
    begin_s, warm_up_s = 0.0, WARM_UP_S
    if own and np.isfinite(own.first_s):
        begin_s = float(np.floor(own.first_s))
        warm_up_s = min(WARM_UP_S, own.last_s - begin_s)
    return Times(begin_s, begin_s + warm_up_s, begin_s + warm_up_s + recorded_s + MARGIN_S)


def _network(region: Region, seed: int, folder: Path) -> bytes:
    if region.generate:
        return generate(region, seed, folder)
    shipped = home() / region.net
    data = shipped.read_bytes() if shipped.is_file() else storage.read_bytes(region.net)
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _demand(region: Region, net: sumo_net.Net, seed: int) -> Demand:
    """How much traffic the network gets: its density, more or less by seed."""
    length_km = {"vehicle": 0.0, "pedestrian": 0.0}
    for lane in net.lanes.values():
        if lane.function == "normal" and lane.lane_type in length_km:
            length_km[lane.lane_type] += lane.length_m / 1000
    if not length_km["vehicle"]:
        raise SimulationError(f"network of {region.name} has no lane for cars; give one that has")
    busy = np.random.default_rng(seed).uniform(0.7, 1.2)
    vehicles = max(10, round(busy * region.vehicles_per_km * length_km["vehicle"]))
    return Demand(vehicles, region.bikes, round(busy * region.walkers_per_km * length_km["pedestrian"]))


def _own_traffic(uri: str, folder: Path) -> route_file.RouteFile:
    """Put the user's routes into `folder`, and the vehicle types that they have (for readers) and lack (for SUMO)."""
    data = storage.read_bytes(uri)
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    (folder / "traffic.rou.xml").write_bytes(data)
    own = route_file.read(data)
    for name, types in (("types.add.xml", own.lacking), ("vtypes.add.xml", f"{own.types}\n{own.lacking}")):
        (folder / name).write_text(f"<additional>\n{types}\n</additional>\n", "utf-8")
    return own


def _sumo(folder: Path, seed: int, times: Times, limit: list[str], on_time: Callable[[float], None]) -> None:
    (folder / "tls.add.xml").write_text(
        '<additional><timedEvent type="SaveTLSSwitchStates" dest="tls.xml"/></additional>'
    )
    written = run(
        "sumo",
        *("--net-file", "net.xml", "--route-files", "traffic.rou.xml", "--seed", str(seed)),
        *("--additional-files", "types.add.xml,tls.add.xml"),
        *(
            "--begin",
            f"{times.begin_s:.0f}",
            "--end",
            f"{times.end_s:.1f}",
            "--step-log.period",
            "100",
            *limit,
            *SETTINGS,
        ),
        *("--fcd-output", "fcd.parquet", "--device.fcd.begin", f"{times.record_s:.1f}", "--duration-log.statistics"),
        folder=folder,
        on_time=on_time,
    )
    if "final simulation step has been reached" not in written:  # SUMO ends with status 0 when it is told to stop
        ended = re.search(r"ended at time: ([\d.]+)", written)
        raise SimulationError(f"sumo stopped at {ended[1] if ended else '?'} s of {times.end_s:.1f} s; simulate again")


def _expect_traffic(folder: Path, name: str, times: Times) -> None:
    if "vehicle_id" not in pq.read_schema(folder / "fcd.parquet").names:  # only the times of empty steps
        raise SimulationError(
            f"{name}: nobody was on the road in the recorded time, {times.record_s:.1f} to {times.end_s:.1f} s of the "
            "simulation; expected routes on edges of this network, and traffic that is there then"
        )


def _progress(name: str, times: Times, report: Report) -> Callable[[float], None]:
    """Reports at most every 5 s how far a simulation is."""
    began = last = time.monotonic()

    def on_time(now_s: float) -> None:
        nonlocal last
        spent = time.monotonic() - began
        done_s, all_s = now_s - times.begin_s, times.end_s - times.begin_s
        if done_s > 0 and time.monotonic() - last > 5:
            last = time.monotonic()
            left = spent * (all_s - done_s) / done_s
            report(f"{name}: {done_s:.0f} of {all_s:.0f} s, {done_s / spent:.1f} x real time, {left:.0f} s left")

    return on_time


def _fingerprint(times: Times, folder: Path, *names: str) -> str:
    """Of what a simulation is made from, SUMO's version and our own settings included."""
    digest = hashlib.sha256(f"{version('eclipse-sumo')}/{times}/{SETTINGS}".encode())
    for name in names:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def _is_done(target: str, about: dict[str, object]) -> bool:
    path = storage.join(target, "run.json")
    return storage.exists(path) and storage.read_bytes(path) == _json(about)


def _json(about: dict[str, object]) -> bytes:
    return json.dumps(about, indent=2, sort_keys=True).encode()


def _store(folder: Path, net: bytes, about: dict[str, object], target: str) -> None:
    """Upload a run, `run.json` last: where it stands, the run is whole."""
    tls = (folder / "tls.xml").read_bytes() if (folder / "tls.xml").exists() else b"<tlsStates/>"
    files = {
        "net.xml.gz": gzip.compress(net, 6, mtime=0),
        "tls.xml.gz": gzip.compress(re.sub(rb"<!--.*?-->\s*", b"", tls, flags=re.S), 6, mtime=0),  # says when it ran
        "vtypes.add.xml": (folder / "vtypes.add.xml").read_bytes(),
        "fcd.parquet": (folder / "fcd.parquet").read_bytes(),
        "run.json": _json(about),
    }
    for name, data in files.items():
        storage.write_bytes(storage.join(target, name), data)
