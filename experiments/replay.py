"""Steps that a GPU replays: launching sixty small kernels one after the other costs it more than running them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Returned = TypeVar("Returned")
WARM = 3  # calls before the capture: libraries make their handles and workspaces in the first one


def replayed(step: Callable[..., Returned], device: torch.device) -> Callable[..., Returned]:
    """The same function; on a GPU it is captured once as a CUDA graph, then replayed, unless it cannot be captured.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs

    Args:
        step: of tensors whose shapes never change, or None; it may change other tensors, in place, and waits for none.
            What a replay returned is overwritten by the next.
    """
    return step if device.type == "cpu" else _Replayed(step)


class _Replayed:
    """A function as a graph that reads its arguments from the same places each time."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step = step
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._arguments: list[Tensor | None] = []
        self._returned: Any = None

    def __call__(self, *arguments: Tensor | None) -> Any:
        self._calls += 1
        if self._calls == WARM + 1:
            self._capture(arguments)
        if self._graph is None:
            return self._step(*arguments)
        for own, given in zip(self._arguments, arguments, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self._graph.replay()
        return self._returned

    def _capture(self, arguments: tuple[Tensor | None, ...]) -> None:
        """Record what a call does, without doing it."""
        graph = torch.cuda.CUDAGraph()
        self._arguments = [None if given is None else given.clone() for given in arguments]
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._returned = self._step(*self._arguments)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:
            return  # another torch may have an operation that waits: slower, and as right
        self._graph = graph
