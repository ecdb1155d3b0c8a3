"""The exact gradient against torch.distributions, scipy's quadrature and grids of panels."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from experiments.gradients.exact import Point, exact_gradient
from experiments.targets import Mixture


def point(target: Mixture, offset: float, width: float, isotropic: bool = False) -> Point:
    return Point(target.digest, isotropic, offset, width, target)


def random_mixture(seed: int, dim: int, modes: int, df: float | None = None, apart: float = 2.0) -> Mixture:
    rng = np.random.default_rng(seed)
    factors = 0.4 * rng.standard_normal((modes, dim, dim)) + np.eye(dim)
    means = rng.normal(1, apart, (modes, dim))
    weights = rng.dirichlet(np.full(modes, 3.0))
    return Mixture(f"m{seed}", weights, means, factors @ factors.transpose(0, 2, 1), df)


def frame(target: Mixture, isotropic: bool) -> tuple[np.ndarray, np.ndarray]:
    """The target's mean, and the units of loc and widths; of df 2 and less, those of the scale matrices."""
    mean = target.weights @ target.means
    inflation = 1.0 if target.df is None or target.df <= 2 else target.df / (target.df - 2)
    spread = target.means - mean
    variance = inflation * np.einsum("k,kii->i", target.weights, target.covariances)
    variance = variance + target.weights @ spread**2
    return mean, np.sqrt(np.full_like(variance, variance.mean()) if isotropic else variance)


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 5, 40])
def test_of_a_gaussian_it_is_autograd_of_the_closed_form(dim: int, isotropic: bool) -> None:
    target = random_mixture(dim, dim, 1)
    mean, unit = (torch.tensor(part) for part in frame(target, isotropic))
    found = exact_gradient(point(target, 1.3, 0.6, isotropic))
    assert found.method == "closed_form" and found.error == 0
    p = torch.distributions.MultivariateNormal(torch.tensor(target.means[0]), torch.tensor(target.covariances[0]))
    loc = torch.full((dim,), 1.3 / math.sqrt(dim), dtype=torch.float64, requires_grad=True)
    log_scale = torch.full((1 if isotropic else dim,), math.log(0.6), dtype=torch.float64, requires_grad=True)
    scale = unit * log_scale.exp()
    q = torch.distributions.MultivariateNormal(mean + unit * loc, scale_tril=torch.diag(scale))
    expected = torch.cat(torch.autograd.grad(torch.distributions.kl_divergence(q, p), (loc, log_scale)))
    np.testing.assert_allclose(found.value, expected.numpy(), rtol=1e-9, atol=1e-10)


def by_scipy(target: Mixture, offset: float, width: float) -> np.ndarray:
    """In one dimension: the integral of the derivative of q times log q / p, adaptively."""
    mean, unit = frame(target, False)
    mu, s = float(mean[0] + unit[0] * offset), float(unit[0] * width)
    sd = np.sqrt(target.covariances[:, 0, 0])

    def log_p(x: float) -> float:
        z = (x - target.means[:, 0]) / sd
        log_pdf = stats.norm.logpdf(z) if target.df is None else stats.t.logpdf(z, target.df)
        return float(np.logaddexp.reduce(np.log(target.weights / sd) + log_pdf))

    def integrand(x: float, kind: int) -> float:
        z = (x - mu) / s
        score = (z / s * unit[0], z * z - 1)[kind]
        return float(stats.norm.pdf(z) / s * score * (stats.norm.logpdf(z) - math.log(s) - log_p(x)))

    edges = mu + s * np.linspace(-9, 9, 25)
    return np.array(
        [
            sum(
                integrate.quad(integrand, a, b, args=(kind,), epsabs=1e-9, epsrel=1e-9, limit=200)[0]
                for a, b in pairwise(edges)
            )
            for kind in (0, 1)
        ]
    )


