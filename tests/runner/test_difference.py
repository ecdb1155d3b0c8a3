"""Two sweeps side by side, against differences taken by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import runner
from runner import lookup
from runner.difference import differences
from runner.errors import StoreError
from runner.store.reading import read_table

SWEEP = """
name: {name}
grids:
  - experiment: kl_fit
    axes: {{target: [bimodal, trimodal], divergence: [forward_kl, reverse_kl]}}
    fixed: {{steps: {steps}, samples: 32, init: "mode:0"}}
seeds: {seeds}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    options = runner.Options(results=folder, executor="inline", mlflow="off")
    for name, steps, seeds in (("short", 20, 3), ("long", 60, 4), ("again", 60, 2)):
        runner.run(runner.load_sweep(SWEEP.format(name=name, steps=steps, seeds=seeds)), options)
    return folder


def test_differences_are_paired_by_seed(results: Path) -> None:
    (part,) = lookup.compare_sweeps("short", "long", results)
    assert part.settings == ("steps: 20 in A, 60 in B",)
    assert part.axes == ("target", "divergence")
    assert part.identical == (0, 0)
    a, b = (runner.read_cells(name, results).query("seed < 3") for name in ("short", "long"))
    for row in part.rows.to_dict("records"):
        where = f"target == '{row['target']}' and divergence == '{row['divergence']}'"
        first, second = (frame.query(where).set_index("seed")["reverse_kl"] for frame in (a, b))
        by_seed = second - first
        assert row["n"] == 3
        assert row["reverse_kl"] == pytest.approx(by_seed.mean(), rel=1e-12)
        assert row["reverse_kl_half"] == pytest.approx(4.302652729911275 * by_seed.std() / np.sqrt(3), rel=1e-9)


def test_equal_cells_are_recognised(results: Path) -> None:
    (part,) = lookup.compare_sweeps("long", "again", results)
    assert part.settings == ()
    assert part.identical == (8, 8)
    assert (part.rows[list(part.measures)] == 0).all(axis=None)


def test_a_changed_number_is_noticed(results: Path, tmp_path: Path) -> None:
    table = read_table("cells", "again", results)
    frame = table.to_pandas()
    frame.loc[0, "coverage"] += 1e-15 + 2 * np.spacing(frame.loc[0, "coverage"])
    changed = table.set_column(
        table.column_names.index("coverage"), table.schema.field("coverage"), [pd.array(frame["coverage"]).to_numpy()]
    )
    (part,) = differences(table, changed)
    assert part.identical == (7, 8)


def test_a_number_that_both_lack_is_the_same(results: Path) -> None:
    table = read_table("cells", "again", results)
    at, field = table.column_names.index("coverage"), table.schema.field("coverage")
    values = pa.array([None, np.nan, *table["coverage"].to_pylist()[2:]], from_pandas=False)
    lacking = table.set_column(at, field, values)
    assert differences(lacking, lacking)[0].identical == (8, 8)
    assert differences(table, lacking)[0].identical == differences(lacking, table)[0].identical == (6, 8)


def test_pairs_of_which_one_is_not_ok_are_counted_and_no_more(results: Path) -> None:
    a, b = (read_table("cells", name, results) for name in ("short", "long"))
    lost = pc.and_(pc.equal(b["target"], "bimodal"), pc.greater(b["seed"], 0))
    lost = pc.or_(lost, pc.equal(b["divergence"], "reverse_kl"))
    status = pc.if_else(lost, "diverged", b["status"])
    b = b.set_column(b.column_names.index("status"), b.schema.field("status"), status)
    (part,) = differences(a, b)
    assert part.axes == ("target", "divergence")
    assert [row[-1] for row in part.texts(9)[1]] == ["1 of 3", "0 of 3", "3", "0 of 3"]
    assert part.rows["reverse_kl"].isna().tolist() == [False, True, False, True]
    assert differences(b, b)[0].identical == (5, 5)


PAIR = """
name: {name}
targets:
  pair: {{weights: [0.5, 0.5], means: [[-{half}], [{half}]], covariances: [[[1.0]], [[1.0]]]}}
grids:
  - experiment: kl_fit
    fixed: {{target: pair, divergence: forward_kl, steps: 20, samples: 32}}
  - experiment: kl_fit
    fixed: {{target: bimodal, divergence: forward_kl, steps: 20, samples: 32}}
seeds: 2
"""


def test_that_a_name_stands_for_two_targets_is_said(tmp_path: Path) -> None:
    options = runner.Options(results=tmp_path, executor="inline", mlflow="off")
    for name, half in (("near", 2.0), ("far", 3.0), ("near2", 2.0)):
        runner.run(runner.load_sweep(PAIR.format(name=name, half=half)), options)
    (part,) = lookup.compare_sweeps("near", "far", tmp_path)
    assert part.settings == ("target pair: one in A, another in B",)
    (part,) = lookup.compare_sweeps("near", "near2", tmp_path)
    assert part.settings == ()
    # Its draws, which pictures show, are not needed for that.
    without = replace(options, samples=False)
    runner.run(runner.load_sweep(PAIR.format(name="near2", half=3.0)), without)
    assert not (tmp_path / "near2" / "targets.parquet").exists()
    (part,) = lookup.compare_sweeps("near", "near2", tmp_path)
    assert part.settings == ("target pair: one in A, another in B",)


def test_nothing_in_common_is_said(results: Path) -> None:
    with pytest.raises(StoreError, match="absent"):
        lookup.compare_sweeps("short", "absent", results)


def test_that_no_cell_has_its_pair_is_said(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner import cli

    options = runner.Options(results=results, executor="inline", mlflow="off")
    runner.run(runner.load_sweep(SWEEP.format(name="others", steps=20, seeds="[7, 8]")), options)
    monkeypatch.setattr("sys.argv", ["modesweep", "compare", "long", "others", "--results", str(results)])
    with pytest.raises(SystemExit):
        cli.main()
    told = " ".join(capsys.readouterr().out.split())
    assert told == (
        "kl_fit: B - A: nothing to compare, as no configuration was run with the same seed in both "
        "steps: 60 in A, 20 in B"
    )


def test_the_command(results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from runner import cli

    for json_ in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["modesweep", "compare", "short", "long", "--results", str(results), *json_])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
    table, _, last = capsys.readouterr().out.rpartition("\n[")
    assert "kl_fit: B - A" in table
    assert "steps: 20 in A, 60 in B" in table
    assert len(json.loads(f"[{last}")[0]["rows"]) == 4
