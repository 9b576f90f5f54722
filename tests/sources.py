"""One small good source of each format: what tests of bad ones begin with."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import test_argoverse2
import test_argoverse2_sensor
import test_commonroad
import test_gpudrive
import test_nuplan
import test_scenarionet
import test_sumo_reader
import test_waymo_motion

VTYPES = '<additional><vType id="c" length="5" width="2"/></additional>'
TLS = '<tlsStates><tlsState time="0" id="b" state="r"/><tlsState time="5" id="b" state="G"/></tlsStates>'


def write(format: str, folder: Path) -> Path:
    """A good source of a format in `folder`, of two agents or more."""
    match format:
        case "argoverse2_motion":
            tracks = test_argoverse2.rows({"AV": "vehicle", "b": "bus"}, 60)
            return Path(test_argoverse2.write(folder, tracks, test_argoverse2.street()))
        case "argoverse2_sensor":
            boxes = test_argoverse2_sensor.annotations({"b": ("BUS", 10.0, 2.0)})
            poses, street = test_argoverse2_sensor.poses(), test_argoverse2_sensor.street()
            return Path(test_argoverse2_sensor.write(folder, boxes, poses, street))
        case "commonroad":
            cars = test_commonroad.car(5) + test_commonroad.car(6)
            return Path(test_commonroad.write(folder, test_commonroad.document(test_commonroad.STREET + cars)))
        case "gpudrive":
            cars = [test_gpudrive.car(1), test_gpudrive.car(2, y=4.0)]
            return Path(test_gpudrive.write(folder, test_gpudrive.scene(*cars)))
        case "nuplan":
            test_nuplan.write_map(folder / "maps")
            return Path(test_nuplan.write_log(folder / "logs", frames=100))
        case "scenarionet":
            return Path(test_scenarionet.write(folder, test_scenarionet.scenario()))
        case "sumo":
            return sumo_run(folder)
        case "waymo_motion":
            scenarios = [test_waymo_motion.scenario(id=name) for name in (b"a", b"b")]
            return Path(test_waymo_motion.write(folder, *scenarios, name="a.tfrecord"))
    raise ValueError(f"no source of {format}")


def sumo_table(agents: int = 2, steps: int = 81) -> pa.Table:
    """Cars that drive 10 m/s to the east, 10 m behind each other."""
    step, agent = np.repeat(np.arange(steps), agents), np.tile(np.arange(agents), steps)
    return pa.table(
        {
            "timestep_time": step * 0.1,
            "vehicle_id": [f"car{i}" for i in agent],
            "vehicle_x": 10.0 + step - 10.0 * agent,
            "vehicle_y": np.full(len(step), -1.6),
            "vehicle_angle": np.full(len(step), 90.0),
            "vehicle_type": ["c"] * len(step),
            "vehicle_speed": np.full(len(step), 10.0),
        }
    )


def sumo_run(folder: Path) -> Path:
    """A run folder of two cars on a straight road with a light."""
    run = folder / "straight"
    run.mkdir(parents=True)
    (run / "net.xml.gz").write_bytes(gzip.compress(test_sumo_reader.STRAIGHT))
    (run / "vtypes.add.xml").write_text(VTYPES)
    (run / "tls.xml").write_text(TLS)
    pq.write_table(sumo_table(), run / "fcd.parquet")
    return run
