"""Cells in, outcomes out: stack, fit, evaluate."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import torch

from experiments import randomness
from experiments.checkpoint import NOWHERE, Checkpoint
from experiments.experiment import Cell, Checkpoints, Outcome
from experiments.kl_fit.cost import judged_at_once, multiple, trained_at_once
from experiments.kl_fit.divergences import StackedTarget, divergence
from experiments.kl_fit.families import Family, Flow, Gaussian, GaussianMixture, StudentT, family, frame_shape
from experiments.kl_fit.fit import LINE, Fit, fit
from experiments.kl_fit.fits import Fits, Flows, Gaussians, Mixtures
from experiments.kl_fit.judge import judge
from experiments.kl_fit.judge_points import Judgement
from experiments.kl_fit.optimum import Distance, distances, search_optima
from experiments.kl_fit.points import StackedPoints
from experiments.kl_fit.start import Frame, initial
from experiments.stacked_analytic import stack
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Points

CERTIFIED = 128  # fits at once: fewer spend their time on numpy's calls, and more would only take memory


def run(cells: Sequence[Cell], device: str, checkpoints: Checkpoints | None = None) -> list[Outcome]:
    """Fit and evaluate cells of one batch key, in their order."""
    if isinstance(family(cells[0].params, cells[0].target.dim), Gaussian):
        search_optima(cells)
    size = trained_at_once(cells[0].params, cells[0].target, device)
    outcomes: list[Outcome] = []
    for start in range(0, len(cells), size):
        outcomes += _run_slice(cells[start : start + size], device, checkpoints)
    return outcomes


def padded_to_stack(cells: Sequence[Cell]) -> list[Cell]:
    """The last cell is repeated up to a multiple of ``STACK``, or of ``STACK_OF_LARGE``."""
    return [*cells, *[cells[-1]] * (-len(cells) % multiple(cells[0].params, cells[0].target.dim))]


def _run_slice(cells: Sequence[Cell], device: str, checkpoints: Checkpoints | None) -> list[Outcome]:
    stacked = padded_to_stack(cells)
    fitted, found = train(stacked, device, Checkpoint(cells, checkpoints))
    finished = found.healthy & (fitted.steps_done == cells[0].params.steps)
    judged: list[Judgement] = []
    size = judged_at_once(cells[0].params, cells[0].target, device)
    # Neighbours are searched for one fit after the other: padding would only take their time.
    wanted = cells if isinstance(cells[0].target, Points) else stacked
    for start in range(0, len(wanted), size):
        block = slice(start, start + size)
        judged += judge(wanted[block], found[block], finished[block], device)
    away = _distances(cells, found, finished)
    return [
        _outcome(k, cell, fitted, found, judged[k], away[k]) if finished[k] else _diverged(k, cell, fitted, judged[k])
        for k, cell in enumerate(cells)
    ]


def _distances(cells: Sequence[Cell], found: Fits, finished: np.ndarray) -> list[Distance]:
    """How far each fit is from its optima: of Gaussians alone these are known, and none of a diverged one."""
    away = [Distance()] * len(cells)
    if isinstance(found, Gaussians):
        rows = np.flatnonzero(finished[: len(cells)])
        for start in range(0, len(rows), CERTIFIED):
            block = rows[start : start + CERTIFIED]
            known = distances([cells[k] for k in block], found.mean[block], found.tril[block])
            for k, distance in zip(block, known, strict=True):
                away[k] = distance
    return away


def _diverged(k: int, cell: Cell, fitted: Fit, judged: Judgement) -> Outcome:
    return Outcome(
        status="diverged",
        error=f"diverged at step {fitted.steps_done[k]}: the loss or its gradient left the finite numbers;"
        f" try a learning_rate below {cell.params.learning_rate:g}",
        labels=judged.labels,
        curve_steps=fitted.curve_steps,
        curves={"loss": fitted.curve[k] + judged.loss_offset},
    )


def _outcome(k: int, cell: Cell, fitted: Fit, found: Fits, judged: Judgement, away: Distance) -> Outcome:
    if isinstance(found, Flows):
        assert judged.moments is not None
        mean, covariance, weights = *judged.moments, None
    else:
        mean, covariance, weights = found.moments(k)
    metrics = {**judged.metrics, **away.metrics}
    if metrics.get("optimum_gap") == math.inf:  # the integral is; panels and draws, which end somewhere, do not tell
        metrics |= {"objective": math.inf, "objective_se": 0.0}
    return Outcome(
        metrics=metrics,
        labels={**judged.labels, **away.labels},
        curve_steps=fitted.curve_steps,
        curves={"loss": fitted.curve[k] + judged.loss_offset},
        modes=judged.modes,
        samples=judged.samples,
        mean=mean,
        covariance=covariance,
        weights=weights,
    )


def train(cells: Sequence[Cell], device: str, checkpoint: Checkpoint = NOWHERE) -> tuple[Fit, Fits]:
    """Fit a padded stack; the fits in the targets' own units."""
    params, target = cells[0].params, cells[0].target
    chosen = family(params, target.dim)
    dtype = getattr(torch, params.dtype)
    frames = {cell.target.digest: _frame(cell, chosen) for cell in cells}
    stacked = _stack(cells, frames, dtype, device)
    theta = torch.tensor(_starts(cells, frames, chosen), dtype=dtype, device=device)
    if isinstance(chosen, Flow):
        theta = torch.nn.functional.pad(theta, (0, -theta.shape[1] % LINE))
    fitted = fit(
        stacked,
        chosen,
        divergence([cell.params for cell in cells], theta),
        theta,
        [cell.seed for cell in cells],
        steps=params.steps,
        samples=params.samples,
        learning_rate=torch.tensor([c.params.learning_rate for c in cells], dtype=dtype, device=device),
        optimizer=params.optimizer,
        df=stacked.df[:, 0, 0] if isinstance(stacked, StackedMixture) and stacked.df is not None else None,
        checkpoint=checkpoint,
    )
    theta = fitted.theta.double()
    center = np.stack([frames[cell.target.digest].center for cell in cells])
    factor = np.stack([frames[cell.target.digest].factor for cell in cells])
    with np.errstate(all="ignore"):  # diverged fits are carried along, and dropped
        if isinstance(chosen, GaussianMixture | StudentT):
            return fitted, Mixtures.of(chosen, theta.cpu().numpy(), center, factor)
        if isinstance(chosen, Flow):
            return fitted, Flows.of(chosen, theta, center, factor)
        assert isinstance(chosen, Gaussian)
        loc, tril = (part.cpu().numpy() for part in chosen.moments(theta))
        return fitted, Gaussians(center + (factor @ loc[:, :, None])[:, :, 0], factor @ tril)


