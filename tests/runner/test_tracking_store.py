"""Export into real sqlite stores, read back by MLflow's own client and, for whole stores, table by table."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.store.db.utils import _get_latest_schema_revision

from experiments.experiment import Outcome
from runner.errors import TrackingError
from runner.provenance import Git, Provenance
from runner.record import Failure
from runner.store.shards import shard_paths, write_shard
from runner.tracking import mlflow_store, mlflow_tables
from runner.tracking.export import Export, export
from runner.tracking.location import Location, locate
from runner.tracking.request import ExportReport, Mode, Request, provenance_tags
from tests.runner.tracking_cases import EXPERIMENT, copy_store, dump, make_cells, make_folder, make_table


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("store") / "template.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Location:
    folder = tmp_path / "r %41?#ö 2"
    copy_store(template, folder / "mlflow.db")
    return locate(None, folder)


@pytest.fixture
def by_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_tables, "VERIFIED_SCHEMAS", frozenset())


ways = pytest.mark.parametrize("way", ["rows", "client"])


@pytest.fixture
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "client":
        request.getfixturevalue("by_client")
    return str(request.param)


def run_export(folder: Path, store: Location, mode: Mode = "cells", **more: object) -> ExportReport:
    return export(Request(folder, store, mode, **more))  # type: ignore[arg-type]


def children(store: Location, name: str = "made", kind: str = "cell") -> dict[str, MlflowRun]:
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name(name)
    found = client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'", max_results=10_000)
    key = "cell_id" if kind == "cell" else "configuration_id"
    assert len({run.data.tags[key] for run in found}) == len(found)
    return {run.data.tags[key]: run for run in found}


def parents(store: Location, name: str = "made") -> list[MlflowRun]:
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name(name)
    return list(client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'"))


PARAMS = ("target", "rate", "size", "mode", "hidden", "flag", "seed")
METRICS = [f.name for f in make_table(make_cells(1)).schema if f.metadata[b"role"] == b"metric"]


def check_equal(store: Location, table: pa.Table) -> None:
    """Every record is a run whose params, metrics, histories and tags say the same, to the last bit."""
    client, runs = MlflowClient(store.uri), children(store)
    for row in table.to_pylist():
        run = runs[row["cell_id"]]
        curves = row["curves"] or []
        finite = {name: row[name] for name in METRICS if row[name] is not None and math.isfinite(row[name])}
        seen = {p["metric"] for p in curves if math.isfinite(p["value"])}
        assert set(run.data.metrics) == set(finite) | seen
        assert {name: run.data.metrics[name] for name in finite} == finite
        for name in seen:
            history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            wanted = [(p["step"], p["value"]) for p in curves if p["metric"] == name and math.isfinite(p["value"])]
            wanted += [(max(p["step"] for p in curves), finite[name])] if name in finite else []
            assert sorted(history) == sorted(wanted)
        for name in set(finite) - seen:
            (point,) = client.get_metric_history(run.info.run_id, name)
            assert (point.step, point.value) == (0, finite[name])
        assert run.data.params == {name: str(row[name]) for name in PARAMS}
        for tag in (
            "cell_id",
            "configuration_id",
            "status",
            "experiment",
            "batch_id",
            "code_version",
            "sweep",
        ):
            assert run.data.tags[tag] == row[tag]
        assert run.data.tags.get("shape") == row["shape"]
        assert run.data.tags.get("error") == row["error"]
        assert run.info.end_time == int(row["finished_at"].timestamp() * 1000)
        assert run.info.end_time - run.info.start_time == max(1, round(1000 * row["fit_seconds"]))
        assert run.info.status == ("FINISHED" if row["status"] == "ok" else "FAILED")


def test_bulk_rows_are_verified_for_the_installed_mlflow() -> None:
    """When MLflow's schema moves on, look at the new one, run this file with it, then add its revision."""
    assert _get_latest_schema_revision() in mlflow_tables.VERIFIED_SCHEMAS


