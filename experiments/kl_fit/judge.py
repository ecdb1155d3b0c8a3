"""Fits against their targets, in float64 and in the targets' own units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import randomness
from experiments.experiment import Cell
from experiments.kl_fit.cost import DRAWS
from experiments.kl_fit.fits import Fits, Flows, Gaussians, Mixtures, lower_inverse
from experiments.kl_fit.judge_points import KEPT_SAMPLES, Judgement, by_neighbours, kept_samples, moments_of
from experiments.kl_fit.names import kl_weights, operations
from experiments.metrics.density import Evaluation, Measure, evaluate
from experiments.metrics.partition import log_density
from experiments.metrics.quadrature import mixture_quadrature, quadrature
from experiments.stacked_analytic import stack
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture, Points

EVALUATED = 32  # cells at once, or a multiple: see metrics.density.evaluate


def judge(cells: Sequence[Cell], q: Fits, finished: np.ndarray, device: str) -> list[Judgement]:
    """Of a block of cells, in their order; metrics of fits that are not ``finished`` ``(K,)`` mean nothing."""
    if isinstance(cells[0].target, Points):
        q = q.cpu() if isinstance(q, Flows) else q  # what is left to do is a search for neighbours
        return [by_neighbours(cell, q[k : k + 1], bool(finished[k])) for k, cell in enumerate(cells)]
    with np.errstate(all="ignore"):  # diverged fits are judged with the others
        evaluations, x_q = _evaluate(cells, q, device)
    judged = []
    for cell, evaluation, x in zip(cells, evaluations, x_q, strict=True):
        value, error = _objective(cell.params, evaluation)
        metrics = {"objective": value, "objective_se": error} | dict(evaluation.metrics)
        for name in ("alpha", "alpha_se"):  # that is the objective's other name, and a parameter's
            metrics.pop(name, None)
        moments = moments_of(x) if isinstance(q, Flows) else None
        labels = {"coverage_method": "density"}
        judged.append(Judgement(metrics, kept_samples(x), labels, evaluation.modes, moments))
    return judged


def _objective(params: Any, evaluation: Evaluation) -> tuple[float, float]:
    """The divergence that was minimised, and its standard error; the KLs' own come from independent draws."""
    if operations(params) in ("jensen_shannon", "alpha"):
        return evaluation.metrics[params.divergence], evaluation.metrics[f"{params.divergence}_se"]
    parts = [(w, f"{name}_kl") for w, name in zip(kl_weights(params), ("forward", "reverse"), strict=True) if w]
    error = math.hypot(*(weight * evaluation.metrics[f"{name}_se"] for weight, name in parts))
    return sum(weight * evaluation.metrics[name] for weight, name in parts), error


def _alpha(cells: Sequence[Cell], device: str) -> Tensor | None:
    """Of a stack that minimises alpha divergences, ``(K, 1)``."""
    if operations(cells[0].params) != "alpha":
        return None
    return torch.tensor([[cell.params.alpha] for cell in cells], dtype=torch.float64, device=device)


def _evaluate(cells: Sequence[Cell], q: Fits, device: str) -> tuple[list[Evaluation], np.ndarray]:
    if isinstance(q, Flows):
        return _flows_by_draws(cells, q, device)
    if isinstance(q, Mixtures):
        return (_mixtures_by_quadrature if q.dim == 1 else _mixtures_by_draws)(cells, q, device)
    return (_by_quadrature if q.dim == 1 else _by_draws)(cells, q, device)


def _mixtures_by_quadrature(cells: Sequence[Cell], q: Mixtures, device: str) -> tuple[list[Evaluation], np.ndarray]:
    targets = [cell.target for cell in cells]
    of_p, of_q, level_p, level_q = mixture_quadrature(targets, q.each, device)
    fits = StackedMixture.stack(q.each, torch.float64, device)
    samples = fits.draw(KEPT_SAMPLES, _own_generators(cells, device)).transpose(1, 2).cpu().numpy()
    df = q.each[0].df  # of the family, and so of all
    evaluations = evaluate(targets, of_p, of_q, level_p=level_p, level_q=level_q, df_q=df, alpha=_alpha(cells, device))
    if df is None:
        evaluations = _with_tails(cells, evaluations, of_p, np.array([fit.covariances.max() for fit in q.each]))
    return evaluations, samples


def _mixtures_by_draws(cells: Sequence[Cell], q: Mixtures, device: str) -> tuple[list[Evaluation], np.ndarray]:
    targets = [cell.target for cell in cells]
    generators = _own_generators(cells, device)
    x_p = stack(targets, torch.float64, device).draw(DRAWS, generators)
    fits = StackedMixture.stack(q.each, torch.float64, device)
    x_q = fits.draw(DRAWS, generators)
    of_p, of_q = ((x, log_density(fits, x)) for x in (x_p, x_q))
    evaluations = _padded(cells, of_p, of_q, df_q=q.each[0].df)
    return evaluations, x_q[:, :, :KEPT_SAMPLES].transpose(1, 2).cpu().numpy()


def _padded(
    cells: Sequence[Cell], of_p: tuple[Tensor, Tensor], of_q: tuple[Tensor, Tensor], *, df_q: float | None = None
) -> list[Evaluation]:
    """Of any number of cells, from draws ``(K, D, N)`` of P and of Q and Q's log-density there, ``(K, N)``."""
    padded = [*cells, *[cells[-1]] * (-len(cells) % EVALUATED)]
    rows = torch.arange(len(padded), device=of_p[0].device).clamp(max=len(cells) - 1)
    p, q = (Measure.of_draws(x[rows], log_q[rows]) for x, log_q in (of_p, of_q))
    targets = [cell.target for cell in padded]
    return evaluate(targets, p, q, df_q=df_q, alpha=_alpha(padded, str(rows.device)))[: len(cells)]


