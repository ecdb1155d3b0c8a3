"""A number that was drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number and its Monte-Carlo standard error."""

    value: float
    error: float = 0.0


Number = float | Estimate
