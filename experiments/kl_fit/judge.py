"""Fitted Gaussians against their targets, in float64 and in the targets' own units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from experiments import randomness
from experiments.experiment import Cell
from experiments.kl_fit.families import SHAPES
from experiments.kl_fit.start import Frame
from experiments.metrics.density import MASS, Evaluation, Measure, evaluate
from experiments.metrics.neighbours import MOST_POINTS, precision_recall, standard_error
from experiments.metrics.quadrature import quadrature
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Points

DRAWS = 10_000  # of P and of Q, where the dimension is above one
KEPT_SAMPLES = 200


@dataclass(frozen=True)
class Gaussians:
    """K Gaussians: means ``(K, D)``, Cholesky factors ``(K, D, D)``."""

    mean: np.ndarray
    tril: np.ndarray

    @property
    def dim(self) -> int:
        return int(self.mean.shape[1])

    @property
    def log_det(self) -> np.ndarray:
        """Of the Cholesky factors, ``(K,)``."""
        return np.asarray(np.log(np.einsum("kii->ki", self.tril)).sum(axis=1))

    @property
    def level(self) -> np.ndarray:
        """Log-density at the edge of the 95 % highest-density region, ``(K,)``."""
        peak = -0.5 * self.dim * math.log(2 * math.pi) - self.log_det
        return np.asarray(peak - 0.5 * stats.chi2.ppf(MASS, self.dim))

    def sample(self, normal: np.ndarray) -> np.ndarray:
        """``mean + L z``, ``(K, D, N)``."""
        return np.asarray(self.mean[:, :, None] + self.tril @ normal)


@dataclass(frozen=True)
class Judgement:
    """What is reported of one fit; ``loss_offset`` takes the training loss to the target's own units."""

    metrics: Mapping[str, float]
    samples: np.ndarray
    labels: Mapping[str, str]
    modes: Mapping[str, np.ndarray] = field(default_factory=dict)
    loss_offset: float = 0.0


def judge(cells: Sequence[Cell], q: Gaussians, device: str) -> list[Judgement]:
    """Of a block of cells, whose number is a multiple of 32."""
    if isinstance(cells[0].target, Points):
        return [_by_neighbours(cell, Gaussians(q.mean[k : k + 1], q.tril[k : k + 1])) for k, cell in enumerate(cells)]
    with np.errstate(all="ignore"):  # diverged fits are judged with the others, and dropped
        evaluations, samples = (_by_quadrature if q.dim == 1 else _by_draws)(cells, q, device)
    judged = []
    for cell, evaluation, x in zip(cells, evaluations, samples, strict=True):
        chosen = cell.params.divergence
        objective = {"objective": evaluation.metrics[chosen], "objective_se": evaluation.metrics[f"{chosen}_se"]}
        metrics = objective | dict(evaluation.metrics)
        judged.append(Judgement(metrics, x, {"coverage_method": "density"}, evaluation.modes))
    return judged


def _by_quadrature(cells: Sequence[Cell], q: Gaussians, device: str) -> tuple[list[Evaluation], np.ndarray]:
    targets = [cell.target for cell in cells]
    of_p, of_q, level = quadrature(targets, q.mean[:, 0], q.tril[:, 0, 0], device)
    level_q = torch.as_tensor(q.level, device=device)
    normal = randomness.normal((1, KEPT_SAMPLES), _generators(cells, device), torch.float64)
    samples = q.sample(normal.cpu().numpy()).transpose(0, 2, 1)
    return evaluate(targets, of_p, of_q, level_p=level, level_q=level_q), samples


def _by_draws(cells: Sequence[Cell], q: Gaussians, device: str) -> tuple[list[Evaluation], np.ndarray]:
    targets = [cell.target for cell in cells]
    generators = _generators(cells, device)
    x_p = StackedMixture.stack(targets, torch.float64, device).draw(DRAWS, generators)
    normal = randomness.normal((q.dim, DRAWS), generators, torch.float64)
    mean, tril = (torch.as_tensor(part, device=device) for part in (q.mean, q.tril))
    peak = torch.as_tensor(-0.5 * q.dim * math.log(2 * math.pi) - q.log_det, device=device).unsqueeze(1)
    x_q = torch.baddbmm(mean.unsqueeze(2), tril, normal)
    log_q_at_q = peak - 0.5 * _squared_norm(normal)
    inverse = torch.as_tensor(_inverse(q.tril), device=device)
    log_q_at_p = peak - 0.5 * _squared_norm(torch.bmm(inverse, x_p - mean.unsqueeze(2)))
    evaluations = evaluate(
        targets,
        Measure.of_draws(x_p, log_q_at_p),
        Measure.of_draws(x_q, log_q_at_q),
        level_q=torch.as_tensor(q.level, device=device),
    )
    return evaluations, x_q[:, :, :KEPT_SAMPLES].transpose(1, 2).cpu().numpy()


def _squared_norm(x: Tensor) -> Tensor:
    total = x[:, 0].square()
    for part in x.unbind(1)[1:]:
        total.addcmul_(part, part)
    return total


def _inverse(tril: np.ndarray) -> np.ndarray:
    """Of lower-triangular matrices ``(K, D, D)``, row by row: LAPACK's last bits depend on alignment."""
    inverse = np.zeros_like(tril)
    for i in range(tril.shape[1]):
        inverse[:, i] = -(tril[:, i, :i, None] * inverse[:, :i]).sum(axis=1)
        inverse[:, i, i] += 1.0
        inverse[:, i] /= tril[:, i, i, None]
    return inverse


def _generators(cells: Sequence[Cell], device: str) -> list[torch.Generator]:
    """Of the evaluation stream; cells of one seed share one, and so its draws, unless each needs its own kind."""
    seeds = [cell.seed for cell in cells]
    if cells[0].target.df is not None:
        return randomness.generators(seeds, "evaluation", device)
    unique, rows = randomness.shared_generators(seeds, "evaluation", device)
    return [unique[row] for row in rows.tolist()]


def _by_neighbours(cell: Cell, q: Gaussians) -> Judgement:
    points = cell.target.values
    frame = Frame.of(cell.target, "diagonal")
    (generator,) = randomness.generators([cell.seed], "evaluation")
    y = np.linalg.solve(q.tril[0], (points - q.mean[0]).T)
    losses = 0.5 * (y**2).sum(axis=0) + q.log_det[0] + 0.5 * q.dim * math.log(2 * math.pi)
    n = min(len(points), MOST_POINTS)
    kept = points
    if n < len(points):
        kept = points[torch.randperm(len(points), generator=generator)[:n].numpy()]
    normal = torch.randn(q.dim, max(n, KEPT_SAMPLES), generator=generator, dtype=torch.float64).numpy()
    samples = q.sample(normal)[0].T
    # Columns in seconds and in metres must weigh alike: distances are taken between standardised points.
    precision, recall = precision_recall(frame.points(kept), frame.points(samples[:n]))
    cross_entropy = float(losses.mean())
    error = float(losses.std() / math.sqrt(len(points)))
    metrics = {
        "objective": cross_entropy,
        "objective_se": error,
        "coverage": recall,
        "coverage_se": standard_error(recall, n),
        "sharpness": precision,
        "sharpness_se": standard_error(precision, n),
        "cross_entropy": cross_entropy,
        "cross_entropy_se": error,
    }
    offset = Frame.of(cell.target, SHAPES[cell.params.family]).log_det
    return Judgement(metrics, samples[:KEPT_SAMPLES], {"coverage_method": "knn"}, loss_offset=offset)
