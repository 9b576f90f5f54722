"""Fixtures that several test files share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import object_store
import pytest

from sdiff.s3 import PatientS3

# Threads of several processes that wait for each other on two cores cost minutes. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers run at niceness 15 unless told otherwise, and starve beside other tests.
os.environ.setdefault("RAY_worker_niceness", "0")

LONGEST = "test_train.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest file first: the other process does the rest in the meantime."""
    items.sort(key=lambda item: item.path.name != LONGEST)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real driving data, named by SDIFF_REAL_DATA; the test is skipped where it is unset."""
    folder = os.environ.get("SDIFF_REAL_DATA")
    if not folder:
        pytest.skip("SDIFF_REAL_DATA is unset: no real driving data")
    return Path(folder)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object_store.ObjectStore]:
    """A real S3 server that checks signatures."""
    with object_store.running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def s3(s3_server: object_store.ObjectStore) -> Iterator[object_store.ObjectStore]:
    """The same, where this process and its children find it, and with its credentials."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        PatientS3.clear_instance_cache()
        yield s3_server
    PatientS3.clear_instance_cache()


@pytest.fixture(scope="module")
def ray_of_our_own() -> Iterator[None]:
    """Ray on two cores, whose actors find the modules of the tests."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"/tmp/ray-sdiff-{os.getpid()}")
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SUMO network of a small generated town, four junctions."""
    from sdiff.simulate.tools import run

    folder = tmp_path_factory.mktemp("town")
    grid = ("--grid", "--grid.number=2", "--grid.length=110", "--grid.attach-length=150", "--default.lanenumber=2")
    run("netgenerate", *grid, "--no-turnarounds", "--seed=1", "--output-file=town.net.xml", folder=folder)
    return folder / "town.net.xml"


@pytest.fixture(scope="session")
def sumo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of 24 s of simulated traffic in a small generated town: cars to pedestrians, lights, crossings."""
    from sdiff.simulate import simulate
    from sdiff.simulate.tools import run

    folder = tmp_path_factory.mktemp("sumo")
    town = (
        *("--grid", "--grid.number=2", "--grid.length=110", "--grid.attach-length=90", "--default.lanenumber=2"),
        *("--default-junction-type=traffic_light", "--no-turnarounds", "--seed=1", "--output-file=town.net.xml"),
        *("--sidewalks.guess", "--crossings.guess", "--bikelanes.guess", "--default.speed=13.89"),
    )
    run("netgenerate", *town, folder=folder)
    simulate(str(folder), minutes=0.4, seed=1, net=str(folder / "town.net.xml"))
    return folder / "town_seed1"


@pytest.fixture(scope="session")
def long_run(sumo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same traffic four times after each other, other agents each time, in small row groups."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("long") / "town_seed1"
    shutil.copytree(sumo_run, folder)
    once = pq.read_table(folder / "fcd.parquet")
    time, agent = once["timestep_time"], once["vehicle_id"]
    lasts = pc.max(time).as_py() - pc.min(time).as_py() + 0.1
    laps = [
        once.set_column(0, "timestep_time", pc.add(time, round(lap * lasts, 1))).set_column(
            once.column_names.index("vehicle_id"), "vehicle_id", pc.binary_join_element_wise(f"lap{lap}", agent, "-")
        )
        for lap in range(4)
    ]
    pq.write_table(pa.concat_tables(laps), folder / "fcd.parquet", row_group_size=len(once) // 3)
    return folder
