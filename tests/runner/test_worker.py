"""The worker: threads, splitting, and what a failed record says."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.experiment import Outcome
from runner import worker
from runner.checkpoint import Origin, Saved
from tests.runner import fakes
from tests.runner.fakes import TOY
from tests.suites.executors import CONTEXT, batches, cells


@given(st.data())
def test_halving_finds_exactly_the_cells_that_raise(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40))
    bad = data.draw(st.sets(st.integers(0, count - 1)))
    calls = []

    def counted(stack: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
        calls.append(len(stack))
        return fakes.run_batch(stack, device)

    (batch,) = batches(cells(count, dict.fromkeys(bad, "raise")), count)
    table = worker.run(replace(TOY, run_batch=counted), batch, CONTEXT)
    assert {seed for seed in range(count) if table["status"][seed].as_py() == "failed"} == bad
    assert table["seed"].to_pylist() == list(range(count))
    # Every bad cell costs at most the two halves on each level above it.
    assert len(calls) <= 1 + 2 * len(bad) * (count - 1).bit_length()


def test_too_few_outcomes_are_a_failure_of_the_batch() -> None:
    (batch,) = batches(cells(3), 3)
    table = worker.run(replace(TOY, run_batch=lambda stack, device, checkpoints: []), batch, CONTEXT)
    assert set(table["status"].to_pylist()) == {"failed"}
    assert "0 outcomes for 1 cells" in table["error"][2].as_py()


def test_an_interrupt_is_not_a_failed_cell() -> None:
    def interrupted(stack: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
        raise KeyboardInterrupt

    (batch,) = batches(cells(3), 3)
    with pytest.raises(KeyboardInterrupt):
        worker.run(replace(TOY, run_batch=interrupted), batch, CONTEXT)


def test_the_halves_run_after_the_failed_attempt_has_let_go_of_its_memory() -> None:
    import gc
    import weakref

    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []

    def hungry(stack: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
        assert all(ref() is None for ref in held)
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        if len(stack) > 1:
            raise MemoryError
        return fakes.run_batch(stack, device)

    (batch,) = batches(cells(4), 4)
    gc.disable()
    try:
        table = worker.run(replace(TOY, run_batch=hungry), batch, CONTEXT)
    finally:
        gc.enable()
    assert set(table["status"].to_pylist()) == {"ok"}


def test_running_out_of_memory_halves_the_stack_until_it_fits() -> None:
    tried = []

    def limited(stack: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
        tried.append(len(stack))
        if len(stack) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return fakes.run_batch(stack, device)

    (batch,) = batches(cells(16), 16)
    table = worker.run(replace(TOY, run_batch=limited), batch, CONTEXT)
    assert set(table["status"].to_pylist()) == {"ok"}
    assert tried == [16, 8, 4, 4, 8, 4, 4]
    assert table["coverage"].equals(worker.run(TOY, batch, CONTEXT)["coverage"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_runs_out_of_memory_gets_smaller_stacks() -> None:
    tried = []

    def large(stack: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
        tried.append(len(stack))
        torch.empty(len(stack) << 28, dtype=torch.uint8, device=device)  # 256 MB for each cell
        return fakes.run_batch(stack, "cpu")

    (batch,) = batches(cells(16), 16)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.5e9 / torch.cuda.mem_get_info()[1])
    try:
        table = worker.run(replace(TOY, run_batch=large), batch, CONTEXT, "cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert set(table["status"].to_pylist()) == {"ok"}
    assert set(table["device"].to_pylist()) == {"cuda"}
    assert tried == [16, 8, 4, 4, 8, 4, 4]


@pytest.mark.parametrize(("free", "sizes"), [(10**9, [16]), (6250, [5, 5, 5, 1]), (1, [1] * 16)])
def test_a_stack_on_a_gpu_fits_into_what_is_free(monkeypatch: pytest.MonkeyPatch, free: int, sizes: list[int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (worker.CUDA_LIBRARIES + free, 2 * 10**9))
    seen = []

    def noted(stack: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
        seen.append(len(stack))
        return fakes.run_batch(stack, "cpu")

    (batch,) = batches(cells(16), 16)
    experiment = replace(
        TOY, run_batch=noted, bytes_of_stack=lambda params, target, cells, device: 1000 * cells * (device == "cuda")
    )
    table = worker.run(experiment, batch, CONTEXT, "cuda")
    assert seen == sizes
    assert set(table["status"].to_pylist()) == {"ok"}


def test_a_gpu_in_error_fails_its_cells_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    monkeypatch.setattr(torch.cuda, "empty_cache", broken)
    (batch,) = batches(cells(3), 3)
    table = worker.run(replace(TOY, run_batch=broken), batch, CONTEXT, "cuda")
    assert set(table["status"].to_pylist()) == {"failed"}
    assert table["error"][0].as_py().startswith("RuntimeError: CUDA error")
    assert set(worker.run(TOY, batch, CONTEXT, "cuda")["status"].to_pylist()) == {"ok"}


def test_a_checkpoint_is_of_the_device_that_trained() -> None:
    found, sent = [], []

    def keeping(stack: Sequence[Any], device: str, checkpoints: Any = None) -> list[Outcome]:
        found.append(checkpoints.find(stack) is not None)
        checkpoints.keep(stack, 0.5, {})
        return fakes.run_batch(stack, "cpu")

    (batch,) = batches(cells(2), 2)
    toy = replace(TOY, run_batch=keeping)
    for device in ("cuda", "cuda", "cpu"):
        worker.run(toy, batch, CONTEXT, device, held=sent[-1:], send=sent.append)
    assert found == [False, True, False]
    origins = [Saved.read(io.BytesIO(file)).origin for file in sent]
    assert origins == [Origin(CONTEXT.code_digest, device) for device in ("cuda", "cuda", "cpu")]


def test_records_of_a_lost_worker() -> None:
    (batch,) = batches(cells(2), 2)
    table = worker.failed(TOY, batch, CONTEXT, "worker died")
    assert table.select(["cell_id", "status", "error", "sweep"]).to_pylist() == [
        {"cell_id": c.id, "status": "failed", "error": "worker died", "sweep": "suite"} for c in batch.cells
    ]
    table.validate(full=True)


def test_a_description_names_the_error_and_the_last_places() -> None:
    def deep(level: int) -> None:
        if level == 0:
            raise ValueError("too deep")
        deep(level - 1)

    with pytest.raises(ValueError, match="deep") as caught:
        deep(20)
    lines = worker.describe(caught.value).splitlines()
    assert lines[0] == "ValueError: too deep"
    assert len(lines) == 1 + worker.FRAMES_KEPT
    assert all(line.startswith("  in deep, runner/test_worker.py:") for line in lines[1:])


def test_one_thread_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError), worker.one_thread():
            assert torch.get_num_threads() == 1
            assert {os.environ[name] for name in worker.THREAD_VARIABLES} == {"1"}
            raise RuntimeError
        assert torch.get_num_threads() == 2
        assert os.environ["OMP_NUM_THREADS"] == "3"
        assert "MKL_NUM_THREADS" not in os.environ
    finally:
        torch.set_num_threads(threads)


def test_torch_loaded_by_the_experiment_has_one_thread_too() -> None:
    code = (
        "import sys; from runner import worker; assert 'torch' not in sys.modules\n"
        "with worker.one_thread():\n    import torch; print(torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr
