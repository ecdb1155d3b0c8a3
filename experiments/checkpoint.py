"""Long trainings: what a loop changes as it goes, taken out between two steps and put back as if it had never stopped.

A checkpoint has one row for each cell, so that any part of a stack can go on in a stack of its own. The random numbers
go on too: a loop draws those of many steps at once, so it can stop only where it is about to draw the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from experiments.experiment import Cell, Checkpoints

STEP = "step"


@dataclass(frozen=True)
class State:
    """What a training loop changes, by name.

    Args:
        tensors: each with the stack's K cells as first axis; changed in place.
        generators: K each; cells of one seed may share one.
    """

    tensors: Mapping[str, Tensor]
    generators: Mapping[str, Sequence[torch.Generator]]


def numbered(name: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors that have no names of their own, for a `State`."""
    return {f"{name}_{k}": tensor for k, tensor in enumerate(tensors)}


@dataclass(frozen=True)
class Checkpoint:
    """How far one stack is.

    Args:
        cells: without the copies of the last one that pad the stack.
        kept_in: where; nowhere unless given.
    """

    cells: Sequence[Cell] = ()
    kept_in: Checkpoints | None = field(default=None, repr=False)

    def restore(self, state: State) -> int:
        """Put back what was kept, if anything was; returns the steps that are done."""
        found = self.kept_in.find(self.cells) if self.kept_in and self.cells else None
        if found is None or not self._suits(found, state):
            return 0
        last = len(self.cells) - 1
        for name, tensor in state.tensors.items():
            rows = torch.arange(len(tensor)).clamp(max=last)
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(found[name]))[rows])
        for name, generators in state.generators.items():
            for generator, row in zip(generators, found[name], strict=False):
                generator.set_state(torch.from_numpy(row.copy()))
        return int(found[STEP][0])

    def keep_if_due(self, step: int, steps: int, state: State) -> None:
        """After so many of all steps. Reads the state, which on a GPU waits for it, only if it is time."""
        if self.kept_in is None or not self.cells or not self.kept_in.due():
            return
        count = len(self.cells)
        rows = {name: tensor[:count].cpu().numpy().copy() for name, tensor in state.tensors.items()}
        for name, generators in state.generators.items():
            rows[name] = torch.stack([generator.get_state() for generator in generators[:count]]).numpy()
        self.kept_in.keep(self.cells, step / steps, {STEP: np.full(count, step), **rows})

    def _suits(self, found: Mapping[str, np.ndarray], state: State) -> bool:
        """Whether it has the shapes of this state, and all cells are equally far."""
        own = {name: tensor[0] for name, tensor in state.tensors.items()}
        own |= {name: generators[0].get_state() for name, generators in state.generators.items()}
        shapes = {name: (tuple(row.shape), str(row.dtype).removeprefix("torch.")) for name, row in own.items()}
        held = {name: (rows.shape[1:], str(rows.dtype)) for name, rows in found.items() if name != STEP}
        return held == shapes and len(set(found[STEP].tolist())) == 1


NOWHERE = Checkpoint()
