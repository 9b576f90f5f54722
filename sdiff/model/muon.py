"""The optimizer: Muon for matrices (Jordan et al. 2024, kellerjordan.github.io/posts/muon), Adam for the rest."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

LEAST_SIDE = 8
"""Smaller matrices have too few directions to be worth orthogonalising."""


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, for matrices and for convolutions as matrices; Adam for all other parameters.

    Needs less than half of Adam's steps here. lr: of Adam [per step]. matrix_lr: of matrices; their update has the
    root mean square 0.2 matrix_lr, so that one scale fits every shape (Liu et al. 2025, arXiv 2502.16982).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        matrix_lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        every = list(parameters)
        matrices = [p for p in every if p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= LEAST_SIDE]
        taken = {id(p) for p in matrices}
        rest = [p for p in every if id(p) not in taken]
        shared = {"weight_decay": weight_decay, "momentum": momentum, "betas": betas}
        super().__init__([{"params": matrices, "lr": matrix_lr}, {"params": rest, "lr": lr}], shared)
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        matrices, rest = self.param_groups
        for p in matrices["params"]:
            if p.grad is not None:
                self._matrix_step(p, p.grad, matrices)
        for p in rest["params"]:
            if p.grad is not None:
                self._adam_step(p, p.grad, rest)

    def _matrix_step(self, p: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        average = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
        average.lerp_(grad, 1 - group["momentum"])
        ahead = grad.lerp(average, group["momentum"]).flatten(1)  # Nesterov's
        update = orthogonal(ahead) * (0.2 * max(ahead.shape) ** 0.5)
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view_as(p), alpha=-group["lr"])

    def _adam_step(self, p: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        state["step"] += 1
        first, second = group["betas"]
        state["exp_avg"].lerp_(grad, 1 - first)
        state["exp_avg_sq"].lerp_(grad**2, 1 - second)
        done = float(state["step"])
        mean, square = state["exp_avg"] / (1 - first**done), state["exp_avg_sq"] / (1 - second**done)
        p.addcdiv_(mean, square.sqrt().add_(1e-8), value=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Near the closest matrix (A, B) whose singular values are all one: five Newton-Schulz steps of degree five."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x.T if tall else x