def _flows_by_draws(cells: Sequence[Cell], q: Flows, device: str) -> tuple[list[Evaluation], np.ndarray]:
    generators = _generators(cells, device)
    x_p = stack([cell.target for cell in cells], torch.float64, device).draw(DRAWS, generators)
    of_q = q.sample(randomness.normal((q.dim, DRAWS), generators, torch.float64))
    return _padded(cells, (x_p, q.log_prob(x_p)), of_q), of_q[0].transpose(1, 2).cpu().numpy()


def _by_quadrature(cells: Sequence[Cell], q: Gaussians, device: str) -> tuple[list[Evaluation], np.ndarray]:
    targets = [cell.target for cell in cells]
    of_p, of_q, level = quadrature(targets, q.mean[:, 0], q.tril[:, 0, 0], device)
    level_q = torch.as_tensor(q.level, device=device)
    normal = randomness.normal((1, KEPT_SAMPLES), _generators(cells, device), torch.float64)
    samples = q.sample(normal.cpu().numpy()).transpose(0, 2, 1)
    evaluations = evaluate(targets, of_p, of_q, level_p=level, level_q=level_q, alpha=_alpha(cells, device))
    return _with_tails(cells, evaluations, of_p, q.tril[:, 0, 0] ** 2), samples


def _with_tails(
    cells: Sequence[Cell], evaluations: Sequence[Evaluation], p: Measure, variance: np.ndarray
) -> list[Evaluation]:
    """What panels on a line, which end somewhere, do not tell of Gaussian Q's of largest variance ``(K,)``."""
    kept = []
    for cell, evaluation, x, weight, own in zip(cells, evaluations, p.x[:, 0], p.weight, variance, strict=True):
        target = cell.target
        assert isinstance(target, Mixture)  # formulas on a line have other metrics
        if target.df is None and 2 * own <= target.covariances.max():  # p^2 / q has no integral
            evaluation = replace(evaluation, metrics={**evaluation.metrics, "ess_forward": 0.0})
        if target.df is not None and target.df > 2:
            beyond = float(target.covariance[0, 0] - weight @ (x - target.mean[0]).square())
            evaluation = _with_second_moment(target, target.df, evaluation, 0.5 * beyond / own)
        kept.append(evaluation)
    return kept


def _with_second_moment(target: Mixture, df: float, evaluation: Evaluation, nats: float) -> Evaluation:
    """With the nats that forward KL has beyond the panels, where -log q is a square.

    So far out a mode's own place is nothing: half of them are to either side, in the cells of the modes that lead
    there, which are those of the largest weight times scale^df.
    """
    lead = np.log(target.weights) + 0.5 * df * np.log(target.covariances[:, 0, 0])
    order = np.argsort(target.means[:, 0], kind="stable")
    leaders = order[lead[order] >= lead.max() - 1e-9]
    by_mode = evaluation.modes["forward_shape_nats"].copy()
    by_mode[leaders[0]] += 0.5 * nats
    by_mode[leaders[-1]] += 0.5 * nats
    metrics = {name: evaluation.metrics[name] + nats for name in ("forward_kl", "forward_shape_nats")}
    return Evaluation({**evaluation.metrics, **metrics}, {**evaluation.modes, "forward_shape_nats": by_mode})


def _by_draws(cells: Sequence[Cell], q: Gaussians, device: str) -> tuple[list[Evaluation], np.ndarray]:
    targets = [cell.target for cell in cells]
    generators = _generators(cells, device)
    x_p = stack(targets, torch.float64, device).draw(DRAWS, generators)
    normal = randomness.normal((q.dim, DRAWS), generators, torch.float64)
    mean, tril = (torch.as_tensor(part, device=device) for part in (q.mean, q.tril))
    peak = torch.as_tensor(-0.5 * q.dim * math.log(2 * math.pi) - q.log_det, device=device).unsqueeze(1)
    x_q = torch.baddbmm(mean.unsqueeze(2), tril, normal)
    log_q_at_q = peak - 0.5 * _squared_norm(normal)
    inverse = torch.as_tensor(lower_inverse(q.tril), device=device)
    log_q_at_p = peak - 0.5 * _squared_norm(torch.bmm(inverse, x_p - mean.unsqueeze(2)))
    evaluations = evaluate(
        targets,
        Measure.of_draws(x_p, log_q_at_p),
        Measure.of_draws(x_q, log_q_at_q),
        level_q=torch.as_tensor(q.level, device=device),
        alpha=_alpha(cells, device),
    )
    return evaluations, x_q[:, :, :KEPT_SAMPLES].transpose(1, 2).cpu().numpy()


def _squared_norm(x: Tensor) -> Tensor:
    total = x[:, 0].square()
    for part in x.unbind(1)[1:]:
        total.addcmul_(part, part)
    return total


def _own_generators(cells: Sequence[Cell], device: str) -> list[torch.Generator]:
    return randomness.generators([cell.seed for cell in cells], "evaluation", device)


def _generators(cells: Sequence[Cell], device: str) -> list[torch.Generator]:
    """Of the evaluation stream; cells of one seed share one, and so its draws, unless each needs its own kind."""
    seeds = [cell.seed for cell in cells]
    if cells[0].target.df is not None:
        return randomness.generators(seeds, "evaluation", device)
    unique, rows = randomness.shared_generators(seeds, "evaluation", device)
    return [unique[row] for row in rows.tolist()]
