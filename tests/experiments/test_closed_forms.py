from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from experiments import closed_forms as exact

SEEDS = st.integers(0, 2**32 - 1)


def random_covariance(rng: np.random.Generator, dim: int) -> np.ndarray:
    factor = rng.normal(size=(dim, dim + 3))
    scale = np.exp(rng.normal(size=dim))
    return factor @ factor.T / dim * np.outer(scale, scale)


def torch_kl(mean_q: np.ndarray, cov_q: np.ndarray, mean_p: np.ndarray, cov_p: np.ndarray) -> float:
    q, p = (
        torch.distributions.MultivariateNormal(torch.tensor(m), torch.tensor(c))
        for m, c in ((mean_q, cov_q), (mean_p, cov_p))
    )
    return float(torch.distributions.kl_divergence(q, p))


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 3, 7, 20, 100]))
def test_kl_of_gaussians_is_torchs(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    case = (
        rng.normal(size=dim),
        random_covariance(rng, dim),
        rng.normal(size=dim),
        random_covariance(rng, dim),
    )
    assert exact.kl_gaussians(*case) == pytest.approx(torch_kl(*case), rel=1e-8)


def test_kl_by_quadrature_and_its_direction() -> None:
    q, p = stats.norm(0, 1), stats.norm(1, 2)
    for a, b, value in ((q, p, 0.443147), (p, q, 1.306853)):
        by_quadrature = integrate.quad(lambda x, a=a, b=b: a.pdf(x) * (a.logpdf(x) - b.logpdf(x)), -30, 30)[0]
        means = [np.array([d.mean()]) for d in (a, b)]
        covariances = [np.array([[d.var()]]) for d in (a, b)]
        found = exact.kl_gaussians(means[0], covariances[0], means[1], covariances[1])
        assert found == pytest.approx(by_quadrature, abs=1e-9)
        assert found == pytest.approx(value, abs=1e-6)
    there = (np.zeros(2), np.array([[1, 0.8], [0.8, 1]]), np.array([1.0, -1]), np.diag([2, 0.5]))
    assert exact.kl_gaussians(*there) == pytest.approx(2.010826, abs=1e-6)
    assert exact.kl_gaussians(*there[2:], *there[:2]) == pytest.approx(6.961397, abs=1e-6)


def test_kl_keeps_its_digits_in_100_dimensions() -> None:
    """KL = sum(t - ln(1 + t)) / 2 over the eigenvalues t of the difference: here about 1e-10."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(100, 100)))[0]
    t = 2e-6 * rng.normal(size=100)
    expected = 0.5 * float((t**2 / 2 - t**3 / 3).sum())
    near = turn @ np.diag(1 + t) @ turn.T
    assert expected < 2e-10
    found = exact.kl_gaussians(np.zeros(100), near, np.zeros(100), np.eye(100))
    assert found == pytest.approx(expected, rel=1e-6)
    ill = turn @ np.diag(np.geomspace(1e-3, 1e3, 100)) @ turn.T
    twice = exact.kl_gaussians(np.zeros(100), 2 * ill, np.zeros(100), ill)
    assert twice == pytest.approx(50 * (1 - math.log(2)), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 5), st.floats(0, 1), st.sampled_from(["isotropic", "diagonal"]))
def test_the_optimum_of_mixed_kls(seed: int, dim: int, weight: float, shape: exact.Shape) -> None:
    """Against scipy's minimum of torch's divergences, over the logarithms of the variances."""
    cov = random_covariance(np.random.default_rng(seed), dim)
    zero = np.zeros(dim)

    def objective(log_variance: np.ndarray) -> float:
        own = np.diag(np.exp(log_variance) * np.ones(dim))
        return weight * torch_kl(zero, cov, zero, own) + (1 - weight) * torch_kl(zero, own, zero, cov)

    start = np.zeros(1 if shape == "isotropic" else dim)
    best = optimize.minimize(objective, start, method="BFGS", options={"gtol": 1e-9})
    found = exact.mixed_optimum(cov, weight, shape)
    assert objective(np.log(np.diag(found)) if shape == "diagonal" else np.log(found[:1, 0])) <= best.fun + 1e-9
    # The minimum is flat: places agree to the root of what values do.
    assert np.log(np.diag(found)) == pytest.approx(best.x * np.ones(dim), abs=1e-4)


@pytest.mark.parametrize(
    ("rho", "reverse", "kl", "crossed"),
    [(0.9, 0.19, 0.830366, 3.432792), (0.97, 0.0591, 1.414262, 14.506212), (0.5, 0.75, 0.143841, 0.189492)],
)
def test_a_correlated_gaussian_and_diagonal_fits(rho: float, reverse: float, kl: float, crossed: float) -> None:
    """Both minima are the mutual information; each optimum is bad by the other's measure."""
    zero, cov = np.zeros(2), np.array([[1, rho], [rho, 1]])
    narrow, wide = exact.mixed_optimum(cov, 0.0, "diagonal"), exact.mixed_optimum(cov, 1.0, "diagonal")
    assert np.diag(narrow) == pytest.approx(reverse)
    assert np.array_equal(wide, exact.restrict(cov, "diagonal"))
    assert exact.kl_gaussians(zero, narrow, zero, cov) == pytest.approx(-0.5 * math.log(1 - rho**2))
    assert exact.kl_gaussians(zero, cov, zero, wide) == pytest.approx(kl, abs=1e-6)
    assert exact.kl_gaussians(zero, cov, zero, narrow) == pytest.approx(crossed, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_isotropic_optima(seed: int, dim: int) -> None:
    cov = random_covariance(np.random.default_rng(seed), dim)
    forward, reverse = exact.mixed_optimum(cov, 1, "isotropic"), exact.mixed_optimum(cov, 0, "isotropic")
    assert forward[0, 0] == pytest.approx(np.trace(cov) / dim)
    assert reverse[0, 0] == pytest.approx(dim / np.trace(np.linalg.inv(cov)))
    assert np.array_equal(exact.mixed_optimum(cov, 0.3, "full"), cov)


def test_moments_of_a_mixture() -> None:
    rng = np.random.default_rng(3)
    weights, means = np.array([2.0, 1.0, 1.0]), rng.normal(size=(3, 2))
    covariances = np.stack([random_covariance(rng, 2) for _ in range(3)])
    draws = np.concatenate(
        [rng.multivariate_normal(m, c, int(200_000 * w)) for w, m, c in zip(weights, means, covariances, strict=True)]
    )
    mean, covariance = exact.mixture_moments(weights, means, covariances)
    assert mean == pytest.approx(draws.mean(axis=0), abs=0.02)
    assert covariance == pytest.approx(np.cov(draws.T), rel=0.02, abs=0.02)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 4), st.floats(0.5, 30))
