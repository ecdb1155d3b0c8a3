"""Where a fit starts, and the coordinates that it is fitted in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from experiments import randomness
from experiments.targets import Mixture, Points, Target


class Start(Protocol):
    """The parameters that say where a fit starts."""

    @property
    def init(self) -> str: ...
    @property
    def init_scale(self) -> float: ...


@dataclass(frozen=True)
class Frame:
    """Coordinates ``(x - center) / scale`` in which the target has mean zero and unit deviations.

    Minutes and metres, rings of radius 1 and of 1000, then converge at one learning rate. The isotropic family
    gets one scale for all dimensions, so that its optimum stays where it was.
    """

    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, target: Target, isotropic: bool) -> Frame:
        mean, covariance = moments(target)
        variance = np.diag(covariance)
        scale = np.full_like(variance, variance.mean()) if isotropic else variance
        return cls(mean, np.sqrt(scale))

    def mixture(self, target: Mixture) -> Mixture:
        return replace(
            target,
            means=(target.means - self.center) / self.scale,
            covariances=target.covariances / np.outer(self.scale, self.scale),
        )

    def points(self, target: Points) -> np.ndarray:
        return np.asarray((target.values - self.center) / self.scale)

    def gaussian(self, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (mean - self.center) / self.scale, covariance / np.outer(self.scale, self.scale)


def moments(target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance; of a target whose variance is infinite, those of its scale matrices."""
    if isinstance(target, Mixture) and target.df is not None and target.df <= 2:
        target = replace(target, df=None)
    return target.mean, target.covariance


def initial(target: Target, params: Start, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance that Q starts from; see ``kl_fit.Params``."""
    mean, covariance = moments(target)
    kind, _, k = params.init.partition(":")
    if kind == "mode":
        assert isinstance(target, Mixture)
        mean, covariance = target.means[int(k)], target.covariances[int(k)]
    elif kind in ("narrow", "random"):
        if kind == "random":
            (generator,) = randomness.generators([seed], "init")
            normal = torch.randn(target.dim, generator=generator, dtype=torch.float64).numpy()
            mean = mean + np.linalg.cholesky(covariance) @ normal
        covariance = narrowest(target)
    return mean, covariance * params.init_scale**2


def narrowest(target: Target) -> np.ndarray:
    """Covariance of the component of least volume; points have no components, and get a tenth of their widths."""
    if isinstance(target, Points):
        return 0.01 * np.diag(np.diag(target.covariance))
    return np.asarray(target.covariances[np.argmin(np.linalg.slogdet(target.covariances)[1])])
