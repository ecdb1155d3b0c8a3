"""Metrics of Q against a density by formula, from draws: those of mixtures, but for what needs components' widths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from experiments.metrics import modes
from experiments.metrics.density import Evaluation, Side, balanced_masses, by_points, chain_rule, columns_of, ellipses
from experiments.metrics.partition import Measure, Tally
from experiments.stacked_analytic import StackedAnalytic
from experiments.targets import Analytic


def evaluate_analytic(
    targets: Sequence[Analytic],
    p: Measure,
    q: Measure,
    *,
    level_q: Tensor | None = None,
    df_q: float | None = None,
    alpha: Tensor | None = None,
) -> list[Evaluation]:
    """As ``density.evaluate``. Where modes divide the space (``Form.cell``), their cells stand for their ellipses:
    one is captured if Q has a tenth of P's mass of its cell. Where they do not, no metric of modes is reported.
    """
    stacked = StackedAnalytic.stack(targets, p.x.dtype, str(p.x.device))
    masses = targets[0].form.masses
    of_p, of_q = (_side(stacked, measure, 1 if masses is None else len(masses)) for measure in (p, q))
    estimates = by_points(of_p, of_q, None, level_q, alpha)
    for name in ("high_quality", "high_quality_ceiling"):
        del estimates[name]
    sides: tuple[Tensor, ...] = ()
    if masses is not None:
        sides = balanced_masses(of_p.tally, of_q.tally)
        estimates |= chain_rule(of_p, of_q, *sides)
    table = columns_of(estimates)
    tallies = (of_p.tally, of_q.tally)
    by_mode = (*sides, *(t.in_ellipse for t in tallies), *(t.sum_of_log_ratio for t in tallies))
    held = [part.cpu().numpy() for part in by_mode]
    draws = p.x.shape[2], q.x.shape[2]
    rows = []
    for k, target in enumerate(targets):
        metrics = {name: float(column[k]) + 0.0 for name, column in table.items()}
        found: dict[str, np.ndarray] = {}
        if masses is not None:
            counted, found = _modes(masses, [part[k] for part in held], draws)
            metrics |= counted
        if _has_no_square(target, df_q):
            metrics |= {"ess_forward": 0.0, "ess_forward_se": 0.0}
        if target.df is not None and target.df <= 2 and df_q is None:
            metrics["forward_kl"] = math.inf
            if masses is not None:
                metrics["forward_shape_nats"] = math.inf
                found["forward_shape_nats"] = np.full(len(masses), math.inf)
        rows.append(Evaluation(metrics, found))
    return rows


def _has_no_square(target: Analytic, df_q: float | None) -> bool:
    """Whether p^2 / q has no integral: of one Student-t coordinate, the others near, it falls like
    ``r^-(2 (df_p + 1) - (df_q + D))``.
    """
    if df_q is None:
        return target.form.tails[0] < 2
    return target.df is not None and 2 * target.df + 1 <= df_q + target.dim


def _side(stacked: StackedAnalytic, measure: Measure, cells: int) -> Side:
    """A measure, and its sums over the cells of the modes."""
    log_p = stacked.log_prob(measure.x)
    mode = torch.zeros_like(log_p) if cells == 1 else stacked.cell(measure.x).to(log_p.dtype)
    log_ratio = log_p - measure.log_q
    parts = torch.sigmoid(log_ratio), torch.sigmoid(-log_ratio)
    inside = [(mode == k).to(log_p.dtype) * measure.weight for k in range(cells)]
    mass, p_parts, q_parts, squares, log_ratios = (
        torch.stack([torch.where(own > 0, own * value, 0.0).sum(dim=1) for own in inside], dim=1)
        for value in (torch.ones_like(log_p), *parts, parts[0].square(), log_ratio)
    )
    nothing = torch.zeros_like(mass)
    counts = Tally(
        log_p=log_p,
        log_ratio=log_ratio,
        p_part=parts[0],
        q_part=parts[1],
        nearest=torch.zeros_like(log_p),
        mode=mode,
        mass=mass,
        x=nothing,
        distance=nothing,
        in_ellipse=torch.stack([mass, p_parts, squares], dim=2),
        nearest_mass=mass,
        sum_of_log_ratio=log_ratios,
        sum_of_p_part=p_parts,
        sum_of_q_part=q_parts,
        gated=nothing,
    )
    return Side(measure, counts)


def _modes(
    weight: np.ndarray, held: list[np.ndarray], draws: tuple[int, int]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of a cell that count modes, and one array ``(M,)`` for each column of the modes."""
    target, fitted, of_p, of_q, forward, reverse = held
    p, q = ellipses(of_p, of_q, draws)
    captured = modes.captured(weight, q.mass)
    area, area_se = modes.capture_area(p, q)
    metrics = {
        "modes_captured": float(captured.sum()),
        "modes_total": float(len(weight)),
        "capture_area": area,
        "capture_area_se": area_se,
        "collapse_invoice": modes.collapse_invoice(weight, captured),
        **modes.entropic(q.mass, q.draws),
    }
    return metrics, {
        "weight": np.asarray(weight, dtype=float),
        "target_mass": target,
        "fitted_mass": fitted,
        "captured": captured,
        "fair_share": modes.fair_shares(p, q),
        "log_width": np.full(len(weight), math.nan),
        **modes.nats(target, fitted, forward, -reverse),
    }
