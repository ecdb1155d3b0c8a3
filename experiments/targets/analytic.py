"""Targets that are no mixtures: a density by formula, with exact samples, moments and entropy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

Array = Any  # of numpy, or a tensor: formulas are written once, for the library that they are given


class Form(Protocol):
    """A normalised density in D dimensions. Arrays of points are ``(..., D, N)``.

    ``lib`` is numpy or torch. ``sample`` maps noise to exact samples: ``uniform (..., N)``, ``normal (..., D, N)``.
    ``cell`` numbers the mode that a point belongs to, ``(..., N)``, where modes divide the space; ``masses`` is
    the target's mass of each, and both are None where they do not.

    ``log_z`` is that of the formula as its source writes it. ``maxima`` counts the local maxima of the density
    (a circle of maxima counts once), and ``places`` are some of them, ``(n, D)``. ``entropy`` has its error beside
    it; 0 is a closed form. ``spread`` is the covariance, or where that is infinite one of the scales. ``tails`` are
    the powers of the distance that -log p grows like, in its slowest and in its fastest direction: 2 and 2 of a
    Gaussian, 0 where it grows like a logarithm.
    """

    @property
    def dim(self) -> int: ...
    @property
    def log_z(self) -> float: ...
    @property
    def maxima(self) -> int: ...
    @property
    def places(self) -> np.ndarray: ...
    @property
    def entropy(self) -> tuple[float, float]: ...
    @property
    def mean(self) -> np.ndarray: ...
    @property
    def spread(self) -> np.ndarray: ...
    @property
    def df(self) -> float | None: ...
    @property
    def tails(self) -> tuple[float, float]: ...
    @property
    def masses(self) -> np.ndarray | None: ...
    def log_prob(self, x: Array, lib: Any) -> Array: ...
    def sample(self, uniform: Array, normal: Array, lib: Any) -> Array: ...
    def cell(self, x: Array, lib: Any) -> Array: ...


@dataclass(frozen=True, eq=False)
class Analytic:
    r"""A density by formula, seen in coordinates ``y = C^{-1} (x - center)``.

    Args:
        name: what the sweep file calls it.
        form: the density.
        center, factor: ``(D,)`` and lower-triangular ``(D, D)``; None leaves the form's own coordinates.
        unit: of the coordinates, for axes and tables.
        about: one line for ``list targets``.
    """

    name: str
    form: Form
    center: np.ndarray | None = field(default=None, kw_only=True)
    factor: np.ndarray | None = field(default=None, kw_only=True)
    unit: str = ""
    about: str = ""

    image: ClassVar[None] = None

    @property
    def dim(self) -> int:
        return self.form.dim

    @property
    def df(self) -> float | None:
        """Of tails as heavy as a Student-t's."""
        return self.form.df

    @property
    def modes(self) -> int:
        return self.form.maxima

    @cached_property
    def digest(self) -> str:
        """Hash of the formula's name and numbers, and of coordinates that are not its own."""
        h = hashlib.blake2b(_words(self.form).encode(), digest_size=16)
        for name, part in (("center", self.center), ("factor", self.factor)):
            if part is not None:
                # Adding 0.0 turns -0.0 into 0.0, which is the same place.
                h.update(name.encode() + (np.ascontiguousarray(part, dtype="<f8") + 0.0).tobytes())
        return h.hexdigest()

    @cached_property
    def mean(self) -> np.ndarray:
        """``(D,)``; where it is undefined, that of the locations."""
        return self._inward((self.form.mean - self._center)[:, None])[:, 0]

    @cached_property
    def spread(self) -> np.ndarray:
        """``(D, D)``: the covariance, or where that is infinite one of the scales."""
        return self._inward(self._inward(self.form.spread).T)

    @property
    def covariance(self) -> np.ndarray:
        """``(D, D)``; when df <= 2 the variances are infinite, and those between the form's coordinates are not."""
        if self.df is None or self.df > 2:
            return self.spread
        if self.factor is not None and np.count_nonzero(self.factor - np.diag(np.diag(self.factor))):
            return np.full_like(self.spread, np.inf)  # each coordinate holds several of infinite variance
        return np.where(np.eye(self.dim, dtype=bool), np.inf, self.spread)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """The D names of the coordinates."""
        return tuple(f"x{i}" for i in range(self.dim))

    @property
    def log_z(self) -> float:
        """Of the formula as its source writes it; ``log_prob`` is normalised."""
        return self.form.log_z

    @property
    def entropy(self) -> tuple[float, float]:
        """In nats, and its error."""
        value, error = self.form.entropy
        return value - self.log_volume, error

    @property
    def log_volume(self) -> float:
        """What the log-density in these coordinates exceeds the form's by."""
        return 0.0 if self.factor is None else float(np.log(np.diag(self.factor)).sum())

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Log-density at ``(n, D)``, ``(n,)``."""
        outward = self._center[:, None] + (x.T if self.factor is None else self.factor @ x.T)
        return np.asarray(self.form.log_prob(outward, np) + self.log_volume)

    def draws(self, n: int) -> np.ndarray:
        """The same n draws each time, ``(n, D)``: for pictures. Experiments draw from their own streams."""
        generator = np.random.default_rng(0)
        uniform, normal = generator.random(n), generator.standard_normal((self.dim, n))
        x = np.asarray(self.form.sample(uniform, normal, np))
        return self._inward(x - self._center[:, None]).T

    @property
    def _center(self) -> np.ndarray:
        return np.zeros(self.dim) if self.center is None else self.center

    def _inward(self, x: np.ndarray) -> np.ndarray:
        return x if self.factor is None else np.linalg.solve(self.factor, x)


def _words(form: Any) -> str:
    """The repr of a form's dataclass, whose numbers may be numpy's: their own repr differs between its versions."""
    numbers = (f"{part.name}={_plain(getattr(form, part.name))!r}" for part in fields(form))
    return f"{type(form).__qualname__}({', '.join(numbers)})"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    value = value.item() if isinstance(value, np.generic) else value
    return value + 0.0 if isinstance(value, float) else value