@pytest.mark.parametrize("df", [None, 1.5, 4.0])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), modes=st.integers(2, 4), offset=st.floats(-2, 2), width=st.floats(0.1, 2))
def test_in_one_dimension_it_is_scipys_integral(
    df: float | None, seed: int, modes: int, offset: float, width: float
) -> None:
    target = random_mixture(seed, 1, modes, df, apart=3.0)
    found = exact_gradient(point(target, offset, width))
    assert found.method == "quadrature"
    size = 1 + np.linalg.norm(found.value)
    assert found.error <= 1e-7 * size
    np.testing.assert_allclose(found.value, by_scipy(target, offset, width), rtol=0, atol=1e-7 * size)


def test_needles_far_apart_are_resolved() -> None:
    target = Mixture("needles", np.array([0.9, 0.1]), np.array([[0.0], [1.0]]), np.full((2, 1, 1), 0.003**2))
    found = exact_gradient(point(target, 0.2, 1.0))
    assert found.error <= 1e-7 * (1 + np.linalg.norm(found.value))
    np.testing.assert_allclose(found.value, by_scipy(target, 0.2, 1.0), rtol=1e-6)


def by_panels(target: Mixture, offset: float, width: float, isotropic: bool, panels: int) -> np.ndarray:
    """Minus the mean of the target's score, and of its product with the path, by Gauss-Legendre panels."""
    nodes, w = np.polynomial.legendre.leggauss(8)
    edges = np.linspace(-7, 7, panels + 1)
    half = 7 / panels
    z = ((edges[:-1] + half)[:, None] + half * nodes).ravel()
    w = np.tile(half * w, panels) * stats.norm.pdf(z)
    dim = target.dim
    grid = np.stack(np.meshgrid(*[z] * dim, indexing="ij")).reshape(dim, -1).T
    weight = np.stack(np.meshgrid(*[w] * dim, indexing="ij")).reshape(dim, -1).prod(axis=0)
    mean, unit = frame(target, isotropic)
    x = mean + unit * (offset / math.sqrt(dim) + width * grid)
    parts = zip(target.weights, target.means, target.covariances, strict=True)
    joint = np.stack([np.log(share) + stats.multivariate_normal(m, c).logpdf(x) for share, m, c in parts])
    shares = special.softmax(joint, axis=0)
    pulls = [np.linalg.solve(c, (m - x).T) for m, c in zip(target.means, target.covariances, strict=True)]
    score = np.einsum("kn,kin->ni", shares, np.stack(pulls)) * unit
    log_scale = -1 - weight @ (width * grid * score)
    return np.concatenate([-weight @ score, [log_scale.sum()] if isotropic else log_scale])


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize(("offset", "width"), [(0.0, 1.0), (1.5, 0.3), (-0.7, 0.6)])
def test_in_two_dimensions_it_is_the_integral_on_another_grid(offset: float, width: float, isotropic: bool) -> None:
    target = random_mixture(5, 2, 3, apart=1.0)
    found = exact_gradient(point(target, offset, width, isotropic))
    assert found.method == "quadrature" and len(found.value) == (3 if isotropic else 4)
    np.testing.assert_allclose(found.value, by_panels(target, offset, width, isotropic, 40), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("isotropic", [False, True])
def test_in_three_dimensions_it_is_as_near_as_it_says(isotropic: bool) -> None:
    target = random_mixture(8, 3, 2, apart=1.0)
    found = exact_gradient(point(target, 0.8, 0.6, isotropic))
    assert found.method == "monte_carlo" and 0 < found.error < 0.02
    expected = by_panels(target, 0.8, 0.6, isotropic, 9)
    assert np.linalg.norm(found.value - expected) < 3 * found.error


def test_it_depends_on_numbers_and_not_on_names() -> None:
    target = random_mixture(3, 1, 2)
    renamed = Mixture("other", target.weights, target.means, target.covariances)
    assert point(target, 1, 1) == point(renamed, 1, 1)
    assert point(target, 1, 1) != point(target, 1, 1.5)
    assert exact_gradient(point(target, 1, 1)) is exact_gradient(point(renamed, 1, 1))
