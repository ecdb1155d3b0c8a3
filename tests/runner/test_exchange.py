"""The parts of the Tune executor that need no Ray: who has which batch, and where records meet."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import cgroup, worker
from runner.batch import Resources
from runner.errors import ExecutorError
from runner.executors import setup
from runner.executors.exchange import RESULTS_WAITING, Delivery, Exchange
from runner.executors.work import Work, results, to_stream
from tests.suites import executors as suite


@given(st.data())
def test_work_is_done_once_whatever_is_lost(data: st.DataObject) -> None:
    """Trials end in any order, deadly cells kill theirs, and others die by accident."""
    count = data.draw(st.integers(1, 24))
    deadly = data.draw(st.sets(st.integers(0, count - 1)))
    accidents = data.draw(st.integers(0, 5))
    work, done, trials = (
        Work(deque(suite.batches(suite.cells(count), data.draw(st.integers(1, count))))),
        [],
        0,
    )
    while work.waiting or work.running:
        if work.waiting and (not work.running or data.draw(st.booleans())):
            work.take(f"t{trials}")
            trials += 1
            continue
        trial = data.draw(st.sampled_from(sorted(work.running)))
        work.running.discard(trial)
        batch = work.out[trial]
        if any(cell.seed in deadly for cell in batch.cells):
            work.lost(trial, "killed")
        elif accidents and len(batch.cells) > 1 and data.draw(st.booleans()):
            accidents -= 1
            work.lost(trial, "accident")
        else:
            done += work.out.pop(trial).cells
            # Its worker dies between delivering the records and ending the trial.
            work.lost(trial, "too late")
    dead = [work.dead.get_nowait()[0] for _ in range(work.dead.qsize())]
    assert sorted(cell.seed for cell in done) == sorted(set(range(count)) - deadly)
    assert sorted(cell.seed for batch in dead for cell in batch.cells) == sorted(deadly)
    assert not work.out


def test_what_an_abandoned_run_delivers_is_not_taken_for_this_one() -> None:
    (batch,) = suite.batches(suite.cells(2), 2)
    work, trials = Work(deque([batch])), Future[None]()
    work.take("now")
    table = worker.run(suite.EXPERIMENTS["toy"], batch, suite.CONTEXT)
    deliveries = [
        Delivery("before", None, 0.0, "its worker could not run it"),
        Delivery("before", to_stream(table.slice(0, 1)), 0.0),
        Delivery("now", to_stream(table), 2.5),
    ]
    (result,) = results(work, 2, trials, lambda: deliveries, lambda batch, file: None, lambda batch, reason: table)
    assert result.batch is batch
    assert result.table.schema.equals(table.schema, check_metadata=True)
    assert suite.same(result.table.to_pylist(), table.to_pylist())
    assert result.seconds == 2.5


def test_trials_that_end_with_cells_left_are_an_error() -> None:
    work, trials = Work(deque(suite.batches(suite.cells(5), 2))), Future[None]()
    trials.set_exception(OSError("no space left"))
    with pytest.raises(ExecutorError, match=r"^OSError: no space left\n.*5 cells have no result") as caught:
        list(results(work, 5, trials, list, lambda batch, file: None, lambda batch, reason: None))
    assert "same command" in str(caught.value)


@pytest.mark.parametrize(("visible", "expected"), [(None, 2), ("0", 1), ("0,1,2", 2), ("", 0), ("-1", 0)])
def test_gpus_are_counted_by_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert setup.gpus(tmp_path) == expected


KILLED = """Failure # 1 (occurred at 2030-01-01_00-00-00)
1 worker(s) were killed due to the node running low on memory. Memory on the node was 8.25GB used / 23.54GB limit
OOM kill reason: Memory usage exceeded threshold"""


def test_a_worker_that_rays_memory_monitor_killed_has_died() -> None:
    assert setup.worker_died(KILLED)
    assert setup.cause_of_death(KILLED) == KILLED.splitlines()[1]
    assert "--workers" in setup.ray_lost(RuntimeError(KILLED))
    assert len(setup.ray_lost(RuntimeError(KILLED)).splitlines()) == 2


def test_a_private_ray_leaves_memory_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RAY_memory_monitor_refresh_ms"
    monkeypatch.setattr(os, "environ", {})
    setup.set_environment(private=False)
    assert name not in os.environ
    setup.set_environment(private=True)
    assert os.environ[name] == "0"


@pytest.mark.parametrize(
    ("cpu", "gpu", "gpus", "expected"),
    [
        (1, 0, 0, {"CPU": 1}),
        (1, 0.25, 2, {"CPU": 1, "GPU": 0.25}),
        (1, 0.25, 0, {"CPU": 1}),
        (0, 0.25, 2, {"GPU": 0.25}),
        (0, 0.25, 0, {"CPU": 1}),
        (0, 0, 2, {"CPU": 1}),
    ],
)
def test_a_batch_always_takes_something(cpu: float, gpu: float, gpus: int, expected: dict[str, float]) -> None:
    assert setup.occupied(cpu, gpu, {"CPU": 4, "GPU": gpus}) == expected


QUOTAS = {
    "v2": ("0::/", {"cpu.max": "150000 100000", "memory.max": "1073741824"}, 1.5, 1 << 30),
    "v2 without limits": ("0::/", {"cpu.max": "max 100000", "memory.max": "max"}, None, None),
    "v2 around the own": (
        "0::/slurm/job_1/step",
        {"slurm/cpu.max": "800000 100000", "slurm/job_1/cpu.max": "200000 100000", "slurm/job_1/memory.max": "99"},
        2.0,
        99,
    ),
    "v1 in a container": (
        "4:memory:/docker/abc\n2:cpuacct:/docker/abc\n1:cpu,cpuset:/docker/abc\n0::/",
        {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": "77"},
        0.5,
        77,
    ),
    "v1 without limits": ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
    "no control groups": ("", {}, None, None),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_limits_of_control_groups(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    membership, files, cpus, memory = QUOTAS[case]
    (tmp_path / "own").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert cgroup.cpu_limit(tmp_path, tmp_path / "own") == cpus
    assert cgroup.memory_limit(tmp_path, tmp_path / "own") == memory
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64))
    monkeypatch.setattr(cgroup, "cpu_limit", lambda: cpus)
    assert setup.cores() == (64 if cpus is None else max(1, int(cpus)))


def test_gpus_are_optional() -> None:
    setup.check_resources(suite.batches(suite.cells(1), 1, resources=Resources(gpu=4)), {"CPU": 1})


def test_the_exchange_keeps_what_is_expected_and_drops_the_rest() -> None:
    async def story() -> None:
        exchange = Exchange()
        await exchange.offer("a", b"batch")
        assert await exchange.fetch("a") == b"batch"
        assert await exchange.fetch("never offered") is None
        assert await exchange.collect(0.01) == []
        await exchange.deliver(Delivery("a", b"records", 1.0))
        await exchange.deliver(Delivery("a", b"again, by a trial that was restarted", 1.0))
        assert [d.table for d in await exchange.collect(0.01)] == [b"records"]
        await exchange.offer("b", b"batch")
        await exchange.clear()
        await exchange.deliver(Delivery("b", b"of an abandoned run", 1.0))
        assert await exchange.collect(0.01) == []

    asyncio.run(story())


def test_a_driver_that_is_behind_holds_workers_back() -> None:
    async def story() -> None:
        exchange = Exchange()
        for n in range(RESULTS_WAITING + 1):
            await exchange.offer(str(n), b"")
        deliveries = [
            asyncio.ensure_future(exchange.deliver(Delivery(str(n), b"", 0.0))) for n in range(RESULTS_WAITING + 1)
        ]
        await asyncio.wait(deliveries, timeout=0.1)
        assert [d.done() for d in deliveries] == [True] * RESULTS_WAITING + [False]
        collected = [*await exchange.collect(1.0), *await exchange.collect(0.1)]
        assert sorted(int(d.trial) for d in collected) == list(range(RESULTS_WAITING + 1))

    asyncio.run(story())
