"""Importance weights and metrics of modes against mathematics that does not use their code."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats

from experiments import references
from experiments.metrics import modes
from experiments.metrics.density import Evaluation, Measure, evaluate
from experiments.metrics.estimate import Estimate, expectation
from experiments.metrics.partition import tally
from experiments.metrics.quadrature import mixture_quadrature
from experiments.stacked_analytic import StackedAnalytic
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Analytic, Mixture
from experiments.targets.named import target as named


def draws_of(mixture: Mixture, n: int, seeds: range) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return StackedMixture.stack([mixture] * len(seeds), torch.float64).draw(n, generators)


def by_draws(target: Mixture, fit: Mixture, n: int, cells: int = 32, seed: int = 0) -> list[Evaluation]:
    """One evaluation for each of ``cells`` independent sets of draws."""
    x_p, x_q = draws_of(target, n, range(seed, seed + cells)), draws_of(fit, n, range(seed + 500, seed + 500 + cells))
    q = StackedMixture.stack([fit] * cells, torch.float64)
    p_side, q_side = (Measure.of_draws(x, q.log_prob(x)) for x in (x_p, x_q))
    return evaluate([target] * cells, p_side, q_side)


def by_quadrature(target: Mixture, fit: Mixture) -> Evaluation:
    p, q, level_p, level_q = mixture_quadrature([target] * 32, [fit] * 32)
    return evaluate([target] * 32, p, q, level_p=level_p, level_q=level_q)[0]


def gaussian(mean: float, sd: float) -> Mixture:
    return mixture([1.0], [mean], [sd])


def mixture(weights: list[float], means: list[float], sds: list[float]) -> Mixture:
    return Mixture(
        "random",
        weights=np.array(weights),
        means=np.array(means)[:, None],
        covariances=np.square(sds)[:, None, None],
    )


def random_mixture(rng: np.random.Generator, count: int) -> Mixture:
    weights = rng.dirichlet(np.full(count, 3.0))
    return mixture(list(weights), list(rng.uniform(-6, 6, count)), list(rng.uniform(0.4, 1.5, count)))


def log_pdf(of: Mixture) -> Callable[[float], float]:
    sd = np.sqrt(of.covariances[:, 0, 0])
    return lambda x: float(special.logsumexp(stats.norm.logpdf(x, of.means[:, 0], sd) + np.log(of.weights)))


def pdf(of: Mixture) -> Callable[[np.ndarray], np.ndarray]:
    sd = np.sqrt(of.covariances[:, 0, 0])
    return lambda x: stats.norm.pdf(np.asarray(x)[..., None], of.means[:, 0], sd) @ of.weights


def grid_fit(kept: int) -> tuple[Mixture, Mixture]:
    grid = named("grid25")
    assert isinstance(grid, Mixture)
    return grid, replace(
        grid, weights=np.full(kept, 1 / kept), means=grid.means[:kept], covariances=grid.covariances[:kept]
    )


def chi2(a: float, s: float) -> float:
    """1 + chi2(N(0, 1) || N(a, s^2)), by completing the square in p^2 / q."""
    r = 2 - 1 / s**2  # needs s^2 > 1/2
    return s / math.sqrt(r) * math.exp(a**2 / (s**2 * r) * (1 / (2 * s**2)) + a**2 / (2 * s**2))


@pytest.mark.parametrize(("a", "s"), [(0.0, 1.5), (0.4, 1.2), (-1.0, 2.0), (0.7, 1.0)])
def test_effective_sample_sizes_of_gaussians(a: float, s: float) -> None:
    expected = 1 / chi2(a, s)
    numeric = integrate.quad(lambda x: stats.norm.pdf(x) ** 2 / stats.norm.pdf(x, a, s), -12, 12)[0]
    assert 1 / numeric == pytest.approx(expected, rel=1e-7)
    exact = by_quadrature(gaussian(0, 1), gaussian(a, s)).metrics
    assert exact["ess_forward"] == pytest.approx(expected, abs=1e-7)
    drawn = [e.metrics for e in by_draws(gaussian(0, 1), gaussian(a, s), 4000)]
    for name in ("ess_forward", "ess_reverse"):
        found = np.array([m[name] for m in drawn])
        assert found.mean() == pytest.approx(expected, abs=5 * found.std() / math.sqrt(32) + 1e-3)
        assert found.std() == pytest.approx(np.mean([m[f"{name}_se"] for m in drawn]), rel=0.5)
    z = np.array([m["log_z_reverse"] for m in drawn])
    assert z.mean() == pytest.approx(0.0, abs=5 * z.std() / math.sqrt(32) + 1e-3)
    assert z.std() == pytest.approx(np.mean([m["log_z_reverse_se"] for m in drawn]), rel=0.5)


@pytest.mark.parametrize(("df", "df_q"), [(2.0, 3.0), (2.5, 4.0), (3.0, 5.0), (2.0, 4.0), (2.0, 5.0), (2.5, 8.0)])
def test_a_student_t_fit_of_twice_the_df_has_no_effective_samples(df: float, df_q: float) -> None:
    """p^2 / q falls like r^-(2 df - df_q + D): the integral over each decade is 10^(df_q - 2 df) of the last one's."""
    p, q = stats.t(df), stats.t(df_q, scale=1.5)

    def integral(a: float, b: float) -> float:
        f = lambda u: math.exp(2 * p.logpdf(math.exp(u)) - q.logpdf(math.exp(u)) + u)  # noqa: E731
        return 2 * float(integrate.quad(f, math.log(a), math.log(b), limit=200)[0])

    growth = integral(1e6, 1e7) / integral(1e5, 1e6)
    assert growth == pytest.approx(10 ** (df_q - 2 * df), rel=1e-3)
    expected = 1 / integral(1e-15, 1e12) if growth < 0.9 else 0.0
    target, fit = replace(gaussian(0, 1), df=df), replace(gaussian(0, 1.5), df=df_q)
    sides = mixture_quadrature([target], [fit])
    found = evaluate([target], *sides[:2], level_p=sides[2], level_q=sides[3], df_q=df_q)[0].metrics
    assert found["ess_forward"] == pytest.approx(expected, abs=1e-7)
    in_space = replace(target, means=np.zeros((1, 3)), covariances=np.eye(3)[None])
    fit = replace(in_space, df=df_q)
    x = [draws_of(m, 500, range(1)) for m in (in_space, fit)]
    stacked = StackedMixture.stack([fit], torch.float64)
    drawn = evaluate([in_space], *(Measure.of_draws(v, stacked.log_prob(v)) for v in x), df_q=df_q)[0].metrics
    assert (drawn["ess_forward"] > 0) == (expected > 0)


