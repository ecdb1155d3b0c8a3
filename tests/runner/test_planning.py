from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import SweepError
from runner.planning import Plan, make_plan
from runner.spec import load_sweep
from tests.runner.fakes import CATALOGUE

TARGETS = ["near", "far"]
rates = st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=3, unique=True)
sizes = st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True)
grids = st.lists(st.tuples(rates, sizes), min_size=1, max_size=3)


def plan_of(*grids: dict[str, Any], seeds: Any = 2, finished: dict[str, str] | None = None, **options: Any) -> Plan:
    source = {"name": "s", "grids": [{"experiment": "toy", **grid} for grid in grids], "seeds": seeds}
    return make_plan(load_sweep(source, CATALOGUE), CATALOGUE, finished or {}, **options)


@given(grids, st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_the_cells_are_the_product_each_once(grids: Any, seeds: int) -> None:
    plan = plan_of(*({"axes": {"target": TARGETS, "rate": r, "size": s}} for r, s in grids), seeds=seeds)
    expected = [point for rates, sizes in grids for point in itertools.product(TARGETS, rates, sizes, range(seeds))]
    params: list[Any] = [cell.params for cell in plan.cells]
    found = [(p.target, p.rate, p.size, c.seed) for p, c in zip(params, plan.cells, strict=True)]
    assert found == list(dict.fromkeys(expected))
    assert plan.repeated == len(expected) - len(set(expected))
    assert len({cell.id for cell in plan.cells}) == len(found)
    assert len({cell.configuration_id for cell in plan.cells}) == len(found) // seeds


def test_a_cell_keeps_its_id_in_another_sweep() -> None:
    """The other sweep writes the keys in another order, 1 for 1.0, and defaults out; it has more cells."""
    one = plan_of({"axes": {"target": ["near"], "rate": [1.0, 2.5]}})
    other = plan_of(
        {"fixed": {"mode": "fine", "size": 2}, "axes": {"rate": [2.5, 7, 1], "target": ["far", "near"]}},
        seeds=5,
    )
    assert {cell.id for cell in one.cells} < {cell.id for cell in other.cells}


def test_a_redefined_target_makes_other_cells() -> None:
    def ids(means: float) -> set[str]:
        source = {
            "name": "s",
            "grids": [{"experiment": "toy", "axes": {"target": ["mine"]}}],
            "targets": {"mine": {"means": means}},
        }
        return {cell.id for cell in make_plan(load_sweep(source, CATALOGUE), CATALOGUE, {}).cells}

    assert ids(1) == ids(1.0)
    assert not ids(1) & ids(2)


def test_resources_do_not_change_ids() -> None:
    grid = {"axes": {"target": ["near"]}}
    assert plan_of(grid).cells == plan_of({**grid, "resources": {"gpu": 1}}).cells


def test_finished_cells_are_left_out() -> None:
    whole = plan_of({"axes": {"target": TARGETS, "rate": [1, 2]}})
    ids = [cell.id for cell in whole.cells]
    finished = dict(zip(ids, ["ok", "ok", "diverged", "failed", "timeout"], strict=False)) | {"another": "ok"}
    plan = plan_of({"axes": {"target": TARGETS, "rate": [1, 2]}}, finished=finished)
    assert [cell.id for cell in plan.cells] == ids
    assert [cell.id for cell in plan.todo] == ids[5:]
    assert plan.done == {"ok": 2, "diverged": 1, "failed": 1, "timeout": 1}
    again = plan_of({"axes": {"target": TARGETS, "rate": [1, 2]}}, finished=finished, retry_failed=True)
    assert [cell.id for cell in again.todo] == ids[2:]
    assert again.done == {"ok": 2}


def test_the_estimate_counts_what_is_left() -> None:
    whole = plan_of({"axes": {"target": ["near"], "size": [1, 3]}}, seeds=4)
    assert whole.seconds == pytest.approx(4 * 0.001 + 4 * 0.003)
    half = plan_of(
        {"axes": {"target": ["near"], "size": [1, 3]}},
        seeds=4,
        finished={cell.id: "ok" for cell in whole.cells[:6]},
    )
    assert half.seconds == pytest.approx(2 * 0.003)


def test_one_cell_alone() -> None:
    grid = {"axes": {"target": TARGETS}}
    whole = plan_of(grid)
    wanted = whole.cells[2]
    finished = {wanted.id: "ok", whole.cells[0].id: "ok"}
    plan = plan_of(grid, finished=finished, only_cell=wanted.id)
    assert plan.todo == (wanted,)
    assert plan.cells == whole.cells
    assert plan.done == {"ok": 1}
    assert plan_of(grid, only_cell=wanted.id[:8]).todo == (wanted,)


@pytest.mark.parametrize("wanted", ["zz", ""])
def test_no_cell_or_several_have_that_id(wanted: str) -> None:
    with pytest.raises(SweepError, match="--cell"):
        plan_of({"axes": {"target": TARGETS}}, only_cell=wanted)


def test_a_grid_too_large_is_refused_before_it_is_written_out() -> None:
    axes = {"target": TARGETS, "rate": [1.0 + i for i in range(2000)], "size": list(range(1, 2001))}
    with pytest.raises(SweepError) as caught:
        plan_of({"axes": axes}, seeds=10**9)
    message = str(caught.value)
    assert "8,000,000,000,000,000 cells" in message
    assert "2 target x 2,000 rate x 2,000 size x 1,000,000,000 seeds" in message
    assert "--max-cells 8000000000000000" in message
    plan_of({"axes": {"target": TARGETS}}, seeds=3, max_cells=6)
    with pytest.raises(SweepError):
        plan_of({"axes": {"target": TARGETS}}, seeds=3, max_cells=5)


def test_undefined_combinations_are_refused_by_reason() -> None:
    source = {
        "name": "s",
        "grids": [
            {
                "experiment": "toy",
                "axes": {"target": ["near", "sample"], "flag": [False, True], "size": [1, 2, 3]},
            }
        ],
        "targets": {"sample": {"points": [1, 2]}},
    }
    sweep = load_sweep(source, CATALOGUE)
    with pytest.raises(SweepError) as caught:
        make_plan(sweep, CATALOGUE, {})
    message = str(caught.value)
    assert "3 combinations are undefined" in message
    assert "grids[0]: target=sample, flag=true, size=1 (and 2 more)" in message
    assert "flag needs a density, which target 'sample' lacks; set flag to false" in message
