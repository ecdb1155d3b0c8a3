from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pyarrow.parquet as pq

from runner import profile, worker
from runner.batch import Batch, Resources
from runner.executors import BatchResult
from runner.worker import Context
from tests.runner.fakes import TOY, mixture
from tests.runner.made_results import toy_cells
from tests.runner.test_driver import go, sweep


def results_of_two_batches() -> list[BatchResult]:
    found = []
    for rates in ([0.5], [1.0, 2.0]):
        batch = Batch("b", "toy", tuple(toy_cells([mixture("near", 1.0)], {"rate": rates})), Resources(), 1.0)
        found.append(BatchResult(batch, worker.run(TOY, batch, Context("toys", profile=True)), 0.25))
    return found


def test_figures_of_all_batches_add_up_and_leave_no_trace_in_the_records(tmp_path: Path) -> None:
    kept = profile.Profile()
    for result in results_of_two_batches():
        assert profile.KEY in result.table.schema.metadata
        assert profile.KEY not in (kept.take(result).schema.metadata or {})
    assert (kept.batches, kept.cells, kept.busy) == (2, 9, 0.5)
    calls, own, in_all = kept.spent["runner/worker.py:run"]
    assert calls == 2
    assert 0 <= own <= in_all
    # What is in all of a function's time is at least what is its own, foreign functions it calls included.
    assert all(own <= in_all + 1e-9 for _, own, in_all in kept.spent.values())
    path = kept.write(tmp_path, {"cells": 2.0}, workers=1)
    shown = profile.read(path)
    assert shown["workers"]["... of their time in cells"] == 0.25
    assert json.loads(path.read_text())["functions"][0]["function"] == "runner/worker.py:run"


def test_a_foreign_function_s_time_is_its_caller_s_own() -> None:
    """As cProfile has it: calls without and with recursion, own seconds, those in all, and by caller the same."""
    f, g = ("/a/runner/f.py", 1, "f"), ("/a/experiments/g.py", 2, "g")
    sleep, deep = ("~", 0, "<sleep>"), ("/lib/deep.py", 3, "deep")
    rows = {
        f: (1, 1, 1.0, 23.0, {}),
        g: (1, 2, 2.0, 10.0, {f: (1, 2, 2.0, 10.0)}),
        sleep: (5, 5, 12.0, 12.0, {f: (1, 1, 4.0, 4.0), g: (2, 2, 8.0, 8.0), deep: (2, 2, 0.5, 0.5)}),
        deep: (1, 1, 7.5, 8.0, {f: (1, 1, 7.5, 8.0)}),
    }
    spent = profile._of_packages(Mock(stats=rows))
    assert spent == {"runner/f.py:f": [1, 1.0 + 4.0 + 7.5, 23.0], "experiments/g.py:g": [2, 2.0 + 8.0, 10.0]}


def test_the_longest_idle_is_that_of_the_worker_who_is_done_first(tmp_path: Path) -> None:
    kept = profile.Profile(last={"killed:1": 3.0, "a:2": 10.0, "b:3": 14.0})
    for workers, idle in ((1, 0.0), (2, 4.0), (4, 14.0)):
        path = kept.write(tmp_path, {"cells": 20.0}, workers)
        assert profile.read(path)["workers"]["longest idle at the end, seconds"] == idle


def test_a_profiled_run_writes_the_same_records(results: Path) -> None:
    go(results, sweep(), profile=True)
    folder = results / "toys"
    figures = json.loads((folder / profile.FILE).read_text())
    assert figures["workers"]["cells"] == 12
    assert set(figures["phases"]) >= {"plan", "prepare", "cells", "tables", "report", "mlflow"}
    for shard in (folder / "records").glob("*.parquet"):
        assert profile.KEY not in (pq.read_schema(shard).metadata or {})


def test_without_being_asked_nothing_is_watched(results: Path) -> None:
    go(results, sweep())
    assert not (results / "toys" / profile.FILE).exists()
