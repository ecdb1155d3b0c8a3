"""Estimates with their errors: means over quadrature nodes or over draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.metrics.partition import Measure


@dataclass(frozen=True)
class Estimate:
    """Means ``(K,)`` and the variances of their errors."""

    value: Tensor
    variance: Tensor

    def __add__(self, other: Estimate) -> Estimate:
        """Of independent estimates."""
        return Estimate(self.value + other.value, self.variance + other.variance)

    def __mul__(self, factor: float) -> Estimate:
        return Estimate(factor * self.value, factor**2 * self.variance)


def expectation(measure: Measure, value: Tensor) -> Estimate:
    """Mean of a function's values ``(K, N)``, and for independent draws the variance of that mean."""
    weight = measure.weight
    if measure.exact:
        # A node without mass may have an infinite value, and 0 * inf is not 0.
        mean = (weight * torch.where(weight > 0, value, 0.0)).sum(dim=1)
        return Estimate(mean, torch.zeros_like(mean))
    mean = value.mean(dim=1)  # draws weigh the same
    return Estimate(mean, (value - mean.unsqueeze(1)).square_().sum(dim=1) / value.shape[1] ** 2)


def mass_where(measure: Measure, inside: Tensor) -> Estimate:
    """Mass of the points that are inside ``(K, N)``: the expectation of an indicator, whose square is itself."""
    if measure.exact:
        return expectation(measure, inside.to(measure.weight.dtype))
    n = inside.shape[1]
    mean = inside.sum(dim=1).to(measure.weight.dtype) / n
    return Estimate(mean, mean * (1 - mean) / n)
