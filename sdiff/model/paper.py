"""Scenario Diffusion as published (arXiv 2311.02738; what it leaves open, from its forerunner arXiv 2305.18452).

The reference that ours is measured against, behind the same interfaces. On-road vehicles only, without kinds; agents
come in as an image; a cell of the grid says how far its box's edges are; tokens are binned and whole. Neither paper
gives the weight of the KL term, the bins of heading and size, or the weights of the waypoints.
"""

import bisect
import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdiff import KINDS, VEHICLE_KINDS, WINDOW_M
from sdiff.model.autoencoder import LOG_VARIANCE_START, Posterior
from sdiff.model.batch import T0, TIMES_S, SceneBatch
from sdiff.model.blocks import Attention, ResBlock
from sdiff.model.conditioning import P_MASK_BINS, Conditions, from_scenes
from sdiff.model.denoiser import Context, Encodes, Preconditioned
from sdiff.model.detection import Boxes, DetectionLoss, cell_centres, detection_loss, gathered
from sdiff.model.draw import IMAGE_CHANNELS, covered_pixels, painted
from sdiff.model.recipe import PaperAutoencoderConfig, PaperDenoiserConfig
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, SIGNED_MAP_CHANNELS, TOKEN_NUMBERS, WAYPOINTS_S

HEAD_CHANNELS = 1 + 2 + 4 + 3 * len(WAYPOINTS_S)
"""logit; cos, sin; log distances to the front, left, back and right edge; step to each waypoint, window frame."""
PRESENCE_WEIGHT = 20.0
BINS = {
    "x_m": (-WINDOW_M / 2, 1.5625, 64),
    "y_m": (-WINDOW_M / 2, 1.5625, 64),
    "heading_rad": (-torch.pi, torch.pi / 16, 32),
    "length_m": (0.0, 1.0, 20),
    "width_m": (0.0, 0.5, 8),
    "speed_mps": (0.0, 2.0, 20),
    "end_speed_mps": (0.0, 2.0, 20),
}
"""Lower end, width and number of the bins of each token feature; one more bin says that nothing is said."""
_STEP_SCALE_M = 10.0
_WAYPOINTS = [TIMES_S.index(t) for t in sorted((*WAYPOINTS_S, 0.0))]
_NO_KINDS = [i for i in range(IMAGE_CHANNELS) if not 3 <= i < 3 + len(KINDS)]
_IS_VEHICLE = torch.tensor([kind in VEHICLE_KINDS for kind in KINDS])


def vehicles(scenes: SceneBatch) -> SceneBatch:
    """Without all others, none of a kind, seen at the published waypoints alone."""
    real = scenes.real & _IS_VEHICLE.to(scenes.kind.device)[scenes.kind]
    seen = torch.zeros_like(scenes.seen)
    seen[..., _WAYPOINTS] = scenes.seen[..., _WAYPOINTS]
    return scenes._replace(real=real, seen=seen, kind=torch.full_like(scenes.kind, KINDS.index("vehicle")))


def agent_image(scenes: SceneBatch) -> Tensor:
    """(B, C, 256, 256): occupancy, sin and cos of the heading, displacements to the waypoints, filled in each box."""
    values = painted(scenes)[..., _NO_KINDS]
    image = values.new_zeros(len(values), BEV_PIXELS, BEV_PIXELS, values.shape[-1])
    pixels = covered_pixels(scenes)
    image[pixels.scene, pixels.row, pixels.column] = values[pixels.scene, pixels.agent]
    return image.permute(0, 3, 1, 2).contiguous()


