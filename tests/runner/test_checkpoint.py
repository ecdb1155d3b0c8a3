"""Checkpoints on their way: files that hold arrays alone, a folder that keeps the newest, batches that go on."""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from runner import lookup
from runner.batch import make_batches
from runner.checkpoint import Begun, Checkpoints, Origin, Saved
from runner.display import plan_view
from runner.errors import NoResultsError
from runner.executors.inline import InlineExecutor
from runner.planning import make_plan
from runner.progress import Tally, _line, duration
from runner.spec import load_sweep
from runner.store.checkpoints import CheckpointFolder
from runner.store.checkpoints import begun as begun_of
from runner.store.manifest import SWEEP, write_text
from tests.runner import fakes
from tests.suites import executors as suite

HERE = Origin("1.2.3", "cpu")


def saved(*cells: str, share: float = 0.5, began: float = 0.0, origin: Origin = HERE) -> Saved:
    """One number for each cell, the last digits of its id."""
    rows = {"x": np.array([[float(cell[-4:])] for cell in cells]), "odd / name": np.arange(len(cells))}
    return Saved(cells, origin, share, began, rows)


def names(*numbers: int) -> tuple[str, ...]:
    return tuple(f"toy-{number:04d}" for number in numbers)


def test_a_file_holds_what_was_put_in() -> None:
    made = saved(*names(3, 1, 2), share=0.75, began=0.5)
    found = Saved.read(io.BytesIO(made.to_bytes()))
    assert (found.cells, found.origin, found.share, found.began) == (made.cells, HERE, 0.75, 0.5)
    assert {name: rows.tolist() for name, rows in found.rows.items()} == {
        "x": [[3.0], [1.0], [2.0]],
        "odd / name": [0, 1, 2],
    }
    assert found.gained == 0.5
    assert Saved.read(io.BytesIO(made.to_bytes()), rows=False).rows == {}


def test_a_file_that_would_run_something_is_no_checkpoint() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, ("sprung",)

    file = io.BytesIO()
    np.savez(file, cells=["a"], origin=["1.2.3", "cpu"], shares=[0.5, 0.0], row_x=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match=r"no checkpoint: .*allow_pickle"):
        Saved.read(io.BytesIO(file.getvalue()))
    assert not Path("sprung").exists()


