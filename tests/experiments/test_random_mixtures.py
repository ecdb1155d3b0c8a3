"""Random mixtures in 1, 2, 5 and 20 dimensions: stated standard errors are the true ones, and fits have no bias."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
import torch
from scipy import integrate

from experiments.closed_forms import kl_gaussians, mixed_optimum
from experiments.metrics.density import Measure, evaluate
from experiments.randomness import generators
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture
from experiments.verification import independent
from experiments.verification.independent import Mix, normal, random_mixture
from experiments.verification.machinery import mixture
from tests.experiments.test_kl_truth import fitted

REPEATS, DRAWS = 192, 2000
ESTIMATED = (
    *("forward_kl", "reverse_kl", "jensen_shannon", "coverage", "sharpness", "entropy_gap"),
    *("reverse_coverage_nats", "reverse_shape_nats"),
)


def beside(p: Mix, fit: str) -> Mix:
    """A Gaussian that keeps one mode, or covers all."""
    if fit == "one mode":
        return normal(np.array(p.means[0]), 1.1 * np.array(p.scales[0]))
    return normal(*p.moments())


@cache
def repeated(dim: int, fit: str) -> tuple[Mapping[str, float], ...]:
    """The metrics of one fit, by as many independent sets of draws."""
    p = random_mixture(50 + dim, dim, 3)
    targets = [mixture("p", p)] * REPEATS
    fits = StackedMixture.stack([mixture("q", beside(p, fit))] * REPEATS, torch.float64)
    of_p = StackedMixture.stack(targets, torch.float64).draw(DRAWS, generators(range(REPEATS), "data"))
    of_q = fits.draw(DRAWS, generators(range(REPEATS), "evaluation"))
    measures = [Measure.of_draws(x, fits.log_prob(x)) for x in (of_p, of_q)]
    return tuple(found.metrics for found in evaluate(targets, *measures))


@pytest.mark.parametrize("name", ESTIMATED)
@pytest.mark.parametrize("fit", ["one mode", "moments"])
@pytest.mark.parametrize("dim", [1, 2, 5, 20])
def test_stated_errors_are_what_repetition_shows(dim: int, fit: str, name: str) -> None:
    values, errors = (np.array([m[key] for m in repeated(dim, fit)]) for key in (name, f"{name}_se"))
    if name in ("coverage", "sharpness") and (values > 0.99).any():
        assert (values <= 1).all()  # at most 1, and so of less spread than is stated
        assert values.std() <= 1.1 * errors.max()
        return
    # The spread of 192 values is known to 5 %; four times that, so that a factor of sqrt(2) is seen either way.
    assert values.std(ddof=1) / math.sqrt((errors**2).mean()) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("fit", ["one mode", "moments"])
@pytest.mark.parametrize("dim", [1, 2, 5, 20])
def test_estimates_have_no_bias_beyond_their_error(dim: int, fit: str) -> None:
    p = random_mixture(50 + dim, dim, 3)
    known = independent.by_draws(p, beside(p, fit), seed=1)
    for name in ("forward_kl", "reverse_kl", "jensen_shannon", "coverage", "sharpness"):
        value, error = getattr(known, name)
        values = np.array([m[name] for m in repeated(dim, fit)])
        if values.max() == 1.0:  # where it is cut at 1, the mean lies below
            continue
        own = values.std(ddof=1) / math.sqrt(REPEATS)
        assert abs(values.mean() - value) < 4 * math.hypot(own, error) + 1e-3 * abs(value), name


@pytest.mark.parametrize("dim", [1, 2, 5, 20])
def test_draws_agree_with_quadrature_or_add_up(dim: int) -> None:
    """In one dimension the draws' numbers are those of Simpson's rule; the accounts add up in any."""
    for fit in ("one mode", "moments"):
        for m in repeated(dim, fit)[:4]:
            for way in ("forward", "reverse"):
                parts = m[f"{way}_coverage_nats"] + m[f"{way}_shape_nats"]
                assert parts == pytest.approx(m[f"{way}_kl"], abs=1e-9)
    if dim == 1:
        p = random_mixture(51, 1, 3)
        q = beside(p, "moments")
        exact = {"forward_kl": independent.kl(p, q), "reverse_kl": independent.kl(q, p)}
        for name, value in exact.items():
            mean = np.mean([m[name] for m in repeated(1, "moments")])
            error = math.sqrt(np.mean([m[f"{name}_se"] ** 2 for m in repeated(1, "moments")]) / REPEATS)
            assert abs(mean - value) < 4 * error, name


@pytest.mark.parametrize(
    ("divergence", "init", "mean", "sd"),
    [
        ("forward_kl", "wide", 0.0, math.sqrt(10)),
        ("reverse_kl", "mode:1", 2.98431, 1.02337),
        ("reverse_kl", "wide", 0.0, 2.74377),
    ],
)
def test_fits_scatter_around_the_optimum(divergence: str, init: str, mean: float, sd: float) -> None:
    """Over 64 seeds neither mean nor width leans to a side: what a fit leaves is noise."""
    two = Mixture("two", np.full(2, 0.5), np.array([[-3.0], [3.0]]), np.ones((2, 1, 1)))
    outcomes = fitted(two, range(64), divergence=divergence, init=init)
    places = np.array([float(o.mean[0]) for o in outcomes])
    widths = np.array([0.5 * math.log(o.covariance[0, 0]) for o in outcomes])
    for values, known in ((places, mean), (widths, math.log(sd))):
        error = values.std(ddof=1) / math.sqrt(len(values))
        # Second order: curvature turns the noise of 256 samples into a lean of its square.
        assert abs(values.mean() - known) < 4 * error + values.var()
        assert values.std() < 0.02 * max(1.0, sd)


def test_alpha_divergences_of_gaussians_in_closed_form() -> None:
    r"""Of N(0, I) and N(m, s^2 I): :math:`\int p^a q^{1-a}` is a Gaussian integral."""
    for alpha in (0.3, 0.5, 0.8):
        p, q = Mix.line([1], [0], [1]), Mix.line([1], [0.7], [1.6])
        precision = alpha + (1 - alpha) / 1.6**2
        shift = (1 - alpha) * 0.7 / 1.6**2
        log_norm = -(1 - alpha) * math.log(1.6) - 0.5 * math.log(precision)
        overlap = math.exp(log_norm + 0.5 * (shift**2 / precision - (1 - alpha) * 0.49 / 1.6**2))
        exact = (1 - overlap) / (alpha * (1 - alpha))
        assert independent.alpha_divergence(p, q, alpha) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("dim", [20, 100])
@pytest.mark.parametrize("condition", [1e2, 1e8])
def test_closed_forms_where_covariances_are_ill_conditioned(dim: int, condition: float) -> None:
    """In the eigenvectors' frame every number is a sum over one-dimensional ones."""
    rng = np.random.default_rng(dim)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    variances = np.geomspace(1 / math.sqrt(condition), math.sqrt(condition), dim)
    factors = rng.uniform(0.5, 2.0, dim)
    shift = rng.normal(size=dim) * np.sqrt(variances)
    cov_p, cov_q = ((turn * v) @ turn.T for v in (variances, variances * factors))
    exact = 0.5 * float((factors - 1 - np.log(factors) + shift**2 / variances).sum())
    found = kl_gaussians(turn @ shift, 0.5 * (cov_q + cov_q.T), np.zeros(dim), 0.5 * (cov_p + cov_p.T))
    assert found == pytest.approx(exact, rel=1e-14 * condition + 1e-12)


