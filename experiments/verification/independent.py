"""Reference mathematics: numpy and scipy alone, sharing no line with the code that it judges.

Densities are scipy.stats', integrals Simpson's rule or Gauss-Hermite quadrature, optima scipy.optimize's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import integrate, optimize, stats
from scipy.special import logsumexp

Array = np.ndarray
LINE = 6_001  # points of Simpson's rule
PLANE = 90  # nodes of Gauss and Hermite's rule along each axis
DRAWS = 100_000


@dataclass(frozen=True)
class Mix:
    """A mixture of Gaussians or of Student-t components: weights ``(M,)``, means ``(M, D)``, matrices ``(M, D, D)``."""

    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    scales: tuple[tuple[tuple[float, ...], ...], ...]
    df: float | None = None

    @classmethod
    def of(cls, weights: Array, means: Array, scales: Array, df: float | None = None) -> Mix:
        """From arrays; as tuples the mixture can be the key of a cache."""
        rows = tuple(tuple(float(x) for x in row) for row in np.asarray(means))
        matrices = tuple(tuple(tuple(float(x) for x in row) for row in c) for c in np.asarray(scales))
        return cls(tuple(float(w) for w in np.asarray(weights)), rows, matrices, df)

    @classmethod
    def line(
        cls, weights: Sequence[float], means: Sequence[float], deviations: Sequence[float], df: float | None = None
    ) -> Mix:
        """In one dimension."""
        return cls.of(np.array(weights), np.reshape(means, (-1, 1)), np.reshape(deviations, (-1, 1, 1)) ** 2.0, df)

    @property
    def dim(self) -> int:
        return len(self.means[0])

    @cached_property
    def parts(self) -> list:
        if self.df is None:
            return [stats.multivariate_normal(m, s) for m, s in zip(self.means, self.scales, strict=True)]
        return [stats.multivariate_t(m, s, df=self.df) for m, s in zip(self.means, self.scales, strict=True)]

    def log_pdf(self, x: Array) -> Array:
        """At points ``(n, D)``: ``(n,)``."""
        each = [math.log(w) + np.atleast_1d(p.logpdf(x)) for w, p in zip(self.weights, self.parts, strict=True)]
        return np.asarray(logsumexp(each, axis=0))

    def cdf(self, x: Array) -> Array:
        """In one dimension."""
        spread = [math.sqrt(s[0][0]) for s in self.scales]
        one = stats.norm if self.df is None else stats.t(self.df)
        rows = [w * one.cdf((x - m[0]) / s) for w, m, s in zip(self.weights, self.means, spread, strict=True)]
        return np.asarray(np.sum(rows, axis=0))

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """``(n, D)``."""
        counts = rng.multinomial(n, self.weights)
        rows = [p.rvs(c, random_state=rng).reshape(c, self.dim) for p, c in zip(self.parts, counts, strict=True) if c]
        return np.concatenate(rows)

    def moments(self) -> tuple[Array, Array]:
        """Mean ``(D,)`` and covariance ``(D, D)``."""
        w, m, s = np.array(self.weights), np.array(self.means), np.array(self.scales)
        grown = 1.0 if self.df is None else self.df / (self.df - 2)
        mean = (w[:, None] * m).sum(axis=0)
        second = sum(wk * (grown * sk + np.outer(mk, mk)) for wk, mk, sk in zip(w, m, s, strict=True))
        return mean, np.asarray(second - np.outer(mean, mean))


def normal(mean: Array, covariance: Array) -> Mix:
    """One Gaussian."""
    return Mix.of(np.ones(1), np.atleast_2d(mean), np.reshape(covariance, (1, np.size(mean), np.size(mean))))


# --- one dimension ---------------------------------------------------------------------------------------------


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


# --- two dimensions and more -----------------------------------------------------------------------------------


@lru_cache
def _hermite(dim: int, nodes: int) -> tuple[Array, Array]:
    """Nodes ``(n, D)`` and weights of the standard normal."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*[z] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    weight = np.prod(np.stack(np.meshgrid(*[w / w.sum()] * dim, indexing="ij"), axis=-1).reshape(-1, dim), axis=1)
    return grid[weight > 1e-18], weight[weight > 1e-18]


