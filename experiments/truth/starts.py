"""Where the search starts: Gaussians over groups of modes, from one mode to all of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from experiments.closed_forms import Shape, mixture_moments, restrict
from experiments.targets import Mixture
from experiments.truth.objective import Stack

FEW = 5  # modes of which every subset is tried
FEW_IN_LINE = 12  # modes on a line of which every run of neighbours is tried
NEIGHBOURS = 2  # of each mode, with which it makes pairs, where there are more
REACH = 12.0  # standard deviations between modes up to which one Gaussian over some of many is looked for


def groups(target: Mixture) -> list[tuple[int, ...]]:
    """Sets of modes that an optimum may sit on.

    All subsets of few modes, all runs of neighbours on a line; otherwise each mode, all of them, and of those
    within reach of each other the nearest pairs and the clusters of single and of average linkage.
    """
    m = target.modes
    if m <= FEW:
        return [g for size in range(1, m + 1) for g in combinations(range(m), size)]
    if target.dim == 1 and m <= FEW_IN_LINE:
        order = np.argsort(target.means[:, 0]).tolist()
        return [tuple(sorted(order[i:j])) for i in range(m) for j in range(i + 1, m + 1)]
    from scipy.cluster import hierarchy  # most workers find every optimum in the cache, and start sooner without it
    from scipy.spatial import distance

    width = np.sqrt(np.einsum("kii->k", target.covariances) / target.dim)
    pairs = distance.pdist(target.means)
    # In units of the two modes' own widths, as in a pooled variance.
    i, j = np.triu_indices(m, 1)
    pairs /= np.sqrt(0.5 * (width[i] ** 2 + width[j] ** 2))
    apart = distance.squareform(pairs)
    near = np.argsort(apart, axis=1, kind="stable")[:, 1 : NEIGHBOURS + 1]
    found = {(k,) for k in range(m)} | {tuple(range(m))}
    found |= {tuple(sorted((k, int(j)))) for k in range(m) for j in near[k] if apart[k, j] < REACH}
    for method in ("single", "average"):
        clusters: list[tuple[int, ...]] = [(k,) for k in range(m)]
        for a, b, height, _ in hierarchy.linkage(pairs, method):
            clusters.append(tuple(sorted(clusters[int(a)] + clusters[int(b)])))
            if height < REACH:
                found.add(clusters[-1])
    return sorted(found)


def starts(target: Mixture, shape: Shape) -> Stack:
    """Moment-matched Gaussians of the groups; of one mode at twice its width too, of all at four widths."""
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
