"""What Ray 2.60 waits for without need when it starts, a second and a half in all, and how a private one need not.

Both reach into Ray, for as long as their context lasts; where a version lacks what they look for, they do nothing.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

TUNES_VARIABLES = ("DEFAULT_ENV_VARS", "ENV_VARS_TO_PROPAGATE")
LOOK = 0.02  # seconds
PATIENCE = 10.0  # seconds after which Ray waits in its own way


@contextmanager
def seen_at_once() -> Iterator[None]:
    """``ray.init`` looks once a second whether its node is there; here it looks again at once."""
    services = _module("ray._private.services")
    get_node: Any = getattr(services, "get_node", None)

    def soon(address: str, node_id: str) -> Any:
        with suppress(Exception):
            gcs, until = _module("ray._raylet").GcsClient(address=address), time.monotonic() + PATIENCE
            while time.monotonic() < until and node_id not in {node.hex() for node in gcs.get_all_node_info()}:
                time.sleep(LOOK)
        return get_node(address, node_id)

    with _replaced(services, {"get_node": soon} if get_node else {}):
        yield


@contextmanager
def waiting_workers() -> Iterator[None]:
    """Let trials run on the workers that Ray starts at once, one for each core.

    Tune asks for workers with some of the driver's variables and one for PyTorch Lightning. Ray does not look whether
    those that wait have inherited them, as a private Ray's have (``setup.ENVIRONMENT``), and starts others.
    """
    cache = _module("ray.tune.execution.class_cache")
    asked = {name: held for name in TUNES_VARIABLES if (held := getattr(cache, name, None)) is not None}
    with _replaced(cache, {name: type(variables)() for name, variables in asked.items()}):
        yield


@contextmanager
def _replaced(module: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """A module with other values, which it has under these names, for as long as the context lasts."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
