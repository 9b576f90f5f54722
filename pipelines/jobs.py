"""Jobs on a Ray cluster, through Ray's own Jobs API: submitted, listed, followed, stopped."""

import os
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdiff import storage

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ADDRESS = "http://127.0.0.1:8265"
"""Where a head on this machine listens."""


_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_OF_RAY = re.compile(
    r"\*\*\* SIG|PC: @|\s*@ +0x|\[.*\] \w+\.cc:\d+: "  # its core's
    r"|\((raylet|autoscaler|.*pid=\d+)[^()]*\) |[\d-]+ [\d:,]+\t"  # of other processes, and of its logger
)
"""Lines in a job's log that Ray wrote: the stack of a process that is stopped, news of its nodes, its own logger's."""
ANSWER_S = 15.0
"""How long it may take to answer; Ray itself would wait for as long as the network does."""


class JobError(ValueError):
    """A cluster that does not answer, or a job that it does not have: says which and what to do."""


def submit(arguments: Sequence[str], address: str | None = None, job_id: str | None = None) -> dict[str, Any]:
    """Start `sdiff generate` with `arguments` on the cluster; returns at once.

    The cluster reads the job file and all URIs: they must lie where its head reaches them. Raises JobError, and
    storage.StorageError for a URI that holds a secret.
    """
    for argument in arguments:  # the cluster shows them to all who may list its jobs
        storage.refuse_secrets(argument)
    client = _client(address)
    # Where RAY_ADDRESS names the cluster, generate joins it; Ray sets it for a submitted job.
    entrypoint = f"sdiff generate {shlex.join(arguments)}"
    try:
        return {"job": client.submit_job(entrypoint=entrypoint, submission_id=job_id), "entrypoint": entrypoint}
    except RuntimeError as error:
        raise JobError(f"{_address(address)} refused the job: {error}") from error


def listed(address: str | None = None) -> list[dict[str, Any]]:
    """Every job of the cluster that was submitted, the latest first. Raises JobError."""
    jobs = [job for job in _client(address).list_jobs() if job.submission_id]
    return [_row(job) for job in sorted(jobs, key=lambda job: -(job.start_time or 0))]


def status(job: str, address: str | None = None) -> dict[str, Any]:
    """One job, with the last line that it said. Raises JobError."""
    client = _client(address)
    row = _row(_found(client, job, address))
    return {**row, "last_line": last_line(client.get_job_logs(job))}


def last_line(log: str) -> str | None:
    """What a job itself said last, without what Ray wrote between; None where it said nothing."""
    lines = [_COLOUR.sub("", line) for line in log.splitlines()]
    return next((line for line in reversed(lines) if line.strip() and not _OF_RAY.match(line)), None)


def logs(job: str, address: str | None = None) -> str:
    """All that a job said so far. Raises JobError."""
    client = _client(address)
    _found(client, job, address)
    return str(client.get_job_logs(job))


def cancel(job: str, address: str | None = None) -> dict[str, Any]:
    """Stop a job; what it made stays, and submitting it again goes on there. Raises JobError."""
    client = _client(address)
    _found(client, job, address)
    return {"job": job, "stopped": client.stop_job(job)}


def _address(address: str | None) -> str:
    return address or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS


def _client(address: str | None) -> "JobSubmissionClient":
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        requests.get(f"{_address(address).rstrip('/')}/api/version", timeout=ANSWER_S)
        return JobSubmissionClient(_address(address))
    except AuthenticationError as error:
        raise JobError(
            f"{_address(address)} does not accept this user; set RAY_AUTH_MODE=token and the cluster's RAY_AUTH_TOKEN"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise JobError(
            f"no Ray job server answers at {_address(address)}: {error}; give --address http://HEAD:8265 of a head "
            "that has ray[default]"
        ) from error


def _found(client: "JobSubmissionClient", job: str, address: str | None) -> "JobDetails":
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        raise JobError(f"no job {job} at {_address(address)}; sdiff jobs list names those there are") from error


def _row(job: "JobDetails") -> dict[str, Any]:
    seconds = None if not (job.start_time and job.end_time) else round((job.end_time - job.start_time) / 1000, 1)
    return {"job": job.submission_id, "status": str(job.status), "seconds": seconds, "entrypoint": job.entrypoint}
