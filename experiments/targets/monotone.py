"""Increasing maps from tables: exact samples of one-dimensional densities out of normal noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.targets.kept import tensors

NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)


@dataclass(frozen=True, eq=False)
class Monotone:
    """An increasing function of z by cubic pieces, from its values and one-sided slopes at n nodes.

    Args:
        z, x: nodes and the function there, ``(n,)``.
        left, right: slopes at the beginning and at the end of each piece, ``(n - 1,)``.
    """

    z: np.ndarray
    x: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def __call__(self, z: Any, lib: Any) -> Any:
        """Of ``z``, an array of numpy or a tensor, in double precision within; constant beyond the table."""
        parts = (self.z, self.x, self.left, self.right)
        at, to, left, right = parts if lib is np else tensors(self, ("z", "x", "left", "right"), lib, z.device)
        wide = z.astype(float) if lib is np else z.double().contiguous()
        piece = lib.clip(lib.searchsorted(at, wide) - 1, 0, len(self.z) - 2)
        width = at[piece + 1] - at[piece]
        t = lib.clip((wide - at[piece]) / width, 0.0, 1.0)
        rise = to[piece + 1] - to[piece]
        a, b = left[piece] * width - rise, rise - right[piece] * width
        x = to[piece] + t * rise + t * (1 - t) * ((1 - t) * a + t * b)
        return x if lib is np else x.to(z.dtype)


@dataclass(frozen=True, eq=False)
class Table:
    """A density on a line between edges: ``below`` and ``above (n,)`` are the mass on either side of each edge."""

    edges: np.ndarray
    below: np.ndarray
    above: np.ndarray

    @classmethod
    def of(cls, density: Callable[[np.ndarray], np.ndarray], edges: np.ndarray) -> Table:
        """Of a density that need not be normalised, by Gauss-Legendre between the edges."""
        x, weight = panels(edges)
        mass = (weight * density(x)).reshape(len(edges) - 1, -1).sum(axis=1)
        mass = mass / mass.sum()
        # Two sums, so that both tails keep their digits.
        below, above = np.append(0.0, np.cumsum(mass)), np.append(np.cumsum(mass[::-1])[::-1], 0.0)
        return cls(edges, below, above)


def panels(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights between the edges, ``(n,)`` each."""
    half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
    return (middle + half * NODES).ravel(), (half * WEIGHTS).ravel()


def from_normal(table: Table, density: Callable[[np.ndarray], np.ndarray]) -> Monotone:
    """The increasing map that takes a standard normal to the table's density, which must be normalised."""
    from scipy import special  # plans need no samples

    inside = (table.below > 0) & (table.above > 0)
    x, below, above = table.edges[inside], table.below[inside], table.above[inside]
    z = np.where(below < 0.5, special.ndtri(below), -special.ndtri(above))
    return _with_slopes(z, x, np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi), density)


def from_radius(table: Table, density: Callable[[np.ndarray], np.ndarray], at_center: float) -> Monotone:
    """The same, of a standard normal's norm in the plane: a radius' density is ``2 pi r p(r)``, p(0) ``at_center``.

    The normal's direction is independent of its norm, and is left to the caller.
    """
    inside = table.above > 0
    x, below, above = table.edges[inside], table.below[inside], table.above[inside]
    with np.errstate(divide="ignore"):
        z = np.sqrt(-2 * np.where(below < 0.5, np.log1p(-below), np.log(above)))
    found = _with_slopes(z, x, z * np.exp(-0.5 * z**2), density)
    found.left[0] = 1 / np.sqrt(2 * np.pi * at_center)
    return found


def _with_slopes(
    z: np.ndarray, x: np.ndarray, mass: np.ndarray, density: Callable[[np.ndarray], np.ndarray]
) -> Monotone:
    """Slopes by the chain rule; the density may jump at an edge, and so is taken beside it."""
    aside = 1e-7 * np.diff(x)
    return Monotone(z, x, mass[:-1] / density(x[:-1] + aside), mass[1:] / density(x[1:] - aside))
