"""Where a fit starts, and the coordinates that it is fitted in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from scipy import linalg

from experiments.kl_fit.families import Shape
from experiments.targets import Analytic, Mixture, Target


class Start(Protocol):
    """The parameters that say where a fit starts, and of which family."""

    @property
    def family(self) -> str: ...
    @property
    def family_df(self) -> int: ...
    @property
    def init(self) -> str: ...
    @property
    def init_scale(self) -> float: ...
    @property
    def init_loc(self) -> float | None: ...


@dataclass(frozen=True)
class Frame:
    """Coordinates ``C^{-1} (x - center)`` in which the target has mean zero and unit covariance.

    Minutes and metres, rings of radius 1 and of 1000, then converge at one learning rate. ``C`` is what maps the
    family onto itself, so that its optimum stays where it was: the covariance's Cholesky factor for full
    covariances, the standard deviations for diagonal ones, one number for isotropic ones.
    """

    center: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, target: Target, shape: Shape) -> Frame:
        mean, covariance = moments(target)
        if shape == "full":
            return cls(mean, np.linalg.cholesky(covariance))
        variance = np.diag(covariance)
        if shape == "isotropic":
            variance = np.full_like(variance, variance.mean())
        return cls(mean, np.diag(np.sqrt(variance)))

    @classmethod
    def own(cls, target: Target) -> Frame:
        """The target's own coordinates."""
        return cls(np.zeros(target.dim), np.eye(target.dim))

    @property
    def log_det(self) -> float:
        """What log-densities in the frame exceed those in the target's own units by."""
        return float(np.log(np.diag(self.factor)).sum())

    def points(self, x: np.ndarray) -> np.ndarray:
        """``(n, D)`` into the frame."""
        return np.asarray(linalg.solve_triangular(self.factor, (x - self.center).T, lower=True).T)

    def covariance(self, covariance: np.ndarray) -> np.ndarray:
        """``(D, D)`` into the frame."""
        inverse = linalg.solve_triangular(self.factor, np.eye(len(self.center)), lower=True)
        return np.asarray(inverse @ covariance @ inverse.T)

    def seen(self, target: Mixture | Analytic) -> Mixture | Analytic:
        """The target in the frame."""
        if isinstance(target, Analytic):
            return replace(target, center=self.center, factor=self.factor)
        covariances = np.stack([self.covariance(covariance) for covariance in target.covariances])
        return replace(target, means=self.points(target.means), covariances=covariances)


def moments(target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance; of a target whose variance is infinite, those of its scale matrices."""
    if isinstance(target, Analytic):
        return target.mean, target.spread
    if isinstance(target, Mixture) and target.df is not None and target.df <= 2:
        target = replace(target, df=None)
    return target.mean, target.covariance


def initial(target: Target, params: Start, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance that Q starts from; see ``kl_fit.Params``. The generator is of the stream ``init``."""
    mean, covariance = moments(target)
    kind, _, k = params.init.partition(":")
    if kind == "mode":
        assert isinstance(target, Mixture)
        mean, covariance = target.means[int(k)], target.covariances[int(k)]
    elif kind in ("narrow", "random"):
        if kind == "random":
            normal = torch.randn(target.dim, generator=generator, dtype=torch.float64).numpy()
            mean = mean + _root(covariance) @ normal
        covariance = narrowest(target)
    if kind != "wide" and isinstance(target, Mixture) and target.df is not None and params.family == "student_t":
        # The component's matrix is of its scale: so is the fit's, whose covariance is larger.
        covariance = covariance * (params.family_df / (params.family_df - 2))
    if params.init_loc is not None:
        mean = np.full(target.dim, params.init_loc)
    return mean, covariance * params.init_scale**2


def _root(covariance: np.ndarray) -> np.ndarray:
    """R with ``R R^T`` the covariance: its Cholesky factor or, if that is singular, its symmetric root."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)


def narrowest(target: Target) -> np.ndarray:
    """Matrix of the component of least volume; what has no components gets the covariance of a tenth of its widths."""
    if not isinstance(target, Mixture):
        return 0.01 * np.diag(np.diag(moments(target)[1]))
    return np.asarray(target.covariances[np.argmin(np.linalg.slogdet(target.covariances)[1])])
