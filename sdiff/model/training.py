"""Both training stages: what one step does, and the state that a resumed run needs. Knows no Ray and no files."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sdiff.model.batch import SceneBatch
from sdiff.model.build import AnyAutoencoder
from sdiff.model.conditioning import unnamed
from sdiff.model.denoiser import Preconditioned, denoising_loss
from sdiff.model.muon import Muon, is_matrix
from sdiff.model.recipe import TrainConfig

_MOMENTS = ("exp_avg", "exp_avg_sq")


class AutoencoderStage(nn.Module):
    """Loss of the autoencoder on a batch, with its terms."""

    def __init__(self, autoencoder: AnyAutoencoder) -> None:
        super().__init__()
        self.trained = autoencoder

    def forward(self, scenes: SceneBatch, map_bev: Tensor) -> dict[str, Tensor]:
        scenes = scenes._replace(kind=unnamed(scenes.kind))
        posterior = self.trained.encode(scenes, map_bev)
        terms = self.trained.loss(self.trained.decode(posterior.sample(), self.trained.look(map_bev)), scenes)
        kl = posterior.kl()
        return {"loss": terms.total() + self.trained.config.kl_weight * kl, "kl": kl, **terms._asdict()}


class DenoiserStage(nn.Module):
    """Loss of the denoiser on the latents of the frozen autoencoder, and on what they decode to.

    The squared error of latents counts all their directions alike; a heading that is a little off costs little there
    and much on the road. So the loss of the autoencoder is added on the estimates at noise below sigma_data, where
    there is one right answer (Scenario Diffusion's decoded loss).
    """

    def __init__(self, denoiser: Preconditioned, autoencoder: AnyAutoencoder) -> None:
        super().__init__()
        self.trained = denoiser
        self.frozen = [autoencoder.eval().requires_grad_(False)]  # in a list: not a part of what is trained

    @torch.no_grad()
    def latents(self, scenes: SceneBatch, map_bev: Tensor) -> Tensor:
        """What the denoiser learns to make: means of the posterior."""
        return self.frozen[0].encode(scenes, map_bev).mean

    @torch.no_grad()
    def fit_scale(self, batches: Iterable[tuple[SceneBatch, Tensor]]) -> None:
        """Set the scale of the latents from data: per channel mean 0 and standard deviation sigma_data."""
        z = torch.cat([self.latents(*batch) for batch in batches])
        self.trained.latent_mean.copy_(z.mean((0, 2, 3)).view(-1, 1, 1))
        std = z.std((0, 2, 3)).clamp(min=1e-3)
        self.trained.latent_scale.copy_((self.trained.config.sigma_data / std).view(-1, 1, 1))

    def forward(self, scenes: SceneBatch, map_bev: Tensor) -> dict[str, Tensor]:
        context = self.trained.context(map_bev, self.trained.conditions(scenes), self.frozen[0])
        made = denoising_loss(self.trained, self.latents(scenes, map_bev), context)
        config = self.trained.config
        clear = made.sigma < config.sigma_data
        decoded = made.loss.new_zeros(())
        if config.decoded_weight and clear.any():
            z = self.trained.unscale(made.scaled[clear])
            boxes = self.frozen[0].decode(z, self.frozen[0].look(map_bev[clear]))
            decoded = self.frozen[0].loss(boxes, SceneBatch(*(t[clear] for t in scenes))).total()
        return {"loss": made.loss + config.decoded_weight * decoded, "latent": made.loss, "decoded": decoded}


@dataclass
class TrainState:
    """What is trained, its moving average and its optimizer: all that a killed run needs to go on."""

    trained: nn.Module
    config: TrainConfig
    step: int = 0
    average: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config, parameters = self.config, list(self.trained.parameters())
        rest = [p for p in parameters if not self._by_muon(p)]
        adam = torch.optim.AdamW(rest, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay)
        self.optimizers: list[torch.optim.Optimizer] = [adam]
        self.rates = [config.learning_rate]
        if config.matrix_learning_rate is not None:
            matrices = [p for p in parameters if self._by_muon(p)]
            self.optimizers.append(Muon(matrices, config.matrix_learning_rate, config.weight_decay))
            self.rates.append(config.matrix_learning_rate)
        self.average = {k: v.detach().clone() for k, v in self.trained.state_dict().items()}

    def update(self, loss: Tensor, spent: float = 0.0) -> None:
        """One optimizer step on `loss`, its gradient clipped to norm 1.

        spent: share of the run's time that is over, where time and not steps may end it: the schedule follows it then.
        """
        factor = schedule(self.step, self.config, spent)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        # The average starts fast, so that an early checkpoint is not an average with the random start.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.trained.state_dict().items():
                self.average[name].lerp_(value.to(self.average[name].dtype), 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state but the step, as named tensors."""
        out = {f"model.{k}": v for k, v in self.trained.state_dict().items()}
        out |= {f"average.{k}": v for k, v in self.average.items()}
        for name, parameter in self.trained.named_parameters():
            moments = self._optimizer(parameter).state.get(parameter, {})
            out |= {f"{kind}.{name}": moments[kind] for kind in _MOMENTS if kind in moments}
        return {k: v.detach().cpu().contiguous() for k, v in out.items()}

    def restore(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Go on from `step` with what `tensors` gave."""
        self.step = step
        self.trained.load_state_dict(_under("model.", tensors))
        device = next(self.trained.parameters()).device
        self.average = {k: v.to(device) for k, v in _under("average.", tensors).items()}
        saved = {kind: _under(f"{kind}.", tensors) for kind in _MOMENTS}
        for name, parameter in self.trained.named_parameters():
            moments = {kind: saved[kind][name].to(device) for kind in _MOMENTS if name in saved[kind]}
            if moments:
                self._optimizer(parameter).state[parameter] = {"step": torch.tensor(float(step)), **moments}

    def _optimizer(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        return self.optimizers[self._by_muon(parameter)]

    def _by_muon(self, parameter: nn.Parameter) -> bool:
        return self.config.matrix_learning_rate is not None and is_matrix(parameter)


def schedule(step: int, config: TrainConfig, spent: float = 0.0) -> float:
    """Factor on the learning rates: a linear rise over the warm-up, then a linear fall to nothing at the end."""
    done = max(step / config.steps, spent)
    return min((step + 1) / config.warmup, max(1 - done, 0.02))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
