"""What is reported of mixtures, Student-t fits and flows, against quadrature with scipy's densities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from scipy.special import logsumexp

from experiments import randomness
from experiments.experiment import Outcome
from experiments.kl_fit import KL_FIT, Params
from experiments.kl_fit.families import Flow
from experiments.kl_fit.fits import Flows, Gaussians, Mixtures
from experiments.kl_fit.judge import judge
from experiments.kl_fit.judge_points import Judgement
from experiments.metrics.neighbours import standard_error
from experiments.targets import Mixture, Points
from tests.experiments.test_families import random_theta
from tests.experiments.test_kl_truth import fitted, random_mixture

# x = sinh(u) reaches out to 5e8: even tails of 1.5 degrees of freedom have nothing left there.
U = np.linspace(-20.7, 20.7, 200_001)
X, STEP = np.sinh(U), np.cosh(U)
AXIS = np.linspace(-9, 9, 601)


def log_density(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """By scipy, ``(n, D) -> (n,)``."""
    parts = []
    for w, m, s in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        if len(m) == 1:
            scaled = stats.norm if mixture.df is None else stats.t(mixture.df)
            own = scaled.logpdf((x[:, 0] - m[0]) / math.sqrt(s[0, 0])) - 0.5 * math.log(s[0, 0])
        elif mixture.df is None:
            own = stats.multivariate_normal(m, s).logpdf(x)
        else:
            own = stats.multivariate_t(m, s, df=mixture.df).logpdf(x)
        parts.append(math.log(w) + own)
    return logsumexp(parts, axis=0)


def pairs(dim: int, kind: str, count: int = 32) -> tuple[list[Mixture], list[Mixture]]:
    """Targets of three components and fits of four, all random; or both sides, or one, with Student-t components."""
    targets = [random_mixture(100 + seed, dim, 3) for seed in range(count)]
    fits = [random_mixture(500 + seed, dim, 4) for seed in range(count)]
    if kind != "gaussian":
        fits = [Mixture("fit", np.ones(1), f.means[:1] / 2, f.covariances[:1] * 3, df=5.0) for f in fits]
    if kind == "both_student_t":
        targets = [Mixture("t", t.weights, t.means, t.covariances, df=1.5) for t in targets]
    return targets, fits


def judged(targets: Sequence[Mixture | Points], fits: Any, **params: Any) -> list[Judgement]:
    cells = [SimpleNamespace(params=Params(target="any", **params), target=t, seed=k) for k, t in enumerate(targets)]
    return judge(cells, fits, np.ones(len(cells), dtype=bool), "cpu")


def level_in_1d(log_q: np.ndarray) -> float:
    """Log-density at the edge of the 95 % highest-density region."""
    return float(optimize.brentq(lambda level: mass_above(log_q, log_q, level) - 0.95, log_q.max() - 40, log_q.max()))


def mass_above(log_p: np.ndarray, log_q: np.ndarray, level: float) -> float:
    """P's mass where log q is above a level: between the crossings, found by interpolation."""
    cdf = integrate.cumulative_simpson(np.exp(log_p) * STEP, x=U, initial=0)
    above = log_q > level
    at = np.flatnonzero(above[1:] != above[:-1])
    share = (level - log_q[at]) / (log_q[at + 1] - log_q[at])
    crossings = cdf[at] + share * (cdf[at + 1] - cdf[at])
    return float((crossings * np.where(above[at], 1, -1)).sum())


