"""What training looks like while it runs: loss curves, and held-back windows beside what the model makes of them."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from sdiff.columns import agents_from_arrow
from sdiff.geometry import SE2
from sdiff.metrics.detection import Reconstruction, reconstruction
from sdiff.model.batch import pack, scene_batch
from sdiff.model.build import AnyAutoencoder
from sdiff.model.detection import detect
from sdiff.model.scenario_model import ScenarioModel, to_agents
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, Agents, AgentTokens, SceneToken
from sdiff.view import draw
from sdiff.view.plots import line_chart
from sdiff.view.sheet import side_by_side

SHOWN = 8
NOT_A_TERM = ("step", "seconds", "waiting_share", "windows_per_s")


def curves(lines: list[dict[str, Any]]) -> bytes:
    """The terms of the loss over the steps, a PNG."""
    terms = [name for name in lines[-1] if name in lines[0] and name not in NOT_A_TERM]
    series = {t: (np.array([x["step"] for x in lines]), np.array([x[t] for x in lines])) for t in terms}
    return draw.encode_png(line_chart(series, title="Training loss", x_label="step", y_label="loss", log_y=True))


def samples(model: ScenarioModel, stage: str, held_back: pa.Table) -> tuple[bytes, dict[str, float]]:
    """Held-back windows above, what the model makes below, as a PNG; and the figures that belong to it."""
    true = agents_from_arrow(held_back["agents"])
    blobs = [np.frombuffer(b.as_buffer(), np.uint8) for b in held_back["map_bev"].combine_chunks()]
    maps = np.stack(blobs).reshape(-1, len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS)
    figures: dict[str, float] = {}
    if stage == "autoencoder":
        made = reconstruct(model.autoencoder, true, maps)
        total = sum((reconstruction(a, b) for a, b in zip(true, made, strict=True)), Reconstruction.none())
        figures = {k: round(v, 4) for k, v in total.summary().items() if isinstance(v, float)}
    else:
        made = _free(model, maps[:SHOWN])
        figures = {"agents_logs": _mean_count(true[:SHOWN]), "agents_generated": _mean_count(made)}
    origin = SE2(0.0, 0.0, 0.0)
    shown = range(min(SHOWN, len(made)))
    label = "Reconstructed" if stage == "autoencoder" else "Generated free"
    sheet = side_by_side(
        [draw.scene(maps[i], origin, true[i], size_px=320) for i in shown],
        [draw.scene(maps[i], origin, made[i], size_px=320) for i in shown],
        labels=("Held-back windows", label),
    )
    return draw.encode_png(sheet), figures


@torch.inference_mode()
def reconstruct(autoencoder: AnyAutoencoder, true: list[Agents], maps: np.ndarray, batch: int = 16) -> list[Agents]:
    """What comes back of scenes through the autoencoder, at the mean of the posterior.

    Every box that it finds: where logs have boxes that overlap, and recorded ones do, both are to come back.
    """
    made: list[Agents] = []
    for i in range(0, len(true), batch):
        scenes, map_bev = scene_batch(pack(true[i : i + batch])), torch.as_tensor(maps[i : i + batch])
        boxes = autoencoder.decode(autoencoder.encode(scenes, map_bev).mean, autoencoder.look(map_bev))
        made += [to_agents(found) for found in detect(boxes)]
    return made


def _free(model: ScenarioModel, maps: np.ndarray) -> list[Agents]:
    ego = AgentTokens.unspecified(1)
    for name in ("x_m", "y_m", "heading_rad"):
        getattr(ego, name)[:] = 0.0
    keys = [(0, f"sample-{i}", 0) for i in range(len(maps))]
    made = model.sample(maps, [ego] * len(maps), [SceneToken(p_mask=0.95)] * len(maps), keys)
    return [sample.agents for sample in made]


def _mean_count(scenes: list[Agents]) -> float:
    return round(float(np.mean([len(s) for s in scenes])), 2)
