"""Jobs on a Ray cluster: what the commands say and end with, against a head of our own."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


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
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        start = "from ray.scripts.scripts import main; main()"
        options = (f"--port={free_port()}", f"--dashboard-port={port}", f"--temp-dir={folder}", "--num-cpus=1")
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


def test_a_job_is_submitted_followed_and_stopped(head: str, tmp_path: Path) -> None:
    at = ("--address", head)
    missing = str(tmp_path / "none.yaml")
    submit = ("submit", *at, "--name", "first", "--json", "--", missing, "--count", "3")
    deadline = time.monotonic() + 300
    while "No available agent" in (done := sdiff(*submit)).stderr:  # the head answers before its node can work
        assert time.monotonic() < deadline
        time.sleep(1)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["entrypoint"] == f"sdiff generate {missing} --count 3"
    deadline = time.monotonic() + 240
    while (status := json.loads(sdiff("status", "first", *at, "--json").stdout))["status"] in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline, status
        time.sleep(1)
    assert status["status"] == "FAILED"
    assert f"sdiff: cannot read {missing}" in status["last_line"], "generate's own message"
    assert "none.yaml" in sdiff("logs", "first", *at).stdout
    assert [job["job"] for job in json.loads(sdiff("list", *at, "--json").stdout)["jobs"]] == ["first"]
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
