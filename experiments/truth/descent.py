"""Many minimisations at once: BFGS in each Gaussian's own coordinates, where a unit step is its width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.truth.objective import Objective, Stack, move

ITERATIONS = 200
LONGEST = 0.5  # step in a mean's widths and in a width's logarithm: longer ones would leap into other basins
HALVINGS = 20


@dataclass(frozen=True)
class Descended:
    """Where S descents led.

    Args:
        q: the Gaussians.
        value: ``(S,)``.
        slope: the largest entry of each gradient, ``(S,)``.
        ended: whether no step leads lower, ``(S,)``, be it at the edge of where the divergence is finite; else the
            iterations ran out.
    """

    q: Stack
    value: np.ndarray
    slope: np.ndarray
    ended: np.ndarray


def descend(objective: Objective, q: Stack, flat: float) -> Descended:
    """Local minima that S Gaussians lead to, where no gradient, per standard deviation, is above ``flat``.

    Nocedal and Wright 2006, chapter 6; the Fisher information is the first metric.
    """
    mean, tril = (part.copy() for part in q)
    value, gradient = objective((mean, tril))
    start = np.diag(_inverse_fisher(objective.directions, mean.shape[1]))
    inverse = np.tile(start, (len(mean), 1, 1))
    active = np.isfinite(value) & (np.abs(gradient).max(axis=1) > flat)
    for _ in range(ITERATIONS):
        a = np.flatnonzero(active)
        if not len(a):
            break
        step = _step(inverse[a], gradient[a], start)
        moved, found, slope, taken = _search(objective, (mean[a], tril[a]), step, value[a], gradient[a])
        stuck = taken == 0
        # A step that led nowhere: once more along the plain metric; if that was it already, it is the end.
        plain = (inverse[a] == start).all(axis=(1, 2))
        inverse[a] = _update(inverse[a], taken[:, None] * step, slope - gradient[a], start)
        inverse[a[stuck]] = start
        mean[a], tril[a], value[a], gradient[a] = *moved, found, slope
        active[a] = (np.abs(slope).max(axis=1) > flat) & ~(stuck & plain)
    return Descended((mean, tril), value, np.abs(gradient).max(axis=1), ~active)


def _inverse_fisher(directions: np.ndarray, dim: int) -> np.ndarray:
    """One for a mean; for a width's logarithm the inverse of twice the dimensions that it moves."""
    lower = np.abs(np.tril(directions, -1)).sum(axis=(1, 2))
    return np.concatenate([np.ones(dim), 1 / (2 * np.einsum("jaa->j", directions) + lower)])


def _step(inverse: np.ndarray, gradient: np.ndarray, start: np.ndarray) -> np.ndarray:
    step = -np.einsum("sij,sj->si", inverse, gradient)
    uphill = np.einsum("si,si->s", step, gradient) >= 0
    step[uphill] = -gradient[uphill] @ start
    longest = np.abs(step).max(axis=1, keepdims=True)
    return np.asarray(step * np.minimum(1.0, LONGEST / longest))


def _search(
    objective: Objective, q: Stack, step: np.ndarray, value: np.ndarray, gradient: np.ndarray
) -> tuple[Stack, np.ndarray, np.ndarray, np.ndarray]:
    """Backtracking for each of the stack; ``taken`` is the share of the step that lowered the value, or 0."""
    mean, tril = (part.copy() for part in q)
    best, slope, taken = value.copy(), gradient.copy(), np.zeros(len(value))
    promised = np.einsum("si,si->s", step, gradient)
    todo, share = np.arange(len(value)), 1.0
    for _ in range(HALVINGS):
        trial = move((q[0][todo], q[1][todo]), share * step[todo], objective.directions)
        found, new_slope = objective(trial)
        # Rounding of the value must not stop a descent that the gradient, with more digits, still directs.
        slack = 1e-14 * np.abs(value[todo])
        gentler = np.abs(new_slope).max(axis=1) < np.abs(gradient[todo]).max(axis=1)
        good = (found <= value[todo] + 1e-4 * share * promised[todo]) | (
            (np.abs(found - value[todo]) <= slack) & gentler
        )
        done = todo[good]
        mean[done], tril[done], best[done], slope[done] = (
            trial[0][good],
            trial[1][good],
            found[good],
            new_slope[good],
        )
        taken[done] = share
        todo, share = todo[~good], 0.5 * share
        if not len(todo):
            break
    return (mean, tril), best, slope, taken


def _update(inverse: np.ndarray, step: np.ndarray, change: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The BFGS update, left out where the curvature along the step is not positive."""
    product = np.einsum("si,si->s", step, change)
    sizes = np.sqrt((step**2).sum(axis=1) * (change**2).sum(axis=1))
    usable = product > 1e-10 * sizes
    rho = np.where(usable, 1 / np.where(usable, product, 1.0), 0.0)
    eye = np.eye(step.shape[1])
    left = eye - rho[:, None, None] * step[:, :, None] * change[:, None]
    outer = rho[:, None, None] * step[:, :, None] * step[:, None]
    return np.where(usable[:, None, None], left @ inverse @ left.transpose(0, 2, 1) + outer, inverse)


def lowest_curvature(objective: Objective, q: Stack, width: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Least eigenvalue of the Hessian ``(S,)`` and its direction ``(S, D + P)``: below zero, a saddle."""
    s, size = len(q[0]), q[0].shape[1] + len(objective.directions)
    steps = np.concatenate([width * np.eye(size), -width * np.eye(size)])
    around = [
        move((np.repeat(m[None], 2 * size, 0), np.repeat(t[None], 2 * size, 0)), steps, objective.directions)
        for m, t in zip(*q, strict=True)
    ]
    _, gradient = objective((np.concatenate([a[0] for a in around]), np.concatenate([a[1] for a in around])))
    plus, minus = gradient.reshape(s, 2, size, size).transpose(1, 0, 2, 3)
    hessian = (plus - minus) / (2 * width)
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.transpose(0, 2, 1)))
    return values[:, 0], vectors[:, :, 0]
