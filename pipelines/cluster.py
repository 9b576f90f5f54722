"""Ray, wherever a job is started: the cluster that RAY_ADDRESS names (a submitted job has it), else one of its own."""

import logging
import os
import time

DATA_STEP_S = 0.05
"""At least so long lasts a step of Ray Data's scheduling loop."""


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
