"""Metrics of Q against a mixture P whose density is known: one path for quadrature and for Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import pointwise
from experiments.metrics import importance, modes
from experiments.metrics.estimate import Estimate, expectation, mass_where
from experiments.metrics.partition import Measure, Tally, tally
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Analytic, Mixture

MASS = 0.95  # of a highest-density region
ASIDE = 0.02  # mass to both sides of the region's edge, where densities of log-densities are read off
ROUNDING = 1e-12  # of the mode's variance, or of the mean square: no variance below is known from 0
NEAR = 9.0  # squared Mahalanobis distance of a high-quality sample: three standard deviations
DF_OF_WIDTHS = 2.5  # from which on panels and draws hold a Student-t component's variance, and not its far tails
FEWEST = 10  # draws of each side in a mode's cell: of fewer the width is noise, and of one it is 0

__all__ = ["Evaluation", "Measure", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one cell, by name, and one array ``(M,)`` for each column of its modes."""

    metrics: Mapping[str, float]
    modes: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Side:
    """A measure of P or of Q with what was tallied over it."""

    measure: Measure
    tally: Tally

    def expectation(self, value: Tensor) -> Estimate:
        return expectation(self.measure, value)

    def mass_where(self, inside: Tensor) -> Estimate:
        return mass_where(self.measure, inside)


def evaluate(
    targets: Sequence[Any],
    p: Measure,
    q: Measure,
    *,
    level_p: Tensor | None = None,
    level_q: Tensor | None = None,
    df_q: float | None = None,
    alpha: Tensor | None = None,
) -> list[Evaluation]:
    """Every metric of ``table.DENSITY_METRICS`` for each of the K cells.

    The results of a cell do not depend on its stack if K is a multiple of 32 (repeat the last cell).

    Args:
        p, q: points that stand for the target and for the fit.
        level_p, level_q: log-densities ``(K,)`` that bound the 95 % highest-density regions, where they are
            known exactly; otherwise they are order statistics of the draws.
        df_q: degrees of freedom of a Student-t Q, whose -log q grows like a logarithm: it has a mean under every P.
        alpha: ``(K, 1)``; asks for the alpha divergences too, reported as ``alpha``.
    """
    if isinstance(targets[0], Analytic):
        from experiments.metrics.formula import evaluate_analytic  # made of this module's parts

        return evaluate_analytic(targets, p, q, level_q=level_q, df_q=df_q, alpha=alpha)
    mixture = StackedMixture.stack(targets, p.x.dtype, str(p.x.device))
    of_p, of_q = (Side(measure, tally(mixture, measure)) for measure in (p, q))
    masses = balanced_masses(of_p.tally, of_q.tally)
    table = columns_of(by_points(of_p, of_q, level_p, level_q, alpha) | chain_rule(of_p, of_q, *masses))
    widths = [_variance(mixture, side.tally) for side in (of_q, of_p)]
    columns = {
        "target_mass": masses[0],
        "fitted_mass": masses[1],
        "log_width": 0.5 * (widths[0] / widths[1]).log(),
        "target_points": of_p.tally.mass * p.x.shape[2],
        "fitted_points": of_q.tally.mass * q.x.shape[2],
        "nearest_mass": of_q.tally.nearest_mass,
        "target_in_ellipse": of_p.tally.in_ellipse,
        "fitted_in_ellipse": of_q.tally.in_ellipse,
        "target_gated": of_p.tally.gated,
        "fitted_gated": of_q.tally.gated,
        "forward": of_p.tally.sum_of_log_ratio,
        "reverse": -of_q.tally.sum_of_log_ratio,
    }
    rows = {name: column.cpu().numpy() for name, column in columns.items()}
    draws = None if p.exact else p.x.shape[2], None if q.exact else q.x.shape[2]
    return [_cell(k, target, table, rows, draws, df_q) for k, target in enumerate(targets)]


def by_points(
    of_p: Side, of_q: Side, level_p: Tensor | None, level_q: Tensor | None, alpha: Tensor | None
) -> dict[str, Estimate]:
    """Metrics that are expectations of functions of x, or made of such."""
    p, q = of_p.tally, of_q.tally
    # KL to (P + Q) / 2, from either side.
    p_to_middle = of_p.expectation(math.log(2) + pointwise.log_part(p.log_ratio, p.p_part))
    q_to_middle = of_q.expectation(math.log(2) + pointwise.log_part(-q.log_ratio, q.q_part))
    found = {
        "forward_kl": of_p.expectation(p.log_ratio),
        "reverse_kl": of_q.expectation(-q.log_ratio),
        "jensen_shannon": (p_to_middle + q_to_middle) * 0.5,
        "entropy_gap": of_q.expectation(-of_q.measure.log_q) + of_p.expectation(p.log_p),
        "high_quality": of_q.mass_where(q.nearest <= NEAR),
        "high_quality_ceiling": of_p.mass_where(p.nearest <= NEAR),
        "coverage": _region(of_p, of_p.measure.log_q, of_q.measure, of_q.measure.log_q, level_q),
        "sharpness": _region(of_q, q.log_p, of_p.measure, p.log_p, level_p),
        **importance.forward(p.log_ratio, of_p.measure),
        **importance.reverse(q.log_ratio, of_q.measure),
    }
    if alpha is not None:
        halves = [side.expectation(pointwise.alpha(side.tally.log_ratio, alpha)) for side in (of_p, of_q)]
        found["alpha"] = halves[0] + halves[1]
    return found


