"""Beam for real: processes, a job service, kills, and runners that lose what they were given."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.pipeline import AppliedPTransform, PTransformOverride
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from object_store import ObjectStore
from synthetic import driving_log, gpudrive_json
from test_mine import windows  # noqa: F401

from pipelines import ingest, mine, runners
from sdiff import cli, data_card, storage
from sdiff.ingestion import Slice

LOGS, STRIDE_S = 12, 0.1
LONGEST_S = 60


def files(folder: Path) -> dict[str, bytes]:
    """All that a reader sees: a killed writer on a disk may leave a hidden part."""
    seen = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in seen}


def call(raw: str, output: str, *beam_args: str, workers: int = 1, main: str = "sdiff.cli") -> list[str]:
    program = [sys.executable, "-c", f"from {main} import main; main()", "ingest", "--format", "gpudrive", "--json"]
    places = ["--input", raw, "--output", output, f"--stride-s={STRIDE_S}", f"--workers={workers}"]
    return [*program, *places, "--", *beam_args]


def sdiff(*arguments: Any, **options: Any) -> dict[str, Any]:
    done = subprocess.run(call(*arguments, **options), capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for seed in range(LOGS):
        document = gpudrive_json(driving_log(f"log{seed}", seed=seed))
        (folder / f"log{seed}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def undisturbed(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of one process's run."""
    output = tmp_path_factory.mktemp("undisturbed")
    sdiff(str(raw), str(output))
    return files(output)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Address and process of Beam's portable job service."""
    port = tmp_path / "port"
    main = "apache_beam.runners.portability.local_job_service_main"
    with open(tmp_path / "service.log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", main, "--port_file", str(port)], stdout=log, stderr=log)
    deadline = time.monotonic() + LONGEST_S
    while not (port.exists() and port.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "service.log").read_text()
        time.sleep(0.05)
    yield f"localhost:{port.read_text()}", process
    process.kill()
    process.wait()


def test_two_processes_from_and_to_s3_write_the_bytes_of_one_on_disk(
    s3: ObjectStore, raw: Path, undisturbed: dict[str, bytes]
) -> None:
    bucket = s3.make_bucket("beam")
    for name, data in files(raw).items():
        storage.write_bytes(f"{bucket}/raw/{name}", data)
    report = sdiff(f"{bucket}/raw", f"{bucket}/out", workers=2)
    assert (report["slices"], report["slices_done_before"]) == (LOGS, 0)
    assert s3.contents(f"{bucket}/out") == undisturbed


def test_the_portable_job_service_writes_the_bytes_of_one_process(
    service: tuple[str, Any], raw: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    portable = ("--runner=PortableRunner", f"--job_endpoint={service[0]}", "--environment_type=LOOPBACK")
    report = sdiff(str(raw), str(tmp_path / "out"), *portable)
    assert report["slices"] == LOGS
    assert files(tmp_path / "out") == undisturbed


def finished(output: Path) -> dict[Path, int]:
    """Markers and objects of slices that are done, and when they were written."""
    units = [p.name.removesuffix(".done.json") for p in (output / "_ingest").glob("[!.]*.done.json")]
    return {p: p.stat().st_mtime_ns for unit in units for p in output.rglob(f"{unit}*")}


def slices(output: Path) -> int:
    """How many are done."""
    return sum(path.name.endswith(".done.json") for path in finished(output))


class HeldSlice(ingest.IngestSlice):
    """Begins nothing more where enough slices are done, so that there is a middle to be killed in."""

    def process(self, work: Slice) -> Iterator[ingest.Entry]:
        while slices(Path(self.output)) >= int(os.environ["HELD_AT"]):
            time.sleep(0.05)
        yield from super().process(work)


def main() -> None:
    """The command, held."""
    ingest.IngestSlice = HeldSlice  # type: ignore[misc]
    cli.main()


def started(*arguments: Any, output: Path, done: int, **options: Any) -> "subprocess.Popen[str]":
    """A running command that has done so many slices (one more per process that had begun one), and waits there."""
    process = subprocess.Popen(
        call(*arguments, **options, main=__name__),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HELD_AT": str(done), "PYTHONPATH": str(Path(__file__).parent)},
    )
    deadline = time.monotonic() + LONGEST_S
    while slices(output) < done:
        assert process.poll() is None and time.monotonic() < deadline, "held before its end"
        time.sleep(0.01)
    return process


def children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "sdk_worker_main" in line]


