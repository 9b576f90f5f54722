"""Fit the autoencoder or the denoiser to a windows table: Ray Data feeds Ray Train workers, on CPUs or GPUs.

A run writes run.json (what it trains on, and which recipe), state.safetensors (all that a resumed run needs),
loss.jsonl, loss.png and samples.png to `<output>/<stage>/`, and the model to `<output>/model/`. Run it again after a
kill and it goes on from the last state.
"""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml

import schemas
from pipelines import cluster
from pipelines.watch import Board, every
from sdiff import storage, tables
from sdiff.columns import agents_from_arrow
from sdiff.model import checkpoint
from sdiff.model.batch import SceneBatch, pack, scene_batch
from sdiff.model.build import AnyAutoencoder, build_autoencoder, build_denoiser
from sdiff.model.recipe import RECIPES, Recipe, TrainConfig
from sdiff.model.scenario_model import ScenarioModel
from sdiff.model.training import AutoencoderStage, DenoiserStage, TrainState
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS
from sdiff.view import training as pictures

# Ray Data reads Parquet footers in 32 processes of their own unless told otherwise: a minute of work to start them.
os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")

STAGES = ("autoencoder", "denoiser")
LOG_EVERY = 10
SHUFFLE_ROWS = 4096
SHUFFLE_SHARE = 16
"""The shuffle buffer holds SHUFFLE_ROWS, of a small table this part: a run starts when it is full."""
REPORT_S = 15.0
SCALE_BATCHES = 64
HELD_BACK = 96


class TrainError(ValueError):
    """A training run cannot start: says why and what to do."""


@dataclass(frozen=True)
class Run:
    """What every worker is told."""

    stage: str
    recipe: Recipe
    windows: str
    output: str
    autoencoder: str
    seed: int
    minutes: float | None
    checkpoint_s: float
    threads: int
    shuffle_rows: int
    facts: dict[str, Any]

    @property
    def config(self) -> TrainConfig:
        """Schedule of the run's stage."""
        return self.recipe.train_autoencoder if self.stage == "autoencoder" else self.recipe.train_denoiser

    @property
    def folder(self) -> str:
        """Where the run's own files lie."""
        return storage.join(self.output, self.stage)


