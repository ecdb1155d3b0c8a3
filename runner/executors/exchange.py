"""Who has which batch, and where batches and records meet: the part of `tune` that needs no Ray."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.batch import Batch

# A cell whose worker dies this often while it runs alone is the cause of it, not a bystander.
DEATHS_ALLOWED = 2
# Finished records that may wait for the driver before workers have to: bounds memory, not progress.
RESULTS_WAITING = 32


@dataclass(frozen=True)
class Delivery:
    """What comes back from a trial: an Arrow stream of records, or why there is none."""

    trial: str
    table: bytes | None
    seconds: float
    error: str | None = None


class Exchange:
    """Batches on offer, by trial, and the records that came back; runs as an actor beside the driver."""

    def __init__(self) -> None:
        self._offers: dict[str, bytes] = {}
        self._results: asyncio.Queue[Delivery] = asyncio.Queue(RESULTS_WAITING)

    async def offer(self, trial: str, payload: bytes) -> None:
        """Keep a batch until the trial's records are delivered."""
        self._offers[trial] = payload

    async def fetch(self, trial: str) -> bytes | None:
        """The trial's batch, or None if nobody waits for it any more."""
        return self._offers.get(trial)

    async def deliver(self, delivery: Delivery) -> None:
        """Hand in a trial's records; waits while the driver is far behind, and drops what nobody expects."""
        if self._offers.pop(delivery.trial, None) is not None:
            await self._results.put(delivery)

    async def collect(self, seconds: float) -> list[Delivery]:
        """All that has been delivered, waiting up to ``seconds`` for the first."""
        try:
            results = [await asyncio.wait_for(self._results.get(), seconds)]
        except TimeoutError:
            return []
        while not self._results.empty():
            results.append(self._results.get_nowait())
        return results

    async def clear(self) -> None:
        """Forget an abandoned run."""
        self._offers.clear()
        while not self._results.empty():
            self._results.get_nowait()


@dataclass
class Work:
    """The batches of one run: waiting, out with a trial, or dead. Tune's thread writes, the driver's reads.

    A batch leaves ``out`` once, by an atomic pop: collected, or lost and put back. So no cell counts twice,
    even if a worker dies between delivering its records and ending its trial.
    """

    waiting: deque[Batch]
    out: dict[str, Batch] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    deaths: Counter[str] = field(default_factory=Counter)
    dead: SimpleQueue[tuple[Batch, str]] = field(default_factory=SimpleQueue)
    stopped: bool = False
    problem: str | None = None

    def __reduce__(self) -> tuple[type[Work], tuple[deque[Batch]]]:
        """Pickled as no work at all: Tune stores its setup for a restore that a sweep does not need."""
        return Work, (deque(),)

    def take(self, trial: str) -> Batch:
        """The next batch, now out with that trial."""
        batch = self.waiting.popleft()
        self.out[trial] = batch
        self.running.add(trial)
        return batch

    def lost(self, trial: str, reason: str) -> None:
        """The trial's worker died. Its batch goes back in halves, so that a deadly cell ends up alone."""
        batch = self.out.pop(trial, None)
        if batch is None:
            return
        middle = len(batch.cells) // 2
        if middle:
            for n, cells in ((1, batch.cells[middle:]), (0, batch.cells[:middle])):
                seconds = batch.seconds * len(cells) / len(batch.cells)
                self.waiting.appendleft(replace(batch, id=f"{batch.id}-{n}", cells=cells, seconds=seconds))
            return
        cell = batch.cells[0].id
        self.deaths[cell] += 1
        if self.deaths[cell] < DEATHS_ALLOWED:
            self.waiting.appendleft(batch)
        else:
            self.dead.put((batch, f"worker died, {DEATHS_ALLOWED} times on this cell alone: {reason}"))
