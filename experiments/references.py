"""Reference rows: what the metrics say of fits known to be perfect, collapsed, too sharp or blurry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from experiments import randomness
from experiments.metrics.density import Measure, evaluate
from experiments.metrics.neighbours import NEIGHBOURS, precision_recall
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture

DRAWS = 10_000  # of P and of Q
POINTS = 2500  # at a time for the neighbour scores, which depend on it: as in the GAN literature


@dataclass(frozen=True)
class Reference:
    """A fit whose quality is known.

    Args:
        name: of the row.
        q: the fit itself, a mixture.
        metrics: those of ``experiments.metrics``, and ``knn_precision``, ``knn_recall``, ``knn_density`` and
            ``knn_coverage``, averaged over four samples of 2500 points.
        modes: one array ``(M,)`` for each column of the modes.
    """

    name: str
    q: Mixture
    metrics: Mapping[str, float]
    modes: Mapping[str, np.ndarray]


def references(target: Mixture, seed: int = 0) -> list[Reference]:
    """The rows of one target: a ladder on which any fit's metrics have a place."""
    return judged(target, fits(target), seed)


def judged(target: Mixture, known: Mapping[str, Mixture], seed: int = 0) -> list[Reference]:
    """Any known fits of one target by name, each from 10,000 draws; P's are the same for all."""
    p = StackedMixture.stack([target], torch.float64)
    generators = randomness.generators([seed], "data")
    x_p = p.draw(DRAWS, generators)
    rows = []
    for name, q in known.items():
        stacked = StackedMixture.stack([q], torch.float64)
        x_q = stacked.draw(DRAWS, randomness.generators([seed], "evaluation"))
        of_p, of_q = (Measure.of_draws(x, stacked.log_prob(x)) for x in (x_p, x_q))
        (found,) = evaluate([target], of_p, of_q, df_q=q.df)
        rows.append(Reference(name, q, {**found.metrics, **_neighbours(x_p, x_q)}, found.modes))
    return rows


def fits(target: Mixture) -> dict[str, Mixture]:
    """The fits by name: P itself, P without some of its modes, with other widths, and its moments alone."""
    order = np.argsort(-target.weights, kind="stable")  # light modes are the first to be lost
    m = target.modes
    rows = {"oracle": target}
    if m > 1:
        rows["all but one mode"] = _only(target, order[:-1])
    if m > 3:
        rows["half of the modes"] = _only(target, order[: m // 2])
    if m > 1:
        rows["one mode"] = _only(target, order[:1])
    rows["half width"] = replace(target, covariances=target.covariances / 4)
    rows["double width"] = replace(target, covariances=target.covariances * 4)
    if target.df is None or target.df > 2:
        moments = target.mean[None], target.covariance[None]
        rows["moment-matched Gaussian"] = replace(
            target, weights=np.ones(1), means=moments[0], covariances=moments[1], df=None
        )
    return rows


def neighbour_scores(reference: np.ndarray, samples: np.ndarray, k: int = NEIGHBOURS) -> dict[str, float]:
    r"""Precision, recall, density and coverage by k nearest neighbours, of points ``(n, D)`` and ``(m, D)``.

    With :math:`B_i` the ball around a reference point that reaches to its k-th neighbour,

    .. math:: density = \frac1{k m} \sum_j \#\{i : y_j \in B_i\}, \qquad
              coverage = \frac1n \#\{i : \exists j, \; y_j \in B_i\}

    Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991; Naeem et al. 2020,
    https://arxiv.org/abs/2002.09797. Of two samples of n points of one distribution density is 1 on average
    and coverage :math:`1 - \prod_{i=1}^k (n - i) / (2n - i)`, for k of 5 about 0.969. A point on the edge is
    inside.
    """
    precision, recall = precision_recall(reference, samples, k)
    # Each point is its own nearest neighbour; a relative 1e-12 outwards, so that equal distances are inside.
    radii = cKDTree(reference).query(reference, k=[k + 1])[0][:, 0] * (1 + 1e-12)
    tree = cKDTree(samples)
    density = tree.query_ball_point(reference, radii, return_length=True).sum() / (k * len(samples))
    coverage = (tree.query(reference)[0] <= radii).mean()
    names = ("knn_precision", "knn_recall", "knn_density", "knn_coverage")
    return dict(zip(names, (precision, recall, float(density), float(coverage)), strict=True))


def _only(target: Mixture, modes: np.ndarray) -> Mixture:
    weights = target.weights[modes]
    return replace(
        target,
        weights=weights / weights.sum(),
        means=target.means[modes],
        covariances=target.covariances[modes],
    )


def _neighbours(x_p: Tensor, x_q: Tensor) -> dict[str, float]:
    """The neighbour scores, averaged over samples of 2500."""
    blocks = [[part[0].T.numpy() for part in torch.split(x, POINTS, dim=2)] for x in (x_p, x_q)]
    scores = [neighbour_scores(p, q) for p, q in zip(*blocks, strict=True)]
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
