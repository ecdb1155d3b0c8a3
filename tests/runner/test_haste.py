"""What is reached for in Ray exists in this version, and is as it was afterwards."""

from __future__ import annotations

import types
from typing import Any
from unittest.mock import Mock

import pytest

from runner.executors import haste, setup

pytestmark = pytest.mark.slow  # imports ray.tune


def test_helpers_are_not_started_and_can_be_again() -> None:
    from ray._private.node import Node

    before = {name: getattr(Node, name) for name in haste.HELPERS}
    with haste.without_helpers():
        assert not any(getattr(Node, name) is method for name, method in before.items())
        assert [getattr(Node, name)(None, include_dashboard=False) for name in haste.HELPERS] == [None] * 3
    assert before == {name: getattr(Node, name) for name in haste.HELPERS}


def test_ray_that_was_imported_before_listens_on_this_machine_alone() -> None:
    from ray._private import ray_constants, services
    from ray._raylet import AuthenticationTokenLoader

    assert callable(AuthenticationTokenLoader.instance().reset_cache)
    before = ray_constants.ENABLE_RAY_CLUSTER
    with haste.on_this_machine():
        assert services.get_node_ip_address() == "127.0.0.1"
    assert before == ray_constants.ENABLE_RAY_CLUSTER


def test_tunes_variables_are_set_aside_and_put_back() -> None:
    from ray.tune.execution import class_cache

    before = {name: getattr(class_cache, name) for name in haste.TUNES_VARIABLES}
    assert all(before.values())
    with pytest.raises(RuntimeError, match="trial"), haste.waiting_workers():
        assert [getattr(class_cache, name) for name in haste.TUNES_VARIABLES] == [{}, set()]
        raise RuntimeError("trial")
    assert before == {name: getattr(class_cache, name) for name in haste.TUNES_VARIABLES}
    # What Tune would have set, workers inherit from the driver.
    assert class_cache.DEFAULT_ENV_VARS.items() <= setup.ENVIRONMENT.items()


def test_workers_import_from_the_folders_given_and_no_other() -> None:
    from ray.job_config import JobConfig

    with haste.imports_from(["/a", "/b"]):
        job = JobConfig()
        assert job._runtime_env_has_working_dir()  # so that Ray adds none
        assert job._py_driver_sys_path == ["/a", "/b"]
    assert not JobConfig()._runtime_env_has_working_dir()


def test_a_worker_that_rays_memory_monitor_killed_is_a_lost_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.exceptions
    from ray.air.execution._internal.actor_manager import RayActorManager, TrackedActor, TrackedActorTask
    from ray.tune.execution import tune_controller

    told: list[str] = []
    actor = TrackedActor(1)
    task = TrackedActorTask(actor, on_error=lambda actor, error: told.append(str(error)))
    manager, killed = RayActorManager(Mock()), ray.exceptions.OutOfMemoryError("node running low on memory")
    monkeypatch.setattr(manager, "_cleanup_actor", Mock())
    with haste.memory_deaths():
        manager._actor_task_failed(task, killed)
        manager._actor_task_failed(task, ray.exceptions.ActorDiedError())
        assert isinstance(killed, tune_controller.RayActorError)
    assert told[0] == "node running low on memory"
    assert len(told) == 2
    assert tune_controller.RayActorError is ray.exceptions.RayActorError
    with pytest.raises(RuntimeError, match="unexpected"):
        manager._actor_task_failed(task, killed)


def test_a_node_is_looked_for_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray._raylet
    from ray._private import services

    answers = iter([{}, {}, {b"\xab\xcd": "alive"}])

    class Gcs:
        def __init__(self, address: str) -> None:
            assert address == "127.0.0.1:1"

        def get_all_node_info(self) -> dict[bytes, str]:
            return next(answers)

    def get_node(address: str, node_id: str) -> tuple[str, str]:
        return address, node_id

    monkeypatch.setattr(ray._raylet, "GcsClient", Gcs)
    monkeypatch.setattr(services, "get_node", get_node)
    with haste.seen_at_once():
        assert services.get_node("127.0.0.1:1", "abcd") == ("127.0.0.1:1", "abcd")
        assert next(answers, None) is None
        # An answer that makes no sense is left to Ray's own way of asking.
        assert services.get_node("127.0.0.1:1", "abcd") == ("127.0.0.1:1", "abcd")
    assert services.get_node is get_node


def test_another_ray_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without these names, or without these modules."""
    for module in (types.SimpleNamespace(), None):

        def load(name: str, module: Any = module) -> Any:
            return module

        monkeypatch.setattr(haste, "_module", load)
        with haste.on_this_machine(), haste.without_helpers(), haste.seen_at_once(), haste.imports_from(["/a"]):
            pass
        with haste.waiting_workers(), haste.memory_deaths():
            pass
        assert not vars(module or types.SimpleNamespace())
