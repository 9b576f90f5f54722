"""SUMO's programs, as the `eclipse-sumo` wheel brings them."""

import importlib.util
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path


class SimulationError(ValueError):
    """A simulation failed for what it was given: says which program of SUMO, what it wrote, and what to do."""


def home() -> Path:
    """The folder of SUMO in the wheel."""
    spec = importlib.util.find_spec("sumo")
    if spec is None or spec.origin is None:
        raise SimulationError("SUMO is not installed; install the package eclipse-sumo")
    return Path(spec.origin).parent


def run(program: str, *args: str, folder: Path, on_time: Callable[[float], None] | None = None) -> str:
    """Run a program of SUMO (`sumo`, `netgenerate`) in `folder`; the end of what it wrote, its steps apart.

    on_time: called with the simulated time [s] each time the program prints it.
    Raises SimulationError with the end of what the program wrote.
    """
    env = {**os.environ, "SUMO_HOME": str(home()), "PROJ_DATA": str(home() / "data" / "proj"), "LC_ALL": "C"}
    written = ""
    command = [str(home() / "bin" / program), *args]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 65536):
            text = chunk.decode("utf-8", "replace")
            times = re.findall(r"Step #(\d+\.\d+)", text)
            if times and on_time:
                on_time(float(times[-1]))
            written = (written + re.sub(r"Step #[^\r\n]*[\r\n]+", "", text))[-4000:]
    if process.returncode:
        told = [line for line in written.splitlines() if line.strip() and "proj.db" not in line]
        raise SimulationError(f"{program} failed with status {process.returncode}: " + " | ".join(told[-6:]))
    return written
