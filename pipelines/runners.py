"""Beam runners: ours, where none is named, and what a job counted."""

from collections.abc import Sequence

from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners import PipelineRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.runner import PipelineResult
from google.protobuf.struct_pb2 import Struct


def pipeline_options(workers: int, beam_args: Sequence[str]) -> PipelineOptions:
    """Beam's options for so many processes; FnApiRunner unless one is named. Raises ValueError for the Dask runner."""
    args = list(beam_args)
    if workers > 1:
        args += ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    options = PipelineOptions(args)
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or "FnApiRunner"
    if "dask" in standard.runner.lower():
        raise ValueError("the Dask runner loses rows silently (it never finishes a bundle); name another --runner")
    return options


def runner(options: PipelineOptions) -> PipelineRunner | None:
    """The local runner, whose workers get our log levels (it passes no options on by itself); None for any other."""
    if options.view_as(StandardOptions).runner != "FnApiRunner":
        return None
    quiet = Struct()
    quiet.update({"default_sdk_harness_log_level": "ERROR", "sdk_harness_log_level_overrides": {"sdiff": "INFO"}})
    return FnApiRunner(
        provision_info=ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=quiet))
    )


def counters(result: PipelineResult, namespace: str) -> dict[str, int]:
    """The counters of a finished job."""
    found = result.metrics().query(MetricsFilter().with_namespace(namespace))["counters"]
    return {c.key.metric.name: c.committed if c.committed is not None else c.attempted for c in found}
