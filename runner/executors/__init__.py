"""Where batches run: in this process (`inline`) or as Ray Tune trials (`tune`)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, Self

# Every actor of a sweep imports this package, and only some of them need what these bring with them.
if TYPE_CHECKING:
    import pyarrow as pa

    from runner.batch import Batch
    from runner.checkpoint import Keeper
    from runner.experiment import Experiment
    from runner.worker import Context


@dataclass(frozen=True)
class BatchResult:
    """The records of one batch, one row per cell, and the wall time of its run in seconds.

    ``batch`` may be a part of one that was asked for, when the whole kept killing its worker.
    """

    batch: Batch
    table: pa.Table
    seconds: float


class Executor(Protocol):
    """Runs batches and yields their records as they finish.

    Over all results of one ``run`` every cell appears exactly once, whatever raised or died. Closing the
    iterator early abandons the batches in flight. ``start`` returns at once and lets workers start up in
    the background; ``start`` and ``close`` may be called again without harm, the latter by two threads at once.
    """

    @property
    def workers(self) -> int:
        """How many batches may run at the same time."""
        ...

    @property
    def gpus(self) -> float:
        """How many GPUs batches may share."""
        ...

    def start(self) -> None:
        """Begin to start up, and return at once."""
        ...

    def run(self, batches: Sequence[Batch]) -> Generator[BatchResult, None, None]:
        """Each batch's records, as they finish."""
        ...

    def close(self) -> None:
        """Stop what was started."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


def open_executor(
    name: Literal["inline", "tune"],
    experiments: Mapping[str, Experiment],
    context: Context,
    *,
    checkpoints: Keeper | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> Executor:
    """The executor of that name, not yet started.

    Args:
        name: ``inline`` or ``tune``.
        experiments: by name, as batches refer to them.
        context: what every record of this run shares.
        checkpoints: where long batches go on from, and leave how far they are; nowhere unless given.
        workers: how many batches may run at the same time; as many as there are cores unless given.
        address: of an existing Ray cluster, ``host:port`` or ``auto``; a private Ray is started without one.
    """
    if name == "inline":
        from runner.executors.inline import InlineExecutor

        return InlineExecutor(experiments, context, checkpoints)
    from runner.executors.tune import TuneExecutor

    return TuneExecutor(experiments, context, checkpoints=checkpoints, workers=workers, address=address)
