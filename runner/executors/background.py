"""Threads and signals beside Ray: what must not hold up the driver, and who answers SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def in_background(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Run it in a thread that does not keep the process alive, unlike those of a ThreadPoolExecutor."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def take_back_sigterm() -> None:
    """Ray's C++ core puts a handler of its own, which prints a stack and ends, over that of the program."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
