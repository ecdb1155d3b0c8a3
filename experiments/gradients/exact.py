r"""The exact gradient of KL(Q || P) for a Gaussian Q without correlation.

By Stein's identity (Price 1958) it needs the target's log-density alone, for :math:`x = loc + scale * z`:

.. math::
    \partial_{loc_i} = -\mathrm{E}[z_i \log p(x)] / scale_i, \qquad
    \partial_{\log scale_i} = -1 - \mathrm{E}[(z_i^2 - 1) \log p(x)]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from experiments import randomness
from experiments.kl_fit.start import moments
from experiments.padding import padded_components
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture

REACH = 7.5  # standard deviations of Q that a grid spans: beyond lies less than 1e-13 of Q
MOST_NODES = {1: 2**17, 2: 2**9}  # along each axis
FEWEST_NODES = 2**7
TOLERANCE = 1e-7  # relative
DRAWS = 2**18
NODES_AT_ONCE = 2**18  # times components


@dataclass(frozen=True)
class Point:
    """Where a gradient is measured: Q's place relative to a target.

    Two points are equal if their numbers are: the target's name does not count.
    """

    digest: str
    isotropic: bool
    offset: float
    width: float
    target: Mixture = field(compare=False)

    @property
    def framed(self) -> Mixture:
        """The target with standard deviations 1 (or a mean variance of 1), in coordinates whose origin is Q's mean.

        Samples of a narrow Q then keep the digits of their distance from its mean.
        """
        mean, covariance = moments(self.target)
        variance = np.diag(covariance)
        unit = np.sqrt(np.full_like(variance, variance.mean()) if self.isotropic else variance)
        means = (self.target.means - mean) / unit - self.offset / math.sqrt(self.target.dim)
        return replace(self.target, means=means, covariances=self.target.covariances / np.outer(unit, unit))

    @property
    def log_scale(self) -> np.ndarray:
        """``(D,)``, or ``(1,)`` where one width serves all dimensions."""
        return np.full(1 if self.isotropic else self.target.dim, math.log(self.width))


@dataclass(frozen=True)
class ExactGradient:
    """The gradient that every estimator without bias has as its mean.

    Args:
        value: ``(D + S,)``, loc's components first.
        error: norm of the value's error, estimated; of quadrature an upper estimate.
        method: ``closed_form``, ``quadrature`` or ``monte_carlo``.
    """

    value: np.ndarray
    error: float
    method: str


@lru_cache(maxsize=4096)
def exact_gradient(point: Point) -> ExactGradient:
    """In closed form for one Gaussian, by quadrature in one and two dimensions, else from many draws."""
    target = point.framed
    if target.modes == 1 and target.df is None:
        return _of_gaussian(point, target)
    if target.dim in MOST_NODES:
        return _by_quadrature(point, target)
    return _by_draws(point, target)


def _assembled(point: Point, loc: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
    """One array, of derivatives by loc and by each dimension's log width, both ``(D, ...)``."""
    return np.concatenate([loc, log_scale.sum(axis=0, keepdims=True) if point.isotropic else log_scale])


def _of_gaussian(point: Point, target: Mixture) -> ExactGradient:
    precision = np.linalg.inv(target.covariances[0])
    value = _assembled(point, -precision @ target.means[0], point.width**2 * np.diag(precision) - 1)
    return ExactGradient(value, 0.0, "closed_form")


def _by_quadrature(point: Point, target: Mixture) -> ExactGradient:
    """The trapezoidal rule on a grid that is refined until every other node gives the same.

    For an integrand that is smooth at the grid's scale the rule converges faster than any power of the step
    (Trefethen & Weideman 2014, https://doi.org/10.1137/130932132).
    """
    most = MOST_NODES[target.dim]
    # Nothing of log p is narrower than its narrowest component but the ridges between, kinks of low weight.
    narrowest = math.sqrt(min(np.linalg.eigvalsh(c)[0] for c in target.covariances)) / point.width
    nodes = min(max(FEWEST_NODES, 2 ** math.ceil(math.log2(2 * REACH / narrowest))), most)
    while True:
        fine, coarse = _trapezoidal(point, target, nodes)
        error = float(np.linalg.norm(fine - coarse))
        if error <= TOLERANCE * (1 + float(np.linalg.norm(fine))) or nodes == most:
            return ExactGradient(fine, error, "quadrature")
        nodes *= 2


def _trapezoidal(point: Point, target: Mixture, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """With all nodes, and with every other one."""
    dim = target.dim
    z = np.linspace(-REACH, REACH, nodes + 1)
    axes = np.stack(np.meshgrid(*[z] * dim, indexing="ij")).reshape(dim, -1)
    log_p = _log_prob(target, point.width * axes).reshape((nodes + 1,) * dim)
    both = []
    for stride in (1, 2):
        part = z[::stride]
        weight = np.exp(-0.5 * part**2)
        weight /= weight.sum()  # equals the step over sqrt(2 pi), to rounding
        moments = np.stack([weight, weight * part, weight * (part**2 - 1)])
        values = log_p[(slice(None, None, stride),) * dim]
        first = np.array([_contract(values, moments, axis, 1) for axis in range(dim)])
        second = np.array([_contract(values, moments, axis, 2) for axis in range(dim)])
        both.append(_assembled(point, -first / point.width, -1 - second))
    return both[0], both[1]


def _contract(values: np.ndarray, moments: np.ndarray, axis: int, order: int) -> float:
    """The sum of values times the axis' moment of that order and the other axes' weights."""
    for i in reversed(range(values.ndim)):
        values = values @ moments[order if i == axis else 0]
    return float(values)


def _by_draws(point: Point, target: Mixture) -> ExactGradient:
    """The mean reparameterization gradient of draws that are the same for every cell."""
    stacked = StackedMixture.stack([target], torch.float64)
    (generator,) = randomness.generators([0], "evaluation")
    step = max(1, NODES_AT_ONCE // (target.dim * padded_components(target.modes)))
    total = squares = np.zeros(target.dim + len(point.log_scale))
    for start in range(0, DRAWS, step):
        shape = target.dim, min(step, DRAWS - start)
        z = torch.randn(*shape, generator=generator, dtype=torch.float64).numpy()
        x = torch.as_tensor(point.width * z).unsqueeze(0).requires_grad_()
        (grad,) = torch.autograd.grad(stacked.log_prob(x).sum(), x)
        score = grad[0].numpy()
        each = _assembled(point, -score, -1 - point.width * z * score)
        total, squares = total + each.sum(axis=1), squares + (each**2).sum(axis=1)
    mean = total / DRAWS
    variance = squares / DRAWS - mean**2
    return ExactGradient(mean, math.sqrt(variance.sum() / DRAWS), "monte_carlo")


def _log_prob(target: Mixture, x: np.ndarray) -> np.ndarray:
    """Log-density at x ``(D, n)``, in double precision: ``(n,)``."""
    stacked = StackedMixture.stack([target], torch.float64)
    step = max(1, NODES_AT_ONCE // padded_components(target.modes))
    parts = [np.ascontiguousarray(x[:, start : start + step]) for start in range(0, x.shape[1], step)]
    return torch.cat([stacked.log_prob(torch.as_tensor(part)[None])[0] for part in parts]).numpy()
