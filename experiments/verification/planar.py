"""Rows on mixtures in the plane: the textbook's two modes, FAB's 40, rings and grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import numpy as np

from experiments.truth.nodes import entropy
from experiments.verification import independent
from experiments.verification.estimate import Estimate
from experiments.verification.independent import Mix, random_mixture
from experiments.verification.machinery import fit, judged, metric, nats, optimum, place, reference, shipped
from experiments.verification.row import Row

HERMITE = "Gauss-Hermite quadrature and scipy's BFGS"
NATS, WIDTH = 0.01, 0.02


def rows() -> Iterator[Row]:
    """All rows of this module."""
    yield from _textbook()
    yield from _ring_and_grid()
    yield from _random()


def entropy_of(name: str) -> float:
    """H(P) of a shipped mixture, by the quadrature that certificates use."""
    return entropy(shipped(name))[0]


def _textbook() -> Iterator[Row]:
    """Murphy 2012, figure 21.1: both directions cover its two modes; the panels that are drawn are not the optima."""
    p = reference(shipped("pmtk3_bimodal"))
    case = "textbook"
    yield Row(f"{case}/H(P)", "optimum", HERMITE, 3.018844, partial(entropy_of, "pmtk3_bimodal"), 1e-6)
    known = {
        "forward_kl": (0.165606, (0.0, 0.0, 1.5, 1.0, 2.0)),
        "reverse_kl": (0.200711, (-0.156, -0.103, 1.2348, 0.8595, 1.7455)),
    }
    for divergence, (value, numbers) in known.items():
        asked = fit(p, divergence=divergence)
        best = partial(optimum, p, "gaussian_full", divergence)
        yield Row(f"{case}/{divergence} optimum", "optimum", HERMITE, value, lambda b=best: nats(b()), 2e-6)
        yield Row(f"{case}/{divergence}", "fit", HERMITE, value, partial(metric, name=divergence), NATS, asked)
        for i, (name, number) in enumerate(zip(("mean 0", "mean 1", "S 00", "S 01", "S 11"), numbers, strict=True)):
            digits = 1e-9 if divergence == "forward_kl" else (5e-4 if i < 2 else 1e-4)
            yield Row(
                f"{case}/{divergence} optimum's {name}",
                "optimum",
                "moments" if divergence == "forward_kl" else HERMITE,
                number,
                lambda b=best, i=i: place(b())[i],
                digits,
            )
            yield Row(
                f"{case}/{divergence} {name}",
                "fit",
                "moments" if divergence == "forward_kl" else HERMITE,
                number,
                lambda o, i=i: place(o)[i],
                2 * WIDTH * 2.0 if i > 1 else WIDTH * math.sqrt(2),
                asked,
            )
    apart = replace(p, means=tuple(tuple(2 * x for x in m) for m in p.means))
    far = partial(optimum, apart)
    yield Row(f"{case}, twice as far/reverse_kl optimum", "optimum", HERMITE, 0.69239, lambda: nats(far()), 1e-5)
    for i in (0, 1):
        yield Row(
            f"{case}, twice as far/reverse_kl optimum's |mean {i}|",
            "optimum",
            HERMITE,
            1.998,
            lambda i=i: abs(far().mean[i]),
            5e-4,
        )


def _ring_and_grid() -> Iterator[Row]:
    """One Gaussian for 8 or 25 needles, by forward KL."""
    known = {"ring8": (0.5001, 6.437952, 0.0026, -4.29302), "grid25": (8.0025, 4.852343, 0.015, 0.065288)}
    for name, (variance, value, quality, h) in known.items():
        p = reference(shipped(name))
        asked = fit(p, divergence="forward_kl")
        formula = "(d ln(2 pi e) + ln|S|) / 2 - ln K - d ln(2 pi e s^2) / 2"
        yield Row(f"needles/{name} H(P)", "optimum", "ln K + d ln(2 pi e s^2) / 2", h, partial(entropy_of, name), 1e-5)
        yield Row(
            f"needles/{name} forward_kl optimum",
            "optimum",
            formula,
            value,
            lambda p=p: nats(optimum(p, name="forward_kl")),
            1e-6,
        )
        yield Row(f"needles/{name} forward_kl", "fit", formula, value, partial(metric, name="forward_kl"), NATS, asked)
        for i in (0, 1):
            yield Row(
                f"needles/{name} variance {i}",
                "fit",
                "moments",
                variance,
                lambda o, i=i: float(o.covariance[i, i]),
                2 * WIDTH * variance,
                asked,
            )
        exact = partial(_in_ellipses, p)
        yield Row(
            f"needles/{name} forward fit's high_quality",
            "metric",
            "sums of 2-D integrals",
            exact,
            lambda p=p: _judged(p, "high_quality"),
            1e-4,
        )
        yield Row(
            f"needles/{name} forward fit's high_quality, printed",
            "metric",
            "printed digits",
            quality,
            lambda p=p: _judged(p, "high_quality"),
            5e-4,
        )


def _judged(p: Mix, name: str) -> Estimate:
    """Of the moment match, averaged over 16 sets of draws."""
    q = independent.normal(*p.moments())
    found = [judged(p, q, seed) for seed in range(16)]
    error = math.sqrt(np.mean([f[f"{name}_se"] ** 2 for f in found]) / len(found))
    return Estimate(float(np.mean([f[name] for f in found])), error)


def _in_ellipses(p: Mix) -> float:
    """The moment match's mass within three widths of a mode, for circles that do not touch: noncentral chi-square."""
    from scipy import stats

    mean, covariance = p.moments()
    variance = covariance[0, 0]
    assert np.allclose(covariance, variance * np.eye(2))
    reach = 9 * p.scales[0][0][0] / variance
    return float(sum(stats.ncx2.cdf(reach, 2, ((np.array(m) - mean) ** 2).sum() / variance) for m in p.means))


def _random() -> Iterator[Row]:
    """Mixtures of no special shape: reverse optima of each family, against many starts of scipy's BFGS."""
    for seed in (0, 1):
        p = random_mixture(40 + seed, 2, 2 + seed)
        starts = [(np.array(m), np.array(s)) for m, s in zip(p.means, p.scales, strict=True)] + [p.moments()]
        for shape in ("isotropic", "diagonal", "full"):
            known = cache(partial(independent.best_reverse, p, shape, starts))
            best = partial(optimum, p, f"gaussian_{shape}")  # type: ignore[arg-type]
            case = f"random plane/{seed} {shape}"
            slow = shape == "full"
            yield Row(
                f"{case} reverse_kl optimum",
                "optimum",
                HERMITE,
                partial(_least, known),
                lambda b=best: nats(b()),
                2e-5,
                slow=slow,
            )
            for i, name in enumerate(("mean 0", "mean 1", "S 00", "S 01", "S 11")):
                if shape != "full" and name == "S 01":
                    continue
                yield Row(
                    f"{case} reverse optimum's {name}",
                    "optimum",
                    HERMITE,
                    partial(_entry, known, i),
                    lambda b=best, i=i: place(b())[i],
                    1e-3,
                    slow=slow,
                )


def _least(found: Callable[[], tuple[np.ndarray, np.ndarray, float]]) -> float:
    return found()[2]


def _entry(found: Callable[[], tuple[np.ndarray, np.ndarray, float]], i: int) -> float:
    mean, covariance, _ = found()
    return (*mean, covariance[0, 0], covariance[0, 1], covariance[1, 1])[i]
