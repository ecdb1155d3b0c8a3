"""Batches: cells that can be stacked, cut so that memory is bounded and no worker waits at the end."""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from runner.canonical import digest
from runner.checkpoint import Begun
from runner.experiment import Experiment
from runner.grid import Resources
from runner.planning import Cell, Plan

__all__ = ["Batch", "Resources", "at_once", "estimate", "make_batches", "makespan", "most_within"]

MULTIPLE = 16  # experiments pad a stack to a multiple of 16 cells: a stack of 17 costs what one of 32 costs
STACK = 512  # beyond it the cost per cell no longer falls; an experiment cuts it further where its tensors are large
LONGEST = 60.0  # seconds: what a kill may lose of each worker's time, how long a display stands still
IDLE = 0.10  # the share of the workers' time that waiting for the last batch may cost
# Estimates are rough: with some batches for each worker, who is early takes more of them.
EACH = 6  # batches of a worker, unless they would be shorter than
WORTH_CUTTING = 4.0  # seconds


@dataclass(frozen=True)
class Batch:
    """Cells of one batch key, run as one stack; ``seconds`` is the estimate that balances workers."""

    id: str
    experiment: str
    cells: tuple[Cell, ...]
    resources: Resources
    seconds: float


_Key = tuple[str, Resources, Hashable, Begun | None]


@dataclass(frozen=True)
class _Place:
    """What suits where batches run: multiples of so many cells, at most ``stack``; its speed in cores, roughly."""

    multiple: int
    stack: int
    speed: float


CORE = _Place(MULTIPLE, STACK, 1.0)
# As many kernels are launched for 16 cells as for 256, which take hardly longer. The speed is that of an H100 for fits
# in two dimensions.
GPU = _Place(256, 2048, 20.0)


@dataclass(frozen=True)
class _Stackable:
    """Cells that share a batch key and resources; ``limit`` of them fit in memory."""

    experiment: str
    resources: Resources
    cells: tuple[Cell, ...]
    limit: int
    place: _Place
    seconds_per_cell: float


_Part = TypeVar("_Part", _Stackable, Batch)


def make_batches(
    plan: Plan,
    experiments: Mapping[str, Experiment],
    *,
    workers: int,
    memory_bytes: int,
    gpus: float = 0.0,
    cells_per_batch: int | None = None,
    begun: Mapping[str, Begun] | None = None,
) -> tuple[Batch, ...]:
    """Cut what is left of a plan into batches, the longest first.

    Each cell is in one batch, and a batch holds cells of one experiment, batch key and resources. Batches
    are as large as the stack, memory and ``LONGEST`` allow, and smaller where workers would otherwise wait.

    Args:
        plan: of which only what is left counts.
        experiments: by name.
        workers: how many batches run at once.
        memory_bytes: what one batch may occupy, by the experiment's ``bytes_of_stack``; of those that run on a GPU
            the worker cuts what does not fit.
        gpus: that there are; without any, the CPU does the work of batches that ask for one.
        cells_per_batch: exactly this many cells in each batch, its last one excepted, if memory allows.
        begun: by id, the cells that an earlier run left in training: those equally far stay together.
    """
    groups = _stackable(plan, experiments, memory_bytes, bool(gpus), begun or {})
    if cells_per_batch is not None:
        size = max(1, cells_per_batch)
        cut = (_cut(group, itertools.repeat(min(size, group.limit))) for group in groups)
        return _longest_first(list(itertools.chain.from_iterable(cut)))
    pools = _by_gpu(groups, gpus)
    return _longest_first([b for gpu, pool in pools.items() for b in _balanced(pool, at_once(gpu, workers, gpus))])


def most_within(experiment: Experiment, cells: Sequence[Cell], memory_bytes: float, most: int, device: str) -> int:
    """How many cells, at most ``most``, of the kind of these fit in a device's memory as one stack.

    Never fewer than take no more than one does: padding holds their place, and cutting them would free nothing.
    """

    def needed(cell: Cell, count: int) -> int:
        return experiment.bytes_of_stack(cell.params, cell.target, count, device)

    largest = max(cells, key=lambda cell: needed(cell, 1))
    room = max(memory_bytes, needed(largest, 1))
    return bisect.bisect_right(range(1, most + 1), room, key=lambda count: needed(largest, count))


def at_once(gpu: float, workers: int, gpus: float) -> int:
    """How many batches of ``gpu`` GPUs each run at the same time."""
    if not (gpu and gpus):
        return workers
    return max(1, min(workers, int(gpus) * int(1 / gpu) if gpu < 1 else int(gpus / gpu)))


