"""What a VAE is trained and scored on: streams of minibatches, and the coordinates they are in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from experiments.randomness import generators, normal, uniform
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Points, Target
from experiments.vae import NOISE_CHUNK


@dataclass(frozen=True)
class Coordinates:
    """The map ``own = shift + scale * x`` from training coordinates to the data's own; both ``(D,)``."""

    shift: np.ndarray
    scale: np.ndarray

    @property
    def log_volume(self) -> float:
        """Nats to add to a negative log-density in training coordinates for the one in the data's own."""
        return float(np.log(self.scale).sum())


def coordinates(target: Target, standardise: bool) -> Coordinates:
    """The data's own coordinates, or those in which every dimension has mean 0 and variance 1."""
    if not standardise:
        return Coordinates(np.zeros(target.dim), np.ones(target.dim))
    scale = np.sqrt(np.diag(target.covariance))
    return Coordinates(np.asarray(target.mean), np.where(scale > 0, scale, 1.0))


def into(target: Target, to: Coordinates) -> Target:
    """The target as it is seen in these training coordinates."""
    if isinstance(target, Points):
        return replace(target, values=(target.values - to.shift) / to.scale)
    return replace(
        target,
        means=(target.means - to.shift) / to.scale,
        covariances=target.covariances / np.outer(to.scale, to.scale),
    )


def chunk_steps(batch_size: int, width: int) -> int:
    """Steps whose noise is drawn at once; it depends on the cell's shapes alone."""
    return max(1, NOISE_CHUNK // (batch_size * width))


def noise(latent: int, batch_size: int, chunk: int, generators: Sequence[torch.Generator], dtype: torch.dtype) -> Iterator[Tensor]:
    """Endless chunks of standard normal draws, ``(K, L, C, N)``."""
    while True:
        yield normal((latent, chunk, batch_size), generators, dtype)


def fresh(mixture: StackedMixture, batch_size: int, chunk: int, generators: Sequence[torch.Generator]) -> Iterator[Tensor]:
    """Endless chunks of new samples of the mixtures, ``(K, D, C, N)``."""
    while True:
        points = mixture.draw(chunk * batch_size, generators)
        yield points.view(*points.shape[:2], chunk, batch_size)


def resampled(
    rows: Sequence[Tensor], batch_size: int, chunk: int, generators: Sequence[torch.Generator]
) -> Iterator[Tensor]:
    """Endless chunks of points drawn with replacement from each cell's training set ``(n_k, D)``: ``(K, D, C, N)``.

    A training set that several cells share is held once.
    """
    unique = {id(part): part for part in rows}
    starts = dict(zip(unique, np.cumsum([0, *(len(part) for part in unique.values())]), strict=False))
    table = torch.cat(list(unique.values()))
    first = torch.tensor([[int(starts[id(part)])] for part in rows], device=table.device)
    count = torch.tensor([[len(part)] for part in rows], device=table.device)
    while True:
        # Single precision could neither reach every row of a large file nor keep below its end.
        index = (uniform((chunk * batch_size,), generators, torch.float64) * count).long() + first
        points = table[index].mT.contiguous()
        yield points.view(*points.shape[:2], chunk, batch_size)


def split(points: Points, train_size: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test points ``(n, D)``: a random choice and the rest, or all of them twice if none are left."""
    values = points.values
    if train_size is None or train_size >= len(values):
        return values, values
    (generator,) = generators([seed], "evaluation")
    order = torch.randperm(len(values), generator=generator).numpy()
    return values[order[:train_size]], values[order[train_size:]]
