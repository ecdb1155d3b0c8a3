"""Targets by formula, against densities written again with scipy, quadrature, and samples counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from scipy.special import logsumexp

from experiments.stacked_analytic import StackedAnalytic
from experiments.targets import Analytic, named

RADIAL = ("rings", "two_rings")
FUNNELS = ("funnel2", "funnel10")
WELLS = ("double_well", "many_well32")
NAMES = (*RADIAL, "two_moons", *FUNNELS, *WELLS, "student_t_jax")
DRAWS = 20_000
END = 4.5 * math.pi


def analytic(name: str) -> Analytic:
    found = named.target(name)
    assert isinstance(found, Analytic)
    return found


def profile(name: str, r: np.ndarray) -> np.ndarray:
    """Of a radial density, not normalised."""
    if name == "rings":
        return np.where(r <= END, np.cos(r) + 1.001, np.exp(END - r))
    return np.exp(-32 * (r - 1) ** 2) + np.exp(-32 * (r - 2) ** 2)


def radial_integral(name: str, function: Callable[[float], float], low: float = 0.0, high: float = math.inf) -> float:
    """Over the plane between two radii; between lines where the integrand is smooth."""
    lines = [0, 0.5, 1, 1.5, 2, 2.5, 3, *np.arange(math.pi, 14, math.pi), END, END + 15, END + 40]
    inside = [low, *(line for line in lines if low < line < high), min(high, lines[-1])]
    parts = [integrate.quad(lambda r: 2 * math.pi * r * function(r), a, b)[0] for a, b in itertools.pairwise(inside)]
    return math.fsum(parts)


def well(x: float) -> float:
    return math.exp(-(x**4) + 6 * x**2 + x / 2)


def well_integral(function: Callable[[float], float], low: float = -4.0, high: float = 4.0) -> float:
    """Against the normalised well, between bounds."""
    inside = [low, *(line for line in (-2.5, -1.7, 0, 1.7, 2.5) if low < line < high), high]
    parts = [
        integrate.quad(lambda x: function(x) * well(x), a, b, epsrel=1e-12)[0] for a, b in itertools.pairwise(inside)
    ]
    return math.fsum(parts) / well_z()


@cache
def well_z() -> float:
    return math.fsum(integrate.quad(well, a, a + 0.5, epsrel=1e-12)[0] for a in np.arange(-4, 4, 0.5))


def moons(x: np.ndarray) -> np.ndarray:
    """Logarithm, not normalised."""
    ring = stats.norm.logpdf(np.hypot(*x), 2, 0.2)
    return ring + logsumexp([stats.norm.logpdf(x[0], side, 0.3) for side in (-2, 2)], axis=0)


@cache
def plane(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Points ``(2, N)`` and areas for the trapezoidal rule, which is exact to rounding for smooth densities."""
    if name == "two_moons":
        u = np.linspace(-3.6, 3.6, 361)
        x, step = u, np.full_like(u, u[1] - u[0])
    else:
        u = np.arange(-13, 13, 0.04)
        x, step = np.sinh(u), 0.04 * np.cosh(u)
    return np.stack([g.ravel() for g in np.meshgrid(x, x, indexing="ij")]), np.outer(step, step).ravel()


@cache
def log_z(name: str) -> float:
    """Of the formula as the functions above write it."""
    if name in RADIAL:
        return math.log(radial_integral(name, lambda r: float(profile(name, np.array(r)))))
    if name in WELLS:
        return analytic(name).dim / 2 * (math.log(well_z()) + 0.5 * math.log(2 * math.pi))
    if name == "two_moons":
        x, area = plane(name)
        return math.log(np.exp(moons(x)) @ area)
    return 0.0


def log_density(name: str, x: np.ndarray) -> np.ndarray:
    """``(D, N) -> (N,)``."""
    if name in RADIAL:
        value = np.log(profile(name, np.hypot(*x)))
    elif name == "two_moons":
        value = moons(x)
    elif name in FUNNELS:
        value = stats.norm.logpdf(x[0], 0, 3) + stats.norm.logpdf(x[1:], 0, np.exp(x[0] / 2)).sum(0)
    elif name in WELLS:
        value = (-(x[0::2] ** 4) + 6 * x[0::2] ** 2 + x[0::2] / 2 - x[1::2] ** 2 / 2).sum(0)
    else:
        parts = [stats.t(2, loc=m[:, None]).logpdf(x).sum(0) for m in analytic(name).form.places]
        value = logsumexp(parts, axis=0) - math.log(len(parts))
    return np.asarray(value - log_z(name))


