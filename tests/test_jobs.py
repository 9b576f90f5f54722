"""Jobs on a Ray cluster: what the commands say and end with, against a head of our own."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crossroads import write_windows

from pipelines import jobs
from sdiff import storage, tables, verify

PORTS = (
    *("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port"),
    *("metrics-export-port", "ray-client-server-port", "node-manager-port", "object-manager-port"),
)
JOB = """
sampler: {steps: 2, rules: false}
accept: {collision: true, off_road: true, impossible_motion: true, unfulfilled: true}
scenarios_per_unit: 2
batch: 2
resources: {actors: 1}
"""


def sdiff(*args: str) -> subprocess.CompletedProcess[str]:
    """Run `sdiff jobs` as a person does."""
    program = [sys.executable, "-c", "from sdiff.cli import main; main()", "jobs"]
    return subprocess.run([*program, *args], capture_output=True, text=True, timeout=180, check=False)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the job server of a Ray head of our own, with a token of its own."""
    port, folder = free_port(), Path(f"/tmp/ray-sdiff-jobs-{os.getpid()}")
    with pytest.MonkeyPatch.context() as patch:
        # Of ours, not the program of that name that compares files side by side.
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        patch.setenv("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")  # nobody waits for what it serves
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        start = "from ray.scripts.scripts import main; main()"
        # Of our own, too: all that a head opens at a port that another head on this machine may have.
        options = (f"--dashboard-port={port}", *(f"--{name}={free_port()}" for name in PORTS))
        options = (*options, f"--temp-dir={folder}", "--num-cpus=2")
        memory = "--object-store-memory=100000000"
        command = [sys.executable, "-c", start, "start", "--head", "--block", "--disable-usage-stats", memory, *options]
        ray = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 300
            while sdiff("list", "--address", address).returncode:
                assert ray.poll() is None and time.monotonic() < deadline, "the head did not start"
                time.sleep(1)
            yield address
        finally:
            ray.terminate()
            ray.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


def submit(head: str, name: str, *arguments: str) -> dict[str, Any]:
    """What the command answers."""
    deadline = time.monotonic() + 300
    call = ("submit", "--address", head, "--name", name, "--json", "--", *arguments)
    while "No available agent" in (done := sdiff(*call)).stderr:  # the head answers before its node can work
        assert time.monotonic() < deadline
        time.sleep(1)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def ended(head: str, name: str) -> dict[str, Any]:
    """The job's status once it is no more at work."""
    deadline = time.monotonic() + 240
    while True:
        status: dict[str, Any] = json.loads(sdiff("status", name, "--address", head, "--json").stdout)
        if status["status"] not in ("PENDING", "RUNNING"):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(1)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Arguments of generate for a small job on a made-up crossroads, whose two scenarios take a moment."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "job.yaml").write_text(JOB)
    return str(folder / "job.yaml"), "--windows", write_windows(folder / "crossing"), "--device", "cpu"


def test_a_job_makes_on_the_cluster_what_was_asked_for(head: str, job: tuple[str, ...], tmp_path: Path) -> None:
    made = str(tmp_path / "made")
    submit(head, "small", *job, "--count", "2", "--output", made)
    status = ended(head, "small")
    assert status["status"] == "SUCCEEDED", sdiff("logs", "small", "--address", head).stdout
    assert tables.read(made, "scenarios", ["scenario_id"]).num_rows == 2


def test_a_job_at_work_is_cancelled_and_what_it_made_stays(head: str, job: tuple[str, ...], tmp_path: Path) -> None:
    made = str(tmp_path / "made")
    submit(head, "long", *job, "--count", "10000", "--output", made)
    deadline = time.monotonic() + 240
    while not storage.objects(f"{made}/scenarios"):
        assert time.monotonic() < deadline, sdiff("logs", "long", "--address", head).stdout
        time.sleep(0.5)
    assert json.loads(sdiff("cancel", "long", "--address", head, "--json").stdout) == {"job": "long", "stopped": True}
    status = ended(head, "long")
    assert status["status"] == "STOPPED"
    said = sdiff("logs", "long", "--address", head).stdout
    assert "of 5000 units" in status["last_line"], (
        f"generate's own last word, not the stack of what was stopped:\n{said}"
    )
    found = {problem.found for report in verify.verify(made) for problem in report.problems}
    assert found == {"is missing"}, "none is damaged"


@pytest.mark.parametrize(
    "of_ray",
    [
        "\x1b[33m(raylet)\x1b[0m Task MapWorker(MapBatches(Actor)).submit failed. There are infinite retries remaining",
        "(raylet, ip=10.0.0.7) The node with node id 5 has been marked dead",
        "\x1b[36m(autoscaler +2m4s)\x1b[0m Tip: use `ray status` to view detailed cluster status.",
        "\x1b[36m(MapWorker(MapBatches(Actor)) pid=812, ip=10.0.0.7)\x1b[0m a warning of a library",
        "2026-11-27 21:07:41,113\tWARNING worker.py:2181 -- The driver is shut down",
        "[2026-11-27 21:07:41,113 E 712 712] logging.cc:440: *** SIGTERM received ***",
        "    @     0x7f83  (unknown)  (unknown)",
    ],
)
def test_what_ray_says_is_not_the_last_word_of_the_job(of_ray: str) -> None:
    own = "\x1b[1m12 of 5000 units (2 of them empty), 24 scenarios, 3.1/s, 26:48 left\x1b[0m"
    assert (
        jobs.last_line(f"the plan\n{own}\n{of_ray}\n\n{of_ray}\n")
        == "12 of 5000 units (2 of them empty), 24 scenarios, 3.1/s, 26:48 left"
    )
    assert jobs.last_line(of_ray) is None


def test_a_job_that_fails_says_why(head: str, tmp_path: Path) -> None:
    at = ("--address", head)
    missing = str(tmp_path / "none.yaml")
    assert submit(head, "first", missing, "--count", "3")["entrypoint"] == f"sdiff generate {missing} --count 3"
    status = ended(head, "first")
    assert status["status"] == "FAILED"
    assert f"sdiff: cannot read {missing}" in status["last_line"], "generate's own message"
    assert "none.yaml" in sdiff("logs", "first", *at).stdout
    assert json.loads(sdiff("list", *at, "--json").stdout)["jobs"][0]["job"] == "first", "the latest"
    assert json.loads(sdiff("cancel", "first", *at, "--json").stdout) == {"job": "first", "stopped": False}
    again = sdiff("submit", *at, "--name", "first", "--", missing)
    assert again.returncode == 1 and "first" in again.stderr


def test_a_job_that_is_not_there_is_named(head: str) -> None:
    done = sdiff("status", "nobody", "--address", head)
    assert done.returncode == 1
    assert "no job nobody" in done.stderr and "Traceback" not in done.stderr


def test_without_a_server_the_address_and_the_way_out_are_said() -> None:
    done = sdiff("list", "--address", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "no Ray job server answers at http://127.0.0.1:" in done.stderr and "--address" in done.stderr
    assert "Traceback" not in done.stderr
