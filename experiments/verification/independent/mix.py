"""Mixtures by scipy.stats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats
from scipy.special import logsumexp

Array = np.ndarray


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


def random_mixture(seed: int, dim: int, modes: int) -> Mix:
    """Unequal weights, correlated components some widths apart."""
    rng = np.random.default_rng(seed)
    factors = 0.4 / math.sqrt(dim) * rng.normal(size=(modes, dim, dim)) + np.eye(dim) * rng.uniform(
        0.5, 1.5, (modes, 1, 1)
    )
    means = 2.0 * rng.normal(size=(modes, dim))
    return Mix.of(rng.dirichlet(np.full(modes, 4.0)), means, factors @ factors.transpose(0, 2, 1))
