"""Records as runs, without MLflow: names, times, histories, and what is left out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experiments.experiment import Outcome
from runner.record import Failure
from runner.store.sweep_file import about
from runner.tracking.configurations import Configurations
from runner.tracking.rows import latest
from runner.tracking.runs import Point, cell_runs
from runner.tracking.sweep_folder import note
from tests.runner.tracking_cases import SWEEP, make_cells, make_folder, make_table

AXES = {"toy": ("rate", "target")}


@given(
    losses=hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(width=64)),
    final=st.floats(width=64) | st.none(),
    seconds=st.floats(0.0, 1e5),
)
def test_the_final_value_is_the_latest_whatever_the_curve(
    losses: np.ndarray, final: float | None, seconds: float
) -> None:
    (cell,) = make_cells(1)
    metrics = {} if final is None else {"loss": final}
    outcome = Outcome(curve_steps=np.arange(len(losses)) * 10, curves={"loss": losses}, metrics=metrics)
    table = make_table([cell], {cell.id: outcome})
    spent = pa.array([seconds], pa.float64())
    at = table.schema.get_field_index("fit_seconds")
    (run,) = cell_runs(table.set_column(at, table.schema.field(at), spent), AXES)
    points = [p for p in run.metrics if p.name == "loss"]
    finite = [value for value in losses if math.isfinite(value)]
    assert [p.value for p in points][: len(finite)] == finite
    if final is not None and math.isfinite(final):
        (newest,) = latest(points)
        assert newest.value == final
        assert len(points) == len(finite) + 1
    else:
        assert len(points) == len(finite)
    assert all(run.start <= p.timestamp <= run.end for p in points)
    assert [p.timestamp for p in points] == sorted(p.timestamp for p in points)
    assert run.start < run.end


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0])), min_size=1))
def test_latest_is_the_greatest_step_then_time_then_value(entries: list[tuple[int, int, float]]) -> None:
    points = [Point("m", value, timestamp, step) for step, timestamp, value in entries]
    (newest,) = latest(points)
    assert (newest.step, newest.timestamp, newest.value) == max(entries)


def test_a_run_is_named_by_what_varies() -> None:
    cells = make_cells(4)
    runs = cell_runs(make_table(cells), {"toy": ("rate", "target", "flag")})
    assert runs[0].name == "near rate=0.1 flag=False seed 0"
    assert runs[3].name == "far rate=1.1 flag=True seed 1"
    assert cell_runs(make_table(cells), {})[0].name == "near seed 0"


def test_long_texts_are_cut_to_what_mlflow_keeps() -> None:
    (cell,) = make_cells(1)
    (run,) = cell_runs(make_table([cell], {cell.id: Failure("failed", "x" * 10_000)}), AXES)
    assert len(run.tags["error"]) == 8000
    assert run.status == "FAILED"


def test_a_cell_without_curves_or_metrics() -> None:
    (cell,) = make_cells(1)
    (run,) = cell_runs(make_table([cell], {cell.id: Failure("timeout", "too slow")}), AXES)
    assert list(run.metrics) == []
    assert run.params["seed"] == "0"
    assert run.tags["status"] == "timeout"


def test_later_records_have_later_revisions() -> None:
    cells = make_cells(1)
    times = [-100.0, 0.0, 1e-6, 0.5, 654.321, 1e5, 1e7]
    revisions = [cell_runs(make_table(cells, later=t), AXES)[0].revision for t in times]
    assert revisions == sorted(revisions)
    assert len(set(revisions)) == len(times)


@pytest.mark.parametrize("seeds", [0, 2])
def test_configurations_wait_for_their_seeds(seeds: int) -> None:
    cells = make_cells(6)
    tables = [make_table([cells[i]], later=float(i)) for i in (0, 2, 3, 1, 4)]
    groups = Configurations(seeds, AXES)
    given_at = [[run.key for run in groups.add(table)] for table in tables]
    one, two, three = (cells[i].configuration_id for i in (0, 2, 4))
    assert given_at == ([[], [], [two], [one], []] if seeds else [[]] * 5)
    left = groups.flush(lambda: iter(tables))
    assert {run.key for run in left} == ({three} if seeds else {one, two, three})
    assert groups.flush(lambda: iter(tables)) == left


def test_a_retried_cell_renews_its_whole_configuration() -> None:
    cells = make_cells(2)
    first = make_table(cells, {cells[0].id: Failure("failed", "boom")})
    again = make_table(cells[:1], later=60.0)
    groups = Configurations(2, AXES)
    (before,) = groups.add(first)
    assert groups.add(again) == []
    (after,) = groups.flush(lambda: iter([first, again]))
    counts = [{p.name: p.value for p in run.metrics if p.name in ("n", "n_ok")} for run in (before, after)]
    assert counts == [{"n": 2, "n_ok": 1}, {"n": 2, "n_ok": 2}]
    assert (before.status, after.status) == ("FAILED", "FINISHED")
    assert after.revision > before.revision


def test_a_folder_says_what_varies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path, [])
    text = """
name: made
question: why?
grids:
  - experiment: toy
    axes: {target: [near], rate: [1, 2]}
    fixed: {size: 3}
    nuisance: {hidden: [[4], [8]]}
  - experiment: toy
    axes: {target: [near]}
    fixed: {size: 4, flag: true}
    cases: [{mode: fine}]
seeds: [3, 5, 8]
"""
    (folder / "sweep.yaml").write_text(text)
    said = about(folder)
    assert said.seeds == 3
    assert set(said.axes["toy"]) == {"rate", "size", "hidden", "mode"}
    (folder / "sweep.yaml").write_text(SWEEP)
    assert (about(folder).seeds, set(about(folder).axes["toy"])) == (2, {"target", "rate"})
    copy = folder.rename(tmp_path / "copy")
    assert about(copy).name == "made"
    (copy / "sweep.yaml").write_text("name: folded\nquestion: >\n  why?\n  how?\n")
    assert note(about(copy), copy, None).startswith("**why? how?**\n\n")
    (copy / "sweep.yaml").write_text("name: [")
    assert about(copy).name == "copy"
    (copy / "sweep.yaml").unlink()
    monkeypatch.chdir(copy)
    assert about(copy).name == about(Path()).name == "copy"
    assert "| a |" in note(said, folder, "| a |")
    assert "**why?**" in note(said, folder, None)
