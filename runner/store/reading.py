"""Reading the tables of a sweep into pandas."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runner.errors import NoResultsError, StoreError
from runner.hints import looking
from runner.store.lock import holder
from runner.store.manifest import SWEEP

if TYPE_CHECKING:
    import pandas as pd


def read_cells(sweep: str | Path, results: str | Path = "results") -> pd.DataFrame:
    """A row for each cell of the sweep, in the order of its plan.

    Args:
        sweep: the sweep's name, or the path of its results folder.
        results: the folder that holds the results of all sweeps.

    Raises:
        NoResultsError: there are no such results; it is a StoreError.
    """
    return _pandas(read_table("cells", sweep, results))


def read_summary(sweep: str | Path, results: str | Path = "results") -> pd.DataFrame:
    """A row for each configuration: number of cells, and mean, sd and interval of each metric."""
    return _pandas(read_table("summary", sweep, results))


def read_curves(
    sweep: str | Path, results: str | Path = "results", cell_ids: Sequence[str] | None = None
) -> pd.DataFrame:
    """``cell_id, step, metric, value``: training curves, of all cells or of those given."""
    return _pandas(read_table("curves", sweep, results, cell_ids))


def read_modes(
    sweep: str | Path, results: str | Path = "results", cell_ids: Sequence[str] | None = None
) -> pd.DataFrame:
    """A row for each cell and mode of its target, of all cells or of those given."""
    return _pandas(read_table("modes", sweep, results, cell_ids))


def read_samples(
    sweep: str | Path, results: str | Path = "results", cell_ids: Sequence[str] | None = None
) -> pd.DataFrame:
    """``cell_id, draw, x0, x1, ...``: draws from each fit, of all cells or of those given."""
    return _pandas(read_table("samples", sweep, results, cell_ids))


def read_table(
    name: str,
    sweep: str | Path,
    results: str | Path = "results",
    cell_ids: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """One of the sweep's tables as Arrow, whose field metadata say what each column is.

    Args:
        cell_ids: only their rows.
        columns: only those, as far as there are such; all of them unless given.
    """
    path = find_folder(sweep, results) / f"{name}.parquet"
    if not path.is_file():
        if who := holder(path.parent):
            see = f"modesweep status {path.parent.resolve().name}{looking(path.parent.resolve().parent)}"
            raise StoreError(f"{path} is made when the run that is under way has ended ({who}). How far it is: {see}")
        raise StoreError(f"{path} does not exist: run the sweep again to make it (finished cells are kept)")
    if cell_ids is not None:
        return rows_of(path, "cell_id", cell_ids, columns)
    with _readable(path):
        return pq.read_table(path, columns=_held(pq.read_schema(path), columns))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{path} cannot be read ({error}): run the sweep again to make it anew") from error


def rows_of(path: Path, key: str, names: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows whose ``key`` is one of the names: a row group after the other, so that a large table is never held.

    Raises:
        StoreError: the file is damaged.
    """
    wanted = pa.array(names, pa.string())
    with _readable(path), pq.ParquetFile(path) as file:
        held = _held(file.schema_arrow, columns)
        found = [file.schema_arrow.empty_table().select(held)]
        for group in range(file.num_row_groups):
            here = pc.is_in(file.read_row_group(group, columns=[key])[key], wanted)
            if pc.any(here).as_py():
                found.append(file.read_row_group(group, columns=held).filter(here))
    return pa.concat_tables(found)


def _held(layout: pa.Schema, columns: Sequence[str] | None) -> list[str]:
    return [name for name in layout.names if columns is None or name in columns]


def _pandas(table: pa.Table) -> pd.DataFrame:
    """Whole numbers and truth values stay what they are where some are missing."""
    import pandas as pd

    nullable = {"int64": pd.Int64Dtype(), "bool": pd.BooleanDtype()}
    frame: pd.DataFrame = table.to_pandas()
    for name in table.column_names:
        kind = nullable.get(str(table.field(name).type))
        if kind and table[name].null_count:
            frame[name] = table[name].to_pandas(types_mapper=lambda _, kind=kind: kind)
    return frame


def find_folder(sweep: str | Path, results: str | Path = "results", *, begun: bool = False) -> Path:
    """The results folder of a sweep: a name is one under ``results``, which no folder here hides; else it is a path.

    ``begun``: one without results will do, in which a run has begun.
    """
    path = Path(sweep)
    named = isinstance(sweep, str) and path.name == sweep != ".."
    for folder in (Path(results) / path,) if named else (path, Path(results) / path):
        if _has_results(folder) or (begun and (folder / SWEEP).is_file()):
            return folder if folder.name not in ("", "..") else folder.resolve()  # messages and MLflow show its name
    known = sorted(path.parent.name for path in Path(results).glob("*/cells.parquet"))
    near = difflib.get_close_matches(str(sweep), known, n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    held = f"It holds: {', '.join(known[:20])}." if known else "It holds none yet."
    said = f"no results of a sweep '{sweep}' in {results}/.{guess} {held}"
    file = f"./{sweep}.yaml"
    if not named:
        raise NoResultsError(f"{said} A path is that of a folder with cells.parquet or records/ in it.")
    if _has_results(path):
        raise NoResultsError(f"{said} The folder ./{sweep} is meant only by its path.")
    if Path(file).is_file():
        raise NoResultsError(f"{said} Next: modesweep run {file}{looking(Path(results))}")
    raise NoResultsError(said, str(sweep), looking(Path(results)))


def _has_results(folder: Path) -> bool:
    return (folder / "cells.parquet").is_file() or (folder / "records").is_dir()
