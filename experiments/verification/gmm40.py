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


def rows() -> Iterator[Row]:
    """All rows of this module; those of fits are slow, because each step costs 40 components."""
    yield from (replace(row, slow=row.slow or row.asked is not None) for row in _rows())


def _rows() -> Iterator[Row]:
    """FAB's 40 Gaussians."""
    p, case = reference(shipped("gmm40")), "gmm40"
    drawn = "200,000 draws, scipy"

    @cache
    def h() -> Estimate:
        x = p.draw(200_000, np.random.default_rng(1))
        log_p = -p.log_pdf(x)
        return Estimate(float(log_p.mean()), float(log_p.std()) / math.sqrt(len(log_p)))

    def above(shape: str) -> Estimate:
        covariance = p.moments()[1]
        log_det = np.linalg.slogdet(covariance)[1] if shape == "full" else np.log(np.diag(covariance)).sum()
        return Estimate(math.log(2 * math.pi * math.e) + 0.5 * log_det - h().value, h().error)

    yield Row(f"{case}/H(P)", "optimum", drawn, h, partial(entropy_of, "gmm40"), 1e-4)
    for i, (name, value) in enumerate(
        zip(("mean 0", "mean 1", "S 00", "S 01", "S 11"), (-2.1405, 1.2400, 441.8165, 171.2169, 623.4339), strict=True)
    ):
        yield Row(
            f"{case}/{name}",
            "optimum",
            "moments of FAB's locations",
            value,
            lambda i=i: place(optimum(p, name="forward_kl"))[i],
            1e-4,
        )
    families: dict[Family, float] = {"gaussian_full": 2.1861, "gaussian_diagonal": 2.2424}
    for family, value in families.items():
        shape = family.removeprefix("gaussian_")
        best = partial(optimum, p, family, "forward_kl")
        yield Row(
            f"{case}/forward_kl {shape} optimum",
            "optimum",
            f"moments and {drawn}",
            partial(above, shape),
            lambda b=best: nats(b()),
            1e-4,
        )
        yield Row(
            f"{case}/forward_kl {shape} optimum, printed",
            "optimum",
            "known to 0.0007",
            Estimate(value, 0.0007),
            lambda b=best: nats(b()),
            1e-4,
        )
        yield Row(
            f"{case}/forward_kl {shape}",
            "fit",
            "known to 0.0007",
            Estimate(value, 0.0007),
            partial(metric, name="forward_kl"),
            NATS,
            fit(p, divergence="forward_kl", family=family),
        )
    asked = fit(p, divergence="forward_kl")
    for name, value, tolerance in (
        ("reverse_kl", 28.03, 0.5),
        ("high_quality", 0.233, 5e-3),
        ("entropic_coverage", 0.944, 5e-3),
    ):
        yield Row(
            f"{case}/forward fit's {name}",
            "fit",
            "draws of the optimum",
            value,
            partial(metric, name=name),
            tolerance,
            asked,
        )
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
            f"{case}/reverse {name}",
            "optimum",
            "Gauss-Hermite quadrature, 200 x 200 nodes, and scipy's BFGS",
            value,
            lambda i=i: (nats(optimum(p)), *place(optimum(p)))[i],
            2e-6 if i == 0 else 1e-4,
            slow=True,
        )
    yield Row(
        f"{case}/reverse optimum, an isolated mode",
        "optimum",
        "ln 40",
        math.log(40),
        lambda: max(nats(o) for o in optima(p, "gaussian_full", Divergence("reverse_kl")) if "seeking" in o.label),
        1e-4,
        slow=True,
    )
