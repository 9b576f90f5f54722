"""The whole model at work: maps and tokens in, scenes of agents out."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdiff.metrics.matching import token_index
from sdiff.model.autoencoder import LATENT_CELLS
from sdiff.model.build import build_autoencoder, build_denoiser
from sdiff.model.conditioning import from_tokens
from sdiff.model.detection import Boxes, Detections, detect, suppressed
from sdiff.model.recipe import Recipe
from sdiff.model.rules import MOST, SIGMA_BELOW, STEPS, STEPS_LAST, broken_m, obeyed, off_road_field
from sdiff.model.samplers import SAMPLERS, karras_sigmas
from sdiff.model.trajectory import interpolate
from sdiff.scene import STEPS_FUTURE, STEPS_PAST, Agents, AgentTokens, Sample, SceneToken
from sdiff.span import Span

EGO_RADIUS_M = 2.0
"""The ego is the agent nearest the origin, if it is within this distance."""


class ScenarioModel(nn.Module):
    """Autoencoder and denoiser of one recipe.

    `model_id` is the fingerprint of the weights; `trained_maps` are ids of the maps that they have seen, where known.
    """

    model_id: str = ""
    trained_maps: frozenset[str] = frozenset()

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.autoencoder = build_autoencoder(recipe.autoencoder)
        self.denoiser = build_denoiser(recipe.denoiser, recipe.autoencoder.latent_channels)

    @torch.no_grad()
    def sample(
        self,
        map_bev: NDArray[np.uint8],
        tokens: list[AgentTokens],
        scene: list[SceneToken],
        noise_keys: list[tuple[int, str, int]],
        sampler: str = "dpmpp2m",
        steps: int = 20,
        min_score: float = 0.5,
        rules: bool = True,
        collisions: bool = False,
        ttc_s: Span | None = None,
    ) -> list[Sample]:
        """One scene for each of B places, window frame.

        map_bev: (B, 8, 256, 256) uint8. tokens, scene: B each. noise_keys: B of (seed, scenario id, attempt); the noise
        of a scene depends on its key alone. rules: sample towards scenes without collisions, vehicles on the road, and
        described agents as described (sdiff.model.rules); collisions: without the first of these; ttc_s: and in which
        the first token's agent has a smallest time to collision with another's in this range [s]. Raises ValueError for
        an unknown sampler.
        """
        if sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}, expected one of {', '.join(SAMPLERS)}")
        device = next(self.parameters()).device
        maps = torch.as_tensor(map_bev, device=device)
        conditions = from_tokens(tokens, scene).to(device)
        context = self.denoiser.context(maps, conditions, self.autoencoder)
        seen, off_road_m = self.autoencoder.look(maps), off_road_field(maps)
        sigmas = karras_sigmas(steps)
        shape = (self.denoiser.latent_channels, LATENT_CELLS, LATENT_CELLS)
        noise = torch.from_numpy(np.stack([keyed_noise(key, shape) for key in noise_keys])).to(device)

        def decode(scaled: Tensor, most: int | None = MOST) -> Boxes:
            return self.autoencoder.decode(self.denoiser.unscale(scaled), seen, most)

        def broken(scaled: Tensor) -> Tensor:
            return broken_m(decode(scaled), off_road_m, conditions, collisions, ttc_s)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            estimate: Tensor = self.denoiser(x, x.new_full((len(x),), sigma), context)
            if not rules or sigma >= SIGMA_BELOW:
                return estimate
            return obeyed(estimate, broken, STEPS_LAST if sigma == sigmas[-2] else STEPS)

        found = detect(decode(SAMPLERS[sampler](denoise, noise * sigmas[0], sigmas), None), min_score)
        return [_sample(boxes, asked) for boxes, asked in zip(found, tokens, strict=True)]


def keyed_noise(key: tuple[int, str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Unit Gaussian noise that is a function of the key alone, float32."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], np.uint64)))
    return generator.standard_normal(shape, np.float32)


def _sample(found: Detections, tokens: AgentTokens) -> Sample:
    """All boxes as agents, and those that stay where boxes overlap: who was asked for before anybody else."""
    agents = to_agents(found)
    stay = suppressed(found, token_index(tokens, agents) >= 0)
    kept = Detections(found.score[stay], found.pose[stay], found.size[stay], found.kind[stay])
    return Sample(to_agents(kept), agents)


def to_agents(found: Detections) -> Agents:
    """Detections of one scene as agents with 41 poses; the one nearest the origin is the ego."""
    motion = interpolate(found.pose)
    n = len(found.score)
    distance = np.hypot(motion.x_m[:, STEPS_PAST], motion.y_m[:, STEPS_PAST])
    is_ego = np.zeros(n, bool)
    if n and distance.min() <= EGO_RADIUS_M:
        is_ego[distance.argmin()] = True
    return Agents(
        agent_id=np.array([f"agent_{i:02d}" for i in range(n)], dtype=np.str_),
        kind=found.kind.astype(np.int8),
        length_m=found.size[:, 0].astype(np.float32),
        width_m=found.size[:, 1].astype(np.float32),
        is_ego=is_ego,
        **motion._asdict(),
        valid=np.ones((n, STEPS_PAST + 1 + STEPS_FUTURE), bool),
        score=found.score.astype(np.float32),
        token_index=np.full(n, -1, np.int32),
    )
