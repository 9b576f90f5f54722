"""How well a checkpoint's autoencoder gives back held-back windows: recall, precision, error at +2 s, per kind.

python benchmarks/autoencoder.py --windows URI [--model URI] [--limit 1000]
"""

import argparse
import json
import platform

import numpy as np
import pyarrow.parquet as pq
import torch

from sdiff import storage
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
    model = options.model or checkpoint.shipped()
    autoencoder, _ = checkpoint.load_autoencoder(model)
    objects = storage.objects(storage.table_uri(options.windows, "windows"))
    share = -(-options.limit // len(objects))
    total, count = Reconstruction.none(), 0
    for uri in objects:
        fs, path = storage.filesystem(uri)
        rows = pq.read_table(path, filesystem=fs, columns=["map_bev", "agents"], filters=[("split", "=", "val")])
        rows = rows.take(np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(int)).combine_chunks()
        true = agents_from_arrow(rows["agents"])
        maps = [np.frombuffer(b.as_buffer(), np.uint8) for b in rows["map_bev"]]
        made = reconstruct(autoencoder, true, np.array(maps).reshape(-1, len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS))
        total = sum((reconstruction(a, b) for a, b in zip(true, made, strict=True)), total)
        count += len(rows)
    facts = {
        "windows": count,
        "model": model.rsplit("/", 1)[-1],
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    print(json.dumps({**facts, **total.summary()}, indent=1))


if __name__ == "__main__":
    main()
