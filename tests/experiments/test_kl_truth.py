"""Fits at the settings that a user would choose, against moments, quadrature and scipy's optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import integrate, optimize, stats
from scipy.special import logsumexp

from experiments.experiment import Outcome
from experiments.kl_fit import KL_FIT, Params
from experiments.targets import Mixture, named

FAMILIES = ("gaussian_isotropic", "gaussian_diagonal", "gaussian_full")


def random_mixture(seed: int, dim: int, modes: int) -> Mixture:
    """Of no special shape: unequal weights, correlated components some widths apart."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(modes, dim, dim)) * 0.4 / math.sqrt(dim) + np.eye(dim) * rng.uniform(
        0.5, 1.5, (modes, 1, 1)
    )
    means = rng.normal(size=(modes, dim)) * 2
    return Mixture(f"random{seed}", rng.dirichlet(np.full(modes, 4.0)), means, factors @ factors.transpose(0, 2, 1))


def mixture_on_a_line(weights: Sequence[float], means: Sequence[float]) -> Mixture:
    """Of unit Gaussians."""
    return Mixture("on a line", np.array(weights), np.array(means)[:, None], np.ones((len(means), 1, 1)))


def fitted(target: Mixture, seeds: Sequence[int] = (0,), **params: Any) -> list[Outcome]:
    """Fits of one target, stacked; every one must have ended well."""
    chosen = Params(target=target.name, **params)
    KL_FIT.check(chosen, target)
    cells = [SimpleNamespace(params=chosen, target=target, seed=seed) for seed in seeds]
    outcomes = KL_FIT.run_batch(cells, "cpu")
    assert [outcome.status for outcome in outcomes] == ["ok"] * len(seeds)
    return outcomes


def log_density(target: Mixture, x: np.ndarray) -> np.ndarray:
    """By scipy, ``(n, D) -> (n,)``."""
    parts = [
        math.log(w) + np.atleast_1d(stats.multivariate_normal(m, s).logpdf(x))
        for w, m, s in zip(target.weights, target.means, target.covariances, strict=True)
    ]
    return logsumexp(parts, axis=0)


def within(covariance: np.ndarray, family: str) -> np.ndarray:
    """The covariance that the family can have and that minimises forward KL."""
    if family == "gaussian_isotropic":
        return np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    return np.diag(np.diag(covariance)) if family == "gaussian_diagonal" else covariance


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2, 5, 10, 20])
def test_forward_kl_matches_moments(family: str, dim: int) -> None:
    for seed in range(2):
        target = random_mixture(100 * dim + seed, dim, 2 + seed)
        (outcome,) = fitted(target, divergence="forward_kl", family=family)
        moments = target.weights @ target.means
        away = target.means - moments
        covariance = np.einsum("k,kij->ij", target.weights, target.covariances + away[:, :, None] * away[:, None, :])
        deviation = np.sqrt(np.diag(covariance))
        assert np.abs(outcome.mean - moments).max() < 0.02 * deviation.max()
        best = within(covariance, family)
        excess = 0.5 * (
            np.trace(np.linalg.solve(outcome.covariance, best))
            - dim
            + np.linalg.slogdet(outcome.covariance)[1]
            - np.linalg.slogdet(best)[1]
            + (moments - outcome.mean) @ np.linalg.solve(outcome.covariance, moments - outcome.mean)
        )
        assert 0 <= excess < 0.01  # nats above the optimum; exact, because best has P's moments


