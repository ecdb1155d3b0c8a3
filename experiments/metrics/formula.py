"""Metrics of Q against a density by formula, from draws: those of mixtures, but for what needs components' widths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from experiments import pointwise
from experiments.metrics.density import Evaluation, _Both, _chain_rule, _masses, _pointwise
from experiments.metrics.partition import Measure, Tally
from experiments.stacked_analytic import StackedAnalytic
from experiments.targets import Analytic

CAPTURED = 0.1  # of P's mass of a mode's cell


def evaluate_analytic(
    targets: Sequence[Analytic],
    p: Measure,
    q: Measure,
    *,
    level_q: Tensor | None = None,
    heavy_q: bool = False,
    alpha: Tensor | None = None,
) -> list[Evaluation]:
    """As ``density.evaluate``. Where modes divide the space (``Form.cell``), one is captured if Q has a tenth of
    P's mass of its cell; where they do not, no metric of modes is reported.
    """
    stacked = StackedAnalytic.stack(targets, p.x.dtype, str(p.x.device))
    masses = targets[0].form.masses
    of_p, of_q = (_both(stacked, measure, 1 if masses is None else len(masses)) for measure in (p, q))
    estimates = _pointwise(of_p, of_q, None, level_q)
    for name in ("high_quality", "high_quality_ceiling"):
        del estimates[name]
    modes: tuple[Tensor, ...] = ()
    if masses is not None:
        modes = _masses(of_p.tally, of_q.tally)
        estimates |= _chain_rule(of_p, of_q, *modes)
    if alpha is not None:
        sides = [side.expectation(pointwise.alpha(side.f, alpha)) for side in (of_p, of_q)]
        estimates["alpha"] = sides[0] + sides[1]
    columns = {name: e.value for name, e in estimates.items()}
    columns |= {f"{name}_se": e.variance.clamp(min=0).sqrt() for name, e in estimates.items()}
    table = {name: column.cpu().numpy() for name, column in columns.items()}
    held = [part.cpu().numpy() for part in (*modes, of_q.tally.mass)]
    rows = []
    for k, target in enumerate(targets):
        metrics = {name: float(column[k]) + 0.0 for name, column in table.items()}
        if target.df is not None and target.df <= 2 and not heavy_q:
            metrics["forward_kl"] = math.inf
            if masses is not None:
                metrics["forward_shape_nats"] = math.inf
        found: dict[str, np.ndarray] = {}
        if masses is not None:
            target_mass, fitted_mass, drawn = (part[k] for part in held)
            found = _modes(masses, target_mass, fitted_mass, drawn)
            metrics |= _counted(found["captured"], drawn)
        rows.append(Evaluation(metrics, found))
    return rows


def _both(stacked: StackedAnalytic, measure: Measure, cells: int) -> _Both:
    """A measure, and its sums over the cells of the modes."""
    log_p = stacked.log_prob(measure.x)
    mode = torch.zeros_like(log_p) if cells == 1 else stacked.cell(measure.x).to(log_p.dtype)
    f = log_p - measure.log_q
    shares = (torch.ones_like(f), torch.sigmoid(f), torch.sigmoid(-f))
    inside = [(mode == k).to(f.dtype) * measure.weight for k in range(cells)]
    mass, p_share, q_share = (torch.stack([(own * share).sum(dim=1) for own in inside], dim=1) for share in shares)
    nothing = torch.zeros_like(mass)
    counts = Tally(
        log_p=log_p,
        nearest=torch.zeros_like(log_p),
        mode=mode,
        mass=mass,
        p_share=p_share,
        q_share=q_share,
        x=nothing,
        distance=nothing,
        in_ellipse=nothing,
        nearest_mass=mass,
    )
    return _Both(measure, counts, f)


def _modes(weight: np.ndarray, target: np.ndarray, fitted: np.ndarray, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """One array ``(M,)`` for each column of the modes."""
    return {
        "weight": np.asarray(weight, dtype=float),
        "target_mass": target,
        "fitted_mass": fitted,
        "captured": drawn >= CAPTURED * weight,
        "log_width": np.full(len(weight), math.nan),
    }


def _counted(captured: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """From Q's draws in each cell, as for mixtures."""
    share = drawn / drawn.sum()
    entropy = float(-(share * np.log(np.where(share > 0, share, 1.0))).sum()) + 0.0
    count = len(share)
    return {
        "modes_captured": float(captured.sum()),
        "modes_total": float(count),
        "entropic_coverage": entropy / math.log(count) if count > 1 else math.nan,
        "effective_modes": math.exp(entropy) / count,
    }
