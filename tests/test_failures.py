"""Bulk generation that cannot go on: what a person is told, the exit status, and that nothing half-written stays."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from crossroads import write_windows
from object_store import ObjectStore

from sdiff import storage, tables
from sdiff.model import checkpoint

JOB = """
count: 4
batch: 2
scenarios_per_unit: 2
sampler: {steps: 1, rules: false}
attempts: 1
accept: {collision: true, off_road: true, impossible_motion: true, unfulfilled: true}
"""


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_windows(tmp_path_factory.mktemp("failures") / "crossing")


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    (tmp_path / "job.yaml").write_text(JOB)
    return str(tmp_path / "job.yaml")


def generate(*arguments: str, inside: tuple[str, ...] = (), **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `sdiff generate` as a person does. inside: a program and its arguments that starts it."""
    program = [sys.executable, "-c", "from sdiff.cli import main; main()", "generate"]
    return subprocess.run(
        [*inside, *program, *arguments, "--device", "cpu", "--actors", "1"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def told(done: "subprocess.CompletedProcess[str]") -> str:
    """The message of a command that failed: one paragraph, the last that is said, with exit status 1."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr and "ray." not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("sdiff: ") and "unexpected" not in message
    return message


def files(folder: Path) -> list[Path]:
    """Every file under a folder, hidden ones too."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


SMALL_DISK = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && "$@"; status=$?; cp -a "$DISK" "$KEPT"; exit $status'


@pytest.mark.parametrize(
    ("size", "table", "left"), [("4k", "jobs", 0), ("40k", "scenarios", 1)], ids=["at the plan", "in an actor"]
)
def test_a_full_disk_is_named_and_holds_whole_objects_only(
    windows: str, job_file: str, tmp_path: Path, size: str, table: str, left: int
) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    own_mounts = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*own_mounts, "mount", "-t", "tmpfs", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no disk of our own to fill: this machine lets nobody mount in a user namespace")
    inside = (*own_mounts, "sh", "-c", SMALL_DISK, "sh", size, str(disk))
    where = {"DISK": str(disk), "KEPT": str(kept)}
    done = generate(job_file, "--windows", windows, "--output", f"{disk}/out", inside=inside, **where)
    message = told(done)
    assert f"cannot write {disk}/out/{table}/" in message and "No space left on device" in message
    assert "make room there and run the same command again" in message
    assert len(files(kept)) == left, "nothing half-written"
    if left:
        assert tables.read(str(kept / "out"), "jobs").num_rows == 2, "the plan is whole"


def test_a_bucket_that_an_actor_may_not_write_to_is_named(s3: ObjectStore, windows: str, job_file: str) -> None:
    output = s3.make_bucket("open") + "/out"  # which guests may read
    assert generate(job_file, "--windows", windows, "--output", output).returncode == 0
    before = s3.contents(output)
    lost = sorted(name for name in before if name.startswith("scenarios/"))[0]
    fs, path = storage.filesystem(f"{output}/{lost}")
    fs.rm_file(path)
    guest = s3.environment(guest=True)
    message = told(generate(job_file, "--windows", windows, "--output", output, **guest))
    assert f"cannot write {output}/{lost}" in message and "check your credentials" in message
    assert set(s3.contents(output)) == set(before) - {lost}


def test_a_bucket_that_is_not_there_and_a_wrong_secret_are_named(s3: ObjectStore, windows: str, job_file: str) -> None:
    output = s3.make_bucket("unsigned") + "/out"
    message = told(generate(job_file, "--windows", "s3://never-made/crossing", "--output", output))
    assert "s3://never-made/crossing" in message
    message = told(generate(job_file, "--windows", windows, "--output", output, AWS_SECRET_ACCESS_KEY="wr0ng"))
    assert output in message and "check your credentials" in message and "wr0ng" not in message
    assert s3.contents(output) == {}


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_short(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1_000_000)


def of_another_version(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    facts["recipe"]["denoiser"]["wheels"] = 4
    (folder / "model.json").write_text(json.dumps(facts))


def of_something_else(folder: Path) -> None:
    (folder / "model.json").write_text('["weights"]')


def without_denoiser(folder: Path) -> None:
    weights, facts = checkpoint.read(str(folder))
    checkpoint.save(str(folder), {k: v for k, v in weights.items() if k.startswith("autoencoder.")}, facts)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (shutil.rmtree, "no checkpoint at"),
        (without_weights, "model.safetensors"),
        (cut_short, "is not the file that model.json describes"),
        (of_another_version, "denoiser.wheels"),
        (of_something_else, "holds no mapping"),
        (without_denoiser, "sdiff train denoiser"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_checkpoint_is_named_before_anything_is_written(
    windows: str, job_file: str, tmp_path: Path, harm: Callable[[Path], object], says: str
) -> None:
    model, output = tmp_path / "model", tmp_path / "out"
    shutil.copytree(checkpoint.shipped(), model)
    harm(model)
    message = told(generate(job_file, "--windows", windows, "--output", str(output), "--model", str(model)))
    assert str(model) in message and says in message
    assert not output.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cuont: 3\n", "job.yaml:1: cuont: unknown field; did you mean count?"),
        ("places: {where: speeed > 3}\n", "where"),
    ],
)
def test_a_wrong_job_file_is_answered_before_anything_is_written(
    windows: str, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "job.yaml").write_text(text)
    message = told(generate(str(tmp_path / "job.yaml"), "--windows", windows, "--output", str(tmp_path / "out")))
    assert says in message
    assert not (tmp_path / "out").exists()


def test_a_damaged_object_is_named_and_what_to_do(windows: str, job_file: str, tmp_path: Path) -> None:
    at = (job_file, "--windows", windows, "--output", str(tmp_path / "out"))
    assert generate(*at).returncode == 0
    damaged = min((tmp_path / "out" / "scenarios").glob("*"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    message = told(generate(*at))
    assert f"{damaged} is damaged" in message and message.endswith("delete it and run the same command again")


def test_a_job_of_which_nothing_is_accepted_has_failed(windows: str, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    directive = "{name: far, agents: [{kind: bus, x_m: 48, y_m: 48, heading_rad: 3, speed_mps: 9}]}"
    job.write_text(f"count: 2\nbatch: 2\nsampler: {{steps: 1, rules: false}}\nattempts: 1\ndirectives: [{directive}]\n")
    done = generate(str(job), "--windows", windows, "--output", str(tmp_path / "out"), "--json")
    assert done.returncode == 1 and "no attempt was accepted" in done.stderr.splitlines()[-1]
    assert json.loads(done.stdout)["directives"]["far"]["made"] == 0
