"""Ray, wherever a job is started: the cluster that RAY_ADDRESS names (a submitted job has it), else one of its own."""

import logging
import os


def connect(cpus: int) -> None:
    """Join the named cluster, or start Ray on this machine with `cpus` cores; nothing where Ray already runs."""
    # Ray's core says on stderr that actors could not restart if the driver died; then the job is run again anyway.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    if "RAY_ADDRESS" in os.environ:  # its cores are its own: Ray refuses a count here
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    else:
        ray.init(num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