@pytest.mark.parametrize("kind", ["gaussian", "student_t", "both_student_t"])
def test_mixtures_in_one_dimension_are_judged_exactly(kind: str) -> None:
    targets, fits = pairs(1, kind)
    found = judged(targets, Mixtures(fits, np.ones(32, dtype=bool)), divergence="forward_kl", family="gaussian_mixture")
    for k in range(4):
        log_p, log_q = (log_density(mixture, X[:, None]) for mixture in (targets[k], fits[k]))

        def integral(values: np.ndarray) -> float:
            return float(integrate.trapezoid(values * STEP, U))

        p, q = np.exp(log_p), np.exp(log_q)
        log_half = np.logaddexp(log_p, log_q) - math.log(2)
        expected = {
            "forward_kl": integral(p * (log_p - log_q)),
            "reverse_kl": integral(q * (log_q - log_p)),
            "jensen_shannon": 0.5 * integral(p * (log_p - log_half) + q * (log_q - log_half)),
            "coverage": min(1.0, mass_above(log_p, log_q, level_in_1d(log_q)) / 0.95),
            "sharpness": min(1.0, mass_above(log_q, log_p, level_in_1d(log_p)) / 0.95),
        }
        metrics = found[k].metrics
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(value, abs=2e-7), name
        assert metrics["objective"] == metrics["forward_kl"]
        # p^2 / q of df 1.5 and 5 has no integral, nor has that of Gaussians where Q's tail is too light.
        narrow = kind == "gaussian" and 2 * fits[k].covariances.max() <= targets[k].covariances.max()
        assert (metrics["ess_forward"] == 0) == (kind == "both_student_t" or narrow)
        for name in ("forward", "reverse"):
            parts = metrics[f"{name}_coverage_nats"] + metrics[f"{name}_shape_nats"]
            assert parts == pytest.approx(expected[f"{name}_kl"], abs=1e-6)


def check_by_draws(found: Judgement, log_p: np.ndarray, log_q: np.ndarray, area: np.ndarray) -> None:
    """Against sums over a grid, up to the standard errors reported."""
    p, q = np.exp(log_p) * area, np.exp(log_q) * area
    assert (p.sum(), q.sum()) == pytest.approx((1, 1), abs=1e-4)

    def level(log_density: np.ndarray, mass: np.ndarray) -> float:
        order = np.argsort(-log_density)
        return float(log_density[order][np.searchsorted(np.cumsum(mass[order]), 0.95)])

    expected = {
        "forward_kl": (p * (log_p - log_q)).sum(),
        "reverse_kl": (q * (log_q - log_p)).sum(),
        "coverage": min(1.0, p[log_q >= level(log_q, q)].sum() / 0.95),
        "sharpness": min(1.0, q[log_p >= level(log_p, p)].sum() / 0.95),
        "entropy_gap": (p * log_p).sum() - (q * log_q).sum(),
    }
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value, abs=4.5 * found.metrics[f"{name}_se"] + 1e-3), name


def plane() -> tuple[np.ndarray, np.ndarray]:
    """Points ``(n, 2)`` and their areas."""
    x, jacobian = np.sinh(AXIS), np.cosh(AXIS) * (AXIS[1] - AXIS[0])
    return np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2), np.outer(jacobian, jacobian).ravel()


@pytest.mark.parametrize("kind", ["gaussian", "student_t"])
def test_mixtures_in_two_dimensions_are_judged_by_draws(kind: str) -> None:
    targets, fits = pairs(2, kind, 2)
    found = judged(targets, Mixtures(fits, np.ones(2, dtype=bool)), family="gaussian_mixture")
    points, area = plane()
    for k in range(2):
        check_by_draws(found[k], log_density(targets[k], points), log_density(fits[k], points), area)


def test_flows_are_judged_by_draws_in_the_targets_units() -> None:
    chosen = Flow(2, 2, 8, 4)
    theta = random_theta(chosen, 2)
    center, factor = np.array([[1.0, -2.0]] * 2), np.array([[[2.0, 0.0], [-1.0, 0.5]]] * 2)
    targets = [random_mixture(seed, 2, 3) for seed in range(2)]
    found = judged(targets, Flows.of(chosen, theta, center, factor), family="flow")
    points, area = plane()
    for k in range(2):
        framed = np.linalg.solve(factor[k], (points - center[k]).T)
        with torch.no_grad():
            own = chosen.log_prob(theta[k : k + 1], torch.tensor(framed)[None])[0].numpy()
        log_q = own - math.log(np.linalg.det(factor[k]))
        check_by_draws(found[k], log_density(targets[k], points), log_q, area)
        q = np.exp(log_q) * area
        mean, covariance = found[k].moments or (None, None)
        exact = q @ points
        spread = (points - exact).T @ (q[:, None] * (points - exact))
        assert np.allclose(mean, exact, atol=5 * math.sqrt(spread.max() / 10_000))
        assert np.allclose(covariance, spread, rtol=0.15, atol=0.05 * np.abs(spread).max())
        assert found[k].samples.shape == (200, 2)