def test_killed_workers_and_drivers_end_the_command_and_the_next_does_what_is_missing(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = started(str(raw), str(output), output=output, done=1, workers=2)
    victim, other = children(command.pid)
    killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    _, errors = command.communicate(timeout=LONGEST_S)
    assert time.monotonic() - killed_at < 15
    assert command.returncode == 1
    last = errors.splitlines()[-1]
    assert last.startswith(f"sdiff: a worker process ({victim}) was killed by signal 9")
    assert last.endswith("run the same command again")
    assert "Traceback" not in errors
    assert not Path(f"/proc/{other}").exists()

    before = slices(output)
    assert 1 <= before < LOGS
    command = started(str(raw), str(output), output=output, done=before + 1)
    command.kill()
    command.communicate()

    before, kept = slices(output), finished(output)
    assert before < LOGS
    report = sdiff(str(raw), str(output))
    assert (report["slices"], report["slices_done_before"]) == (LOGS, before)
    assert files(output) == undisturbed
    assert {path: finished(output)[path] for path in kept} == kept


def test_a_job_service_that_is_killed_ends_the_command(service: tuple[str, Any], raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    portable = ("--runner=PortableRunner", f"--job_endpoint={service[0]}", "--environment_type=LOOPBACK")
    command = started(str(raw), str(output), *portable, output=output, done=1)
    service[1].kill()
    _, errors = command.communicate(timeout=LONGEST_S)
    assert command.returncode == 1
    assert "sdiff: the runner's job service cannot be reached, or is no more" in errors.splitlines()[-1]


class ForgetfulRunner(FnApiRunner):
    """Loses what comes out of one Reshuffle, but for one element, and says that all is done."""

    loses = "spread slices"

    class Override(PTransformOverride):
        def matches(self, applied: AppliedPTransform) -> bool:
            return applied.full_label.endswith(ForgetfulRunner.loses)

        def get_replacement_transform_for_applied_ptransform(self, applied: AppliedPTransform) -> beam.PTransform:
            return Forget()

    def run_pipeline(self, pipeline: beam.Pipeline, options: Any) -> Any:
        pipeline.replace_all([self.Override()])
        return super().run_pipeline(pipeline, options)


class Forget(beam.PTransform):
    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        return elements | beam.Filter(lambda element: "log0" in str(element))


FORGETFUL = (f"--runner={__name__}.{ForgetfulRunner.__name__}",)


@pytest.mark.parametrize("loses", ["spread sources", "spread slices"])
def test_a_runner_that_loses_work_does_not_end_as_if_it_had_not(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loses: str
) -> None:
    monkeypatch.setattr(ForgetfulRunner, "loses", loses)
    with pytest.raises(runners.RunFailed, match=r"ForgetfulRunner .* lost 11 of 12 slices, such as part 1 of 1"):
        ingest.run("gpudrive", str(raw), str(tmp_path), stride_s=STRIDE_S, beam_args=FORGETFUL)
    assert ingest.run("gpudrive", str(raw), str(tmp_path), stride_s=STRIDE_S)["slices_done_before"] == 1
    assert files(tmp_path) | {data_card.NAME: undisturbed[data_card.NAME]} == undisturbed, "but the command's card"


def test_a_runner_that_loses_the_last_step_is_noticed_even_where_an_earlier_run_was_whole(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest.run("gpudrive", str(raw), str(tmp_path), stride_s=1.0)
    monkeypatch.setattr(ForgetfulRunner, "loses", "write the ledger")
    with pytest.raises(runners.RunFailed, match="lost 12 of 12 slices"):
        ingest.run("gpudrive", str(raw), str(tmp_path), stride_s=1.0, beam_args=FORGETFUL)


def test_an_object_that_is_not_there_as_it_was_counted_is_noticed(raw: Path, tmp_path: Path) -> None:
    ingest.run("gpudrive", str(raw), str(tmp_path), stride_s=1.0)
    gone, short = sorted((tmp_path / "windows").iterdir())[:2]
    gone.unlink()
    short.write_bytes(short.read_bytes()[:-1])
    with pytest.raises(runners.RunFailed, match="lost 2 of 12 slices, such as the objects"):
        ingest.run("gpudrive", str(raw), str(tmp_path), stride_s=1.0)


def test_mining_notices_what_a_runner_loses(
    windows: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ForgetfulRunner, "loses", "spread objects")
    with pytest.raises(runners.RunFailed, match=r"lost 1 of 2 objects of windows, such as .*log1"):
        mine.run(str(windows), str(tmp_path / "out"), beam_args=FORGETFUL)
    assert mine.run(str(windows), str(tmp_path / "out"))["objects_done_before"] == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("apache_beam.runners.dask.dask_runner.DaskRunner", "loses rows silently"),
        ("DirectRunner", "downloads a program"),
        ("direct", "downloads a program"),
        ("SwitchingDirectRunner", "downloads a program"),
    ],
)
def test_runners_are_refused_by_name_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"--runner={name} is refused: it {reason}"):
        runners.pipeline_options(1, [f"--runner={name}"])


def test_processes_of_this_machine_are_not_asked_of_a_cluster() -> None:
    with pytest.raises(ValueError, match="--workers 2 is for processes of this machine"):
        runners.pipeline_options(2, ["--runner=FlinkRunner"])
    named = runners.pipeline_options(2, ["--runner=fnapirunner"])
    assert isinstance(runners.runner(named), FnApiRunner)
