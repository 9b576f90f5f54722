"""Muon, the optimizer of matrices and convolutions (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

LEAST_SIDE = 8
"""Smaller matrices have too few directions to be worth orthogonalising."""


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether Muon is for it; the rest is Adam's."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= LEAST_SIDE


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum of matrices, and of convolutions as matrices (torch's own takes none).

    Needs less than half of Adam's steps here. An update has the root mean square 0.2 lr, so that one scale fits every
    shape (Liu et al. 2025, arXiv 2502.16982).
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, p.grad, group)

    def _step(self, p: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        average = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
        average.lerp_(grad, 1 - group["momentum"])
        ahead = grad.lerp(average, group["momentum"]).flatten(1)  # Nesterov's
        update = orthogonal(ahead) * (0.2 * max(ahead.shape) ** 0.5)
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view_as(p), alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Near the closest matrix (A, B) whose singular values are all one: five Newton-Schulz steps of degree five."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x.T if tall else x