@pytest.mark.parametrize("damage", [slice(0), slice(10), slice(-30), slice(100, None)])
def test_a_damaged_file_is_no_checkpoint(damage: slice) -> None:
    file = saved(*names(*range(30))).to_bytes()
    with pytest.raises(ValueError, match="no checkpoint"):
        Saved.read(io.BytesIO(file[damage]))
    flipped = bytearray(file)
    flipped[len(file) // 3] ^= 255
    with pytest.raises(ValueError, match="no checkpoint"):
        Saved.read(io.BytesIO(bytes(flipped)))


def test_a_worker_finds_the_rows_of_its_cells() -> None:
    cells = suite.cells(6)
    held = [saved(*names(0, 1), share=0.2), saved(*names(5, 3, 4), share=0.5), b"damaged"]
    sent: list[bytes] = []
    checkpoints = Checkpoints(HERE, [h if isinstance(h, bytes) else h.to_bytes() for h in held], sent.append, 0.0)
    rows = checkpoints.find([cells[4], cells[5]])
    assert rows is not None
    assert rows["x"].tolist() == [[4.0], [5.0]]
    checkpoints.keep(cells[4:], 0.75, {"x": np.zeros((2, 1))})
    (file,) = sent
    assert Saved.read(io.BytesIO(file)).gained == pytest.approx(0.5)
    assert checkpoints.find(cells[:3]) is None  # no file has all three
    checkpoints.keep(cells[:3], 0.25, {})
    assert Saved.read(io.BytesIO(sent[1])).gained == 0.25


@pytest.mark.parametrize("origin", [Origin("1.2.4", "cpu"), Origin("1.2.3", "cuda")])
def test_other_code_and_other_devices_begin_anew(origin: Origin) -> None:
    checkpoints = Checkpoints(HERE, [saved(*names(0), origin=origin).to_bytes()], lambda file: None, 0.0)
    assert checkpoints.find(suite.cells(1)) is None


def test_it_is_time_once_in_a_while() -> None:
    checkpoints = Checkpoints(HERE, [], lambda file: None, 0.2)
    assert not checkpoints.due()
    time.sleep(0.25)
    assert checkpoints.due()
    checkpoints.keep(suite.cells(1), 0.5, {})
    assert not checkpoints.due()


def test_the_folder_keeps_the_newest_and_only_what_is_needed(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "1.2.3")
    whole, half = saved(*names(0, 1, 2, 3), share=0.4), saved(*names(2, 3), share=0.6)
    folder.write(whole.to_bytes())
    folder.write(replace(whole, share=0.5).to_bytes())
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    folder.write(half.to_bytes())
    for kept in (folder, CheckpointFolder(tmp_path, "1.2.3")):  # as this run has it, and as the next one finds it
        assert {cell: begun.share for cell, begun in kept.begun.items()} == dict.fromkeys(
            names(0, 1), 0.5
        ) | dict.fromkeys(names(2, 3), 0.6)
        assert len({begun.name for begun in kept.begun.values()}) == 2
        assert begun_of(tmp_path, "1.2.3") == kept.begun
        assert [Saved.read(io.BytesIO(f)).share for f in kept.read(names(1, 7, 2))] == [0.5, 0.6]
    folder.forget(names(0, 7))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    folder.forget(names(1, 2))
    assert [Saved.read(io.BytesIO(file)).cells for file in folder.read(names(0, 1, 2, 3))] == [half.cells]
    folder.forget(names(3))
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_is_damaged_is_told_and_removed(tmp_path: Path) -> None:
    folder, told = tmp_path / "checkpoints", []
    folder.mkdir()
    (folder / "a.npz").write_bytes(b"PK damaged")
    assert CheckpointFolder(tmp_path, "1.2.3", told.append).begun == {}
    assert [text.split(" ", 1)[1][:20] for text in told] == ["is damaged (no check"]
    assert list(folder.iterdir()) == []


def test_what_other_code_left_is_kept_for_it_until_its_cells_have_something_newer(tmp_path: Path) -> None:
    folder, told = tmp_path / "checkpoints", []
    CheckpointFolder(tmp_path, "other").write(saved(*names(0, 1), origin=Origin("other", "cpu")).to_bytes())
    kept = CheckpointFolder(tmp_path, "1.2.3", told.append)
    assert (kept.begun, kept.read(names(0, 1)), set(kept.cells)) == ({}, [], set(names(0, 1)))
    assert told == [f"{folder} has 2 cells in training by other code; here their training begins anew."]
    assert begun_of(tmp_path, "1.2.3") == {}
    assert begun_of(tmp_path, "other") == CheckpointFolder(tmp_path, "other").begun != {}
    kept.write(saved(*names(0)).to_bytes())
    assert len(list(folder.iterdir())) == 2
    kept.forget(names(1))
    assert len(list(folder.iterdir())) == 1
    assert set(kept.begun) == {*names(0)}


def test_readers_do_not_mind_files_that_go_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CheckpointFolder(tmp_path, "1.2.3").write(saved(*names(0)).to_bytes())
    listed = [*(tmp_path / "checkpoints").glob("*.npz"), tmp_path / "checkpoints" / "gone.npz"]
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter(listed))
    assert set(begun_of(tmp_path, "1.2.3")) == {*names(0)}


def test_a_checkpoint_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    told: list[str] = []
    kept = CheckpointFolder(tmp_path, "1.2.3", told.append)
    assert kept.write(saved(*names(0)).to_bytes()).share == 0.5
    assert kept.begun == {}
    assert told[0].startswith("A checkpoint is missing: ")


