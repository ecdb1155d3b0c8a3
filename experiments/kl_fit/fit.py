"""The training loop: K fits as one tensor program, with no exchange with the host until it ends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from experiments import randomness
from experiments.adam import SGD, Adam, Move, decay
from experiments.checkpoint import NOWHERE, Checkpoint, State, numbered
from experiments.kl_fit.cost import NOISE_BLOCK
from experiments.kl_fit.divergences import Divergence, Noise, StackedTarget
from experiments.kl_fit.families import Family
from experiments.replay import replayed

POINTS_OF_CURVE = 40
LINE = 16  # numbers in a cache line: see Noise


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
    checkpoint: Checkpoint = NOWHERE,
) -> Fit:
    """Minimise the divergence from ``theta`` ``(K, P)``.

    Args:
        learning_rate: of each fit, ``(K,)``.
        optimizer: ``adam`` or ``sgd``.
        df: degrees of freedom ``(K,)`` of targets that are sampled and have Student-t components.
        checkpoint: from which to go on, and where to keep how far this is.
    """
    theta = theta.clone()
    descent = {"adam": Adam, "sgd": SGD}[optimizer]([theta], learning_rate)
    active = torch.ones(len(theta), dtype=torch.bool, device=theta.device)
    steps_done = torch.zeros(len(theta), dtype=torch.long, device=theta.device)
    kept = curve_steps(steps)
    curve = theta.new_zeros(len(kept), len(theta))
    streams = _Streams.of(seeds, str(theta.device), df)
    block = max(1, NOISE_BLOCK[theta.device.type] // (family.noise_dim * _padded(samples)))
    tensors = {"theta": theta, "active": active, "steps_done": steps_done, "curve": curve.T}
    state = State(tensors | numbered("moment", descent.moments), streams.of_cells)
    first = checkpoint.restore(state)
    draws = _draws(family.noise_dim, samples, range(first, steps), block, streams, theta, divergence.samples_target, df)

    def advance(
        normal: Tensor, uniform: Tensor | None, gamma: Tensor | None, move: Move, whole: bool, capped: bool
    ) -> Tensor | None:
        noise = Noise(normal, samples, uniform, gamma)
        loss, gradient = divergence.loss_and_gradient(target, family, theta, noise, whole=whole)
        size = torch.linalg.vector_norm(gradient, math.inf, dim=1)
        active.logical_and_((size if loss is None else size + loss.abs()) < math.inf)
        if capped:
            gradient.div_(torch.linalg.vector_norm(gradient, dim=1, keepdim=True).clamp_(min=1.0))
        descent.step([gradient], move, active)
        steps_done.add_(active)
        return loss

    # A fit that starts narrow meets gradients thousands of times those near its optimum, and Adam, which remembers
    # squares for a thousand steps, would then hardly move: forward KL from one mode of grid25 ended at 27 nats, not
    # 4.85. So none is longer than 1 while the learning rate is whole. Afterwards any may be: cut to 1, draws of a
    # skewed gradient have another mean, and fits would come to rest beside the optimum.
    replay = {capped: replayed(partial(advance, whole=False, capped=capped), theta.device) for capped in (True, False)}
    column = min(int(np.searchsorted(kept, first)), len(kept) - 1)
    # Where autograd has no part, torch need not be ready for it: an eighth of the time of a small stack's step.
    with torch.inference_mode(divergence.is_written_out(target, family)):
        moves = islice(descent.moves(steps), first, None)
        for step, (noise, move) in enumerate(zip(draws, moves, strict=True), start=first):
            capped = decay(step / steps) == 1
            if step == kept[column]:
                loss = advance(*noise, move, whole=True, capped=capped)
                assert loss is not None
                curve[column] = loss
                column = min(column + 1, len(kept) - 1)
            else:
                replay[capped](*noise, move)
            if (step + 1) % block == 0 and step + 1 < steps:
                checkpoint.keep_if_due(step + 1, steps, state)
    return Fit(theta, steps_done.cpu().numpy(), kept, curve.T.double().cpu().numpy())


def curve_steps(steps: int) -> np.ndarray:
    """At most 40 steps, evenly spaced in their logarithm, the first and the last among them."""
    return np.unique(np.geomspace(1, steps, POINTS_OF_CURVE).round().astype(np.int64)) - 1


@dataclass(frozen=True)
class _Streams:
    """Generators of the noise and of the target's samples, and of each cell ``(K,)`` the row whose draws it sees."""

    noise: Sequence[torch.Generator]
    noise_rows: Tensor
    data: Sequence[torch.Generator]
    data_rows: Tensor

    @classmethod
    def of(cls, seeds: Sequence[int], device: str, df: Tensor | None) -> _Streams:
        noise, noise_rows = randomness.shared_generators(seeds, "noise", device)
        data, data_rows = randomness.shared_generators(seeds, "data", device)
        if df is not None:  # gamma noise differs between targets of one seed
            data, data_rows = randomness.generators(seeds, "data", device), torch.arange(len(seeds), device=device)
        return cls(noise, noise_rows, data, data_rows)

    @property
    def of_cells(self) -> dict[str, list[torch.Generator]]:
        return {
            "noise": [self.noise[row] for row in self.noise_rows.tolist()],
            "data": [self.data[row] for row in self.data_rows.tolist()],
        }


def _padded(samples: int) -> int:
    return -(-samples // LINE) * LINE


def _draws(
    dim: int,
    samples: int,
    steps: range,
    block: int,
    streams: _Streams,
    like: Tensor,
    samples_target: bool,
    df: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Each step's `Noise`: normal, uniform and gamma, drawn for a block of steps at once."""
    width = _padded(samples)
    for start in steps[::block]:
        count = min(block, steps.stop - start)
        normal = randomness.normal((block, dim, width), streams.noise, like.dtype)
        uniform = gamma = None
        if samples_target:
            uniform = randomness.uniform((block, width), streams.data, like.dtype)
        if samples_target and df is not None:
            gamma = randomness.gamma(0.5 * df, block * width, streams.data).view(-1, block, width)
        for i in range(count):
            yield (
                normal[:, i].index_select(0, streams.noise_rows),
                None if uniform is None else uniform[:, i].index_select(0, streams.data_rows),
                None if gamma is None else gamma[:, i],
            )
