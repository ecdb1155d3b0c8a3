"""The Tune executor: the suite under one shared Ray, lost workers, and a child process with its own Ray."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest

from experiments.experiment import Outcome
from runner.batch import Batch, Resources
from runner.errors import ExecutorError
from runner.executors import Executor, setup
from runner.executors.tune import TuneExecutor
from runner.store.checkpoints import CheckpointFolder
from tests.runner import fakes
from tests.suites import executors as suite

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    """A Ray that the executor finds in its process; it believes in a GPU, to show how GPUs are assigned."""
    setup.set_environment(private=True)
    import ray

    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    assert ray.is_initialized(), "an executor stopped a Ray that it had not started"
    ray.shutdown()


@pytest.fixture(scope="module")
def tune(running_ray: None) -> Iterator[TuneExecutor]:
    with TuneExecutor(suite.EXPERIMENTS, suite.CONTEXT, workers=2) as executor:
        yield executor


class TestTune(suite.ExecutorSuite):
    @pytest.fixture
    def executor(self, tune: TuneExecutor) -> Executor:
        return tune


def test_a_lost_worker_costs_only_the_cell_that_keeps_killing_it(running_ray: None, tmp_path: Path) -> None:
    mark = tmp_path / "died"

    def mortal(cells: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
        if any(cell.seed == 3 for cell in cells) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return fakes.run_batch(cells, device)

    # Defined in a function, where no worker could import it, so it travels by value.
    experiments = {"toy": replace(fakes.TOY, run_batch=mortal)}
    asked = suite.cells(8, {5: "kill"})
    with TuneExecutor(experiments, suite.CONTEXT, workers=2) as executor:
        found = suite.rows(executor.run(suite.batches(asked, 2)))
    assert mark.exists()
    killed = found.pop("toy-0005")
    assert killed["status"] == "failed"
    assert killed["error"].startswith("worker died")
    assert suite.same(found, suite.alone([cell for cell in asked if cell.seed != 5]))


def test_training_goes_on_from_its_checkpoint_after_its_worker_died(running_ray: None, tmp_path: Path) -> None:
    def trained(cells: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
        found = checkpoints.find(cells)
        for step in range(int(found["step"][0]) if found else 0, 6):
            with (tmp_path / "steps").open("a") as file:
                file.write(f"{len(cells)}:{step} ")
            if step == 3 and len(cells) > 1:
                while len(list(tmp_path.glob("kept-*"))) < 3:  # what is on its way when a worker dies may come too late
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            if checkpoints.due():
                checkpoints.keep(cells, (step + 1) / 6, {"step": np.full(len(cells), step + 1)})
        return fakes.run_batch(cells, device)

    kept = CheckpointFolder(tmp_path, suite.CONTEXT.code_digest)

    class Keeper:
        def read(self, batch: Batch) -> list[bytes]:
            return kept.read(cell.id for cell in batch.cells)

        def write(self, batch: Batch, file: bytes) -> None:
            assert [cell.id for cell in batch.cells] == list(kept.write(file).cells)
            (tmp_path / f"kept-{len(list(tmp_path.glob('kept-*')))}").touch()

    experiments, asked = {"toy": replace(fakes.TOY, run_batch=trained)}, suite.cells(2)
    context = replace(suite.CONTEXT, checkpoint_seconds=0.0)
    with TuneExecutor(experiments, context, checkpoints=Keeper(), workers=1) as executor:
        found = suite.rows(executor.run(suite.batches(asked, 2)))
    assert suite.same(found, suite.alone(asked))
    assert (tmp_path / "steps").read_text() == "2:0 2:1 2:2 2:3 1:3 1:4 1:5 1:3 1:4 1:5 "


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="counts the heaps of glibc")
def test_the_threads_of_a_worker_share_one_heap(running_ray: None, tmp_path: Path) -> None:
    def heaps(cells: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        told = tmp_path / f"{os.getpid()}-{cells[0].seed}.xml"
        stream = ctypes.c_void_p(libc.fopen(bytes(told), b"w"))
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        return fakes.run_batch(cells, device)

    experiments = {"toy": replace(fakes.TOY, run_batch=heaps)}
    with TuneExecutor(experiments, suite.CONTEXT, workers=2) as executor:
        assert len(suite.rows(executor.run(suite.batches(suite.cells(8), 1)))) == 8
    assert [told.read_text().count("<heap nr=") for told in tmp_path.iterdir()] == [1] * 8


def test_ray_tells_of_its_nodes_as_haste_asks_for_them(running_ray: None) -> None:
    import ray
    from ray._private import services
    from ray._raylet import GcsClient

    here = ray.get_runtime_context()
    assert here.get_node_id() in {node.hex() for node in GcsClient(address=here.gcs_address).get_all_node_info()}
    assert services.get_node(here.gcs_address, here.get_node_id())["node_id"] == here.get_node_id()


def test_each_batch_gets_the_gpu_it_asks_for(running_ray: None, tmp_path: Path) -> None:
    import torch

    def seen(batch: Sequence[Any], device: str, checkpoints: Any = None) -> Sequence[Any]:
        (tmp_path / str(batch[0].seed)).write_text(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {device}")
        return fakes.TOY.run_batch(batch, device)

    cells = suite.cells(4)
    asked = [
        *suite.batches(cells[:2], 1, resources=Resources(cpu=1, gpu=0.5)),
        *suite.batches(cells[2:3], 1, resources=Resources(cpu=2)),
        *suite.batches(cells[3:], 1, resources=Resources(cpu=0)),
    ]
    with TuneExecutor({"toy": replace(fakes.TOY, run_batch=seen)}, suite.CONTEXT) as executor:
        assert executor.gpus == 1
        devices = {r.table["seed"][0].as_py(): r.table["device"][0].as_py() for r in executor.run(asked)}
    # Ray gives one away where torch cannot use it: the CPU then does the work.
    used = "cuda" if torch.cuda.is_available() else "cpu"
    assert devices == {0: used, 1: used, 2: "cpu", 3: "cpu"}
    given = {int(told.name): told.read_text() for told in tmp_path.iterdir()}
    assert given[0] == given[1] == f"0 {used}"
    assert not any(given[k].startswith("0") for k in (2, 3))


def test_a_batch_that_fits_nowhere_is_refused(tune: TuneExecutor) -> None:
    asked = suite.batches(suite.cells(1), 1, resources=Resources(cpu=64))
    with pytest.raises(ExecutorError, match=r"experiment 'toy' asks for 64 CPU, but Ray has 2\."):
        list(tune.run(asked))


def test_a_worker_that_cannot_run_batches_ends_the_run(tune: TuneExecutor) -> None:
    with pytest.raises(ExecutorError, match="surprise"):
        list(tune.run(suite.batches(suite.cells(6, experiment="undeclared"), 2)))


CHILD = """
import signal
import ray  # as in a notebook, where modesweep comes too late to set Ray's environment
from runner.executors import open_executor
from tests.suites import executors as suite
signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
asked = suite.batches(suite.cells(400, dict.fromkeys(range(4, 400), "slow")), 4)
with open_executor("tune", suite.EXPERIMENTS, suite.CONTEXT, workers=2) as executor:
    try:
        for result in executor.run(asked):
            print(result.batch.id, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def child(tmp_path: Path) -> subprocess.Popen[str]:
    """A driver with a Ray of its own, in a home folder that does not exist."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    environment |= {"HOME": str(tmp_path / "nowhere"), "TMPDIR": str(tmp_path), "MARK": str(tmp_path)}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def listening(driver: int) -> set[str]:
    """The addresses at which a process, or one that it started, can be reached."""
    found = set()
    for process in (psutil.Process(driver), *psutil.Process(driver).children(recursive=True)):
        with suppress(psutil.Error):
            found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def left_behind(tmp_path: Path) -> list[str]:
    """Command lines of the processes that a child started, directly or not, and that still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={tmp_path}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads the process table")
def test_a_private_ray_keeps_to_itself_and_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    driver = child(tmp_path)
    assert driver.stdout is not None
    assert driver.stdout.readline().strip() in {"b0", "b1"}
    reached = {ipaddress.ip_address(address.removeprefix("::ffff:")) for address in listening(driver.pid)}
    assert reached
    assert all(address.is_loopback for address in reached), reached
    assert left_behind(tmp_path)
    # The program's own handler is in charge, not Ray's.
    driver.terminate()
    assert "asked to end\n" in driver.stdout
    # A terminal sends Ctrl-C to every process of the group.
    os.killpg(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 0
    assert out.splitlines()[-1] == "interrupted"
    assert err == ""
    for _ in range(100):
        if not left_behind(tmp_path):
            break
        time.sleep(0.1)
    assert left_behind(tmp_path) == []
    assert [f.name for f in tmp_path.iterdir()] == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379", "ray://127.0.0.1:10001"])
def test_an_address_where_no_cluster_answers(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    executor = TuneExecutor(suite.EXPERIMENTS, suite.CONTEXT, address=address)
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ExecutorError, match="^No Ray cluster at '" + address) as caught, executor:
        list(executor.run(suite.batches(suite.cells(1), 1)))
    assert "--address" in str(caught.value)
    executor.close()


def test_a_ray_that_cannot_be_imported_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a user without a home, in which Tune looks for a folder when it is imported."""
    monkeypatch.setattr("importlib.import_module", Mock(side_effect=RuntimeError("no home directory.")))
    executor = TuneExecutor(suite.EXPERIMENTS, suite.CONTEXT, workers=1)
    with executor, pytest.raises(ExecutorError, match="could not be started: RuntimeError: no home directory"):
        assert executor.gpus