@cache
def draws(name: str) -> np.ndarray:
    """``(D, N)`` by torch, of one seed."""
    stacked = StackedAnalytic.stack([analytic(name)], torch.float64)
    return stacked.draw(DRAWS, [torch.Generator().manual_seed(3)])[0].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_densities_are_their_formulas(name: str) -> None:
    target = analytic(name)
    rng = np.random.default_rng(0)
    for x in (draws(name)[:, :500], 1.5 * rng.standard_normal((target.dim, 500))):
        np.testing.assert_allclose(target.log_prob(x.T), log_density(name, x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("name", "published"), [("double_well", 11784.50927), ("many_well32", 11784.50927)])
def test_wells_have_the_published_normalising_constant(name: str, published: float) -> None:
    """Of FAB's double well (github.com/lollcat/fab-torch), to its ten digits."""
    expected = analytic(name).dim / 2 * (math.log(published) + 0.5 * math.log(2 * math.pi))
    assert analytic(name).form.log_z == pytest.approx(expected, rel=1e-9)


def test_normalising_constants_of_the_formulas_as_their_sources_write_them() -> None:
    assert analytic("rings").form.log_z == pytest.approx(log_z("rings"), abs=1e-9)
    assert analytic("two_rings").form.log_z == pytest.approx(log_z("two_rings"), abs=1e-9)
    without = 2 * math.log(2 * math.pi * 0.2 * 0.3) / 2  # moons() has the constants of two normals
    assert analytic("two_moons").form.log_z == pytest.approx(log_z("two_moons") + without, abs=1e-9)
    assert analytic("many_well32").form.log_z == pytest.approx(164.695675, abs=1e-6)


@pytest.mark.parametrize("name", ["two_moons", "student_t_jax"])
def test_mass_entropy_and_moments_in_the_plane(name: str) -> None:
    target = analytic(name)
    x, area = plane(name)
    log_p = target.log_prob(x.T)
    mass = np.exp(log_p) * area
    assert mass.sum() == pytest.approx(1, abs=1e-8)
    entropy, error = target.entropy
    assert entropy == pytest.approx(-(mass @ log_p), abs=error + 1e-7)
    assert error < 1e-4
    assert target.form.masses is not None and target.form.masses.sum() == pytest.approx(1)
    if name == "student_t_jax":
        assert np.abs(target.form.masses - cross_masses(target.form.places)).max() < 1e-4
        return
    assert np.allclose(target.covariance, (x * mass) @ x.T, atol=1e-9)
    half = mass[x[0] < 0].sum() + 0.5 * mass[x[0] == 0].sum()
    assert np.allclose(target.form.masses, [half, 1 - half])


def cross_masses(means: np.ndarray) -> np.ndarray:
    """Mass where each cross is the highest. On a line of one x0 the borders between two are roots of a quadratic."""
    u = np.arange(-9, 9, 0.02)
    masses = np.zeros(len(means))
    first, second = np.triu_indices(len(means), 1)
    for x, step in zip(np.sinh(u), 0.02 * np.cosh(u), strict=True):
        a, m = 2 + (x - means[:, 0]) ** 2, means[:, 1]
        quadratic = a[first] - a[second]
        linear = -2 * (a[first] * m[first] - a[second] * m[second])
        constant = a[first] * (2 + m[first] ** 2) - a[second] * (2 + m[second] ** 2)
        root = np.sqrt(np.maximum(linear**2 - 4 * quadratic * constant, 0))
        borders = np.sort(np.concatenate([-linear + root, -linear - root]) / np.tile(2 * quadratic, 2))
        middle = np.concatenate([[borders[0] - 1], 0.5 * (borders[1:] + borders[:-1]), [borders[-1] + 1]])
        owner = np.argmin(a[:, None] * (2 + (middle - m[:, None]) ** 2), axis=0)
        within = np.diff(stats.t(2).cdf(borders - m[:, None]), prepend=0, append=1)
        masses += np.bincount(owner, step * (a**-1.5) @ within / len(means), minlength=len(means))
    return masses


@pytest.mark.parametrize("name", RADIAL)
def test_mass_entropy_and_moments_of_rings(name: str) -> None:
    target = analytic(name)

    def log_p(r: float) -> float:
        return float(target.log_prob(np.array([[r, 0.0]]))[0])

    def p(r: float) -> float:
        return math.exp(log_p(r))

    assert radial_integral(name, p) == pytest.approx(1, abs=1e-9)
    assert target.entropy[0] == pytest.approx(-radial_integral(name, lambda r: p(r) * log_p(r)), abs=1e-8)
    variance = 0.5 * radial_integral(name, lambda r: p(r) * r * r)  # half of E r^2 for each coordinate
    np.testing.assert_allclose(target.covariance, variance * np.eye(2), atol=1e-8 * variance)
    valleys = {"rings": [math.pi, 3 * math.pi], "two_rings": [1.5]}[name]
    bounds = [0.0, *valleys, math.inf]
    masses = [radial_integral(name, p, low, high) for low, high in itertools.pairwise(bounds)]
    np.testing.assert_allclose(target.form.masses, masses, atol=1e-9)


@pytest.mark.parametrize("name", FUNNELS)
def test_mass_entropy_and_moments_of_funnels(name: str) -> None:
    """Given x0 the others are normal, so every integral is one over x0."""
    target, rest = analytic(name), analytic(name).dim - 1
    half = 0.5 * math.log(2 * math.pi * math.e)
    neck = stats.norm(0, 3)
    assert target.entropy == (pytest.approx(neck.entropy() + neck.expect(lambda v: rest * (half + v / 2))), 0.0)
    wide = neck.expect(lambda v: math.exp(v), lb=-40, ub=60)
    assert np.allclose(target.covariance, np.diag([9.0, *[wide] * rest]))
    assert wide == pytest.approx(90.0171, abs=1e-4)
    assert target.form.masses is not None and target.form.masses.tolist() == [1.0]
    # Along each other coordinate the density is that of a normal: two points tell its mass.
    at = np.zeros((2, target.dim))
    at[:, 0] = v = -1.7
    at[1, 1] = math.exp(v / 2)
    peak, side = target.log_prob(at)
    assert peak - side == pytest.approx(0.5)
    assert peak + rest * (0.5 * math.log(2 * math.pi) + v / 2) == pytest.approx(neck.logpdf(v))


@pytest.mark.parametrize("name", WELLS)
def test_mass_entropy_and_moments_of_wells(name: str) -> None:
    """Coordinates are independent, so every integral is one over a well."""
    target, pairs = analytic(name), analytic(name).dim // 2
    mean = well_integral(lambda x: x)
    variance = well_integral(lambda x: (x - mean) ** 2)
    assert (mean, variance) == pytest.approx((1.18796, 1.54855), abs=1e-5)
    assert np.allclose(target.mean, np.tile([mean, 0.0], pairs), atol=1e-9)
    assert np.allclose(target.covariance, np.diag(np.tile([variance, 1.0], pairs)), atol=1e-9)
    own = -well_integral(lambda x: math.log(well(x) / well_z()))
    entropy = pairs * (own + 0.5 * math.log(2 * math.pi * math.e))
    assert target.entropy[0] == pytest.approx(entropy, abs=1e-8)
    barrier = optimize.minimize_scalar(well, bounds=(-1, 1), method="bounded").x
    right = well_integral(lambda x: 1.0, low=barrier)
    assert right == pytest.approx(0.844307, abs=1e-4)
    if name == "double_well":
        np.testing.assert_allclose(target.form.masses, [1 - right, right], atol=1e-6)
    else:
        assert target.form.masses is None
        heavy, light = target.log_prob(target.form.places)
        assert (target.modes, heavy - light > 16) == (65_536, True)


def cdf(density: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> Callable[[np.ndarray], np.ndarray]:
    x = np.linspace(low, high, 40_001)
    total = integrate.cumulative_simpson(density(x), x=x, initial=0)
    return lambda at: np.interp(at, x, total / total[-1])


def pivots(name: str) -> list[tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]]:
    """Functions of the draws that are independent of each other, with their distribution functions."""
    x = draws(name)
    if name in RADIAL:
        radius = cdf(lambda r: r * profile(name, r), 0, END + 40 if name == "rings" else 4)
        return [(np.hypot(*x), radius), (np.arctan2(x[1], x[0]), stats.uniform(-math.pi, 2 * math.pi).cdf)]
    if name in FUNNELS:
        return [(x[0], stats.norm(0, 3).cdf), *((row, stats.norm.cdf) for row in x[1:] / np.exp(x[0] / 2))]
    if name in WELLS:
        own = cdf(np.vectorize(well), -4, 4)
        return [(row, stats.norm.cdf if i % 2 else own) for i, row in enumerate(x)]
    if name == "two_moons":
        points, area = plane(name)
        mass = (np.exp(log_density(name, points)) * area).reshape(361, 361)
        axis = points[1, :361] + 0.5 * (points[1, 1] - points[1, 0])  # sums end half a step beyond a node
        sides = [np.cumsum(mass.sum(1)), np.cumsum(mass.sum(0))]
        return [(row, lambda at, total=total: np.interp(at, axis, total)) for row, total in zip(x, sides, strict=True)]
    means = analytic(name).form.places
    return [
        (row, lambda at, m=m: stats.t(2, loc=m[:, None]).cdf(at).mean(0)) for row, m in zip(x, means.T, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_distributions_of_the_density(name: str) -> None:
    found = pivots(name)
    for values, distribution in found:
        assert stats.kstest(values, distribution).pvalue > 1e-4
    if name not in ("two_moons", "student_t_jax"):
        uniform = np.stack([distribution(values) for values, distribution in found])
        away = np.corrcoef(uniform) - np.eye(len(uniform))
        assert np.abs(away).max() < 5 / math.sqrt(DRAWS)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "many_well32"])
def test_samples_fall_into_the_cells_as_their_masses_say(name: str) -> None:
    target, masses = analytic(name), analytic(name).form.masses
    assert masses is not None
    counts = np.bincount(np.asarray(target.form.cell(draws(name), np)), minlength=len(masses))
    if len(masses) > 1:
        assert stats.chisquare(counts, masses * DRAWS).pvalue > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_log_density_of_samples_is_minus_the_entropy(name: str) -> None:
    log_p = log_density(name, draws(name))
    entropy, error = analytic(name).entropy
    assert -log_p.mean() == pytest.approx(entropy, abs=4 * log_p.std() / math.sqrt(DRAWS) + error)
