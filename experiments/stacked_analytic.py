"""K copies of one density by formula, as one set of tensors: what `StackedMixture` is for mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import randomness
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Analytic
from experiments.targets.analytic import Form


@dataclass(frozen=True)
class StackedAnalytic:
    """One form in coordinates ``y = C^{-1} (x - center)``; cells that are stacked share form and coordinates.

    Args:
        center, scale: ``(D, 1)``; the diagonal of C.
        below: the entries of C below it that are not 0: row, column, value.
        log_volume: log-determinant of C.
        df: None, whatever the tails: samples need no gamma noise.
    """

    form: Form
    center: Tensor
    scale: Tensor
    below: tuple[tuple[int, int, float], ...]
    log_volume: float
    df: None = None

    @classmethod
    def stack(
        cls, targets: Sequence[Analytic], dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> StackedAnalytic:
        """Targets of one form, in the same coordinates."""
        first = targets[0]
        if any(target.digest != first.digest for target in targets):
            raise ValueError("densities of different forms cannot be stacked")
        center = np.zeros(first.dim) if first.center is None else first.center
        factor = np.eye(first.dim) if first.factor is None else first.factor
        loc, scale = (torch.tensor(c[:, None], dtype=dtype, device=device) for c in (center, np.diag(factor)))
        rows = zip(*np.nonzero(np.tril(factor, -1)), strict=True)
        below = tuple((int(i), int(j), float(factor[i, j])) for i, j in rows)
        return cls(first.form, loc, scale, below, first.log_volume)

    @property
    def dim(self) -> int:
        return len(self.center)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density, ``(K, D, N) -> (K, N)``; differentiable in x."""
        return self.form.log_prob(self._outward(x), torch) + self.log_volume

    def cell(self, x: Tensor) -> Tensor:
        """The mode that a point belongs to, ``(K, D, N) -> (K, N)``."""
        return self.form.cell(self._outward(x), torch)

    def sample(self, uniform: Tensor, normal: Tensor, gamma: Tensor | None = None) -> Tensor:
        """Exact samples ``(K, D, N)`` from noise ``(K, N)`` and ``(K, D, N)``."""
        x = self.form.sample(uniform, normal, torch) - self.center
        if not self.below:
            return x / self.scale
        rows: list[Tensor] = []
        for i, row in enumerate(x.unbind(1)):  # forward substitution
            for of, j, value in self.below:
                if of == i:
                    row = row - value * rows[j]
            rows.append(row / self.scale[i])
        return torch.stack(rows, dim=1)

    def draw(self, n: int, generators: Sequence[torch.Generator]) -> Tensor:
        """``(K, D, n)`` exact samples, those of cell k from generator k alone."""
        uniform = randomness.uniform((n,), generators, self.center.dtype)
        return self.sample(uniform, randomness.normal((self.dim, n), generators, self.center.dtype))

    def _outward(self, x: Tensor) -> Tensor:
        """Into the form's own coordinates; element by element, so that no sum depends on the stack."""
        y = self.center + self.scale * x
        if not self.below:
            return y
        rows = list(y.unbind(1))
        for i, j, value in self.below:
            rows[i] = rows[i] + value * x[:, j]
        return torch.stack(rows, dim=1)


def stack(
    targets: Sequence[Any], dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> StackedMixture | StackedAnalytic:
    """Targets whose density is known, all of one kind."""
    if isinstance(targets[0], Analytic):
        return StackedAnalytic.stack(targets, dtype, device)
    return StackedMixture.stack(targets, dtype, device)
