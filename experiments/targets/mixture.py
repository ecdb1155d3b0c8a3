"""Finite mixtures of Gaussian or Student-t components: the targets whose density is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np


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
        factors = np.linalg.cholesky(self.covariances)
        return self.means[component] + np.einsum("nij,nj->ni", factors[component], noise)