@pytest.mark.parametrize("df_q", [2.5, 3.0, 3.5, 5.0])
def test_effective_samples_beside_a_product_of_student_ts(df_q: float) -> None:
    """Of the crosses p^2 / q falls the slowest along an arm: QUADPACK's decades along x, integrated over y."""
    crosses, q = named("student_t_jax"), stats.multivariate_t(np.zeros(2), np.eye(2), df=df_q)
    assert isinstance(crosses, Analytic)

    def along(u: float) -> float:
        x, y = math.exp(u), np.sinh(np.linspace(-16, 16, 4001))
        log_p = stats.t(2).logpdf(x) + stats.t(2).logpdf(y)
        values = np.exp(2 * log_p - q.logpdf(np.stack([np.full_like(y, x), y], axis=1)) + u)
        return float(integrate.trapezoid(values * np.cosh(np.arcsinh(y)), dx=32 / 4000))

    growth = along(math.log(1e6)) / along(math.log(1e5))
    assert growth == pytest.approx(10 ** (df_q - 3), rel=0.02)
    fit = Mixture("fit", np.ones(1), crosses.mean[None], 100 * np.eye(2)[None], df=df_q)
    stacked = StackedMixture.stack([fit], torch.float64)
    x_p = StackedAnalytic.stack([crosses], torch.float64).draw(500, [torch.Generator().manual_seed(0)])
    sides = [Measure.of_draws(x, stacked.log_prob(x)) for x in (x_p, draws_of(fit, 500, range(1)))]
    assert (evaluate([crosses], *sides, df_q=df_q)[0].metrics["ess_forward"] > 0) == (df_q < 3)