def best_scale(cross_entropy: Callable[[float], float]) -> float:
    return float(optimize.minimize_scalar(lambda s: cross_entropy(math.exp(s)), bounds=(-3, 3), method="bounded").x)


@pytest.mark.parametrize("df", [1.5, 2.0])
def test_student_t_fits_what_no_gaussian_can(df: float) -> None:
    """A target of infinite variance, by forward KL: scipy's best scale, and its KL."""
    target = Mixture("heavy", np.ones(1), np.array([[3.0]]), np.array([[[4.0]]]), df=df)
    for family in ("gaussian_isotropic", "gaussian_full", "gaussian_mixture", "flow"):
        with pytest.raises(ValueError, match="family student_t"):
            KL_FIT.check(Params(target="heavy", divergence="forward_kl", family=family), target)
    log_p = log_density(target, X[:, None])

    def kl(scale: float) -> float:
        log_q = stats.t(3, loc=3, scale=scale).logpdf(X)
        return float(integrate.trapezoid(np.exp(log_p) * (log_p - log_q) * STEP, U))

    scale = math.exp(best_scale(kl))
    fit: Outcome
    for fit in fitted(target, range(3), divergence="forward_kl", family="student_t", family_df=3):
        assert fit.mean is not None and fit.covariance is not None
        own = math.sqrt(fit.covariance[0, 0] / 3)  # a variance of 3 s^2, with three degrees of freedom
        assert own == pytest.approx(scale, rel=0.05)
        assert fit.mean[0] == pytest.approx(3, abs=0.02 * scale * math.sqrt(3))
        assert fit.metrics["forward_kl"] == pytest.approx(kl(scale), abs=0.01)
        assert fit.metrics["forward_kl"] > kl(scale) - 1e-6


def test_student_t_fits_heavy_tails_in_two_dimensions() -> None:
    target = Mixture("heavy", np.ones(1), np.array([[1.0, 2.0]]), np.array([[[2.0, 1.0], [1.0, 3.0]]]), df=2.0)
    # Whitened, both are round: r^2 / 2 of the target has an F distribution, and one scale is left to choose.
    v = np.linspace(-30, 40, 100_001)
    half = np.exp(v)
    weight = stats.f(2, 2.0).pdf(half) * half
    r = np.stack([np.sqrt(2 * half), np.zeros_like(half)], axis=1)
    log_p = stats.multivariate_t(np.zeros(2), np.eye(2), df=2.0).logpdf(r)

    def kl(scale: float) -> float:
        log_q = stats.multivariate_t(np.zeros(2), np.eye(2) * scale**2, df=3).logpdf(r)
        return float(integrate.trapezoid(weight * (log_p - log_q), v))

    best = math.exp(best_scale(kl))
    for fit in fitted(target, range(2), divergence="forward_kl", family="student_t", family_df=3):
        assert fit.covariance is not None
        assert np.allclose(fit.covariance / 3, target.covariances[0] * best**2, rtol=0.1, atol=0.1)
        error = fit.metrics["forward_kl_se"]
        assert fit.metrics["forward_kl"] == pytest.approx(kl(best), abs=0.01 + 4 * error)


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
@pytest.mark.parametrize("df", [2.05, 2.2, 2.5, 4.0])
def test_forward_kl_knows_of_the_tails_beyond_all_panels(kind: str, df: float) -> None:
    """The cross entropy of a Gaussian in closed form, from P's moments; a mixture of two alike ones is one."""
    generator = np.random.default_rng(int(100 * df))
    targets, fits = [], []
    for _ in range(8):
        w, m, s = generator.dirichlet(np.ones(3)), generator.normal(0, 5, (3, 1)), generator.uniform(0.3, 2, 3) ** 2
        targets.append(Mixture("t", w, m, s[:, None, None], df=df))
        n = 1 if kind == "gaussian" else 2
        mean, variance = generator.normal(0, 3, (1, 1)), generator.uniform(2, 40) * np.ones((1, 1, 1))
        fits.append(Mixture("fit", np.full(n, 1 / n), mean.repeat(n, 0), variance.repeat(n, 0)))
    if kind == "gaussian":
        q: Any = Gaussians(np.array([f.means[0] for f in fits]), np.sqrt(np.array([f.covariances[0] for f in fits])))
    else:
        q = Mixtures(fits, np.ones(len(fits), dtype=bool))
    for target, fit, judgement in zip(targets, fits, judged(targets, q, divergence="forward_kl"), strict=True):
        log_p = log_density(target, X[:, None])
        entropy = -integrate.simpson(np.exp(log_p) * STEP * log_p, x=U)
        within, apart = target.covariances[:, 0, 0] * df / (df - 2), (target.means - fit.means[0])[:, 0]
        moment = float(target.weights @ (within + apart**2))
        variance = fit.covariances[0, 0, 0]
        expected = 0.5 * (math.log(2 * math.pi * variance) + moment / variance) - entropy
        found = judgement.metrics
        assert found["forward_kl"] == pytest.approx(expected, abs=1e-7)
        assert found["objective"] == found["forward_kl"]
        parts = [judgement.modes[f"forward_{name}_nats"].sum() for name in ("coverage", "shape")]
        assert sum(parts) == pytest.approx(expected, abs=1e-7)
        assert found["forward_shape_nats"] == pytest.approx(parts[1], abs=1e-9)
        assert math.isnan(found["log_width"]) or df >= 2.5


