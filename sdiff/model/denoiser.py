"""The EDM denoiser on latents: a U-Net that sees the map, the tokens and the noise level."""

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdiff.model.autoencoder import Posterior
from sdiff.model.batch import SceneBatch
from sdiff.model.blocks import Attention, MapTower, ResBlock, fourier
from sdiff.model.conditioning import Conditions, TokenEncoder, from_scenes, token_scenes
from sdiff.model.lane_frame import lane_field
from sdiff.model.recipe import DenoiserConfig, PaperDenoiserConfig


class Context(NamedTuple):
    """All that does not change from one sampling step to the next."""

    expected: Tensor  # what the tokens alone lead to expect, scaled latents (B, C, 32, 32), or one number for all
    image: Tensor  # map and tokens, (B, C, 32, 32)
    scene: Tensor  # (B, E)
    keys_values: list[tuple[Tensor, Tensor]]  # one pair per cross-attention
    used: Tensor  # (B, 1 + K) bool


class Encodes(Protocol):
    """What brings agents to latents: an autoencoder."""

    def encode(self, scenes: SceneBatch, map_bev: Tensor) -> Posterior:
        """To the posterior over latents."""


class Level(nn.Module):
    """A residual block, then attention of the cells to each other and to the tokens."""

    def __init__(self, c_in: int, width: int, emb_width: int, token_width: int, heads: int) -> None:
        super().__init__()
        self.block = ResBlock(c_in, width, emb_width)
        self.among = Attention(width, width, heads)
        self.to_tokens = Attention(width, token_width, heads)

    def forward(self, x: Tensor, emb: Tensor, keys_values: tuple[Tensor, Tensor], used: Tensor) -> Tensor:
        x = self.block(x, emb)
        cells = x.flatten(2).transpose(1, 2)
        cells = self.among(cells, self.among.keys_values(self.among.norm(cells)))
        cells = self.to_tokens(cells, keys_values, used)
        return cells.transpose(1, 2).unflatten(2, x.shape[2:]).contiguous()


