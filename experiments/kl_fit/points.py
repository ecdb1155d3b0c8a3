"""K samples-only targets, stacked: they can be sampled, and have no density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class StackedPoints:
    """Cells that share a file share its points.

    Args:
        values: the points of all different targets end to end, ``(D, total)``.
        first, count: where each cell's points begin, and how many they are, ``(K, 1)``.
    """

    values: Tensor
    first: Tensor
    count: Tensor
    log_prob: None = None

    @classmethod
    def stack(cls, points: Sequence[np.ndarray], dtype: torch.dtype, device: str) -> StackedPoints:
        """From K arrays ``(n, D)``; one array object may appear many times and is held once."""
        unique = {id(p): p for p in points}
        starts = dict(zip(unique, np.cumsum([0, *(len(p) for p in unique.values())]), strict=False))
        values = torch.as_tensor(np.concatenate(list(unique.values())).T.copy(), dtype=dtype, device=device)
        first = torch.tensor([[int(starts[id(p)])] for p in points], device=device)
        count = torch.tensor([[len(p)] for p in points], device=device)
        return cls(values, first, count)

    def sample(self, uniform: Tensor, normal: Tensor, gamma: Tensor | None = None) -> Tensor:
        """Points drawn with replacement by ``uniform`` ``(K, N)``: ``(K, D, N)``."""
        # In single precision the places of some points would be wider than others'.
        index = (uniform.double() * self.count).long() + self.first
        return self.values[:, index].transpose(0, 1).contiguous()
