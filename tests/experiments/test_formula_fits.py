"""Fits to targets by formula, from parameters to outcomes: known optima, what is refused, and equal bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from experiments.experiment import Outcome
from experiments.gradients import GRADIENTS
from experiments.kl_fit import KL_FIT, Params, judge
from experiments.kl_fit.families import Flow
from experiments.kl_fit.fits import Flows, Gaussians
from experiments.targets import Analytic
from experiments.vae import VAE
from tests.experiments.test_families import random_theta
from tests.experiments.test_judge import check_by_draws
from tests.experiments.test_kl_invariance import cells, check_equal
from tests.experiments.test_target_suite import analytic, log_density, plane, well, well_z


def fitted(name: str, seeds: range, **params: Any) -> list[Outcome]:
    made, target = Params(target=name, **params), analytic(name)
    KL_FIT.check(made, target)
    outcomes = KL_FIT.run_batch([SimpleNamespace(params=made, target=target, seed=seed) for seed in seeds], "cpu")
    assert [outcome.status for outcome in outcomes] == ["ok"] * len(seeds)
    return outcomes


def moments(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variances."""
    assert outcome.mean is not None and outcome.covariance is not None
    return outcome.mean, np.diag(outcome.covariance)


def test_the_mean_field_of_a_funnel() -> None:
    """ELBO -ln(41.5) / 2, variances 9 / 41.5 and exp(-9 / 83): three seeds, from variances 0.36 and 3.6."""
    gap, neck, rest = 0.5 * math.log(41.5), 9 / 41.5, math.exp(-4.5 / 41.5)
    assert (gap, neck, rest) == pytest.approx((1.862847, 0.216867, 0.897238), abs=1e-6)
    setting = {"steps": 1600, "samples": 128, "learning_rate": 0.06, "standardise": False, "init_scale": 0.2}
    for found in fitted("funnel10", range(3), family="gaussian_diagonal", divergence="reverse_kl", **setting):
        mean, variance = moments(found)
        m = found.metrics
        assert variance[0] == pytest.approx(neck, rel=0.06)
        # Along a ridge the mean of the neck and the widths of the rest move together, and it slopes by m0 / 9.
        assert variance[1:] * math.exp(-mean[0]) == pytest.approx(np.full(9, rest), rel=0.08)
        assert np.abs(mean[1:]).max() < 0.1 and abs(mean[0]) < 0.15
        assert variance[1:] == pytest.approx(np.full(9, rest), rel=0.15)
        assert m["optimum_value"] == pytest.approx(gap, abs=1e-9)
        assert m["converged"] == 1 and 0 <= m["optimum_gap"] < 0.005
        # KL(Q || P) of such a Q, with the moments of its log-normal exp(-x0).
        quadratic = (mean[0] ** 2 + variance[0]) / 9
        quadratic += math.exp(variance[0] / 2 - mean[0]) * float((mean[1:] ** 2 + variance[1:]).sum())
        exact = 0.5 * (quadratic + math.log(9) + 9 * mean[0] - np.log(variance).sum() - 10)
        assert m["optimum_gap"] == pytest.approx(exact - gap, abs=1e-9)
        assert m["objective"] == pytest.approx(exact, abs=4.5 * m["objective_se"])


def test_reverse_kl_keeps_the_heavy_well() -> None:
    """Beside E_q of the quartic in closed form, minimised by scipy."""

    def kl(theta: np.ndarray) -> float:
        m, v = theta[0], math.exp(2 * theta[1])
        energy = m**4 + 6 * m * m * v + 3 * v * v - 6 * (m * m + v) - m / 2
        return energy + math.log(well_z()) - 0.5 * math.log(2 * math.pi * math.e * v)

    best = optimize.minimize(kl, [1.7, -1.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10})
    setting = {"steps": 500, "samples": 128, "standardise": True}
    for found in fitted("double_well", range(2), family="gaussian_diagonal", divergence="reverse_kl", **setting):
        mean, variance = moments(found)
        assert mean == pytest.approx([best.x[0], 0], abs=0.03)
        assert variance == pytest.approx([math.exp(2 * best.x[1]), 1], rel=0.05)
        m = found.metrics
        assert m["reverse_kl"] == pytest.approx(best.fun, abs=4.5 * m["reverse_kl_se"] + 0.002)
        assert (m["modes_captured"], m["modes_total"]) == (1, 2)
        assert m["collapse_invoice"] == pytest.approx(-math.log(0.844307), abs=1e-4)


