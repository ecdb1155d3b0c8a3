"""What the command line prints, as rich renderables made from values: no reading, no running."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.batch import Batch, estimate
from runner.hints import with_options
from runner.planning import Plan
from runner.progress import duration
from runner.wide_table import WideTable

if TYPE_CHECKING:
    from runner.comparison import Comparison
    from runner.difference import Difference
    from runner.driver import Report

FIRST_CELLS = 5
LONGEST_DIFFERENCE = 30


def plan_view(
    plan: Plan, batches: Sequence[Batch], workers: int, gpus: int, elsewhere: str, begun: int = 0
) -> RenderableType:
    """Cells, batches, what is done and an estimate, then the first cells that would run.

    ``begun`` cells would go on from a checkpoint, and the results go ``elsewhere``.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("grid", "axes"):
        table.add_column(name, overflow="fold")
    for name in ("cells", "done", "to run", "batches", "est."):
        table.add_column(name, justify="right")
    for grid in plan.grids:
        ids = {cell.id for cell in grid.todo}
        # A batch may hold cells of several grids.
        own = [(batch, held) for batch in batches if (held := sum(cell.id in ids for cell in batch.cells))]
        axes = " x ".join(f"{len(values)} {name}" for name, values in _varying(grid.grid))
        parts = [replace(batch, seconds=batch.seconds * held / len(batch.cells)) for batch, held in own]
        table.add_row(
            grid.grid.experiment,
            " x ".join(part for part in (axes, f"{len(plan.sweep.seeds)} seeds") if part),
            f"{len(grid.cells):,}",
            f"{len(grid.cells) - len(grid.todo):,}",
            f"{len(grid.todo):,}",
            f"{len(own):,}",
            duration(estimate(parts, workers, gpus)) if own else "",
        )
    done = ", ".join(f"{count:,} {status}" for status, count in sorted(plan.done.items())) or "none"
    lines: list[RenderableType] = [
        Text(f"{plan.sweep.name}: {len(plan.cells):,} cells, {len(plan.todo):,} to run (done: {done})", "bold")
    ]
    if plan.sweep.question:
        lines.append(Text(" ".join(plan.sweep.question.split()), "italic"))
    lines += [Text(""), table, Text("")]
    if plan.repeated:
        lines.append(Text(f"{plan.repeated:,} cells are described twice and run once."))
    if begun:
        lines.append(Text(f"{begun:,} cells go on from a checkpoint of an earlier run."))
    if batches:
        time, asked = duration(estimate(batches, workers, gpus)), any(batch.resources.gpu for batch in batches)
        shared = f", which share {gpus} GPU{'s' if gpus > 1 else ''}," if asked and gpus else ""
        lines.append(Text(f"About {time} of fits on {workers} workers{shared} and a few seconds to start."))
        if asked and not gpus:
            lines.append(Text("The sweep asks for a GPU and this machine has none: the CPU would do the work."))
        lines.append(Text(f"Results go to {elsewhere}/"))
        shown = plan.todo[:FIRST_CELLS]
        rest = f"The first {len(shown)} to run:" if len(plan.todo) > len(shown) else "To run:"
        lines += [Text(""), Text(rest)]
        grids = (grid.grid for grid in plan.grids for _ in grid.todo)
        for cell, given in zip(shown, grids, strict=False):
            # What the grid writes down is said where it equals the default too: cells must be told apart.
            said = " ".join(f"{name}={value}" for name, value in cell.params.model_dump().items() if name in given)
            lines.append(Text(f"  {cell.id}  {cell.experiment} {said} seed={cell.seed}", "dim"))
    else:
        lines.append(Text("Nothing to run: every cell has a record."))
    return Group(*lines)


def plan_json(plan: Plan, batches: Sequence[Batch], workers: int, gpus: int, begun: int = 0) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "sweep": plan.sweep.name,
        "question": plan.sweep.question,
        "cells": len(plan.cells),
        "todo": len(plan.todo),
        "done": dict(plan.done),
        "begun": begun,
        "repeated": plan.repeated,
        "batches": len(batches),
        "workers": workers,
        "gpus": gpus,
        "estimated_seconds": round(estimate(batches, workers, gpus), 1),
        "grids": [{"experiment": g.grid.experiment, "cells": len(g.cells), "todo": len(g.todo)} for g in plan.grids],
        "first_cells": [
            {"cell_id": c.id, "experiment": c.experiment, "seed": c.seed, **c.params.model_dump(mode="json")}
            for c in plan.todo[:FIRST_CELLS]
        ],
    }


def report_view(
    report: Report, parts: Sequence[Comparison], warnings: Sequence[str] = (), looking: str = ""
) -> RenderableType:
    """The coverage-sharpness table, how many cells ended how, and where to look next: `looking` is how to find it."""
    name, counts = report.plan.sweep.name, report.counts
    ran = ", ".join(f"{count:,} {status}" for status, count in sorted(report.ran.items()))
    idle = "no batch had ended" if report.stopped and counts.missing else "nothing was left to run"
    lines = [_line(f"{name}: {ran or idle}, in {duration(report.seconds)}", "bold")]
    not_ok = counts.diverged + counts.failed + counts.timeout
    others = ((not_ok, "not ok"), (counts.missing, "not run yet"))
    rest = "".join(f", {number:,} {what}" for number, what in others if number)
    lines.append(_line(f"{counts.ok:,} of {counts.cells:,} cells ok{rest}"))
    if report.stopped and counts.missing:
        lines.append(_line(f"Stopped early; to continue: {report.command}", "bold"))
    elif not_ok:
        lines.append(_line(f"To run those again: {with_options(report.command, '--retry-failed')}", "yellow"))
    if report.tracking and not report.tracking.error:
        lines.append(_line(f"MLflow has {report.tracking.counted}; browse them: modesweep ui{looking}"))
    if counts.tabulated:
        lines.append(_line(f"Tables, figures and report.html: {report.folder}"))
    return Group(comparison_view(parts), *(_line(warning, "yellow") for warning in warnings), *lines)


