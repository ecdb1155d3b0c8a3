"""Rows on estimators of reverse KL's gradient: means and variances of one sample's gradient, against integrals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from scipy import integrate

from experiments.verification import independent
from experiments.verification.estimate import Estimate
from experiments.verification.independent import Mix
from experiments.verification.machinery import average, gradients
from experiments.verification.row import Row

NORMAL = Mix.line([1], [0], [1])


def rows() -> Iterator[Row]:
    """All rows of this module."""
    yield from _of_the_mean()
    yield from _of_the_width()
    yield from _against_two_modes()


def _average(name: str, factor: float = 1.0) -> Callable[..., Estimate]:
    """Reads a metric of every seed."""
    return lambda *outcomes: average(outcomes, name, factor)


def _variance(gradient: Callable[[np.ndarray], np.ndarray]) -> float:
    """Of a function of a standard normal, by Simpson's rule."""
    z = np.linspace(-14, 14, 4001)
    weight = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    first, second = (integrate.simpson(weight * gradient(z) ** k, x=z) for k in (1, 2))
    return float(second - first**2)


def _of_the_mean() -> Iterator[Row]:
    """Q = N(mu, 1), P = N(0, 1)."""
    for mu in (0.5, 1.0, -2.0):
        for estimator, value, formula in (
            ("score_function", mu**4 / 4 + 2 * mu**2, "mu^4 / 4 + 2 mu^2"),
            ("reparameterization", 1.0, "1"),
            ("sticking_the_landing", 0.0, "0"),
        ):
            asked = gradients(NORMAL, estimator=estimator, offset=mu, width=1.0, samples=1, dtype="float64")
            yield Row(
                f"gradient/mean {mu:g}, {estimator} variance",
                "gradient",
                formula,
                value,
                _average("variance_loc"),
                1e-9,
                asked,
            )
            yield Row(
                f"gradient/mean {mu:g}, {estimator} mean", "gradient", "mu", mu, _average("slope_loc"), 1e-9, asked
            )


def _of_the_width() -> Iterator[Row]:
    """Q = N(0, s^2), P = N(0, 1); f = log q - log p. By ln s the derivative is s times that by s."""
    for s in (0.5, 1.0, 2.0):
        by_log = s**2  # of the variance

        def score(z: np.ndarray, s: float = s) -> np.ndarray:
            return (z * z - 1) * (-np.log(s) - 0.5 * z * z + 0.5 * (s * z) ** 2)

        for estimator, value, formula in (
            ("reparameterization", by_log * 2 * s**2, "s^2 2 s^2"),
            ("sticking_the_landing", by_log * 2 * (s - 1 / s) ** 2, "s^2 2 (s - 1 / s)^2"),
            ("score_function", _variance(score), "Simpson's rule of (z^2 - 1) f"),
        ):
            asked = gradients(NORMAL, estimator=estimator, offset=0.0, width=s, samples=1, dtype="float64")
            yield Row(
                f"gradient/sd {s:g}, {estimator} variance",
                "gradient",
                formula,
                value,
                _average("variance_log_scale"),
                1e-9,
                asked,
            )
            yield Row(
                f"gradient/sd {s:g}, {estimator} mean",
                "gradient",
                "s (s - 1 / s)",
                s * s - 1,
                _average("slope_log_scale"),
                1e-9,
                asked,
            )
    known = {0.5: 25.1, 2.0: 37.1}
    for s, value in known.items():
        asked = gradients(NORMAL, estimator="score_function", offset=0.0, width=s, samples=1, dtype="float64")
        yield Row(
            f"gradient/sd {s:g}, score_function variance by s, printed",
            "gradient",
            "one decimal",
            value,
            _average("variance_log_scale", 1 / s**2),
            0.05,
            asked,
        )


def _against_two_modes() -> Iterator[Row]:
    """P = (N(-2, 1) + N(2, 1)) / 2, in its own standard deviations: the exact gradient, and its unbiased estimates."""
    p = Mix.line([0.5, 0.5], [-2, 2], [1, 1])
    sd = float(np.sqrt(p.moments()[1][0, 0]))
    framed = Mix.line([0.5, 0.5], [-2 / sd, 2 / sd], [1 / sd, 1 / sd])

    def slope(which: int, step: float = 1e-4) -> float:
        """A central difference of the integral."""
        moves = [(0.7 + (1 - which) * d, 0.8 * np.exp(which * d)) for d in (step, -step)]
        ends = [independent.kl(Mix.line([1], [m], [s]), framed) for m, s in moves]
        return (ends[0] - ends[1]) / (2 * step)

    for which, name in enumerate(("slope_loc", "slope_log_scale")):
        exact = partial(slope, which)
        source = "difference of Simpson's integrals"
        shared = partial(gradients, p, offset=0.7, width=0.8, samples=4, dtype="float64")
        yield Row(
            f"gradient/two modes, exact {name}",
            "gradient",
            source,
            exact,
            lambda *os, n=name: os[0].metrics[f"exact_{n}"],
            1e-6,
            shared(estimator="reparameterization"),
        )
        for estimator in ("score_function", "score_function_baseline", "reparameterization", "sticking_the_landing"):
            yield Row(
                f"gradient/two modes, {estimator} {name}",
                "gradient",
                source,
                exact,
                _average(name),
                1e-6,
                shared(estimator=estimator),
            )
        yield Row(
            f"gradient/two modes, naive {name}",
            "gradient",
            "0: the score has no mean",
            0.0,
            _average(name),
            1e-9,
            shared(estimator="naive"),
        )
    yield Row(
        "gradient/blocked has a gradient",
        "gradient",
        "0: sampling is no path",
        0.0,
        lambda o: o.metrics["has_gradient"],
        0.0,
        gradients(p, 1, estimator="blocked"),
    )