def test_nats_of_each_well_are_those_of_quadrature() -> None:
    """Of N(0.8, 1.1) along the wells: on both sides of the barrier, and what they add up to."""
    q, edge = stats.norm(0.8, 1.1), optimize.minimize_scalar(well, bounds=(-0.5, 0.5), method="bounded").x
    target, log_z = analytic("double_well"), math.log(well_z())
    cell = SimpleNamespace(params=Params(target="double_well"), target=target, seed=0)
    fit = Gaussians(np.array([[0.8, 0.0]]), np.diag([1.1, 1.0])[None])
    (found,) = judge.judge([cell], fit, np.array([True]), "cpu")
    for name in ("forward", "reverse"):
        whole = {}
        for k, (low, high) in enumerate(((-6.0, edge), (edge, 7.0))):

            def log_p(x: float) -> float:
                return -(x**4) + 6 * x**2 + x / 2 - log_z

            def integral(f: Callable[[float], float], low: float = low, high: float = high) -> float:
                return float(integrate.quad(f, low, high, points=[-1.7, 1.7], limit=200)[0])

            a, b = integral(lambda x: math.exp(log_p(x))), integral(q.pdf)
            kl = integral(lambda x: math.exp(log_p(x)) * (log_p(x) - q.logpdf(x)))
            if name == "reverse":
                a, b, kl = b, a, integral(lambda x: q.pdf(x) * (q.logpdf(x) - log_p(x)))
            whole[k] = a * math.log(a / b), kl - a * math.log(a / b)
        for part, key in enumerate((f"{name}_coverage_nats", f"{name}_shape_nats")):
            error = 4.5 * found.metrics[f"{key}_se"] + 2e-3
            assert found.modes[key].sum() == pytest.approx(found.metrics[key], abs=1e-9)
            assert found.metrics[key] == pytest.approx(whole[0][part] + whole[1][part], abs=error)
            own = 4.5 * found.metrics[f"{name}_kl_se"] + 0.02
            assert found.modes[key] == pytest.approx([whole[0][part], whole[1][part]], abs=own)


def test_crosses_have_no_forward_kl_beside_a_gaussian() -> None:
    """Their coordinates are Student-t of df 2, exactly where scipy's have no variance any more."""
    assert stats.t(2).var() == math.inf > stats.t(2.01).var()
    (found,) = fitted("student_t_jax", range(1), divergence="reverse_kl", steps=3)
    assert found.metrics["forward_kl"] == math.inf
    assert math.isfinite(found.metrics["reverse_kl"]) and found.metrics["ess_forward"] == 0


def test_forward_kl_has_the_moments_of_two_moons() -> None:
    """And as its value the entropy of that Gaussian less the target's, by the grid."""
    points, area = plane("two_moons")
    log_p = log_density("two_moons", points)
    mass = np.exp(log_p) * area
    covariance = (points * mass) @ points.T
    value = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * covariance)[1] + mass @ log_p
    (found,) = fitted("two_moons", range(1), family="gaussian_full", divergence="forward_kl", steps=200, samples=128)
    mean, variance = moments(found)
    assert np.abs(mean).max() < 0.05
    assert variance == pytest.approx(np.diag(covariance), rel=0.05)
    m = found.metrics
    assert m["optimum_value"] == pytest.approx(value, abs=1e-8)
    assert m["optimum_gap"] < 0.003
    assert m["forward_kl"] == pytest.approx(value + m["optimum_gap"], abs=4.5 * m["forward_kl_se"])