def test_quadrature_leaves_out_what_draws_of_q_cannot_see() -> None:
    """Against the same cut by root finding and scipy's integrals: w = p / q falls from the left tail of Q."""
    a, s = 0.7, 1.0
    unseen = 1e-4
    cut = stats.norm.ppf(unseen, a, s)
    first = stats.norm.sf(cut)
    second = integrate.quad(lambda x: stats.norm.pdf(x) ** 2 / stats.norm.pdf(x, a, s), cut, 12)[0]
    found = by_quadrature(gaussian(0, 1), gaussian(a, s)).metrics
    assert found["ess_reverse"] == pytest.approx(first**2 / second / (1 - unseen), abs=2e-6)
    assert found["log_z_reverse"] == pytest.approx(math.log(first / (1 - unseen)), abs=2e-6)


@pytest.mark.parametrize("kept", [1, 5, 12, 24])
def test_collapse_to_some_of_equal_modes(kept: int) -> None:
    grid, fit = grid_fit(kept)
    found = by_draws(grid, fit, 10_000, cells=1)[0]
    m = found.metrics
    invoice = math.log(25 / kept)
    assert m["ess_reverse"] == pytest.approx(1.0, abs=1e-9)
    assert m["log_z_reverse"] == pytest.approx(-invoice, abs=1e-9)
    assert m["collapse_invoice"] == pytest.approx(invoice, abs=1e-12)
    assert m["reverse_kl"] == pytest.approx(invoice, abs=1e-9)
    assert m["ess_forward"] < 1e-12
    assert m["capture_area"] == pytest.approx(kept / 25, abs=1e-12)
    entropy = math.log(kept) / math.log(25)
    assert m["entropic_coverage"] == pytest.approx(entropy, abs=5 * m["entropic_coverage_se"] + 25 / 20_000)
    gated = m["gated_entropic_coverage"]
    assert gated == pytest.approx(entropy, abs=5 * m["gated_entropic_coverage_se"] + 5e-3)
    # p / q is K / m at Q's draws and Q has m / K: shares of q's draws, by the balance heuristic, in closed form.
    np.testing.assert_allclose(found.modes["fair_share"][:kept], 25 / kept, rtol=1e-6)
    assert (found.modes["fair_share"][kept:] < 1e-12).all()


def test_a_blur_has_entropy_but_not_within_the_ellipses() -> None:
    grid, _ = grid_fit(1)
    blur = replace(grid, weights=np.ones(1), means=grid.mean[None], covariances=grid.covariance[None])
    m = by_draws(grid, blur, 10_000, cells=1)[0].metrics
    assert m["entropic_coverage"] > 0.97
    # The mass of a wide density within an ellipse is about its height times the area, pi r^2 sd^2.
    area = math.pi * stats.chi2.ppf(0.99, 2) * float(grid.covariances[0, 0, 0])
    height = stats.multivariate_normal(grid.mean, grid.covariance).pdf(grid.means)
    inside = area * height
    share = inside / inside.sum()
    expected = inside.sum() / 0.99 * -(share * np.log(share)).sum() / math.log(25)
    assert m["gated_entropic_coverage"] == pytest.approx(expected, abs=4 * m["gated_entropic_coverage_se"] + 1e-3)


def test_the_target_itself_is_perfect() -> None:
    grid, _ = grid_fit(1)
    for target in (grid, random_mixture(np.random.default_rng(3), 4)):
        m = by_draws(target, target, 4000, cells=1)[0].metrics
        for name in ("ess_forward", "ess_reverse", "capture_area"):
            assert m[name] == pytest.approx(1.0, abs=1e-9), name
        assert m["collapse_invoice"] == m["capture_area_se"] == 0.0
        assert m["log_z_reverse"] == pytest.approx(0.0, abs=1e-9)
    assert m["gated_entropic_coverage_se"] > 0


