"""Adam and SGD for a stack of fits, each with its own learning rate (torch.optim knows only one)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Adam:
    r"""Adam, in place, on parameters whose first axis is the stack.

    .. math:: \theta \leftarrow \theta - \eta_k \frac{\hat m}{\sqrt{\hat v} + \epsilon}

    Kingma and Ba 2015, https://arxiv.org/abs/1412.6980.

    Args:
        parameters: tensors ``(K, ...)`` that do not require gradients; ``step`` changes them.
        learning_rate: of each cell, ``(K,)``.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = list(parameters)
        self.betas = betas
        self.eps = eps
        self.steps = 0
        self._rates = [_broadcast(learning_rate, p) for p in self.parameters]
        self._first = [torch.zeros_like(p) for p in self.parameters]
        self._second = [torch.zeros_like(p) for p in self.parameters]

    def step(self, gradients: Sequence[Tensor], rate: float = 1.0, active: Tensor | None = None) -> None:
        """One step at ``rate`` times each learning rate; cells where ``active`` ``(K,)`` is False stay put."""
        self.steps += 1
        beta1, beta2 = self.betas
        correction = (1 - beta2**self.steps) ** 0.5
        scale = rate * correction / (1 - beta1**self.steps)
        rows = zip(self.parameters, gradients, self._rates, self._first, self._second, strict=True)
        for parameter, gradient, learning_rate, first, second in rows:
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            move = first / second.sqrt().add_(self.eps * correction).div_(learning_rate)
            if active is not None:
                # A product with 0 would keep the NaN of a diverged cell.
                move = torch.where(_broadcast(active, move), move, 0.0)
            parameter.sub_(move, alpha=scale)


class SGD:
    r"""Gradient descent, in place, with the interface of `Adam`.

    .. math:: \theta \leftarrow \theta - \eta_k \nabla

    With small steps and many samples it follows the gradient flow, whose basins are known.
    """

    def __init__(self, parameters: Sequence[Tensor], learning_rate: Tensor) -> None:
        self.parameters = list(parameters)
        self._rates = [_broadcast(learning_rate, p) for p in self.parameters]

    def step(self, gradients: Sequence[Tensor], rate: float = 1.0, active: Tensor | None = None) -> None:
        """One step at ``rate`` times each learning rate; cells where ``active`` ``(K,)`` is False stay put."""
        for parameter, gradient, learning_rate in zip(self.parameters, gradients, self._rates, strict=True):
            move = gradient * learning_rate * rate
            if active is not None:
                move = torch.where(_broadcast(active, move), move, 0.0)
            parameter.sub_(move)


def _broadcast(per_cell: Tensor, like: Tensor) -> Tensor:
    return per_cell.view(-1, *[1] * (like.dim() - 1))