def test_those_equally_far_make_batches_of_their_own() -> None:
    grid = {"experiment": "toy", "axes": {"target": ["near", "far"]}, "fixed": {"size": 1000}}
    sweep = load_sweep({"name": "toys", "question": "?", "grids": [grid], "seeds": 40}, fakes.CATALOGUE)
    plan = make_plan(sweep, fakes.CATALOGUE, {})
    begun = {cell.id: Begun("first", 0.75) for cell in plan.cells[10:30]} | {
        cell.id: Begun("second", 0.5) for cell in plan.cells[35:55]
    }

    def cut(**settings: Any) -> Sequence[Any]:
        return make_batches(plan, fakes.CATALOGUE.experiments, workers=2, memory_bytes=2**40, begun=begun, **settings)

    for batches in (cut(), cut(cells_per_batch=16)):
        assert sorted(cell.id for batch in batches for cell in batch.cells) == sorted(cell.id for cell in plan.cells)
        for batch in batches:
            (already,) = {begun.get(cell.id) for cell in batch.cells}
            padded = 16 * math.ceil(len(batch.cells) / 16)
            left = 1 - already.share if already else 1.0
            assert batch.seconds == pytest.approx(padded * left)  # a second for each cell
    console = Console(file=io.StringIO(), width=120)
    console.print(plan_view(plan, cut(), 2, 0, "results", len(begun)))
    assert "40 cells go on from a checkpoint" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_long_batch_shows_how_far_it_is() -> None:
    tally = Tally(cells=64, work=100.0)
    assert "on the first batch" in _line(tally)
    tally.under_way["a"] = 20.0
    tally.started -= 60
    assert "0 of 64 cells · 20% done · 4 min 00 s left" in _line(tally)
    tally.statuses.update({"ok": 32})
    tally.add(tally.statuses - tally.statuses, "a", 50.0)
    assert tally.share == 0.5
    assert "cells/min" in _line(tally)
    assert "%" not in _line(tally)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (7.6, "8 s"),
        (59.6, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (11_400, "3 h 10 min"),
    ],
)
def test_a_duration_is_rounded_before_it_is_split(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_status_tells_of_a_run_that_has_no_record_yet(tmp_path: Path) -> None:
    folder = tmp_path / "toys"
    with pytest.raises(NoResultsError):
        lookup.status("toys", tmp_path)
    write_text(folder / SWEEP, "name: toys")
    assert lookup.status("toys", tmp_path)["records"] == 0
    CheckpointFolder(folder, "1.2.3").write(saved(*names(0, 1)).to_bytes())
    assert lookup.status("toys", tmp_path)["in training, with a checkpoint"] == 2
    with pytest.raises(NoResultsError):
        lookup.summary("toys", tmp_path)


def counting(cells: Sequence[Any], device: str, checkpoints: Any = None) -> list[Any]:
    """Trains for 10 steps, notes each, and raises once after the sixth."""
    found = checkpoints.find(cells)
    for step in range(int(found["step"][0]) if found else 0, 10):
        with Path("steps").open("a") as file:
            file.write(f"{step} ")
        if step == 5 and not Path("raised").exists():
            Path("raised").touch()
            raise MemoryError
        if checkpoints.due():
            checkpoints.keep(cells, (step + 1) / 10, {"step": np.full(len(cells), step + 1)})
    return list(fakes.run_batch(cells, device))


def test_a_batch_that_is_cut_goes_on_from_its_checkpoint_when_it_runs_again(tmp_path: Path) -> None:
    kept = CheckpointFolder(tmp_path, "1.2.3")

    class Keeper:
        def read(self, batch: Any) -> list[bytes]:
            return kept.read(cell.id for cell in batch.cells)

        def write(self, batch: Any, file: bytes) -> None:
            kept.write(file)

    experiments = {"toy": replace(fakes.TOY, run_batch=counting)}
    executor = InlineExecutor(experiments, replace(suite.CONTEXT, checkpoint_seconds=0.0), Keeper())
    (batch,) = suite.batches(suite.cells(1), 1)
    with executor:
        (first,) = executor.run([batch])
        (again,) = executor.run([batch])
    assert first.table["status"].to_pylist() == ["failed"]
    assert again.table["status"].to_pylist() == ["ok"]
    assert Path("steps").read_text() == "0 1 2 3 4 5 5 6 7 8 9 "


DRIVER = """
import sys
from pathlib import Path
from runner import Options, load_sweep, run
from runner.progress import Terminal
from rich.console import Console
options = Options(results=Path(sys.argv[1]), executor="inline", mlflow="off", checkpoint_seconds=0.3)
run(load_sweep(Path("long.yaml")), options, Terminal(Console()))
"""

LONG = """
name: long
question: Does a killed training go on?
grids:
  - experiment: vae
    axes: {target: [bimodal], kl_weight: [0.5, 1.0]}
    fixed: {steps: 6000, hidden: [8], batch_size: 64}
  - experiment: kl_fit
    axes: {target: [bimodal], divergence: [forward_kl]}
    fixed: {steps: 40000, samples: 16}
seeds: 3
"""


@pytest.mark.slow
def test_a_driver_killed_in_training_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "long.yaml").write_text(LONG)

    def start(results: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DRIVER, results]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    whole = start("whole")
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    assert "% done" in said
    for _ in range(3):
        driver, before = start("killed"), _files(tmp_path / "killed" / "long")
        deadline = time.monotonic() + 120
        while _files(tmp_path / "killed" / "long") <= before:
            assert time.monotonic() < deadline
            assert driver.poll() is None
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    last = start("killed")
    said, _ = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert "cells go on from where an earlier run left their training" in said
    assert _files(tmp_path / "killed" / "long") == set()
    unlike = ["fit_seconds", "worker", "finished_at", "batch_id"]  # of cells alone
    for table in ("cells", "curves", "samples", "modes"):
        one, other = (
            pd.read_parquet(tmp_path / name / "long" / f"{table}.parquet").drop(columns=unlike, errors="ignore")
            for name in ("whole", "killed")
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def _files(folder: Path) -> set[tuple[str, int]]:
    """The checkpoints that are there, each with when it was written."""
    found = set()
    for path in (folder / "checkpoints").glob("*.npz"):
        try:
            found.add((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return found
