"""The installed command, real workers, a real MLflow store and real files, from a sweep file to pandas."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient

pytestmark = [pytest.mark.slow, pytest.mark.alone]

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-P", "-m", "runner.cli"]
NOT_COMPARED = ["fit_seconds", "worker", "batch_id", "finished_at", "device", "code_version"]

MINE = """
name: mine
question: What is kept of mixtures in one, two and ten dimensions, and of points?
grids:
  - experiment: kl_fit
    axes: {target: [line, plane, ten], divergence: [forward_kl, reverse_kl], family: [gaussian_full, gaussian_diagonal]}
    fixed: {steps: 300, samples: 64}
  - experiment: kl_fit
    axes: {target: [eruptions, points]}
    fixed: {divergence: forward_kl, steps: 300}
  - experiment: vae
    axes: {target: [line, plane, ten, points], kl_weight: [0.1, 1]}
    fixed: {latent_dim: 2, steps: 50, hidden: [16], standardise: true}
seeds: 3
targets:
  line: {weights: [0.7, 0.3], means: [[-3.0], [3.0]], covariances: [[[1.0]], [[0.5]]]}
  plane: {weights: [0.5, 0.5], means: [[-2, 0], [2, 1]], covariances: [[[1, 0.3], [0.3, 1]], [[1, 0], [0, 0.2]]]}
  ten:
    weights: [0.5, 0.5]
    means: [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]]
    standard_deviations: [[1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]]
  points: {file: points.csv, columns: [x, y]}
"""


def modesweep(*arguments: str, folder: Path, code: int = 0) -> str:
    """Run the command in a folder; its standard output."""
    environment = os.environ | {"COLUMNS": "120"}
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def numbers(folder: Path, sweep: str) -> dict[str, pd.DataFrame]:
    """Everything that a sweep found out, without how and when."""
    tables = {
        name: pd.read_parquet(folder / sweep / f"{name}.parquet") for name in ("cells", "curves", "modes", "samples")
    }
    tables["cells"] = tables["cells"].drop(columns=NOT_COMPARED)
    return tables


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.yaml").write_text(MINE)
    for name in ("experiments", "runner"):  # a user's own packages, which no process may take for modesweep's
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    draws = np.random.default_rng(3).normal(size=(300, 2)) * [1.0, 20.0] + [0.0, 100.0]
    pd.DataFrame(draws, columns=["x", "y"]).to_csv(folder / "points.csv", index=False)
    modesweep("run", "mine.yaml", "--results", "tune", folder=folder)
    return folder


def test_tables_and_mlflow_say_the_same(mine: Path) -> None:
    cells = pd.read_parquet(mine / "tune" / "mine" / "cells.parquet").set_index("cell_id")
    assert len(cells) == 36 + 6 + 24
    assert set(cells["status"]) == {"ok"}

    def runs() -> tuple[str, dict[str, Any]]:
        client = MlflowClient(f"sqlite:///{mine}/tune/mlflow.db")
        experiment = client.get_experiment_by_name("mine")
        found = client.search_runs([experiment.experiment_id], max_results=1000)
        (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
        assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
        return parent.info.run_id, {run.data.tags["cell_id"]: run for run in children}

    parent, children = runs()
    assert set(children) == set(cells.index)
    for id_, run in children.items():
        for name, value in run.data.metrics.items():
            if name in cells:
                assert value == cells.loc[id_, name], name
        assert run.data.metrics["coverage"] == cells.loc[id_, "coverage"]
        assert run.data.params["target"] == cells.loc[id_, "target"]

    again = json.loads(modesweep("run", "mine.yaml", "--results", "tune", "--json", folder=mine))
    assert again["ran"] == {}
    assert runs()[0] == parent
    assert set(runs()[1]) == set(children)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_no_number_depends_on_executor_or_batch(mine: Path, size: int) -> None:
    name = f"inline{size}"
    options = ["--executor", "inline", "--cells-per-batch", str(size), "--mlflow", "off", "--results", name]
    modesweep("run", "mine.yaml", *options, folder=mine)
    expected = numbers(mine / "tune", "mine")
    for table, found in numbers(mine / name, "mine").items():
        pd.testing.assert_frame_equal(found, expected[table], check_exact=True)


def test_changing_one_axis_runs_only_the_new_cells(mine: Path) -> None:
    options = ["--results", "tune", "--executor", "inline", "--json"]
    more = json.loads(modesweep("plan", "mine.yaml", "--set", "kl_weight=0.1,1,10", *options, folder=mine))
    assert (more["cells"], more["todo"]) == (36 + 6 + 36, 12)


def test_results_come_in_the_data_s_own_units(mine: Path) -> None:
    cells = pd.read_parquet(mine / "tune" / "mine" / "cells.parquet").query("experiment == 'kl_fit'")
    points = pd.read_csv(mine / "points.csv")
    (mean, *_), (covariance, *_) = (cells[cells["target"] == "points"][c] for c in ("q_mean", "q_covariance"))
    assert mean == pytest.approx(points.mean().to_numpy(), rel=0.02, abs=0.05)
    assert np.reshape(covariance, (2, 2)) == pytest.approx(np.cov(points.T, bias=True), rel=0.05, abs=0.5)


def test_killed_and_run_again(tmp_path: Path) -> None:
    """SIGKILL takes the driver; what had finished counts, and the rest runs to the same numbers."""
    options = ["--executor", "inline", "--cells-per-batch", "2", "--results"]
    driver = subprocess.Popen([*COMMAND, "run", "smoke", *options, "killed"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    records = tmp_path / "killed" / "smoke" / "records"
    deadline = time.monotonic() + 120
    while len(list(records.glob("*.parquet"))) < 3:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    left = json.loads(modesweep("plan", "smoke", "--results", "killed", "--json", folder=tmp_path))["todo"]
    assert 0 < left <= 10
    again = json.loads(modesweep("run", "smoke", *options, "killed", "--json", folder=tmp_path))
    assert again["ran"] == {"ok": left}
    modesweep("run", "smoke", *options, "whole", "--mlflow", "off", folder=tmp_path)
    expected = numbers(tmp_path / "whole", "smoke")
    for table, found in numbers(tmp_path / "killed", "smoke").items():
        pd.testing.assert_frame_equal(found, expected[table], check_exact=True)


@pytest.mark.parametrize("after", [3.0, 20.0])
def test_interrupted_under_ray(after: float, tmp_path: Path) -> None:
    """Ctrl-C while Ray starts, and while batches run: exit code 130, how to continue, no process left."""
    command = [*COMMAND, "run", "smoke", "--cells-per-batch", "2", "--set", "steps=100000"]
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(after)
    started = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=120)[0]
    assert driver.returncode == 130, said
    assert "to continue: modesweep run smoke" in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []


def test_a_wheel_runs_anywhere(tmp_path: Path) -> None:
    """Built, installed into an environment without this repository, run from another folder."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    # The dependencies of the environment that runs the tests, but not the repository installed in it.
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(installed))
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(packages), str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    script = [str(environment / "bin" / "python"), "-c", "from runner.cli import main; main()"]
    where = [str(environment / "bin" / "python"), "-c", "import runner; print(runner.__file__)"]
    assert str(packages) in subprocess.run(where, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    arguments = ["run", "smoke", "--executor", "inline", "--mlflow", "off", "--json"]
    done = subprocess.run([*script, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["counts"]["ok"] == 16
    assert len(pd.read_parquet(tmp_path / "results" / "smoke" / "cells.parquet")) == 16
