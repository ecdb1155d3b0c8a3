"""Cells in, outcomes out: stack, draw, differentiate, and take the gradients' statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from experiments import randomness
from experiments.experiment import Cell, Outcome
from experiments.gradients import METRICS, NOISE_BLOCK, PART_BYTES, STACK
from experiments.gradients.estimators import ESTIMATORS, Estimator, gradient
from experiments.gradients.exact import ExactGradient, Point, exact_gradient
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture

MEASURED = [name for metric in METRICS if metric.has_error for name in (metric.name, f"{metric.name}_se")]


def run(cells: Sequence[Cell], device: str) -> list[Outcome]:
    """Measure the gradients of cells of one batch key, in their order."""
    outcomes: list[Outcome] = []
    for start in range(0, len(cells), STACK):
        outcomes += _run_stack(cells[start : start + STACK], device)
    return outcomes


def _run_stack(cells: Sequence[Cell], device: str) -> list[Outcome]:
    estimator = ESTIMATORS[cells[0].params.estimator]
    points = [_point(cell) for cell in cells]
    gradients = _gradients(cells, estimator, device)
    outcomes = []
    for k, (cell, point) in enumerate(zip(cells, points, strict=True)):
        exact = exact_gradient(point)
        known = _known(cell, estimator, exact)
        measured = dict.fromkeys(MEASURED, math.nan)
        if gradients is not None:
            measured = statistics(gradients[k].double().numpy(), exact, cell.target.dim, cell.params.samples)
        outcomes.append(_outcome(known | measured | {"has_gradient": float(gradients is not None)}, exact))
    return outcomes


def _outcome(metrics: dict[str, float], exact: ExactGradient) -> Outcome:
    labels = {"exact_method": exact.method}
    if metrics["has_gradient"] and not math.isfinite(metrics["mean_squared_error"]):
        error = "diverged: a gradient left the finite numbers; try dtype float64, or a width nearer to 1"
        return Outcome(status="diverged", error=error, labels=labels)
    return Outcome(metrics=metrics, labels=labels)


def _point(cell: Cell) -> Point:
    params = cell.params
    assert isinstance(cell.target, Mixture)
    isotropic = params.family == "gaussian_isotropic"
    return Point(cell.target.digest, isotropic, params.offset, params.width, cell.target)


def _gradients(cells: Sequence[Cell], estimator: Estimator, device: str) -> Tensor | None:
    """Every cell's gradients ``(K, D + S, R)``, on the CPU; None where autograd has none. Padding's are dropped."""
    params, dim, count = cells[0].params, cells[0].target.dim, len(cells)
    cells = [*cells, *[cells[-1]] * (STACK - count)]
    dtype = getattr(torch, params.dtype)
    points = [_point(cell) for cell in cells]
    framed = {point: point.framed for point in points}
    target = StackedMixture.stack([framed[point] for point in points], dtype, device)
    loc = torch.zeros(len(points), dim, dtype=dtype, device=device)
    log_scale = torch.tensor(np.stack([p.log_scale for p in points]), dtype=dtype, device=device)
    hot = STACK * loc.element_size() * params.samples * (dim + 2) * target.components
    step = max(1, PART_BYTES // hot)
    held = torch.empty(count, dim + log_scale.shape[1], params.repeats, dtype=dtype)
    done = 0
    for block in _noise(dim, params.samples, params.repeats, [cell.seed for cell in cells], loc):
        for start in range(0, block.shape[2], step):
            part = gradient(estimator, target, loc, log_scale, block[:, :, start : start + step])
            if part is None:
                return None
            held[:, :, done : done + part.shape[2]] = part[:count]
            done += part.shape[2]
    return held


def _noise(dim: int, samples: int, repeats: int, seeds: Sequence[int], like: Tensor) -> Iterator[Tensor]:
    """Standard normal noise ``(K, D, r, N)`` for r repeats at a time; cells of one seed share it."""
    generators, rows = randomness.shared_generators(seeds, "noise", str(like.device))
    block = max(1, NOISE_BLOCK // (dim * samples))
    for start in range(0, repeats, block):
        drawn = randomness.normal((dim, block, samples), generators, like.dtype)
        yield drawn[:, :, : repeats - start].index_select(0, rows)


def _known(cell: Cell, estimator: Estimator, exact: ExactGradient) -> dict[str, float]:
    """What needs no measurement."""
    dim = cell.target.dim
    loc, log_scale = _slopes(exact.value[:, None], dim)
    return {
        "exact_slope_loc": float(loc[0]),
        "exact_slope_log_scale": float(log_scale[0]),
        "gradient_norm": float(np.linalg.norm(exact.value)),
        "exact_error": exact.error,
        "evaluations": float(estimator.evaluations * cell.params.samples),
        "dimension": float(dim),
    }


def statistics(gradients: np.ndarray, exact: ExactGradient, dim: int, samples: int) -> dict[str, float]:
    """What is reported of a cell's gradients ``(D + S, R)``, each the mean of some samples."""
    repeats = gradients.shape[1]
    with np.errstate(all="ignore"):  # gradients that left the finite numbers are reported as such
        mean = gradients.mean(axis=1)
        deviations = (gradients - mean[:, None]) ** 2 * (repeats / (repeats - 1))
        parts = {
            "variance_loc": deviations[:dim],
            "variance_log_scale": deviations[dim:],
            "variance": deviations,
        }
        squares = {name: part.sum(axis=0) for name, part in parts.items()}
        squares["mean_squared_error"] = ((gradients - exact.value[:, None]) ** 2).sum(axis=0)
        squares["slope_loc"], squares["slope_log_scale"] = _slopes(gradients, dim)
        metrics: dict[str, float] = {}
        for name, values in squares.items():
            metrics[name] = float(values.mean())
            metrics[f"{name}_se"] = float(values.std(ddof=1) / math.sqrt(repeats))
        variance, variance_se = metrics["variance"], metrics["variance_se"]
        ratio = np.float64(np.linalg.norm(exact.value)) / np.sqrt(variance)
        return metrics | {
            "bias": float(np.linalg.norm(mean - exact.value)),
            "bias_se": math.sqrt(variance / repeats + exact.error**2),
            "variance_per_sample": samples * variance,
            "variance_per_sample_se": samples * variance_se,
            "signal_to_noise": float(ratio),
            "signal_to_noise_se": float(0.5 * ratio * np.float64(variance_se) / variance),
        }


def _slopes(gradients: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Of gradients ``(D + S, R)``, the derivatives along (1, ..., 1) / sqrt(D), and by a common log width."""
    return gradients[:dim].sum(axis=0) / math.sqrt(dim), gradients[dim:].sum(axis=0)
