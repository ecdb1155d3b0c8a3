"""Who has which batch, and what becomes of a batch whose worker died: each cell ends in one record."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

import pyarrow as pa

from runner.batch import Batch
from runner.errors import ExecutorError
from runner.executors import BatchResult
from runner.executors.exchange import Delivery, Progress
from runner.worker import describe

# A cell whose worker dies this often while it runs alone is the cause of it, not a bystander.
DEATHS_ALLOWED = 2


@dataclass
class Work:
    """The batches of one run: waiting, out with a trial, or dead. Tune's thread writes, the driver's reads.

    A batch leaves ``out`` once, by an atomic pop: collected, or lost and put back. So no cell counts twice,
    even if a worker dies between delivering its records and ending its trial.

    Args:
        held: the checkpoints that there are of a batch's cells.
    """

    waiting: deque[Batch]
    held: Callable[[Batch], list[bytes]] = lambda batch: []
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


def results(
    work: Work,
    left: int,
    trials: Future[None],
    collect: Callable[[], list[Delivery | Progress]],
    keep: Callable[[Batch, bytes], None],
    failed: Callable[[Batch, str], pa.Table],
) -> Iterator[BatchResult]:
    """Yield what comes back until no cell is left.

    Args:
        work: what is waiting, out or dead; the trials share it.
        left: how many cells there are.
        trials: what runs them; done when none is left.
        collect: waits a little for deliveries; called once more after the trials have ended.
        keep: takes a checkpoint of a batch that is out.
        failed: the records of a batch that is dead.

    Raises:
        ExecutorError: workers cannot run batches, or the trials ended with cells left.
    """
    while left:
        ended = trials.done()
        found = list(_buried(work, failed))
        for delivery in collect():
            if isinstance(delivery, Progress):
                if training := work.out.get(delivery.trial):  # Tune's thread may just have declared its worker lost
                    keep(training, delivery.checkpoint)
                continue
            batch = work.out.pop(delivery.trial, None)
            if batch and delivery.table:
                table = pa.ipc.open_stream(delivery.table).read_all()
                found.append(BatchResult(batch, table, delivery.seconds))
            elif batch:
                work.problem = f"A worker cannot run batches.\n{delivery.error}"
        left -= sum(len(result.batch.cells) for result in found)
        yield from found
        if work.problem:
            raise ExecutorError(work.problem)
        if ended and left:
            reason = trials.exception()
            why = describe(reason) if reason else "Ray Tune ended early."
            raise ExecutorError(f"{why}\n{left} cells have no result; run the same command again.")


def _buried(work: Work, failed: Callable[[Batch, str], pa.Table]) -> Iterator[BatchResult]:
    while not work.dead.empty():
        batch, reason = work.dead.get()
        yield BatchResult(batch, failed(batch, reason), 0.0)


def to_stream(table: pa.Table) -> bytes:
    """A table as it travels: an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