def _frame(cell: Cell, chosen: Family) -> Frame:
    return Frame.of(cell.target, frame_shape(chosen)) if cell.params.standardise else Frame.own(cell.target)


def _starts(cells: Sequence[Cell], frames: dict[str, Frame], chosen: Family) -> np.ndarray:
    """Parameters ``(K, P)`` of each cell's fit before the first step, in its frame; those that start alike at once."""
    drawn = not isinstance(chosen, Gaussian | StudentT)
    starts: dict[Hashable, np.ndarray] = {}
    of_cells = []
    for cell in cells:
        params, digest = cell.params, cell.target.digest
        seed = cell.seed if drawn or params.init == "random" else None
        kind = (digest, params.init, params.init_scale, params.init_loc, seed)
        if kind not in starts:
            starts[kind] = _start(cell, frames[digest], chosen)
        of_cells.append(starts[kind])
    return np.stack(of_cells)


def _start(cell: Cell, frame: Frame, chosen: Family) -> np.ndarray:
    (generator,) = randomness.generators([cell.seed], "init")
    mean, covariance = initial(cell.target, cell.params, generator)
    return chosen.project(frame.points(mean[None])[0], frame.covariance(covariance), generator)


def _stack(cells: Sequence[Cell], frames: dict[str, Frame], dtype: torch.dtype, device: str) -> StackedTarget:
    """The targets in their frames; cells of one target share what is made for it."""
    targets = {cell.target.digest: cell.target for cell in cells}
    if isinstance(cells[0].target, Points):
        points = {digest: frames[digest].points(target.values) for digest, target in targets.items()}
        return StackedPoints.stack([points[cell.target.digest] for cell in cells], dtype, device)
    framed = {digest: frames[digest].seen(target) for digest, target in targets.items()}
    return stack([framed[cell.target.digest] for cell in cells], dtype, device)