def reverse_kl(p: Mix, mean: Array, lower: Array, nodes: int = PLANE) -> float:
    """KL(N(mean, lower lower^T) || p) by Gauss and Hermite's rule, in a dimension or two."""
    z, w = _hermite(len(mean), nodes)
    minus_entropy = -0.5 * len(mean) * math.log(2 * math.pi * math.e) - np.log(np.abs(np.diag(lower))).sum()
    return float(minus_entropy - w @ p.log_pdf(mean + z @ lower.T))


def entropy_by_hermite(p: Mix, nodes: int = PLANE) -> float:
    """Of a Gaussian mixture, component by component."""
    z, w = _hermite(p.dim, nodes)
    parts = [
        weight * (w @ p.log_pdf(np.array(m) + z @ np.linalg.cholesky(np.array(s)).T))
        for weight, m, s in zip(p.weights, p.means, p.scales, strict=True)
    ]
    return -float(sum(parts))


def best_reverse(p: Mix, shape: str, starts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array, float]:
    """Mean, covariance and KL(Q || P) of the best Gaussian of that shape that scipy finds from some starts."""
    dim = p.dim
    rows, columns = np.tril_indices(dim, -1)

    def unpack(theta: Array) -> tuple[Array, Array]:
        widths = theta[dim : dim + 1] if shape == "isotropic" else theta[dim : 2 * dim]
        lower = np.diag(np.exp(np.broadcast_to(widths, dim)))
        if shape == "full":
            lower[rows, columns] = theta[2 * dim :]
        return theta[:dim], lower

    best: tuple[float, Array, Array] | None = None
    for mean, covariance in starts:
        lower = np.linalg.cholesky(covariance)
        widths = np.log(np.diag(lower))
        free = {"isotropic": widths.mean(keepdims=True), "diagonal": widths}.get(
            shape, np.concatenate([widths, lower[rows, columns]])
        )
        found = optimize.minimize(
            lambda t: reverse_kl(p, *unpack(t)), np.concatenate([mean, free]), method="BFGS", options={"gtol": 1e-6}
        )
        place, factor = unpack(found.x)
        if best is None or found.fun < best[0]:
            best = float(found.fun), place, factor @ factor.T
    assert best is not None
    return best[1], best[2], best[0]


@dataclass(frozen=True)
class Drawn:
    """Means of draws ``(n,)`` with their standard errors."""

    forward_kl: tuple[float, float]
    reverse_kl: tuple[float, float]
    jensen_shannon: tuple[float, float]
    coverage: tuple[float, float]
    sharpness: tuple[float, float]


def by_draws(p: Mix, q: Mix, seed: int = 0, n: int = DRAWS) -> Drawn:
    """Divergences, coverage and sharpness in any dimension, from independent draws of both."""
    rng = np.random.default_rng(seed)
    of_p, of_q = p.draw(n, rng), q.draw(n, rng)
    p_p, q_p, p_q, q_q = p.log_pdf(of_p), q.log_pdf(of_p), p.log_pdf(of_q), q.log_pdf(of_q)
    root = math.sqrt(n)

    def mean(values: Array) -> tuple[float, float]:
        return float(values.mean()), float(values.std()) / root

    halves = [math.log(2) - np.logaddexp(0, b - a) for a, b in ((p_p, q_p), (q_q, p_q))]
    middle = [mean(h) for h in halves]
    return Drawn(
        mean(p_p - q_p),
        mean(q_q - p_q),
        (0.5 * (middle[0][0] + middle[1][0]), 0.5 * math.hypot(middle[0][1], middle[1][1])),
        _inside(q_p, q_q),
        _inside(p_q, p_p),
    )


def _inside(log_density: Array, of_own: Array) -> tuple[float, float]:
    """Share of points in the region that holds 95 % of its own density's draws; their level has an error too."""
    n = len(of_own)
    shift = math.sqrt(0.05 * 0.95 / n)
    low, level, high = np.quantile(of_own, [0.05 - shift, 0.05, 0.05 + shift])
    share = (log_density >= level).mean()
    moved = 0.5 * float((log_density >= low).mean() - (log_density >= high).mean())
    error = math.hypot(math.sqrt(share * (1 - share) / n), moved)
    return min(1.0, float(share) / 0.95), error / 0.95
