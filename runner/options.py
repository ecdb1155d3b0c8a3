"""How a sweep is run, and the plan and batches that follow: light, as `modesweep plan` runs nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

from runner import cgroup
from runner.batch import Batch, make_batches
from runner.checkpoint import SECONDS, Begun
from runner.errors import SweepError
from runner.executors.setup import refuse_client
from runner.experiment import Catalogue
from runner.planning import Plan, make_plan
from runner.provenance import code_digest
from runner.spec import Sweep, whole
from runner.tracking.location import locate

ExecutorName = Literal["tune", "inline"]
MlflowMode = Literal["cells", "groups", "off"]
MEMORY_SHARE = 0.25  # of the memory that this process may use, for the stacks of all workers together
LARGEST_STACK = 400 * 2**20  # bytes; a worker with torch loaded then stays below 900 MB


@dataclass(frozen=True)
class Options:
    """How a sweep is run. None of it changes a result, so none of it is part of a cell's identity.

    Args:
        results: the folder that holds a folder for each sweep; text will do.
        workers: batches at a time; as many as there are cores unless given.
        address: of an existing Ray cluster.
        cells_per_batch: instead of a number chosen from workers and memory.
        tracking_uri: of MLflow; ``mlflow.db`` in the results folder unless given.
        mlflow: a run for each cell, for each configuration (``groups``), or ``off``; None chooses by size.
        retry_failed: run cells again whose record is not ``ok``.
        fail_fast: stop at the first cell that is not ok.
        samples: write ``samples.parquet``.
        profile: write ``profile.json``: where the time went; the workers are slower meanwhile.
        cell: the id of the one cell to run, finished or not.
        checkpoint_seconds: after which a batch in training leaves how far it is, and again and again.
        command: how to call the same sweep again, for hints.

    Raises:
        SweepError: a value is none that it may be.
    """

    results: Path = Path("results")
    executor: ExecutorName = "tune"
    workers: int | None = None
    address: str | None = None
    cells_per_batch: int | None = None
    tracking_uri: str | None = None
    mlflow: MlflowMode | None = None
    retry_failed: bool = False
    fail_fast: bool = False
    max_cells: int = 1_000_000
    samples: bool = True
    profile: bool = False
    cell: str | None = None
    checkpoint_seconds: float = SECONDS
    command: str = "modesweep run"

    def __post_init__(self) -> None:
        if not isinstance(self.results, str | PathLike):
            raise SweepError(f"results: expected the path of a folder, got {self.results!r}")
        object.__setattr__(self, "results", Path(self.results))
        for name, allowed in (("executor", get_args(ExecutorName)), ("mlflow", (*get_args(MlflowMode), None))):
            if (given := getattr(self, name)) not in allowed:
                raise SweepError(f"{name}: expected {' or '.join(map(repr, allowed))}, got {given!r}")
        for name in ("workers", "cells_per_batch", "max_cells"):
            given = getattr(self, name)
            if given is None and name != "max_cells":
                continue
            if (number := whole(given)) is None or number < 1:
                raise SweepError(f"{name}: expected a whole number of at least 1, got {given!r}")
            object.__setattr__(self, name, number)
        for name in ("address", "tracking_uri", "cell"):
            if not isinstance(given := getattr(self, name), str | None):
                raise SweepError(f"{name}: expected text or nothing, got {given!r}")
        seconds = self.checkpoint_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            raise SweepError(f"checkpoint_seconds: expected a number from 0 on, got {seconds!r}")


def training_code(catalogue: Catalogue) -> str:
    """A digest of the code that trains, of which checkpoints are."""
    return code_digest(experiment.run_batch for experiment in catalogue.experiments.values())


def plan_sweep(sweep: Sweep, catalogue: Catalogue, options: Options) -> Plan:
    """The plan of a sweep, given what its results folder holds already.

    Raises:
        SweepError: the sweep, the address or the tracking URI is refused; nothing was started.
    """
    if options.address:
        refuse_client(options.address)
    if options.mlflow != "off":
        locate(options.tracking_uri, options.results)
    folder = options.results / sweep.name
    finished: Mapping[str, str] = {}
    if (folder / "records").is_dir():
        from runner.store.shards import read_status

        finished = read_status(folder)
    return make_plan(
        sweep,
        catalogue,
        finished,
        retry_failed=options.retry_failed,
        max_cells=options.max_cells,
        only_cell=options.cell,
    )


def cut(
    plan: Plan,
    catalogue: Catalogue,
    options: Options,
    workers: int,
    gpus: float = 0.0,
    begun: Mapping[str, Begun] | None = None,
) -> tuple[Batch, ...]:
    """The batches of what is left of a plan, for so many workers and GPUs on a machine like this one.

    ``begun`` are the cells that an earlier run left in training, see ``make_batches``.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = min(physical, cgroup.memory_limit() or physical)
    return make_batches(
        plan,
        catalogue.experiments,
        workers=workers,
        memory_bytes=min(int(memory * MEMORY_SHARE / workers), LARGEST_STACK),
        gpus=gpus,
        cells_per_batch=options.cells_per_batch,
        begun=begun,
    )
