from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import cgroup
from runner.batch import LONGEST, MULTIPLE, STACK, Batch, at_once, estimate, make_batches, makespan
from runner.grid import Resources
from runner.options import Options, cut
from runner.planning import Plan, make_plan
from runner.spec import load_sweep
from tests.runner.fakes import CATALOGUE, TOY

grids = st.lists(
    st.fixed_dictionaries(
        {
            "size": st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True),
            "rate": st.lists(st.integers(1, 30), min_size=1, max_size=30, unique=True),
            "gpu": st.sampled_from([0, 0.5]),
        }
    ),
    min_size=1,
    max_size=3,
)


def plan_of(*grids: dict[str, Any], seeds: int = 1) -> Plan:
    written = [
        {
            "experiment": "toy",
            "axes": {"target": ["near", "far"], "rate": grid["rate"], "size": grid["size"]},
            "resources": {"gpu": grid.get("gpu", 0)},
        }
        for grid in grids
    ]
    return make_plan(load_sweep({"name": "s", "grids": written, "seeds": seeds}, CATALOGUE), CATALOGUE, {})


def batches_of(plan: Plan, **options: Any) -> tuple[Batch, ...]:
    return make_batches(plan, {"toy": TOY}, **{"workers": 2, "memory_bytes": 10**9, **options})


def test_a_container_s_memory_bounds_the_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of({"size": [2], "rate": list(range(1, 65))})
    for limit, sizes in ((None, {128}), (2**62, {128}), (256_000, {16, 32})):
        monkeypatch.setattr(cgroup, "memory_limit", lambda limit=limit: limit)
        batches = cut(plan, CATALOGUE, Options(), workers=1)
        assert {len(batch.cells) for batch in batches} <= sizes, limit


def test_workers_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of({"size": [2], "rate": list(range(1, 65))}, seeds=10)
    monkeypatch.setattr(cgroup, "memory_limit", lambda: 2_048_000)  # a quarter is for 256 cells
    largest = [max(len(batch.cells) for batch in cut(plan, CATALOGUE, Options(), workers=n)) for n in (1, 2, 4, 8)]
    assert largest == [256, 128, 64, 32]


def padded(batch: Batch) -> int:
    return MULTIPLE * math.ceil(len(batch.cells) / MULTIPLE)


def waiting(batches: Sequence[Batch], workers: int) -> float:
    """The share of the workers' time that is spent waiting for the last batch, by playing the queue."""
    free = [0.0] * workers
    for batch in batches:
        first = free.index(min(free))
        free[first] += batch.seconds
    return 1 - sum(free) / (workers * max(free))


@given(
    grids,
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(500, 200_000),
    st.none() | st.integers(1, 100),
)
@settings(deadline=None, max_examples=80)
def test_each_cell_is_in_one_batch_of_its_kind_and_memory_is_bounded(
    grids: Any, seeds: int, workers: int, memory: int, exactly: int | None
) -> None:
    plan = plan_of(*grids, seeds=seeds)
    batches = batches_of(plan, workers=workers, memory_bytes=memory, cells_per_batch=exactly)
    assert Counter(cell.id for batch in batches for cell in batch.cells) == Counter(cell.id for cell in plan.todo)
    resources = {cell.id: grid.grid.resources for grid in plan.grids for cell in grid.todo}
    for batch in batches:
        assert len({TOY.batch_key(cell.params, cell.target) for cell in batch.cells}) == 1
        assert {resources[cell.id] for cell in batch.cells} == {batch.resources}
        needed = TOY.bytes_of_stack(batch.cells[0].params, batch.cells[0].target, len(batch.cells), "cpu")
        assert needed <= memory or len(batch.cells) == 1
        assert len(batch.cells) <= (exactly or STACK)
    assert len({batch.id for batch in batches}) == len(batches)
    assert [batch.seconds for batch in batches] == sorted((batch.seconds for batch in batches), reverse=True)


@pytest.mark.parametrize(("memory", "most"), [(1, 32), (40_000, 32), (64_000, 64), (127_999, 96), (10**9, 160)])
def test_what_padding_makes_room_for_is_not_cut(memory: int, most: int) -> None:
    padded = replace(TOY, bytes_of_stack=lambda params, target, cells, device: 1000 * 32 * math.ceil(cells / 32))
    plan = plan_of({"size": [1], "rate": list(range(1, 81))})  # 160 cells of one kind
    options = {"workers": 1, "memory_bytes": memory}
    exactly, evenly = (make_batches(plan, {"toy": padded}, cells_per_batch=size, **options) for size in (160, None))
    assert len(exactly[0].cells) == most
    assert most / 2 < len(evenly[0].cells) <= most


@given(grids, st.integers(1, 3), st.integers(1, 8))
@settings(deadline=None, max_examples=60)
def test_stacks_are_whole_multiples_but_for_the_last_of_a_kind(grids: Any, seeds: int, workers: int) -> None:
    batches = batches_of(plan_of(*grids, seeds=seeds), workers=workers)
    kinds = Counter(
        (TOY.batch_key(batch.cells[0].params, batch.cells[0].target), batch.resources)
        for batch in batches
        if len(batch.cells) % MULTIPLE
    )
    assert not kinds or max(kinds.values()) == 1


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("sizes", [[1], [2, 3], [1, 2, 4, 8, 16]])
def test_no_worker_waits_long_when_there_is_enough_to_share(workers: int, sizes: list[int]) -> None:
    plan = plan_of({"size": sizes, "rate": list(range(1, 26))}, seeds=20)  # 1000 cells of each size
    batches = batches_of(plan, workers=workers)
    assert waiting(batches, workers) <= 0.10
    assert makespan(batches, workers) * workers * (1 - waiting(batches, workers)) == pytest.approx(
        sum(batch.seconds for batch in batches)
    )