def hermite(dim: int, nodes: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Nodes ``(n, D)`` and weights of the standard normal."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / math.sqrt(2 * math.pi)
    grid = np.stack(np.meshgrid(*[z] * dim, indexing="ij"), -1).reshape(-1, dim)
    weights = np.prod(np.stack(np.meshgrid(*[w] * dim, indexing="ij"), -1).reshape(-1, dim), axis=1)
    return grid, weights


def reverse_kl(target: Mixture, nodes: tuple[np.ndarray, np.ndarray]) -> Callable[[np.ndarray, np.ndarray], float]:
    """KL(Q || P) of ``(mean, lower)``, by Gauss-Hermite quadrature over Q."""
    z, w = nodes

    def value(mean: np.ndarray, lower: np.ndarray) -> float:
        entropy = 0.5 * len(mean) * math.log(2 * math.pi * math.e) + np.log(np.abs(np.diag(lower))).sum()
        return float(-entropy - w @ log_density(target, mean + z @ lower.T))

    return value


@cache
def lower_entries(dim: int, family: str) -> tuple[tuple[int, int], ...]:
    rows = [(i, j) for i in range(dim) for j in range(i + 1)]
    return tuple(rows if family == "gaussian_full" else [(i, i) for i in range(dim)])


def local_optimum(target: Mixture, family: str, outcome: Outcome) -> tuple[np.ndarray, float]:
    """Where scipy's optimiser goes from a fit: mean and KL(Q || P)."""
    dim = target.dim
    kl = reverse_kl(target, hermite(dim, 120))
    entries = lower_entries(dim, family)

    def unpack(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lower = np.zeros((dim, dim))
        if family == "gaussian_isotropic":
            return theta[:dim], np.eye(dim) * math.exp(theta[dim])
        for (i, j), value in zip(entries, theta[dim:], strict=True):
            lower[i, j] = math.exp(value) if i == j else value
        return theta[:dim], lower

    start = np.linalg.cholesky(outcome.covariance)
    if family == "gaussian_isotropic":
        free = [math.log(start[0, 0])]
    else:
        free = [math.log(start[i, j]) if i == j else start[i, j] for i, j in entries]
    found = optimize.minimize(lambda t: kl(*unpack(t)), np.concatenate([outcome.mean, free]), method="BFGS", tol=1e-7)
    return unpack(found.x)[0], float(found.fun)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2])
def test_reverse_kl_finds_a_local_optimum(family: str, dim: int) -> None:
    for seed in range(3):
        target = random_mixture(7 * dim + seed, dim, 2 + seed % 2)
        init = ("wide", "random", "mode:0")[seed]
        (outcome,) = fitted(target, divergence="reverse_kl", family=family, init=init)
        mean, value = local_optimum(target, family, outcome)
        deviation = np.sqrt(np.diag(np.cov(target.means.T, aweights=target.weights, bias=True).reshape(dim, dim)) + 1)
        assert np.abs(outcome.mean - mean).max() < 0.02 * deviation.max()
        kl = reverse_kl(target, hermite(dim, 120))
        own = kl(outcome.mean, np.linalg.cholesky(outcome.covariance))
        assert -1e-4 < own - value < 0.01
        assert outcome.metrics["reverse_kl"] == pytest.approx(own, abs=1e-4 + 4 * outcome.metrics["reverse_kl_se"])


@pytest.mark.parametrize("dim", [5, 20])
def test_reverse_kl_in_many_dimensions(dim: int) -> None:
    """A Gaussian's optima are known: its own, 1 / precision on the diagonal, D / tr(precision)."""
    target = random_mixture(dim, dim, 1)
    precision = np.linalg.inv(target.covariances[0])
    known = {
        "gaussian_full": target.covariances[0],
        "gaussian_diagonal": np.diag(1 / np.diag(precision)),
        "gaussian_isotropic": np.eye(dim) * dim / np.trace(precision),
    }
    for family, covariance in known.items():
        (outcome,) = fitted(target, divergence="reverse_kl", family=family)
        assert np.abs(outcome.mean - target.means[0]).max() < 0.02 * math.sqrt(target.covariances[0].max())

        def kl(q: np.ndarray, mean: np.ndarray) -> float:
            away = mean - target.means[0]
            logs = np.linalg.slogdet(target.covariances[0])[1] - np.linalg.slogdet(q)[1]
            return float(0.5 * (np.trace(precision @ q) - dim + logs + away @ precision @ away))

        best, own = kl(covariance, target.means[0]), kl(outcome.covariance, outcome.mean)
        assert 0 <= own - best + 1e-12 < 0.01
        assert outcome.metrics["reverse_kl"] == pytest.approx(own, abs=1e-6 + 5 * outcome.metrics["reverse_kl_se"])


