"""A run from plan to tables with the toy experiment, in this process."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import numpy as np
import pandas as pd
import psutil
import pytest
from rich.console import Console

from experiments.experiment import Outcome
from runner.checkpoint import Origin, Saved
from runner.display import report_view
from runner.driver import Report, run
from runner.errors import StoreError, SweepError
from runner.executors.inline import InlineExecutor
from runner.options import Options
from runner.progress import Silent, Tally
from runner.spec import load_sweep
from runner.store.checkpoints import CheckpointFolder
from runner.store.lock import hold
from runner.store.reading import read_cells, read_curves, read_modes, read_samples, read_summary
from runner.tracking.follower import Follower
from runner.tracking.request import ExportReport
from tests.runner import fakes
from tests.runner.fakes import CATALOGUE, TOY


class Hearing(Silent):
    """Keeps what a person would be told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tallies: list[int] = []

    def say(self, text: str, *, style: str = "") -> None:
        self.said.append(text)

    def advance(self, tally: Tally) -> None:
        self.tallies.append(tally.done)


def sweep(seeds: int = 2, **axes: Any) -> Any:
    grid = {"experiment": "toy", "axes": {"target": ["near", "far"], "rate": [0.5, 1.0, 2.0], **axes}}
    return load_sweep({"name": "toys", "question": "Does it run?", "grids": [grid], "seeds": seeds}, CATALOGUE)


def options(results: Path, **changes: Any) -> Options:
    return replace(Options(results=results, executor="inline", mlflow="off"), **changes)


def go(results: Path, of: Any = None, listener: Any = None, **changes: Any) -> Report:
    return run(of or sweep(), CATALOGUE, options(results, **changes), listener)


def test_every_cell_is_in_every_table(results: Path) -> None:
    report = go(results)
    assert report.all_ok
    assert report.ran == {"ok": 12}
    cells = read_cells("toys", results)
    assert cells["cell_id"].tolist() == [cell.id for cell in report.plan.cells]
    assert cells["rate"].tolist() == [cell.params.rate for cell in report.plan.cells]  # type: ignore[attr-defined]
    for table in (read_curves, read_modes, read_samples):
        assert set(table("toys", results)["cell_id"]) == set(cells["cell_id"])
    assert len(read_summary("toys", results)) == 6
    manifest = json.loads((results / "toys/manifest.json").read_text())
    assert manifest["counts"]["ok"] == 12
    assert (results / "toys/report.html").is_file()


def test_no_password_is_stored(results: Path) -> None:
    go(results, tracking_uri="postgresql://me:s3cret/w0rd@db/mlflow?password=t0ken", profile=True)
    files = [path for path in results.rglob("*") if path.is_file()]
    assert {"manifest.json", "report.html", "cells.parquet"} <= {path.name for path in files}
    stored = b"".join(path.read_bytes() for path in files)
    assert b"postgresql://me:***@db/mlflow" in stored
    for secret in (b"s3cret", b"w0rd", b"t0ken"):
        assert secret not in stored


def test_a_store_that_is_none_leaves_the_results_as_they_are(results: Path) -> None:
    go(results)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    with pytest.raises(SweepError, match="is a folder or a plain name"):
        go(results, sweep(rate=[4.0]), mlflow=None, tracking_uri="./mlruns")
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_a_second_run_computes_nothing(results: Path) -> None:
    go(results)
    before = read_cells("toys", results)
    report = go(results)
    assert report.ran == {}
    pd.testing.assert_frame_equal(before, read_cells("toys", results))


def test_a_finished_sweep_asks_for_no_cluster(results: Path) -> None:
    go(results)
    report = go(results, executor="tune", address="127.0.0.1:1")  # where none is
    assert report.all_ok
    assert json.loads((report.folder / "manifest.json").read_text())["settings"]["workers"] is None
    assert "None workers" not in (report.folder / "report.html").read_text()


