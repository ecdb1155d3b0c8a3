"""What a VAE is trained and scored on: streams of minibatches, and the coordinates they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.experiment import Cell
from experiments.randomness import Stream, generators, normal, shared_generators, uniform
from experiments.stacked_analytic import StackedAnalytic
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Analytic, Points, Target
from experiments.vae.cost import NOISE_CHUNK


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
    if isinstance(target, Analytic):
        return replace(target, center=to.shift, factor=np.diag(to.scale))
    return replace(
        target,
        means=(target.means - to.shift) / to.scale,
        covariances=target.covariances / np.outer(to.scale, to.scale),
    )


@dataclass(frozen=True)
class Views:
    """The cells of a stack, and their targets as training sees them."""

    cells: Sequence[Cell]
    targets: Sequence[Any]  # Target, of one kind
    coordinates: Sequence[Coordinates]

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Views:
        """Cells that see one target alike share it."""
        keys = [(cell.target.digest, cell.params.standardise) for cell in cells]
        first = dict(zip(reversed(keys), reversed(cells), strict=True))
        maps = {key: coordinates(cell.target, cell.params.standardise) for key, cell in first.items()}
        seen = {key: into(cell.target, maps[key]) for key, cell in first.items()}
        return cls(cells, [seen[key] for key in keys], [maps[key] for key in keys])

    def select(self, part: slice) -> Views:
        """Some of the cells."""
        return Views(self.cells[part], self.targets[part], self.coordinates[part])

    def per_cell(self, value: Callable[[Any], float], like: Tensor) -> Tensor:
        """A number of each cell's parameters, ``(K,)``."""
        return torch.tensor([value(cell.params) for cell in self.cells], dtype=like.dtype, device=like.device)

    def generators(self, stream: Stream, device: str | torch.device) -> list[torch.Generator]:
        """Of each cell; cells of one seed share one, and its draws, unless these differ between targets."""
        seeds = [cell.seed for cell in self.cells]
        if getattr(self.targets[0], "df", None) is not None:
            return generators(seeds, stream, str(device))
        unique, rows = shared_generators(seeds, stream, str(device))
        return [unique[row] for row in rows.tolist()]


def chunk_steps(batch_size: int, width: int) -> int:
    """Steps whose noise is drawn at once; it depends on the cell's shapes alone."""
    return max(1, NOISE_CHUNK // (batch_size * width))


def noise(
    latent: int, batch_size: int, chunk: int, generators: Sequence[torch.Generator], dtype: torch.dtype
) -> Iterator[Tensor]:
    """Endless chunks of standard normal draws, ``(K, L, C, N)``."""
    while True:
        yield normal((latent, chunk, batch_size), generators, dtype)


def fresh(
    mixture: StackedMixture | StackedAnalytic, batch_size: int, chunk: int, generators: Sequence[torch.Generator]
) -> Iterator[Tensor]:
    """Endless chunks of new samples of the targets, ``(K, D, C, N)``."""
    while True:
        points = mixture.draw(chunk * batch_size, generators)
        yield points.view(*points.shape[:2], chunk, batch_size)


def resampled(
    rows: Sequence[Tensor], batch_size: int, chunk: int, generators: Sequence[torch.Generator]
) -> Iterator[Tensor]:
    """Endless chunks ``(K, D, C, N)`` drawn with replacement from each cell's training set ``(n_k, D)``.

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
    """Training and test points ``(n, D)``: disjoint, or all of them twice if none would be left."""
    (generator,) = generators([seed], "evaluation")
    shuffled = points.values[torch.randperm(len(points.values), generator=generator).numpy()]
    if train_size is None or train_size >= len(shuffled):
        return points.values, shuffled
    return shuffled[:train_size], shuffled[train_size:]
