"""Rows on Gaussian targets: closed forms, and fits of restricted families, whose optima are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from experiments.closed_forms import (
    collapse_invoice,
    entropy_gaussian,
    funnel_mean_field,
    kl_gaussians,
    light_mode_threshold,
    mixed_optimum,
)
from experiments.verification.independent import Mix, normal
from experiments.verification.machinery import fit, nats, optimum, own_value
from experiments.verification.row import Row

FAMILIES: tuple[Any, ...] = ("gaussian_isotropic", "gaussian_diagonal", "gaussian_full")
NATS, WIDTH = 0.01, 0.02  # what a fit at the default settings must reach: nats, and relative to a width


def rows() -> Iterator[Row]:
    """All rows of this module."""
    yield from _kl()
    yield from _correlated()
    yield from _restricted()
    yield from _laws()


def _torch_kl(*moments: np.ndarray) -> float:
    """Of N(m0, S0) from N(m1, S1), by torch.distributions."""
    tensors = [torch.as_tensor(part, dtype=torch.float64) for part in moments]
    q, p = (torch.distributions.MultivariateNormal(mean, cov) for mean, cov in (tensors[:2], tensors[2:]))
    return float(torch.distributions.kl_divergence(q, p))


def _kl() -> Iterator[Row]:
    line = np.zeros(1), np.eye(1), np.ones(1), 4 * np.eye(1)
    plane = np.zeros(2), np.array([[1, 0.8], [0.8, 1]]), np.array([1.0, -1.0]), np.diag([2.0, 0.5])
    known = {"line": (line, 0.443147, 1.306853), "plane": (plane, 2.010826, 6.961397)}
    formula = "(tr(S1^-1 S0) + (m1-m0)' S1^-1 (m1-m0) - d + ln|S1|/|S0|) / 2"
    for name, (case, there, back) in known.items():
        swapped = case[2:] + case[:2]
        yield Row(f"gaussian kl/{name}/there", "closed form", formula, there, partial(kl_gaussians, *case), 1e-6)
        yield Row(f"gaussian kl/{name}/back", "closed form", formula, back, partial(kl_gaussians, *swapped), 1e-6)
    for dim in (1, 5, 20, 100):
        rng = np.random.default_rng(dim)
        drawn = tuple(part for _ in range(2) for part in (rng.normal(size=dim), _covariance(rng, dim)))
        scale = abs(_torch_kl(*drawn))
        yield Row(
            f"gaussian kl/random {dim}-D/value",
            "closed form",
            "torch.distributions.kl_divergence",
            partial(_torch_kl, *drawn),
            partial(kl_gaussians, *drawn),
            1e-8 * (1 + scale),
        )
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))[0]
    ill = turn @ np.diag(np.geomspace(1e-3, 1e3, 100)) @ turn.T
    yield Row(
        "gaussian kl/condition 1e6, 100-D/doubled covariance",
        "closed form",
        "50 (1 - ln 2)",
        50 * (1 - math.log(2)),
        lambda: kl_gaussians(np.zeros(100), 2 * ill, np.zeros(100), ill),
        1e-7,
    )


def _covariance(rng: np.random.Generator, dim: int) -> np.ndarray:
    factor = rng.normal(size=(dim, dim + 3))
    scale = np.exp(0.5 * rng.normal(size=dim))
    return np.asarray(factor @ factor.T / dim * np.outer(scale, scale))


def _correlated() -> Iterator[Row]:
    """A diagonal Q for a correlated P: both optima cost the mutual information."""
    known = {0.9: (0.19, 0.830366, 3.432792), 0.97: (0.0591, 1.414262, 14.506212), 0.5: (0.75, 0.143841, 0.189492)}
    for rho, (narrow, cost, crossed) in known.items():
        covariance = np.array([[1, rho], [rho, 1]])
        p = normal(np.zeros(2), covariance)
        case = f"correlated gaussian/rho {rho:g}"
        for divergence, variance, formula in (("reverse_kl", narrow, "1 / Lambda_ii"), ("forward_kl", 1.0, "S_ii")):
            asked = fit(p, family="gaussian_diagonal", divergence=divergence)
            yield Row(
                f"{case}/{divergence} variance",
                "fit",
                formula,
                variance,
                lambda o: float(np.diag(o.covariance).mean()),
                2 * WIDTH * variance,
                asked,
            )
            yield Row(
                f"{case}/{divergence}",
                "fit",
                "-ln(1 - rho^2) / 2",
                cost,
                own_value,
                NATS,
                asked,
            )
            yield Row(
                f"{case}/{divergence} optimum",
                "optimum",
                "-ln(1 - rho^2) / 2",
                cost,
                lambda p=p, d=divergence: nats(optimum(p, "gaussian_diagonal", d)),
                1e-6,
            )
        yield Row(
            f"{case}/forward KL of the reverse optimum",
            "closed form",
            "1 / (1 - rho^2) - 1 - ln(1 / (1 - rho^2)) / 2",
            crossed,
            lambda c=covariance: kl_gaussians(np.zeros(2), c, np.zeros(2), mixed_optimum(c, 0.0, "diagonal")),
            1e-6,
        )


def _restricted() -> Iterator[Row]:
    """Random Gaussians in 2, 5 and 20 dimensions: each family's optimum under both KLs, from numpy's inverse."""
    for dim in (2, 5, 20):
        covariance = _covariance(np.random.default_rng(7 + dim), dim)
        p = normal(np.arange(dim) / dim, covariance)
        precision = np.linalg.inv(covariance)
        best = {
            ("gaussian_isotropic", "forward_kl"): np.full(dim, np.trace(covariance) / dim),
            ("gaussian_isotropic", "reverse_kl"): np.full(dim, dim / np.trace(precision)),
            ("gaussian_diagonal", "forward_kl"): np.diag(covariance),
            ("gaussian_diagonal", "reverse_kl"): 1 / np.diag(precision),
        }
        for (family, divergence), variance in best.items():
            asked, slow = fit(p, family=family, divergence=divergence), dim > 2 or family == "gaussian_isotropic"
            case = f"restricted gaussian/{dim}-D {family.removeprefix('gaussian_')}"
            moments = (np.zeros(dim), covariance, np.zeros(dim), np.diag(variance))
            value = _torch_kl(*(moments if divergence == "forward_kl" else moments[2:] + moments[:2]))
            yield Row(
                f"{case}/{divergence} optimum",
                "optimum",
                "S_ii, tr S / d, 1 / Lambda_ii or d / tr Lambda; torch.distributions",
                value,
                lambda p=p, f=family, d=divergence: nats(optimum(p, f, d)),
                1e-8 * (1 + value),
            )
            yield Row(
                f"{case}/{divergence}",
                "fit",
                "the same",
                value,
                lambda o, p=p, divergence=divergence: _own_kl(o, p, divergence),
                NATS,
                asked,
                slow,
            )
            yield Row(
                f"{case}/{divergence} relative error of the widths, rms",
                "fit",
                "the same",
                0.0,
                lambda o, v=variance: float(np.sqrt(np.mean((np.sqrt(np.diag(o.covariance) / v) - 1) ** 2))),
                WIDTH,
                asked,
                slow,
            )


def _own_kl(outcome: Any, p: Mix, divergence: str) -> float:
    """Of the fit's moments, in closed form."""
    own = outcome.mean, outcome.covariance
    target = np.array(p.means[0]), np.array(p.scales[0])
    return kl_gaussians(*target, *own) if divergence == "forward_kl" else kl_gaussians(*own, *target)


