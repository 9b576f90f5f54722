"""How well a checkpoint's autoencoder gives back held-back windows: recall, precision, error at +2 s, per kind.

python benchmarks/autoencoder.py --windows URI [--model URI] [--limit 1000]
"""

import argparse
import json
import platform

import numpy as np
import torch

from sdiff import tables
from sdiff.columns import agents_from_arrow
from sdiff.metrics.detection import Reconstruction, reconstruction
from sdiff.model import checkpoint
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS
from sdiff.view.training import reconstruct


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", required=True)
    parser.add_argument("--model")
    parser.add_argument("--limit", type=int, default=1000)
    options = parser.parse_args()
    model = checkpoint.load(options.model)
    ids = tables.read(options.windows, "windows", columns=["window_id", "split"])
    held_back = np.flatnonzero(np.array(ids["split"].to_pylist()) == "val")
    spread = held_back[np.linspace(0, len(held_back) - 1, min(options.limit, len(held_back))).astype(int)]
    dataset = tables.dataset(options.windows, "windows")
    total = Reconstruction.none()
    for i in range(0, len(spread), 64):
        rows = dataset.take(spread[i : i + 64], columns=["map_bev", "agents"])
        true = agents_from_arrow(rows["agents"])
        maps = np.stack([np.frombuffer(b.as_buffer(), np.uint8) for b in rows["map_bev"].combine_chunks()])
        made = reconstruct(model, true, maps.reshape(-1, len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS))
        total = sum((reconstruction(a, b) for a, b in zip(true, made, strict=True)), total)
    facts = {"windows": len(spread), "model": model.model_id, "torch": torch.__version__, "machine": platform.machine()}
    print(json.dumps({**facts, **total.summary()}, indent=1))


if __name__ == "__main__":
    main()
