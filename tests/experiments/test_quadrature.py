"""Landmarks and panels of one-dimensional mixtures: closed forms, and what they must withstand."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from experiments.metrics import landmarks
from experiments.metrics.density import Evaluation, evaluate
from experiments.metrics.quadrature import mixture_quadrature, quadrature
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture
from experiments.targets.definition import LEAST_DF, define


def equal(means: np.ndarray, sd: float = 1.0) -> Mixture:
    m = len(means)
    return Mixture("equal", np.full(m, 1 / m), means[:, None], np.full((m, 1, 1), sd**2))


def test_many_components_need_little_memory() -> None:
    """All places at once would take 0.35 GB. 16 widths apart, the landmarks are those of each component alone."""
    target = equal(16.0 * np.arange(192))
    tracemalloc.start()
    found = landmarks.fresh_landmarks(target)
    borders = found.borders
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5e8
    assert borders == pytest.approx(16 * np.arange(191) + 8.0, abs=1e-9)
    half = stats.norm.ppf(0.975)
    assert found.ends == pytest.approx((16 * np.arange(192)[:, None] + [-half, half]).ravel(), abs=1e-9)
    assert found.level == pytest.approx(stats.norm.logpdf(half) - math.log(192), abs=1e-12)


def test_densities_are_taken_at_some_nodes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And borders of targets alone: a fit's are M^3 numbers that nobody reads."""
    sizes, bordered = [], []
    log_prob, borders = StackedMixture.log_prob, landmarks._borders

    def watched(self: StackedMixture, x: torch.Tensor) -> torch.Tensor:
        sizes.append(x.shape[2])
        return log_prob(self, x)

    monkeypatch.setattr(StackedMixture, "log_prob", watched)
    monkeypatch.setattr(landmarks, "_borders", lambda of: bordered.append(of.modes) or borders(of))
    target, fit = equal(7.0 * np.arange(3) + 0.123), equal(3.0 * np.arange(64))
    p, q, *_ = mixture_quadrature([target], [fit])
    quadrature([target], np.zeros(1), np.ones(1))
    assert max(sizes) <= 512 < p.x.shape[2]
    assert bordered == [3]
    assert (float(p.weight.sum()), float(q.weight.sum())) == pytest.approx((1, 1), abs=1e-9)


def crowded(kind: str) -> Mixture:
    if kind == "evenly spaced":  # i and i + 1 meet where i - 1 and i + 2 do
        return equal(0.1 * (np.arange(32) - 15.5), 0.01)
    # Any two of almost the same meet within 1e-6 nats of all others.
    return equal(1e-5 * np.random.default_rng(0).standard_normal(32))


@pytest.mark.parametrize("kind", ["evenly spaced", "almost one"])
def test_modes_that_meet_at_one_point(kind: str) -> None:
    """Masses of the cells and of the region by the normal distribution function, a KL by the trapezoidal rule."""
    target, low, high = crowded(kind), -9.0, 9.0
    fit = Mixture("fit", np.array([0.4, 0.6]), np.array([[-0.3], [0.4]]), np.array([[[1.0]], [[0.5]]]))
    p, q, level, _ = mixture_quadrature([target], [fit])
    gaussian = quadrature([target], np.zeros(1), np.ones(1))[0]
    for measure in (p, gaussian):
        inside = measure.weight[StackedMixture.stack([target], torch.float64).log_prob(measure.x) >= level[:, None]]
        assert float(measure.weight.sum()) == pytest.approx(1, abs=1e-9)
        assert float(inside.sum()) == pytest.approx(0.95, abs=1e-9)
    (found,) = evaluate([target], p, q, level_p=level)
    x = np.linspace(low, high, 40_001)
    log_p, log_q = target.log_prob(x[:, None]), fit.log_prob(x[:, None])
    kl = np.exp(log_q) * (log_q - log_p)
    assert found.metrics["reverse_kl"] == pytest.approx(float(integrate.trapezoid(kl, x)), rel=1e-7)
    if kind == "evenly spaced":
        middle = 0.5 * (target.means[1:, 0] + target.means[:-1, 0])
        sd = np.sqrt(fit.covariances[:, 0, 0])
        below = stats.norm.cdf(middle[:, None], fit.means[:, 0], sd) @ fit.weights
        assert found.modes["fitted_mass"] == pytest.approx(np.diff(below, prepend=0, append=1), abs=1e-9)