def test_entropies(seed: int, dim: int, df: float) -> None:
    cov = random_covariance(np.random.default_rng(seed), dim)
    assert exact.entropy_gaussian(cov) == pytest.approx(stats.multivariate_normal(cov=cov).entropy(), rel=1e-9)
    heavy = stats.multivariate_t(np.zeros(dim), cov, df=df)
    assert exact.entropy_student_t(df, cov) == pytest.approx(float(heavy.entropy()), rel=1e-8)


@pytest.mark.parametrize(("df", "scale", "mean", "sd"), [(3, 1, 0, 1.7), (5, 2, -1, 0.8), (2.5, 0.3, 0.2, 2)])
def test_forward_kl_of_a_student_t(df: float, scale: float, mean: float, sd: float) -> None:
    p, q = stats.t(df, scale=scale), stats.norm(mean, sd)
    split = [
        integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), a, b, limit=500, epsabs=1e-12)[0]
        for a, b in ((-np.inf, -50), (-50, 0), (0, 50), (50, np.inf))
    ]
    found = exact.forward_kl_student_t(df, np.array([[scale**2]]), np.array([mean]), np.array([[sd**2]]))
    assert found == pytest.approx(sum(split), abs=1e-6)
    assert math.isinf(exact.forward_kl_student_t(2.0, np.eye(1), np.zeros(1), np.eye(1)))