def _laws() -> Iterator[Row]:
    for dim, (elbo, neck, rest) in {10: (-1.862847, 0.216867, 0.897238), 2: (-0.852374, 1.636364, 0.441233)}.items():
        source = "-ln(1 + 9 (d - 1) / 2) / 2, 9 / (1 + 9 (d - 1) / 2), exp(-s0^2 / 2)"
        for name, value in (("elbo", elbo), ("neck", neck), ("rest", rest)):
            yield Row(
                f"funnel mean field/{dim}-D/{name}",
                "closed form",
                source,
                value,
                lambda dim=dim, name=name: getattr(funnel_mean_field(dim), name),
                1e-6,
            )
    for kept, value in {1: 3.688879, 10: 1.386294, 20: 0.693147, 36: 0.105361, 39: 0.025318}.items():
        yield Row(
            f"collapse/{kept} of 40/reverse_kl",
            "closed form",
            "ln(K / m)",
            value,
            partial(collapse_invoice, 40, kept),
            1e-6,
        )
    for heavy, value in {1: 0.25, 2: 0.29630, 4: 0.32768, 9: 0.34868, 39: 0.36323}.items():
        yield Row(
            f"light mode/{heavy} heavy ones/threshold",
            "closed form",
            "(m / (m + 1))^(m + 1)",
            value,
            partial(light_mode_threshold, heavy),
            1e-5,
        )
    for dim in (1, 3, 50):
        covariance = _covariance(np.random.default_rng(dim), dim)
        spread = torch.as_tensor(covariance)
        entropy = float(torch.distributions.MultivariateNormal(torch.zeros(dim).double(), spread).entropy())
        yield Row(
            f"entropy/gaussian {dim}-D/nats",
            "closed form",
            "torch.distributions",
            entropy,
            partial(entropy_gaussian, covariance),
            1e-9 * (1 + abs(entropy)),
        )
