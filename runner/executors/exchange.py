"""Where batches and records meet: an actor beside the driver. It needs no Ray, and loads little else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

# Finished records that may wait for the driver before workers have to: bounds memory, not progress.
RESULTS_WAITING = 32


@dataclass(frozen=True)
class Delivery:
    """What comes back from a trial: an Arrow stream of records, or why there is none."""

    trial: str
    table: bytes | None
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Progress:
    """What a trial sends on its way: a checkpoint of its batch."""

    trial: str
    checkpoint: bytes


class Exchange:
    """Batches on offer, by trial, and the records that came back."""

    def __init__(self) -> None:
        self._offers: dict[str, bytes] = {}
        self._results: asyncio.Queue[Delivery | Progress] = asyncio.Queue(RESULTS_WAITING)

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

    async def tell(self, progress: Progress) -> None:
        """Pass a checkpoint on; waits while the driver is far behind, and drops what nobody expects."""
        if progress.trial in self._offers:
            await self._results.put(progress)

    async def collect(self, seconds: float) -> list[Delivery | Progress]:
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
