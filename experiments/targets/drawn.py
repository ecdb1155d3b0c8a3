"""Benchmark targets whose parameters are random numbers of a known generator and seed."""

from __future__ import annotations

import numpy as np

from experiments.targets import Analytic, Mixture, threefry
from experiments.targets.forms import StudentTProducts

DECIMALS = 6  # of what matrix products and inverses leave, whose last bits depend on the processor


def gmm40_jax(dim: int) -> Mixture:
    """40 unit Gaussians at ``40 jax.random.uniform(PRNGKey(0), (40, dim), -1, 1)``: not the ones of FAB's ``gmm40``.

    Blessing et al. 2024, https://arxiv.org/abs/2406.07423; targets/gmm40.py of
    https://github.com/DenisBless/variational_sampling_methods.
    """
    about = f"40 unit Gaussians in a box of side 80, {dim}-D, locations by JAX (Blessing et al. 2024, arXiv 2406.07423)"
    means = 40 * threefry.uniform(threefry.key(0), (40, dim), -1, 1)
    return Mixture("", np.full(40, 1 / 40), means, np.tile(np.eye(dim), (40, 1, 1)), about=about)


def mog10_jax() -> Mixture:
    """Locations by JAX; covariances as ``scipy.stats.wishart(4, eye(2))`` draws them from numpy seeds that JAX draws.

    The same source, targets/gaussian_mixture.py.
    """
    key = threefry.key(0)
    means = threefry.uniform(key, (10, 2), -10, 10)
    covariances = np.empty((10, 2, 2))
    for k in range(10):
        key, own = threefry.split(key)
        generator = np.random.RandomState(threefry.below(own, 30))
        lower = generator.normal()
        first, second = generator.chisquare(4), generator.chisquare(3)  # squares of Bartlett's diagonal
        across = np.sqrt(first) * lower
        covariances[k] = [[first, across], [across, second + lower**2]]
    about = "MoG-10: 10 Gaussians of random shapes, drawn by JAX and scipy (Blessing et al. 2024, arXiv 2406.07423)"
    return Mixture("", np.full(10, 0.1), means, np.round(covariances, 12), about=about)


def student_t_jax() -> Analytic:
    """10 components of independent Student-t coordinates; the same source, targets/student_t_mixture.py."""
    means = threefry.uniform(threefry.key(0), (10, 2), -10, 10)
    about = "10 crosses: independent Student-t coordinates, df 2, drawn by JAX (Blessing et al. 2024, arXiv 2406.07423)"
    return Analytic("", StudentTProducts(tuple((float(x), float(y)) for x, y in means)), about=about)


def gmmvi_gaussians(dim: int) -> Mixture:
    r"""10 Gaussians at :math:`100 (u - 1/2)` with covariances :math:`A^T A + I, A_{ij} \sim N(0, (D / 10)^2)`.

    The recipe and its order of draws are of Arenz et al. 2020, https://arxiv.org/abs/1907.04710; gmmvi's
    target_distributions/gmm.py, https://github.com/OlegArenz/gmmvi. The seed, which it leaves open, is 0.
    """
    generator = np.random.RandomState(0)
    means, covariances = np.empty((10, dim)), np.empty((10, dim, dim))
    for k in range(10):
        means[k] = 100 * (generator.random_sample(dim) - 0.5)
        covariances[k] = _gram(0.1 * generator.normal(0, dim, (dim, dim))) + np.eye(dim)
    about = f"10 Gaussians of random shapes, {dim}-D, by the recipe of VIPS (Arenz et al. 2020, arXiv 1907.04710)"
    return Mixture("", np.full(10, 0.1), means, covariances, about=about)


def gmmvi_student_t(dim: int) -> Mixture:
    r"""10 Student-t components, df 2, at :math:`40 u - 20`, of scales :math:`(A^T A + I)^{-1}`, A as above.

    The recipe is of Lin et al. 2020, https://arxiv.org/abs/2002.10060, as in gmmvi's student_t_mixture.py, where
    TensorFlow draws the locations; here numpy draws everything, from seed 0.
    """
    generator = np.random.RandomState(0)
    means, scales = np.empty((10, dim)), np.empty((10, dim, dim))
    for k in range(10):
        means[k] = 40 * generator.random_sample(dim) - 20
        scale = np.linalg.inv(_gram(0.1 * dim * generator.normal(size=(dim, dim))) + np.eye(dim))
        scales[k] = np.round(0.5 * (scale + scale.T), DECIMALS + 3)
    about = (
        f"10 Student-t components, df 2, {dim}-D, by the recipe of Lin et al. 2020 (arXiv 2002.10060), numpy's draws"
    )
    return Mixture("", np.full(10, 0.1), np.round(means, 12), scales, df=2.0, about=about)


def _gram(a: np.ndarray) -> np.ndarray:
    gram = np.asarray(a.T @ a)
    return np.round(0.5 * (gram + gram.T), DECIMALS)
