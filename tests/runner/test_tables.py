from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import Field

from experiments.experiment import Metric, Params
from runner import provenance
from runner.errors import StoreError
from runner.planning import Cell
from runner.record import to_table
from runner.store import reading, tables
from runner.store.manifest import read_manifest, write_manifest
from runner.store.shards import write_shard
from runner.store.tables import Counts, write_tables
from runner.store.targets import write_targets
from tests.runner.fakes import TOY, ToyParams, mixture
from tests.runner.made import START, cell, records

NUISANCE = {"toy": ("rate",)}


def compact(folder: Path, ids: list[str], **options: Any) -> Counts:
    return write_tables(folder, ids, sweep="made", nuisance=NUISANCE, **options)


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[Path, list[Cell]]:
    """Twelve cells in shuffled batches, one of them diverged, one failed, one failed and then ok."""
    folder = tmp_path / "made"
    cells = [cell(i, seed=i % 3, rate=[0.5, 2.0][i // 3 % 2], mode="diverge" if i == 4 else "fine") for i in range(12)]
    order = np.random.default_rng(0).permutation(12)
    for number, chosen in enumerate(np.array_split(order, 4)):
        write_shard(folder, records([cells[i] for i in chosen if i not in (7, 9)], batch=f"b{number}"))
    write_shard(folder, records([cells[7], cells[9]], minute=1, failed=True))
    write_shard(folder, records([cells[9]], minute=2))
    write_shard(folder, records([cell(99)], batch="other"))
    return folder, cells


def test_cells_are_those_of_the_plan_in_its_order(sweep: tuple[Path, list[Cell]]) -> None:
    folder, cells = sweep
    ids = [c.id for c in reversed(cells)]
    counts = compact(folder, [*ids, "f" * 16])
    assert counts == Counts(cells=13, ok=10, diverged=1, failed=1, timeout=0, missing=1, other=1)
    frame = reading.read_cells(folder)
    assert list(frame["cell_id"]) == ids
    assert list(frame["seed"]) == [c.seed for c in reversed(cells)]
    assert list(frame["rate"]) == [c.params.rate for c in reversed(cells)]
    status = dict(zip(frame["cell_id"], frame["status"], strict=True))
    assert {name: s for name, s in status.items() if s != "ok"} == {
        cells[4].id: "diverged",
        cells[7].id: "failed",
    }
    assert frame.set_index("cell_id").loc[cells[7].id, "error"] == "RuntimeError: boom"


def test_every_column_is_typed_and_described(sweep: tuple[Path, list[Cell]]) -> None:
    folder, cells = sweep
    compact(folder, [c.id for c in cells])
    for name in ("cells", "curves", "modes", "samples", "summary"):
        layout = pq.read_schema(folder / f"{name}.parquet")
        assert all(f.metadata[b"role"] and b"unit" in f.metadata for f in layout)
        assert all(f.metadata[b"meaning"] for f in layout)
        assert not any(pa.types.is_null(f.type) for f in layout)
        assert layout.metadata[b"sweep"] == b"made"
        assert layout.metadata[b"modesweep_version"]
        assert pq.read_metadata(folder / f"{name}.parquet").row_group(0).column(0).compression == "ZSTD"
    for name in ("cells", "summary"):
        layout = pq.read_schema(folder / f"{name}.parquet")
        assert json.loads(layout.metadata[b"nuisance"]) == {"toy": ["rate"]}
        assert json.loads(layout.metadata[b"objective"]) == {"toy": "loss"}
        assert {"curves", "modes", "q_samples"}.isdisjoint(layout.names)


def test_nested_columns_become_rows(sweep: tuple[Path, list[Cell]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the outcomes themselves; in one chunk in the plan's order, in several the same rows."""
    folder, cells = sweep
    done = [c for c in cells if c.id != cells[7].id]
    outcomes = {c.id: TOY.run_batch([c], "cpu")[0] for c in done}
    compact(folder, [c.id for c in cells])
    curves, modes, samples = (read(folder) for read in (reading.read_curves, reading.read_modes, reading.read_samples))
    assert list(curves["cell_id"].unique()) == [c.id for c in done]
    for c in done:
        outcome = outcomes[c.id]
        curve = curves[curves["cell_id"] == c.id]
        assert list(curve["step"]) == [1, 50, 100]
        assert list(curve["value"]) == list(outcome.curves["loss"])
        mode = modes[modes["cell_id"] == c.id]
        assert list(mode["mode"]) == [0, 1]
        assert list(mode["captured"]) == [True, False]
        np.testing.assert_array_equal(mode["log_width"], [0.0, np.nan])
        draws = samples[samples["cell_id"] == c.id]
        assert list(draws["draw"]) == list(range(5))
        assert outcome.samples is not None
        np.testing.assert_array_equal(draws["x0"], outcome.samples[:, 0].astype(np.float32))
    one = reading.read_curves(folder, cell_ids=[cells[0].id])
    assert one.equals(curves[curves["cell_id"] == cells[0].id])
    monkeypatch.setattr(tables, "CHUNK", 1)
    compact(folder, [c.id for c in cells])
    assert pq.read_metadata(folder / "curves.parquet").num_row_groups > 1
    again = reading.read_curves(folder, cell_ids=[cells[0].id, "of no cell"])
    pd.testing.assert_frame_equal(again, one.reset_index(drop=True), check_exact=True)
    assert list(reading.read_modes(folder, cell_ids=[]).columns) == list(modes.columns)
    for before, after in ((curves, reading.read_curves(folder)), (modes, reading.read_modes(folder))):
        keys = [name for name in ("cell_id", "mode", "step") if name in before]
        pd.testing.assert_frame_equal(
            before.sort_values(keys, ignore_index=True), after.sort_values(keys, ignore_index=True)
        )


class OtherParams(Params):
    width: int = 3
    rate: int = Field(1, description="of change")
    size: str = "small"


OTHER = replace(
    TOY,
    name="other",
    params=OtherParams,
    metrics=(Metric("elbo", "nats", "bound", "higher"),),
    objective="elbo",
)


def test_two_experiments_and_dimensions_share_the_tables(tmp_path: Path) -> None:
    toy = cell(0)
    other = Cell("a" * 16, "k", "other", OtherParams(target="plane"), mixture("plane", 1.0, dim=2), 0)
    outcome = replace(TOY.run_batch([toy], "cpu")[0], metrics={"elbo": 1.5}, samples=np.arange(6.0).reshape(3, 2))
    write_shard(tmp_path, records([toy]))
    extra = {
        "batch_id": "z",
        "seconds": 1.0,
        "device": "cpu",
        "worker": "w",
        "code_version": "v",
        "finished_at": START,
    }
    write_shard(tmp_path, to_table(OTHER, "made", [other], [outcome], **extra))
    compact(tmp_path, [other.id, toy.id])
    table = pq.read_table(tmp_path / "cells.parquet")
    kinds = {f.name: (f.type, f.metadata[b"role"]) for f in table.schema}
    assert kinds["rate"] == (pa.float64(), b"parameter")
    assert kinds["size"] == (pa.string(), b"parameter")
    assert kinds["width"] == (pa.int64(), b"parameter")
    assert kinds["elbo"] == (pa.float64(), b"metric")
    meant = {name: table.schema.field(name).metadata[b"meaning"].decode() for name in table.column_names}
    assert meant["rate"] == "other: of change; toy: what coverage and sharpness follow"
    assert meant["target"] == Params.model_fields["target"].description
    assert meant["size"] == "cells of one size share a batch"
    roles = [f.metadata[b"role"] for f in table.schema]
    order = [b"identity", b"parameter", b"label", b"metric", b"fit", b"provenance"]
    assert list(dict.fromkeys(roles)) == order
    parameters = [f.name for f in table.schema if f.metadata[b"role"] == b"parameter"]
    assert parameters == ["target", "width", "rate", "size", "mode", "hidden", "flag"]
    frame = reading.read_cells(tmp_path)
    assert (str(frame["width"].dtype), str(frame["flag"].dtype)) == ("Int64", "boolean")
    assert str(frame["seed"].dtype) == "int64"
    first, second = table.to_pylist()
    assert (first["width"], first["elbo"], first["loss"], first["hidden"]) == (3, 1.5, None, None)
    assert (second["width"], second["elbo"], second["hidden"], second["size"]) == (None, None, "[4, 4]", "2")
    samples = reading.read_samples(tmp_path)
    assert list(samples.columns) == ["cell_id", "draw", "x0", "x1"]
    assert samples[samples["cell_id"] == other.id][["x0", "x1"]].to_numpy().tolist() == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    assert samples[samples["cell_id"] == toy.id]["x1"].isna().all()
    assert json.loads(table.schema.metadata[b"objective"]) == {"toy": "loss", "other": "elbo"}
    assert len(reading.read_summary(tmp_path)) == 2


def test_a_column_of_newer_code_is_null_in_older_records(tmp_path: Path) -> None:
    newer = replace(TOY, metrics=(*TOY.metrics, Metric("extra", "", "added later")))
    extra = {"batch_id": "z", "seconds": 1.0, "device": "cpu", "worker": "w", "code_version": "v"}
    outcome = TOY.run_batch([cell(1)], "cpu")[0]
    outcome = replace(outcome, metrics={**outcome.metrics, "extra": 2.5})
    write_shard(tmp_path, records([cell(0)]))
    write_shard(tmp_path, to_table(newer, "made", [cell(1)], [outcome], **extra))
    compact(tmp_path, [cell(0).id, cell(1).id])
    frame = reading.read_cells(tmp_path)
    np.testing.assert_array_equal(frame["extra"], [np.nan, 2.5])
    assert frame["coverage"].notna().all()


def test_what_newer_code_says_of_a_column_holds_for_older_records_too(tmp_path: Path) -> None:
    class Silent(ToyParams):
        rate: float = 1.0

    old = replace(TOY, params=Silent)
    extra = {"seconds": 1.0, "device": "cpu", "worker": "w", "code_version": "v"}
    for number, batch, experiment in ((0, "a", old), (1, "b", TOY), (2, "c", old)):
        outcomes = TOY.run_batch([cell(number)], "cpu")
        write_shard(tmp_path, to_table(experiment, "made", [cell(number)], outcomes, batch_id=batch, **extra))
    compact(tmp_path, [cell(number).id for number in range(3)])
    layout = pq.read_schema(tmp_path / "cells.parquet")
    assert layout.field("rate").metadata[b"meaning"] == b"what coverage and sharpness follow"


def test_samples_can_be_left_out(sweep: tuple[Path, list[Cell]]) -> None:
    folder, cells = sweep
    compact(folder, [c.id for c in cells])
    assert (folder / "samples.parquet").exists()
    compact(folder, [c.id for c in cells], samples=False)
    assert not (folder / "samples.parquet").exists()
    with pytest.raises(StoreError, match="does not exist"):
        reading.read_samples(folder)


def test_coordinates_that_a_target_does_not_have_are_null(tmp_path: Path) -> None:
    write_targets(tmp_path, [mixture("plane", 1.0, dim=2), mixture("line", 1.0)], n=3)
    table = pq.read_table(tmp_path / "targets.parquet")
    assert table["target"].to_pylist() == ["plane"] * 3 + ["line"] * 3
    assert table["draw"].to_pylist() == [0, 1, 2] * 2
    assert [value is None for value in table["x0"].to_pylist()] == [False] * 6
    assert [value is None for value in table["x1"].to_pylist()] == [False] * 3 + [True] * 3


def test_only_failures_and_no_records_at_all(tmp_path: Path) -> None:
    assert compact(tmp_path, ["a"]) == Counts(1, 0, 0, 0, 0, missing=1, other=0)
    write_shard(tmp_path, records([cell(0), cell(1)], failed=True))
    ids = [f"{i:016x}" for i in range(2)]
    assert compact(tmp_path, ids) == Counts(2, 0, 0, failed=2, timeout=0, missing=0, other=0)
    assert len(reading.read_cells(tmp_path)) == 2
    assert len(reading.read_curves(tmp_path)) == 0
    assert reading.read_summary(tmp_path).loc[0, "n_failed"] == 2
    assert compact(tmp_path, ["f" * 16]).other == 2
    assert len(reading.read_cells(tmp_path)) == 0
    assert len(reading.read_summary(tmp_path)) == 0


def test_a_damaged_shard_costs_its_own_cells_only(sweep: tuple[Path, list[Cell]]) -> None:
    folder, cells = sweep
    path = write_shard(folder, records([cell(50)], batch="bad"))
    path.write_bytes(path.read_bytes()[:100])
    told: list[str] = []
    counts = compact(folder, [*(c.id for c in cells), f"{50:016x}"], report=told.append)
    assert (counts.missing, len(told)) == (1, 1)


@pytest.mark.parametrize("set_aside", [True, False])
def test_a_shard_whose_metrics_are_damaged_gives_way_to_older_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_aside: bool
) -> None:
    """Its identifiers can be read, so that it is found out only when the cells are written."""
    if not set_aside:  # as where the records' folder cannot be written

        def refuse(path: Path, name: Path) -> None:
            raise PermissionError(path)

        monkeypatch.setattr(Path, "rename", refuse)
    older, newer = (records([cell(0), cell(i)], minute=i) for i in (1, 2))
    write_shard(tmp_path, older)
    path = write_shard(tmp_path, newer)
    layout = pq.read_metadata(path)
    column = next(c for i in range(layout.num_columns) if (c := layout.row_group(0).column(i)).path_in_schema == "loss")
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 0xFF
    path.write_bytes(content)
    told: list[str] = []
    counts = compact(tmp_path, [cell(i).id for i in range(3)], report=told.append)
    assert (counts.ok, counts.missing) == (2, 1)
    assert all(f"{path} is damaged" in sentence for sentence in told)
    assert list(reading.read_cells(tmp_path)["finished_at"]) == older["finished_at"].to_pylist()
    assert path.exists() is not set_aside


def test_cells_are_the_same_in_however_many_pieces_they_are_written(
    sweep: tuple[Path, list[Cell]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards' rows are shuffled, so that pieces are made of several and shards lie in several."""
    folder, cells = sweep
    ids = [c.id for c in cells]
    counts = compact(folder, ids)
    whole = pq.read_table(folder / "cells.parquet"), reading.read_summary(folder)
    monkeypatch.setattr(tables, "ROWS", 5)
    assert compact(folder, ids) == counts
    assert pq.read_metadata(folder / "cells.parquet").num_row_groups == 3
    pieces = pq.read_table(folder / "cells.parquet")
    assert pieces.schema.equals(whole[0].schema, check_metadata=True)
    pd.testing.assert_frame_equal(pieces.to_pandas(), whole[0].to_pandas(), check_exact=True)
    pd.testing.assert_frame_equal(reading.read_summary(folder), whole[1], check_exact=True)


def test_sweeps_are_found_by_name_or_path(sweep: tuple[Path, list[Cell]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cells = sweep
    compact(folder, [c.id for c in cells])
    assert len(reading.read_cells("made", folder.parent)) == 12
    assert len(reading.read_cells(str(folder))) == 12
    with pytest.raises(StoreError, match=r"Did you mean 'made'\?.*Next: run its YAML file first\."):
        reading.read_cells("maed", folder.parent)
    monkeypatch.chdir(folder)
    assert [reading.find_folder(here) for here in (".", Path())] == [folder, folder]
    assert reading.find_folder(Path("../made")) == Path("../made")
    with pytest.raises(StoreError, match="A path is that of a folder with"):
        reading.find_folder("..")
    (folder / "cells.parquet").write_bytes(b"x")
    with pytest.raises(StoreError, match="cannot be read"):
        reading.read_cells(folder)


def test_a_folder_here_never_hides_one_in_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("here/one", "here/two", "results/one"):
        (tmp_path / folder / "records").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert reading.find_folder("one", "../results") == Path("../results/one")
    assert reading.find_folder("./one", "../results") == Path("one")
    with pytest.raises(StoreError, match=r"The folder \./two is meant only by its path\."):
        reading.find_folder("two", "../results")
    assert reading.find_folder(Path("two"), "../results") == Path("two")


def test_the_manifest_keeps_earlier_runs(tmp_path: Path) -> None:
    held = replace(provenance.collect(["modesweep", "run", "x", "--tracking-uri", "http://u:pw@h"]))
    start = datetime(2030, 1, 1, tzinfo=UTC)
    for run in range(3):
        counts = Counts(cells=9, ok=3 * (run + 1), diverged=0, failed=0, timeout=0, missing=6 - 3 * run, other=0)
        began = start + timedelta(hours=run)
        write_manifest(
            tmp_path,
            "x",
            held,
            counts,
            started=began,
            finished=began + timedelta(seconds=90),
            settings={"executor": "inline", "results": tmp_path},
            targets={"ring": "0a1b"},
        )
    manifest = read_manifest(tmp_path)
    assert manifest["counts"]["ok"] == 9
    assert manifest["wall_seconds"] == 90
    assert manifest["settings"]["executor"] == "inline"
    assert "pw" not in json.dumps(manifest["command"])
    assert [run["counts"]["ok"] for run in manifest["earlier_runs"]] == [3, 6]
    (tmp_path / "manifest.json").write_text("{")
    assert read_manifest(tmp_path) == {}
