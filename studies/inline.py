"""A few cells of an experiment run here and now, on one thread, as a sweep's worker runs them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from experiments.catalogue import CATALOGUE
from experiments.experiment import Outcome
from experiments.targets import Target


@dataclass(frozen=True)
class Cell:
    """What ``run_batch`` needs to know of a cell."""

    params: Any
    target: Target
    seed: int = 0


def run(experiment: str, asked: Sequence[tuple[Target, Mapping[str, Any]]]) -> list[Outcome]:
    """The outcomes of seed 0 of these targets and settings, in their order; cells of one batch key are stacked."""
    chosen = CATALOGUE.experiments[experiment]
    cells = [Cell(chosen.params(target=target.name, **settings), target) for target, settings in asked]
    groups: dict[Hashable, list[int]] = {}
    for k, cell in enumerate(cells):
        chosen.check(cell.params, cell.target)
        groups.setdefault(chosen.batch_key(cell.params, cell.target), []).append(k)
    found: dict[int, Outcome] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker, so that the last bits are those of a sweep
    try:
        for members in groups.values():
            found |= zip(members, chosen.run_batch([cells[k] for k in members], "cpu"), strict=True)
    finally:
        torch.set_num_threads(threads)
    bad = [outcome.error for outcome in found.values() if outcome.status != "ok"]
    if bad:
        raise ArithmeticError(bad[0])
    return [found[k] for k in range(len(cells))]