class Tower(nn.Module):
    """An image at 256 x 256 to features at that and three halved resolutions."""

    def __init__(self, c_in: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(c_in, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList([ResBlock(w, w) for w in widths])
        pairs = itertools.pairwise(widths)
        self.down = nn.ModuleList([nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs])

    def forward(self, image: Tensor) -> list[Tensor]:
        h = self.blocks[0](self.first(image))
        features = [h]
        for down, block in zip(self.down, self.blocks[1:], strict=True):
            h = block(down(h))
            features.append(h)
        return features


class MapTower(nn.Module):
    """The map image, uint8 (B, 8, 256, 256), through a Tower."""

    scale: Tensor
    shift: Tensor

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        signed = torch.tensor([name in SIGNED_MAP_CHANNELS for name in MAP_CHANNELS])[:, None, None]
        self.register_buffer("scale", torch.where(signed, 1 / 127, 1 / 255), persistent=False)
        self.register_buffer("shift", torch.where(signed, -128 / 127, 0.0), persistent=False)
        self.tower = Tower(len(MAP_CHANNELS), widths)

    def forward(self, map_bev: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.tower(map_bev.to(self.scale.dtype) * self.scale + self.shift)
        return features


class PaperAutoencoder(nn.Module):
    """Encoder of the agent image, decoder D(z, map) with the map's features as skip connections."""

    def __init__(self, config: PaperAutoencoderConfig) -> None:
        super().__init__()
        c, (_, _, w2, w3) = config.latent_channels, config.widths
        self.config = config
        self.agent_tower = Tower(len(_NO_KINDS), config.widths)
        self.to_latent = nn.Conv2d(w3, 2 * c, 1)
        self.map_tower = MapTower(config.widths)
        self.from_latent = nn.Conv2d(c, w3, 3, padding=1)
        self.coarse = ResBlock(2 * w3, w3)
        self.fine = ResBlock(w3 + w2, w2)
        self.head = nn.Sequential(nn.GroupNorm(8, w2), nn.SiLU(), nn.Conv2d(w2, HEAD_CHANNELS, 1))

    def encode(self, scenes: SceneBatch, map_bev: Tensor) -> Posterior:
        """The scenes' vehicles to the posterior over latents; the map is not looked at."""
        mean, log_variance = self.to_latent(self.agent_tower(agent_image(vehicles(scenes)))[-1]).chunk(2, 1)
        return Posterior(mean, (log_variance + LOG_VARIANCE_START).clamp(-12, 4))

    def look(self, map_bev: Tensor) -> list[Tensor]:
        """What the decoder takes of the map image: once per batch of scenes."""
        features: list[Tensor] = self.map_tower(map_bev)
        return features

    def decode(self, z: Tensor, seen: list[Tensor], most: int | None = None) -> Boxes:
        """Latents (B, C, 32, 32), and what `look` gave, to one box per cell, or the `most` probable ones alone."""
        _, _, fine, coarse = seen
        h = F.interpolate(self.coarse(torch.cat([self.from_latent(z), coarse], 1)), scale_factor=2.0)
        boxes = read_head(self.head(self.fine(torch.cat([h, fine], 1))))
        return boxes if most is None else gathered(boxes, boxes.logit.topk(most, 1).indices)

    def loss(self, boxes: Boxes, scenes: SceneBatch) -> DetectionLoss:
        """Of what was decoded against the scenes' vehicles; presence is the mean over cells, weighted."""
        scenes = vehicles(scenes)
        terms = detection_loss(boxes, scenes, edges, rank_by=edges, turn_cost=lambda turn: 1 - turn.cos())
        n_boxes = scenes.real.sum().clamp(min=1)
        presence = terms.presence * n_boxes / boxes.logit.numel() * PRESENCE_WEIGHT
        nothing = presence.new_zeros(())
        return terms._replace(presence=presence, kind=nothing, arcs=nothing)


def read_head(head: Tensor) -> Boxes:
    """The head's output (B, HEAD_CHANNELS, 64, 64) as boxes per cell."""
    cells = head.float().flatten(2).transpose(1, 2)
    logit, direction, log_edges, steps = cells.split([1, 2, 4, 3 * len(WAYPOINTS_S)], dim=-1)
    heading = torch.atan2(direction[..., 1], direction[..., 0])
    front, left, back, right = log_edges.clamp(-4, 4).exp().unbind(-1)
    along, across, c, s = (front - back) / 2, (left - right) / 2, heading.cos(), heading.sin()
    centre = cell_centres(head.device) + torch.stack([c * along - s * across, s * along + c * across], -1)
    steps = steps.unflatten(-1, (len(WAYPOINTS_S), 3)) * steps.new_tensor([_STEP_SCALE_M, _STEP_SCALE_M, 1.0])
    n_past = _WAYPOINTS.index(T0)
    past = steps[..., :n_past, :].flip(-2).cumsum(-2).flip(-2)
    future = steps[..., n_past:, :].cumsum(-2)
    out = _every_half_second(torch.cat([past, torch.zeros_like(steps[..., :1, :]), future], -2))
    pose = torch.cat([centre, heading[..., None]], -1)[..., None, :] + out
    kind = F.one_hot(torch.tensor(KINDS.index("vehicle")), len(KINDS)).to(pose).expand(*logit.shape[:-1], -1)
    return Boxes(logit[..., 0], pose, direction, torch.stack([front + back, left + right], -1).log(), kind)


def _lagrange(at: float, knots: tuple[float, ...]) -> list[float]:
    """Weights of values at `knots` in the polynomial through them, at `at`."""
    return [math.prod((at - other) / (k - other) for other in knots if other != k) for k in knots]


def _every_half_second(poses: Tensor) -> Tensor:
    """Poses (..., 5, 3) at the published waypoints to (..., 9, 3) at TIMES_S.

    The polynomial through all five, in each second kept between its ends: who stops does not roll back.
    """
    knots = tuple(TIMES_S[i] for i in _WAYPOINTS)
    curve = poses.new_tensor([_lagrange(t, knots) for t in TIMES_S]) @ poses
    before = poses[..., [bisect.bisect_right(knots, t) - 1 for t in TIMES_S], :]
    after = poses[..., [bisect.bisect_left(knots, t) for t in TIMES_S], :]
    return curve.clamp(torch.minimum(before, after), torch.maximum(before, after))


def edges(pose: Tensor, size: Tensor, cell: Tensor) -> Tensor:
    """(..., 4) log distances from the centres of cells (...) to the front, left, back and right edge of boxes."""
    away = pose[..., :2] - cell_centres(pose.device)[cell]
    c, s = pose[..., 2].cos(), pose[..., 2].sin()
    along, across = c * away[..., 0] + s * away[..., 1], c * away[..., 1] - s * away[..., 0]
    half = size / 2
    distance = [half[..., 0] + along, half[..., 1] + across, half[..., 0] - along, half[..., 1] - across]
    return torch.stack(distance, -1).clamp(min=0.1).log()


class PaperDenoiser(Preconditioned):
    """A U-Net at 32, 16 and 8 cells a side that attends to tokens at each; D(x; sigma, map, tokens)."""

    def __init__(self, config: PaperDenoiserConfig, latent_channels: int) -> None:
        super().__init__(config, latent_channels)
        widths, tok, heads = config.widths, config.token_width, config.heads
        emb = 4 * widths[0]
        self.noise = nn.Sequential(nn.Linear(64, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.tokens = BinnedTokens(tok)
        self.map_tower = MapTower((32, 64, 128, 128))
        self.first = nn.Conv2d(latent_channels + 128, widths[0], 3, padding=1)
        inward = [(widths[max(i - 1, 0)], w) for i, w in enumerate(widths)]
        outward = [(w + widths[min(i + 1, 2)], w) for i, w in reversed(list(enumerate(widths[:2])))]
        self.inward = nn.ModuleList(
            [PaperLevel(a, b, config.blocks, emb, tok, heads, b == widths[2]) for a, b in inward]
        )
        self.outward = nn.ModuleList([PaperLevel(a, b, config.blocks, emb, tok, heads, False) for a, b in outward])
        self.down = nn.ModuleList([nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:2]])
        self.last = nn.Sequential(
            nn.GroupNorm(8, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], latent_channels, 3, padding=1)
        )

    def context(self, map_bev: Tensor, conditions: Conditions, autoencoder: Encodes) -> Context:
        """Map features, keys and values of agent tokens and scene token."""
        token, used = self.tokens(conditions)
        attentions = [level.to_tokens for level in (*self.inward, *self.outward) if isinstance(level, PaperLevel)]
        pairs = [a.keys_values(token) for a in attentions]
        no_scene_vector = token.new_zeros(len(token), 0)  # the scene is one of the tokens
        nothing = token.new_zeros(1, 1, 1, 1)
        return Context(nothing, self.map_tower(map_bev)[-1], no_scene_vector, pairs, used)

    def conditions(self, scenes: SceneBatch) -> Conditions:
        """Whole tokens of vehicles."""
        return from_scenes(vehicles(scenes), as_published=True)

    def _network(self, x: Tensor, noise_BF: Tensor, context: Context) -> Tensor:
        emb = F.silu(self.noise(noise_BF))
        kv, used = iter(context.keys_values), context.used
        h = self.first(torch.cat([x, context.image], 1))
        kept = []
        for i, level in enumerate(self.inward):
            h = level(h, emb, next(kv), used)
            if i < len(self.down):
                kept.append(h)
                h = self.down[i](h)
        for level in self.outward:
            h = level(torch.cat([kept.pop(), F.interpolate(h, scale_factor=2.0)], 1), emb, next(kv), used)
        return self.last(h)


class PaperLevel(nn.Module):
    """Residual blocks, then attention of the cells to the tokens and, at the coarsest resolution, to each other."""

    def __init__(self, c_in: int, width: int, blocks: int, emb: int, token_width: int, heads: int, among: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ResBlock(width if i else c_in, width, emb) for i in range(blocks)])
        self.among = Attention(width, width, heads) if among else None
        self.to_tokens = Attention(width, token_width, heads)

    def forward(self, x: Tensor, emb: Tensor, keys_values: tuple[Tensor, Tensor], used: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, emb)
        cells = x.flatten(2).transpose(1, 2)
        if self.among is not None:
            cells = self.among(cells, self.among.keys_values(self.among.norm(cells)))
        cells = self.to_tokens(cells, keys_values, used)
        return cells.transpose(1, 2).unflatten(2, x.shape[2:]).contiguous()


class BinnedTokens(nn.Module):
    """Agent tokens, each feature in bins, and the scene token of ten bins: (B, 1 + K, width), and which are used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.ModuleDict({name: nn.Embedding(n + 1, width) for name, (_, _, n) in BINS.items()})
        self.agent = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.scene = nn.Sequential(nn.Linear(P_MASK_BINS, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, c: Conditions) -> tuple[Tensor, Tensor]:
        told = []
        for name, (low, width, n) in BINS.items():
            at = TOKEN_NUMBERS.index(name)
            which = ((c.numbers[..., at] - low) / width).floor().clamp(0, n - 1).long()
            told.append(self.features[name](torch.where(c.given[..., at], which, n)))
        agent = self.agent(torch.stack(told).sum(0))
        bins = (c.p_mask * P_MASK_BINS).long().clamp(0, P_MASK_BINS - 1)
        scene = self.scene(F.one_hot(bins, P_MASK_BINS).to(agent.dtype))
        return torch.cat([scene[:, None], agent], 1), F.pad(c.used, (1, 0), value=True)