@pytest.mark.parametrize(("workers", "expected"), [(1, 2), (2, 2), (3, 3), (4, 4)])
def test_batches_are_no_smaller_than_they_must_be(workers: int, expected: int) -> None:
    plan = plan_of({"size": [2], "rate": list(range(1, 26))}, seeds=20)  # 1000 cells, at most 512 in a stack
    assert len(batches_of(plan, workers=workers)) == expected


@pytest.mark.parametrize(("share", "expected"), [(5, 2), (9, 2), (13, 3), (17, 4), (22, 5), (26, 6), (60, 6)])
def test_a_worker_gets_up_to_six_batches_of_four_seconds(share: float, expected: int) -> None:
    plan = plan_of({"size": [2], "rate": list(range(1, 25))}, seeds=20)  # 960 cells
    toy = replace(TOY, batch_key=lambda params, target: "all", seconds_per_cell=lambda params, target: share / 960)
    batches = make_batches(plan, {"toy": toy}, workers=1, memory_bytes=10**9)
    assert len(batches) == expected
    assert expected == 2 or min(batch.seconds for batch in batches) >= 4


def test_cells_per_batch_is_taken_at_its_word() -> None:
    plan = plan_of({"size": [2], "rate": list(range(1, 26))})
    assert [len(batch.cells) for batch in batches_of(plan, cells_per_batch=7)] == [7] * 7 + [1]
    assert [len(batch.cells) for batch in batches_of(plan, cells_per_batch=1000)] == [50]
    assert len(batches_of(plan, cells_per_batch=1)) == 50


def test_long_cells_are_not_stacked_until_a_kill_would_cost_hours() -> None:
    plan = plan_of({"size": [1], "rate": list(range(1, 26))}, seeds=4)
    slow = replace(TOY, seconds_per_cell=lambda params, target: 3.0)
    batches = make_batches(plan, {"toy": slow}, workers=1, memory_bytes=10**9)
    assert max(batch.seconds for batch in batches) <= LONGEST
    slower = replace(TOY, seconds_per_cell=lambda params, target: 100.0)
    batches = make_batches(plan, {"toy": slower}, workers=1, memory_bytes=10**9)
    assert {padded(batch) for batch in batches} == {MULTIPLE}


def test_a_batch_costs_what_its_padded_stack_costs() -> None:
    batches = batches_of(plan_of({"size": [3], "rate": [1]}))
    assert [(len(batch.cells), batch.seconds) for batch in batches] == [(2, pytest.approx(16 * 0.003))]


def test_a_batch_id_is_of_its_cells() -> None:
    plan = plan_of({"size": [1, 2], "rate": [1, 2]})
    ids = [batch.id for batch in batches_of(plan)]
    assert ids == [batch.id for batch in batches_of(plan)]
    assert not set(ids) & {batch.id for batch in batches_of(plan_of({"size": [1, 2], "rate": [1, 2, 3]}))}


def test_nothing_left_is_no_batch() -> None:
    plan = plan_of({"size": [1], "rate": [1]})
    finished = {cell.id: "ok" for cell in plan.cells}
    assert batches_of(make_plan(plan.sweep, CATALOGUE, finished)) == ()


def test_a_batch_has_its_grids_resources() -> None:
    batches = batches_of(plan_of({"size": [1], "rate": [1]}, {"size": [2], "rate": [1], "gpu": 0.5}))
    assert sorted(batch.resources.gpu for batch in batches) == [0, 0.5]
    assert {batch.resources.cpu for batch in batches} == {Resources().cpu}


@pytest.mark.parametrize(
    ("gpu", "gpus", "expected"),
    [
        (0, 1, 16),
        (0.25, 0, 16),
        (0.25, 1, 4),
        (0.25, 2, 8),
        (0.6, 2, 2),
        (0.3, 1, 3),
        (1, 3, 3),
        (2, 5, 2),
        (0.01, 1, 16),
    ],
)
def test_batches_at_once_are_as_many_as_gpus_have_room_for(gpu: float, gpus: float, expected: int) -> None:
    assert at_once(gpu, 16, gpus) == expected


def test_stacks_on_a_gpu_are_large_and_memory_is_not_this_machine_s() -> None:
    plan = plan_of({"size": [1], "rate": list(range(1, 26)), "gpu": 0.25}, seeds=400)
    on_gpu = batches_of(plan, workers=16, memory_bytes=20_000, gpus=1)
    assert {len(batch.cells) for batch in on_gpu[:-1]} <= {1024, 1280}
    assert sum(len(batch.cells) for batch in on_gpu) == len(plan.todo) == 20_000
    few = batches_of(plan_of({"size": [1], "rate": [1], "gpu": 0.25}, seeds=100), workers=16, gpus=1)
    assert [len(batch.cells) for batch in few] == [200]
    on_cpu = batches_of(plan, workers=16, memory_bytes=20_000, gpus=0)
    assert max(len(batch.cells) for batch in on_cpu) <= 20
    assert estimate(on_cpu, 16) > estimate(on_gpu, 16, gpus=1)


def test_cells_with_and_without_a_gpu_are_balanced_apart() -> None:
    plan = plan_of(
        {"size": [1], "rate": list(range(1, 26)), "gpu": 1}, {"size": [2], "rate": list(range(1, 26))}, seeds=40
    )
    batches = batches_of(plan, workers=4, gpus=1)
    pools = [[b for b in batches if b.resources.gpu == gpu] for gpu in (0, 1)]
    assert waiting(pools[0], 4) <= 0.10
    assert estimate(batches, 4, 1) == pytest.approx(max(makespan(pools[0], 4), makespan(pools[1], 1)))
