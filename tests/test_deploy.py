"""deploy/ agrees with the project: fields that KubeRay knows, versions of the lock, commands and options that exist."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from test_project import ROOT, locked

import sdiff
from sdiff import cli
from sdiff.directives import job as job_files

DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8")

RAY_JOB = {
    *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint"),
    *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata"),
    *("rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig"),
    *("submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
}
RAY_CLUSTER = {
    *("autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec"),
    *("headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs"),
}
WORKER_GROUP = {
    *("groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams"),
    *("replicas", "resources", "scaleStrategy", "suspend", "template"),
}
"""Fields that KubeRay 1.4 documents (API reference of ray.io/v1)."""


def documents(name: str) -> dict[str, dict[str, Any]]:
    """The objects of a manifest by kind."""
    return {d["kind"]: d for d in yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8"))}


JOB = documents("rayjob.yaml")["RayJob"]
SCHEDULED = documents("rayjob-scheduled.yaml")["RayCronJob"]
SPECS = pytest.mark.parametrize("spec", [JOB["spec"], SCHEDULED["spec"]["jobTemplate"]], ids=["once", "scheduled"])


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Pod specs of the head and of every group of workers."""
    cluster = spec["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def options_of(command: str) -> set[str]:
    """Options of a command of the CLI."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    return {option for parameter in commands[command].params for option in parameter.opts}


@SPECS
def test_a_job_has_fields_that_kuberay_knows(spec: dict[str, Any]) -> None:
    assert JOB["apiVersion"] == SCHEDULED["apiVersion"] == "ray.io/v1"
    assert set(spec) <= RAY_JOB
    assert set(spec["rayClusterSpec"]) <= RAY_CLUSTER
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert set(group) <= WORKER_GROUP
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert all(isinstance(v, str) for v in spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].values())


def test_the_scheduled_job_is_the_same_job() -> None:
    assert SCHEDULED["spec"]["jobTemplate"] == JOB["spec"]
    assert len(SCHEDULED["spec"]["schedule"].split()) == 5


@SPECS
def test_the_entrypoint_is_a_call_that_exists_with_an_actor_per_gpu(spec: dict[str, Any]) -> None:
    program, command, *words = shlex.split(spec["entrypoint"])
    assert program == "sdiff"
    assert {w for w in words if w.startswith("--")} <= options_of(command)
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    gpus = workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert int(words[words.index("--actors") + 1]) == workers["replicas"] * int(gpus)
    assert words[words.index("--device") + 1] == "cuda", "the driver's node has no GPU to find"


@SPECS
def test_workers_stand_the_loss_of_their_node_and_the_head_needs_no_gpu(spec: dict[str, Any]) -> None:
    head, workers = pods(spec)
    assert "nvidia.com/gpu" not in str(head["containers"])
    assert any(t["key"] == "nvidia.com/gpu" for t in workers["tolerations"])
    assert workers["restartPolicy"] == "Never", "KubeRay replaces pods itself"
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0


@SPECS
def test_credentials_come_from_a_secret_and_stand_nowhere(spec: dict[str, Any]) -> None:
    for pod in pods(spec):
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "sdiff-s3"}}]
        assert "env" not in container


def test_the_job_file_is_mounted_where_the_entrypoint_reads_it_and_is_one() -> None:
    config = documents("rayjob.yaml")["ConfigMap"]
    (volume,), (mount,) = pods(JOB["spec"])[0]["volumes"], pods(JOB["spec"])[0]["containers"][0]["volumeMounts"]
    assert volume["configMap"]["name"] == config["metadata"]["name"] and volume["name"] == mount["name"]
    (name,) = config["data"]
    assert shlex.split(JOB["spec"]["entrypoint"])[2] == f"{mount['mountPath']}/{name}"
    assert job_files.parse(config["data"][name], name).count == 100_000


@SPECS
def test_versions_are_those_of_the_lock(spec: dict[str, Any]) -> None:
    assert spec["rayClusterSpec"]["rayVersion"] == locked()["ray"]
    for pod in pods(spec):
        assert pod["containers"][0]["image"].endswith(f":{sdiff.__version__}")
    (beam,) = re.findall(r"beam_python(\S+)_sdk:(\S+)", CONTAINERFILE)
    assert beam == (re.findall(r"^ARG PYTHON=(\d+\.\d+)\.\d+$", CONTAINERFILE, re.M)[0], locked()["apache-beam"])
    assert f"apache-beam[gcp]=={locked()['apache-beam']}" in (DEPLOY / "README.md").read_text(encoding="utf-8")


def test_the_image_has_files_that_exist_fixed_bases_and_a_user() -> None:
    for sources in re.findall(r"^COPY (?!--)(.+) \S+$", CONTAINERFILE, re.M):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    bases = re.findall(r"^FROM (docker\S+)", CONTAINERFILE, re.M)
    assert len(bases) == 2 and all(":" in base and "latest" not in base for base in bases)
    assert re.findall(r"^USER (\S+)", CONTAINERFILE, re.M) == ["sdiff"]


def test_the_lock_has_what_ray_asks_for_on_a_head() -> None:
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    pins = locked()
    for asked in map(Requirement, requires("ray") or ()):
        if asked.marker and "default" in str(asked.marker) and asked.marker.evaluate({"extra": "default"}):
            name = asked.name.replace("_", "-")
            assert asked.specifier.contains(pins[name], prereleases=True), asked


@pytest.mark.parametrize("name", ["flink.options", "dataflow.options"])
def test_beam_knows_every_option(name: str) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    lines = (DEPLOY / "beam" / name).read_text(encoding="utf-8").splitlines()
    arguments = [line for line in lines if not line.startswith("#")]
    parser = argparse.ArgumentParser(allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    assert parser.parse_known_args(arguments)[1] == []
    runner = PipelineOptions(arguments).view_as(StandardOptions).runner
    assert runner.lower().startswith(name.removesuffix(".options"))


def test_every_call_in_the_readme_names_options_that_exist() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    calls = re.findall(r"^sdiff (\w+)(.*)$", text, re.M)
    assert calls
    for command, rest in calls:
        assert set(re.findall(r"--\w[\w-]*", rest.split(" -- ")[0])) <= options_of(command)


def test_every_file_named_in_the_readme_is_there() -> None:
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", readme):
        assert (Path(DEPLOY) / target).exists(), target


def test_the_table_of_costs_is_the_arithmetic_that_it_says() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `.*? \| (\d+) \| ([\d.]+) \|$", text, re.M)
    assert len(rows) >= 8
    for windows_per_s, hours in rows:
        assert float(hours) == pytest.approx(1e6 / 3600 / float(windows_per_s), abs=0.005)
