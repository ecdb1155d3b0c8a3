"""Densities and entropies of mixtures against scipy, and the table of docs/targets.md against the targets."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from experiments.catalogue import CATALOGUE
from experiments.targets import Mixture, Points
from tests.experiments.test_kl_truth import random_mixture


def log_prob(target: Mixture, x: np.ndarray) -> np.ndarray:
    """By scipy.stats, ``(n, D)`` to ``(n,)``."""
    of = stats.multivariate_normal.logpdf
    if target.df is not None:
        of = lambda x, m, s: stats.multivariate_t.logpdf(x, m, s, df=target.df)  # noqa: E731
    parts = [of(x, m, s) + math.log(w) for w, m, s in zip(*target_parts(target), strict=True)]
    return np.logaddexp.reduce(np.array(parts).reshape(len(parts), -1), axis=0)


def target_parts(target: Mixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return target.weights, target.means, target.covariances


def heavier(target: Mixture, df: float | None) -> Mixture:
    return Mixture("heavier", *target_parts(target), df=df)


@pytest.mark.parametrize("df", [None, 1.5, 7.0])
@pytest.mark.parametrize(("dim", "modes"), [(1, 1), (1, 4), (2, 3), (5, 2)])
def test_densities_are_scipys(dim: int, modes: int, df: float | None) -> None:
    target = heavier(random_mixture(dim + modes, dim, modes), df)
    x = np.concatenate([target.draws(200), 30 * np.random.default_rng(0).standard_normal((50, dim))])
    np.testing.assert_allclose(target.log_prob(x), log_prob(target, x), rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_entropies_on_a_line_are_quadratures(seed: int) -> None:
    target = random_mixture(seed, 1, 2 + seed)
    low, high = target.means.min() - 15, target.means.max() + 15

    def integrand(x: float) -> float:
        log_p = log_prob(target, np.array([[x]]))[0]
        return -math.exp(log_p) * log_p

    known = integrate.quad(integrand, low, high, limit=500, points=sorted(target.means[:, 0]))[0]
    assert target.entropy == (pytest.approx(known, abs=1e-8), 0.0)


@pytest.mark.parametrize("seed", range(6))
def test_entropies_with_needles_are_quadratures(seed: int) -> None:
    """Widths four powers of ten apart, within each other and beside; scipy is led to each component."""
    rng = np.random.default_rng(seed)
    modes = 2 + seed
    means, sd = rng.normal(scale=3, size=modes), 10.0 ** rng.uniform(-3, 1, modes)
    target = Mixture("needles", rng.dirichlet(np.ones(modes)), means[:, None], (sd**2)[:, None, None])

    def integrand(x: float) -> float:
        log_p = log_prob(target, np.array([[x]]))[0]
        return -math.exp(log_p) * log_p

    borders = np.unique((means + np.linspace(-14, 14, 29)[:, None] * sd).ravel())
    known = sum(integrate.quad(integrand, *span, epsabs=1e-12)[0] for span in pairwise(borders))
    assert target.entropy == (pytest.approx(known, abs=1e-10), 0.0)


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_one_gaussian_has_a_closed_form(dim: int) -> None:
    target = random_mixture(dim, dim, 1)
    known = stats.multivariate_normal(target.means[0], target.covariances[0]).entropy()
    assert target.entropy == (pytest.approx(float(known), abs=1e-10), 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_entropies_in_the_plane_are_within_their_error(seed: int) -> None:
    target = random_mixture(seed, 2, 3)
    low, high = target.means.min(axis=0) - 12, target.means.max(axis=0) + 12
    x, y = (np.linspace(a, b, 801) for a, b in zip(low, high, strict=True))
    log_p = log_prob(target, np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    p = np.exp(log_p) * (x[1] - x[0]) * (y[1] - y[0])
    assert p.sum() == pytest.approx(1, abs=1e-6)
    value, error = target.entropy
    assert 0 < error < 0.01
    assert abs(value + p @ log_p) < 4 * error


@pytest.mark.parametrize("df", [2.0, 5.0])
def test_the_entropy_of_heavy_tails_is_scipys(df: float) -> None:
    target = heavier(random_mixture(1, 4, 1), df)
    value, error = target.entropy
    known = stats.multivariate_t(target.means[0], target.covariances[0], df=df).entropy()
    assert abs(value - known) < 4 * error


def test_draws_of_unequal_components_have_the_mixtures_moments() -> None:
    target = random_mixture(3, 3, 4)
    x = target.draws(100_000)
    error = np.sqrt(np.diag(target.covariance) / len(x))
    assert (abs(x.mean(axis=0) - target.mean) < 5 * error).all()
    np.testing.assert_allclose(np.cov(x.T), target.covariance, rtol=0.05, atol=0.05 * error.max() * math.sqrt(len(x)))


def test_the_page_of_targets_says_what_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "targets.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert set(rows) == set(CATALOGUE.target_names)
    for name, row in rows.items():
        target = CATALOGUE.target(name)
        if isinstance(target, Points):
            continue
        dim, modes, entropy, log_z, about = row.split(" | ", 4)
        assert (int(dim), int(modes.replace(",", "")), about) == (target.dim, target.modes, target.about)
        assert float(log_z) == pytest.approx(target.log_z, rel=1e-5)
        if isinstance(target, Mixture) and target.dim > 10:
            continue  # a hundred thousand draws of these take seconds
        value, error = target.entropy
        stated, *stated_error = (float(part) for part in entropy.split(" ± "))
        digits = len(entropy.split(" ± ")[0].split(".")[1])
        assert stated == pytest.approx(value, abs=0.51 * 10**-digits)
        assert stated_error == ([] if error < 5e-5 else [pytest.approx(error, abs=0.51 * 10**-digits)])
