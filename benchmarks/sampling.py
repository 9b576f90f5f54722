"""How fast a checkpoint samples on this machine: time of each part at several batch sizes, and scenarios per second.

python benchmarks/sampling.py [--model URI] [--device cpu] [--batch 1 16 64] [--steps 20]
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdiff.model import checkpoint
from sdiff.model.conditioning import Conditions, from_tokens
from sdiff.model.detection import detect
from sdiff.model.rules import MOST, broken_m, obeyed, off_road_field
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, AgentTokens, SceneToken

ROUNDS = 5


def seconds(work: Callable[[], Any], device: str) -> float:
    """Median time of `work` [s], after one round that does not count."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    device = options.device
    model = checkpoint.load(options.model, device)
    machine = torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()}, {os.cpu_count()} cores"
    for b in options.batch:
        image = np.random.default_rng(0).integers(0, 255, (b, len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS), np.uint8)
        ego = AgentTokens.unspecified(1)
        for name in ("x_m", "y_m", "heading_rad"):
            getattr(ego, name)[:] = 0.0
        maps = torch.as_tensor(image, device=device)
        conditions = from_tokens([ego] * b, [SceneToken()] * b).to(device)
        context = model.denoiser.context(maps, conditions, model.autoencoder)
        x = torch.randn(b, model.denoiser.latent_channels, 32, 32, device=device)
        sigma = torch.ones(b, device=device)
        seen, off_road_m = model.autoencoder.look(maps), off_road_field(maps)
        boxes = model.autoencoder.decode(x, seen)

        def broken(
            scaled: Tensor, seen: list[Tensor] = seen, road: Tensor = off_road_m, asked: Conditions = conditions
        ) -> Tensor:
            likely = model.autoencoder.decode(model.denoiser.unscale(scaled), seen, MOST)
            return broken_m(likely, road, asked)

        def whole(b: int = b, image: np.ndarray = image, ego: AgentTokens = ego, rules: bool = True) -> None:
            keys = [(0, str(i), 0) for i in range(b)]
            model.sample(image, [ego] * b, [SceneToken()] * b, keys, steps=options.steps, rules=rules)

        parts: dict[str, Callable[[], Any]] = {
            "context": lambda maps=maps, c=conditions: model.denoiser.context(maps, c, model.autoencoder),  # type: ignore[misc]
            "one denoising step": lambda x=x, s=sigma, c=context: model.denoiser(x, s, c),  # type: ignore[misc]
            "rules, once": lambda x=x, broken=broken: obeyed(x, broken),  # type: ignore[misc]
            "decode": lambda x=x, seen=seen: model.autoencoder.decode(x, seen),  # type: ignore[misc]
            "boxes and overlap": lambda boxes=boxes: detect(boxes),  # type: ignore[misc]
            f"scenario, {options.steps} steps": whole,
            "without rules": lambda whole=whole: whole(rules=False),  # type: ignore[misc]
        }
        per_scenario_ms = {name: round(1000 * seconds(work, device) / b, 3) for name, work in parts.items()}
        rate = 1000 / per_scenario_ms[f"scenario, {options.steps} steps"]
        facts = {"machine": machine, "torch": torch.__version__, "threads": torch.get_num_threads()}
        print(
            json.dumps({**facts, "model": model.model_id, "batch": b, "per_s": round(rate, 2), "ms": per_scenario_ms})
        )


if __name__ == "__main__":
    main()