@pytest.mark.parametrize("df", [1.0, 2.0, 4.5, 30.0])
def test_reverse_kl_to_a_student_t(df: float) -> None:
    p = stats.t(df, scale=1.3)

    z = np.linspace(-12, 12, 4001)  # the trapezoidal rule is exact to rounding for what is this smooth

    def by_quadrature(ratio: float) -> float:
        log_q = stats.norm.logpdf(z) - math.log(1.3 * ratio)
        return float((stats.norm.pdf(z) * (log_q - p.logpdf(1.3 * ratio * z))).sum() * (z[1] - z[0]))

    assert exact.reverse_kl_student_t(0.8, df, 1) == pytest.approx(by_quadrature(0.8), abs=1e-8)
    best = optimize.minimize_scalar(by_quadrature, bounds=(0.3, 3), method="bounded", options={"xatol": 1e-9})
    assert exact.reverse_optimum_student_t(df, 1) == pytest.approx(best.x, abs=1e-5)


def test_reverse_kl_to_a_student_t_in_two_dimensions() -> None:
    steps = np.linspace(-9, 9, 361)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1)
    p, q = (
        stats.multivariate_t(np.zeros(2), np.eye(2), df=3),
        stats.multivariate_normal(np.zeros(2), 1.21 * np.eye(2)),
    )
    value = (q.pdf(grid) * (q.logpdf(grid) - p.logpdf(grid))).sum() * (steps[1] - steps[0]) ** 2
    assert exact.reverse_kl_student_t(1.1, 3.0, 2) == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize(
    ("dim", "neck", "rest", "elbo"),
    [
        (10, 0.216867, 0.897238, -1.862847),
        (2, 1.636364, 0.441233, -0.852374),
    ],
)
def test_the_funnels_mean_field_optimum(dim: int, neck: float, rest: float, elbo: float) -> None:
    found = exact.funnel_mean_field(dim)
    assert (found.neck, found.rest, found.elbo) == pytest.approx((neck, rest, elbo), abs=1e-6)

    def minus_elbo(x: np.ndarray) -> float:
        mean, log_s, log_t = x
        s2, t2 = math.exp(2 * log_s), math.exp(2 * log_t)
        of_neck = stats.norm(0, 3).logpdf(0) - (mean**2 + s2) / 18
        of_rest = -0.5 * math.log(2 * math.pi) - 0.5 * mean - 0.5 * t2 * math.exp(-mean + s2 / 2)
        entropies = log_s + (dim - 1) * log_t + 0.5 * dim * math.log(2 * math.pi * math.e)
        return -(of_neck + (dim - 1) * of_rest + entropies)

    best = optimize.minimize(minus_elbo, [0.3, 0.1, 0.1], method="BFGS", options={"gtol": 1e-8})
    assert -best.fun == pytest.approx(found.elbo, abs=1e-9)
    assert best.x == pytest.approx([0, 0.5 * math.log(found.neck), 0.5 * math.log(found.rest)], abs=1e-5)


def test_collapse_invoice() -> None:
    assert exact.collapse_invoice(40, 1) == pytest.approx(3.688879, abs=1e-6)
    assert exact.collapse_invoice(40, 39) == pytest.approx(0.025318, abs=1e-6)
    assert exact.collapse_invoice(8, 8) == 0
    with pytest.raises(ValueError, match="from 1 to the 3 modes, got 4"):
        exact.collapse_invoice(3, 4)


@pytest.mark.parametrize(("heavy", "value"), [(1, 0.25), (2, 0.29630), (4, 0.32768), (9, 0.34868), (39, 0.36323)])
def test_the_light_mode_threshold(heavy: int, value: float) -> None:
    threshold = exact.light_mode_threshold(heavy)
    assert threshold == pytest.approx(value, abs=1e-5)

    def gain(light: float) -> float:
        """What keeping the light mode too saves, in reverse KL between the weights."""
        p = np.append(np.ones(heavy), light) / (heavy + light)
        without = np.mean(np.log(1 / heavy / p[:-1]))
        return float(without - np.mean(np.log(1 / (heavy + 1) / p)))

    assert gain(threshold) == pytest.approx(0, abs=1e-12)
    assert gain(threshold * 1.01) > 0 > gain(threshold * 0.99)
