"""Layers that autoencoder and denoiser share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdiff.model.batch import T0, SceneBatch
from sdiff.model.draw import CENTRE_FEATURES, centred, write
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, SIGNED_MAP_CHANNELS

STEM_CELLS = BEV_PIXELS // 4


class GroupNorm(nn.GroupNorm):
    """Of eight groups."""

    def __init__(self, width: int) -> None:
        super().__init__(8, width)


class CellNorm(nn.Module):
    """Channels (B, C, H, W) over their root mean square in each cell.

    A norm over the whole image would read an agent differently where there are more others.
    """

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5)


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut; `emb` (B, emb_width), if any, scales and shifts between them."""

    def __init__(self, c_in: int, c_out: int, emb_width: int = 0, norm: Callable[[int], nn.Module] = GroupNorm) -> None:
        super().__init__()
        self.norm1 = norm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = norm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.film = nn.Linear(emb_width, 2 * c_out) if emb_width else None
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        h = self.norm2(self.conv1(F.silu(self.norm1(x_BCHW))))
        if self.film is not None and emb_BE is not None:
            scale, shift = self.film(emb_BE)[..., None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        return self.skip(x_BCHW) + self.conv2(F.silu(h))


class CentreStem(nn.Module):
    """Agents as vectors, each spread over the four cells around its centre: (B, width, 64, 64).

    Learns several times faster than the drawn image: where a box lies within its cell, how long it is and which way it
    points are numbers here, and there questions of counting pixels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Sequential(nn.Linear(CENTRE_FEATURES, 96), nn.SiLU(), nn.Linear(96, width))
        self.plain = nn.Linear(CENTRE_FEATURES, width)

    def forward(self, scenes: SceneBatch, lanes: Tensor) -> Tensor:
        told = centred(scenes, lanes)
        scene = torch.nonzero(scenes.real, as_tuple=True)[0]
        vectors = self.vector(told) + self.plain(told)
        return write(vectors, scene, scenes.pose[scenes.real][:, T0, :2], len(scenes.real), STEM_CELLS)


class MapTower(nn.Module):
    """The map image, uint8 (B, 8, 256, 256), to features (B, width, 32, 32).

    Leaves the full resolution at once, where the time would go.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        signed = torch.tensor([name in SIGNED_MAP_CHANNELS for name in MAP_CHANNELS]).repeat_interleave(16)
        self.register_buffer("scale", torch.where(signed, 1 / 127, 1 / 255)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.where(signed, -128 / 127, 0.0)[:, None, None], persistent=False)
        self.stem = nn.Conv2d(16 * len(MAP_CHANNELS), 32, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(32))
        self.down = nn.Conv2d(32, width, 3, stride=2, padding=1)
        self.block = ResBlock(width, width)

    def forward(self, map_bev: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(map_bev, 4).to(self.scale.dtype)
        # The channels' scale and shift go into the weights: far fewer of those than pixels.
        weight = self.stem.weight * self.scale
        bias = self.bias + (self.stem.weight * self.shift).sum((1, 2, 3))
        return self.block(self.down(F.silu(F.conv2d(patches, weight, bias))))


class Attention(nn.Module):
    """Multi-head attention of queries (B, Q, C) on context (B, K, D), added to the queries; with a mask of keys."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)

    def keys_values(self, context_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """(B, heads, K, C / heads) each: once per scene, not once per sampling step."""
        k, v = self.kv(context_BKD).chunk(2, -1)
        return self._split(k), self._split(v)

    def forward(self, x_BQC: Tensor, keys_values: tuple[Tensor, Tensor], mask_BK: Tensor | None = None) -> Tensor:
        mask = None if mask_BK is None else mask_BK[:, None, None, :]
        h = F.scaled_dot_product_attention(self._split(self.q(self.norm(x_BQC))), *keys_values, attn_mask=mask)
        return x_BQC + self.out(h.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def fourier(x: Tensor, frequencies: Tensor) -> Tensor:
    """sin and cos of x (...) at each frequency (F,): (..., 2 F)."""
    angle = x[..., None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], -1)
