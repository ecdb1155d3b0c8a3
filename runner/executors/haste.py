"""Where Ray 2.60 is made to do otherwise: to start three seconds sooner, and twice to do what one would expect.

All reach into Ray, for as long as their context lasts; where a version lacks what they look for, they do nothing.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

HELPERS = ("start_api_server", "start_monitor", "start_log_monitor")
THAT_LOSE_ACTORS = ("ray.air.execution._internal.actor_manager", "ray.tune.execution.tune_controller")
TUNES_VARIABLES = ("DEFAULT_ENV_VARS", "ENV_VARS_TO_PROPAGATE")
LOOK = 0.02  # seconds
PATIENCE = 10.0  # seconds after which Ray waits in its own way


@contextmanager
def without_helpers() -> Iterator[None]:
    """``ray.init`` starts three processes more than a private Ray has a use for, and waits until one of them answers.

    They are the dashboard's server, which even without the dashboard comes to report usage; the autoscaler, which
    would ask for more machines; and what copies the workers' logs to the driver's terminal. `setup.ENVIRONMENT` and
    ``log_to_driver`` have them do nothing, for some two seconds of CPU time.
    """
    node: Any = getattr(_module("ray._private.node"), "Node", None)
    with _replaced(node, {name: _start_nothing for name in HELPERS if hasattr(node, name)}):
        yield


@contextmanager
def on_this_machine() -> Iterator[None]:
    """Have ``ray.init`` listen on 127.0.0.1 alone, and with the token of the environment.

    Where Ray was imported before, as in many a notebook, `setup.set_environment` says so too late: Ray has read whether
    to listen on every interface, and keeps the token of a Ray that ran in this process earlier.
    """
    loader: Any = getattr(_module("ray._raylet"), "AuthenticationTokenLoader", None)
    with suppress(Exception):
        loader.instance().reset_cache()
    constants = _module("ray._private.ray_constants")
    known = {"ENABLE_RAY_CLUSTER": False} if hasattr(constants, "ENABLE_RAY_CLUSTER") else {}
    with _replaced(constants, known):
        yield


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
def imports_from(folders: Sequence[str]) -> Iterator[None]:
    """Let workers import from these folders, the last one first, before all others.

    ``ray.init`` would have them look in the current folder first: a package called `experiments` there, or `runner`,
    would take the place of the driver's own.
    """
    job_config: Any = getattr(_module("ray.job_config"), "JobConfig", None)
    name = "_runtime_env_has_working_dir"  # asked for each folder of Ray's own choice, which then is left out

    def choose(job: Any) -> bool:
        job._py_driver_sys_path = list(folders)
        return True

    with _replaced(job_config, {name: choose} if hasattr(job_config, name) else {}):
        yield


@contextmanager
def memory_deaths() -> Iterator[None]:
    """Let Tune take a worker that Ray's memory monitor killed for a lost one; it would end the whole run otherwise.

    Ray tells of it by an error that is none of the actor's, which Tune looks for by its class alone.
    """
    exceptions = _module("ray.exceptions")
    both = tuple(getattr(exceptions, name, None) for name in ("RayActorError", "OutOfMemoryError"))
    users = [_module(name) for name in THAT_LOSE_ACTORS] if None not in both else []
    with ExitStack() as stack:
        for user in users:
            stack.enter_context(_replaced(user, {"RayActorError": both} if hasattr(user, "RayActorError") else {}))
        yield


def _start_nothing(*_: Any, **__: Any) -> None:
    """In a helper's place."""


@contextmanager
def _replaced(owner: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """A module or class with other values, which it has under these names, for as long as the context lasts."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
