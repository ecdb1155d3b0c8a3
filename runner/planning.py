"""Sweep + finished cells -> Plan: which cells there are, which are done, which are left."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ValidationError

from runner.canonical import cell_id, configuration_text, digest
from runner.errors import SweepError
from runner.experiment import Catalogue, Experiment, Target
from runner.grid import Grid
from runner.problems import show_value, unknown
from runner.spec import Sweep

REASONS = 5  # reasons for refused combinations that are shown


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of a grid, its seed included. ``id`` hashes everything that defines it."""

    id: str
    configuration_id: str
    experiment: str
    params: BaseModel
    target: Target
    seed: int


@dataclass(frozen=True)
class PlannedGrid:
    """The cells of one grid, without those that an earlier grid has; ``todo`` are those left to run."""

    grid: Grid
    cells: tuple[Cell, ...]
    todo: tuple[Cell, ...]


@dataclass(frozen=True)
class Plan:
    """What a sweep comes to.

    Args:
        grids: in the order of the file.
        done: how many cells of the plan are finished and stay so, by status.
        repeated: how many more cells the grids describe, equal to others.
        seconds: of one core, estimated, for what is left.
    """

    sweep: Sweep
    grids: tuple[PlannedGrid, ...]
    done: Mapping[str, int]
    repeated: int
    seconds: float

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell once: grid by grid, the last axis fastest, seeds innermost."""
        return tuple(cell for grid in self.grids for cell in grid.cells)

    @cached_property
    def todo(self) -> tuple[Cell, ...]:
        """The cells that are left to run, in the order of ``cells``."""
        return tuple(cell for grid in self.grids for cell in grid.todo)


def make_plan(
    sweep: Sweep,
    catalogue: Catalogue,
    finished: Mapping[str, str],
    *,
    retry_failed: bool = False,
    max_cells: int = 1_000_000,
    only_cell: str | None = None,
) -> Plan:
    """Write out a sweep's cells and set the finished ones apart.

    Args:
        sweep: as `load_sweep` returns it.
        catalogue: where the sweep's experiments are.
        finished: cell id -> status, of every cell that has a record; cells of other plans do no harm.
        retry_failed: cells whose status is not ``ok`` are left to run again.
        max_cells: more are refused before any is written out.
        only_cell: the id of a cell, or the beginning of one, that alone is left to run, finished or not.

    Raises:
        SweepError: there are more than ``max_cells``, a combination of parameters is undefined, or no cell
            has the id ``only_cell``.
    """
    if sweep.size > max_cells:
        raise SweepError(_too_large(sweep, max_cells))

    def left(cell: Cell) -> bool:
        if only_cell is not None:
            return cell.id.startswith(only_cell)
        status = finished.get(cell.id)
        return status is None or (retry_failed and status != "ok")

    refused: dict[str, list[str]] = {}
    seen: set[str] = set()
    grids: list[PlannedGrid] = []
    for grid in sweep.grids:
        cells = tuple(_cells(grid, sweep, catalogue.experiments[grid.experiment], seen, refused))
        grids.append(PlannedGrid(grid, cells, tuple(cell for cell in cells if left(cell))))
    if refused:
        raise SweepError(_undefined(sweep.source, refused))
    stay = (finished[c.id] for grid in grids for c in grid.cells if c.id in finished and not left(c))
    repeated = sweep.size - sum(len(grid.cells) for grid in grids)
    plan = Plan(sweep, tuple(grids), dict(Counter(stay)), repeated, sum(map(_seconds(catalogue), grids)))
    if only_cell is not None and len(plan.todo) != 1:
        raise SweepError(_not_one(plan, only_cell))
    return plan


def _cells(
    grid: Grid, sweep: Sweep, experiment: Experiment, seen: set[str], refused: dict[str, list[str]]
) -> Iterator[Cell]:
    """The cells whose configuration is not yet ``seen``; its seeds share one params object."""
    for params, target in _configurations(grid, experiment, sweep.targets, refused):
        text = configuration_text(experiment.name, experiment.version, vars(params), target.digest)
        configuration_id = digest(text)
        if configuration_id not in seen and not refused:
            seen.add(configuration_id)
            for seed in sweep.seeds:
                yield Cell(cell_id(text, seed), configuration_id, experiment.name, params, target, seed)


def _configurations(
    grid: Grid, experiment: Experiment, targets: Mapping[str, Target], refused: dict[str, list[str]]
) -> Iterator[tuple[Any, Target]]:
    """Parameters and target of each defined configuration; the others go to ``refused``, by reason."""
    varying = {**grid.axes, **grid.nuisance}
    for values in itertools.product(*varying.values()):
        given = dict(zip(varying, values, strict=True))
        target = targets[given.get("target") or grid.fixed["target"]]
        try:
            params = experiment.params.model_validate({**grid.fixed, **given})
            experiment.check(params, target)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            refused.setdefault(reason, []).append(_combination(grid, given))
        except ValueError as error:
            refused.setdefault(str(error), []).append(_combination(grid, given))
        else:
            yield params, target


def _seconds(catalogue: Catalogue) -> Callable[[PlannedGrid], float]:
    """The estimate for what is left of a grid, asked once for all seeds of a configuration."""

    def estimate(grid: PlannedGrid) -> float:
        of = catalogue.experiments[grid.grid.experiment].seconds_per_cell
        groups = itertools.groupby(grid.todo, key=lambda cell: cell.configuration_id)
        stacks = (list(cells) for _, cells in groups)
        return sum(len(cells) * of(cells[0].params, cells[0].target) for cells in stacks)

    return estimate


def _combination(grid: Grid, given: Mapping[str, Any]) -> str:
    shown = {name: value if isinstance(value, str) else show_value(value) for name, value in given.items()}
    values = ", ".join(f"{name}={value}" for name, value in shown.items())
    return f"{grid.place}: {values or 'its fixed values'}"


def _undefined(source: str, refused: Mapping[str, Sequence[str]]) -> str:
    count = sum(map(len, refused.values()))
    what = "1 combination is" if count == 1 else f"{count:,} combinations are"
    lines = [f"{source} cannot be used: {what} undefined. Nothing was started."]
    for reason, combinations in list(refused.items())[:REASONS]:
        others = f" (and {len(combinations) - 1:,} more)" if len(combinations) > 1 else ""
        lines += [f"  {combinations[0]}{others}", f"    {reason}"]
    if len(refused) > REASONS:
        lines.append(f"  ... and {len(refused) - REASONS} more reasons.")
    return "\n".join(lines)


def _too_large(sweep: Sweep, max_cells: int) -> str:
    lines = [f"{sweep.source} comes to {sweep.size:,} cells; {max_cells:,} are allowed. Nothing was started."]
    for grid in sweep.grids[:REASONS]:
        lengths = [f"{len(values):,} {name}" for name, values in {**grid.axes, **grid.nuisance}.items()]
        product = " x ".join([*lengths, f"{len(sweep.seeds):,} seeds"])
        lines.append(f"  {grid.place}, {grid.experiment}: {product} = {grid.size * len(sweep.seeds):,} cells")
    if len(sweep.grids) > REASONS:
        lines.append(f"  ... and {len(sweep.grids) - REASONS} more grids.")
    lines.append(f"Shorten an axis, take fewer --seeds, or allow it: --max-cells {sweep.size}")
    return "\n".join(lines)


def _not_one(plan: Plan, wanted: str) -> str:
    if plan.todo:
        ids = ", ".join(cell.id for cell in plan.todo[:REASONS])
        return f"--cell {wanted}: {len(plan.todo)} cells have an id that begins so: {ids}. Write more of it."
    first = [cell.id for cell in plan.cells[:REASONS]]
    text = unknown(wanted, f"a cell of {plan.sweep.source}", first, "Its first cells")
    return f"--cell {wanted}: {text} The ids of a sweep that ran are in its cells.parquet."
