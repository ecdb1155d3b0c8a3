"""The training loop: K fits as one tensor program, with no exchange with the host until it ends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments import randomness
from experiments.adam import SGD, Adam
from experiments.kl_fit.divergences import Divergence, Noise, StackedTarget
from experiments.kl_fit.families import Family

POINTS_OF_CURVE = 40
LINE = 16  # numbers in a cache line: see Noise
NOISE_BLOCK = 8192  # numbers drawn at once for a seed: one call costs as much as about a thousand of them


@dataclass(frozen=True)
class Fit:
    """Where K fits ended.

    Args:
        theta: parameters ``(K, P)``; of a diverged fit, the last finite ones.
        steps_done: how many steps each fit stayed finite, ``(K,)``.
        curve_steps: ``(S,)``.
        curve: loss in nats at those steps, ``(K, S)``.
    """

    theta: Tensor
    steps_done: np.ndarray
    curve_steps: np.ndarray
    curve: np.ndarray


def fit(
    target: StackedTarget,
    family: Family,
    divergence: Divergence,
    theta: Tensor,
    seeds: Sequence[int],
    *,
    steps: int,
    samples: int,
    learning_rate: Tensor,
    optimizer: str = "adam",
    df: Tensor | None = None,
) -> Fit:
    """Minimise the divergence from ``theta`` ``(K, P)``.

    Args:
        learning_rate: of each fit, ``(K,)``.
        optimizer: ``adam`` or ``sgd``.
        df: degrees of freedom ``(K,)`` of targets that are sampled and have Student-t components.
    """
    theta = theta.clone()
    descent = {"adam": Adam, "sgd": SGD}[optimizer]([theta], learning_rate)
    active = torch.ones(len(theta), dtype=torch.bool, device=theta.device)
    steps_done = torch.zeros(len(theta), dtype=torch.long, device=theta.device)
    kept = curve_steps(steps)
    curve = theta.new_zeros(len(kept), len(theta))
    stream = _noise(family.noise_dim, samples, steps, seeds, theta, divergence.samples_target, df)
    column = 0
    # Where autograd has no part, torch need not be ready for it: an eighth of the time of a small stack's step.
    with torch.inference_mode(divergence.is_written_out(target, family)):
        for step, noise in enumerate(stream):
            keep = step == kept[column]
            loss, gradient = divergence.loss_and_gradient(target, family, theta, noise, whole=keep)
            size = torch.linalg.vector_norm(gradient, math.inf, dim=1)
            active &= (size if loss is None else size + loss.abs()) < math.inf
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            # A fit that starts narrow meets gradients thousands of times those near its optimum, and Adam, which
            # remembers squares for a thousand steps, would then hardly move: forward KL from one mode of grid25 ended
            # at 27 nats, not 4.85. So none is longer than 1.
            gradient.div_(norm.clamp_(min=1.0))
            descent.step([gradient], rate=decay(step / steps), active=active)
            steps_done += active
            if keep:
                assert loss is not None
                curve[column] = loss
                column = min(column + 1, len(kept) - 1)
    return Fit(theta, steps_done.cpu().numpy(), kept, curve.T.double().cpu().numpy())


def decay(progress: float) -> float:
    """Factor on the learning rate: one for the first half, then half a cosine down to zero."""
    return 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * progress - 1)))


def curve_steps(steps: int) -> np.ndarray:
    """At most 40 steps, evenly spaced in their logarithm, the first and the last among them."""
    return np.unique(np.geomspace(1, steps, POINTS_OF_CURVE).round().astype(np.int64)) - 1


def _noise(
    dim: int,
    samples: int,
    steps: int,
    seeds: Sequence[int],
    like: Tensor,
    samples_target: bool,
    df: Tensor | None,
) -> Iterator[Noise]:
    """Each step's noise, drawn for many steps at once; cells of one seed share it."""
    device = str(like.device)
    normals, rows = randomness.shared_generators(seeds, "noise", device)
    data, data_rows = randomness.shared_generators(seeds, "data", device)
    if df is not None:  # gamma noise differs between targets of one seed
        data, data_rows = randomness.generators(seeds, "data", device), torch.arange(len(seeds), device=device)
    width = -(-samples // LINE) * LINE
    block = max(1, NOISE_BLOCK // (dim * width))
    for start in range(0, steps, block):
        count = min(block, steps - start)
        normal = randomness.normal((block, dim, width), normals, like.dtype)
        uniform = gamma = None
        if samples_target:
            uniform = randomness.uniform((block, width), data, like.dtype)
        if samples_target and df is not None:
            gamma = randomness.gamma(0.5 * df, block * width, data).view(-1, block, width)
        for i in range(count):
            yield Noise(
                normal[:, i].index_select(0, rows),
                samples,
                None if uniform is None else uniform[:, i].index_select(0, data_rows),
                None if gamma is None else gamma[:, i],
            )