def _balanced(groups: Sequence[_Stackable], workers: int) -> list[Batch]:
    share = sum(_padded(len(group.cells)) * group.seconds_per_cell for group in groups) / workers
    best: list[Batch] = []
    fewest = min(EACH, max(1, int(share / WORTH_CUTTING)))
    for pieces in (n for n in (1, 2, 3, 4, 5, 6, 8, 12, 16) if n >= fewest):
        batches = [b for group in groups for b in _cut_even(group, share / pieces)]
        if not best or makespan(batches, workers) < makespan(best, workers):
            best = batches
        if share >= (1 - IDLE) * makespan(best, workers):
            break
    return best


def makespan(batches: Sequence[Batch], workers: int) -> float:
    """Estimated seconds until the last batch is done, the longest started first; start-up is not counted."""
    free = [0.0] * workers
    for seconds in sorted((batch.seconds for batch in batches), reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def estimate(batches: Sequence[Batch], workers: int, gpus: float = 0.0) -> float:
    """Estimated seconds of all batches, where those that ask for unlike parts of a GPU were not in each other's way."""
    pools = _by_gpu(batches, gpus).items()
    return max((makespan(pool, at_once(gpu, workers, gpus)) for gpu, pool in pools), default=0.0)


def _by_gpu(parts: Iterable[_Part], gpus: float) -> dict[float, list[_Part]]:
    """What asks for the same part of a GPU, or for none; where there are no GPUs all are alike."""
    pools: dict[float, list[_Part]] = {}
    for part in parts:
        pools.setdefault(part.resources.gpu if gpus else 0.0, []).append(part)
    return pools


def _stackable(
    plan: Plan, experiments: Mapping[str, Experiment], memory_bytes: int, gpus: bool, begun: Mapping[str, Begun]
) -> list[_Stackable]:
    groups: dict[_Key, list[Cell]] = {}
    examples: dict[_Key, list[Cell]] = {}
    seconds: dict[_Key, float] = {}
    for grid in plan.grids:
        experiment, resources = experiments[grid.grid.experiment], grid.grid.resources
        alike = itertools.groupby(grid.todo, key=lambda cell: (cell.configuration_id, begun.get(cell.id)))
        for (_, already), seeds in alike:
            cells = list(seeds)
            params, target = cells[0].params, cells[0].target
            key = (experiment.name, resources, experiment.batch_key(params, target), already)
            groups.setdefault(key, []).extend(cells)
            examples.setdefault(key, []).append(cells[0])
            left = 1 - already.share if already else 1.0
            cost = len(cells) * experiment.seconds_per_cell(params, target) * left
            seconds[key] = seconds.get(key, 0.0) + cost
    found = []
    for key, cells in groups.items():
        place = GPU if gpus and key[1].gpu else CORE
        limit = len(cells)
        if place is CORE:
            limit = most_within(experiments[key[0]], examples[key], memory_bytes, _padded(len(cells)), "cpu")
        found.append(
            _Stackable(
                experiment=key[0],
                resources=key[1],
                cells=tuple(cells),
                limit=limit,
                place=place,
                seconds_per_cell=seconds[key] / len(cells) / place.speed,
            )
        )
    return found


def _cut_even(group: _Stackable, seconds: float) -> list[Batch]:
    """Batches as equal as multiples can be: so many that each takes about ``seconds``, or more."""
    multiple = group.place.multiple
    if group.limit < multiple:
        return _cut(group, itertools.repeat(group.limit))
    units = math.ceil(len(group.cells) / multiple)
    unit_seconds = max(multiple * group.seconds_per_cell, 1e-9)
    largest = max(1, int(min(group.limit / multiple, group.place.stack / multiple, LONGEST / unit_seconds)))
    wanted = math.ceil(units * unit_seconds / seconds - 1e-6) if seconds > 0 else 1
    count = min(units, max(wanted, math.ceil(units / largest)))
    size, larger = divmod(units, count)
    return _cut(group, (multiple * (size + (index < larger)) for index in range(count)))


def _cut(group: _Stackable, sizes: Iterable[int]) -> list[Batch]:
    ends = itertools.accumulate(sizes, initial=0)
    starts = itertools.takewhile(lambda span: span[0] < len(group.cells), itertools.pairwise(ends))
    pieces = (group.cells[start:end] for start, end in starts)
    return [
        Batch(
            id=digest(",".join(cell.id for cell in cells)),
            experiment=group.experiment,
            cells=cells,
            resources=group.resources,
            seconds=_padded(len(cells)) * group.seconds_per_cell,
        )
        for cells in pieces
    ]


def _padded(cells: int) -> int:
    return MULTIPLE * math.ceil(cells / MULTIPLE)


def _longest_first(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    return tuple(sorted(batches, key=lambda batch: -batch.seconds))