def columns_of(estimates: Mapping[str, Estimate]) -> dict[str, np.ndarray]:
    """Each estimate ``(K,)``, and under its name with ``_se`` its standard error."""
    columns = {name: e.value for name, e in estimates.items()}
    columns |= {f"{name}_se": e.variance.clamp(min=0).sqrt() for name, e in estimates.items()}
    return {name: column.cpu().numpy() for name, column in columns.items()}


def _region(
    side: Side, log_density: Tensor, own: Measure, log_density_of_own: Tensor, level: Tensor | None
) -> Estimate:
    """One side's mass inside the other's 95 % highest-density region, over 0.95, at most 1."""
    noise: Tensor | float = 0.0
    if level is None:
        wide, level, narrow = _levels(log_density_of_own, (MASS + ASIDE, MASS, MASS - ASIDE))
        if not own.exact:
            # The level moves with the draws that it was read from by their binomial error, and with it as much of
            # this side's mass as lies beside the edge: more than of the other's own where this side is the denser.
            edge = (log_density >= wide.unsqueeze(1)) & (log_density < narrow.unsqueeze(1))
            beside = side.mass_where(edge).value / (2 * ASIDE)
            noise = beside.square() * (MASS * (1 - MASS) / log_density_of_own.shape[1])
    inside = side.mass_where(log_density >= level.unsqueeze(1))
    return Estimate((inside.value / MASS).clamp(max=1.0), (inside.variance + noise) / MASS**2)


def _levels(log_density: Tensor, masses: Sequence[float]) -> list[Tensor]:
    """What the log-density of each share of its own draws ``(K, N)`` is above, ``(K,)`` each."""
    draws = log_density.shape[1]
    ranks = [max(1, draws - math.ceil(mass * draws) + 1) for mass in masses]
    lowest = log_density.topk(max(ranks), dim=1, largest=False).values  # sorted
    return [lowest[:, rank - 1] for rank in ranks]


def balanced_masses(p: Tally, q: Tally) -> tuple[Tensor, Tensor]:
    """P's and Q's mass of each cell of the partition, ``(K, M)``.

    Both sides' points count, with the balance heuristic (Veach and Guibas 1995): P's points tell of the modes that
    Q has lost, Q's of those that P hardly has. Summed over quadrature nodes these are the integrals themselves.
    """
    a, b = p.sum_of_p_part + q.sum_of_p_part, p.sum_of_q_part + q.sum_of_q_part
    return a / a.sum(dim=1, keepdim=True), b / b.sum(dim=1, keepdim=True)


def chain_rule(of_p: Side, of_q: Side, a: Tensor, b: Tensor) -> dict[str, Estimate]:
    r"""Both KLs split by the partition ``A_k`` of space into modes.

    .. math:: KL(a \| b) = \sum_k a(A_k) \ln \frac{a(A_k)}{b(A_k)} + \sum_k a(A_k) KL(a|A_k \,\|\, b|A_k)

    The first sum is what is lost between modes (coverage nats), the second within them (shape nats). Standard
    errors by the delta method: the coverage nats are a function of the masses, each divided by their sum, so
    each point contributes its derivative to their variance.
    """
    a, b = a.clamp(min=modes.SMALLEST_MASS), b.clamp(min=modes.SMALLEST_MASS)
    p_cell, q_cell = (side.tally.mode.long() for side in (of_p, of_q))
    estimates = {}
    for name, own, other, cells, first, second in (
        ("forward", of_p, of_q, (p_cell, q_cell), a, b),
        ("reverse", of_q, of_p, (q_cell, p_cell), b, a),
    ):
        ratio = (first / second).log()
        coverage = (first * ratio).sum(dim=1)
        slopes = torch.stack([ratio - coverage.unsqueeze(1), 1.0 - first / second], dim=1)
        sign = 1.0 if own is of_p else -1.0
        terms = [_slope(side, cell, slopes, own is of_p) for side, cell in zip((own, other), cells, strict=True)]
        log_ratio = sign * own.tally.log_ratio
        kl = own.expectation(log_ratio)
        spread = own.expectation(terms[0]).variance, other.expectation(terms[1]).variance
        shape = own.expectation(log_ratio - terms[0]).variance
        estimates[f"{name}_coverage_nats"] = Estimate(coverage, spread[0] + spread[1])
        estimates[f"{name}_shape_nats"] = Estimate(kl.value - coverage, shape + spread[1])
    return estimates


