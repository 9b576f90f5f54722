"""Scenes to latents and back: a variational encoder of the agent image, a decoder to one box per cell of a grid."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdiff.model.batch import SceneBatch
from sdiff.model.blocks import AgentStem, MapTower, ResBlock
from sdiff.model.detection import HEAD_CHANNELS
from sdiff.model.recipe import AutoencoderConfig

LATENT_CELLS = 32


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents, mean and log variance (B, C, 32, 32)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self) -> Tensor:
        """One draw."""
        return self.mean + (0.5 * self.log_variance).exp() * torch.randn_like(self.mean)

    def kl(self) -> Tensor:
        """Divergence from the unit Gaussian, mean over all elements [nat]."""
        return 0.5 * (self.mean**2 + self.log_variance.exp() - 1 - self.log_variance).mean()


class Autoencoder(nn.Module):
    """Encoder E(agent image) and decoder D(z, map); Scenario Diffusion, section 3 (arXiv 2311.02738).

    Differs from it in the stem (full resolution is left at once) and in the head (class, centre offset and log size,
    so that agents smaller than a cell have a representation).
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        c, w = config.latent_channels, config.width
        self.config = config
        self.encoder = nn.Sequential(
            AgentStem(32),
            nn.Conv2d(32, w, 3, stride=2, padding=1),
            *[ResBlock(w, w) for _ in range(config.blocks)],
            nn.GroupNorm(8, w),
            nn.SiLU(),
            nn.Conv2d(w, 2 * c, 1),
        )
        self.map_tower = MapTower(config.map_width)
        self.widen = nn.Conv2d(c, w, 3, padding=1)
        self.merge = nn.Conv2d(w + config.map_width, w, 1)
        self.decoder = nn.Sequential(*[ResBlock(w, w) for _ in range(config.decoder_blocks)], nn.GroupNorm(8, w))
        self.up = nn.Conv2d(w, 4 * w, 1)
        self.head = nn.Sequential(nn.Conv2d(w, w, 1), nn.SiLU(), nn.Conv2d(w, HEAD_CHANNELS, 1))
        bias = self.head[-1].bias
        assert isinstance(bias, Tensor)
        nn.init.constant_(bias[0], -5.0)  # few cells hold a box: start there

    def encode(self, scenes: SceneBatch) -> Posterior:
        """The scenes' agent images to the posterior over latents."""
        mean, log_variance = self.encoder(scenes).chunk(2, 1)
        return Posterior(mean, log_variance.clamp(-12, 4))

    def decode(self, z: Tensor, map_bev: Tensor) -> Tensor:
        """Latents (B, C, 32, 32) and map image to the head's output (B, HEAD_CHANNELS, 64, 64)."""
        h = self.merge(torch.cat([self.widen(z), self.map_tower(map_bev)], 1))
        h = F.silu(F.pixel_shuffle(self.up(F.silu(self.decoder(h))), 2))
        return self.head(h)
