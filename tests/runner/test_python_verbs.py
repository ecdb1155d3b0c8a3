"""The verbs of the command line, from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import runner
from runner import api
from runner.errors import SweepError

MINE = """
name: mine
question: How much does each divergence keep?
grids:
  - experiment: kl_fit
    axes: {target: [mine], divergence: [forward_kl, reverse_kl]}
    fixed: {steps: 200, init: "mode:0"}
seeds: 2
targets:
  mine: {weights: [0.7, 0.3], means: [[-3.0], [3.0]], covariances: [[[1.0]], [[0.5]]]}
"""


def test_a_sweep_is_planned_run_and_read_back(tmp_path: Path) -> None:
    sweep = runner.load_sweep(MINE)
    options = runner.Options(results=tmp_path, executor="inline", mlflow="off")
    assert len(runner.plan(sweep, options).todo) == 4

    report = runner.run(sweep, options)
    assert report.all_ok
    assert len(runner.plan(sweep, options).todo) == 0
    coverage = runner.read_cells("mine", tmp_path).groupby("divergence").coverage.mean()
    assert coverage["forward_kl"] > 0.95
    assert coverage["reverse_kl"] < 0.8


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"executor": "bogus"}, "executor: expected 'tune' or 'inline', got 'bogus'"),
        ({"mlflow": "bogus"}, "mlflow: expected 'cells' or 'groups' or 'off' or None, got 'bogus'"),
        ({"workers": 0}, "workers: expected a whole number of at least 1, got 0"),
        ({"workers": 2.5}, "workers: expected a whole number of at least 1, got 2.5"),
        ({"cells_per_batch": 0}, "cells_per_batch: expected a whole number of at least 1, got 0"),
        ({"cells_per_batch": True}, "cells_per_batch: expected a whole number of at least 1, got True"),
        ({"max_cells": None}, "max_cells: expected a whole number of at least 1, got None"),
        ({"results": None}, "results: expected the path of a folder, got None"),
        ({"cell": 5}, "cell: expected text or nothing, got 5"),
        ({"tracking_uri": Path("a.db")}, f"tracking_uri: expected text or nothing, got {Path('a.db')!r}"),
        ({"checkpoint_seconds": "x"}, "checkpoint_seconds: expected a number from 0 on, got 'x'"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds: expected a number from 0 on, got nan"),
    ],
)
def test_options_are_checked_before_anything_starts(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SweepError) as refused:
        runner.Options(**given)
    assert str(refused.value) == told


def test_options_take_text_and_numpys_numbers() -> None:
    options = runner.Options(results="small", workers=np.int64(2))  # type: ignore[arg-type]
    assert (options.results, options.workers, type(options.workers)) == (Path("small"), 2, int)


def test_a_sweep_is_given_by_name_by_path_or_as_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    whole = runner.plan(runner.load_sweep(yaml.safe_load(MINE)))
    assert [cell.id for cell in runner.plan(tmp_path / "mine.yaml").cells] == [cell.id for cell in whole.cells]
    assert runner.plan("smoke").sweep.name == "smoke"


def test_the_verbs_are_functions_whatever_was_imported_before() -> None:
    """A module of a verb's name would hide it as soon as it is imported."""
    code = "import runner.driver, runner.api, runner; print(*(callable(getattr(runner, v)) for v in runner.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"True"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("runner", {"torch", "pandas", "pyarrow", "pydantic"}),
        ("runner.driver", {"torch", "pandas", "matplotlib", "ray", "mlflow"}),  # which starts Ray and MLflow
        ("runner.lookup", {"torch", "pandas", "matplotlib", "ray", "mlflow"}),  # which answers `status`
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*{heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_parameters_are_listed_with_what_they_may_be() -> None:
    columns, listed = api.listing("experiments")
    assert columns == ("experiment", "parameter", "default", "allowed", "meaning")
    assert ("vae", "latent_dim", "2", "int >= 1 <= 256", "dimensions of z, whose prior is N(0, I)") in listed
    rows = {row[:2]: row[2:4] for row in listed}
    assert rows["kl_fit", "init_loc"] == ("None", "float")
    assert rows["kl_fit", "optimizer"] == ("adam", "adam sgd")
    assert rows["kl_fit", "standardise"] == ("True", "bool")
    assert rows["kl_fit", "alpha"] == ("None", "float >= -10 <= 10")
    assert rows["vae", "hidden"][1].startswith("list of int >= 1")
    assert not [row for row in rows.values() if "Annotated" in row[1] or "(g" in row[1]]
