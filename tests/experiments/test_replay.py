"""Replayed steps, as far as a CPU can tell; `test_device.py` has what needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.replay import WARM, replayed

CUDA = torch.device("cuda")


def test_on_a_cpu_a_step_is_itself() -> None:
    def step(x: Tensor) -> Tensor:
        return x + 1

    assert replayed(step, torch.device("cpu")) is step


def test_a_step_that_cannot_be_captured_is_called_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, RuntimeError("operation not permitted when stream is capturing"))
    step = Counting()
    assert [int(found) for found in map(replayed(step, CUDA), torch.arange(10))] == list(range(1, 11))
    assert step.total == sum(range(10))


def test_running_out_of_memory_is_not_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, torch.cuda.OutOfMemoryError("CUDA out of memory"))
    step = replayed(Counting(), CUDA)
    for x in torch.arange(WARM):
        step(x)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        step(torch.tensor(1))


class Counting:
    """A step with a state."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.total += int(x)
        return x + 1


def refuse(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let every capture fail before anything is done."""

    @contextmanager
    def capture(*_: Any, **__: Any) -> Iterator[None]:
        raise error
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