def test_modes_by_their_own_density_are_cut_where_these_cross() -> None:
    """Q's masses between the crossings of components without their weights, by bisection and scipy's cdf."""
    targets = [random_mixture(900 + seed, 1, 4) for seed in range(16)]
    means, sds = np.linspace(-2, 2, 16), np.linspace(0.5, 3, 16)
    found = judged(targets, Gaussians(means[:, None], sds[:, None, None]), divergence="reverse_kl")
    for target, mean, sd, judgement in zip(targets, means, sds, found, strict=True):
        place, width = target.means[:, 0], np.sqrt(target.covariances[:, 0, 0])

        def leader(x: np.ndarray, place: np.ndarray = place, width: np.ndarray = width) -> np.ndarray:
            return stats.norm.logpdf(x[:, None], place, width).argmax(axis=1)

        low = np.linspace(mean - 12 * sd, mean + 12 * sd, 200_001)
        led = leader(low)
        at = np.flatnonzero(led[1:] != led[:-1])
        left, right = low[at], low[at + 1]
        for _ in range(50):
            middle = 0.5 * (left + right)
            same = leader(middle) == led[at]
            left, right = np.where(same, middle, left), np.where(same, right, middle)
        ends = np.concatenate([[-np.inf], left, [np.inf]])
        mass = np.bincount(led[[*at, -1]], np.diff(stats.norm.cdf(ends, mean, sd)), 4)
        entropy = stats.entropy(mass)
        assert judgement.metrics["effective_modes"] == pytest.approx(math.exp(entropy) / 4, abs=1e-9)
        assert judgement.metrics["entropic_coverage"] == pytest.approx(entropy / math.log(4), abs=1e-9)


def with_moments_of(fits: list[Mixture]) -> Gaussians:
    return Gaussians(np.array([f.mean for f in fits]), np.linalg.cholesky(np.array([f.covariance for f in fits])))


@pytest.mark.parametrize("chosen", [{"divergence": "jeffreys"}, {"divergence": "mixed", "forward_weight": 0.2}])
def test_the_error_of_two_kls_is_that_of_independent_draws(chosen: dict[str, Any]) -> None:
    """Of P and of Q: variances add, each times its weight squared."""
    targets, fits = pairs(2, "gaussian", 4)
    forward = chosen.get("forward_weight", 1.0)
    reverse = 1 - forward if "forward_weight" in chosen else 1.0
    for found in judged(targets, with_moments_of(fits), **chosen):
        m = found.metrics
        assert m["objective"] == pytest.approx(forward * m["forward_kl"] + reverse * m["reverse_kl"], rel=1e-12)
        variance = forward**2 * m["forward_kl_se"] ** 2 + reverse**2 * m["reverse_kl_se"] ** 2
        assert m["objective_se"] ** 2 == pytest.approx(variance, rel=1e-9)
        assert min(m["forward_kl_se"], m["reverse_kl_se"]) > 0