def test_flows_of_a_formula_are_judged_by_draws() -> None:
    chosen = Flow(2, 2, 8, 4)
    center, factor = np.array([[0.5, -0.2]]), np.array([[[1.5, 0.0], [-0.3, 0.9]]])
    theta = random_theta(chosen, 1)
    cell = SimpleNamespace(params=Params(target="two_moons", family="flow"), target=analytic("two_moons"), seed=0)
    (found,) = judge.judge([cell], Flows.of(chosen, theta, center, factor), np.array([True]), "cpu")
    u = np.linspace(-14, 14, 501)
    points = np.stack([g.ravel() for g in np.meshgrid(u, u, indexing="ij")])
    with torch.no_grad():
        own = chosen.log_prob(theta, torch.tensor(np.linalg.solve(factor[0], points - center.T))[None])[0].numpy()
    log_q = own - math.log(np.linalg.det(factor[0]))
    with np.errstate(divide="ignore"):
        log_p = np.maximum(log_density("two_moons", points), -1e4)
    check_by_draws(found, log_p, log_q, np.full(len(log_q), (u[1] - u[0]) ** 2))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"divergence": "forward_kl"}, "infinite"),
        ({"divergence": "jeffreys"}, "infinite"),
        ({"divergence": "mixed", "forward_weight": 0.5}, "infinite"),
        ({"divergence": "alpha", "alpha": 1.5}, "infinite|too heavy"),
        ({"divergence": "forward_kl", "family": "flow"}, "infinite"),
        ({"divergence": "forward_kl", "family": "gaussian_mixture"}, "infinite"),
        ({"init": "mode:0"}, "a formula without any"),
    ],
)
def test_what_crosses_have_not_is_refused(given: dict[str, Any], says: str) -> None:
    target = analytic("student_t_jax")
    with pytest.raises(ValueError, match=says):
        KL_FIT.check(Params(target=target.name, **given), target)
    KL_FIT.check(Params(target=target.name, divergence="forward_kl", family="student_t"), target)


def tail(name: str, r: np.ndarray, direction: list[float]) -> np.ndarray:
    return analytic(name).log_prob(r[:, None] * np.array(direction))


@pytest.mark.parametrize(
    ("name", "slow", "fast"),
    [
        ("rings", [0.6, 0.8], [1.0, 0.0]),
        ("two_rings", [0.6, 0.8], [1.0, 0.0]),
        ("two_moons", [1.0, 0.0], [0.0, 1.0]),
        ("double_well", [0.0, 1.0], [1.0, 0.0]),
        ("student_t_jax", [1.0, 0.0], [0.7, 0.7]),
    ],
)
def test_tails_grow_as_said(name: str, slow: list[float], fast: list[float]) -> None:
    """How often -log p doubles while the distance does, far out."""
    r = np.array([2e3, 4e3])
    for power, direction in zip(analytic(name).form.tails, (slow, fast), strict=True):
        near, far = -tail(name, r, direction)
        assert math.log2(far / near) == pytest.approx(power, abs=0.15)


def test_a_funnel_is_heavy_across_its_mouth_and_light_across_its_neck() -> None:
    r = np.array([1e3, 1e6])
    mouth = [-analytic("funnel2").log_prob(np.array([[2 * math.log(x), x]]))[0] for x in r]
    assert mouth[1] / mouth[0] < 5  # of a thousandfold distance
    near, far = -tail("funnel2", np.array([20.0, 40.0]), [-1.0, 1.0])
    assert far / near > 1e6