@pytest.mark.parametrize("seed", range(6))
def test_each_modes_nats_against_scipy(seed: int) -> None:
    """Cells by a fine grid and bisection, masses by the normal distribution function, integrals by QUADPACK."""
    rng = np.random.default_rng(seed)
    target, fit = random_mixture(rng, int(rng.integers(2, 5))), random_mixture(rng, int(rng.integers(1, 4)))
    sd = np.sqrt(target.covariances[:, 0, 0])

    def owner(x: float) -> int:
        return int(np.argmax(stats.norm.logpdf(x, target.means[:, 0], sd) + np.log(target.weights)))

    points = np.linspace(-22.0, 22.0, 2001)
    owners = [owner(x) for x in points]
    ends, inside = [-22.0], [owners[0]]
    for left, right, a, b in zip(points, points[1:], owners, owners[1:], strict=False):
        if a != b:
            ends.append(float(optimize.bisect(lambda x, a=a: 1.0 if owner(x) == a else -1.0, left, right, xtol=1e-13)))
            inside.append(b)
    pieces = list(zip(inside, ends, [*ends[1:], 22.0], strict=True))

    def mass(of: Mixture, k: int) -> float:
        scale = np.sqrt(of.covariances[:, 0, 0])
        cdf = [stats.norm.cdf(np.array([[a], [b]]), of.means[:, 0], scale) @ of.weights for i, a, b in pieces if i == k]
        return float(sum(high - low for low, high in cdf))

    def divergence(first: Mixture, second: Mixture, k: int) -> float:
        log_p, log_q = log_pdf(first), log_pdf(second)
        marks = np.sort(np.concatenate([target.means[:, 0], fit.means[:, 0]]))
        total = 0.0
        for _, a, b in (piece for piece in pieces if piece[0] == k):
            knots = [a, *marks[(marks > a) & (marks < b)], b]
            for low, high in itertools.pairwise(knots):
                f = lambda x: math.exp(log_p(x)) * (log_p(x) - log_q(x))  # noqa: E731
                total += integrate.quad(f, low, high, epsabs=1e-9, limit=200)[0]
        return total

    found = by_quadrature(target, fit)
    for name, first, second in (("forward", target, fit), ("reverse", fit, target)):
        for k in range(target.modes):
            a, b = mass(first, k), mass(second, k)
            lost = a * math.log(a / b) if a > 0 else 0.0
            assert found.modes[f"{name}_coverage_nats"][k] == pytest.approx(lost, abs=1e-6)
            whole = divergence(first, second, k)
            assert found.modes[f"{name}_shape_nats"][k] == pytest.approx(whole - lost, abs=1e-6)
        for part in ("coverage", "shape"):
            key = f"{name}_{part}_nats"
            assert found.modes[key].sum() == pytest.approx(found.metrics[key], abs=1e-6)


def test_each_modes_nats_add_up_for_draws() -> None:
    rng = np.random.default_rng(11)
    target, fit = random_mixture(rng, 5), random_mixture(rng, 3)
    for found in by_draws(target, fit, 2000, 3):
        for key in ("forward_coverage_nats", "forward_shape_nats", "reverse_coverage_nats", "reverse_shape_nats"):
            assert found.modes[key].sum() == pytest.approx(found.metrics[key], abs=1e-6)


def test_capture_area_is_the_area_under_the_curve() -> None:
    rng = np.random.default_rng(0)
    target, fit = random_mixture(rng, 4), random_mixture(rng, 2)
    found = by_quadrature(target, fit)
    half = math.sqrt(stats.chi2.ppf(0.99, 1))
    sd = np.sqrt(target.covariances[:, 0, 0])

    def inside(f: Callable[[float], float], k: int) -> float:
        a, b = target.means[k, 0] - half * sd[k], target.means[k, 0] + half * sd[k]
        return float(integrate.quad(f, a, b, limit=400, epsabs=1e-11)[0])

    shares = np.array([inside(pdf(fit), k) / inside(pdf(target), k) for k in range(4)])
    np.testing.assert_allclose(found.modes["fair_share"], shares, atol=1e-6)
    tau = (np.arange(200_000) + 0.5) / 200_000
    curve = (shares[:, None] >= tau).mean(axis=0)
    assert found.metrics["capture_area"] == pytest.approx(float(curve.mean()), abs=1e-5)
    assert found.metrics["capture_area_se"] == 0.0


