"""One dimension: integrals by Simpson's rule, regions by cumulative distributions, optima by scipy.optimize."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import integrate, optimize, stats

from experiments.verification.independent.mix import Array, Mix

LINE = 6_001  # points of Simpson's rule


def integral(f: Callable[[Array], Array], *mixtures: Mix) -> float:
    """Of ``f (n,) -> (n,)`` over all of the line, by Simpson's rule; tails in the sinh of the coordinate."""
    means = np.concatenate([np.ravel(m.means) for m in mixtures])
    reach = max(float(np.sqrt(np.max(m.scales))) for m in mixtures)
    far = 16.0 * reach + float(np.ptp(means))
    center = float(means.mean())
    if all(m.df is None for m in mixtures):
        x = np.linspace(center - far, center + far, LINE)
        return _simpson(f(x), x)
    t = np.linspace(-24.0, 24.0, LINE)
    return _simpson(f(center + reach * np.sinh(t)) * reach * np.cosh(t), t)


def _simpson(y: Array, x: Array) -> float:
    return float(integrate.simpson(np.nan_to_num(y), x=x))


def kl(a: Mix, b: Mix) -> float:
    """KL(a || b) in one dimension."""

    def integrand(x: Array) -> Array:
        log_a = a.log_pdf(x[:, None])
        return np.exp(log_a) * (log_a - b.log_pdf(x[:, None]))

    return integral(integrand, a, b)


def entropy(p: Mix) -> float:
    """In one dimension."""

    def integrand(x: Array) -> Array:
        log_p = p.log_pdf(x[:, None])
        return -np.exp(log_p) * log_p

    return integral(integrand, p)


def alpha_divergence(p: Mix, q: Mix, alpha: float) -> float:
    """``(1 - int p^alpha q^(1 - alpha)) / (alpha (1 - alpha))`` of a mixture from one Gaussian, in one dimension."""
    falls = [alpha / s[0][0] + (1 - alpha) / q.scales[0][0][0] > 0 for s in p.scales]
    if not (all(falls) if alpha > 1 else any(falls)):
        return math.inf  # the integrand grows without end in a tail

    def integrand(x: Array) -> Array:
        return np.exp(alpha * p.log_pdf(x[:, None]) + (1 - alpha) * q.log_pdf(x[:, None]))

    return (1 - integral(integrand, p, q)) / (alpha * (1 - alpha))


def jensen_shannon(p: Mix, q: Mix) -> float:
    """Mean KL of each to the halfway mixture, in one dimension."""

    def integrand(x: Array) -> Array:
        log_p, log_q = p.log_pdf(x[:, None]), q.log_pdf(x[:, None])
        middle = np.logaddexp(log_p, log_q) - math.log(2)
        return 0.5 * (np.exp(log_p) * (log_p - middle) + np.exp(log_q) * (log_q - middle))

    return integral(integrand, p, q)


def best_on_a_line(value: Callable[[Mix], float], starts: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Mean, sd and value of the best of the local minima over N(mean, sd^2) below some starts."""

    def at(theta: Array) -> float:
        return value(Mix.line([1], [theta[0]], [math.exp(theta[1])]))

    found = []
    for mean, sd in starts:
        best = optimize.minimize(at, [mean, math.log(sd)], method="BFGS", options={"gtol": 1e-8})
        found.append((float(best.fun), float(best.x[0]), math.exp(float(best.x[1]))))
    least, mean, sd = min(found)
    return mean, sd, least


def region(p: Mix, mass: float = 0.95) -> list[tuple[float, float]]:
    """The intervals of the highest-density region in one dimension, by bisection over its level."""
    means, spread = np.ravel(p.means), np.sqrt(np.ravel(p.scales))
    reach = 60.0 if p.df else 9.0
    grid = np.linspace((means - reach * spread).min(), (means + reach * spread).max(), 8001)
    dense = p.log_pdf(grid[:, None])

    def intervals(level: float) -> list[tuple[float, float]]:
        above = dense >= level
        ends = [
            optimize.brentq(lambda x: float(p.log_pdf(np.array([[x]]))[0]) - level, grid[i], grid[i + 1], xtol=1e-13)
            for i in np.flatnonzero(above[1:] != above[:-1])
        ]
        return list(zip(ends[::2], ends[1::2], strict=True))

    def excess(level: float) -> float:
        return sum(float(np.diff(p.cdf(np.array(pair)))[0]) for pair in intervals(level)) - mass

    top = float(dense.max())
    return intervals(float(optimize.brentq(excess, top - 12, top - 1e-6, xtol=1e-12)))


def mass_in(q: Mix, intervals: Sequence[tuple[float, float]]) -> float:
    """Q's mass in some intervals."""
    return sum(float(np.diff(q.cdf(np.array(pair)))[0]) for pair in intervals)


def coverage(p: Mix, q: Mix) -> float:
    """P's mass in Q's 95 % highest-density region, over 0.95."""
    return min(1.0, mass_in(p, region(q)) / 0.95)


def sharpness(p: Mix, q: Mix) -> float:
    """Q's mass in P's."""
    return min(1.0, mass_in(q, region(p)) / 0.95)


def between_nats(a: Mix, b: Mix, borders: Sequence[float]) -> float:
    """KL between the masses that a and b have in the intervals between borders."""
    ends = np.array([-np.inf, *borders, np.inf])
    first, second = np.diff(a.cdf(ends)), np.diff(b.cdf(ends))
    return float((first * np.log(first / second)).sum())


def fold(start: tuple[float, float, float]) -> tuple[float, float, float]:
    """Where reverse KL to two unit modes at -m and m begins to have a seeking minimum: m, and Q's mean and sd.

    There the gradient and the determinant of the Hessian, by mean and ln sd, vanish together.
    """
    z = np.linspace(-12, 12, 4001)
    w = stats.norm.pdf(z) * (z[1] - z[0])

    def equations(v: Array) -> list[float]:
        m, mean, log_sd = v
        step = math.exp(log_sd) * z
        tanh = np.tanh(m * (mean + step))
        score, bend = m * tanh - mean - step, m * m * (1 - tanh**2) - 1
        cross = w @ (bend * step)
        determinant = (w @ bend) * (w @ (bend * step**2 + score * step)) - cross**2
        return [float(w @ score), float(w @ (score * step)) + 1, float(determinant)]

    m, mean, log_sd = optimize.fsolve(equations, [start[0], start[1], math.log(start[2])], xtol=1e-13)
    return float(m), float(mean), math.exp(float(log_sd))
