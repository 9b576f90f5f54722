"""kill -9 of a part of a running generate job, at a moment that the seed decides; then the same command again."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from crossroads import TokensDriveOn
from object_store import ObjectStore

from pipelines import generate
from sdiff import storage

VICTIMS = ("actor", "actors", "driver", "server")
"""One of the two actors that hold the model, both at once, the process of the command, the S3 server.

No other worker of Ray works for the job: what else runs are Ray's own, which count and idle, and its node.
"""
ACTORS = 2
WORKS = "MapWorker"
"""In the name of a process that holds the model."""
SAMPLE_S = 0.8
LONGEST_S = 300


class Slow(TokensDriveOn):
    """Takes its time, so that there is a middle to be killed in."""

    def sample(self, *args: Any, **options: Any) -> Any:
        time.sleep(SAMPLE_S)
        return super().sample(*args, **options)


def load_slow(uri: str | None, device: str) -> Slow:
    return Slow()


@dataclass(frozen=True)
class Outcome:
    """What happened: units there at the kill, whether the first run went on by itself, seconds from the kill on."""

    victim: str
    seed: int
    process: str
    units_before: int
    went_on: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(job_file: str, windows: str, output: str) -> dict[str, Any]:
    """The job, undisturbed."""
    return generate.run(job_file, windows=windows, output=output, actors=ACTORS, device="cpu", load_model=load_slow)


def survive(victim: str, seed: int, job_file: str, windows: str, output: str, store: ObjectStore) -> Outcome:
    """Run the job, kill `victim` once, and run it again where it ended; Ray runs already, started by this process."""
    chance = random.Random(f"{victim}:{seed}")
    wait_for, then_s = chance.randrange(1, 3), chance.uniform(0, SAMPLE_S)
    job = subprocess.Popen(
        [sys.executable, __file__, job_file, windows, output],
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + LONGEST_S
    while _units(output) < wait_for:
        if job.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"the job ended before it was killed: {job.stderr.read().decode()[-2000:] if job.stderr else ''}"
            )
        time.sleep(0.05)
    time.sleep(then_s)
    before, killed_at = _units(output), time.monotonic()
    name = _kill(victim, job, store, chance)
    if victim == "server":
        time.sleep(chance.uniform(0, 3))
        store.start()
    try:
        went_on = job.wait(LONGEST_S) == 0
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        raise
    if not went_on:
        run(job_file, windows, output)
    return Outcome(victim, seed, name, before, went_on, round(time.monotonic() - killed_at, 1))


def _kill(victim: str, job: "subprocess.Popen[bytes]", store: ObjectStore, chance: random.Random) -> str:
    """Returns the names of the processes that were killed."""
    if victim == "driver":
        os.killpg(job.pid, signal.SIGKILL)
        return "driver"
    if victim == "server":
        store.kill()
        return "weed"
    workers = {pid: name for pid, name in sorted(_workers().items()) if WORKS in name}
    if len(workers) != ACTORS:
        raise RuntimeError(f"found {workers} to kill, expected {ACTORS} processes named {WORKS}")
    pids = list(workers) if victim == "actors" else [chance.choice(list(workers))]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return ", ".join(workers[pid] for pid in pids)


def _workers() -> dict[int, str]:
    """Ray's worker processes on the node that this process started, by process id."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [(int(a), int(b), c) for a, b, c in (line.split(maxsplit=2) for line in listed.splitlines())]
    ours = {os.getpid()}
    for _ in range(3):  # this process, the node, its workers
        ours |= {pid for pid, parent, _ in rows if parent in ours}
    return {p: name.strip() for p, _, name in rows if p in ours and name.startswith("ray::")}


def _units(output: str) -> int:
    return len(storage.objects(storage.join(output, "scenarios")))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import killing

    generate.run(
        sys.argv[1], windows=sys.argv[2], output=sys.argv[3], actors=ACTORS, device="cpu", load_model=killing.load_slow
    )
