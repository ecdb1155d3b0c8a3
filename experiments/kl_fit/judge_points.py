"""Fits against points: what can be said where the target's density is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from experiments import randomness
from experiments.experiment import Cell
from experiments.kl_fit.families import family, frame_shape
from experiments.kl_fit.fits import Fits, Flows, Mixtures
from experiments.kl_fit.start import Frame
from experiments.metrics.neighbours import MOST_POINTS, comparable, precision_recall, standard_error
from experiments.stacked_mixture import StackedMixture

KEPT_SAMPLES = 200
DRAWS_OF_MOMENTS = 10_000  # by which a flow's mean and covariance are known


@dataclass(frozen=True)
class Judgement:
    """What is reported of one fit; ``loss_offset`` takes the training loss to the target's own units.

    ``moments`` are the mean and the covariance of a flow's draws; other fits know their own.
    """

    metrics: Mapping[str, float]
    samples: np.ndarray
    labels: Mapping[str, str]
    modes: Mapping[str, np.ndarray] = field(default_factory=dict)
    moments: tuple[np.ndarray, np.ndarray] | None = None
    loss_offset: float = 0.0


def by_neighbours(cell: Cell, q: Fits, finished: bool) -> Judgement:
    """Of one cell and its one fit, which has no metrics unless ``finished``: its density may not exist."""
    shape = frame_shape(family(cell.params, q.dim))
    offset = Frame.of(cell.target, shape).log_det if cell.params.standardise else 0.0
    judgement = Judgement({}, np.empty((0, q.dim)), {"coverage_method": "knn"}, loss_offset=offset)
    if not finished:
        return judgement
    points = cell.target.values
    (generator,) = randomness.generators([cell.seed], "evaluation")
    losses = _losses(q, points)
    n = min(len(points), MOST_POINTS)
    reference = points
    if n < len(points):
        reference = points[torch.randperm(len(points), generator=generator)[:n].numpy()]
    samples = _samples(q, max(n, KEPT_SAMPLES, DRAWS_OF_MOMENTS if isinstance(q, Flows) else 0), generator)
    precision, recall = precision_recall(comparable(cell.target, reference), comparable(cell.target, samples[:n]))
    cross_entropy = float(losses.mean())
    error = float(losses.std() / math.sqrt(len(points)))
    metrics = {
        "objective": cross_entropy,
        "objective_se": error,
        "coverage": recall,
        "coverage_se": standard_error(recall, n),
        "sharpness": precision,
        "sharpness_se": standard_error(precision, n),
        "cross_entropy": cross_entropy,
        "cross_entropy_se": error,
    }
    moments = moments_of(samples) if isinstance(q, Flows) else None
    return replace(judgement, metrics=metrics, samples=kept_samples(samples), moments=moments)


def kept_samples(draws: np.ndarray) -> np.ndarray:
    """The first ``KEPT_SAMPLES`` of draws ``(n, D)``: a copy, since a view would keep all of them alive."""
    return draws[:KEPT_SAMPLES].copy()


def moments_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of draws ``(n, D)``."""
    return x.mean(axis=0), np.atleast_2d(np.cov(x.T))


def _losses(q: Fits, points: np.ndarray) -> np.ndarray:
    """Minus log-density of the one fit at points ``(n, D)``."""
    if isinstance(q, Flows):
        return -q.log_prob(torch.as_tensor(points.T.copy()).unsqueeze(0))[0].numpy()
    if isinstance(q, Mixtures):
        x = torch.as_tensor(points.T.copy()).unsqueeze(0)
        return -StackedMixture.stack(q.each, torch.float64).log_prob(x)[0].numpy()
    y = np.linalg.solve(q.tril[0], (points - q.mean[0]).T)
    return np.asarray(0.5 * (y**2).sum(axis=0) + q.log_det[0] + 0.5 * q.dim * math.log(2 * math.pi))


def _samples(q: Fits, n: int, generator: torch.Generator) -> np.ndarray:
    """Of the one fit, ``(n, D)``."""
    if isinstance(q, Mixtures):
        return StackedMixture.stack(q.each, torch.float64).draw(n, [generator])[0].T.numpy()
    normal = torch.randn(q.dim, n, generator=generator, dtype=torch.float64)
    if isinstance(q, Flows):
        return q.sample(normal.unsqueeze(0))[0][0].T.numpy()
    return q.sample(normal.numpy())[0].T
