"""Rows on mixtures of no special shape in 1, 2, 5 and 20 dimensions: what is reported of a fit, and where fits end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.optimize import brentq

from experiments.verification import independent
from experiments.verification.estimate import Estimate
from experiments.verification.independent import Mix, random_mixture
from experiments.verification.machinery import fit, judged, metric
from experiments.verification.row import Row

NATS, WIDTH = 0.01, 0.02
NAMES = ("forward_kl", "reverse_kl", "jensen_shannon", "coverage", "sharpness")


def rows() -> Iterator[Row]:
    """All rows of this module."""
    yield from _line()
    yield from _space()
    yield from (replace(row, slow=True) for row in _families())


def _line() -> Iterator[Row]:
    """In one dimension nothing is drawn, and both accounts in nats add up."""
    for seed in (0, 1, 2):
        p = random_mixture(seed, 1, 2 + seed)
        q = Mix.line([1], [p.means[0][0] + 0.5], [1.2])
        case = f"mixture 1-D/{seed}"
        exact: dict[str, Callable[[], float]] = {
            "forward_kl": partial(independent.kl, p, q),
            "reverse_kl": partial(independent.kl, q, p),
            "jensen_shannon": partial(independent.jensen_shannon, p, q),
            "coverage": partial(independent.coverage, p, q),
            "sharpness": partial(independent.sharpness, p, q),
            "entropy_gap": partial(_entropy_gap, p, q),
        }
        for name, reference in exact.items():
            yield Row(
                f"{case} {name}",
                "metric",
                "Simpson's rule, scipy.stats",
                reference,
                lambda p=p, q=q, n=name: judged(p, q)[n],
                1e-7,
            )
        borders = cache(partial(_borders, p))
        for direction, pair in (("forward", (p, q)), ("reverse", (q, p))):
            yield Row(
                f"{case} {direction}_coverage_nats",
                "metric",
                "masses between the modes' borders",
                partial(_between, *pair, borders),
                lambda p=p, q=q, d=direction: judged(p, q)[f"{d}_coverage_nats"],
                1e-7,
            )
            yield Row(
                f"{case} {direction} nats add up",
                "metric",
                "chain rule",
                0.0,
                lambda p=p, q=q, d=direction: _rest(judged(p, q), d),
                1e-9,
            )


def _entropy_gap(p: Mix, q: Mix) -> float:
    return independent.entropy(q) - independent.entropy(p)


def _rest(metrics: Any, direction: str) -> float:
    return float(
        metrics[f"{direction}_coverage_nats"] + metrics[f"{direction}_shape_nats"] - metrics[f"{direction}_kl"]
    )


def _borders(p: Mix) -> tuple[tuple[float, int], ...]:
    """Ends of the intervals of one most responsible mode, and which it is; the last reaches to infinity."""

    def joint(x: float) -> np.ndarray:
        parts = zip(p.weights, p.parts, strict=True)
        return np.array([math.log(w) + float(part.logpdf(x)) for w, part in parts])

    grid = np.linspace(-60, 60, 6001)
    winner = [int(np.argmax(joint(x))) for x in grid]
    found = []
    for i in range(len(grid) - 1):
        a, b = winner[i], winner[i + 1]
        if a != b:
            end = brentq(lambda x, a=a, b=b: joint(x)[a] - joint(x)[b], grid[i], grid[i + 1], xtol=1e-13)
            found.append((float(end), a))
    return (*found, (math.inf, winner[-1]))


def _between(a: Mix, b: Mix, found: Callable[[], tuple[tuple[float, int], ...]]) -> float:
    """KL between the modes' masses; a mode may have several intervals."""
    borders = found()
    masses = np.zeros((2, 1 + max(k for _, k in borders)))
    before = -math.inf
    for end, k in borders:
        for row, mixture in enumerate((a, b)):
            masses[row, k] += float(np.diff(mixture.cdf(np.array([before, end])))[0])
        before = end
    first, second = masses[:, masses[0] > 0]
    return float((first * np.log(first / second)).sum())


