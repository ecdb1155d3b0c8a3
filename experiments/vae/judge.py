"""Trained VAEs against their targets, block by block, reported in the data's own units.

Networks compute in the precision that they were trained in, as whoever uses one will; all else is float64. What a
float32 decoder is rounded by, 1e-7 of the data, is far below the noise of importance sampling while ``noise_std`` is
above 1e-5 of them; a narrower one asks for ``dtype: float64``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from experiments.metrics.density import Evaluation, Measure, evaluate
from experiments.metrics.neighbours import comparable, precision_recall, standard_error
from experiments.randomness import normal
from experiments.stacked_analytic import stack
from experiments.targets import Points, Target
from experiments.vae.bound import Posterior, bound_metrics
from experiments.vae.cost import DRAWS
from experiments.vae.data import Views, split
from experiments.vae.evidence import Guess, log_evidence
from experiments.vae.likelihood import Bernoulli, Likelihood, binarised
from experiments.vae.network import Layer, output, padded_columns

FEWEST_SAMPLES, KEPT_SAMPLES, KEPT_NUMBERS = 30, 300, 30_000  # of each cell; large images leave fewer
WITHOUT_DENSITY = frozenset(  # metrics that draws of Q suffice for
    f"{name}{error}"
    for name in (
        *("modes_captured", "modes_total", "capture_area", "collapse_invoice", "log_width"),
        *("high_quality", "high_quality_ceiling"),
        *("entropic_coverage", "effective_modes", "gated_entropic_coverage"),
    )
    for error in ("", "_se")
)
MODES_WITHOUT_DENSITY = frozenset({"weight", "captured", "fair_share", "log_width"})


@dataclass(frozen=True)
class Judgement:
    """What is reported of one VAE."""

    metrics: Mapping[str, float]
    samples: np.ndarray
    labels: Mapping[str, str]
    modes: Mapping[str, np.ndarray] = field(default_factory=dict)


def judge(views: Views, encoder: Sequence[Layer], decoder: Sequence[Layer], likelihood: Likelihood) -> list[Judgement]:
    """Of a block of cells, whose number is a multiple of 16."""
    device = str(decoder[0].weight.device)
    generators = views.generators("evaluation", device)
    known, count = _test_points(views, generators, device)
    x = binarised(known, generators) if isinstance(likelihood, Bernoulli) else known
    posterior = Posterior.of(encoder, x)
    log_q = log_evidence(decoder, likelihood, x, Guess(posterior.mean, posterior.mean, posterior.std), generators)
    bounds = bound_metrics(views, decoder, likelihood, x, posterior, -log_q, count, generators)

    z = normal((posterior.mean.shape[1], DRAWS), generators, torch.float64)
    decoded = output(decoder, z)
    noisy = views.cells[0].params.sample == "noisy"
    generated = likelihood.sample(decoded, generators) if noisy else likelihood.mean(decoded)
    evaluations: Sequence[Evaluation | None] = [None] * len(views.cells)
    if not isinstance(views.targets[0], Points):
        log_q_there = torch.full_like(log_q, math.nan)
        if noisy:
            there = Posterior.of(encoder, generated)
            log_q_there = log_evidence(decoder, likelihood, generated, Guess(z, there.mean, there.std), generators)
        evaluations = _evaluate(views, Measure.of_draws(x, log_q), Measure.of_draws(generated, log_q_there))
    # Probabilities are like grey values, and drawn pixels like binarised ones.
    drawn = [part.mT.cpu().numpy() for part in ((x if noisy else known)[..., :count], generated)]
    return [
        _judgement(views.select(slice(k, k + 1)), bounds[k], evaluations[k], drawn[0][k], drawn[1][k])
        for k in range(len(x))
    ]


def _test_points(views: Views, generators: Sequence[torch.Generator], device: str) -> tuple[Tensor, int]:
    """``(K, D, N)``: new draws of a mixture; of a file the points held out, if any, at most ``DRAWS``.

    The last is repeated up to a multiple of 16; the second value is how many there are without.
    """
    first = views.targets[0]
    if not isinstance(first, Points):
        return stack(views.targets, torch.float64, device).draw(DRAWS, generators), DRAWS
    rows = [
        split(target, cell.params.train_size, cell.seed)[1][:DRAWS].T
        for cell, target in zip(views.cells, views.targets, strict=True)
    ]
    found = np.stack(rows)
    count = found.shape[-1]
    padded = np.pad(found, ((0, 0), (0, 0), (0, padded_columns(count) - count)), mode="edge")
    return torch.as_tensor(padded, dtype=torch.float64, device=device), count


def _evaluate(views: Views, p: Measure, q: Measure) -> list[Evaluation]:
    # In training coordinates: every one of these metrics is free of units.
    # Twice over: they are the same whatever the stack if it is a multiple of 32.
    of_p, of_q = (
        replace(m, x=torch.cat([m.x] * 2), weight=torch.cat([m.weight] * 2), log_q=torch.cat([m.log_q] * 2))
        for m in (p, q)
    )
    return evaluate([*views.targets] * 2, of_p, of_q)[: len(views.cells)]


def _judgement(
    view: Views,
    bound: Mapping[str, float],
    evaluation: Evaluation | None,
    x: np.ndarray,
    generated: np.ndarray,
) -> Judgement:
    """One cell; ``x`` and ``generated`` ``(N, D)`` in training coordinates."""
    (cell,), (target,), (own,) = view.cells, view.targets, view.coordinates
    labels = {"coverage_method": "density", "test_points": "fresh"}
    if isinstance(target, Points):
        held_out = cell.params.train_size is not None and cell.params.train_size < len(target.values)
        labels["test_points"] = "held_out" if held_out else "training"
    metrics, modes = dict(bound), {}
    if evaluation is not None:
        noisy = cell.params.sample == "noisy"
        metrics |= {n: v for n, v in evaluation.metrics.items() if noisy or n in WITHOUT_DENSITY}
        modes = {n: v for n, v in evaluation.modes.items() if noisy or n in MODES_WITHOUT_DENSITY}
    if "coverage" not in metrics:
        labels["coverage_method"] = "knn"
        metrics |= _by_neighbours(cell.target, *(own.shift + own.scale * points for points in (x, generated)))
    kept = min(KEPT_SAMPLES, max(FEWEST_SAMPLES, KEPT_NUMBERS // target.dim))
    return Judgement(metrics, own.shift + own.scale * generated[:kept], labels, modes)


def _by_neighbours(target: Target, x: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """Of points and draws ``(N, D)`` in the target's own units."""
    reference, samples = (comparable(target, points) for points in (x, generated[: len(x)]))
    precision, recall = precision_recall(reference, samples)
    return {
        "coverage": recall,
        "coverage_se": standard_error(recall, len(x)),
        "sharpness": precision,
        "sharpness_se": standard_error(precision, len(samples)),
    }