@pytest.mark.parametrize("df_q", [3.0, 5.0, 100.0])
@pytest.mark.parametrize("df", [LEAST_DF, 1.5])
def test_the_heaviest_tails_that_a_definition_may_have(df: float, df_q: float) -> None:
    """By the trapezoidal rule in u, x = sinh u, out to 1e130, with scipy's densities."""
    target = define("heavy", {"weights": [1], "means": [[0.0]], "covariances": [[[1.0]]], "df": df}, Path("."))
    assert isinstance(target, Mixture)
    fit = Mixture("fit", np.ones(1), np.array([[0.5]]), np.array([[[4.0]]]), df=df_q)
    p, q, level_p, level_q = mixture_quadrature([target], [fit])
    (found,) = evaluate([target], p, q, level_p=level_p, level_q=level_q, df_q=df_q)
    u = np.linspace(-300, 300, 120_001)
    x = np.sinh(u)
    log_p, log_q = stats.t(df).logpdf(x), stats.t(df_q, loc=0.5, scale=2).logpdf(x)
    log_half = np.logaddexp(log_p, log_q) - math.log(2)
    sides = [np.exp(side + np.logaddexp(u, -u) - math.log(2)) for side in (log_p, log_q)]
    expected = {
        "forward_kl": sides[0] * (log_p - log_q),
        "reverse_kl": sides[1] * (log_q - log_p),
        "jensen_shannon": 0.5 * (sides[0] * (log_p - log_half) + sides[1] * (log_q - log_half)),
        "entropy_gap": sides[0] * log_p - sides[1] * log_q,
    }
    for name, values in expected.items():
        assert found.metrics[name] == pytest.approx(float(integrate.trapezoid(values, u)), abs=1e-7), name
    edge = stats.t(df).ppf(0.975)
    assert float(level_p[0]) == pytest.approx(stats.t(df).logpdf(edge), abs=1e-9)
    assert landmarks.landmarks(target).ends == pytest.approx([-edge, edge], rel=1e-9)


SPLIT = Mixture("split", np.array([0.6, 0.4]), np.array([[0.0], [8.0]]), np.array([[[1.0]], [[0.01]]]))


def log_p_of_split(x: np.ndarray | float) -> np.ndarray:
    return np.logaddexp(math.log(0.6) + stats.norm.logpdf(x), math.log(0.4) + stats.norm.logpdf(x, 8, 0.1))


def of_gaussian(target: Mixture, mean: float, sd: float) -> Evaluation:
    p, q, level = quadrature([target], np.array([mean]), np.array([sd]))
    assert (float(p.weight.sum()), float(q.weight.sum())) == pytest.approx((1, 1), abs=1e-6)
    level_q = torch.tensor([stats.norm.logpdf(stats.norm.ppf(0.975)) - math.log(sd)])
    return evaluate([target], p, q, level_p=level, level_q=level_q)[0]


def of_mixture(target: Mixture, fit: Mixture) -> Evaluation:
    p, q, level_p, level_q = mixture_quadrature([target], [fit])
    assert (float(p.weight.sum()), float(q.weight.sum())) == pytest.approx((1, 1), abs=1e-6)
    return evaluate([target], p, q, level_p=level_p, level_q=level_q, df_q=fit.df)[0]


def narrow(weights: list[float], means: list[float], sd: list[float], df: float | None = None) -> Mixture:
    return Mixture("fit", np.array(weights), np.array(means)[:, None], np.square(sd)[:, None, None], df=df)