def test_a_changed_axis_runs_the_new_cells_alone(results: Path) -> None:
    go(results)
    report = go(results, sweep(rate=[0.5, 1.0, 2.0, 4.0]))
    assert report.ran == {"ok": 4}
    assert len(read_cells("toys", results)) == 16


def test_tables_hold_the_cells_of_the_plan_alone(results: Path) -> None:
    go(results)
    go(results, sweep(rate=[2.0]))
    assert set(read_cells("toys", results)["rate"]) == {2.0}
    assert go(results).ran == {}
    assert len(read_cells("toys", results)) == 12


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_batch_size_changes_no_number(tmp_path: Path, size: int) -> None:
    go(tmp_path / "one")
    go(tmp_path / "two", cells_per_batch=size)
    provenance = ["fit_seconds", "worker", "batch_id", "finished_at"]
    one, two = (read_cells("toys", tmp_path / name).drop(columns=provenance) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)


def test_a_cell_that_raises_is_told_at_once_and_spares_the_others(results: Path) -> None:
    heard = Hearing()
    report = go(results, sweep(mode=["fine", "raise"]), heard, command="modesweep run toys.yaml")
    assert report.ran == {"ok": 12, "failed": 12}
    assert not report.all_ok
    told = "\n".join(heard.said)
    failed = read_cells("toys", results).query("status == 'failed'")
    assert "told to raise" in failed["error"].iloc[0]
    assert f"modesweep run toys.yaml --cell {failed['cell_id'].iloc[0]} --executor inline" in told
    assert told.count("First cell that is not ok") == 1


def test_failed_cells_run_again_only_when_asked(results: Path) -> None:
    bad = sweep(mode=["fine", "diverge"])
    go(results, bad)
    assert go(results, bad).ran == {}
    assert go(results, bad, retry_failed=True).ran == {"diverged": 12}
    assert len(read_cells("toys", results)) == 24


@pytest.mark.parametrize("mode", ["raise", "diverge"])
def test_fail_fast_stops_at_the_first_cell_that_is_not_ok(results: Path, mode: str) -> None:
    report = go(results, sweep(mode=[mode, "fine"]), cells_per_batch=2, fail_fast=True)
    assert report.stopped == "fail_fast"
    assert 0 < report.counts.missing < 24


def test_one_cell_alone(results: Path) -> None:
    wanted = go(results).plan.cells[7].id
    report = go(results, cell=wanted[:10])
    assert report.ran == {"ok": 1}
    assert len(read_cells("toys", results)) == 12


def test_ctrl_c_keeps_what_finished_and_the_next_run_continues(results: Path) -> None:
    slow = sweep(mode=["slow"])

    class Interrupting(Hearing):
        def advance(self, tally: Tally) -> None:
            if tally.done == 4:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)

    heard = Interrupting()
    report = go(results, slow, heard, cells_per_batch=1)
    assert report.stopped == "interrupted"
    assert report.counts.ok == 4
    assert any("Interrupted" in text for text in heard.said)
    told = Console(width=200, record=True, file=io.StringIO())
    told.print(report_view(report, []))
    text = told.export_text()
    assert "4 of 12 cells ok, 8 not run yet" in text
    assert f"Tables, figures and report.html: {report.folder}" in text
    assert "8 not run yet" in (report.folder / "report.html").read_text()
    again = go(results, slow, cells_per_batch=1)
    assert again.ran == {"ok": 8}
    assert again.all_ok
    assert "not run yet" not in (again.folder / "report.html").read_text()


def test_ctrl_c_leaves_no_page_of_an_earlier_plan(results: Path) -> None:
    class Interrupting(Silent):
        def begin(self, tally: Tally) -> None:
            raise KeyboardInterrupt

    folder = go(results).folder
    assert list((folder / "figures").iterdir())
    report = go(results, sweep(rate=[4.0, 8.0]), Interrupting())
    assert (report.stopped, report.counts.missing, len(read_cells("toys", results))) == ("interrupted", 8, 0)
    assert "8 not run yet" in (folder / "report.html").read_text()
    assert not list((folder / "figures").iterdir())