class Preconditioned(nn.Module, ABC):
    """D(x; sigma, context): EDM preconditioning (Karras et al. 2022, table 1) around a network.

    Around what the tokens alone lead to expect: the network says how the scene differs from that.
    """

    frequencies: Tensor
    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, config: DenoiserConfig | PaperDenoiserConfig, latent_channels: int) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = latent_channels
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, 6, 32)), persistent=False)
        # Latents are brought to mean 0 and standard deviation sigma_data per channel.
        self.register_buffer("latent_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("latent_scale", torch.ones(latent_channels, 1, 1))

    def forward(self, x: Tensor, sigma_B: Tensor, context: Context) -> Tensor:
        """Denoised scaled latents (B, C, 32, 32), given x = latents + sigma * noise."""
        sigma, data = sigma_B[:, None, None, None], self.config.sigma_data
        variance = sigma**2 + data**2
        x = x - context.expected
        out = self._network(x / variance.sqrt(), fourier(sigma_B.log() / 4, self.frequencies), context)
        return context.expected + data**2 / variance * x + sigma * data / variance.sqrt() * out

    def scale(self, latents: Tensor) -> Tensor:
        """Latents of the autoencoder, scaled for diffusion."""
        return (latents - self.latent_mean) * self.latent_scale

    def unscale(self, scaled: Tensor) -> Tensor:
        """The inverse of `scale`."""
        return scaled / self.latent_scale + self.latent_mean

    @abstractmethod
    def context(self, map_bev: Tensor, conditions: Conditions, autoencoder: Encodes) -> Context:
        """All that the network takes of map and tokens: once per batch of scenes."""

    def conditions(self, scenes: SceneBatch) -> Conditions:
        """What it is told of scenes in training."""
        return from_scenes(scenes)

    @abstractmethod
    def _network(self, x: Tensor, noise_BF: Tensor, context: Context) -> Tensor:
        """The preconditioned network; noise_BF: the noise level as Fourier features."""


class Denoiser(Preconditioned):
    """D(x; sigma, map, tokens), a U-Net.

    The tokens' own latents, from the encoder that agents go through, are what is expected: where all is said of an
    agent there is nothing to add. They, painted tokens and map features are concatenated to the noisy latent; the
    coarse levels attend to the tokens.
    """

    def __init__(self, config: DenoiserConfig, latent_channels: int) -> None:
        super().__init__(config, latent_channels)
        w0, w1, w2 = config.widths
        emb, tok = 4 * w0, config.token_width
        self.noise = nn.Sequential(nn.Linear(64, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.tokens = TokenEncoder(tok, emb)
        self.always = nn.Parameter(torch.randn(1, 1, tok) * 0.02)  # attention has this to look at where no token is
        self.map_tower = MapTower(config.map_width)
        self.first = nn.Conv2d(2 * latent_channels + config.map_width + tok // 2, w0, 3, padding=1)
        self.cells = nn.Parameter(torch.randn(1, w1, 16, 16) * 0.02)
        h = config.heads
        self.levels = nn.ModuleList(
            [
                Level(w1, w1, emb, tok, h),
                Level(w2, w2, emb, tok, h),
                Level(w2, w2, emb, tok, h),
                Level(w1 + w2, w1, emb, tok, h),
            ]
        )
        self.fine_in = ResBlock(w0, w0, emb)
        self.fine_out = ResBlock(w0 + w1, w0, emb)
        self.down1 = nn.Conv2d(w0, w1, 2, stride=2)
        self.down2 = nn.Conv2d(w1, w2, 2, stride=2)
        self.last = nn.Sequential(nn.GroupNorm(8, w0), nn.SiLU(), nn.Conv2d(w0, latent_channels, 3, padding=1))

    def context(self, map_bev: Tensor, conditions: Conditions, autoencoder: Encodes) -> Context:
        """Map features, tokens painted and as latents, keys and values."""
        lanes = lane_field(map_bev)
        token, painted, scene = self.tokens(conditions, lanes)
        with torch.no_grad():
            expected = self.scale(autoencoder.encode(token_scenes(conditions, lanes), map_bev).mean)
        features = torch.cat([self.map_tower(map_bev), painted, expected], 1)
        token = torch.cat([self.always.expand(len(token), -1, -1), token], 1)
        used = F.pad(conditions.used, (1, 0), value=True)
        attentions = [level.to_tokens for level in self.levels if isinstance(level, Level)]
        return Context(expected, features, scene, [a.keys_values(token) for a in attentions], used)

    def _network(self, x: Tensor, noise_BF: Tensor, context: Context) -> Tensor:
        emb = F.silu(self.noise(noise_BF) + context.scene)
        kv, used = context.keys_values, context.used
        h0 = self.fine_in(self.first(torch.cat([x, context.image], 1)), emb)
        h1 = self.levels[0](self.down1(h0) + self.cells, emb, kv[0], used)
        h2 = self.levels[1](self.down2(h1), emb, kv[1], used)
        h2 = self.levels[2](h2, emb, kv[2], used)
        h1 = self.levels[3](torch.cat([F.interpolate(h2, scale_factor=2.0), h1], 1), emb, kv[3], used)
        h0 = self.fine_out(torch.cat([F.interpolate(h1, scale_factor=2.0), h0], 1), emb)
        return self.last(h0)


class Denoised(NamedTuple):
    """What a training step gives: a scalar loss, the noise levels (B,) and the estimates (B, C, 32, 32)."""

    loss: Tensor
    sigma: Tensor
    scaled: Tensor


def denoising_loss(model: Preconditioned, latents: Tensor, context: Context) -> Denoised:
    """EDM's weighted squared error of the denoised latents (Karras et al. 2022, equation 2), at random noise levels."""
    config = model.config
    clean = model.scale(latents)
    sigma = torch.exp(config.log_sigma_mean + config.log_sigma_std * torch.randn(len(clean), device=clean.device))
    noisy = clean + sigma[:, None, None, None] * torch.randn_like(clean)
    denoised = model(noisy, sigma, context)
    weight = (sigma**2 + config.sigma_data**2) / (sigma * config.sigma_data) ** 2
    return Denoised((weight[:, None, None, None] * (denoised - clean) ** 2).mean(), sigma, denoised)
