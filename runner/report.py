"""The report: one page with the answer, the figures and everything needed to trust and repeat them.

It is made from the files of a results folder alone and needs no network to be read: pictures are inlined.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.hints import alone, shown

if TYPE_CHECKING:
    import pyarrow as pa

    from runner.comparison import Comparison
    from runner.figures.study import View

REPORT = "report.html"
SHARES = ("coverage", "sharpness")  # between 0 and 1: shown with a bar
LIBRARIES = (
    "pandas",
    "pyarrow.dataset",
    "scipy.special",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "PIL.PngImagePlugin",
    "jinja2",
)
MOST_ROWS = 80  # of the comparison: a page scrolls, a terminal does not
MOST_FAILURES = 8  # kinds of failure
OF_FAILURES = ("status", "experiment", "error", "cell_id", "target", "seed")  # what is told of them; by the first three
FILES = {
    "cells.parquet": "a row for each cell: parameters, metrics, where and when it ran",
    "summary.parquet": "a row for each configuration: means over seeds with 95 % intervals",
    "curves.parquet": "training curves",
    "modes.parquet": "a row for each cell and mode of its target",
    "samples.parquet": "draws from each fit",
    "targets.parquet": "draws from each target",
    "manifest.json": "versions, command, machine, counts and times",
    "sweep.yaml": "the sweep as it was run",
    "records/": "the append-only files that all tables are made from",
    "figures/": "the pictures of this page",
}


@dataclass(frozen=True)
class Value:
    """A number of the comparison: its text, half the width of its interval, and its share of a full bar."""

    text: str
    half: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Section:
    """One experiment's comparison, ready to print; each row has its axis values, then its numbers."""

    experiment: str
    axes: tuple[str, ...]
    measures: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Value, ...]], ...]
    notes: tuple[str, ...]


def load_libraries() -> None:
    """Import what the summary, the figures and the page need, so that they need not wait for it."""
    for name in LIBRARIES:
        importlib.import_module(name)


