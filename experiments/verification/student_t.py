"""Rows on Student-t targets, whose tails a Gaussian must answer for under forward KL alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache, partial

import numpy as np
from scipy import stats

from experiments.closed_forms import entropy_student_t, forward_kl_student_t, reverse_optimum_student_t
from experiments.verification import independent
from experiments.verification.independent import Mix
from experiments.verification.machinery import fit, judged, nats, optimum, own_value, width
from experiments.verification.row import Row

NATS, WIDTH = 0.01, 0.02
SIMPSON = "Simpson's rule in sinh x, scipy.stats.t"


def rows() -> Iterator[Row]:
    """All rows of this module."""
    for df in (3.0, 5.0):
        yield from _one(df)
        yield from _plane(df)
    yield from _two_modes()


def _one(df: float) -> Iterator[Row]:
    """Scale 1.3 at 0.4."""
    p, case = Mix.line([1], [0.4], [1.3], df), f"student_t/df {df:g}"
    sd = 1.3 * math.sqrt(df / (df - 2))
    moment = Mix.line([1], [0.4], [sd])
    yield Row(
        f"{case} entropy",
        "closed form",
        "scipy.stats.t",
        float(stats.t(df, scale=1.3).entropy()),
        lambda: entropy_student_t(df, np.array([[1.69]])),
        1e-9,
    )
    yield Row(
        f"{case} forward_kl of the moments",
        "closed form",
        SIMPSON,
        partial(independent.kl, p, moment),
        lambda: forward_kl_student_t(df, np.array([[1.69]]), np.zeros(1), np.array([[sd * sd]])),
        1e-6,
    )
    yield Row(
        f"{case} forward_kl optimum",
        "optimum",
        SIMPSON,
        partial(independent.kl, p, moment),
        lambda: nats(optimum(p, name="forward_kl")),
        1e-6,
    )
    forward = fit(p, divergence="forward_kl")
    # Its loss has the variance of x^2, which is infinite for df of 4 and less: fits need more samples there.
    if df > 4:
        yield Row(f"{case} forward sd", "fit", "scale sqrt(df / (df - 2))", sd, width, 3 * WIDTH * sd, forward)
    known = cache(partial(independent.best_on_a_line, lambda q: independent.kl(q, p), [(0.4, 1.3)]))
    asked = fit(p, divergence="reverse_kl")
    yield Row(
        f"{case} reverse optimum's sd",
        "closed form",
        SIMPSON,
        lambda: known()[1],
        lambda: 1.3 * reverse_optimum_student_t(df, 1),
        1e-5,
    )
    yield Row(f"{case} reverse_kl optimum", "optimum", SIMPSON, lambda: known()[2], lambda: nats(optimum(p)), 1e-6)
    yield Row(f"{case} reverse sd", "fit", SIMPSON, lambda: known()[1], width, WIDTH * 1.3, asked)
    yield Row(f"{case} reverse_kl", "fit", SIMPSON, lambda: known()[2], lambda o: o.metrics["reverse_kl"], NATS, asked)
    q = Mix.line([1], [0.0], [1.7])
    for name, exact in {
        "forward_kl": partial(independent.kl, p, q),
        "reverse_kl": partial(independent.kl, q, p),
        "coverage": partial(independent.coverage, p, q),
        "sharpness": partial(independent.sharpness, p, q),
    }.items():
        yield Row(f"{case} to N(0, 1.7^2)/{name}", "metric", SIMPSON, exact, lambda n=name: judged(p, q)[n], 1e-6)


def _plane(df: float) -> Iterator[Row]:
    """A correlated one in two dimensions: its reverse optimum is its own scale matrix, by one factor."""
    scale = np.array([[1.0, 0.6], [0.6, 2.0]])
    p, case = Mix.of(np.ones(1), np.zeros((1, 2)), scale[None], df), f"student_t/plane, df {df:g}"

    @cache
    def ratio() -> float:
        """By scipy's bounded search over a two-dimensional sum."""
        from scipy import optimize

        found = optimize.minimize_scalar(
            lambda c: independent.reverse_kl(p, np.zeros(2), c * np.linalg.cholesky(scale)),
            bounds=(0.5, 2.0),
            method="bounded",
            options={"xatol": 1e-9},
        )
        return float(found.x)

    def scaled(entry: float) -> float:
        return ratio() ** 2 * entry

    yield Row(
        f"{case} reverse optimum's ratio",
        "closed form",
        "Gauss-Hermite quadrature and scipy.optimize",
        ratio,
        lambda: reverse_optimum_student_t(df, 2),
        1e-5,
    )
    best = partial(optimum, p)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        yield Row(
            f"{case} reverse optimum's S {i}{j}",
            "optimum",
            "ratio^2 S",
            partial(scaled, float(scale[i, j])),
            lambda i=i, j=j: best().covariance[i][j],
            2e-5,
        )
    yield Row(
        f"{case} reverse_kl",
        "fit",
        "Gauss-Hermite quadrature",
        lambda: independent.reverse_kl(p, np.zeros(2), ratio() * np.linalg.cholesky(scale)),
        own_value,
        NATS,
        fit(p, divergence="reverse_kl"),
    )


def _two_modes() -> Iterator[Row]:
    """Two heavy modes, and the family that fits one exactly."""
    p = Mix.line([0.6, 0.4], [-3, 3], [0.7, 0.7], 3.0)
    known = cache(
        partial(independent.best_on_a_line, lambda q: independent.kl(q, p), [(-3.0, 0.8), (3.0, 0.8), (0.0, 3.0)])
    )
    best = partial(optimum, p)
    yield Row(
        "student_t/two modes reverse_kl optimum",
        "optimum",
        SIMPSON,
        lambda: known()[2],
        lambda: nats(best()),
        1e-6,
    )
    yield Row(
        "student_t/two modes reverse optimum's mean",
        "optimum",
        SIMPSON,
        lambda: known()[0],
        lambda: best().mean[0],
        1e-4,
    )
    one = Mix.line([1], [0.4], [1.3], 5.0)
    for divergence in ("forward_kl", "reverse_kl"):
        yield Row(
            f"student_t/family of df 5 to its own kind, {divergence}",
            "fit",
            "0: P is in the family",
            0.0,
            lambda o, d=divergence: o.metrics[d],
            NATS,
            fit(one, divergence=divergence, family="student_t", family_df=5),
            slow=True,
        )
