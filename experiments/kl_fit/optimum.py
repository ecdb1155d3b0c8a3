"""Fits beside the exact optima of their divergence: how far from the best, which one they reached, and whether."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.experiment import Cell
from experiments.truth import Certificate, Divergence, Family, certify, search_ahead

DECIMALS = 10  # of a gap in nats, so that it is the same on every processor; quadrature is good for no more


@dataclass(frozen=True)
class Distance:
    """What is reported of one fit's optimum; empty where none is known."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def search_optima(cells: Sequence[Cell]) -> None:
    """Search for the optima that ``distances`` will want, of cells whose family is Gaussian, before their fits.

    A search may take as long as hundreds of fits. After fits of one size two workers would come to it at once, and one
    would wait; before them that one goes on with its fits.
    """
    for (_, family, divergence), (row, *_) in _groups(cells).items():
        search_ahead(cells[row].target, family, divergence)


def distances(cells: Sequence[Cell], mean: np.ndarray, tril: np.ndarray) -> list[Distance]:
    """Of K fits ``(K, D)``, Cholesky factors ``(K, D, D)``; cells of one target, family and divergence at once."""
    found = [Distance()] * len(cells)
    for (_, family, divergence), rows in _groups(cells).items():
        certificates = certify(cells[rows[0]].target, family, divergence, mean[rows], tril[rows])
        for k, certificate in zip(rows, certificates, strict=True):
            found[k] = _distance(certificate)
    return found


def _groups(cells: Sequence[Cell]) -> dict[tuple[str, Family, Divergence], list[int]]:
    """The rows of cells by what their optima depend on: target, family and divergence."""
    groups: dict[tuple[str, Family, Divergence], list[int]] = {}
    for k, cell in enumerate(cells):
        groups.setdefault((cell.target.digest, cell.params.family, _divergence(cell.params)), []).append(k)
    return groups


def _divergence(params: Any) -> Divergence:
    given = {name: getattr(params, name) for name in ("alpha", "forward_weight")}
    return Divergence(params.divergence, **{name: value for name, value in given.items() if value is not None})


def _distance(found: Certificate) -> Distance:
    known = {"optimum_value": found.value, "optimum_gap": found.gap, "converged": found.converged}
    metrics = {name: round(float(value), DECIMALS) for name, value in known.items() if value is not None}
    return Distance(metrics, {} if found.label is None else {"optimum_label": found.label})
