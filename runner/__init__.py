"""How a sweep is run: plan, batches, executors, records, tables, tracking. The same verbs as the command line.

>>> from runner import load_sweep, plan, read_cells, run            # doctest: +SKIP
>>> report = run(load_sweep("quickstart"))                          # doctest: +SKIP
>>> read_cells("quickstart").groupby("divergence").coverage.mean()  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.api import load_sweep, plan, run
    from runner.options import Options
    from runner.store.reading import read_cells

__all__ = ["Options", "load_sweep", "plan", "read_cells", "run"]

_HOMES = {"Options": "runner.options", "read_cells": "runner.store.reading"}


def __getattr__(name: str) -> Any:
    """Import a verb when it is first asked for: workers and planning stay free of what they do not use."""
    if name not in __all__:
        raise AttributeError(f"module 'runner' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "runner.api")), name)