@pytest.mark.parametrize("shape", ["isotropic", "diagonal"])
@pytest.mark.parametrize("dim", [2, 5, 20])
def test_no_neighbour_of_a_restricted_optimum_is_better(dim: int, shape: str) -> None:
    """Reverse and forward optima of random Gaussians, against random moves within the family."""
    rng = np.random.default_rng(dim)
    factor = rng.normal(size=(dim, dim + 2))
    covariance = factor @ factor.T / dim
    zero = np.zeros(dim)
    for weight in (0.0, 0.5, 1.0):
        best = mixed_optimum(covariance, weight, shape)  # type: ignore[arg-type]

        def value(own: np.ndarray, weight: float = weight) -> float:
            forward, reverse = kl_gaussians(zero, covariance, zero, own), kl_gaussians(zero, own, zero, covariance)
            return weight * forward + (1 - weight) * reverse

        for _ in range(20):
            moves = np.exp(0.05 * rng.normal(size=1 if shape == "isotropic" else dim))
            assert value(best * np.diag(moves * np.ones(dim))) >= value(best) - 1e-12


@pytest.mark.parametrize("df", [3.0, 5.0])
@pytest.mark.parametrize("dim", [2, 5])
def test_reverse_fits_to_student_t_targets_in_space(df: float, dim: int) -> None:
    """The optimum is c^2 times the scale matrix; c by an integral over the radius."""
    rng = np.random.default_rng(dim)
    factor = np.eye(dim) + 0.3 * rng.normal(size=(dim, dim))
    scale = factor @ factor.T
    radius = np.linspace(1e-9, 14, 4001)
    weight = radius ** (dim - 1) * np.exp(-0.5 * radius**2)
    weight /= integrate.simpson(weight, x=radius)
    ratios = np.linspace(0.8, 1.6, 1601)
    pulled = [integrate.simpson(weight * np.log1p((c * radius) ** 2 / df), x=radius) for c in ratios]
    values = 0.5 * (df + dim) * np.array(pulled) - dim * np.log(ratios)
    best = float(ratios[values.argmin()])
    heavy = Mixture("heavy", np.ones(1), np.zeros((1, dim)), scale[None], df)
    (outcome,) = fitted(heavy, divergence="reverse_kl")
    relative = np.linalg.solve(best**2 * scale, outcome.covariance)
    assert float(np.trace(relative)) / dim == pytest.approx(1.0, abs=0.03)
    excess = 0.5 * (np.trace(relative) - dim - np.linalg.slogdet(relative)[1])
    assert 0 <= excess < 0.01
