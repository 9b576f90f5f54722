"""Ray, wherever a job is started: the cluster that RAY_ADDRESS names (a submitted job has it), else one of its own."""

import logging
import os
import time

from pipelines.watch import every

DATA_STEP_S = 0.05
"""At least so long lasts a step of Ray Data's scheduling loop."""
SAY_EVERY_S = 5.0
"""So often it is said that a cluster does not answer yet."""
ATTEMPTS = 1
"""To reach the named cluster. Within one Ray tries for 40 s; of itself it makes many, for minutes, without a word."""

_log = logging.getLogger(__name__)


def connect(cpus: int) -> None:
    """Join the named cluster, or start Ray on this machine with `cpus` cores; nothing where Ray already runs.

    Raises ConnectionError where the named cluster does not answer.
    """
    # Ray's core says on stderr that actors could not restart if the driver died; then the job is run again anyway.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    if address := os.environ.get("RAY_ADDRESS"):
        _join(address)
    else:
        ray.init(num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)


def _join(address: str) -> None:
    import ray

    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(ATTEMPTS))  # counts attempts, whatever its name says
    try:
        with every(SAY_EVERY_S, lambda: _log.info("waiting for the Ray cluster at %s, as RAY_ADDRESS says", address)):
            ray.init(logging_level=logging.ERROR, log_to_driver=False)  # its cores are its own: Ray refuses a count
    except (ConnectionError, RuntimeError) as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address}, which RAY_ADDRESS names ({error}); see that its head runs and can "
            "be reached from here, or unset RAY_ADDRESS to work on this machine alone"
        ) from error


def quiet_data() -> None:
    """Ray Data without progress bars, and at rest while its output waits to be read.

    Its scheduling loop only waits for tasks that are not done; where all are done and held back, as before a training,
    it runs hot: two thirds of a core that the training needs (Ray 2.60).
    """
    from ray.data import DataContext
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Rest(ExecutionCallback):
        def on_execution_step(self, executor: object) -> None:
            time.sleep(DATA_STEP_S)

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [Rest]
