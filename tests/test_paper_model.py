"""The published model: what it sees, what it says, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from traffic import traffic

from sdiff import KINDS
from sdiff.model import checkpoint
from sdiff.model.batch import T0, pack, scene_batch
from sdiff.model.conditioning import from_tokens
from sdiff.model.detection import assign, detect
from sdiff.model.paper import HEAD_CHANNELS, BinnedTokens, PaperAutoencoder, edges, read_head, vehicles
from sdiff.model.recipe import RECIPES, PaperAutoencoderConfig, PaperDenoiserConfig, Recipe
from sdiff.model.scenario_model import ScenarioModel
from sdiff.model.training import AutoencoderStage, DenoiserStage, TrainState
from sdiff.scene import MAP_CHANNELS, AgentTokens, SceneToken

TINY = replace(
    RECIPES["paper"],
    autoencoder=PaperAutoencoderConfig(widths=(8, 8, 16, 16)),
    denoiser=PaperDenoiserConfig(widths=(8, 16, 16), blocks=1, token_width=16, heads=2),
)
STREET = traffic([0.0, 12.0, -20.0, 30.0], [0.0, 3.5, -3.5, 9.0], [0.0, 3.0, 0.1, 1.0], 8.0, length_m=4.5)
MIXED = replace(STREET, kind=np.array([KINDS.index(k) for k in ("car", "bus", "truck", "pedestrian")], np.int8))
NO_MAP = torch.zeros(1, len(MAP_CHANNELS), 256, 256, dtype=torch.uint8)


def test_a_box_is_where_its_four_distances_say() -> None:
    head = torch.zeros(1, HEAD_CHANNELS, 64, 64)
    head[:, 1], head[:, 2] = 0.0, 1.0  # to the left
    head[:, 3:7] = torch.tensor([4.0, 0.5, 1.0, 1.5]).log().view(4, 1, 1)
    boxes = read_head(head)
    cell = 31 * 64 + 31  # its centre at 0.78, 0.78
    assert boxes.pose[0, cell, T0].tolist() == pytest.approx([0.78125 + 0.5, 0.78125 + 1.5, np.pi / 2], abs=1e-4)
    assert boxes.log_size[0, cell].exp().tolist() == pytest.approx([5.0, 2.0])
    every = torch.arange(64 * 64)[None]
    back = edges(boxes.pose[:, :, T0], boxes.log_size.exp(), every)
    assert torch.allclose(back, head[:, 3:7].flatten(2).transpose(1, 2), atol=1e-3)


def test_pedestrians_and_kinds_leave_no_trace() -> None:
    autoencoder = PaperAutoencoder(TINY.autoencoder)  # type: ignore[arg-type]
    all_cars, mixed, without = (
        scene_batch(pack([a])) for a in (STREET, MIXED, MIXED.take(np.array([True, True, True, False])))
    )
    latents = [autoencoder.encode(s, NO_MAP).mean for s in (mixed, without, all_cars)]
    assert torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])
    assert vehicles(mixed).real.sum() == 3


def test_the_autoencoder_learns_and_assigns_one_cell_each() -> None:
    torch.manual_seed(0)
    autoencoder = PaperAutoencoder(TINY.autoencoder)  # type: ignore[arg-type]
    scenes = scene_batch(pack([MIXED], max_agents=8))
    stage, state = AutoencoderStage(autoencoder), TrainState(autoencoder, replace(TINY.train_autoencoder, warmup=5))
    losses = []
    for _ in range(30):
        terms = stage(scenes, NO_MAP)
        losses.append(terms["loss"].item())
        state.update(terms["loss"])
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    boxes = autoencoder.decode(autoencoder.encode(scenes, NO_MAP).mean, autoencoder.look(NO_MAP))
    assert len(set(assign(boxes, vehicles(scenes), edges)[0, :3].tolist())) == 3


def test_a_whole_model_trains_is_saved_and_samples_vehicles(tmp_path: object) -> None:
    torch.manual_seed(0)
    model = ScenarioModel(TINY)
    scenes = scene_batch(pack([MIXED, STREET], max_agents=8))
    stage = DenoiserStage(model.denoiser, model.autoencoder)
    maps = NO_MAP.expand(2, -1, -1, -1)
    stage.fit_scale([(scenes, maps)])
    state = TrainState(model.denoiser, TINY.train_denoiser)
    for _ in range(2):
        state.update(stage(scenes, maps)["loss"])
    checkpoint.save(str(tmp_path), model.state_dict(), {"recipe": TINY.to_json()})
    again = checkpoint.load(str(tmp_path))
    assert again.recipe == TINY
    tokens = AgentTokens.unspecified(1)
    ((scene, found),) = again.sample(NO_MAP.numpy(), [tokens], [SceneToken()], [(0, "a", 0)], "euler", 3, min_score=0.0)
    assert len(found) >= len(scene) > 0 and set(scene.kind.tolist()) == {KINDS.index("vehicle")}


def test_tokens_of_one_bin_are_one_token_and_nothing_said_is_another() -> None:
    torch.manual_seed(0)
    encoder = BinnedTokens(16)

    def told(speed_mps: float) -> torch.Tensor:
        tokens = AgentTokens.unspecified(1)
        tokens.x_m[:], tokens.y_m[:], tokens.speed_mps[:] = 3.0, 4.0, speed_mps
        return encoder(from_tokens([tokens], [SceneToken(p_mask=0.5)], max_tokens=2))[0][0, 1]

    assert torch.equal(told(4.1), told(5.9))
    assert not torch.allclose(told(4.1), told(6.1))
    assert not torch.allclose(told(0.1), told(float("nan")))


def test_in_training_its_tokens_are_whole() -> None:
    torch.manual_seed(0)
    scenes = scene_batch(pack([STREET] * 32, max_agents=8))
    conditions = ScenarioModel(TINY).denoiser.conditions(scenes)
    assert 0 < conditions.used.sum() < scenes.real.sum()
    assert conditions.given[conditions.used].all() and not conditions.given[~conditions.used].any()


def test_recipes_are_read_back_as_what_they_are() -> None:
    for recipe in RECIPES.values():
        assert Recipe.from_json(recipe.to_json()) == recipe
    mine = Recipe.from_json({"name": "mine", "base": "paper", "autoencoder": {"latent_channels": 8}})
    assert mine.autoencoder == PaperAutoencoderConfig(latent_channels=8)
    with pytest.raises(ValueError, match="unknown base 'papre'"):
        Recipe.from_json({"base": "papre"})
    with pytest.raises(ValueError, match=r"autoencoder\.width\b"):
        Recipe.from_json({"base": "paper", "autoencoder": {"width": 3}})


def test_whatever_the_head_says_is_a_finite_box() -> None:
    head = 50 * torch.randn(1, HEAD_CHANNELS, 64, 64)
    (found,) = detect(read_head(head))
    assert len(found.score) and np.isfinite(found.pose).all() and (found.size < 120).all()
