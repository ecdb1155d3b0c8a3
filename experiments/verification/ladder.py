"""Rows on fits whose metrics are known: perfect, collapsed, over-sharp, blurry."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache, partial

import numpy as np
from scipy import stats

from experiments.references import neighbour_scores, references
from experiments.verification.estimate import Estimate
from experiments.verification.independent import Mix
from experiments.verification.machinery import judged, reference, shipped, some_modes, widened
from experiments.verification.row import Row

# Of the 5 x 5 grid: precision, recall, density, coverage, high quality, modes, entropic coverage.
LADDER = {
    "oracle": (0.987, 0.986, 1.001, 0.969, 0.9889, 25, 0.9985),
    "half of the modes": (0.986, 0.478, 0.998, 0.481, 0.9889, 12, 0.771),
    "one mode": (0.989, 0.040, 1.024, 0.040, 0.9889, 1, 0.0),
    "half width": (0.999, 0.751, 1.080, 0.771, 1.000, 25, 0.998),
    "double width": (0.756, 0.999, 0.574, 0.832, 0.677, 25, 0.9985),
    "moment-matched Gaussian": (0.022, 1.000, 0.013, 0.058, 0.015, None, 0.979),
}
COLUMNS = (
    "knn_precision",
    "knn_recall",
    "knn_density",
    "knn_coverage",
    "high_quality",
    "modes_captured",
    "entropic_coverage",
)
# Only some 100 of 2500 points lie in one needle of 25: between samples the density has an sd of 0.036.
ONE_NEEDLE, BETWEEN = ("one mode", "knn_density"), 0.036


def rows() -> Iterator[Row]:
    """All rows of this module."""
    yield from _grid()
    yield from _same()
    yield from _collapse()
    yield from _decoder_noise()


@cache
def _references(name: str) -> Mapping[str, Mapping[str, float]]:
    return {row.name: row.metrics for row in references(shipped(name))}


def _grid() -> Iterator[Row]:
    """Reference rows of the grid of 25 needles, the neighbour scores of 2500 points with k = 5."""
    for name, values in LADDER.items():
        for column, value in zip(COLUMNS, values, strict=True):
            if value is None:  # a count of single points, which our tenth of a mode's mass is not
                continue
            yield Row(
                f"ladder/grid25, {name}/{column}",
                "metric",
                "10 simulations of 2500 points",
                Estimate(value, 0.01) if (name, column) == ONE_NEEDLE else float(value),
                lambda n=name, c=column: _ladder(n, c),
                0.02 if column != "modes_captured" else 0.0,
            )


def _ladder(name: str, column: str) -> Estimate:
    value = _references("grid25")[name][column]
    return Estimate(value, BETWEEN / 2 if (name, column) == ONE_NEEDLE else 0.0)  # the mean of four samples


def _same() -> Iterator[Row]:
    """Two samples of one distribution."""
    for n, k in ((1000, 5), (500, 5), (1000, 3)):
        expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
        for name, value in (("knn_coverage", expected), ("knn_density", 1.0)):
            yield Row(
                f"same distribution/{n} points, k {k}/{name}",
                "metric",
                "1 - prod (n - i) / (2 n - i)" if name == "knn_coverage" else "1 on average",
                value,
                lambda n=n, k=k, name=name: _of_pairs(n, k, name),
                1e-9,
            )


@cache
def _pairs(n: int, k: int) -> tuple[Mapping[str, float], ...]:
    rng = np.random.default_rng(n + k)
    return tuple(neighbour_scores(rng.normal(size=(n, 2)), rng.normal(size=(n, 2)), k) for _ in range(20))


def _of_pairs(n: int, k: int, name: str) -> Estimate:
    values = np.array([scores[name] for scores in _pairs(n, k)])
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)))


def _collapse() -> Iterator[Row]:
    """Q is P without some of its modes: the price in nats, and entropic coverage."""
    p = reference(shipped("grid25"))
    for kept in (1, 5, 12, 20, 24, 25):
        q = some_modes(p, kept)
        for name, value, source in (
            ("reverse_kl", math.log(25 / kept), "ln(K / m)"),
            ("reverse_coverage_nats", math.log(25 / kept), "ln(K / m)"),
            ("entropic_coverage", math.log(kept) / math.log(25), "ln m / ln K"),
            ("effective_modes", kept / 25, "m / K"),
            ("coverage", kept / 25, "m / K"),  # 95 % of each kept mode is inside: m / K of all that 95 % are
        ):
            yield Row(
                f"collapse/grid25, {kept} of 25/{name}",
                "metric",
                source,
                value,
                partial(_metric, p, q, name),
                1e-6 if name.startswith("reverse") else 2e-3,
            )


def _metric(p: Mix, q: Mix, name: str) -> Estimate:
    found = judged(p, q)
    return Estimate(found[name], found.get(f"{name}_se", 0.0))


def _decoder_noise() -> Iterator[Row]:
    """Share of a fit within three of P's widths of a mode, where the fit's modes are wider than P's."""
    for own, noise, value in ((0.05, 0.1, 0.67535), (0.05, 0.05, 0.98889), (0.01, 1.0, 0.00045)):
        p = Mix.of(np.ones(1), np.zeros((1, 2)), own**2 * np.eye(2)[None])
        yield Row(
            f"decoder noise/{noise:g} for {own:g}/high_quality",
            "metric",
            "1 - exp(-4.5 (s_P / s_Q)^2)",
            value,
            partial(_metric, p, widened(p, noise / own), "high_quality"),
            1e-5 + 5e-4 * (value < 0.01),
        )
    for dim in (1, 2, 3, 5, 10):
        p = Mix.of(np.ones(1), np.zeros((1, dim)), np.eye(dim)[None])
        yield Row(
            f"high quality/ceiling in {dim}-D",
            "metric",
            "chi-square below 9",
            float(stats.chi2.cdf(9, dim)),
            partial(_metric, p, p, "high_quality"),
            1e-5,
        )
