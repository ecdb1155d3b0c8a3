"""What a worker does with a batch: one thread, one stack, and a record for every cell, failed ones too.

The same code runs in the driver's process (`inline`) and inside a Ray Tune trial; it knows of neither.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from runner.batch import Batch, most_within
from runner.checkpoint import SECONDS, Checkpoints, Origin
from runner.experiment import Experiment, Outcome
from runner.planning import Cell
from runner.record import Failure, to_table

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
FRAMES_KEPT = 4
CUDA_SHARE = 0.8  # of a GPU's free memory, for one stack: what an experiment counts is not quite all
CUDA_LIBRARIES = 200 << 20  # bytes of it that they keep for themselves


@dataclass(frozen=True)
class Context:
    """What every record of one run shares.

    Args:
        code_digest: of the code that trains, ``provenance.code_digest``: its checkpoints are of no use to other code.
    """

    sweep: str
    code_version: str = ""
    code_digest: str = ""
    profile: bool = False
    checkpoint_seconds: float = SECONDS


def run(
    experiment: Experiment,
    batch: Batch,
    context: Context,
    device: str = "cpu",
    *,
    held: Sequence[bytes] = (),
    send: Callable[[bytes], None] | None = None,
) -> pa.Table:
    """The records of a batch, one row per cell in the batch's order.

    A batch that raises is split in halves until the cells that raise are alone; they become records with
    status ``failed`` and the error's type, message and last frames. Their batch-mates keep their results,
    since a cell's outcome does not depend on its batch. Running out of memory is an error like any other:
    a half needs half of it, down to the size that stacks are padded to.

    Args:
        experiment: the one that ``batch.experiment`` names.
        batch: cells that can be stacked.
        context: what the records of this run share.
        device: ``cpu`` or ``cuda``.
        held: checkpoints of these cells, from which their training goes on.
        send: what becomes of a checkpoint; there are none without it.
    """
    if context.profile:
        from runner.profile import watched

        plain = replace(context, profile=False)
        return watched(partial(run, experiment, batch, plain, device, held=held, send=send))
    checkpoints = None
    if send is not None:
        origin = Origin(context.code_digest, device)
        checkpoints = Checkpoints(origin, held, send, context.checkpoint_seconds)
    started = time.perf_counter()
    with one_thread():
        outcomes = _outcomes(experiment, batch.cells, device, checkpoints)
    seconds = time.perf_counter() - started
    return _table(experiment, batch, context, outcomes, seconds, device, f"{platform.node()}:{os.getpid()}")


def usable_device(given_gpu: bool) -> str:
    """``cuda`` for a batch that has been given a GPU, where this torch can use one; else ``cpu`` does the work."""
    if not given_gpu:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def failed(experiment: Experiment, batch: Batch, context: Context, error: str) -> pa.Table:
    """Records that say of every cell of a batch why it has no result; for workers that cannot say it."""
    outcomes = [Failure("failed", error)] * len(batch.cells)
    return _table(experiment, batch, context, outcomes, 0.0, "", "")


def describe(error: BaseException) -> str:
    """Type and message of an error, and the last places it came through, in a few lines."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_KEPT:]
    places = [f"  in {f.name}, {'/'.join(Path(f.filename).parts[-2:])}:{f.lineno}" for f in reversed(frames)]
    return "\n".join([f"{type(error).__name__}: {error}", *places])


@contextmanager
def one_thread() -> Iterator[None]:
    """Bound the math libraries to one thread: workers share the cores, and sums keep their order.

    The environment speaks to libraries that are yet to be loaded; torch, if loaded, is told directly.
    """
    environment = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch:
            torch.set_num_threads(threads)


def _outcomes(
    experiment: Experiment, cells: Sequence[Cell], device: str, checkpoints: Checkpoints | None
) -> list[Outcome | Failure]:
    size = _most_at_once(experiment, cells, device) if device == "cuda" else len(cells)
    pieces = [cells[start : start + size] for start in range(0, len(cells), size)]
    return [outcome for piece in pieces for outcome in _halving(experiment, piece, device, checkpoints)]


def _most_at_once(experiment: Experiment, cells: Sequence[Cell], device: str) -> int:
    """How many of a batch's cells the GPU has room for now, of which other trials may have a share."""
    torch = sys.modules.get("torch")
    if not (torch and torch.cuda.is_available()):  # an experiment may use a GPU by other means, or say it has none
        return len(cells)
    try:
        free, _ = torch.cuda.mem_get_info()
    except RuntimeError:  # what ails the GPU is told by the cells that it fails
        return len(cells)
    return most_within(experiment, cells, CUDA_SHARE * max(0, free - CUDA_LIBRARIES), len(cells), device)


def _halving(
    experiment: Experiment, cells: Sequence[Cell], device: str, checkpoints: Checkpoints | None
) -> list[Outcome | Failure]:
    try:
        outcomes = list(experiment.run_batch(cells, device, checkpoints))
        if len(outcomes) != len(cells):
            raise RuntimeError(f"run_batch gave {len(outcomes)} outcomes for {len(cells)} cells")
        return [*outcomes]
    except Exception as error:
        reason = describe(error)
    # Out here the exception is gone, and with it the tensors that its frames held: the halves have room.
    if len(cells) == 1:
        return [Failure("failed", reason)]
    _empty_cuda_cache()
    middle = len(cells) // 2
    return [
        *_halving(experiment, cells[:middle], device, checkpoints),
        *_halving(experiment, cells[middle:], device, checkpoints),
    ]


def _empty_cuda_cache() -> None:
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        with suppress(RuntimeError):  # of a GPU that a cell has left in error
            torch.cuda.empty_cache()


def _table(
    experiment: Experiment,
    batch: Batch,
    context: Context,
    outcomes: Sequence[Outcome | Failure],
    seconds: float,
    device: str,
    worker: str,
) -> pa.Table:
    return to_table(
        experiment,
        context.sweep,
        batch.cells,
        outcomes,
        batch_id=batch.id,
        seconds=seconds,
        device=device,
        worker=worker,
        code_version=context.code_version,
    )
