"""Beam runners: ours, where none is named, those that are refused, and whether a job did all of its work."""

import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import apache_beam as beam
import grpc
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2, beam_provision_api_pb2
from apache_beam.runners import PipelineRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    BeamFnControlServicer,
    GrpcServer,
    GrpcWorkerHandler,
    StateServicer,
    WorkerHandler,
)
from apache_beam.runners.runner import PipelineResult, PipelineState
from google.protobuf import json_format, text_format
from google.protobuf.struct_pb2 import Struct

LOCAL = "FnApiRunner"
_ENDED = "a worker process"
_AGAIN = "What is done is kept: run the same command again"

REFUSED = {
    "dask": "loses rows silently: what a step emits at the end of a bundle is dropped, and nothing is counted",
    "direct": "downloads a program, Prism, and runs that where it can: what runs depends on the network",
}
"""Why a runner is not used, by its name without `Runner`; of Beam 2.77."""


class RunFailed(OSError):
    """The runner did not do all of the work; says what is missing and what to do."""


def pipeline_options(workers: int, beam_args: Sequence[str]) -> PipelineOptions:
    """Beam's options for so many processes; FnApiRunner unless one is named.

    Raises ValueError for a runner that is refused, and for `workers` beside a runner that has options of its own.
    """
    args = list(beam_args)
    if workers > 1:
        args += ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    options = PipelineOptions(args)
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or LOCAL
    name = standard.runner.rsplit(".", 1)[-1].lower().removesuffix("runner")
    if reason := REFUSED.get(name.removeprefix("switching")):
        raise ValueError(
            f"--runner={standard.runner} is refused: it {reason}. Leave --runner out for processes of this machine "
            "(--workers N), or name FlinkRunner, DataflowRunner or PortableRunner"
        )
    if f"{name}runner" == LOCAL.lower():
        standard.runner = LOCAL
    elif workers > 1:
        raise ValueError(
            f"--workers {workers} is for processes of this machine; {standard.runner} has options of its own for how "
            "many it uses, such as --parallelism (Flink) or --max_num_workers (Dataflow)"
        )
    return options


def runner(options: PipelineOptions) -> PipelineRunner | None:
    """The local runner, whose workers get our log levels (it passes no options on by itself); None for any other."""
    if options.view_as(StandardOptions).runner != LOCAL:
        return None
    quiet = Struct()
    quiet.update({"default_sdk_harness_log_level": "ERROR", "sdk_harness_log_level_overrides": {"sdiff": "INFO"}})
    return FnApiRunner(
        provision_info=ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=quiet))
    )


def finish(pipeline: beam.Pipeline) -> PipelineResult:
    """Run a pipeline to its end. Raises RunFailed where it was stopped, or a part of the runner ended early."""
    WatchedWorker.endings.clear()
    try:
        with _broken_streams_unsaid():
            result = pipeline.run()
            state = result.wait_until_finish()
    except (grpc.RpcError, grpc.FutureTimeoutError) as error:
        raise RunFailed(
            f"the runner's job service cannot be reached, or is no more ({_detail(error)}). {_AGAIN}"
        ) from error
    except RuntimeError as error:
        if WatchedWorker.endings:
            raise RunFailed(WatchedWorker.endings[0]) from None
        if "Channel closed prematurely" in str(error):
            raise RunFailed(f"{_ENDED} of the runner was killed, or ended early. {_AGAIN}") from error
        raise
    if state != PipelineState.DONE:
        raise RunFailed(f"the job ended as {state}, expected {PipelineState.DONE}. {_AGAIN}")
    return result


def _detail(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.Call) else "no answer in --job_server_timeout"


@contextmanager
def _broken_streams_unsaid() -> Iterator[None]:
    """Keeps Beam's threads from printing that the streams of a killed process broke: the job's error says it."""
    said, data_plane = threading.excepthook, logging.getLogger("apache_beam.runners.worker.data_plane")
    level = data_plane.level
    threading.excepthook = lambda args: None if issubclass(args.exc_type, grpc.RpcError) else said(args)
    data_plane.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        threading.excepthook = said
        data_plane.setLevel(level)


def counters(result: PipelineResult, namespace: str) -> dict[str, int]:
    """The counters of a finished job; of a runner that has none: {}."""
    try:
        found = result.metrics().query(MetricsFilter().with_namespace(namespace))["counters"]
    except NotImplementedError:
        return {}
    return {c.key.metric.name: c.committed if c.committed is not None else c.attempted for c in found}


def expect_nothing_lost(lost: Sequence[str], planned: int, what: str, options: PipelineOptions) -> None:
    """Raise RunFailed where a runner said that it was done, and was not. lost: names of the work that is missing."""
    if lost:
        name = options.view_as(StandardOptions).runner
        raise RunFailed(
            f"{name} said that all was done, but lost {len(lost)} of {planned} {what}, such as {lost[0]}. {_AGAIN}, "
            "and with another runner where that does not help"
        )


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class WatchedWorker(GrpcWorkerHandler):
    """A worker process of FnApiRunner whose early end ends the job. Beam's own handler waits for its answer for ever.

    All requests that the process has not answered, and those that come, are answered with an error; the job's other
    processes are stopped, so that it ends at once.
    """

    endings: ClassVar[list[str]] = []
    """What is said of the processes of the present job that ended early, the first one first."""

    def __init__(
        self, command: bytes, state: StateServicer, provision: ExtendedProvisionInfo, grpc_server: GrpcServer
    ) -> None:
        super().__init__(state, provision, grpc_server)
        self.command = shlex.split(command.decode())
        self.manager = grpc_server.control_handler._worker_manager
        self.gone, self.closing = threading.Event(), threading.Event()
        self.watcher = threading.Thread(target=self._watch, name=f"watch {self.worker_id}", daemon=True)

    def start_worker(self) -> None:
        found = {"CONTROL": self.control_api_service_descriptor(), "LOGGING": self.logging_api_service_descriptor()}
        environment = {
            **os.environ,
            **{f"{name}_API_SERVICE_DESCRIPTOR": text_format.MessageToString(at) for name, at in found.items()},
            "WORKER_ID": self.worker_id,
            "PIPELINE_OPTIONS": json_format.MessageToJson(self.provision_info.provision_info.pipeline_options),
        }
        self.process = subprocess.Popen(self.command, env=environment)
        self.watcher.start()

    def close(self) -> None:
        self.closing.set()
        if self.gone.wait(0.05):  # its streams are broken: closing them would raise
            self.control_conn.push(BeamFnControlServicer._DONE_MARKER)
            self.stop_worker()
        else:
            super().close()

    def stop_worker(self) -> None:
        self.watcher.join()

    def _watch(self) -> None:
        code = self.process.wait()
        if code or not self.closing.is_set():
            self._end(code)
        self.gone.set()
        while not self.closing.wait(0.1):
            waiting = self.control_conn._futures_by_id
            for name in list(waiting):
                waiting.pop(name).set(beam_fn_api_pb2.InstructionResponse(instruction_id=name, error=_ENDED))

    def _end(self, code: int) -> None:
        """Stop the job's other processes; the first that ended is the reason."""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
        memory = ", as the system does where memory runs out: fewer --workers take less" if code == -9 else ""
        self.endings.append(f"{_ENDED} ({self.process.pid}) {how}{memory}. {_AGAIN}")
        for worker in list(self.manager._workers_by_id.values()):
            worker.process.kill()
