"""What decides a model: typed, frozen, written beside the weights as JSON."""

from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any


@dataclass(frozen=True)
class AutoencoderConfig:
    """Widths of the autoencoder. The latent has `latent_channels` x 32 x 32, the detection grid 64 x 64 cells."""

    latent_channels: int = 16
    width: int = 64
    map_width: int = 24
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
class PaperAutoencoderConfig:
    """The published autoencoder: channels at 256 x 256, 128 x 128, 64 x 64 and 32 x 32 cells.

    kl_weight: not published.
    """

    latent_channels: int = 4
    widths: tuple[int, int, int, int] = (32, 64, 128, 128)
    kl_weight: float = 1e-3


@dataclass(frozen=True)
class PaperDenoiserConfig:
    """The published denoiser: channels at 32 x 32, 16 x 16 and 8 x 8 cells; the rest as in DenoiserConfig."""

    widths: tuple[int, int, int] = (64, 128, 256)
    blocks: int = 2
    token_width: int = 128
    heads: int = 8
    sigma_data: float = 0.5
    log_sigma_mean: float = -0.5
    log_sigma_std: float = 1.0
    decoded_weight: float = 0.2


@dataclass(frozen=True)
class TrainConfig:
    """Schedule of one stage: the learning rates rise over `warmup` steps, then fall linearly to the end.

    learning_rate: of vectors (Adam). matrix_learning_rate: of matrices and convolutions (Muon); None: Adam for all.
    """

    steps: int = 3000
    batch_size: int = 16
    learning_rate: float = 2e-3
    matrix_learning_rate: float | None = 8e-3
    weight_decay: float = 1e-5
    warmup: int = 100
    ema: float = 0.999


@dataclass(frozen=True)
class Recipe:
    """A named model with the schedules of both stages. base: the recipe in RECIPES whose kind of model it is."""

    name: str = "small"
    base: str = "small"
    autoencoder: AutoencoderConfig | PaperAutoencoderConfig = field(default_factory=AutoencoderConfig)
    denoiser: DenoiserConfig | PaperDenoiserConfig = field(default_factory=DenoiserConfig)
    train_autoencoder: TrainConfig = field(default_factory=TrainConfig)
    train_denoiser: TrainConfig = field(default_factory=lambda: TrainConfig(steps=9000, matrix_learning_rate=4e-3))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(raw: dict[str, Any]) -> "Recipe":
        """From what `to_json` gave, or a part of it: what is not said is as in the base.

        Raises ValueError for a base that is not in RECIPES, and for a key that no part of a recipe has.
        """
        named = raw.get("base", "small")
        if named not in RECIPES:
            raise ValueError(f"unknown base {named!r} of a recipe, expected one of {', '.join(RECIPES)}")
        base = RECIPES[named]
        unknown = set(raw) - set(Recipe.__dataclass_fields__)
        values: dict[str, Any] = {}
        for key, value in raw.items():
            part = getattr(base, key, None)
            if is_dataclass(part) and not isinstance(part, type):
                known = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if hasattr(part, k)}
                unknown |= {f"{key}.{k}" for k in set(value) - set(known)}
                values[key] = replace(part, **known)
            else:
                values[key] = tuple(value) if isinstance(value, list) else value
        if unknown:
            raise ValueError(f"unknown recipe keys: {', '.join(sorted(unknown))}; see sdiff/model/recipe.py")
        return replace(base, **values)


_PAPER_SCHEDULE = TrainConfig(learning_rate=1e-4, matrix_learning_rate=None)
RECIPES: dict[str, Recipe] = {
    "small": Recipe(),
    "base": Recipe(
        name="base",
        base="base",
        autoencoder=AutoencoderConfig(width=96, map_width=48, decoder_blocks=3),
        denoiser=DenoiserConfig(widths=(128, 256, 384), map_width=96, token_width=192, heads=8),
        train_autoencoder=TrainConfig(steps=20_000, batch_size=64),
        train_denoiser=TrainConfig(steps=100_000, batch_size=64, matrix_learning_rate=4e-3, ema=0.9995),
    ),
    "paper": Recipe(
        name="paper",
        base="paper",
        autoencoder=PaperAutoencoderConfig(),
        denoiser=PaperDenoiserConfig(),
        train_autoencoder=_PAPER_SCHEDULE,
        train_denoiser=replace(_PAPER_SCHEDULE, steps=4500, learning_rate=3e-4),
    ),
}
"""`small` ships; `base` is the same at a width for a GPU.

`paper` is Scenario Diffusion as published (arXiv 2311.02738 and its forerunner 2305.18452).
"""
