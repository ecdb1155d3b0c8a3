"""Fits beside the exact optima of their divergence: how far from the best, which one they reached, and whether."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from experiments.experiment import Cell
from experiments.truth import Divergence, certify

DECIMALS = 10  # of a gap in nats, so that it is the same on every processor; quadrature is good for no more


@dataclass(frozen=True)
class Distance:
    """What is reported of one fit's optimum; empty where none is known."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def distance(cell: Cell, mean: np.ndarray, tril: np.ndarray) -> Distance:
    """Of a finite fit ``(D,)``, Cholesky factor ``(D, D)``.

    One fit at a time: the sums of a stack would depend, in their last bits, on its size.
    """
    params = cell.params
    chosen = Divergence(
        params.divergence,
        **{name: getattr(params, name) for name in ("alpha", "forward_weight") if getattr(params, name) is not None},
    )
    (found,) = certify(cell.target, params.family, chosen, mean[None], tril[None])
    known = {"optimum_value": found.value, "optimum_gap": found.gap, "converged": found.converged}
    metrics = {name: round(float(value), DECIMALS) for name, value in known.items() if value is not None}
    return Distance(metrics, {} if found.label is None else {"optimum_label": found.label})
