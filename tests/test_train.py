"""Training on Ray: a stage on a real table, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from crossroads import write_windows

from pipelines import train
from sdiff import tables
from sdiff.model import checkpoint
from sdiff.model.autoencoder import Autoencoder
from sdiff.model.recipe import Recipe
from sdiff.scene import MAP_CHANNELS, AgentTokens, SceneToken

RECIPE = """
name: tiny
autoencoder: {latent_channels: 4, width: 16, map_width: 16, decoder_blocks: 1}
denoiser: {widths: [16, 16, 16], map_width: 16, token_width: 16, heads: 2}
train_denoiser: {steps: 60, batch_size: 4, warmup: 5}
"""

TRAIN = """
import sys
from pipelines import train
stage, windows, output, recipe = sys.argv[1:]
train.run(stage, windows, output, recipe, checkpoint_s=0)
"""

START_S = 900
"""Ray Train starts some ten processes; on two busy cores that takes minutes."""


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_windows(tmp_path_factory.mktemp("windows"), logs=3)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return str(path)


def start(stage: str, windows: str, output: Path, recipe: str) -> "subprocess.Popen[bytes]":
    """A training of its own, as a user starts one: in a folder, with paths from there."""
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, stage, os.path.relpath(windows, output), ".", recipe],
        cwd=output,
        env={
            **os.environ,
            "RAY_TMPDIR": f"/tmp/ray-sdiff-train-{os.getpid()}",
            "RAY_worker_niceness": "0",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(job: "subprocess.Popen[bytes]") -> None:
    _, errors = job.communicate(timeout=START_S)
    assert job.returncode == 0, errors.decode()


def steps_logged(output: Path, stage: str) -> list[int]:
    file = output / stage / "loss.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def test_a_killed_training_goes_on_from_its_last_state_to_a_model_that_samples(
    windows: str, recipe: str, tmp_path: Path
) -> None:
    tiny = Recipe.from_json(yaml.safe_load(RECIPE))
    weights = {f"autoencoder.{k}": v for k, v in Autoencoder(tiny.autoencoder).state_dict().items()}
    checkpoint.save(str(tmp_path / "model"), weights, {"recipe": tiny.to_json()})
    job = start("denoiser", windows, tmp_path, recipe)
    deadline = time.monotonic() + START_S
    while not steps_logged(tmp_path, "denoiser") and time.monotonic() < deadline:
        assert job.poll() is None, job.stderr.read().decode() if job.stderr else ""
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    before = steps_logged(tmp_path, "denoiser")
    assert before and before[-1] < 60, "killed in the middle"

    finish(start("denoiser", windows, tmp_path, recipe))
    assert steps_logged(tmp_path, "denoiser") == [10, 20, 30, 40, 50, 60]
    step, _ = checkpoint.read_state(str(tmp_path / "denoiser" / "state.safetensors"))
    assert step == 60
    assert {p.name for p in (tmp_path / "denoiser").iterdir()} >= {"loss.png", "samples.png"}
    model = checkpoint.load(str(tmp_path / "model"))
    table = tables.read(windows, "windows", ["map_id", "split"]).to_pylist()
    assert model.trained_maps == {row["map_id"] for row in table if row["split"] == "train"}
    assert float(model.denoiser.latent_scale.std()) > 0  # fitted to the latents of these windows
    maps = np.zeros((1, len(MAP_CHANNELS), 256, 256), np.uint8)
    assert len(model.sample(maps, [AgentTokens.unspecified(0)], [SceneToken()], [(0, "a", 0)], steps=2)) == 1
    with pytest.raises(train.TrainError, match="holds a training with other windows, windows_fingerprint;"):
        train.run("denoiser", write_windows(tmp_path / "others", logs=2), str(tmp_path), recipe)


def test_only_regions_of_the_table_can_be_trained_on(windows: str, tmp_path: Path) -> None:
    with pytest.raises(train.TrainError, match=r"no region atlantis; its regions: \w+"):
        train.run("autoencoder", windows, str(tmp_path), regions=["atlantis"])