@pytest.mark.parametrize(("n", "p"), [(5, 0.0), (7, 0.3), (200, 0.015), (2000, 0.97), (2000, 1.0)])
def test_a_share_of_n_points_has_the_binomials_error(n: int, p: float) -> None:
    assert standard_error(p, n) == pytest.approx(stats.binom.std(n, p) / n, abs=1e-15)


def seconds_and_milliseconds(n: int = 400) -> Points:
    """Two columns, the second of which is in a unit a thousand times as small."""
    x = np.random.default_rng(1).standard_t(8, (n, 2)) @ np.array([[1.0, 0.5], [0.0, 0.8]])
    return Points("file", x * [1.0, 1000.0], ("s", "ms"))


def test_errors_of_point_targets_are_those_of_means() -> None:
    """The cross entropy's by scipy from each point's own loss, the neighbours' by scipy's binomial."""
    points, mean, tril = seconds_and_milliseconds(), np.array([0.2, 100.0]), np.array([[1.5, 0.0], [300.0, 800.0]])
    losses = -stats.multivariate_normal(mean, tril @ tril.T).logpdf(points.values)
    (found,) = judged([points], Gaussians(mean[None], tril[None]), divergence="forward_kl")
    for name in ("objective", "cross_entropy"):
        assert found.metrics[name] == pytest.approx(losses.mean(), rel=1e-12)
        assert found.metrics[f"{name}_se"] == pytest.approx(stats.sem(losses), rel=2 / len(losses))
    for name in ("coverage", "sharpness"):
        assert 0 < found.metrics[name] < 1
        assert found.metrics[f"{name}_se"] == pytest.approx(stats.binom.std(400, found.metrics[name]) / 400, rel=1e-9)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("family", ["gaussian_isotropic", "gaussian_diagonal", "gaussian_full", "flow"])
def test_losses_of_points_are_in_the_points_own_units(family: str, standardise: bool) -> None:
    """From the points' moments a fit has nowhere to go: its last loss is a sample's mean of what is reported."""
    size = {"samples": 4096, "steps": 2, "learning_rate": 1e-6}
    (found,) = fitted(
        seconds_and_milliseconds(), divergence="forward_kl", family=family, standardise=standardise, **size
    )
    error = found.metrics["objective_se"] * math.sqrt(400 / 4096)
    assert found.curves["loss"][-1] == pytest.approx(found.metrics["objective"], abs=5 * error)
    assert error < 0.03


def judged_by_draws(kind: str) -> list[Judgement]:
    """Of two cells, by each of the ways that there are."""
    dim = 1 if "line" in kind else 2
    targets, fits = pairs(dim, "gaussian", 2)
    if "heavy" in kind:
        targets = pairs(dim, "both_student_t", 2)[0]
    if kind == "flows":
        flow = Flow(2, 2, 8, 4)
        own = Flows.of(flow, random_theta(flow, 2), np.zeros((2, 2)), np.stack([np.eye(2)] * 2))
        return judged(targets, own, family="flow")
    if "mixtures" in kind:
        return judged(targets, Mixtures(fits, np.ones(2, dtype=bool)), family="gaussian_mixture")
    return judged([seconds_and_milliseconds(2100)] * 2 if "points" in kind else targets, with_moments_of(fits))


@pytest.mark.parametrize(
    "kind",
    [
        *("gaussians on a line", "gaussians in the plane", "gaussians beside heavy tails", "gaussians of points"),
        *("mixtures on a line", "mixtures in the plane", "flows"),
    ],
)
def test_what_a_fit_is_judged_by_has_no_part_in_its_training(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other seeds for every other stream change nothing, and for the stream of evaluation the draws."""
    seed, before = randomness._seed, judged_by_draws(kind)
    monkeypatch.setattr(
        randomness, "_seed", lambda own, stream: seed(own + (0 if stream == "evaluation" else 1000), stream)
    )
    for found, known in zip(judged_by_draws(kind), before, strict=True):
        np.testing.assert_equal(dict(found.metrics), dict(known.metrics))
        assert np.array_equal(found.samples, known.samples)
    monkeypatch.setattr(randomness, "_seed", lambda own, stream: seed(own + 1000, stream))
    assert not np.array_equal(judged_by_draws(kind)[0].samples, before[0].samples)
