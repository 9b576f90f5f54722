"""Checkpoints as a folder of `model.safetensors` and `model.json`: weights, recipe, and what they were made from."""

import hashlib
import json
import textwrap
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

import sdiff
from sdiff import storage
from sdiff.model.build import AnyAutoencoder, build_autoencoder
from sdiff.model.recipe import Recipe
from sdiff.model.scenario_model import ScenarioModel


class CheckpointError(ValueError):
    """A checkpoint is missing or is not one: says which, and what to do."""


def fingerprint(weights: dict[str, Tensor]) -> str:
    """Hexadecimal digest of named tensors."""
    return hashlib.sha256(_bytes(weights)).hexdigest()


def _bytes(weights: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in weights.items()})


def save(uri: str, weights: dict[str, Tensor], facts: dict[str, Any], name: str = "model") -> None:
    """Write `weights` and `facts` under `uri`; the JSON last, so that a folder with one is complete."""
    data = _bytes(weights)
    facts = {**facts, "code_version": sdiff.__version__, "sha256": hashlib.sha256(data).hexdigest()}
    storage.write_bytes(storage.join(uri, f"{name}.safetensors"), data)
    storage.write_bytes(storage.join(uri, f"{name}.json"), json.dumps(facts, indent=1).encode())


def read(uri: str, name: str = "model") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and facts. Raises CheckpointError where they are missing or do not belong together."""
    try:
        facts = json.loads(storage.read_bytes(storage.join(uri, f"{name}.json")))
        data = storage.read_bytes(storage.join(uri, f"{name}.safetensors"))
    except (storage.StorageError, ValueError) as error:
        raise CheckpointError(f"no checkpoint at {uri}: {error}; give a folder that `sdiff train` wrote") from error
    if not isinstance(facts, dict):
        raise CheckpointError(
            f"checkpoint at {uri}: {name}.json holds no mapping; give a folder that `sdiff train` wrote"
        )
    if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
        raise CheckpointError(
            f"checkpoint at {uri}: {name}.safetensors is not the file that {name}.json describes; copy both anew"
        )
    return safetensors.torch.load(data), facts


def write_state(uri: str, step: int, tensors: dict[str, Tensor]) -> None:
    """Write all that a resumed training needs as one object, so that a kill leaves the last one whole."""
    storage.write_bytes(uri, safetensors.torch.save({**tensors, "step": torch.tensor(step)}))


def read_state(uri: str) -> tuple[int, dict[str, Tensor]]:
    """Step and tensors of what `write_state` wrote."""
    tensors = safetensors.torch.load(storage.read_bytes(uri))
    return int(tensors.pop("step")), tensors


def shipped() -> str:
    """The folder of the checkpoint that comes with the package."""
    return str(Path(str(resources.files("sdiff"))) / "checkpoints" / "small")


def load(uri: str | None = None, device: str = "cpu") -> ScenarioModel:
    """The model at `uri`, or the shipped one, ready to sample. Raises CheckpointError."""
    uri = uri or shipped()
    weights, facts = read(uri)
    if not any(k.startswith("denoiser.") for k in weights):
        raise CheckpointError(f"checkpoint at {uri} has no denoiser; make one with `sdiff train denoiser`")
    model = ScenarioModel(_recipe(facts, uri))
    _load_into(model, weights, uri)
    model.model_id = f"{facts['recipe']['name']}-{facts['sha256'][:12]}"
    model.trained_maps = frozenset(facts.get("data", {}).get("maps", ()))
    return model.eval().to(torch.device(device))


def load_autoencoder(uri: str) -> tuple[AnyAutoencoder, Recipe]:
    """The autoencoder of the checkpoint at `uri`, which may hold no denoiser yet."""
    weights, facts = read(uri)
    recipe = _recipe(facts, uri)
    autoencoder = build_autoencoder(recipe.autoencoder)
    own = {k.removeprefix("autoencoder."): v for k, v in weights.items() if k.startswith("autoencoder.")}
    _load_into(autoencoder, own, uri)
    return autoencoder.eval(), recipe


def _recipe(facts: dict[str, Any], uri: str) -> Recipe:
    try:
        return Recipe.from_json(facts["recipe"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint at {uri}: model.json has no recipe that this version knows: {error}; give a folder that "
            "`sdiff train` wrote"
        ) from error


def _load_into(module: nn.Module, weights: dict[str, Tensor], uri: str) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint at {uri} does not fit its recipe: {textwrap.shorten(str(error), 300)}"
        ) from error
