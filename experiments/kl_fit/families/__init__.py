"""What is fitted: families of densities. Parameters of a whole stack are one tensor ``(K, P)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from experiments.kl_fit.families.flow import Flow
from experiments.kl_fit.families.gaussian import Gaussian, Shape
from experiments.kl_fit.families.mixture import GaussianMixture
from experiments.kl_fit.families.student_t import StudentT

__all__ = [
    "FAMILIES",
    "Family",
    "Flow",
    "Gaussian",
    "GaussianMixture",
    "Shape",
    "Sizes",
    "StudentT",
    "family",
    "frame_shape",
    "sampled",
]


class Family(Protocol):
    """A family of densities in D dimensions whose member of P parameters is one row of theta ``(K, P)``.

    ``rsample`` maps ``noise_dim`` standard normals to a sample; its columns weigh ``weights``, or alike where that is
    None. ``entropy`` is None where it has no closed form. ``project`` is a start with given moments.
    """

    @property
    def dim(self) -> int: ...
    @property
    def noise_dim(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    def rsample(self, theta: Tensor, normal: Tensor) -> Tensor: ...
    def weights(self, theta: Tensor, n: int) -> Tensor | None: ...
    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor: ...
    def entropy(self, theta: Tensor) -> Tensor | None: ...
    def project(
        self, mean: np.ndarray, covariance: np.ndarray, generator: torch.Generator | None = None
    ) -> np.ndarray: ...


class Sizes(Protocol):
    """The parameters that say which family is fitted."""

    @property
    def family(self) -> str: ...
    @property
    def components(self) -> int: ...
    @property
    def family_df(self) -> int: ...
    @property
    def flow_transforms(self) -> int: ...
    @property
    def flow_hidden(self) -> int: ...
    @property
    def flow_bins(self) -> int: ...


FAMILIES: dict[str, Callable[[Sizes, int], Family]] = {
    "gaussian_isotropic": lambda _, dim: Gaussian("isotropic", dim),
    "gaussian_diagonal": lambda _, dim: Gaussian("diagonal", dim),
    "gaussian_full": lambda _, dim: Gaussian("full", dim),
    "student_t": lambda sizes, dim: StudentT(dim, sizes.family_df),
    "gaussian_mixture": lambda sizes, dim: GaussianMixture(dim, sizes.components),
    "flow": lambda sizes, dim: Flow(dim, sizes.flow_transforms, sizes.flow_hidden, sizes.flow_bins),
}
"""By the name that a sweep file gives the family; from the cell's parameters and the target's dimension."""


def family(sizes: Sizes, dim: int) -> Family:
    """The family that a cell fits to a target of ``dim`` dimensions."""
    return FAMILIES[sizes.family](sizes, dim)


def sampled(chosen: Family, theta: Tensor, normal: Tensor) -> tuple[Tensor, Tensor | None]:
    """Samples ``(K, D, N)``, and their log-density where it comes with them: a flow need not then invert itself."""
    if isinstance(chosen, Flow):
        return chosen.rsample_and_log_prob(theta, normal)
    return chosen.rsample(theta, normal), None


def frame_shape(chosen: Family) -> Shape:
    """Which linear maps take the family onto itself: every one, unless a Gaussian's covariance is restricted."""
    return chosen.shape if isinstance(chosen, Gaussian) else "full"