@pytest.mark.parametrize("dim", [2, 5, 20])
def test_reported_numbers_are_those_of_scipy(dim: int) -> None:
    """KLs, coverage and sharpness of a fit, by other draws and another density code."""
    target = random_mixture(50 + dim, dim, 3)
    (outcome,) = fitted(target, divergence="reverse_kl", family="gaussian_full", init="mode:1", steps=300)
    rng, n = np.random.default_rng(0), 100_000
    of_p = np.concatenate(
        [
            rng.multivariate_normal(m, s, count)
            for count, m, s in zip(rng.multinomial(n, target.weights), target.means, target.covariances, strict=True)
        ]
    )
    q = stats.multivariate_normal(outcome.mean, outcome.covariance)
    of_q = rng.multivariate_normal(outcome.mean, outcome.covariance, n)
    ratio_p, ratio_q = log_density(target, of_p) - q.logpdf(of_p), q.logpdf(of_q) - log_density(target, of_q)
    radius = stats.chi2.ppf(0.95, dim)
    distance = ((of_p - outcome.mean).T * np.linalg.solve(outcome.covariance, (of_p - outcome.mean).T)).sum(axis=0)
    level = np.quantile(log_density(target, of_p), 0.05)
    expected = {
        "forward_kl": ratio_p,
        "reverse_kl": ratio_q,
        "coverage": (distance <= radius) / 0.95,
        "sharpness": (log_density(target, of_q) >= level) / 0.95,
    }
    for name, values in expected.items():
        error = math.hypot(values.std() / math.sqrt(n), outcome.metrics[f"{name}_se"])
        # The level of P's region is itself estimated, by both.
        slack = 0.005 if name == "sharpness" else 1e-9
        mean = values.mean() if name.endswith("_kl") else min(values.mean(), 1.0)
        assert outcome.metrics[name] == pytest.approx(mean, abs=4 * error + slack), name


@pytest.mark.parametrize("m", [1.0, 2.0, 3.0, 4.0])
def test_two_modes_in_closed_form_and_by_quadrature(m: float) -> None:
    """P = (N(-m, 1) + N(m, 1)) / 2: forward sd is sqrt(1 + m^2); reverse optima as quadrature has them."""
    target = Mixture("two", np.array([0.5, 0.5]), np.array([[-m], [m]]), np.ones((2, 1, 1)))
    forward = {1.0: 0.009743, 2.0: 0.171999, 3.0: 0.461995, 4.0: 0.723553}
    covering = {1.0: (1.39373, 0.010888), 2.0: (2.04701, 0.226508), 3.0: (2.74377, 0.840621), 4.0: (3.47272, 1.871197)}
    seeking = {3.0: (2.98431, 1.02337, 0.688769), 4.0: (3.99960, 1.00080, 0.693053)}
    (outcome,) = fitted(target, divergence="forward_kl")
    assert math.sqrt(outcome.covariance[0, 0]) == pytest.approx(math.sqrt(1 + m * m), rel=0.02)
    assert outcome.metrics["forward_kl"] == pytest.approx(forward[m], abs=0.002)
    (outcome,) = fitted(target, divergence="reverse_kl", init="wide")
    assert outcome.mean[0] == pytest.approx(0, abs=0.1)
    assert math.sqrt(outcome.covariance[0, 0]) == pytest.approx(covering[m][0], rel=0.02)
    assert outcome.metrics["reverse_kl"] == pytest.approx(covering[m][1], abs=0.002)
    if m in seeking:
        (outcome,) = fitted(target, divergence="reverse_kl", init="mode:1")
        assert outcome.mean[0] == pytest.approx(seeking[m][0], rel=0.01)
        assert math.sqrt(outcome.covariance[0, 0]) == pytest.approx(seeking[m][1], rel=0.02)
        assert outcome.metrics["reverse_kl"] == pytest.approx(seeking[m][2], abs=0.001)


def test_bimodal_is_what_the_readme_says() -> None:
    target = named.target("bimodal")
    for outcome in fitted(target, range(4), divergence="forward_kl"):
        assert outcome.metrics["coverage"] == pytest.approx(1.0, abs=0.001)
        assert outcome.metrics["sharpness"] == pytest.approx(0.497, abs=0.002)
    for outcome in fitted(target, range(4), divergence="reverse_kl", init="mode:0"):
        assert f"{outcome.metrics['coverage']:.2f} {outcome.metrics['sharpness']:.2f}" == "0.50 1.00"