def run(
    stage: str,
    windows: str,
    output: str,
    config: str | None = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    autoencoder: str | None = None,
    regions: Sequence[str] = (),
    workers: int = 1,
    use_gpu: bool = False,
    seed: int = 0,
    checkpoint_s: float = 120.0,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train one stage on the train split of `windows` until its steps are done or `minutes` of training have passed.

    Whichever comes first ends the schedule of the learning rate; the minutes before a kill count. config: a YAML file
    with the keys of sdiff.model.recipe.Recipe, or the name of a recipe. autoencoder: checkpoint of the autoencoder that
    the denoiser works on; `<output>/model` unless given. regions: train on windows of these alone; all if empty.
    Raises TrainError, tables.TableError, checkpoint.CheckpointError.
    """
    import ray
    import ray.data
    import ray.train
    from ray.train.torch import TorchTrainer

    if stage not in STAGES:
        raise TrainError(f"unknown stage {stage!r}, expected one of {', '.join(STAGES)}")
    recipe = _recipe(config, stage, steps)
    windows, output = storage.absolute(windows), storage.absolute(output)
    source = storage.absolute(autoencoder) if autoencoder else storage.join(output, "model")
    paths, rows, facts = _training_rows(windows, regions)
    if stage == "denoiser":
        frozen, of = checkpoint.load_autoencoder(source)
        recipe = replace(recipe, autoencoder=of.autoencoder)
        facts["autoencoder_fingerprint"] = checkpoint.fingerprint(frozen.state_dict())
    size = recipe.train_autoencoder.batch_size if stage == "autoencoder" else recipe.train_denoiser.batch_size
    if rows < size * workers:
        raise TrainError(
            f"{windows} has {rows} windows in split train{' of ' + ', '.join(regions) if regions else ''}, "
            f"expected at least {size * workers}; ingest more"
        )
    cores = os.cpu_count() or 1
    shuffle_rows = max(size, min(SHUFFLE_ROWS, rows // SHUFFLE_SHARE // workers))
    threads = max(1, cores // workers)
    told = Run(stage, recipe, windows, output, source, seed, minutes, checkpoint_s, threads, shuffle_rows, facts)
    _same_as_before(told)
    report(f"{stage}: recipe {recipe.name}, {rows:,} windows to train on, {told.config.steps:,} steps of {size}")
    cluster.connect(max(cores, workers + 1))
    board = ray.remote(num_cpus=0)(Board).remote()
    cluster.quiet_data()
    fs, _ = storage.filesystem(paths[0])
    data = ray.data.read_parquet(
        [storage.filesystem(p)[1] for p in paths],
        filesystem=fs,
        columns=["split", "region", "map_bev", "agents"],
        shuffle=ray.data.FileShuffleConfig(seed=seed),
    )
    packed = partial(_training_rows_packed, regions=tuple(regions))
    data = data.map_batches(packed, batch_format="pyarrow", batch_size=64)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"run": told, "board": board},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name=f"{stage}-{os.getpid()}",
            storage_path=storage.join(output, "_ray"),
            failure_config=ray.train.FailureConfig(max_failures=2),
        ),
        datasets={"train": data},
    )
    with every(REPORT_S, _progress(told, board, report)):
        trainer.fit()
    lines = _read_log(told)
    return {"stage": stage, "model": storage.join(output, "model"), "steps": lines[-1]["step"], **lines[-1]}


def _recipe(config: str | None, stage: str, steps: int | None) -> Recipe:
    if config is None or config in RECIPES:
        recipe = RECIPES[config or "small"]
    else:
        raw = yaml.safe_load(storage.read_bytes(config))
        if not isinstance(raw, dict):
            raise TrainError(f"{config}: expected keys of a recipe, found {type(raw).__name__}")
        recipe = Recipe.from_json(raw)
    if steps is None:
        return recipe
    key = f"train_{stage}"
    return replace(recipe, **{key: replace(getattr(recipe, key), steps=steps)})


def _training_rows(windows: str, regions: Sequence[str]) -> tuple[list[str], int, dict[str, Any]]:
    """Objects that hold training windows, how many windows, and the data's fingerprint for the checkpoint's facts."""
    table = tables.read(windows, "windows", columns=["window_id", "map_id", "split", "dataset", "region"])
    if unknown := set(regions) - set(table["region"].to_pylist()):
        there = ", ".join(sorted(set(table["region"].to_pylist())))
        raise TrainError(f"{windows} has no region {', '.join(sorted(unknown))}; its regions: {there}")
    rows = table.filter(_trained_on(table, regions))
    found = storage.objects(storage.table_uri(windows, "windows"))
    facts = {
        "windows": rows.num_rows,
        "windows_fingerprint": tables.fingerprint(sorted(rows["window_id"].to_pylist())),
        "datasets": sorted(set(rows["dataset"].to_pylist())),
        "regions": sorted(set(rows["region"].to_pylist())),
        "maps": sorted(pc.unique(rows["map_id"]).to_pylist()),
        "schema_version": schemas.table_schema("windows").version,
    }
    return found, rows.num_rows, facts


def _same_as_before(run: Run) -> None:
    """Write down what the run trains on, and which recipe; raise TrainError where one began here with others.

    The schedule may differ: who gives a training more steps or minutes goes on with it.
    """
    begun = storage.join(run.folder, "run.json")
    recipe = {k: v for k, v in run.recipe.to_json().items() if k in ("base", *STAGES[: STAGES.index(run.stage) + 1])}
    facts: dict[str, Any] = json.loads(json.dumps({**run.facts, "recipe": recipe}))
    before = json.loads(storage.read_bytes(begun)) if storage.exists(begun) else facts
    if differ := [key for key in facts if facts[key] != before.get(key)]:
        raise TrainError(
            f"{run.folder} holds a training with other {', '.join(differ)}; give another --output, "
            "or delete that folder"
        )
    storage.write_bytes(begun, json.dumps(facts, indent=1).encode())


def _trained_on(table: pa.Table, regions: Sequence[str]) -> pa.ChunkedArray:
    """Which rows a run trains on: the train split, of the regions if any are named."""
    chosen = pc.equal(table["split"], "train")
    return pc.and_(chosen, pc.is_in(table["region"], pa.array(regions))) if regions else chosen


def _training_rows_packed(table: pa.Table, regions: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows of windows, those to train on, as what a worker gets: some 12 KB a window instead of 540.

    The map image travels and waits in the shuffle buffer compressed, and is unpacked batch by batch.
    """
    table = table.filter(_trained_on(table, regions))
    maps = [pa.compress(m.as_buffer(), "zstd", asbytes=True) for m in table["map_bev"].combine_chunks()]
    packed = np.empty(len(maps), object)
    packed[:] = maps
    return {"map_bev": packed, **pack(agents_from_arrow(table["agents"]))}


def _maps(packed: np.ndarray) -> torch.Tensor:
    """Compressed map images (B,) of bytes as (B, 8, 256, 256) uint8."""
    shape = (len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS)
    out = torch.empty((len(packed), *shape), dtype=torch.uint8)
    for i, blob in enumerate(packed):
        raw = pa.decompress(blob, decompressed_size=int(np.prod(shape)), codec="zstd")
        out[i] = torch.frombuffer(raw, dtype=torch.uint8).view(shape)
    return out


def _progress(run: Run, board: Any, report: Callable[[str], None]) -> Callable[[], None]:
    """What says how far the training is, where it has gone on since it was last asked."""
    import ray

    said = 0

    def look() -> None:
        nonlocal said
        line = ray.get(board.read.remote())
        if line.get("step", 0) > said:
            said = line["step"]
            report(_told(run, line))

    return look


def _told(run: Run, line: dict[str, Any]) -> str:
    """A line of the log for people, with the time left."""
    left_s = (run.config.steps - line["step"]) * run.config.batch_size / max(line["windows_per_s"], 0.1)
    if run.minutes is not None:
        left_s = max(0.0, min(left_s, 60 * run.minutes - line["seconds"]))
    return (
        f"{run.stage}: step {line['step']:,} of {run.config.steps:,}, loss {line['loss']:.3f}, "
        f"{line['windows_per_s']:.1f} windows/s, waiting {line['waiting_share']:.0%}, "
        f"{left_s // 60:.0f}:{left_s % 60:02.0f} left"
    )


def _work(told: dict[str, Any]) -> None:
    """One worker's whole run."""
    import ray.train
    import ray.train.torch

    run: Run = told["run"]
    torch.set_num_threads(run.threads)
    device = ray.train.torch.get_device()
    first = ray.train.get_context().get_world_rank() == 0
    torch.manual_seed(run.seed + ray.train.get_context().get_world_rank())
    autoencoder, stage = _build(run)
    state_file = storage.join(run.folder, "state.safetensors")
    state = TrainState(stage.trained.to(device), run.config)
    autoencoder.to(device)
    if storage.exists(state_file):
        state.restore(*checkpoint.read_state(state_file))
    torch.manual_seed(hash((run.seed, state.step, ray.train.get_context().get_world_rank())) % 2**31)
    batches = _batches(ray.train.get_dataset_shard("train"), run, state.step, device)
    if isinstance(stage, DenoiserStage) and state.step == 0:
        stage.fit_scale(itertools.islice(batches, SCALE_BATCHES))
        state = TrainState(stage.trained, run.config)
    step = ray.train.torch.prepare_model(stage, move_to_device=False)
    _loop(run, state, step, batches, autoencoder, device, told["board"] if first else None)


def _build(run: Run) -> tuple[AnyAutoencoder, AutoencoderStage | DenoiserStage]:
    if run.stage == "autoencoder":
        autoencoder = build_autoencoder(run.recipe.autoencoder)
        return autoencoder, AutoencoderStage(autoencoder)
    autoencoder, _ = checkpoint.load_autoencoder(run.autoencoder)
    denoiser = build_denoiser(run.recipe.denoiser, run.recipe.autoencoder.latent_channels)
    return autoencoder, DenoiserStage(denoiser, autoencoder)


def _loop(
    run: Run,
    state: TrainState,
    step: torch.nn.Module,
    batches: Iterator[tuple[SceneBatch, torch.Tensor]],
    autoencoder: AnyAutoencoder,
    device: torch.device,
    board: Any,
) -> None:
    """Steps until the run ends. board: what the first worker writes its lines on, None for the others."""
    import ray.train

    first = board is not None
    lines = _read_log(run) if first else []
    sums: dict[str, torch.Tensor] = {}
    held_back = _held_back(run.windows) if first else None
    batches = itertools.chain([next(batches)], batches)  # filling the shuffle buffer is not training
    began = saved = logged = time.monotonic()
    waited, since = 0.0, state.step
    spent_before = lines[-1]["seconds"] if lines else 0.0
    spent = _agree(_spent(run, spent_before))
    while state.step < run.config.steps and spent < 1:
        asked = time.monotonic()
        scenes, maps = next(batches)
        waited += time.monotonic() - asked
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            terms = step(scenes, maps)
        state.update(terms["loss"], spent)
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
        if state.step % LOG_EVERY == 0 or state.step == run.config.steps:
            now = time.monotonic()
            line = {"step": state.step, "seconds": round(spent_before + now - began, 1)}
            line |= {name: round(float(value) / (state.step - since), 5) for name, value in sums.items()}
            line["waiting_share"] = round(waited / (now - began), 4)
            line["windows_per_s"] = round((state.step - since) * run.config.batch_size / (now - logged), 1)
            sums, since, logged = {}, state.step, now
            lines.append(line)
            spent = _agree(_spent(run, line["seconds"]))
            if first and (spent >= 1 or now - saved > run.checkpoint_s or state.step == run.config.steps):
                _save(run, state, lines, autoencoder, held_back)
                saved = time.monotonic()
            if first:
                board.write.remote(line)
            ray.train.report(line)


def _spent(run: Run, seconds: float) -> float:
    """Share of the run's minutes that is over; 0 where steps alone end it."""
    return 0.0 if run.minutes is None else seconds / (60 * run.minutes)


def _agree(spent: float) -> float:
    """What the first worker says, told to all: every worker must end, and lower the learning rate, at one step."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return spent
    said = [spent]
    torch.distributed.broadcast_object_list(said, src=0)
    return float(said[0])


def _batches(shard: Any, run: Run, step: int, device: torch.device) -> Iterator[tuple[SceneBatch, torch.Tensor]]:
    """Batches without end, in another order each time the data comes round."""
    epoch = 0
    while True:
        for batch in shard.iter_batches(
            batch_size=run.config.batch_size,
            batch_format="numpy",
            drop_last=True,
            prefetch_batches=4,
            local_shuffle_buffer_size=run.shuffle_rows,
            local_shuffle_seed=run.seed + step + epoch,
        ):
            yield scene_batch(batch).to(device), _maps(batch["map_bev"]).to(device)
        epoch += 1


def _held_back(windows: str) -> pa.Table:
    """Some windows of the val split, spread over the table, to look at; of the train split where there are none."""
    for split in ("val", "train"):
        rows: list[pa.Table] = []
        found = storage.objects(storage.table_uri(windows, "windows"))
        for uri in found[:: max(1, len(found) // 24)]:
            fs, path = storage.filesystem(uri)
            with fs.open(path) as source:
                table = pq.read_table(source, columns=["split", "map_bev", "agents"], filters=[("split", "=", split)])
            rows.append(table.take(np.linspace(0, len(table) - 1, min(len(table), 8)).astype(int)))
        kept = pa.concat_tables(rows)
        if len(kept):
            return kept.take(np.linspace(0, len(kept) - 1, min(len(kept), HELD_BACK)).astype(int))
    raise TrainError(f"{windows} holds no windows")


def _read_log(run: Run) -> list[dict[str, Any]]:
    uri = storage.join(run.folder, "loss.jsonl")
    return [json.loads(line) for line in storage.read_bytes(uri).splitlines()] if storage.exists(uri) else []


def _save(
    run: Run, state: TrainState, lines: list[dict[str, Any]], autoencoder: AnyAutoencoder, held_back: pa.Table | None
) -> None:
    """State, model, curves and pictures as of now; the first worker's work."""
    facts = {
        "recipe": run.recipe.to_json(),
        "stage": run.stage,
        "step": state.step,
        "seconds": lines[-1]["seconds"],
        "data": run.facts,
    }
    weights = {f"{run.stage}.{k}": v for k, v in state.average.items()}
    model = ScenarioModel(run.recipe)
    if run.stage == "denoiser":
        weights |= {f"autoencoder.{k}": v for k, v in autoencoder.state_dict().items()}
        model.load_state_dict({k: v.cpu() for k, v in weights.items()})
    else:
        model.autoencoder.load_state_dict({k: v.cpu() for k, v in state.average.items()})
    checkpoint.save(storage.join(run.output, "model"), weights, facts)
    checkpoint.write_state(storage.join(run.folder, "state.safetensors"), state.step, state.tensors())
    if held_back is not None:
        picture, figures = pictures.samples(model.eval(), run.stage, held_back)
        lines[-1] |= figures
        storage.write_bytes(storage.join(run.folder, "samples.png"), picture)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    storage.write_bytes(storage.join(run.folder, "loss.jsonl"), text.encode())
    storage.write_bytes(storage.join(run.folder, "loss.png"), pictures.curves(lines))
