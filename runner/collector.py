"""Python's garbage collector, kept out of the way.

Only processes that are modesweep's own relax it: the command, the MLflow follower, a worker.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 500_000  # made between two collections, more than any import makes; Python's own default is 700


def relax() -> None:
    """Collect less often, and not at all while the process ends.

    Importing torch, Ray or MLflow makes a million objects that stay until the end. Looking through them again and
    again takes a quarter of the imports' time, and then another second at exit.
    """
    gc.set_threshold(OBJECTS, 20, 20)
    atexit.register(gc.freeze)


@contextmanager
def paused() -> Iterator[None]:
    """No collection in any thread meanwhile: one may end objects that must not end now."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