def test_ctrl_c_before_the_first_record_leaves_no_page(results: Path) -> None:
    class Interrupting(Silent):
        def begin(self, tally: Tally) -> None:
            raise KeyboardInterrupt

    assert not (go(results, listener=Interrupting()).folder / "report.html").exists()


def test_a_second_ctrl_c_ends_a_run_at_once(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(Silent):
        def advance(self, tally: Tally) -> None:
            raise KeyboardInterrupt

    def interrupt(folder: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("runner.driver.write_report", interrupt)
    with pytest.raises(KeyboardInterrupt):
        go(results, listener=Interrupting(), cells_per_batch=1)
    assert len(read_cells("toys", results)) == 1


def test_sigterm_ends_a_run_as_ctrl_c_does_and_no_longer_than_it_lasts(results: Path) -> None:
    heard: list[Any] = []

    class Ending(Silent):
        def advance(self, tally: Tally) -> None:
            heard.append(signal.getsignal(signal.SIGTERM))
            if tally.done == 4:
                heard[-1](signal.SIGTERM, None)

    before = signal.getsignal(signal.SIGTERM)
    report = go(results, listener=Ending(), cells_per_batch=1)
    assert (report.stopped, report.counts.ok, len(heard)) == ("interrupted", 4, 4)
    assert signal.getsignal(signal.SIGTERM) == before


def exporters() -> list[psutil.Process]:
    """The export processes of this process."""
    return [child for child in psutil.Process().children() if "runner.tracking.follow" in child.cmdline()]


def test_an_error_ends_the_export_too(results: Path) -> None:
    class Breaking(Silent):
        def advance(self, tally: Tally) -> None:
            assert len(exporters()) == 1
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        go(results, listener=Breaking(), mlflow="cells")
    assert exporters() == []


def raising_once(cells: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
    if any(cell.params.mode == "raise" for cell in cells) and not Path("mended").exists():
        raise RuntimeError("not mended")
    mended = [replace(cell, params=cell.params.model_copy(update={"mode": "fine"})) for cell in cells]
    return fakes.run_batch(mended, device)


def parent_status(database: Path) -> str:
    found = "SELECT status FROM runs JOIN tags USING (run_uuid) WHERE key = 'kind' AND tags.value = 'sweep'"
    with closing(sqlite3.connect(database)) as connection:
        ((status,),) = connection.execute(found)
    return str(status)


def test_mlflow_is_told_how_a_run_ended(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = MagicMock(finish=Mock(return_value=ExportReport(24)), poll=Mock(return_value=Mock(exported=0)))
    monkeypatch.setattr("runner.driver.Follower", Mock(return_value=follower))
    catalogue = replace(CATALOGUE, experiments={"toy": replace(TOY, run_batch=raising_once)})
    asked = options(results, mlflow="cells", retry_failed=True)
    for changes in ({"fail_fast": True}, {}):
        run(sweep(mode=["raise", "fine"]), catalogue, replace(asked, **changes))
    Path("mended").touch()
    run(sweep(mode=["raise", "fine"]), catalogue, asked)
    assert [call.args[0] for call in follower.finish.call_args_list] == ["KILLED", "FAILED", "FINISHED"]


@pytest.mark.slow
def test_mlflow_s_run_of_the_sweep_says_whether_every_cell_is_ok(results: Path, tmp_path: Path) -> None:
    catalogue = replace(CATALOGUE, experiments={"toy": replace(TOY, run_batch=raising_once)})
    told = options(results, mlflow="cells", tracking_uri=f"sqlite:///{tmp_path / 'store.db'}")
    bad = sweep(mode=["fine", "raise"])
    assert run(bad, catalogue, told).ran == {"ok": 12, "failed": 12}
    assert parent_status(tmp_path / "store.db") == "FAILED"
    Path("mended").touch()
    assert run(bad, catalogue, replace(told, retry_failed=True)).all_ok
    assert parent_status(tmp_path / "store.db") == "FINISHED"


def test_ctrl_c_while_mlflow_is_waited_for(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Follower, *_: Any) -> ExportReport:
        raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "finish", interrupt)
    heard = Hearing()
    report = go(results, listener=heard, mlflow="cells")
    assert report.stopped == "interrupted"
    assert report.counts.ok == 12
    assert report.tracking is not None
    assert heard.said == [report.tracking.error]
    assert re.fullmatch(r"Interrupted: MLflow has \d+ of 12 cells\. .*`modesweep export toys\b.*", heard.said[0])
    assert exporters() == []


def test_ctrl_c_before_workers_are_known(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: InlineExecutor) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(InlineExecutor, "workers", property(interrupt))
    heard = Hearing()
    report = go(results, listener=heard)
    assert (report.stopped, report.ran, report.counts.missing) == ("interrupted", {}, 12)
    assert "Interrupted" in heard.said[0]


def test_a_second_driver_is_told_who_holds_the_folder(results: Path) -> None:
    ready, leave = threading.Event(), threading.Event()

    def first() -> None:
        with hold(results / "toys"):
            ready.set()
            leave.wait(10)

    holder = threading.Thread(target=first)
    holder.start()
    ready.wait(10)
    try:
        with pytest.raises(StoreError, match=rf"in use by process {os.getpid()}"):
            go(results)
    finally:
        leave.set()
        holder.join()


def test_a_damaged_shard_is_told_and_its_cells_run_again(results: Path) -> None:
    go(results, cells_per_batch=3)
    before = read_cells("toys", results)
    victim = sorted((results / "toys/records").glob("*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:-40])
    report = go(results)
    assert report.ran == {"ok": 3}
    columns = ["cell_id", "coverage", "loss", "seed"]
    pd.testing.assert_frame_equal(before[columns], read_cells("toys", results)[columns])
    assert list((results / "toys/records").glob("*.damaged"))


def keeping(cells: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
    checkpoints.keep(cells, 0.5, {"x": np.zeros(len(cells))})
    return fakes.run_batch(cells, device)


def test_a_checkpoint_goes_when_its_cells_have_records(results: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Looking(Silent):
        def advance(self, tally: Tally) -> None:
            seen.append((tally.done, len(list(results.glob("toys/checkpoints/*")))))

    catalogue = replace(CATALOGUE, experiments={"toy": replace(TOY, run_batch=keeping)})
    run(sweep(), catalogue, options(results, cells_per_batch=4), Looking())
    assert seen == [(0, 1), (4, 0), (4, 1), (8, 0), (8, 1), (12, 0)]


def test_of_what_a_killed_driver_left_only_checkpoints_of_cells_without_record_stay(results: Path) -> None:
    class Interrupting(Silent):
        def begin(self, tally: Tally) -> None:
            raise KeyboardInterrupt

    done = go(results).plan.cells
    more = sweep(rate=[0.5, 1.0, 2.0, 4.0])
    left = [cell for cell in go(results, more, Interrupting()).plan.cells if cell not in done]
    kept = CheckpointFolder(results / "toys", "")
    for cell in (done[0], left[0]):
        kept.write(Saved((cell.id,), Origin("", "cpu"), 0.5, 0.0, {}).to_bytes())
    halves = [results / "toys" / name for name in (".cells.parquet-1.tmp", "records/.b-1.parquet-1.tmp")]
    for half in halves:
        half.write_bytes(b"half")
    go(results, more, Interrupting())
    assert set(CheckpointFolder(results / "toys", "").cells) == {left[0].id}
    assert not any(half.exists() for half in halves)


def test_without_samples_no_draws_of_an_earlier_run_stay(results: Path) -> None:
    folder = go(results).folder
    assert {"samples.parquet", "targets.parquet"} <= {path.name for path in folder.iterdir()}
    go(results, samples=False)
    assert not {"samples.parquet", "targets.parquet"} & {path.name for path in folder.iterdir()}
