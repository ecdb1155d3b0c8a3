"""Batches one after the other, in the driver's own process: for debugging, tests and small sweeps."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from runner import worker
from runner.batch import Batch
from runner.checkpoint import Keeper, KeepsNothing
from runner.executors import BatchResult, heap
from runner.experiment import Experiment
from runner.worker import Context


@dataclass(frozen=True)
class InlineExecutor:
    """See ``Executor``. A batch that takes its process down takes the driver with it."""

    experiments: Mapping[str, Experiment]
    context: Context
    checkpoints: Keeper | None = None

    @property
    def workers(self) -> int:
        """One batch at a time."""
        return 1

    @property
    def gpus(self) -> float:
        """The one that torch uses, if it can use any."""
        return 1.0 if worker.usable_device(given_gpu=True) == "cuda" else 0.0

    def start(self) -> None:
        """Nothing needs to start."""

    def run(self, batches: Sequence[Batch]) -> Generator[BatchResult, None, None]:
        """Run the batches in order; each result is yielded before the next batch begins."""
        heap.keep()
        keeper = self.checkpoints or KeepsNothing()
        for batch in batches:
            started = time.perf_counter()
            device = worker.usable_device(given_gpu=batch.resources.gpu > 0)
            held, send = keeper.read(batch), partial(keeper.write, batch)
            table = worker.run(self.experiments[batch.experiment], batch, self.context, device, held=held, send=send)
            yield BatchResult(batch, table, time.perf_counter() - started)

    def close(self) -> None:
        """Nothing was started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