@pytest.mark.parametrize("mean", [0.0, -1e-9, 4.1, 8.0, -1234.5, 1e6])
@pytest.mark.parametrize("sd", [1.0, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15, 3e-16, 1e-17, 1e-20, 1e-30, 1e-100])
def test_fits_narrower_than_floats_are_apart(mean: float, sd: float) -> None:
    """KL between Gaussians in closed form; of a mixture -H(Q) - log p(mean), where it is constant."""
    a, b = 0.3, 2.0
    for found in (
        of_gaussian(narrow([1], [a], [b]), mean, sd),
        of_mixture(narrow([1], [a], [b]), narrow([1], [mean], [sd])),
    ):
        reverse = math.log(b / sd) + (sd**2 + (mean - a) ** 2) / (2 * b**2) - 0.5
        forward = math.log(sd / b) + (b**2 + (mean - a) ** 2) / (2 * sd**2) - 0.5
        assert found.metrics["reverse_kl"] == pytest.approx(reverse, rel=1e-6, abs=1e-9)
        assert found.metrics["forward_kl"] == pytest.approx(forward, rel=1e-6)
    if sd > 1e-12:
        return
    found = of_gaussian(SPLIT, mean, sd)
    entropy = stats.norm.entropy() + math.log(sd)
    metrics = found.metrics
    assert metrics["reverse_kl"] == pytest.approx(-entropy - log_p_of_split(mean), rel=1e-8)
    assert metrics["entropy_gap"] == pytest.approx(entropy - SPLIT.entropy[0], rel=1e-8)
    inside = log_p_of_split(mean) >= landmarks.landmarks(SPLIT).level
    assert metrics["sharpness"] == pytest.approx(float(inside), abs=1e-8)
    assert metrics["coverage"] == pytest.approx(
        2 * stats.norm.ppf(0.975) * sd * math.exp(log_p_of_split(mean)) / 0.95, rel=1e-8, abs=1e-300
    )
    assert metrics["jensen_shannon"] == pytest.approx(math.log(2), abs=1e-8)
    needle = mean == 8  # far off it is the wide mode that is the more responsible
    assert found.modes["fitted_mass"] == pytest.approx([float(not needle), float(needle)], abs=1e-8)
    assert math.isnan(metrics["log_width"])  # rounding leaves nothing of its variance


@pytest.mark.parametrize("wide", [0.97, 0.5, 0.02])
@pytest.mark.parametrize("sd", [1e-13, 1e-16, 1e-25])
def test_a_mixture_with_components_narrower_than_floats_are_apart(wide: float, sd: float) -> None:
    """Each narrow one by itself, since no other has mass where it is; the wide one by scipy's quadrature."""
    means, share = [3.0, np.nextafter(3.0, 4) + 1e-9, 8.05], (1 - wide) / 3
    found = of_mixture(SPLIT, narrow([share, wide, share, share], [means[0], 1.0, *means[1:]], [sd, 2.0, sd, 2 * sd]))
    expected = sum(
        share * (math.log(share) - stats.norm.entropy() - math.log(own) - log_p_of_split(mean))
        for mean, own in zip(means, [sd, sd, 2 * sd], strict=True)
    )
    fit = stats.norm(1, 2)

    def integrand(x: float) -> float:
        return float(wide * fit.pdf(x) * (math.log(wide) + fit.logpdf(x) - log_p_of_split(x)))

    expected += integrate.quad(integrand, -19, 21, points=[6, 7.5, 8.5])[0]
    assert found.metrics["reverse_kl"] == pytest.approx(expected, rel=1e-8)
    ends = fit.ppf(0.5 + np.array([-0.5, 0.5]) * max(0, 1 - 0.05 / wide))
    mass = float(np.diff(0.6 * stats.norm.cdf(ends) + 0.4 * stats.norm.cdf(ends, 8, 0.1))[0])
    assert found.metrics["coverage"] == pytest.approx(min(1, mass / 0.95), abs=1e-9)


@pytest.mark.parametrize("sd", [1e-13, 1e-20, 1e-30])
def test_other_fits_narrower_than_floats_are_apart(sd: float) -> None:
    """A Student-t one; and two components at one place, which are one component."""
    student = of_mixture(SPLIT, narrow([1], [4.1], [sd], df=5.0))
    expected = -stats.t(5).entropy() - math.log(sd) - log_p_of_split(4.1)
    assert student.metrics["reverse_kl"] == pytest.approx(expected, rel=1e-9)
    twice = of_mixture(SPLIT, narrow([0.3, 0.7], [4.1, 4.1], [sd, sd]))
    one = of_gaussian(SPLIT, 4.1, sd)
    assert twice.metrics["reverse_kl"] == pytest.approx(one.metrics["reverse_kl"], rel=1e-12)