@ways
def test_runs_say_what_the_records_say(way: str, store: Location, tmp_path: Path) -> None:
    cells = make_cells(9)
    failures = {cells[2].id: Failure("failed", "RuntimeError: \"odd\" text\nin two lines: 'é'")}
    tables = [make_table(cells[:5], failures), make_table(cells[5:], later=3.0)]
    report = run_export(make_folder(tmp_path, tables), store)
    assert (report.cells, report.written, report.problems) == (9, 9, ())
    for table in tables:
        check_equal(store, table)
    (parent,) = parents(store)
    assert {run.data.tags["mlflow.parentRunId"] for run in children(store).values()} == {parent.info.run_id}
    assert parent.info.status == "FAILED"
    assert "What does each rate keep?" in parent.data.tags["mlflow.note.content"]
    assert children(store)[cells[2].id].info.run_name == "far rate=1.1 seed 0"


def test_both_ways_make_equal_stores(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = make_cells(12)
    tables = [
        make_table(cells[:7], {cells[1].id: Failure("timeout", "t" * 9000), cells[3].id: Outcome()}),
        make_table(cells[7:], later=60.0),
    ]
    folder = make_folder(tmp_path, tables)
    tags = {"mlflow.user": "jo", "mlflow.source.git.commit": "abc"}
    dumps = []
    for way in ("rows", "client"):
        if way == "client":
            monkeypatch.setattr(mlflow_tables, "VERIFIED_SCHEMAS", frozenset())
        database = tmp_path / way / "mlflow.db"
        run_export(folder, locate(copy_store(template, database), tmp_path), tags=tags)
        dumps.append(dump(database))
    rows, client = dumps
    assert rows.keys() == client.keys()
    for name in rows:
        assert rows[name] == client[name], name
    assert len(rows["runs"]) == 13
    assert len(rows["metrics"]) > 200


@ways
def test_repeating_an_export_changes_nothing(way: str, store: Location, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [make_table(make_cells(6))])
    run_export(folder, store)
    assert store.database
    before, ids = dump(store.database), {key: run.info.run_id for key, run in children(store).items()}
    assert run_export(folder, store).written == 0
    assert dump(store.database) == before
    assert {key: run.info.run_id for key, run in children(store).items()} == ids
    assert len(parents(store)) == 1
    write_shard(folder, make_table(make_cells(4, first=6), later=5.0))
    assert run_export(folder, store).written == 4
    assert len(children(store)) == 10
    assert len(parents(store)) == 1


@ways
def test_a_retried_cell_has_one_run_with_the_new_result(way: str, store: Location, tmp_path: Path) -> None:
    cells = make_cells(4)
    diverged = Outcome(status="diverged", error="loss is nan", metrics={"coverage": 0.25, "gap": 7.0})
    first = make_table(cells, {cells[0].id: Failure("failed", "boom"), cells[1].id: diverged})
    folder = make_folder(tmp_path, [first])
    run_export(folder, store)
    assert children(store)[cells[0].id].data.tags["error"] == "boom"
    again = make_table(cells[:2], later=100.0)
    write_shard(folder, again)
    assert run_export(folder, store).written == 2
    assert len(children(store)) == 4
    check_equal(store, again)
    check_equal(store, first.slice(2))
    assert "error" not in children(store)[cells[0].id].data.tags
    assert parents(store)[0].info.status == "FINISHED"


@ways
def test_the_newest_record_wins_in_any_order_of_shards(way: str, store: Location, tmp_path: Path) -> None:
    cells = make_cells(2)
    old, new = make_table(cells, draw=1), make_table(cells, later=9.0, draw=2)
    run_export(make_folder(tmp_path, [new, old]), store)
    check_equal(store, new)
    assert len(children(store)) == 2


@pytest.mark.parametrize("last_call", ["create_run", "log_batch", "set_terminated"])
def test_an_export_killed_in_the_middle_is_completed_by_the_next(
    by_client: None, store: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_call: str
) -> None:
    table = make_table(make_cells(5))
    folder = make_folder(tmp_path, [table])
    calls = []
    true_call = getattr(MlflowClient, last_call)

    def die_after_three(self: MlflowClient, *args: object, **kwargs: object) -> object:
        made = true_call(self, *args, **kwargs)
        calls.append(made)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(MlflowClient, last_call, die_after_three)
    with pytest.raises(KeyboardInterrupt):
        run_export(folder, store)
    monkeypatch.undo()
    monkeypatch.setattr(mlflow_tables, "VERIFIED_SCHEMAS", frozenset())
    assert 0 < len(children(store)) < 5
    run_export(folder, store)
    assert len(children(store)) == 5
    check_equal(store, table)


def test_an_mlflow_whose_tables_are_elsewhere_is_spoken_to_through_its_client(
    store: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(make_cells(3))
    monkeypatch.setattr(mlflow_store, "mlflow_tables", None)
    run_export(make_folder(tmp_path, [table]), store)
    check_equal(store, table)


def test_a_failed_transaction_leaves_no_half_batch(
    store: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(make_cells(5))
    folder = make_folder(tmp_path, [table])
    true_rows = mlflow_tables.rows
    monkeypatch.setattr(mlflow_tables, "rows", lambda *args: {**true_rows(*args), "latest_metrics": [{"key": None}]})
    with pytest.raises(TrackingError, match=r"modesweep export made"):
        run_export(folder, store)
    assert children(store) == {}
    monkeypatch.undo()
    run_export(folder, store)
    check_equal(store, table)


@ways
def test_surplus_runs_of_a_cell_are_deleted(way: str, store: Location, tmp_path: Path) -> None:
    """A request that is repeated after a lost answer makes a run twice."""
    table = make_table(make_cells(3))
    folder = make_folder(tmp_path, [table])
    run_export(folder, store)
    client = MlflowClient(store.uri)
    tags = {"kind": "cell", "cell_id": make_cells(1)[0].id, "finished_at": "2024-05-17T08:30:12.345678Z"}
    client.create_run(client.get_experiment_by_name("made").experiment_id, tags=tags)
    run_export(folder, store)
    assert len(children(store)) == 3
    check_equal(store, table)


def test_another_schema_is_written_through_the_client(by_client: None, store: Location, tmp_path: Path) -> None:
    session = mlflow_store.open_session(store, "made", "cell", {})
    assert not session.bulk


@ways
def test_configurations(way: str, store: Location, tmp_path: Path) -> None:
    cells = make_cells(6)
    failed = {cells[5].id: Failure("failed", "boom")}
    folder = make_folder(tmp_path, [make_table(cells[:3]), make_table(cells[3:], failed, later=1.0)])
    assert run_export(folder, store, "groups").written == 3
    runs = children(store, kind="configuration")
    rows = pa.concat_tables([make_table(cells[:3]), make_table(cells[3:], failed)]).to_pylist()
    for i in range(3):
        run, pair = (
            runs[cells[2 * i].configuration_id],
            [row for row in rows[2 * i : 2 * i + 2] if not row["error"]],
        )
        mean = sum(row["coverage"] for row in pair) / len(pair)
        assert run.data.metrics["coverage_mean"] == pytest.approx(mean, rel=1e-12)
        assert run.data.metrics["n"] == 2
        assert run.data.metrics["n_ok"] == len(pair)
        if len(pair) == 2:  # Student's t with one degree of freedom is Cauchy's
            half = math.tan(math.pi * 0.475) * abs(pair[0]["coverage"] - pair[1]["coverage"]) / 2
            assert run.data.metrics["coverage_ci_high"] == pytest.approx(mean + half, rel=1e-9)
        else:
            assert "coverage_ci_high" not in run.data.metrics
        assert "seed" not in run.data.params
        assert run.info.status == ("FINISHED" if len(pair) == 2 else "FAILED")
    assert run_export(folder, store, "groups").written == 0
    write_shard(folder, make_table(cells[5:], later=50.0))
    assert run_export(folder, store, "groups").written == 1
    renewed = children(store, kind="configuration")
    assert renewed[cells[5].configuration_id].data.metrics["n_ok"] == 2
    assert len(renewed) == 3


def test_an_incomplete_configuration_is_written_although_the_first_attempt_fails(
    store: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = Export(Request(make_folder(tmp_path, [make_table(make_cells(1))]), store, "groups"))
    export.advance()
    with monkeypatch.context() as patch, pytest.raises(TrackingError, match="busy"):
        patch.setattr(mlflow_store, "write", Mock(side_effect=TrackingError("busy")))
        export.end("KILLED")
    assert export.end("KILLED").written == 1
    assert len(children(store, kind="configuration")) == 1


def test_only_the_planned_cells_are_exported(store: Location, tmp_path: Path) -> None:
    cells = make_cells(6)
    folder = make_folder(tmp_path, [make_table(cells)])
    progress: list[tuple[int, int]] = []
    request = Request(folder, store, cells=[cell.id for cell in cells[:4]])
    export(request, lambda done, total: progress.append((done, total)))
    assert set(children(store)) == {cell.id for cell in cells[:4]}
    assert progress[-1] == (4, 4)
    assert parents(store)[0].info.status == "FINISHED"


def test_cells_of_an_earlier_plan_are_kept_and_counted(store: Location, tmp_path: Path) -> None:
    cells = make_cells(6)
    folder = make_folder(tmp_path, [make_table(cells)])
    assert export(Request(folder, store, cells=[cell.id for cell in cells[:4]])).others == 0
    report = export(Request(folder, store, cells=[cell.id for cell in cells[2:]]))
    assert (report.cells, report.written, report.others) == (4, 2, 2)
    assert len(children(store)) == 6


def test_the_parent_has_tables_and_provenance(store: Location, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [make_table(make_cells(2))])
    for name in ("cells.parquet", "report.html", "figures/map.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    git = Git("f00ba4", "main", True)
    where = Provenance("0.1.0", "0.1.0", git, "3.11", "Linux", "x86", 2, "host", "jo", "modesweep run made", {})
    export(Request(folder, store, tags=provenance_tags(where)), table="| rate | coverage |")
    run_export(folder, store)
    (parent,) = parents(store)
    assert "| rate | coverage |" in parent.data.tags["mlflow.note.content"]
    client = MlflowClient(store.uri)
    paths = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert paths == {"sweep.yaml", "cells.parquet", "report.html", "figures"}
    assert client.list_artifacts(parent.info.run_id, "figures")[0].path == "figures/map.png"
    got = client.download_artifacts(parent.info.run_id, "figures/map.png", str(tmp_path))
    assert Path(got).read_bytes() == b"figures/map.png"
    for run in (parent, *children(store).values()):
        assert run.data.tags["mlflow.source.git.commit"] == "f00ba4"
        assert run.data.tags["mlflow.user"] == "jo"
        assert run.info.user_id == "jo"
        assert run.data.tags["mlflow.source.git.dirty"] == "true"
    assert str(tmp_path) in parent.info.artifact_uri


def test_a_deleted_experiment_is_named_with_the_way_back(store: Location, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [make_table(make_cells(2))])
    run_export(folder, store)
    client = MlflowClient(store.uri)
    client.delete_experiment(client.get_experiment_by_name("made").experiment_id)
    with pytest.raises(TrackingError, match="mlflow experiments restore --experiment-id"):
        run_export(folder, store)


def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, but long enough to be looked at as one" * 100)
    folder = make_folder(tmp_path, [make_table(make_cells(2))])
    with pytest.raises(TrackingError, match=r"notes\.db could not be written: .*not a database"):
        run_export(folder, locate(f"sqlite:///{tmp_path / 'notes.db'}", tmp_path))


def test_a_writer_in_the_way_is_waited_for(store: Location, tmp_path: Path) -> None:
    table = make_table(make_cells(4))
    folder = make_folder(tmp_path, [table])
    run_export(folder, store)
    write_shard(folder, make_table(make_cells(4, first=4)))
    assert store.database
    other = sqlite3.connect(store.database, check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(1.0, other.execute, ("COMMIT",))
    release.start()
    try:
        run_export(folder, store)
    finally:
        release.join()
        other.close()
    assert len(children(store)) == 8


def test_two_exports_at_once_make_each_run_once(store: Location, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [make_table(make_cells(4, first=i)) for i in range(0, 40, 4)])
    threads = [threading.Thread(target=run_export, args=(folder, store)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(children(store)) == 40
    assert len(parents(store)) == 1


@ways
def test_a_run_larger_than_one_request(way: str, store: Location, tmp_path: Path) -> None:
    import numpy as np

    (cell,) = make_cells(1)
    steps = np.arange(2500)
    outcome = Outcome(curve_steps=steps, curves={"loss": np.sqrt(steps)}, metrics={"loss": -1.0})
    run_export(make_folder(tmp_path, [make_table([cell], {cell.id: outcome})]), store)
    (run,) = children(store).values()
    history = MlflowClient(store.uri).get_metric_history(run.info.run_id, "loss")
    assert len(history) == 2501
    assert run.data.metrics["loss"] == -1.0


def test_nothing_to_export_yet(store: Location, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [])
    assert shard_paths(folder) == []
    assert run_export(folder, store).cells == 0
    assert EXPERIMENT.name == "toy"
    assert time.time() * 1000 >= parents(store)[0].info.end_time