@pytest.mark.parametrize("case", [0, 1, 2])
def test_stated_errors_are_those_of_repetition(case: int) -> None:
    """96 independent sets of draws; ellipses that hardly overlap, as the error of the area supposes."""
    target = mixture([0.2, 0.3, 0.5], [-9.0, 0.0, 9.0], [1.0, 0.7, 1.3])
    fit = [
        mixture([0.5, 0.3, 0.2], [-9.3, 0.2, 8.7], [1.2, 0.8, 1.1]),
        mixture([0.15, 0.25, 0.6], [-9.0, 0.0, 9.2], [1.5, 1.0, 1.6]),
        gaussian(1.0, 8.0),
    ][case]
    found = [e for block in range(3) for e in by_draws(target, fit, 2000, 32, seed=1000 * block)]
    exact = by_quadrature(target, fit)
    for name, bias in (
        ("capture_area", 2e-3),
        ("entropic_coverage", 1e-3),
        ("effective_modes", 1e-3),
        ("gated_entropic_coverage", 1e-3),
        ("ess_forward", 5e-3),
    ):
        values = np.array([e.metrics[name] for e in found])
        stated = np.mean([e.metrics[f"{name}_se"] for e in found])
        assert abs(values.mean() - exact.metrics[name]) < 4 * values.std() / math.sqrt(96) + bias, name
        assert 0.72 < values.std() / stated < 1.4, name  # the sd of 96 values is known to 7 %


def test_errors_where_modes_are_the_same() -> None:
    """The first and the last: what is said of the cell does not depend on where in the list its modes are."""
    target = mixture([0.3, 0.4, 0.3], [-2.0, 2.0, -2.0], [1.0, 1.0, 1.0])
    neighbours = replace(target, weights=target.weights[[0, 2, 1]], means=target.means[[0, 2, 1]])
    x_p, fit = draws_of(target, 2000, range(32)), mixture([0.45, 0.55], [-2.0, 2.0], [1.1, 1.1])
    q = StackedMixture.stack([fit] * 32, torch.float64)
    sides = [Measure.of_draws(x, q.log_prob(x)) for x in (x_p, draws_of(fit, 2000, range(500, 532)))]
    found, other = (evaluate([t] * 32, *sides) for t in (target, neighbours))
    for name in ("forward_coverage_nats", "forward_shape_nats", "reverse_coverage_nats", "reverse_shape_nats"):
        values, errors = (np.array([e.metrics[key] for e in found]) for key in (name, f"{name}_se"))
        assert errors == pytest.approx([e.metrics[f"{name}_se"] for e in other], rel=1e-9)
        assert 0.7 < values.std() / errors.mean() < 1.4, name


def test_ties_of_one_cell_beside_a_diverged_one() -> None:
    """As many points of two modes as of none: the tied ones have half of the mass each, whoever is beside them."""
    twice, apart = mixture([0.5, 0.5], [1.0, 1.0], [1.0, 1.0]), mixture([0.5, 0.5], [-1.0, 1.0], [1.0, 1.0])
    x = draws_of(twice, 512, range(2))
    x[1] = math.nan
    counts = tally(StackedMixture.stack([twice, apart], torch.float64), Measure.of_draws(x, x[:, 0]))
    assert counts.mass[0].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", ["two_rings", "funnel2"])
def test_densities_by_formula_have_the_same_columns(name: str) -> None:
    """Of Q = P every weight is 1; of a Gaussian the modes' parts add up to the totals."""
    target = named(name)
    assert isinstance(target, Analytic)
    stacked = StackedAnalytic.stack([target] * 32, torch.float64)
    x_p, x_q = (stacked.draw(2000, [torch.Generator().manual_seed(s + k) for k in range(32)]) for s in (0, 100))
    own = [Measure.of_draws(x, stacked.log_prob(x)) for x in (x_p, x_q)]
    m = evaluate([target] * 32, *own, df_q=5.0)[0].metrics
    assert m["ess_forward"] == m["ess_reverse"] == pytest.approx(1.0, abs=1e-9)
    normal = torch.distributions.MultivariateNormal(*(torch.as_tensor(v) for v in (target.mean, target.covariance)))
    torch.manual_seed(0)
    x_q = normal.sample((32, 2000)).mT.contiguous()
    wide = [Measure.of_draws(x, normal.log_prob(x.mT)) for x in (x_p, x_q)]
    found = evaluate([target] * 32, *wide)[0]
    # Along the funnel's mouth p falls slower than any Gaussian: draws would give some number for an infinite chi2.
    ess = found.metrics["ess_forward"]
    assert ess == 0 if name == "funnel2" else 0 < ess < 1
    if target.form.masses is None:
        assert not found.modes
        return
    assert m["capture_area"] == 1.0 and m["collapse_invoice"] == pytest.approx(0.0, abs=1e-12)
    for key in ("forward_coverage_nats", "forward_shape_nats", "reverse_coverage_nats", "reverse_shape_nats"):
        assert found.modes[key].sum() == pytest.approx(found.metrics[key], abs=1e-6)


