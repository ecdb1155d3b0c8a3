"""What every executor promises; a test class of an executor inherits these tests and gives ``executor``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.experiment import Cell as ExperimentCell
from experiments.experiment import Experiment, Outcome
from runner import worker
from runner.batch import Batch, Resources
from runner.executors import BatchResult, Executor
from runner.planning import Cell
from runner.worker import Context
from tests.runner import fakes
from tests.runner.fakes import TOY, ToyParams

CONTEXT = Context(sweep="suite", code_version="1.2.3", code_digest="1.2.3")


def in_pairs(cells: Sequence[ExperimentCell], device: str, checkpoints: Any = None) -> list[Outcome]:
    """Needs more memory than there is for any stack of more than two."""
    if len(cells) > 2:
        raise MemoryError(f"{len(cells)} cells do not fit")
    return fakes.run_batch(cells, device)


def undeclared(cells: Sequence[ExperimentCell], device: str, checkpoints: Any = None) -> list[Outcome]:
    return [replace(o, metrics={"surprise": 1.0}) for o in fakes.run_batch(cells, device)]


EXPERIMENTS: Mapping[str, Experiment] = {
    "toy": TOY,
    "other": replace(TOY, name="other"),
    "tight": replace(TOY, name="tight", run_batch=in_pairs),
    "undeclared": replace(TOY, name="undeclared", run_batch=undeclared),
}


def cells(count: int, modes: Mapping[int, str] | None = None, experiment: str = "toy") -> list[Cell]:
    """Toy cells with seeds 0, 1, ...; ``modes`` says which of them do not behave."""
    target = fakes.CATALOGUE.target("near")
    return [
        Cell(
            id=f"{experiment}-{seed:04d}",
            configuration_id=f"{experiment}-{(modes or {}).get(seed, 'fine')}",
            experiment=experiment,
            params=ToyParams(target="near", rate=1.0 + seed % 3, mode=(modes or {}).get(seed, "fine")),
            target=target,
            seed=seed,
        )
        for seed in range(count)
    ]


def batches(of: Sequence[Cell], *sizes: int, resources: Resources | None = None) -> list[Batch]:
    """Cut cells into batches of these sizes, the last one repeated for as long as there are cells."""
    cut, start = [], 0
    while start < len(of):
        size = sizes[min(len(cut), len(sizes) - 1)]
        part = tuple(of[start : start + size])
        cut.append(Batch(f"b{len(cut)}", part[0].experiment, part, resources or Resources(), 0.1 * len(part)))
        start += size
    return cut


def rows(results: Iterable[BatchResult]) -> dict[str, dict[str, Any]]:
    """All records by cell id, without their provenance; fails if a cell has two."""
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        kept = [f.name for f in result.table.schema if f.metadata[b"role"] != b"provenance"]
        assert result.table["cell_id"].to_pylist() == [cell.id for cell in result.batch.cells]
        for row in result.table.select(kept).to_pylist():
            assert row["cell_id"] not in found
            found[row["cell_id"]] = row
    return found


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, and NaN equal to NaN: repr shows every digit of a float."""
    return json.dumps(one, sort_keys=True, default=repr) == json.dumps(other, sort_keys=True, default=repr)


def alone(of: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """The records that each cell gives in a batch of its own, without any executor."""
    tables = (BatchResult(b, worker.run(EXPERIMENTS[b.experiment], b, CONTEXT), 0.0) for b in batches(of, 1))
    return rows(tables)


class ExecutorSuite:
    """Inherit, and define a fixture ``executor`` made with ``EXPERIMENTS`` and ``CONTEXT``."""

    def test_records_do_not_depend_on_batches_or_executor(self, executor: Executor) -> None:
        asked, others = cells(30, {7: "diverge", 23: "diverge"}), cells(9, experiment="other")
        sizes = np.random.default_rng().integers(1, 9, size=20).tolist()
        found = rows(executor.run([*batches(asked, *sizes), *batches(others, 4)]))
        assert same(found, alone([*asked, *others])), sizes
        assert [seed for seed in range(30) if found[f"toy-{seed:04d}"]["status"] == "diverged"] == [7, 23]
        assert found["toy-0007"]["error"] == "loss is nan at step 50"

    def test_a_batch_that_raises_or_does_not_fit_runs_in_parts(self, executor: Executor) -> None:
        asked, tight = cells(21, {4: "raise", 12: "raise", 13: "raise"}), cells(11, experiment="tight")
        found = rows(executor.run([*batches(asked, 16, 5), *batches(tight, 11)]))
        assert same(found, alone([*asked, *tight]))
        failed = {name for name, row in found.items() if row["status"] == "failed"}
        assert failed == {"toy-0004", "toy-0012", "toy-0013"}
        assert found["toy-0012"]["error"].startswith("RuntimeError: the toy with seed 12 was told to raise\n")
        assert "fakes.py:" in found["toy-0012"]["error"]

    def test_results_say_where_they_come_from(self, executor: Executor) -> None:
        executor.start()
        assert executor.workers >= 1
        (result,) = executor.run(batches(cells(3), 3))
        result.table.validate(full=True)
        shown = ("sweep", "batch_id", "device", "code_version")
        assert [set(result.table[name].to_pylist()) for name in shown] == [
            {"suite"},
            {"b0"},
            {"cpu"},
            {"1.2.3"},
        ]
        host, pid = result.table["worker"][0].as_py().rsplit(":", 1)
        assert host and int(pid) > 0
        assert 0 < 3 * result.table["fit_seconds"][0].as_py() <= result.seconds

    def test_nothing_to_run(self, executor: Executor) -> None:
        assert list(executor.run([])) == []

    def test_a_run_may_be_left_early_and_begun_again(self, executor: Executor) -> None:
        asked = cells(8)
        running = executor.run(batches(asked, 2))
        next(running)
        running.close()
        assert same(rows(executor.run(batches(asked, 2))), alone(asked))
