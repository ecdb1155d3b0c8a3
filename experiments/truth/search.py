"""The local optima of a divergence: closed forms where there are, else descents from many starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.closed_forms import (
    Shape,
    entropy_gaussian,
    entropy_student_t,
    funnel_mean_field,
    kl_gaussians,
    mixed_optimum,
    restrict,
)
from experiments.targets import Analytic, Mixture, Points, Target
from experiments.targets.forms import Funnel
from experiments.truth.descent import Descended, descend, lowest_curvature
from experiments.truth.divergence import Divergence
from experiments.truth.labels import labels
from experiments.truth.nodes import LEVELS, entropy
from experiments.truth.objective import Objective, Stack, move
from experiments.truth.starts import starts

Family = Literal["gaussian_isotropic", "gaussian_diagonal", "gaussian_full"]

SHAPES: dict[Family, Shape] = {
    "gaussian_isotropic": "isotropic",
    "gaussian_diagonal": "diagonal",
    "gaussian_full": "full",
}
SAME = 1e-3  # nats between two Gaussians that are one optimum
SETTLED = 1e-7  # relative change of a value by refinement, from which it is left alone
# Gradients, per standard deviation, at which descents end: on the first level, which only finds basins; on
# the second; and on those that only correct it, where 3e-4 leaves an error of its square in the value.
FLAT = (1e-3, 1e-6, 3e-4, 3e-4, 3e-4)
ARRIVED = 0.1  # gradient up to which a descent whose iterations ran out is at a minimum, and not between far modes
SADDLE = -1e-4  # curvature below which a stationary point is none of the optima
ASIDE = 0.2  # step off a saddle
ROUNDS = 4
DIGITS = 11  # of what is kept, so that it is the same on every processor
NOTHING = 1e-13  # of nats, or of a Gaussian's widths: what rounding leaves of 0


@dataclass(frozen=True)
class Optimum:
    """A local optimum of a divergence among the Gaussians of a family.

    Args:
        value: the divergence in nats; None where the place is exact but the value has no closed form.
        error: how much the last refinement of the quadrature changed the value; 0 for closed forms.
        label: ``covering``, ``seeking:<k>``, ``partial:<k>,<l>,...`` or ``between`` (see ``labels``).
        mean, covariance: ``(D,)`` and ``(D, D)``.
    """

    value: float | None
    error: float
    label: str
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]


def search(target: Target, family: Family, divergence: Divergence) -> tuple[Optimum, ...]:
    """All local optima found, the best first.

    Empty where neither closed form nor quadrature reaches, and where the divergence of every start is infinite.

    Raises:
        ValueError: no Gaussian has a finite divergence from the target.
    """
    shape = SHAPES[family]
    if isinstance(target, Points):
        return _of_points(target, shape, divergence)
    divergence.refuse(target)
    if isinstance(target, Analytic):
        return _of_formula(target, shape, divergence)
    known = _closed(target, shape, divergence)
    if known:
        return known
    if target.dim > max(LEVELS):
        return ()
    found = _minima(Objective(target, divergence, shape, 0), starts(target, shape))
    return _refined(target, divergence, shape, found)


def settle(target: Mixture, family: Family, divergence: Divergence, mean: np.ndarray, tril: np.ndarray) -> Descended:
    """The local optima below K fits ``(K, D)``, ``(K, D, D)``: which one training was on its way to.

    On the first level of quadrature, which is enough to tell basins apart.
    """
    return descend(Objective(target, divergence, SHAPES[family], 0), (mean, tril), FLAT[0])


def _of_points(target: Points, shape: Shape, divergence: Divergence) -> tuple[Optimum, ...]:
    """Of maximum likelihood; its value is the cross-entropy, since the points have no density."""
    if divergence.kl_weights != (1.0, 0.0):
        return ()
    covariance = restrict(target.covariance, shape)
    return (_optimum(entropy_gaussian(covariance), 0.0, "covering", target.mean, covariance),)


def _of_formula(target: Analytic, shape: Shape, divergence: Divergence) -> tuple[Optimum, ...]:
    """Forward KL's, by moments; reverse KL's where it has a closed form: the mean field of a funnel."""
    if divergence.kl_weights == (1.0, 0.0):
        covariance = restrict(target.covariance, shape)
        value, error = target.entropy
        return (_optimum(entropy_gaussian(covariance) - value, error, "covering", target.mean, covariance),)
    if divergence.kl_weights == (0.0, 1.0) and shape == "diagonal" and isinstance(target.form, Funnel):
        best = funnel_mean_field(target.dim, target.form.neck_variance)
        covariance = np.diag([best.neck, *[best.rest] * (target.dim - 1)])
        return (_optimum(-best.elbo, 0.0, "covering", np.zeros(target.dim), covariance),)
    return ()


def _closed(target: Mixture, shape: Shape, divergence: Divergence) -> tuple[Optimum, ...]:
    forward, reverse = divergence.kl_weights
    if forward and not reverse:
        covariance = restrict(target.covariance, shape)
        value, error = _forward_value(target, covariance)
        value = None if value is None else forward * value
        return (_optimum(value, error, "covering", target.mean, covariance),)
    if target.modes > 1 or target.df is not None or (divergence.has_rest and shape != "full"):
        return ()
    mean, own = target.means[0], target.covariances[0]
    total = forward + reverse
    covariance = own if divergence.has_rest else mixed_optimum(own, forward / total, shape)
    value = forward * kl_gaussians(mean, own, mean, covariance) + reverse * kl_gaussians(mean, covariance, mean, own)
    return (_optimum(value, 0.0, "covering", mean, covariance),)


def _forward_value(target: Mixture, covariance: np.ndarray) -> tuple[float | None, float]:
    """Cross-entropy minus entropy: at a moment match the former is the fit's own entropy."""
    if target.modes == 1:
        own = target.covariances[0]
        known = entropy_gaussian(own) if target.df is None else entropy_student_t(target.df, own)
        return entropy_gaussian(covariance) - known, 0.0
    if target.dim > max(LEVELS):
        return None, 0.0
    value, error = entropy(target)
    return entropy_gaussian(covariance) - value, error


