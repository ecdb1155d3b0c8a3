"""A results folder made from the toy experiment, through the same worker, shards and tables as a real one."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.targets import Target
from runner import provenance, worker
from runner.batch import Batch, Resources
from runner.planning import Cell
from runner.store.manifest import write_manifest
from runner.store.shards import write_shard
from runner.store.tables import write_tables
from runner.store.targets import write_targets
from runner.worker import Context
from tests.runner.fakes import TOY, ToyParams


def toy_cells(targets: Sequence[Target], axes: Mapping[str, Sequence[Any]], seeds: int = 3) -> list[Cell]:
    """The product of targets, axes and seeds."""
    cells = []
    for target, *values in itertools.product(targets, *axes.values()):
        params = ToyParams(target=target.name, **dict(zip(axes, values, strict=True)))
        for seed in range(seeds):
            cells.append(Cell(_id(params, seed), _id(params), "toy", params, target, seed))
    return cells


def write_results(
    folder: Path,
    cells: Sequence[Cell],
    *,
    nuisance: Sequence[str] = (),
    question: str | None = None,
    manifest: bool = True,
    samples: bool = True,
) -> Path:
    """Run the cells and write every table of a results folder, and the manifest and sweep file if asked."""
    folder.mkdir(parents=True, exist_ok=True)
    batch = Batch("batch", "toy", tuple(cells), Resources(), 1.0)
    write_shard(folder, worker.run(TOY, batch, Context(folder.name, "0.0.test")))
    counts = write_tables(
        folder, [cell.id for cell in cells], sweep=folder.name, nuisance={"toy": nuisance}, samples=samples
    )
    write_targets(folder, [cell.target for cell in cells])
    if question is not None:
        import yaml

        (folder / "sweep.yaml").write_text(yaml.safe_dump({"name": folder.name, "question": question}))
    if manifest:
        write_manifest(
            folder,
            folder.name,
            provenance.collect(["modesweep", "run", "toy.yaml"]),
            counts,
            started=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
            finished=datetime(2026, 1, 2, 3, 6, 5, tzinfo=UTC),
            settings={"executor": "inline", "workers": 1},
            targets={cell.target.name: cell.target.digest for cell in cells},
        )
    return folder


def _id(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
