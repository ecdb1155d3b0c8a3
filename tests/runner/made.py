"""Made-up records of the toy experiment, for tests of what happens after a batch has run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from runner.planning import Cell
from runner.record import Failure, to_table
from tests.runner.fakes import CATALOGUE, TOY, ToyParams

START = datetime(2030, 1, 1, tzinfo=UTC)


def cell(number: int, seed: int = 0, **params: Any) -> Cell:
    """A cell whose id is its number, and whose configuration is its parameters."""
    settings = ToyParams(**{"target": "near", **params})
    target = CATALOGUE.target(settings.target)
    return Cell(f"{number:016x}", settings.model_dump_json(), "toy", settings, target, seed)


def records(cells: Sequence[Cell], batch: str = "b0", minute: int = 0, failed: bool = False) -> pa.Table:
    """What a worker returns for the cells, finished so many minutes after `START`."""
    outcomes = [Failure("failed", "RuntimeError: boom")] * len(cells) if failed else TOY.run_batch(cells, "cpu")
    return to_table(
        TOY,
        "made",
        cells,
        outcomes,
        batch_id=batch,
        seconds=0.5 * len(cells),
        device="cpu",
        worker="host:1",
        code_version="0.1.0",
        finished_at=START + timedelta(minutes=minute),
    )
