"""A generate job on S3 that loses a part of itself to kill -9 ends with the bytes of an undisturbed one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from crossroads import write_windows
from killing import VICTIMS, run, survive
from object_store import ObjectStore

from sdiff import verify

JOB = "name: killed\ncount: 32\nscenarios_per_unit: 4\nbatch: 4\nseed: 3\n"


@pytest.fixture(scope="module", autouse=True)
def ray_of_our_own(s3: ObjectStore) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"/tmp/ray-sdiff-{os.getpid()}")
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Job file and windows."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "job.yaml").write_text(JOB)
    return str(folder / "job.yaml"), write_windows(folder / "crossing")


@pytest.fixture(scope="module")
def undisturbed(s3: ObjectStore, job: tuple[str, str]) -> dict[str, bytes]:
    bucket = s3.make_bucket("kills")
    run(*job, f"{bucket}/undisturbed")
    return s3.contents(f"{bucket}/undisturbed")


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_changes_nothing(
    s3: ObjectStore, undisturbed: dict[str, bytes], job: tuple[str, str], victim: str
) -> None:
    output = f"s3://kills/{victim}"
    outcome = survive(victim, 0, *job, output, s3)
    assert 1 <= outcome.units_before < 8, "killed in the middle"
    assert s3.contents(output) == undisturbed
    assert [p for report in verify.verify(output) for p in report.problems] == []
    assert outcome.process.count("MapWorker") == {"actor": 1, "actors": 2}.get(victim, 0)
    if victim != "driver":
        assert outcome.went_on, "the job goes on by itself"
