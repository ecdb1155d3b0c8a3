"""Finite mixtures of Gaussian or Student-t components: the targets whose density is known."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

ENTROPY_DRAWS = 100_000
# Quadrature on a line: between so many widths of each component, which shows a needle beside or within a wide one.
BORDERS = np.array([-12.0, -8.0, -6.0, -4.5, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 12.0])
NODES = 24


@dataclass(frozen=True, eq=False)
class Mixture:
    r"""A mixture of M Gaussian (or Student-t) components in D dimensions.

    .. math:: p(x) = \sum_k w_k \, N(x; m_k, S_k), \qquad \text{or } t_{\nu}(x; m_k, S_k) \text{ with df} = \nu

    Args:
        name: what the sweep file calls it.
        weights: ``(M,)``, positive, summing to one.
        means: ``(M, D)``.
        covariances: ``(M, D, D)``, symmetric and positive definite; scale matrices when ``df`` is given.
        df: degrees of freedom of Student-t components, or None for Gaussian ones.
        unit: of the coordinates, for axes and tables; empty when they have none.
        about: one line for ``list targets``.
    """

    name: str
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    df: float | None = None
    unit: str = ""
    about: str = ""

    log_z: ClassVar[float] = 0.0
    image: ClassVar[None] = None

    @property
    def dim(self) -> int:
        return int(self.means.shape[1])

    @property
    def modes(self) -> int:
        return int(self.weights.shape[0])

    @cached_property
    def digest(self) -> str:
        """Hash of the numbers that define the density; the name is not among them."""
        h = hashlib.blake2b(digest_size=16)
        for part in (self.weights, self.means, self.covariances):
            # Adding 0.0 turns -0.0 into 0.0, which is the same density.
            h.update(np.ascontiguousarray(part, dtype="<f8").__add__(0.0).tobytes())
        h.update(repr((self.means.shape, None if self.df is None else float(self.df))).encode())
        return h.hexdigest()

    @cached_property
    def mean(self) -> np.ndarray:
        """``(D,)``; of a Student-t mixture with df <= 1, which has none, the mean of the locations."""
        return self.weights @ self.means

    @cached_property
    def covariance(self) -> np.ndarray:
        """``(D, D)``; infinite when df <= 2."""
        spread = self.means - self.mean
        within = np.einsum("k,kij->ij", self.weights, self.covariances)
        between = np.einsum("k,ki,kj->ij", self.weights, spread, spread)
        if self.df is None:
            return within + between
        if self.df <= 2:
            return np.full_like(within, np.inf)
        return within * (self.df / (self.df - 2)) + between

    @cached_property
    def entropy(self) -> tuple[float, float]:
        """Nats, the floor of every negative log-likelihood, and its standard error.

        In closed form of one Gaussian, by quadrature of several on a line, else the mean over draws.
        """
        if self.df is None and self.modes == 1:
            log_det = np.linalg.slogdet(2 * math.pi * math.e * self.covariances[0])[1]
            return float(log_det) / 2, 0.0
        if self.df is None and self.dim == 1:
            borders = np.unique(self.means + np.sqrt(self.covariances[:, 0]) * BORDERS)
            node, weight = np.polynomial.legendre.leggauss(NODES)
            half = 0.5 * np.diff(borders)[:, None]
            x = borders[:-1, None] + half * (1 + node)
            log_p = self.log_prob(x.reshape(-1, 1)).reshape(x.shape)
            return float(-(half * weight * np.exp(log_p) * log_p).sum()), 0.0
        log_p = self.log_prob(self.draws(ENTROPY_DRAWS))
        return float(-log_p.mean()), float(log_p.std() / math.sqrt(len(log_p)))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Log-density at ``(n, D)``, ``(n,)``."""
        parts = []
        for weight, mean, factor in zip(self.weights, self.means, np.linalg.cholesky(self.covariances), strict=True):
            square = (np.linalg.solve(factor, (x - mean).T) ** 2).sum(axis=0)
            tail = square if self.df is None else (self.df + self.dim) * np.log1p(square / self.df)
            parts.append(math.log(weight) - np.log(np.diag(factor)).sum() - 0.5 * tail)
        return np.asarray(np.logaddexp.reduce(parts, axis=0) + log_normaliser(self.dim, self.df))

    @property
    def coordinates(self) -> tuple[str, ...]:
        """The D names of the coordinates."""
        return ("x",) if self.dim == 1 else tuple(f"x{i}" for i in range(self.dim))

    def draws(self, n: int) -> np.ndarray:
        """The same n draws each time, ``(n, D)``: for pictures. Experiments draw from their own streams."""
        generator = np.random.default_rng(0)
        component = generator.choice(self.modes, size=n, p=self.weights / self.weights.sum())
        noise = generator.standard_normal((n, self.dim))
        if self.df is not None:
            noise *= np.sqrt(self.df / generator.chisquare(self.df, size=(n, 1)))
        for k, factor in enumerate(np.linalg.cholesky(self.covariances)):
            own = component == k
            noise[own] = self.means[k] + noise[own] @ factor.T
        return noise


def log_normaliser(dim: int, df: float | None) -> float:
    """Of the standard component: Gaussian, or multivariate Student-t."""
    if df is None:
        return -0.5 * dim * math.log(2 * math.pi)
    return math.lgamma(0.5 * (df + dim)) - math.lgamma(0.5 * df) - 0.5 * dim * math.log(df * math.pi)
