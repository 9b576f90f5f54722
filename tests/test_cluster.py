"""A Ray cluster that does not answer: it is said soon, and the command ends."""

import os
import socket
import subprocess
import sys
import time

CODE = """
from sdiff.cli import report
from pipelines import cluster

def work():
    cluster.connect(1)
    return {}

raise SystemExit(report(work, as_json=True, verbose=False))
"""


def test_a_cluster_that_does_not_answer_is_named_while_waiting_and_after_a_minute_at_most() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        environment = {**os.environ, "RAY_ADDRESS": address}
        with subprocess.Popen([sys.executable, "-c", CODE], stderr=subprocess.PIPE, env=environment, text=True) as done:
            assert done.stderr is not None
            # Ray's core may have a word of its own, before or after.
            assert f"waiting for the Ray cluster at {address}, as RAY_ADDRESS says\n" in iter(done.stderr.readline, "")
            assert time.monotonic() - began < 60, "Ray's import, and five seconds"
            said = done.stderr.read()
    assert done.returncode == 1
    assert f"no Ray cluster answers at {address}, which RAY_ADDRESS names" in said
    assert "Traceback" not in said
    assert time.monotonic() - began < 150, "a minute, and what the imports take on a busy machine"
