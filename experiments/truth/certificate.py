"""How far a fit is from the best, which local optimum it reached, and whether it got there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.closed_forms import kl_gaussians, reverse_kl_funnel
from experiments.targets import Analytic, Mixture, Target
from experiments.targets.forms import Funnel
from experiments.truth.cache import optima
from experiments.truth.divergence import Divergence
from experiments.truth.labels import labels
from experiments.truth.objective import Objective, Stack
from experiments.truth.search import SHAPES, Family, Optimum, distances, settle

CONVERGED = 1e-2  # nats above its own local optimum up to which a fit has arrived
# In the plane a value goes to the next level of nodes, four times as many, if the last one changed it by more nats than
# this. An eighth is then left, as a rule, of the changes, and a tenth of what counts as arrived.
SETTLED = {2: 1e-3, 3: 8e-3}
NEAR = 0.02  # nats between a fit and an optimum that it is at; farther, a descent tells where it was going


@dataclass(frozen=True)
class Certificate:
    """Of one fit. Every entry is None where no optimum is known; ``value`` alone where only its place is.

    Args:
        value: the best value of the divergence in nats, over all optima.
        gap: the fit's distance above it in nats; clearly below zero, the search has missed an optimum.
        label: of the local optimum that the fit reached, or was on its way to.
        converged: whether the fit's value is within 0.01 nats of that local optimum's.
    """

    value: float | None
    gap: float | None
    label: str | None
    converged: bool | None


UNKNOWN = Certificate(None, None, None, None)


def certify(
    target: Target, family: Family, divergence: Divergence, mean: np.ndarray, tril: np.ndarray
) -> list[Certificate]:
    """Of K finite fits ``(K, D)``, Cholesky factors ``(K, D, D)``, of one target, family and divergence.

    The fits' own values are computed here, by quadrature: a gap has no Monte-Carlo error. A fit that is near
    no known optimum is followed downhill, and has the label of where that leads.
    """
    known = optima(target, family, divergence)
    if not known:
        return [UNKNOWN] * len(mean)
    q = (np.asarray(mean, dtype=float), np.asarray(tril, dtype=float))
    forward, reverse = divergence.kl_weights
    if forward and not reverse:
        return [_of_forward(known[0], m, t @ t.T) for m, t in zip(*q, strict=True)]
    if isinstance(target, Analytic):
        return [_of_funnel(known[0], target, *fit) for fit in zip(*q, strict=True)]
    if not isinstance(target, Mixture) or target.dim > 2:
        return [_closed(known[0], target, divergence, *fit) for fit in zip(*q, strict=True)]
    value = _values(target, family, divergence, q)
    label, local = _reached(known, target, family, divergence, q)
    best = known[0].value
    assert best is not None
    with np.errstate(invalid="ignore"):  # an alpha divergence may be infinite, at the fit and where it leads
        arrived = np.abs(value - local) <= CONVERGED
    rows = zip(value, label, arrived, strict=True)
    return [Certificate(best, float(v - best), word, bool(there)) for v, word, there in rows]


def _of_forward(best: Optimum, mean: np.ndarray, covariance: np.ndarray) -> Certificate:
    gap = kl_gaussians(np.array(best.mean), np.array(best.covariance), mean, covariance)
    return Certificate(best.value, gap, best.label, gap <= CONVERGED)


def _of_funnel(best: Optimum, target: Analytic, mean: np.ndarray, tril: np.ndarray) -> Certificate:
    """Of reverse KL among Gaussians without correlation, whose one optimum has a closed form."""
    assert isinstance(target.form, Funnel) and best.value is not None
    gap = reverse_kl_funnel(mean, np.diag(tril) ** 2, target.form.neck_variance) - best.value
    return Certificate(best.value, gap, best.label, gap <= CONVERGED)


def _closed(best: Optimum, target: Target, divergence: Divergence, mean: np.ndarray, tril: np.ndarray) -> Certificate:
    """A Gaussian target in many dimensions: of other divergences than KLs only the optimum is known."""
    assert isinstance(target, Mixture) and best.value is not None
    if divergence.has_rest:
        return Certificate(best.value, None, best.label, None)
    own, other = (target.means[0], target.covariances[0]), (mean, tril @ tril.T)
    forward, reverse = divergence.kl_weights
    gap = forward * kl_gaussians(*own, *other) + reverse * kl_gaussians(*other, *own) - best.value
    return Certificate(best.value, gap, best.label, gap <= CONVERGED)


def _values(target: Mixture, family: Family, divergence: Divergence, q: Stack) -> np.ndarray:
    """To about 1e-6 nats on a line; in the plane to a thousandth, on nodes as dense as each Gaussian needs for that.

    Where a mode is a hundred times narrower than others on a line, or twenty in the plane, nodes that suit Q step
    over it: up to a few thousandths more.
    """
    if target.dim == 1:
        return Objective(target, divergence, SHAPES[family], 2).values(q)
    coarse, found = (Objective(target, divergence, SHAPES[family], level).values(q) for level in (0, 1))
    for level, settled in SETTLED.items():
        with np.errstate(invalid="ignore"):  # both may be infinite
            rows = np.flatnonzero(np.abs(found - coarse) > settled)
        if not len(rows):
            break
        coarse = found.copy()
        found[rows] = Objective(target, divergence, SHAPES[family], level).values((q[0][rows], q[1][rows]))
    return found


def _reached(
    known: Sequence[Optimum], target: Mixture, family: Family, divergence: Divergence, q: Stack
) -> tuple[list[str], np.ndarray]:
    """The label and the value of each fit's local optimum."""
    nearest, apart = _nearest(known, q)
    label = [known[k].label for k in nearest]
    local = np.array([known[k].value for k in nearest], dtype=float)
    away = np.flatnonzero(apart > NEAR)
    if len(away):
        found = settle(target, family, divergence, q[0][away], q[1][away])
        own, still_apart = _nearest(known, found.q)
        words = labels(target, found.q)
        values = _values(target, family, divergence, found.q)
        for i, k in enumerate(away):
            listed = still_apart[i] <= NEAR
            label[k] = known[own[i]].label if listed else words[i]
            local[k] = known[own[i]].value if listed else values[i]
    return label, local


def _nearest(known: Sequence[Optimum], q: Stack) -> tuple[np.ndarray, np.ndarray]:
    """Which optimum is nearest to each Gaussian, and how many nats away it is: ``(K,)`` each."""
    means = np.array([o.mean for o in known])
    trils = np.linalg.cholesky(np.array([o.covariance for o in known]))
    apart = np.stack([distances((m[None], t[None]), (means, trils)) for m, t in zip(*q, strict=True)])
    nearest = apart.argmin(axis=1)
    return nearest, apart[np.arange(len(apart)), nearest]
