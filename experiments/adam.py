"""Adam and SGD for a stack of fits, each with its own learning rate (torch.optim knows only one)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Move = tuple[float, float] | Tensor
"""What differs from step to step: a factor on the move, and what is added to its denominator; or a tensor ``(2,)``."""


class Adam:
    r"""Adam, in place, on parameters whose first axis is the stack.

    .. math:: \theta \leftarrow \theta - \eta_k \frac{\hat m}{\sqrt{\hat v} + \epsilon}

    Kingma and Ba 2015, https://arxiv.org/abs/1412.6980.

    Args:
        parameters: tensors ``(K, ...)`` that do not require gradients; ``step`` changes them.
        learning_rate: of each cell, ``(K,)``; it decays, see ``decay``.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.betas = betas
        self.eps = eps
        self._rates = [_broadcast(learning_rate, p) for p in self.parameters]
        self._first = [torch.zeros_like(p) for p in self.parameters]
        self._second = [torch.zeros_like(p) for p in self.parameters]

    @property
    def moments(self) -> list[Tensor]:
        """What the next move depends on beside gradients: two running means of each parameter, shaped like it."""
        return [*self._first, *self._second]

    def moves(self, steps: int) -> Iterator[Move]:
        """For each of so many steps, what ``step`` wants to know of it."""
        return _beside(self.learning_rate, (self._move(step, steps) for step in range(steps)))

    def step(self, gradients: Sequence[Tensor], move: Move, active: Tensor | None = None) -> None:
        """One step; cells where ``active`` ``(K,)`` is False stay put."""
        beta1, beta2 = self.betas
        scale, eps = move
        rows = zip(self.parameters, gradients, self._rates, self._first, self._second, strict=True)
        for parameter, gradient, learning_rate, first, second in rows:
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            change = first / second.sqrt().add_(eps).div_(learning_rate)
            change = _where(active, change)
            if isinstance(scale, Tensor):  # alpha would have to come to the host
                parameter.addcmul_(change, scale, value=-1.0)
            else:
                parameter.sub_(change, alpha=scale)

    def _move(self, step: int, steps: int) -> tuple[float, float]:
        beta1, beta2 = self.betas
        correction = (1 - beta2 ** (step + 1)) ** 0.5
        return decay(step / steps) * correction / (1 - beta1 ** (step + 1)), self.eps * correction


LATE = 1e9  # a step at which 1 - beta^step is 1: the kernel then corrects nothing


class FusedAdam:
    r"""`Adam` by torch's kernel, which passes over memory once: in half the time where parameters are many.

    It knows one learning rate. So it moves :math:`\phi = \theta / \eta`, at a rate of 1.

    Args:
        parameters: of any shape, on a core. Their number is a multiple of 16: what is left over would go through
            another loop, and might end with other last bits.
        learning_rate: of each parameter, of the same shape, above 0.
    """

    def __init__(self, parameters: Tensor, learning_rate: Tensor) -> None:
        self._adam = Adam([parameters], learning_rate)
        self._scaled = parameters / learning_rate
        self._late = torch.tensor(LATE)

    @property
    def moments(self) -> list[Tensor]:
        """What the next move depends on beside gradients, shaped like the parameters."""
        return [*self._adam.moments, self._scaled]

    def moves(self, steps: int) -> Iterator[Move]:
        """As of `Adam`."""
        return self._adam.moves(steps)

    def step(self, gradients: Sequence[Tensor], move: Move) -> None:
        """One step of every cell."""
        (beta1, beta2), (scale, eps) = self._adam.betas, move
        assert isinstance(scale, float)  # on a core
        first, second = self._adam.moments
        torch._fused_adam_(
            [self._scaled],
            list(gradients),
            [first],
            [second],
            [],
            [self._late],
            lr=scale,  # the move corrects for the moments' bias, as its eps does
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )
        torch.mul(self._scaled, self._adam.learning_rate, out=self._adam.parameters[0])


class SGD:
    r"""Gradient descent, in place, with the interface of `Adam`.

    .. math:: \theta \leftarrow \theta - \eta_k \nabla

    With small steps and many samples it follows the gradient flow, whose basins are known.
    """

    def __init__(self, parameters: Sequence[Tensor], learning_rate: Tensor) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self._rates = [_broadcast(learning_rate, p) for p in self.parameters]

    @property
    def moments(self) -> list[Tensor]:
        """None."""
        return []

    def moves(self, steps: int) -> Iterator[Move]:
        """For each of so many steps, what ``step`` wants to know of it."""
        return _beside(self.learning_rate, ((decay(step / steps), 0.0) for step in range(steps)))

    def step(self, gradients: Sequence[Tensor], move: Move, active: Tensor | None = None) -> None:
        """One step; cells where ``active`` ``(K,)`` is False stay put."""
        scale, _ = move
        for parameter, gradient, learning_rate in zip(self.parameters, gradients, self._rates, strict=True):
            parameter.sub_(_where(active, gradient * learning_rate * scale))


def decay(progress: float) -> float:
    """Factor on the learning rate: one for the first half, then half a cosine to zero, so that noise averages out."""
    return 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * progress - 1)))


def _beside(like: Tensor, moves: Iterator[tuple[float, float]]) -> Iterator[Move]:
    """For parameters on a GPU as tensors, all brought there at once: a captured step can be replayed with each."""
    if like.device.type == "cpu":
        return moves
    table = torch.tensor(list(moves), dtype=like.dtype, device=like.device)
    return (table[step] for step in range(len(table)))


def _where(active: Tensor | None, change: Tensor) -> Tensor:
    # A product with 0 would keep the NaN of a diverged cell.
    return change if active is None else torch.where(_broadcast(active, change), change, 0.0)


def _broadcast(per_cell: Tensor, like: Tensor) -> Tensor:
    return per_cell.view(-1, *[1] * (like.dim() - 1))