def _space() -> Iterator[Row]:
    """Metrics of some Gaussian beside the mixture, from draws of numpy's and densities of scipy's."""
    for dim, slow in ((2, False), (5, False), (20, True)):
        p = random_mixture(50 + dim, dim, 3)
        mean, covariance = p.moments()
        fits = {
            "one mode": independent.normal(np.array(p.means[0]), 1.1 * np.array(p.scales[0])),
            "moments": independent.normal(mean, covariance),
        }
        for case, q in fits.items():
            drawn = cache(partial(independent.by_draws, p, q))
            for name in NAMES:
                yield Row(
                    f"mixture {dim}-D/{case} {name}",
                    "metric",
                    "100,000 draws, scipy.stats",
                    partial(_drawn, drawn, name),
                    lambda p=p, q=q, n=name: Estimate(judged(p, q)[n], judged(p, q)[f"{n}_se"]),
                    1e-9,
                    slow=slow,
                )
            for direction in ("forward", "reverse"):
                yield Row(
                    f"mixture {dim}-D/{case} {direction} nats add up",
                    "metric",
                    "chain rule",
                    0.0,
                    lambda p=p, q=q, d=direction: _rest(judged(p, q), d),
                    1e-9,
                    slow=slow,
                )
        asked = fit(p, divergence="forward_kl")
        sd = np.sqrt(np.diag(covariance))
        yield Row(
            f"mixture {dim}-D/forward mean, largest error in sd",
            "fit",
            "moments",
            0.0,
            lambda o, m=mean, sd=sd: float(np.abs((o.mean - m) / sd).max()),
            WIDTH,
            asked,
            dim > 2,
        )
        yield Row(
            f"mixture {dim}-D/forward nats above the moments",
            "fit",
            "KL(Q* || Q), scipy",
            0.0,
            lambda o, m=mean, c=covariance: _gaussian_kl(m, c, o.mean, o.covariance),
            NATS,
            asked,
            dim > 2,
        )


def _drawn(found: Callable[[], independent.Drawn], name: str) -> Estimate:
    return Estimate(*getattr(found(), name))


def _gaussian_kl(m0: np.ndarray, s0: np.ndarray, m1: Any, s1: Any) -> float:
    solved = np.linalg.solve(s1, np.column_stack([s0, m1 - m0]))
    log_det = np.linalg.slogdet(s1)[1] - np.linalg.slogdet(s0)[1]
    return float(0.5 * (np.trace(solved[:, :-1]) + (m1 - m0) @ solved[:, -1] - len(m0) + log_det))


def _families() -> Iterator[Row]:
    """Isotropic fits to mixtures in 2 and 5 dimensions, and families that hold the target."""
    for dim in (2, 5):
        p = random_mixture(60 + dim, dim, 3)
        mean, covariance = p.moments()
        variance = float(np.trace(covariance)) / dim
        asked = fit(p, divergence="forward_kl", family="gaussian_isotropic")
        yield Row(
            f"isotropic/{dim}-D mixture, forward variance",
            "fit",
            "tr S / d",
            variance,
            lambda o: float(o.covariance[0, 0]),
            2 * WIDTH * variance,
            asked,
        )
        yield Row(
            f"isotropic/{dim}-D mixture, forward nats above the optimum",
            "fit",
            "KL(Q* || Q), scipy",
            0.0,
            lambda o, m=mean, v=variance, d=dim: _gaussian_kl(m, v * np.eye(d), o.mean, o.covariance),
            NATS,
            asked,
        )
    two = Mix.line([0.7, 0.3], [-3, 3], [1, 0.6])
    for divergence in ("forward_kl", "reverse_kl"):
        # Where no component starts near a mode, reverse KL leaves it out for good: one seed of eight, here.
        asked = replace(fit(two, divergence=divergence, family="gaussian_mixture"), seeds=8)
        yield Row(
            f"mixture family/two modes, {divergence}, best of 8 seeds",
            "fit",
            "0: P is in the family",
            0.0,
            lambda *os, d=divergence: min(o.metrics[d] for o in os),
            NATS,
            asked,
        )
        yield Row(
            f"mixture family/two modes, {divergence}, median mean of 8 seeds",
            "fit",
            "moments",
            -1.2,
            lambda *os: float(np.median([o.mean[0] for o in os])),
            WIDTH * 3,
            asked,
        )
    one = Mix.line([0.5, 0.5], [-4, 4], [1, 1])
    for estimator in ("reparameterization", "sticking_the_landing", "score_function_baseline"):
        yield Row(
            f"estimator/{estimator}, reverse_kl from a mode",
            "fit",
            "0.693053: Simpson's rule",
            0.693053,
            partial(metric, name="reverse_kl"),
            NATS,
            fit(one, divergence="reverse_kl", init="mode:1", estimator=estimator),
        )
