"""Densities by formula in any dimension: the funnel, the double wells, and Student-t components without rotation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from experiments.targets.analytic import Array
from experiments.targets.kept import column
from experiments.targets.monotone import Monotone, Table, from_normal, panels

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
POINTS = 20_000  # to count masses with
PLASTIC = (0.7548776662466927, 0.5698402909980532)  # 1 / g and 1 / g^2, g^3 = g + 1


@dataclass(frozen=True)
class Funnel:
    """``x0 ~ N(0, v)``, and the others ``N(0, exp x0)`` given it. Neal 2003, section 8, doi 10.1214/aos/1056562461."""

    dim: int
    neck_variance: float = 9.0

    log_z = 0.0
    maxima = 1
    df = None
    tails = (0.0, math.inf)  # across the mouth, and across the neck

    @property
    def masses(self) -> np.ndarray:
        return np.ones(1)

    @property
    def places(self) -> np.ndarray:
        neck = -0.5 * self.neck_variance * (self.dim - 1)
        return np.array([[neck, *[0.0] * (self.dim - 1)]])

    @property
    def entropy(self) -> tuple[float, float]:
        return self.dim * (HALF_LOG_TAU + 0.5) + 0.5 * math.log(self.neck_variance), 0.0

    @property
    def mean(self) -> np.ndarray:
        return np.zeros(self.dim)

    @property
    def spread(self) -> np.ndarray:
        rest = math.exp(0.5 * self.neck_variance)
        return np.diag([self.neck_variance, *[rest] * (self.dim - 1)])

    def log_prob(self, x: Array, lib: Any) -> Array:
        neck, rest = x[..., 0, :], x[..., 1:, :]
        square = (rest * rest).sum(-2)
        constant = self.dim * HALF_LOG_TAU + 0.5 * math.log(self.neck_variance)
        others = 0.5 * (self.dim - 1) * neck + 0.5 * square * lib.exp(-neck)
        return -0.5 * neck * neck / self.neck_variance - others - constant

    def sample(self, uniform: Array, normal: Array, lib: Any) -> Array:
        neck = math.sqrt(self.neck_variance) * normal[..., :1, :]
        return lib.concatenate([neck, lib.exp(0.5 * neck) * normal[..., 1:, :]], -2)

    def cell(self, x: Array, lib: Any) -> Array:
        """A funnel has one mode."""
        return lib.zeros_like(x[..., 0, :], dtype=lib.int64)


@dataclass(frozen=True)
class ManyWell:
    r"""Pairs of a double well and a standard normal: :math:`\prod e^{-(x^4 - 6 x^2 - x / 2)} e^{-v^2 / 2}`.

    Midgley et al. 2023, https://arxiv.org/abs/2208.01893; the double well of Noe et al. 2019. Every well of every pair
    doubles the modes, and all but those of one pair are too many to count a fit's mass in.
    """

    dim: int

    df = None
    tails = (2.0, 4.0)

    def __post_init__(self) -> None:
        if self.dim % 2 or self.dim < 2:
            raise ValueError(f"a many-well has an even number of dimensions, got {self.dim}")

    @property
    def pairs(self) -> int:
        return self.dim // 2

    @property
    def log_z(self) -> float:
        return self.pairs * (math.log(_well().z) + HALF_LOG_TAU)

    @property
    def maxima(self) -> int:
        return int(2**self.pairs)

    @property
    def places(self) -> np.ndarray:
        """The heaviest and the lightest mode."""
        ends = np.array([_well().right, _well().left])
        return np.stack([np.tile([x, 0.0], self.pairs) for x in ends])

    @property
    def entropy(self) -> tuple[float, float]:
        return self.pairs * (_well().entropy + HALF_LOG_TAU + 0.5), 1e-12 * self.pairs

    @property
    def mean(self) -> np.ndarray:
        return np.tile([_well().mean, 0.0], self.pairs)

    @property
    def spread(self) -> np.ndarray:
        return np.diag(np.tile([_well().variance, 1.0], self.pairs))

    @property
    def masses(self) -> np.ndarray | None:
        return np.array([1 - _well().right_mass, _well().right_mass]) if self.pairs == 1 else None

    def log_prob(self, x: Array, lib: Any) -> Array:
        well, rest = x[..., 0::2, :], x[..., 1::2, :]
        square = well * well
        return -(square * (square - 6) - 0.5 * well + 0.5 * rest * rest).sum(-2) - self.log_z

    def sample(self, uniform: Array, normal: Array, lib: Any) -> Array:
        well = _well().map(normal[..., 0::2, :], lib)
        pairs = lib.stack([well, normal[..., 1::2, :]], -2)
        return pairs.reshape(normal.shape)

    def cell(self, x: Array, lib: Any) -> Array:
        """0 is the left well, 1 the right one."""
        return lib.where(x[..., 0, :] > _well().barrier, 1, 0)


@dataclass(frozen=True)
class _Well:
    """One double well ``exp(-(x^4 - 6 x^2 - x / 2))``: what is known of it, by quadrature to about 1e-13."""

    z: float
    entropy: float
    mean: float
    variance: float
    right_mass: float
    left: float
    barrier: float
    right: float

    @cached_property
    def map(self) -> Monotone:
        edges = np.linspace(-3.4, 3.4, 3401)
        return from_normal(Table.of(self.density, edges), self.density)

    def density(self, x: np.ndarray) -> np.ndarray:
        return np.exp(-_energy(x)) / self.z


def _energy(x: np.ndarray) -> np.ndarray:
    return np.asarray(x**4 - 6 * x**2 - 0.5 * x)


@lru_cache
def _well() -> _Well:
    left, barrier, right = np.sort(np.roots([4, 0, -12, -0.5]).real)
    x, weight = panels(np.append(np.linspace(-5, barrier, 200), np.linspace(barrier, 5, 200)[1:]))
    energy = _energy(x)
    share = weight * np.exp(-energy)
    z = float(share.sum())
    share /= z
    mean = float(share @ x)
    entropy, variance = math.log(z) + float(share @ energy), float(share @ (x - mean) ** 2)
    heavy = float(share[x > barrier].sum())
    # Rounded, so that they are the same on every processor.
    values = (round(float(v), 12) for v in (z, entropy, mean, variance, heavy, left, barrier, right))
    return _Well(*values)


@dataclass(frozen=True)
class StudentTProducts:
    r"""Equal components in the plane whose coordinates are independent Student-t of 2 degrees of freedom and scale 1.

    .. math:: p(x) = \frac1M \sum_k \prod_i (2 + (x_i - m_{ki})^2)^{-3/2}

    Not a mixture of multivariate Student-t: its contours are crosses. With :math:`x = \sqrt2 \sinh s` the density of s
    is :math:`\operatorname{sech}^2(s) / 2`, so that samples are exact. Blessing et al. 2024.

    Args:
        means: M pairs of numbers.
    """

    means: tuple[tuple[float, ...], ...]

    log_z = 0.0
    df = 2.0
    dim = 2
    tails = (0.0, 0.0)

    def __post_init__(self) -> None:
        for mean in self.means:
            if len(mean) != self.dim:
                raise ValueError(f"means: entropy and masses are known in the plane alone, got {len(mean)} coordinates")

    @property
    def maxima(self) -> int:
        return len(self.means)

    @property
    def places(self) -> np.ndarray:
        """The centers: the arms of other components move the maxima by up to a tenth."""
        return np.array(self.means)

    @cached_property
    def entropy(self) -> tuple[float, float]:
        """By the trapezoidal rule in s."""
        values = [self._entropy(step) for step in (0.2, 0.1)]
        return values[1], abs(values[1] - values[0])

    @property
    def mean(self) -> np.ndarray:
        return self.places.mean(axis=0)

    @property
    def spread(self) -> np.ndarray:
        return np.eye(self.dim) + np.cov(self.places.T, bias=True)

    @cached_property
    def masses(self) -> np.ndarray:
        """Of the cells, which where components overlap are not their weights; to 1e-4.

        Counted over points that fill the square of a component's quantiles evenly, ``x = v / sqrt((1 - v^2) / 2)`` at
        ``v = 2 u - 1``: the additive recurrence of the plastic number, whose lattice no border of a cell follows.
        """
        v = 2 * (np.outer(PLASTIC, np.arange(POINTS) + 0.5) % 1) - 1
        noise = v / np.sqrt(0.5 * (1 - v * v))
        counts = [np.bincount(self.cell(noise + _column(m, noise, np), np), minlength=self.maxima) for m in self.means]
        return np.sum(counts, axis=0) / (self.maxima * POINTS)

    def log_prob(self, x: Array, lib: Any) -> Array:
        joint = self._joint(x, lib)
        top = lib.amax(joint, -2)
        total = lib.exp(joint - top[..., None, :]).sum(-2)
        return lib.log(total) + top - math.log(self.maxima)

    def sample(self, uniform: Array, normal: Array, lib: Any) -> Array:
        special = _special(lib)
        s = 0.5 * (special.log_ndtr(normal) - special.log_ndtr(-normal))
        chosen = lib.floor(uniform * self.maxima).clip(0, self.maxima - 1)
        means = lib.zeros_like(normal)
        for k, mean in enumerate(self.means):
            means = means + (chosen == k)[..., None, :] * _column(mean, normal, lib)
        return means + math.sqrt(2) * lib.sinh(s)

    def cell(self, x: Array, lib: Any) -> Array:
        """The component whose density is the highest."""
        return self._joint(x, lib).argmax(-2)

    def _joint(self, x: Array, lib: Any) -> Array:
        """Log-density of each component, ``(..., M, N)``."""
        rows = []
        for mean in self.means:
            away = x - _column(mean, x, lib)
            rows.append(-1.5 * lib.log(2 + away * away).sum(-2))
        return lib.stack(rows, -2)

    def _entropy(self, step: float) -> float:
        s = np.arange(-60, 60 + step / 2, step)
        weight = step * 0.5 / np.cosh(s) ** 2
        s, weight = s[weight > 1e-14], weight[weight > 1e-14]
        x = math.sqrt(2) * np.sinh(s)
        noise = np.stack([np.repeat(x, len(x)), np.tile(x, len(x))])
        share = np.outer(weight, weight).ravel()
        return -float(np.mean([share @ self.log_prob(noise + _column(m, noise, np), np) for m in self.means]))


def _column(values: tuple[float, ...], like: Array, lib: Any) -> Array:
    return np.array(values)[:, None] if lib is np else column(values, lib, like.dtype, like.device)


def _special(lib: Any) -> Any:
    if lib is not np:
        return lib.special
    from scipy import special  # plans need no samples

    return special
