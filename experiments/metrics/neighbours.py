"""Fidelity and diversity where only samples are known: k-nearest-neighbour precision and recall."""

from __future__ import annotations

import math

import numpy as np

from experiments.targets import Target

NEIGHBOURS = 5
MOST_POINTS = 2000  # of either sample


def precision_recall(reference: np.ndarray, samples: np.ndarray, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of samples ``(m, D)`` among the reference ``(n, D)``, and of the reference among the samples.

    A point is among a sample if it lies within the distance of one of its points to that point's k-th neighbour.
    Of two samples of one distribution both are a little below 1. Kynkaanniemi et al. 2019,
    https://arxiv.org/abs/1904.06991. A point on the edge of a ball is inside, so that a sample of identical points
    contains itself. Where k + 1 points of the reference tie, as rounded or repeated ones do, their balls reach to the
    nearest point that differs: they tell of the mass up to there, not of one place. Samples that tie are a collapse.
    """
    return _share_inside(samples, reference, k, resolved=True), _share_inside(reference, samples, k)


def comparable(target: Target, x: np.ndarray) -> np.ndarray:
    """Points ``(n, D)`` in the target's own units, as they are between which distances are taken.

    Columns in seconds and in metres must weigh alike: they are standardised. Pixels are in one unit already, and
    standardised ones would weigh most where ink is rarest: an image stays as it is.
    """
    if target.image is not None:
        return x
    scale = np.sqrt(np.diag(target.covariance))
    return np.asarray((x - target.mean) / np.where(scale > 0, scale, 1.0))


def standard_error(share: float, n: int) -> float:
    """Binomial."""
    return math.sqrt(share * (1 - share) / n)


def _share_inside(points: np.ndarray, centers: np.ndarray, k: int, resolved: bool = False) -> float:
    k = min(k, len(centers) - 1)
    if k < 1:
        return math.nan
    from scipy.spatial import cKDTree  # where every density is known, workers start sooner without it

    radii = cKDTree(centers).query(centers, k=[k + 1])[0][:, 0]  # each is its own nearest neighbour
    if resolved and (tied := radii == 0).any():
        different = np.unique(centers, axis=0)
        if len(different) > 1:
            radii[tied] = cKDTree(different).query(centers[tied], k=[2])[0][:, 0]
    tree = cKDTree(points)
    inside = np.zeros(len(points), dtype=bool)
    # A relative 1e-12 outwards: the tree compares squares, and equal distances must count as inside.
    for near in tree.query_ball_point(centers, radii * (1 + 1e-12)):
        inside[near] = True
    return float(inside.mean())
