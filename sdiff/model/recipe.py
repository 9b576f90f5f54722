"""What decides a model: typed, frozen, written beside the weights as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from sdiff.scene import WAYPOINTS_S


@dataclass(frozen=True)
class AutoencoderConfig:
    """Widths of the autoencoder. The latent has `latent_channels` x 32 x 32, the detection grid 64 x 64 cells.

    stem: how agents come in: `centres`, a vector at the cell of each one's centre, or `image`, their drawn boxes.
    """

    stem: str = "centres"
    latent_channels: int = 16
    width: int = 64
    map_width: int = 24
    encoder_blocks: int = 0
    decoder_blocks: int = 2
    kl_weight: float = 0.1


@dataclass(frozen=True)
class DenoiserConfig:
    """Widths of the U-Net at 32 x 32, 16 x 16 and 8 x 8, and of the tokens.

    sigma_data: standard deviation of the scaled latents. log_sigma_mean, log_sigma_std: of the training noise.
    decoded_weight: of the loss on decoded boxes beside that on latents.
    """

    widths: tuple[int, int, int] = (48, 96, 144)
    map_width: int = 48
    token_width: int = 96
    heads: int = 4
    sigma_data: float = 0.5
    log_sigma_mean: float = 0.4
    log_sigma_std: float = 1.2
    decoded_weight: float = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """Schedule of one stage: the learning rates rise over `warmup` steps, then fall linearly to the end.

    learning_rate: of vectors (Adam). matrix_learning_rate: of matrices and convolutions (Muon).
    """

    steps: int = 3000
    batch_size: int = 16
    learning_rate: float = 2e-3
    matrix_learning_rate: float = 8e-3
    weight_decay: float = 1e-5
    warmup: int = 100
    ema: float = 0.999


@dataclass(frozen=True)
class Recipe:
    """A named model with the schedules of both stages."""

    name: str = "small"
    waypoints_s: tuple[float, ...] = WAYPOINTS_S
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    train_autoencoder: TrainConfig = field(default_factory=TrainConfig)
    train_denoiser: TrainConfig = field(default_factory=lambda: TrainConfig(steps=4500, matrix_learning_rate=4e-3))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(raw: dict[str, Any]) -> "Recipe":
        """From what `to_json` gave, or a part of it. Raises ValueError for a key that no part of a recipe has."""
        parts: dict[str, Any] = {
            "autoencoder": AutoencoderConfig,
            "denoiser": DenoiserConfig,
            "train_autoencoder": TrainConfig,
            "train_denoiser": TrainConfig,
        }
        unknown = set(raw) - set(Recipe.__dataclass_fields__)
        values: dict[str, Any] = {}
        for key, value in raw.items():
            if key in parts:
                unknown |= {f"{key}.{k}" for k in set(value) - set(parts[key].__dataclass_fields__)}
        if unknown:
            raise ValueError(f"unknown recipe keys: {', '.join(sorted(unknown))}; see sdiff/model/recipe.py")
        default = Recipe()
        for key, value in raw.items():
            if key in parts:
                merged = {**asdict(getattr(default, key)), **value}
                value = parts[key](**{k: tuple(v) if isinstance(v, list) else v for k, v in merged.items()})
            values[key] = tuple(value) if isinstance(value, list) else value
        return Recipe(**values)


RECIPES: dict[str, Recipe] = {"small": Recipe()}
