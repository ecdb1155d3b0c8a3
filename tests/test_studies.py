"""Studies: their closed forms against other mathematics, and what they make of cells."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from experiments.catalogue import CATALOGUE
from experiments.kl_fit import MEANINGS
from studies import __main__, dimension, gan_protocol, gradients

MODES = 4.0


@pytest.mark.parametrize("dim", [2, 3, 7, 64])
def test_what_correlation_costs(dim: int) -> None:
    """By determinants and inverses; and no other diagonal does better."""
    r = np.full((dim, dim), 0.5) + 0.5 * np.eye(dim)
    log_det, precision = np.linalg.slogdet(r)[1], np.diag(np.linalg.inv(r))
    forward, reverse = dimension.correlated(dim)
    assert forward == pytest.approx(-log_det / 2, rel=1e-9)
    assert reverse == pytest.approx((log_det + np.log(precision).sum()) / 2, rel=1e-9)

    def reverse_at(v: np.ndarray) -> float:
        return 0.5 * float(precision @ v - dim + log_det - np.log(v).sum())

    rng = np.random.default_rng(dim)
    assert reverse_at(1 / precision) == pytest.approx(reverse, rel=1e-9)
    assert all(reverse_at(rng.lognormal(0, 0.3, dim) / precision) > reverse for _ in range(20))


def log_p(x: np.ndarray) -> np.ndarray:
    """Of two modes along the diagonal of the plane, a point a row."""
    means = np.array([1, 1]) * MODES / math.sqrt(2)
    each = [stats.multivariate_normal(sign * means, np.eye(2)).logpdf(x) for sign in (-1, 1)]
    return np.logaddexp(*each) - math.log(2)


@pytest.mark.parametrize(("full", "seeking"), [(True, True), (True, False), (False, True), (False, False)])
def test_two_modes_in_the_plane(full: bool, seeking: bool) -> None:
    """Reverse KL at Gaussians with and without correlation: none is better, and the best is equal."""
    # Along the modes' line an even grid, as log p bends there; across it log p is a square, for which five nodes do.
    line = np.linspace(-9, 9, 1201)
    node, weight = np.polynomial.hermite_e.hermegauss(5)
    w = np.outer(stats.norm.pdf(line) * (line[1] - line[0]), weight / weight.sum()).ravel()
    diagonal, other = np.array([[1, 1], [1, -1]]) / math.sqrt(2)
    z = (line[:, None, None] * diagonal + node[None, :, None] * other).reshape(-1, 2)

    def value(a: float, along: float, across: float) -> float:
        root = across * np.eye(2) + (along - across) * np.outer(diagonal, diagonal)
        x = a * diagonal + z @ root
        entropy = math.log(2 * math.pi * math.e) + math.log(along * across)
        return float(-entropy - w @ log_p(x))

    known = dimension.reverse_pair(2, full, seeking)
    widths = np.linspace(0.5, 4, 201)
    starts = [MODES - 0.005, MODES] if seeking else [0.0]
    found = min(value(a, s, 1.0 if full else s) for a in starts for s in [*widths, 1.0, 1.0008])
    assert known <= found + 1e-6
    assert found == pytest.approx(known, abs=5e-4)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_forward_kl_of_two_modes(dim: int) -> None:
    """KL(P || Q) of moments, by its one-dimensional part and the determinant of the covariance."""
    line = integrate.quad(lambda x: math.exp(lp := _line(x)) * (lp - stats.norm.logpdf(x, 0, math.sqrt(17))), -16, 16)[
        0
    ]
    assert dimension.forward_pair(dim, full=True) == pytest.approx(line, abs=1e-8)
    variances = np.full(dim, 1 + 16 / dim)
    covariance = np.eye(dim) + 16 * np.full((dim, dim), 1 / dim)
    lost = 0.5 * (np.log(variances).sum() - np.linalg.slogdet(covariance)[1])
    assert dimension.forward_pair(dim, full=False) == pytest.approx(line + lost, abs=1e-8)


def _line(x: float) -> float:
    return float(np.logaddexp(stats.norm.logpdf(x, -4), stats.norm.logpdf(x, 4)) - math.log(2))


def test_the_middle_is_an_optimum_where_its_curvature_is_positive() -> None:
    """By finite differences of the divergence itself."""
    s = 1.7
    h = 1e-3
    values = [dimension.reverse_line(a, s) for a in (-h, 0.0, h)]
    second = (values[0] - 2 * values[1] + values[2]) / h**2
    z = np.random.default_rng(0).standard_normal(400_000)
    drawn = 1 - 16 * np.cosh(4 * s * z) ** -2.0
    assert second == pytest.approx(drawn.mean(), abs=5 * drawn.std() / math.sqrt(len(z)))
    assert dimension.curvature(2) < 0


@pytest.mark.parametrize("estimator", ["reparameterization", "sticking_the_landing"])
@pytest.mark.parametrize(("width", "offset", "dim"), [(0.4, 0.5, 1), (1.0, 0.5, 3), (1.9, 1.3, 2)])
def test_variances_of_gradients(estimator: str, width: float, offset: float, dim: int) -> None:
    """Against gradients written out and drawn."""
    e = np.random.default_rng(1).standard_normal((dim, 400_000))
    x = np.full((dim, 1), offset / math.sqrt(dim)) + width * e
    by_x = x if estimator == "reparameterization" else x - e / width
    squares = np.concatenate([by_x, by_x * width * e])
    squares = (squares - squares.mean(axis=1, keepdims=True)) ** 2
    total = squares.sum(axis=0)
    known = gradients.closed_form(estimator, width, offset, dim)
    assert known == pytest.approx(total.mean(), abs=5 * total.std() / math.sqrt(total.size))


def test_the_border_is_where_a_ratio_falls_through_one() -> None:
    widths = np.array([0.5, 0.6, 0.7, 0.8, 1.0])
    assert gradients.border(pd.Series((0.71 / widths) ** 3, index=widths)) == pytest.approx(0.71, rel=1e-6)
    both = [gradients.closed_form(name, 0.5**0.5, 0.8, 5) for name in ("reparameterization", "sticking_the_landing")]
    assert both[0] == pytest.approx(both[1], rel=1e-12)


def test_evenness_is_entropy_s_distance_from_that_of_equal_masses() -> None:
    masses = np.random.default_rng(2).dirichlet(np.ones(8))
    entropy = stats.entropy(masses)
    metrics = {"modes_captured": 8, "high_quality": 0.5, "entropic_coverage": entropy / math.log(8), "log_width": 0.0}
    row = gan_protocol._row("ring8", "fitted here", "any", metrics)
    assert row["kl_over_modes"] == pytest.approx(stats.entropy(masses, np.full(8, 1 / 8)), rel=1e-9)
    assert row["high_quality_percent"] == 50


def test_every_study_has_a_sweep_or_needs_none() -> None:
    for name, module in __main__.STUDIES.items():
        assert module is importlib.import_module(f"studies.{name}")
        assert name in CATALOGUE.sweeps or name in ("penalty", "ladder")


def test_every_sweep_and_divergence_is_told_of() -> None:
    docs = Path(__file__).parents[1] / "docs"
    told = (docs / "studies.md").read_text()
    assert all(f"\n## {name}\n" in told for name in CATALOGUE.sweeps if name != "smoke")
    explained = (docs / "divergences.md").read_text()
    assert all(f"\n## {name}\n" in explained for name in MEANINGS)
    linked = re.findall(r"\]\(([^)#]+)", told + explained)
    assert len(linked) > 10
    assert [link for link in linked if not (docs / link).exists()] == []


def test_every_metric_is_explained() -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    reported = {metric.name for experiment in CATALOGUE.experiments.values() for metric in experiment.metrics}
    assert {name for name in reported if not re.search(rf"\b{name}\b", page)} == set()
    assert all((Path(__file__).parents[1] / "docs" / link).exists() for link in re.findall(r"\]\(([^)#]+)", page))
