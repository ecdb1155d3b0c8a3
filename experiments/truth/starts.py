"""Where the search starts: Gaussians over groups of modes, from one mode to all of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial import distance

from experiments.closed_forms import Shape, mixture_moments, restrict
from experiments.targets import Mixture
from experiments.truth.objective import Stack

FEW = 5  # modes of which every subset is tried
FEW_IN_LINE = 12  # modes on a line of which every run of neighbours is tried
NEIGHBOURS = 2  # of each mode, with which it makes pairs, where there are more


def groups(target: Mixture) -> list[tuple[int, ...]]:
    """Sets of modes that an optimum may sit on.

    All subsets of few modes, all runs of neighbours on a line; otherwise each mode, its nearest pairs, and
    every cluster of the dendrograms of single and of average linkage.
    """
    m = target.modes
    if m <= FEW:
        return [g for size in range(1, m + 1) for g in combinations(range(m), size)]
    if target.dim == 1 and m <= FEW_IN_LINE:
        order = np.argsort(target.means[:, 0]).tolist()
        return [tuple(sorted(order[i:j])) for i in range(m) for j in range(i + 1, m + 1)]
    apart = distance.squareform(distance.pdist(target.means))
    near = np.argsort(apart, axis=1, kind="stable")[:, 1 : NEIGHBOURS + 1]
    found = {(k,) for k in range(m)} | {tuple(sorted((k, int(j)))) for k in range(m) for j in near[k]}
    for method in ("single", "average"):
        clusters: list[tuple[int, ...]] = [(k,) for k in range(m)]
        for a, b, *_ in hierarchy.linkage(target.means, method):
            clusters.append(tuple(sorted(clusters[int(a)] + clusters[int(b)])))
        found |= set(clusters)
    return sorted(found)


def starts(target: Mixture, shape: Shape) -> Stack:
    """Moment-matched Gaussians of the groups, those of one mode at twice their width too, and the whole at four widths."""
    moments = []
    for group in groups(target):
        g = list(group)
        mean, covariance = mixture_moments(target.weights[g], target.means[g], target.covariances[g])
        moments.append((mean, covariance))
        if len(g) == 1:
            moments.append((mean, 4 * covariance))
    mean, covariance = mixture_moments(target.weights, target.means, target.covariances)
    narrow = target.covariances[np.argmin(np.linalg.det(target.covariances))]
    moments += [(mean, narrow), (mean, covariance / 9), (mean, covariance * 4)]
    tril = np.linalg.cholesky(np.stack([restrict(c, shape) for _, c in moments]))
    return np.stack([m for m, _ in moments]), tril
