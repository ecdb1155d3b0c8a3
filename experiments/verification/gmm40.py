"""Rows on FAB's 40 Gaussians in the plane."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

import numpy as np

from experiments.truth import Divergence, Family
from experiments.verification.estimate import Estimate
from experiments.verification.machinery import fit, metric, nats, optima, optimum, place, reference, shipped
from experiments.verification.planar import NATS, entropy_of
from experiments.verification.row import Row

P = reference(shipped("gmm40"))
DRAWN = "200,000 draws, scipy"


def rows() -> Iterator[Row]:
    """All rows of this module; those of fits are slow, because each step costs 40 components."""
    for part in (_target, _forward_optima, _forward_fit, _reverse_optima):
        yield from (replace(row, slow=row.slow or row.asked is not None) for row in part())


@cache
def _entropy() -> Estimate:
    x = P.draw(200_000, np.random.default_rng(1))
    log_p = -P.log_pdf(x)
    return Estimate(float(log_p.mean()), float(log_p.std()) / math.sqrt(len(log_p)))


def _moment_match(shape: str) -> Estimate:
    """Forward KL of the Gaussian with P's mean and covariance, or variances alone."""
    covariance = P.moments()[1]
    log_det = np.linalg.slogdet(covariance)[1] if shape == "full" else np.log(np.diag(covariance)).sum()
    return Estimate(math.log(2 * math.pi * math.e) + 0.5 * log_det - _entropy().value, _entropy().error)


def _target() -> Iterator[Row]:
    """Entropy and moments."""
    yield Row("gmm40/H(P)", "optimum", DRAWN, _entropy, partial(entropy_of, "gmm40"), 1e-4)
    for i, (name, value) in enumerate(
        zip(("mean 0", "mean 1", "S 00", "S 01", "S 11"), (-2.1405, 1.2400, 441.8165, 171.2169, 623.4339), strict=True)
    ):
        yield Row(
            f"gmm40/{name}",
            "optimum",
            "moments of FAB's locations",
            value,
            lambda i=i: place(optimum(P, name="forward_kl"))[i],
            1e-4,
        )


def _forward_optima() -> Iterator[Row]:
    """Of both families, and the fits that reach them."""
    families: dict[Family, float] = {"gaussian_full": 2.1861, "gaussian_diagonal": 2.2424}
    for family, value in families.items():
        shape = family.removeprefix("gaussian_")
        best = partial(optimum, P, family, "forward_kl")
        yield Row(
            f"gmm40/forward_kl {shape} optimum",
            "optimum",
            f"moments and {DRAWN}",
            partial(_moment_match, shape),
            lambda b=best: nats(b()),
            1e-4,
        )
        yield Row(
            f"gmm40/forward_kl {shape} optimum, printed",
            "optimum",
            "known to 0.0007",
            Estimate(value, 0.0007),
            lambda b=best: nats(b()),
            1e-4,
        )
        yield Row(
            f"gmm40/forward_kl {shape}",
            "fit",
            "known to 0.0007",
            Estimate(value, 0.0007),
            partial(metric, name="forward_kl"),
            NATS,
            fit(P, divergence="forward_kl", family=family),
        )


def _forward_fit() -> Iterator[Row]:
    """What the best Gaussian under forward KL is worth by other measures."""
    asked = fit(P, divergence="forward_kl")
    for name, value, tolerance in (
        ("reverse_kl", 28.03, 0.5),
        ("high_quality", 0.233, 5e-3),
        ("entropic_coverage", 0.944, 5e-3),
    ):
        yield Row(
            f"gmm40/forward fit's {name}",
            "fit",
            "draws of the optimum",
            value,
            partial(metric, name=name),
            tolerance,
            asked,
        )


def _reverse_optima() -> Iterator[Row]:
    """The best one, on a cluster that overlaps, and those of modes that stand alone."""
    printed = {
        "reverse_kl optimum": 2.279705,
        "mean 0": -27.56308,
        "mean 1": -18.92342,
        "S 00": 3.09432,
        "S 01": 0.52096,
        "S 11": 4.65334,
    }
    for i, (name, value) in enumerate(printed.items()):
        yield Row(
            f"gmm40/reverse {name}",
            "optimum",
            "Gauss-Hermite quadrature, 200 x 200 nodes, and scipy's BFGS",
            value,
            lambda i=i: (nats(optimum(P)), *place(optimum(P)))[i],
            2e-6 if i == 0 else 1e-4,
            slow=True,
        )
    yield Row(
        "gmm40/reverse optimum, an isolated mode",
        "optimum",
        "ln 40",
        math.log(40),
        lambda: max(nats(o) for o in optima(P, "gaussian_full", Divergence("reverse_kl")) if "seeking" in o.label),
        1e-4,
        slow=True,
    )
