"""Points, read or shipped: a target of which only samples are known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Image = tuple[int, int]
"""Rows and columns of pixels."""


@dataclass(frozen=True, eq=False)
class Points:
    """A sample of n points in D dimensions; its density is unknown.

    Args:
        name: what the sweep file calls it.
        values: ``(n, D)``, finite.
        columns: the D names that the file gives them.
        image: rows and columns of pixels, where a point is an image: all its coordinates are then in one unit, and
            distances are between the points as they are. The pixels of a row stand together.
    """

    name: str
    values: np.ndarray
    columns: tuple[str, ...]
    unit: str = ""
    about: str = ""
    image: Image | None = None

    @property
    def dim(self) -> int:
        return int(self.values.shape[1])

    @cached_property
    def digest(self) -> str:
        """Hash of the points themselves: a renamed file is the same target, an edited one is not."""
        h = hashlib.blake2b(digest_size=16)
        h.update(repr(self.values.shape).encode())
        if self.image is not None:  # what is near an image is another matter
            h.update(f"image {self.image}".encode())
        h.update((np.ascontiguousarray(self.values, dtype="<f8") + 0.0).tobytes())
        return h.hexdigest()

    @cached_property
    def mean(self) -> np.ndarray:
        """``(D,)``."""
        return self.values.mean(axis=0)

    @cached_property
    def covariance(self) -> np.ndarray:
        """``(D, D)``, of the points themselves (divided by n): what forward KL to the sample fits."""
        spread = self.values - self.mean
        return spread.T @ spread / len(self.values)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """The D names of the coordinates."""
        return self.columns

    def draws(self, n: int) -> np.ndarray:
        """The points, or always the same n of them, ``(<= n, D)``: for pictures."""
        if len(self.values) <= n:
            return self.values
        return self.values[np.sort(np.random.default_rng(0).choice(len(self.values), n, replace=False))]