def write_report(folder: Path) -> Path:
    """Draw the figures of a results folder, then write ``report.html`` with them in it.

    Raises:
        StoreError: there are no tables in the folder, or a file cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from runner.store.files import replacing

    environment = Environment(
        loader=PackageLoader("runner", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(**_context(folder))
    with replacing(folder / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / REPORT


def _context(folder: Path) -> dict[str, Any]:
    """Everything that the page says."""
    from runner.comparison import compare, compared_columns
    from runner.figures import about, write_figures
    from runner.figures.study import read_study
    from runner.store import sweep_file
    from runner.store.manifest import read_manifest
    from runner.store.reading import read_table
    from runner.summary import edge_warnings

    summary = read_table("summary", folder)
    cells = read_table("cells", folder, columns=[*compared_columns(summary), *OF_FAILURES])
    manifest, study = read_manifest(folder), read_study(folder)
    figures = [
        {**about(path.stem, study.views), "data": base64.b64encode(path.read_bytes()).decode()}
        for path in write_figures(folder, study)
    ]
    comparisons = compare(cells, summary, MOST_ROWS)
    name = str(manifest.get("sweep") or folder.name)
    statuses = cells["status"].value_counts().to_pylist()
    return {
        "name": name,
        "question": sweep_file.about(folder).question,
        "facts": list(_facts(manifest)),
        "counts": {entry["values"]: entry["counts"] for entry in statuses},
        "cells": len(cells),
        "missing": manifest.get("counts", {}).get("missing", 0),
        "answers": [answer for view in study.views for answer in _answers(view)],
        "sections": [_section(part, study.fields) for part in comparisons if part.rows["n"].any()],
        "figures": figures,
        "warnings": edge_warnings(summary),
        "most_failures": MOST_FAILURES,
        "failures": _failures(cells, folder),
        "metrics": list(_metrics(study.fields)),
        "files": {file: about for file, about in FILES.items() if (folder / file).exists()},
        "folder": shown(folder),
        "axis": next((view.axes[0].name for view in study.views if view.axes), None),
    }


def _facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """When, with what and where, as far as the manifest says."""
    if "finished" in manifest:
        finished = datetime.fromisoformat(manifest["finished"])
        yield "finished", f"{finished:%Y-%m-%d %H:%M %Z}, after {_duration(manifest.get('wall_seconds', 0))}"
    if manifest.get("command"):
        yield "command", str(manifest["command"])
    if manifest.get("code_version"):
        yield "modesweep", str(manifest["code_version"])
    git = manifest.get("git")
    if git:
        changed = ", with uncommitted changes" if git["dirty"] else ""
        yield "git", f"{git['commit'][:12]} on {git['branch']}{changed}"
    if manifest.get("platform"):
        yield "machine", f"{manifest['host']}, {manifest['cpus']} CPU cores, {manifest['platform']}"
    settings = manifest.get("settings", {})
    if settings.get("executor"):
        workers = settings.get("workers")  # unknown where nothing was left to run
        yield "run by", settings["executor"] + (f", {workers} workers" if workers else "")
    if manifest.get("packages"):
        packages = {"python": manifest.get("python", ""), **manifest["packages"]}
        yield "packages", ", ".join(f"{package} {version}" for package, version in packages.items())
    if manifest.get("earlier_runs"):
        yield "earlier runs", f"{len(manifest['earlier_runs'])} into the same folder"


def _duration(seconds: float) -> str:
    from runner.progress import duration

    return duration(seconds)


def _answers(view: View) -> Iterator[str]:
    """What the most telling axis of an experiment decides, in a sentence."""
    if not view.axes or not view.answers:
        return
    from runner.figures.study import best_level, like_with_like, telling_levels
    from runner.figures.style import word

    axis = view.axes[0]
    best = best_level(view) if axis.numeric and len(axis.levels) > 2 else None
    mark = f" (the highest sum of {len(axis.levels)} levels)"
    levels = telling_levels(view, 4)
    settings, of = like_with_like(view, axis, levels if best is None else axis.levels)
    if settings.empty:
        return
    means = settings.groupby(axis.name)[list(SHARES)].mean()
    told = [
        f"{word(level)}{mark if level == best else ''} keeps coverage {means.loc[level, 'coverage']:.2f} "
        f"at sharpness {means.loc[level, 'sharpness']:.2f}"
        for level in levels
    ]
    targets, number = settings["target"].unique(), len(settings) // len(means)
    over = f"{len(targets)} targets" if len(targets) > 1 else targets[0]
    if number < of:
        of_what = "targets" if view.held[axis.name] == ("target",) else "settings"
        over = f"{number} of {of} {of_what}, where each of these has cells that are ok"
    yield f"{view.experiment}, by {axis.label}, on average over {over}: {'; '.join(told)}."


def _section(part: Comparison, fields: Mapping[str, Mapping[str, str]]) -> Section:
    from runner.comparison import counted

    # First, where a table that is wider than the page still shows it.
    measures = ("n", *(_heading(name, fields[name].get("unit", "")) for name in part.measures))
    rows = []
    for row in part.rows.to_dict("records"):
        labels = tuple(_plain(row[name]) for name in part.axes)
        values = (_value(name, row[name], row[f"{name}_half"]) for name in part.measures)
        rows.append((labels, (Value(counted(row)), *values)))
    return Section(part.experiment, part.axes, measures, tuple(rows), part.notes)


def _heading(name: str, unit: str) -> str:
    said = name.replace("_", " ")
    return f"{said} [{unit}]" if unit and unit not in said else said


def _value(name: str, mean: float, half: float) -> Value:
    if mean != mean:
        return Value("–")
    if name in SHARES:
        return Value(f"{mean:.3f}", "" if half != half else f"{half:.3f}", min(max(mean, 0.0), 1.0))
    if abs(mean) >= 1e6:
        return Value(f"{mean:.3g}", "" if half != half else f"{half:.2g}")
    if float(mean).is_integer() and not half > 0:
        return Value(f"{mean:,.0f}")
    # As many decimals as three digits of the mean need, so that a column's interval reads like its mean.
    decimals = 0 if abs(mean) >= 100 else 1 if abs(mean) >= 10 else 2 if abs(mean) >= 1 else 3
    return Value(f"{mean:,.{decimals}f}", "" if half != half else f"{half:,.{decimals}f}")


def _plain(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _failures(cells: pa.Table, folder: Path) -> list[dict[str, Any]]:
    """What went wrong, the most frequent first: how often, and the command that shows it in one cell."""
    import pyarrow.compute as pc

    rows = cells.filter(pc.not_equal(cells["status"], "ok")).select(OF_FAILURES).to_pandas()
    kinds = rows.groupby(list(OF_FAILURES[:3]), sort=False, dropna=False)
    first = kinds.head(1).assign(count=kinds["cell_id"].transform("size"))
    return [
        {**row, "error": _plain(row["error"]), "again": alone(folder, row["cell_id"])}
        for row in first.sort_values("count", ascending=False, kind="stable").to_dict("records")
    ]


def _metrics(fields: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str, str, str]]:
    """Name, unit, meaning and which way is better, of each metric that is not another's error."""
    for name, about in fields.items():
        if about.get("role") == "metric" and not about.get("error_of"):
            yield name, about.get("unit", ""), about.get("meaning", ""), about.get("better", "")
        elif about.get("role") == "label":
            yield name, "", about.get("meaning", ""), ""