def test_a_mode_that_nobody_drew_is_not_captured() -> None:
    """Of weight 1e-9 and 20 widths away: no draw lies there, and what is said of the other mode stays."""
    target, fit = mixture([1 - 1e-9, 1e-9], [0.0, 20.0], [1.0, 1.0]), gaussian(0.5, 1)
    end = math.sqrt(stats.chi2.ppf(0.99, 1))
    share = (stats.norm.cdf(end, 0.5) - stats.norm.cdf(-end, 0.5)) / 0.99
    found = by_draws(target, fit, 2000)
    areas, errors = (np.array([e.metrics[name] for e in found]) for name in ("capture_area", "capture_area_se"))
    assert areas.mean() == pytest.approx(share / 2, abs=5 * areas.std() / math.sqrt(32))
    assert 0.6 < areas.std() / errors.mean() < 1.6
    for e in found:
        assert e.metrics["modes_captured"] == 1 and list(e.modes["captured"]) == [True, False]
        assert e.metrics["collapse_invoice"] == pytest.approx(1e-9, rel=1e-6)
        assert e.modes["fair_share"][1] == 0
    assert modes.captured(np.array([0.0, 0.0, 0.2]), np.array([0.0, 0.1, 0.01])).tolist() == [False, True, False]


def test_width_of_a_mode_under_another_one() -> None:
    """0.1 N(0, 0.9) is below 0.9 N(0, 1) everywhere: its ellipse is captured, its cell empty, the other's the line."""
    target = mixture([0.9, 0.1], [0.0, 0.0], [1.0, math.sqrt(0.9)])
    found = by_quadrature(target, gaussian(0, 1.2))
    assert found.metrics["modes_captured"] == 2
    assert found.metrics["log_width"] == pytest.approx(math.log(1.2 / math.sqrt(0.99)), abs=1e-7)
    assert np.isnan(found.modes["log_width"]).tolist() == [False, True]


@pytest.mark.parametrize("df", [1.5, 2.0, 3.0])
def test_only_where_there_is_a_variance_is_there_a_width(df: float) -> None:
    target = replace(gaussian(0, 1), df=df)
    found = by_quadrature(target, replace(gaussian(0, 2), df=df))
    expected = math.log(2) if df > 2 else math.nan
    assert found.metrics["log_width"] == pytest.approx(expected, abs=1e-7, nan_ok=True)
    assert found.modes["log_width"] == pytest.approx([expected], abs=1e-7, nan_ok=True)
    assert found.metrics["modes_captured"] == 1


def test_invoice_of_no_modes_is_infinite() -> None:
    weights = np.array([0.25, 0.25, 0.5])
    assert modes.collapse_invoice(weights, np.zeros(3, bool)) == math.inf
    assert modes.collapse_invoice(weights, np.array([True, False, True])) == pytest.approx(-math.log(0.75))


def test_the_curves_intervals_are_wilsons() -> None:
    rng = np.random.default_rng(5)
    for m in (1, 2, 8, 25, 40):
        shares, tau = rng.uniform(0, 1.5, m), np.linspace(0.01, 1, 7)
        curve, low, high = modes.capture_curve(shares, tau)
        for i, t in enumerate(tau):
            count = int((shares >= t).sum())
            known = stats.binomtest(count, m).proportion_ci(method="wilson")
            assert curve[i] == count / m
            assert (low[i], high[i]) == pytest.approx((known.low, known.high), abs=1e-12)


