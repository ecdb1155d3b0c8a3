"""Fits and targets at the edge of what points can tell: tails without an integral, needles, modes of a few draws."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from experiments.catalogue import CATALOGUE
from experiments.experiment import Outcome
from experiments.kl_fit import Params, batch, check
from experiments.metrics.landmarks import landmarks
from experiments.targets import Mixture

STAYS: dict[str, Any] = {"init": "wide", "steps": 1, "learning_rate": 1e-9, "dtype": "float64"}
NORMAL = Mixture("normal", np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))


def outcomes(target: Mixture, seeds: int = 1, **given: Any) -> list[Outcome]:
    params = Params(target=target.name, **given)
    cells: list[Any] = [SimpleNamespace(params=params, target=target, seed=seed) for seed in range(seeds)]
    return list(CATALOGUE.experiments["kl_fit"].run_batch(cells, "cpu"))


def on_a_line(weights: list[float], means: list[float], sds: list[float]) -> Mixture:
    return Mixture("line", np.array(weights), np.array(means)[:, None], (np.array(sds) ** 2)[:, None, None])


@pytest.mark.parametrize(("alpha", "sd"), [(-1.0, 1.5), (-0.5, 2.0), (2.0, 0.68), (5.0, 0.85)])
def test_an_alpha_divergence_without_an_integral_is_infinite(alpha: float, sd: float) -> None:
    (found,) = outcomes(NORMAL, divergence="alpha", alpha=alpha, init_scale=sd, **STAYS)
    assert alpha + (1 - alpha) / sd**2 < 0  # the precision of p^alpha q^(1 - alpha)
    assert (found.metrics["objective"], found.metrics["objective_se"]) == (math.inf, 0.0)


@pytest.mark.parametrize("sd", [0.5, 0.68, 0.7, 0.8, 1.0, 2.0])
@pytest.mark.parametrize("family", ["gaussian_full", "gaussian_mixture"])
def test_ess_forward_of_a_normal(sd: float, family: str) -> None:
    (found,) = outcomes(NORMAL, divergence="reverse_kl", init_scale=sd, family=family, components=1, **STAYS)
    precision = 2 - 1 / sd**2  # of p^2 / q
    expected = math.sqrt(precision) / sd if precision > 0 else 0.0
    assert found.metrics["ess_forward"] == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("weights", "means", "sds"),
    [
        ([0.05, 0.95], [-8.0, 6.0], [3e-5, 0.1]),
        ([0.2, 0.5, 0.3], [0.0, 1.0, 2.0], [9.2e-5, 0.0098, 0.094]),
        ([0.5, 0.5], [-1000.0, 1000.0], [1e-3, 1e-3]),
        ([0.3, 0.7], [-1.0, 1.0], [0.5, 0.8]),
    ],
)
def test_borders_are_found_however_narrow_the_modes(weights: list[float], means: list[float], sds: list[float]) -> None:
    def ahead(x: float, first: int) -> float:
        joint = np.log(weights) + stats.norm.logpdf(x, means, sds)
        return float(joint[first] - np.delete(joint, first).max())

    expected = []
    for k, (mean, sd) in enumerate(zip(means, sds, strict=True)):
        outwards = sd * np.geomspace(1, 1e8, 400)
        for side in (-1, 1):
            inside = [ahead(mean + side * step, k) > 0 for step in outwards]
            if False in inside and inside[0]:
                end = inside.index(False)
                bracket = mean + side * outwards[end - 1 : end + 1]
                expected.append(optimize.brentq(ahead, *bracket, args=(k,), xtol=1e-14))
    found = landmarks(on_a_line(weights, means, sds)).borders
    for border in expected:
        assert np.abs(found - border).min() < 1e-9 * (1 + abs(border))


@pytest.mark.parametrize("df", [1.5, 3.0, 30.0])
def test_borders_between_student_ts_are_where_scipys_densities_cross(df: float) -> None:
    """With their weights, and without: every change of who leads, from a fine grid, by brentq."""
    weights, means, sds = [0.2, 0.5, 0.3], [-3.0, 0.5, 4.0], [0.4, 2.0, 0.9]
    expected = []
    for shares in (weights, [1 / 3] * 3):

        def joint(x: np.ndarray | float, shares: list[float] = shares) -> np.ndarray:
            return np.log(shares) + stats.t.logpdf(np.asarray(x)[..., None], df, means, sds)

        grid = np.sinh(np.linspace(-9, 9, 40_001))
        leader = joint(grid).argmax(axis=1)
        for i in np.flatnonzero(leader[1:] != leader[:-1]):
            one, other = leader[i], leader[i + 1]
            ahead = lambda x, one=one, other=other: joint(x)[one] - joint(x)[other]  # noqa: E731
            expected.append(optimize.brentq(ahead, grid[i], grid[i + 1], xtol=1e-14))
    found = landmarks(replace(on_a_line(weights, means, sds), df=df)).borders
    assert len(expected) >= 6
    assert found == pytest.approx(sorted(expected), rel=1e-9, abs=1e-9)


class Breaks:
    """A loss that is flat, but for one step at which the second cell's is not a number, or its gradient not."""

    samples_target = False

    def __init__(self, step: int, of_loss: bool) -> None:
        self.at, self.step, self.of_loss = 0, step, of_loss

    def is_written_out(self, *of: object) -> bool:
        return False

    def loss_and_gradient(self, target: Any, family: Any, theta: torch.Tensor, noise: Any, whole: bool) -> Any:
        loss, gradient = torch.zeros(len(theta)), torch.zeros_like(theta)
        if self.at == self.step:
            (loss if self.of_loss else gradient)[1] = math.nan
        self.at += 1
        return loss, gradient