def test_one_dimension_is_quadrature() -> None:
    """Every metric of a random fit in 1-D, by scipy.integrate."""
    target = random_mixture(3, 1, 3)
    (outcome,) = fitted(target, divergence="reverse_kl", init="random", steps=200)
    mean, sd = float(outcome.mean[0]), math.sqrt(outcome.covariance[0, 0])
    q = stats.norm(mean, sd)

    def log_p(x: float) -> float:
        return float(log_density(target, np.array([[x]]))[0])

    def integral(f: Callable[[float], float], low: float = -25.0, high: float = 25.0) -> float:
        return float(integrate.quad(f, low, high, limit=500, epsabs=1e-10)[0])

    half = sd * math.sqrt(stats.chi2.ppf(0.95, 1))
    grid = np.linspace(-25, 25, 200_001)
    dense = np.exp(log_density(target, grid[:, None]))
    order = np.sort(dense)[::-1]
    level = order[np.searchsorted(np.cumsum(order) * (grid[1] - grid[0]), 0.95)]
    inside = (dense >= level) * q.pdf(grid)

    def of_mixture(x: float) -> float:
        m = np.logaddexp(log_p(x), q.logpdf(x)) - math.log(2)
        return 0.5 * math.exp(log_p(x)) * (log_p(x) - m) + 0.5 * q.pdf(x) * (q.logpdf(x) - m)

    expected = {
        "forward_kl": integral(lambda x: math.exp(log_p(x)) * (log_p(x) - q.logpdf(x))),
        "reverse_kl": integral(lambda x: q.pdf(x) * (q.logpdf(x) - log_p(x)), mean - 12 * sd, mean + 12 * sd),
        "jensen_shannon": integral(of_mixture),
        "coverage": min(1.0, integral(lambda x: math.exp(log_p(x)), mean - half, mean + half) / 0.95),
        "entropy_gap": float(q.entropy()) + integral(lambda x: math.exp(log_p(x)) * log_p(x)),
    }
    for name, value in expected.items():
        assert outcome.metrics[name] == pytest.approx(value, abs=1e-6), name
        assert outcome.metrics.get(f"{name}_se", 0) == 0
    assert outcome.metrics["sharpness"] == pytest.approx(min(1, inside.sum() * (grid[1] - grid[0]) / 0.95), abs=2e-4)
    for direction in ("forward", "reverse"):
        nats = (outcome.metrics[f"{direction}_{part}_nats"] for part in ("coverage", "shape"))
        assert sum(nats) == pytest.approx(outcome.metrics[f"{direction}_kl"], abs=1e-6)


@pytest.mark.parametrize(("name", "value"), [("grid25", 4.852343), ("gmm40", 2.1861), ("multimodal", None)])
@pytest.mark.parametrize("init", ["narrow", "random", "mode:0"])
def test_forward_kl_arrives_from_anywhere(name: str, value: float | None, init: str) -> None:
    target = named.target(name)
    (outcome,) = fitted(target, divergence="forward_kl", init=init)
    assert outcome.covariance == pytest.approx(target.covariance, rel=0.05, abs=0.05 * target.covariance.max())
    if value:
        assert outcome.metrics["forward_kl"] == pytest.approx(value, abs=0.01 + 4 * outcome.metrics["forward_kl_se"])


@pytest.mark.parametrize(
    ("target", "samples", "divergence"),
    [
        (mixture_on_a_line([0.999, 0.001], [0.0, 50.0]), 256, "forward_kl"),
        (named.target("unimodal"), 1, "forward_kl"),
        (named.target("unimodal"), 1, "reverse_kl"),
    ],
    ids=["a light mode far away", "one draw a step, of P", "one draw a step, of Q"],
)
def test_noise_of_skewed_gradients_does_not_move_the_optimum(target: Mixture, samples: int, divergence: str) -> None:
    """A step's gradient is skewed where few of its draws matter; fits must come to rest at the exact width."""
    outcomes = fitted(target, range(16), divergence=divergence, samples=samples, steps=2000)
    away = target.means[:, 0] - target.weights @ target.means[:, 0]
    exact = math.sqrt(target.weights @ (target.covariances[:, 0, 0] + away**2))
    widths = np.sqrt([outcome.covariance[0, 0] for outcome in outcomes])
    error = widths.std(ddof=1) / math.sqrt(len(widths))
    assert error < 0.02 * exact
    assert abs(widths.mean() - exact) < 4 * error