def _minima(objective: Objective, q: Stack) -> Descended:
    """Different minima below the starts; those that stopped on a saddle leave it on both sides."""
    flat = FLAT[objective.level]
    found = unique(_arrived(descend(objective, q, flat)))
    for _ in range(ROUNDS):
        if not len(found.value):
            break
        curvature, direction = lowest_curvature(objective, found.q)
        saddle = curvature < SADDLE
        if not saddle.any():
            break
        keep = _take(found, ~saddle)
        aside = ASIDE * direction[saddle]
        left = _take(found, saddle).q
        sides = [move(left, sign * aside, objective.directions) for sign in (1, -1)]
        both = np.concatenate([s[0] for s in sides]), np.concatenate([s[1] for s in sides])
        more = _arrived(descend(objective, both, flat))
        found = unique(_join(keep, more))
    return found


def _arrived(found: Descended) -> Descended:
    """Those that are at a minimum: where they ended, or close to it."""
    return _take(found, found.ended | (found.slope <= ARRIVED))


def _refined(target: Mixture, divergence: Divergence, shape: Shape, found: Descended) -> tuple[Optimum, ...]:
    """Descents go on at finer and finer levels until the values stay."""
    if not len(found.value):
        return ()
    ready: list[tuple[Descended, np.ndarray]] = []
    for level in range(1, len(LEVELS[target.dim])):
        previous = found.value
        objective = Objective(target, divergence, shape, level)
        found = _minima(objective, found.q) if level == 1 else descend(objective, found.q, FLAT[level])
        if len(found.value) != len(previous):  # some were one, or led elsewhere: nothing to compare with
            previous = np.full(len(found.value), np.inf)
        change = np.abs(found.value - previous)
        still = change <= SETTLED * (1 + np.abs(found.value))
        if level + 1 == len(LEVELS[target.dim]):
            still[:] = True
        ready.append((_take(found, still), change[still]))
        found = _take(found, ~still)
        if not len(found.value):
            break
    errors = np.concatenate([error for _, error in ready])
    merged = ready[0][0]
    for more, _ in ready[1:]:
        merged = _join(merged, more)
    kept = _distinct(merged)
    if not len(kept):
        return ()
    mean, tril = merged.q[0][kept], merged.q[1][kept]
    words = labels(target, (mean, tril))
    rows = zip(kept, words, mean, tril @ tril.transpose(0, 2, 1), strict=True)
    return tuple(_optimum(float(merged.value[k]), float(errors[k]), word, m, c) for k, word, m, c in rows)


def _optimum(value: float | None, error: float, label: str, mean: np.ndarray, covariance: np.ndarray) -> Optimum:
    def kept(x: float, scale: float = 1.0) -> float:
        return float(f"{x:.{DIGITS}g}") + 0.0 if abs(x) > NOTHING * min(1.0, scale) else 0.0

    sd = np.sqrt(np.diag(covariance)).tolist()
    places = tuple(kept(x, own) for x, own in zip(mean, sd, strict=True))
    rows = tuple(
        tuple(kept(x, own * other) for x, other in zip(row, sd, strict=True))
        for row, own in zip(covariance, sd, strict=True)
    )
    return Optimum(None if value is None else kept(value), kept(error), label, places, rows)


def unique(found: Descended) -> Descended:
    """Finite ones, the best first, without those that are within 1e-3 nats of a better one."""
    return _take(found, _distinct(found))


def _distinct(found: Descended) -> np.ndarray:
    order = [k for k in np.argsort(found.value, kind="stable") if np.isfinite(found.value[k])]
    mean, tril = found.q
    chosen: list[int] = []
    for k in order:
        here = (mean[k : k + 1], tril[k : k + 1])
        if not chosen or distances(here, (mean[chosen], tril[chosen])).min() > SAME:
            chosen.append(int(k))
    return np.array(chosen, dtype=np.int64)


def distances(one: Stack, many: Stack) -> np.ndarray:
    """Jeffreys' divergence, halved, between one Gaussian and each of S: ``(S,)``."""
    d = one[0].shape[1]
    inverse_one, inverse = np.linalg.inv(one[1]), np.linalg.inv(many[1])
    away = many[0] - one[0]
    there, back = inverse @ one[1], inverse_one @ many[1]
    squares = (there**2).sum(axis=(1, 2)) + (back**2).sum(axis=(1, 2)) - 2 * d
    apart = (np.einsum("sij,sj->si", inverse, away) ** 2).sum(axis=1)
    apart += (np.einsum("sij,sj->si", np.broadcast_to(inverse_one, inverse.shape), away) ** 2).sum(axis=1)
    return np.asarray(0.25 * (squares + apart))


def _take(found: Descended, which: np.ndarray) -> Descended:
    mean, tril = found.q
    return Descended((mean[which], tril[which]), found.value[which], found.slope[which], found.ended[which])


def _join(a: Descended, b: Descended) -> Descended:
    def both(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.concatenate([x, y])

    q = both(a.q[0], b.q[0]), both(a.q[1], b.q[1])
    return Descended(q, both(a.value, b.value), both(a.slope, b.slope), both(a.ended, b.ended))
