"""Scenes to latents and back: a variational encoder of the agent image, a decoder to one box per cell of a grid."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdiff.model.batch import SceneBatch
from sdiff.model.blocks import CellNorm, CentreStem, MapTower, ResBlock
from sdiff.model.detection import HEAD_CHANNELS, Boxes, DetectionLoss, detection_loss, read_head
from sdiff.model.lane_frame import lane_field
from sdiff.model.recipe import AutoencoderConfig

LATENT_CELLS = 32
LATENT_GAIN = 16.0
"""Brings what one agent writes from the size of fresh weights to about one."""
LOG_VARIANCE_START = -3.0
"""Of the posterior's noise: it starts below the signal, else nothing gets through."""


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
    """Encoder E(agents) and decoder D(z, map); Scenario Diffusion, section 3 (arXiv 2311.02738).

    Differs from it in the stem (agents come in as vectors at their centres, not as an image) and in the head (class,
    centre offset and log size, so that agents smaller than a cell have a representation). PaperAutoencoder does not.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        c, w = config.latent_channels, config.width
        self.config = config
        self.stem = CentreStem(w)
        # Linear after the stem: a scene's latents are the sum of what each of its agents writes into the cells near it,
        # two by two at most: parked cars stand side by side.
        self.encoder = nn.Sequential(nn.Conv2d(w, 2 * c, 2, stride=2))
        self.map_tower = MapTower(config.map_width)
        self.widen = nn.Conv2d(c, w, 3, padding=1)
        self.merge = nn.Conv2d(w + config.map_width, w, 1)
        self.decoder = nn.Sequential(
            *[ResBlock(w, w, norm=CellNorm) for _ in range(config.decoder_blocks)], CellNorm(w)
        )
        self.up = nn.Conv2d(w, 4 * w, 1)
        self.direct = nn.Conv2d(c, 4 * HEAD_CHANNELS, 3, padding=1)  # what is a number in z need not be learned as one
        nn.init.zeros_(self.direct.weight)
        self.head = nn.Sequential(nn.Conv2d(w, w, 1), nn.SiLU(), nn.Conv2d(w, HEAD_CHANNELS, 1))
        bias = self.head[-1].bias
        assert isinstance(bias, Tensor)
        nn.init.constant_(bias[0], -5.0)  # few cells hold a box: start there

    def encode(self, scenes: SceneBatch, map_bev: Tensor) -> Posterior:
        """The scenes' agents to the posterior over latents; of the map only the lanes' directions are used."""
        written = self.encoder(self.stem(scenes, lane_field(map_bev)))
        mean, log_variance = (LATENT_GAIN * written).chunk(2, 1)
        return Posterior(mean, (log_variance + LOG_VARIANCE_START).clamp(-12, 4))

    def look(self, map_bev: Tensor) -> list[Tensor]:
        """What the decoder takes of the map image: once per batch of scenes."""
        return [self.map_tower(map_bev), lane_field(map_bev)]

    def decode(self, z: Tensor, seen: list[Tensor], most: int | None = None) -> Boxes:
        """Latents (B, C, 32, 32), and what `look` gave, to one box per cell, or the `most` probable ones alone."""
        features, lanes = seen
        h = self.merge(torch.cat([self.widen(z), features], 1))
        h = F.silu(F.pixel_shuffle(self.up(F.silu(self.decoder(h))), 2))
        return read_head(self.head(h) + F.pixel_shuffle(self.direct(z), 2), lanes, most)

    def loss(self, boxes: Boxes, scenes: SceneBatch) -> DetectionLoss:
        """Of what was decoded against the scenes."""
        return detection_loss(boxes, scenes)