@pytest.mark.parametrize("alpha", [-0.7, 0.5, 1.5])
@pytest.mark.parametrize("family", ["gaussian_full", "flow", "student_t"])
@pytest.mark.parametrize("name", ["rings", "two_moons", "funnel10", "double_well"])
def test_alpha_is_refused_where_the_tails_make_it_infinite(name: str, family: str, alpha: float) -> None:
    """Does p^alpha q^(1 - alpha) rise along some line far out, for a wide Q, or below 0 for a narrow one?"""
    target, params = analytic(name), Params(target=name, divergence="alpha", alpha=alpha, family=family)
    r = np.array([40.0, 80.0, 160.0])
    lines = [np.stack([x, y], 1) for x, y in ((r, 0 * r), (0 * r, r), (-r, r), (2 * np.log(r), r))]
    rises = False
    for line in lines:
        x = np.zeros((3, target.dim))
        x[:, :2] = line
        origin, scale = np.zeros(target.dim), (9 if alpha > 0 else 0.01) * np.eye(target.dim)
        log_q = stats.multivariate_normal(origin, scale).logpdf(x)
        if family == "student_t":
            log_q = stats.multivariate_t(origin, scale, df=params.family_df).logpdf(x)
        value = alpha * target.log_prob(x) + (1 - alpha) * log_q
        rises |= bool(value[2] > value[1] > value[0])
    if name == "rings" and family != "student_t" and alpha > 1:
        rises = True  # r^2 / 36 has passed r only beyond 160
    if rises:
        with pytest.raises(ValueError, match="is infinite"):
            KL_FIT.check(params, target)
    else:
        KL_FIT.check(params, target)


@pytest.mark.parametrize(("name", "finite"), [("funnel2", 1000), ("double_well", 5), ("many_well32", 5), ("rings", 3)])
def test_student_t_fits_of_light_tails_are_refused(name: str, finite: int) -> None:
    """E |x|^4 of a Student-t needs more than 4 degrees of freedom, and E exp(-x) has no value."""
    for df in (3, 4, 5, 100):
        params = Params(target=name, divergence="reverse_kl", family="student_t", family_df=df)
        if df < finite:
            with pytest.raises(ValueError, match="fall too fast"):
                KL_FIT.check(params, analytic(name))
        else:
            KL_FIT.check(params, analytic(name))
        KL_FIT.check(params.model_copy(update={"divergence": "forward_kl"}), analytic(name))
        KL_FIT.check(params.model_copy(update={"divergence": "jensen_shannon"}), analytic(name))


def test_other_experiments_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match="infinite"):
        VAE.check(VAE.params(target="student_t_jax"), analytic("student_t_jax"))
    for name in ("two_moons", "funnel10"):
        with pytest.raises(ValueError, match="Use a mixture"):
            GRADIENTS.check(GRADIENTS.params(target=name), analytic(name))
        VAE.check(VAE.params(target=name), analytic(name))


@pytest.mark.parametrize(
    ("name", "family", "divergence"),
    [
        ("two_moons", "gaussian_full", "reverse_kl"),
        ("two_moons", "flow", "forward_kl"),
        ("funnel10", "gaussian_diagonal", "reverse_kl"),
        ("funnel10", "gaussian_full", "forward_kl"),
        ("student_t_jax", "student_t", "forward_kl"),
        ("student_t_jax", "gaussian_full", "reverse_kl"),
        ("double_well", "gaussian_mixture", "jensen_shannon"),
        ("rings", "gaussian_isotropic", "jeffreys"),
        ("many_well32", "gaussian_diagonal", "reverse_kl"),
    ],
)
def test_alone_or_among_others(name: str, family: str, divergence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "DRAWS", 160)
    target: Analytic = analytic(name)
    stack = cells([target], 37, ["wide", "narrow", "random"], family=family, divergence=divergence)
    whole = KL_FIT.run_batch(stack, "cpu")
    for k in (0, 17, 36):
        (own,) = KL_FIT.run_batch([stack[k]], "cpu")
        check_equal(own, whole[k])