def _line(text: str, style: str = "") -> Text:
    """A line that is not broken where the terminal ends: a command in it can be copied whole."""
    return Text(text, style, no_wrap=True, overflow="ignore")


def comparison_view(parts: Sequence[Comparison]) -> RenderableType:
    """The coverage-sharpness table: a part for each experiment, a row for each configuration shown."""
    shown: list[RenderableType] = []
    for part in parts:
        table = WideTable(part.experiment, *part.texts(), axes=len(part.axes))
        shown += [table, *(Text(note, "dim") for note in part.notes), Text("")]
    return Group(*shown)


def pairs_view(title: str, sections: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Named values in sections, such as everything known of one cell."""
    shown: list[RenderableType] = [Text(title, "bold")]
    for heading, values in sections.items():
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        for name, value in values.items():
            table.add_row(f"  {name}", f"{value:.6g}" if isinstance(value, float) else str(value))
        shown += [Text(""), Text(heading, "bold"), table]
    return Group(*shown)


def plain(value: Any) -> Any:
    """The same value as JSON has it: a number that is not finite is null."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def difference_view(parts: Sequence[Difference]) -> RenderableType:
    """B - A: a row for each configuration that both sweeps have."""
    shown: list[RenderableType] = []
    for part in parts:
        title = f"{part.experiment}: B - A"
        if part.rows.empty:
            said = f"{title}: nothing to compare, as no configuration was run with the same seed in both"
            shown += [Text(said), *(Text(note, "dim") for note in part.settings), Text("")]
            continue
        table = WideTable(title, *part.texts(LONGEST_DIFFERENCE), axes=len(part.axes))
        same, shared = part.identical
        both = (
            f"{shared:,} cells are in both and ok; {same:,} of them have identical numbers"
            if shared
            else "no cell is in both and ok"
        )
        notes = [*part.settings, both]
        if len(part.rows) > LONGEST_DIFFERENCE:
            notes.append(f"{len(part.rows) - LONGEST_DIFFERENCE} more rows are left out")
        shown += [table, *(Text(note, "dim") for note in notes), Text("")]
    return Group(*shown)


def difference_json(parts: Sequence[Difference]) -> list[dict[str, Any]]:
    """The same as plain values; undefined numbers are null."""
    return [
        {
            "experiment": part.experiment,
            "settings": part.settings,
            "shared_cells": part.identical[1],
            "identical_cells": part.identical[0],
            "rows": json.loads(part.rows.to_json(orient="records", double_precision=15)),
        }
        for part in parts
    ]


def references_view(rows: Sequence[tuple[str, Mapping[str, float]]], width: int) -> RenderableType:
    """A row for each metric and a column for each known fit, which are fewer; tables of as many as fit."""
    metrics = _ladder_metrics(rows)
    parts: list[list[tuple[str, ...]]] = []
    room = 0
    for fit, values in rows:
        column = (fit, *(_number(values.get(name, math.nan)) for name in metrics))
        wish = 1 + max(map(len, column))
        if room < wish:
            parts.append([("metric", *metrics)])
            room = width - max(map(len, metrics))
        parts[-1].append(column)
        room -= wish
    return Group(*map(_of_columns, parts))


def _of_columns(columns: Sequence[Sequence[str]]) -> Table:
    """A table of columns, each with its name first; numbers beside the first one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, (name, *_) in enumerate(columns):
        table.add_column(name, no_wrap=True, justify="right" if number else "left")
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*row)
    return table


def references_json(rows: Sequence[tuple[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """The same with standard errors; null where a metric is not finite."""
    return [
        {"fit": name, **{key: value if math.isfinite(value) else None for key, value in metrics.items()}}
        for name, metrics in rows
    ]


def _ladder_metrics(rows: Sequence[tuple[str, Mapping[str, float]]]) -> list[str]:
    """Without errors; what neighbours tell first, as the literature's tables do."""
    every = dict.fromkeys(name for _, metrics in rows for name in metrics if not name.endswith("_se"))
    first = [name for name in every if name.startswith("knn_")]
    first += [name for name in ("high_quality", "modes_captured", "entropic_coverage") if name in every]
    return [*first, *(name for name in every if name not in first)]


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{round(value, 3) + 0.0:.3f}" if abs(value) < 1e4 or math.isinf(value) else f"{value:.2e}"


def names_view(rows: Sequence[tuple[str, ...]], columns: Sequence[str]) -> RenderableType:
    """A list of named things and what each is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    for row in rows:
        table.add_row(*row)
    return table


def parameters_view(rows: Sequence[tuple[str, ...]], columns: Sequence[str]) -> RenderableType:
    """A part for each experiment: of each parameter what it may be and, below that, what it means."""
    shown: list[RenderableType] = []
    for experiment, parameters in groupby(rows, key=lambda row: row[0]):
        table = Table(title=experiment, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for name in columns[1:3]:
            table.add_column(name, no_wrap=True)
        table.add_column(f"{columns[3]}, and {columns[4]}", overflow="fold")
        for _, name, default, allowed, meaning in parameters:
            table.add_row(name, default, Group(Text(allowed, "dim"), Text(meaning)))
        shown += [table, Text("")]
    return Group(*shown)


def _varying(grid: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    yield from grid.axes.items()
    yield from grid.nuisance.items()
