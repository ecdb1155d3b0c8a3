"""Densities by formula in the plane: rings, and two moons."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from experiments.targets.analytic import Array
from experiments.targets.kept import tensors
from experiments.targets.monotone import Monotone, Table, from_normal, from_radius, panels

ROUND = 12  # decimals of what quadrature gives, so that it is the same on every processor


@dataclass(frozen=True)
class _Radial(ABC):
    """A density that depends on the radius alone, told by its profile, its modes and where to integrate."""

    dim = 2
    df = None
    tails = (2.0, 2.0)

    @property
    @abstractmethod
    def borders(self) -> tuple[float, ...]:
        """Radii between the modes."""

    @property
    @abstractmethod
    def peaks(self) -> tuple[float, ...]:
        """Radii of the modes."""

    @abstractmethod
    def _profile(self, r: Array, lib: Any) -> Array:
        """Log-density at a radius, up to log Z."""

    @property
    @abstractmethod
    def _edges(self) -> np.ndarray:
        """Of the panels that integrals over the radius are summed by."""

    @property
    def maxima(self) -> int:
        return len(self.peaks)

    @property
    def places(self) -> np.ndarray:
        """One point of each circle."""
        return np.array([[r, 0.0] for r in self.peaks])

    @cached_property
    def log_z(self) -> float:
        return round(math.log(self._unnormalised[1].sum()), ROUND)

    @cached_property
    def entropy(self) -> tuple[float, float]:
        r, weight = self._unnormalised
        value = self.log_z - float(weight @ self._profile(r, np)) / weight.sum()
        return round(value, ROUND), 1e-12

    @property
    def mean(self) -> np.ndarray:
        return np.zeros(2)

    @cached_property
    def spread(self) -> np.ndarray:
        r, weight = self._unnormalised
        return round(0.5 * float(weight @ r**2) / weight.sum(), ROUND) * np.eye(2)

    @cached_property
    def masses(self) -> np.ndarray:
        r, weight = self._unnormalised
        return np.bincount(np.searchsorted(self.borders, r), weight / weight.sum())

    def log_prob(self, x: Array, lib: Any) -> Array:
        return self._profile(_radius(x, lib), lib) - self.log_z

    def sample(self, uniform: Array, normal: Array, lib: Any) -> Array:
        radius = _radius(normal, lib)
        return normal * (self._map(radius, lib) / radius)[..., None, :]

    def cell(self, x: Array, lib: Any) -> Array:
        """Numbered from the center outwards."""
        r = _radius(x, lib)
        return sum(lib.where(r > border, 1, 0) for border in self.borders)

    @cached_property
    def _unnormalised(self) -> tuple[np.ndarray, np.ndarray]:
        """Radii and their weights, which sum to Z."""
        r, weight = panels(np.union1d(self._edges, self.borders))
        return r, weight * 2 * np.pi * r * np.exp(self._profile(r, np))

    @cached_property
    def _map(self) -> Monotone:
        def density(r: np.ndarray) -> np.ndarray:
            return 2 * np.pi * r * np.exp(np.asarray(self._profile(r, np)) - self.log_z)

        center = float(np.exp(self._profile(np.zeros(1), np) - self.log_z)[0])
        return from_radius(Table.of(density, self._edges), density, center)


@dataclass(frozen=True)
class Rings(_Radial):
    r"""A disc within rings: :math:`p \propto \cos r + 1.001` up to :math:`r = 4.5 \pi`, then :math:`e^{4.5 \pi - r}`.

    targets/rings.py of https://github.com/DenisBless/variational_sampling_methods (Blessing et al. 2024). The sampler
    there draws radii from this profile itself, without the factor r that the plane gives it: its samples are not of
    its density. These are.
    """

    dark: float = 1.001

    tails = (1.0, 1.0)

    @property
    def end(self) -> float:
        return 4.5 * math.pi

    @property
    def borders(self) -> tuple[float, ...]:
        return math.pi, 3 * math.pi

    @property
    def peaks(self) -> tuple[float, ...]:
        return 0.0, 2 * math.pi, 4 * math.pi

    @property
    def _edges(self) -> np.ndarray:
        return np.append(np.linspace(0, self.end, 3001), self.end + np.linspace(0, 45, 901)[1:])

    def _profile(self, r: Array, lib: Any) -> Array:
        return lib.where(r <= self.end, lib.log(lib.cos(r) + self.dark), self.end - r)


@dataclass(frozen=True)
class TwoRings(_Radial):
    r"""Rings of radius 1 and 2: :math:`p \propto \sum_k \exp(-(r - k)^2 / (2 \sigma^2)), \sigma = 1/8`.

    RingMixture of https://github.com/VincentStimper/normalizing-flows (Stimper et al. 2023).
    """

    width: float = 0.125

    @property
    def borders(self) -> tuple[float, ...]:
        return (1.5,)

    @property
    def peaks(self) -> tuple[float, ...]:
        return 1.0, 2.0

    @property
    def _edges(self) -> np.ndarray:
        return np.linspace(0, 3.5, 2801)

    def _profile(self, r: Array, lib: Any) -> Array:
        inner, outer = (-0.5 * ((r - k) / self.width) ** 2 for k in (1, 2))
        return lib.logaddexp(inner, outer)


@dataclass(frozen=True)
class TwoMoons:
    r"""Two crescents: a ring of radius 2, of which Gaussians in x0 leave the left and the right.

    .. math:: p \propto \exp(-\tfrac12 ((r - 2) / 0.2)^2) \sum_\pm \exp(-\tfrac12 ((x_0 \pm 2) / 0.3)^2)

    TwoMoons of https://github.com/VincentStimper/normalizing-flows (Stimper et al. 2023).
    """

    radius: float = 2.0
    width: float = 0.2
    breadth: float = 0.3

    dim = 2
    df = None
    tails = (2.0, 2.0)
    maxima = 2

    @property
    def places(self) -> np.ndarray:
        return np.array([[-self.radius, 0.0], [self.radius, 0.0]])

    @cached_property
    def log_z(self) -> float:
        return round(math.log(2 * self._grid[2].sum()), ROUND)

    @cached_property
    def entropy(self) -> tuple[float, float]:
        r, angle, weight = self._grid
        x = np.stack([r * np.cos(angle), r * np.sin(angle)])
        # Of the right moon, whose mirror image weighs the same.
        value = -float(weight @ self.log_prob(x, np)) / weight.sum()
        return round(value, 10), 1e-10

    @property
    def mean(self) -> np.ndarray:
        return np.zeros(2)

    @cached_property
    def spread(self) -> np.ndarray:
        r, angle, weight = self._grid
        share = weight / weight.sum()
        squares = [share @ (r * np.cos(angle)) ** 2, share @ (r * np.sin(angle)) ** 2]
        return np.diag(np.round(squares, ROUND))

    @property
    def masses(self) -> np.ndarray:
        return np.full(2, 0.5)

    def log_prob(self, x: Array, lib: Any) -> Array:
        away = (_radius(x, lib) - self.radius) / self.width
        sides = (-0.5 * ((x[..., 0, :] + side) / self.breadth) ** 2 for side in (-self.radius, self.radius))
        return lib.logaddexp(*sides) - 0.5 * away * away - self.log_z

    def sample(self, uniform: Array, normal: Array, lib: Any) -> Array:
        """A radius, an angle given it, and a side."""
        radius = self._radii(normal[..., 0, :], lib)
        angle = self._angles(radius, normal[..., 1, :], lib)
        x = lib.stack([radius * lib.cos(angle), radius * lib.sin(angle)], -2)
        return lib.where(uniform[..., None, :] < 0.5, x, -x)

    def cell(self, x: Array, lib: Any) -> Array:
        """0 is the left moon, 1 the right one."""
        return lib.where(x[..., 0, :] > 0, 1, 0)

    def _right(self, r: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """The right moon's density of radius and angle, up to Z."""
        ring, side = (r - self.radius) / self.width, (r * np.cos(angle) - self.radius) / self.breadth
        return np.asarray(r * np.exp(-0.5 * (ring**2 + side**2)))

    @cached_property
    def _grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Radii, angles and weights of a grid over the right moon; the weights sum to half of Z."""
        r, radial = panels(np.linspace(0.0, 4.0, 41))
        angle, angular = panels(np.linspace(-np.pi, np.pi, 41))
        radii, angles = (part.ravel() for part in np.meshgrid(r, angle, indexing="ij"))
        return radii, angles, np.outer(radial, angular).ravel() * self._right(radii, angles)

    @cached_property
    def _radii(self) -> Monotone:
        angle, angular = panels(np.linspace(-np.pi, np.pi, 41))

        def density(r: np.ndarray) -> np.ndarray:
            return np.asarray(self._right(r[:, None], angle) @ angular) * 2 / math.exp(self.log_z)

        return from_normal(Table.of(density, np.linspace(0.4, 4.0, 721)), density)

    @cached_property
    def _angles(self) -> _Conditional:
        radii, z = np.linspace(0.4, 4.0, 181), np.linspace(-8.5, 8.5, 851)
        edges = np.linspace(-np.pi, np.pi, 401)
        angle, angular = panels(edges)
        rows = []
        for r in radii:
            total = angular @ self._right(r, angle)

            def density(a: np.ndarray, r: float = r, total: float = total) -> np.ndarray:
                return self._right(np.full_like(a, r), a) / total

            rows.append(from_normal(Table.of(density, edges), density)(z, np))
        return _Conditional(radii[0], radii[1] - radii[0], z[0], z[1] - z[0], np.stack(rows))


@dataclass(frozen=True, eq=False)
class _Conditional:
    """A smooth function of two numbers by its values on an even grid: cubics through four points in each direction."""

    first: float
    step: float
    first_z: float
    step_z: float
    values: np.ndarray

    def __call__(self, r: Array, z: Array, lib: Any) -> Array:
        wide = [part.astype(float) if lib is np else part.double() for part in (r, z)]
        i, across = _cubic((wide[0] - self.first) / self.step, self.values.shape[0], lib)
        j, along = _cubic((wide[1] - self.first_z) / self.step_z, self.values.shape[1], lib)
        table = self.values if lib is np else tensors(self, ("values",), lib, r.device)[0]
        found = sum(a * b * table[i + m, j + n] for m, a in enumerate(across) for n, b in enumerate(along))
        return found if lib is np else found.to(r.dtype)


def _cubic(at: Array, count: int, lib: Any) -> tuple[Array, list[Array]]:
    """The first of the four grid points around a place, and the weights of all (Lagrange)."""
    first = lib.clip(lib.floor(at) - 1, 0, count - 4)
    t = lib.clip(at, 0, count - 1) - first
    weights = [
        -(t - 1) * (t - 2) * (t - 3) / 6,
        t * (t - 2) * (t - 3) / 2,
        -t * (t - 1) * (t - 3) / 2,
        t * (t - 1) * (t - 2) / 6,
    ]
    return first.astype(int) if lib is np else first.long(), weights


def _radius(x: Array, lib: Any) -> Array:
    """Its slope at the center, which it has not, is 0 there."""
    return lib.sqrt(x[..., 0, :] ** 2 + x[..., 1, :] ** 2 + 1e-30)