@pytest.mark.parametrize("of_loss", [True, False])
@pytest.mark.parametrize("step", [0, 1, 7, 19])
def test_a_fit_diverged_after_as_many_steps_as_were_sound(
    step: int, of_loss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where its numbers would be finite again afterwards."""
    monkeypatch.setattr(batch, "divergence", lambda params, like: Breaks(step, of_loss))
    sound, broken = outcomes(NORMAL, seeds=2, divergence="reverse_kl", steps=20, samples=16)
    assert (sound.status, broken.status) == ("ok", "diverged")
    assert str(broken.error).startswith(f"diverged at step {step}: ")


def test_a_needle_beside_a_broad_mode() -> None:
    """Masses and nats of the cells, by the normal's distribution function between the borders."""
    sds, means, weights = np.array([3e-5, 0.1]), np.array([-8.0, 6.0]), np.array([0.05, 0.95])
    (found,) = outcomes(on_a_line([*weights], [*means], [*sds]), divergence="forward_kl", **STAYS)
    assert found.mean is not None
    assert found.covariance is not None
    fit = stats.norm(found.mean[0], math.sqrt(found.covariance[0, 0]))
    gap = np.log(weights / sds)
    away = optimize.brentq(
        lambda d: -0.5 * (d / sds[0]) ** 2 + gap[0] + 0.5 * ((means[0] + d - means[1]) / sds[1]) ** 2 - gap[1], 0, 1
    )
    mass = fit.cdf(means[0] + away) - fit.cdf(means[0] - away)
    assert found.modes["fitted_mass"][0] == pytest.approx(mass, rel=1e-2)  # the other side's border is a little nearer
    nats = weights @ np.log(weights / np.array([mass, 1 - mass]))
    assert found.metrics["forward_coverage_nats"] == pytest.approx(nats, abs=1e-3)


def test_gaps_in_the_plane_are_good_to_a_thousandth() -> None:
    covariances = [[[0.561, -0.357], [-0.357, 1.095]], [[0.1883, -0.4967], [-0.4967, 1.5035]]]
    covariances.append([[0.05367, 0.0395], [0.0395, 0.05001]])
    means = [[-1.731, -2.787], [0.122, 0.482], [2.894, 1.508]]
    target = Mixture("plane", np.array([0.057, 0.777, 0.166]), np.array(means), np.array(covariances))
    (found,) = outcomes(target, divergence="jeffreys", family="gaussian_diagonal", init="mode:2", steps=1500)
    assert found.mean is not None
    assert found.covariance is not None
    steps = np.arange(-13, 13, 0.02)
    x = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1)
    log_p = np.logaddexp.reduce(
        [
            math.log(w) + stats.multivariate_normal.logpdf(x, m, c)
            for w, m, c in zip(target.weights, means, covariances, strict=True)
        ]
    )
    log_q = stats.multivariate_normal.logpdf(x, found.mean, found.covariance)
    value = 0.02**2 * float(((np.exp(log_p) - np.exp(log_q)) * (log_p - log_q)).sum())
    assert found.metrics["optimum_value"] + found.metrics["optimum_gap"] == pytest.approx(value, abs=1e-3)
    assert found.metrics["converged"] == 1


def test_a_mode_of_few_draws_has_no_width() -> None:
    target = Mixture("light", np.array([0.9998, 0.0002]), np.array([[0.0, 0.0], [6.0, 0.0]]), np.stack([np.eye(2)] * 2))
    given = {"divergence": "forward_kl", "family": "gaussian_mixture", "components": 6, "steps": 600}
    for found in outcomes(target, seeds=8, **given):
        assert abs(found.metrics["log_width"]) < 0.1
        assert np.isnan(found.modes["log_width"][1])


@pytest.mark.parametrize("alpha", [1 - 1e-8, 1 + 1e-7, 1e-14, -1e-9])
def test_alpha_beside_a_kl_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"rounding would decide: use alpha [01] itself"):
        check(Params(target="bimodal", divergence="alpha", alpha=alpha), CATALOGUE.target("bimodal"))
    check(Params(target="bimodal", divergence="alpha", alpha=round(alpha)), CATALOGUE.target("bimodal"))


def test_the_integrals_here_are_those_of_scipy() -> None:
    value, _ = integrate.quad(lambda x: stats.norm.pdf(x) ** 2 / stats.norm.pdf(x, 0, 0.8), -30, 30)
    assert 1 / value == pytest.approx(math.sqrt(2 - 1 / 0.8**2) / 0.8, rel=1e-9)