@pytest.mark.parametrize("factor", [0.5, -3.0])
def test_multiples_and_sums_of_estimates(factor: float) -> None:
    """Of the values themselves, and of independent ones."""
    x = draws_of(gaussian(1, 2), 1000, range(2))
    measure = Measure.of_draws(x, x[:, 0])
    one = expectation(measure, x[:, 0])
    scaled, whole = one * factor, expectation(measure, factor * x[:, 0])
    torch.testing.assert_close((scaled.value, scaled.variance), (whole.value, whole.variance))
    total = one + Estimate(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(total.value - one.value, torch.tensor([1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(total.variance - one.variance, torch.tensor([3.0, 4.0], dtype=torch.float64))


def test_the_error_of_effective_modes_is_the_spread_of_histograms() -> None:
    """Of two modes of ten, and of all ten."""
    rng, n = np.random.default_rng(2), 3000
    for share in (np.array([0.8, 0.2, *[0.0] * 8]), np.arange(1, 11) / 55):
        repeated = np.exp(stats.entropy(rng.multinomial(n, share, 4000) / n, axis=1)) / 10
        stated = modes.entropic(share, n)
        assert stated["effective_modes_se"] == pytest.approx(repeated.std(), rel=0.05)
        assert stated["effective_modes"] == pytest.approx(repeated.mean(), rel=0.01)


@pytest.mark.parametrize("fitted", [(0.25, 0.02, 0.1, 0.0, 0.03), (0.1, 0.08, 0.1, 0.06, 0.06)])
def test_the_error_of_gated_coverage_where_both_sides_leave_much_outside(fitted: tuple[float, ...]) -> None:
    """P has 0.6 in its modes' ellipses, Q 0.4: the spread of histograms of both, the last of whose bins is outside."""
    rng, n = np.random.default_rng(3), 2000
    p, q = np.array([0.2, 0.1, 0.1, 0.15, 0.05]), np.array(fitted)
    counts = [rng.multinomial(n, [*side, 1 - side.sum()], 4000)[:, :5] / n for side in (p, q)]
    gate = counts[1].sum(axis=1) / counts[0].sum(axis=1)
    repeated = gate * stats.entropy(counts[1], axis=1) / math.log(5)
    stated = modes.gated_entropic(p, q, n)
    assert gate.max() < 1
    assert stated["gated_entropic_coverage"] == pytest.approx(repeated.mean(), rel=0.01)
    assert stated["gated_entropic_coverage_se"] == pytest.approx(repeated.std(), rel=0.05)


@pytest.mark.parametrize(
    "fit",
    [gaussian(-4, 1.5), gaussian(-4, 2.0), mixture([0.99, 0.01], [-4.0, 4.0], [1.0, 1.0])],
    ids=["one Gaussian", "a wider one", "hardly any of it is left"],
)
def test_errors_of_both_forward_nats_where_a_mode_is_lost(fit: Mixture) -> None:
    """What the lost mode's share of the draws makes uncertain is the part between modes, not that within them."""
    target = mixture([0.6, 0.4], [-4.0, 4.0], [1.0, 1.0])
    found = [e for block in range(3) for e in by_draws(target, fit, 2000, 32, seed=1000 * block)]
    for name in ("forward_kl", "forward_coverage_nats", "forward_shape_nats"):
        values, errors = (np.array([e.metrics[key] for e in found]) for key in (name, f"{name}_se"))
        assert values.std() / math.sqrt((errors**2).mean()) == pytest.approx(1.0, abs=0.25), name


def test_modes_by_their_own_density_meet_in_the_middle() -> None:
    """Of weights 0.9 and 0.1 and equal widths, in the plane: where the joint densities cross is ln 9 / 3 beside it."""
    target = Mixture(
        "pair", np.array([0.9, 0.1]), np.array([[-1.5, 0.0], [1.5, 0.0]]), np.stack([np.diag([1.0, 4.0])] * 2)
    )
    fit = Mixture("fit", np.ones(1), np.array([[0.5, 1.0]]), np.diag([1.0, 2.0])[None])
    found = by_draws(target, fit, 4000)
    right = stats.norm.sf(0.0, 0.5, 1.0)
    expected = stats.entropy([right, 1 - right]) / math.log(2)
    values = np.array([e.metrics["entropic_coverage"] for e in found])
    assert values.mean() == pytest.approx(expected, abs=5 * values.std() / math.sqrt(32) + 2 / 4000)
    at_the_other = stats.norm.sf(math.log(9) / 3, 0.5, 1.0)
    assert abs(stats.entropy([at_the_other, 1 - at_the_other]) / math.log(2) - expected) > 0.02


@pytest.mark.parametrize(("share", "is_captured"), [(0.08, False), (0.12, True)])
def test_a_tenth_of_its_share_captures_a_mode(share: float, is_captured: bool) -> None:
    target, fit = (mixture([1 - w, w], [-10.0, 10.0], [1.0, 1.0]) for w in (0.5, 0.5 * share))
    for found in (by_quadrature(target, fit), by_draws(target, fit, 20_000, 1)[0]):
        assert found.modes["captured"].tolist() == [True, is_captured]
        assert found.metrics["modes_captured"] == 1 + is_captured
        assert found.metrics["collapse_invoice"] == pytest.approx(0.0 if is_captured else math.log(2), abs=1e-9)


@pytest.mark.parametrize("few_of_p", [True, False])
@pytest.mark.parametrize("few", [9, 11])
def test_ten_draws_of_each_side_make_a_width(few: int, few_of_p: bool) -> None:
    """Evenly spaced ones: of P over 2, of Q over 1, half of it."""
    target = mixture([0.5, 0.5], [-10.0, 10.0], [1.0, 1.0])

    def side(of_second: int, reach: float) -> np.ndarray:
        return np.concatenate(
            [reach * np.linspace(-1, 1, n) + at for n, at in ((200 - of_second, -10), (of_second, 10))]
        )

    places = [side(few if few_of_p else 40, 2.0), side(40 if few_of_p else few, 1.0)]
    wide = stats.norm(0, 10)
    measures = [Measure.of_draws(torch.tensor(x).view(1, 1, -1), torch.tensor(wide.logpdf(x))[None]) for x in places]
    (found,) = evaluate([target], *measures)
    spreads = [x[-n:].std() for x, n in zip(places, (few, 40) if few_of_p else (40, few), strict=True)]
    expected = math.log(spreads[1] / spreads[0]) if few > 10 else math.nan
    assert found.modes["captured"].all()
    assert found.modes["log_width"][1] == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert found.modes["log_width"][0] == pytest.approx(-math.log(2), abs=0.02)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("df", [1.5, 2.0, 2.05])
def test_where_there_is_no_variance_forward_kl_is_infinite(df: float, dim: int) -> None:
    """Beside a Gaussian: -log q is a square, which has a mean under P where scipy's Student-t has a variance."""
    target = Mixture("heavy", np.ones(1), np.zeros((1, dim)), np.eye(dim)[None], df=df)
    fit = Mixture("fit", np.ones(1), np.zeros((1, dim)), 2 * np.eye(dim)[None])
    (found, *_) = [by_quadrature(target, fit)] if dim == 1 else by_draws(target, fit, 500, 1)
    for name in ("forward_kl", "forward_shape_nats"):
        assert np.isfinite(found.metrics[name]) == np.isfinite(stats.t(df).var()), name
    assert np.isfinite(found.modes["forward_shape_nats"]).tolist() == [np.isfinite(stats.t(df).var())]
    assert np.isfinite(found.metrics["reverse_kl"])


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_the_one_mode_that_a_reference_keeps_is_the_heaviest(order: slice) -> None:
    """Wherever in the list it is: the many small amounts, not the few large ones."""
    target = named("transactions")
    assert isinstance(target, Mixture)
    parts = (target.weights[order], target.means[order], target.covariances[order])
    known = references.fits(Mixture("amounts", *parts))
    for row in ("one mode", "all but one mode"):
        assert known[row].means.tolist() == [[40.0]]
        assert known[row].covariances.tolist() == [[[144.0]]]
        assert known[row].weights.tolist() == [1.0]
    three = mixture([0.2, 0.5, 0.3], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    found = references.fits(three)["all but one mode"]
    assert dict(zip(found.means[:, 0], found.weights, strict=True)) == pytest.approx({2.0: 0.625, 3.0: 0.375})