def _slope(side: Side, cell: Tensor, slopes: Tensor, forward: bool) -> Tensor:
    """What each point contributes, to first order, to a function of the masses: ``(K, N)``."""
    parts = (side.tally.p_part, side.tally.q_part)
    first, second = parts if forward else parts[::-1]
    inner, outer = (slope.gather(1, cell) for slope in slopes.unbind(dim=1))
    return inner.mul_(first).add_(outer.mul_(second))


def _variance(mixture: StackedMixture, counts: Tally) -> Tensor:
    """Total variance within each mode's cell, in the mode's own whitened coordinates, ``(K, M)``."""
    k, m, d = counts.x.shape
    mean = counts.x / counts.mass.unsqueeze(2) - mixture.center.transpose(1, 2)
    whiten = mixture.whiten.view(k, d, m, d)
    center = (whiten * mean.unsqueeze(1)).sum(dim=3) + mixture.offset.view(k, d, m)
    square = counts.distance / counts.mass
    variance = square - center.square().sum(dim=1)
    # Of a fit that is next to a point rounding errors are all that is left.
    return torch.where(variance > ROUNDING * square.clamp(min=1.0), variance, torch.nan)


def _cell(
    k: int,
    target: Mixture,
    table: Mapping[str, np.ndarray],
    by_mode: Mapping[str, np.ndarray],
    draws: tuple[int | None, int | None],
    df_q: float | None,
) -> Evaluation:
    """One cell's numbers, without the padding of its modes; ``draws`` of P and of Q."""
    m = target.modes
    mine = {name: column[k, :m] for name, column in by_mode.items()}
    p, q = ellipses(mine["target_in_ellipse"], mine["fitted_in_ellipse"], draws)
    captured = modes.captured(p.mass, q.mass)
    # Else the numbers would be where panels or draws happen to end.
    has_width = captured if target.df is None or target.df >= DF_OF_WIDTHS else np.zeros(m, dtype=bool)
    for name, count in zip(("target_points", "fitted_points"), draws, strict=True):
        if count is not None:
            has_width = has_width & (mine[name] > FEWEST - 0.5)
    widths = np.where(has_width, mine["log_width"], np.nan)
    known = widths[~np.isnan(widths)]  # a captured mode's cell is empty where another one's is above it everywhere
    metrics = {name: float(column[k]) + 0.0 for name, column in table.items()}
    area, area_se = modes.capture_area(p, q)
    metrics |= modes.entropic(mine["nearest_mass"], q.draws)
    metrics |= modes.gated_entropic(mine["target_gated"], mine["fitted_gated"], q.draws)
    metrics |= {
        "modes_captured": float(captured.sum()),
        "modes_total": float(m),
        "capture_area": area,
        "capture_area_se": area_se,
        "collapse_invoice": modes.collapse_invoice(target.weights, captured),
        "log_width": float(known.mean()) if len(known) else math.nan,
    }
    nats = dict(modes.nats(mine["target_mass"], mine["fitted_mass"], mine["forward"], mine["reverse"]))
    if target.df is not None and (df_q is None or 2 * target.df <= df_q):
        # p^2 / q, which falls like r^-(2 df_p - df_q + D), has no integral.
        metrics |= {"ess_forward": 0.0, "ess_forward_se": 0.0}
    if target.df is not None and target.df <= 2 and df_q is None:
        # -log q grows like the square, which has no mean under P; a finite sum over points would hide it.
        metrics |= {"forward_kl": math.inf, "forward_shape_nats": math.inf}
        nats["forward_shape_nats"] = np.full(m, np.inf)
    return Evaluation(
        metrics,
        {
            "weight": np.asarray(target.weights, dtype=float),
            "target_mass": mine["target_mass"],
            "fitted_mass": mine["fitted_mass"],
            "captured": captured,
            "fair_share": modes.fair_shares(p, q),
            "log_width": widths,
            **nats,
        },
    )


def ellipses(p: np.ndarray, q: np.ndarray, draws: tuple[int | None, int | None]) -> list[modes.InEllipses]:
    """Of P and of Q, from ``(M, 3)``; where Q has no density, each side's points tell of that side alone."""
    if np.isnan(p).any() or np.isnan(q).any():
        p, q = p[:, [0, 0, 0]], q[:, :1] * np.array([1.0, 0.0, 0.0])
    return [modes.InEllipses(side[:, 0], side[:, 1], side[:, 2], n) for side, n in zip((p, q), draws, strict=True)]
