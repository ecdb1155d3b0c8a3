"""Points from a csv, parquet or npy file, read strictly: a bad row is found before anything starts."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.targets.points import Image, Points

MIN_POINTS = 10
LARGEST = 1e150  # the squares of larger numbers, and of what is smaller than its inverse, are no floats


def read_points(
    name: str,
    path: Path,
    columns: Sequence[str | int] | None = None,
    unit: str = "",
    about: str = "",
    image: Image | None = None,
) -> Points:
    """The points in a file: a row is a point, a column a coordinate.

    Args:
        name: of the target.
        path: to a csv with a header, a parquet file, or an npy array ``(n,)``, ``(n, D)`` or, of images,
            ``(n, rows, columns)``.
        columns: which, and in which order; names, or numbers counted from 0 in an npy file. By default all but
            pandas' index.
        unit: of the coordinates.
        about: a line for lists.
        image: rows and columns of pixels, if a point is an image, row after row; an array of images says so itself.
            Pixels may be the same in every image.

    Raises:
        ValueError: names the file, and the column and row that cannot be used.
    """
    if path.is_dir():
        raise ValueError(f"file: {path} is a folder; give a csv, parquet or npy file")
    if not path.is_file():
        raise ValueError(f"no such file: {path}.{nearest(path.name, _names_in(path.parent))}")
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".npy": _read_npy}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path.name}: the file is one of {', '.join(readers)}, by its name")
    if columns is not None and (isinstance(columns, str) or not isinstance(columns, Sequence) or not columns):
        raise ValueError(f"columns: expected a list of names, such as [x, y], got {columns!r}")
    read = readers[path.suffix.lower()](path)
    table = read.columns
    chosen = _all_but_index(read, path.name) if columns is None else [str(column) for column in columns]
    for column in chosen:
        if column not in table:
            raise ValueError(
                f"{path.name} has no column '{column}'.{nearest(column, table)} It has: {', '.join(table)}."
            )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"columns: {', '.join(chosen)} has one of them twice")
    image = image or (read.image if columns is None else None)
    values = np.stack([_numbers(table[column], column, path.name) for column in chosen], axis=1)
    if image is None:
        _check_spread(values, chosen, path.name)
    else:
        _check_image(values, image, path.name)
    return Points(name, values, tuple(chosen), unit, about, image)


@dataclass(frozen=True)
class _Table:
    """What a file holds: columns by name, the shape of images where it has one, and which columns are an index."""

    columns: Mapping[str, Any]
    image: Image | None = None
    index: frozenset[str] = frozenset()


def _all_but_index(table: _Table, file: str) -> list[str]:
    """The columns that are coordinates where nothing else is said."""
    names = [name for name in table.columns if name not in table.index]
    if not names:
        index = f" but an index; choose it by columns: [{', '.join(table.columns)}]" if table.columns else ""
        raise ValueError(f"{file} has no columns{index}")
    named = [name for name in names if name.strip()]
    if len(named) < len(names):
        number = next(k for k, name in enumerate(names, 1) if not name.strip())
        raise ValueError(
            f"{file}: column {number} has no name: if it is pandas' index, write the file with index=False, or choose"
            f" columns: [{', '.join(named)}]"
        )
    return names


def _check_spread(values: np.ndarray, columns: Sequence[str], file: str) -> None:
    for column, numbers in zip(columns, values.T, strict=True):
        if len(numbers) and numbers.min() == numbers.max():
            raise ValueError(f"{file}: column '{column}' is {numbers[0]:g} in every row; leave it out of 'columns'")
        if len(numbers) and numbers.max() - numbers.min() < 1 / LARGEST:
            raise ValueError(f"{file}: column '{column}' has numbers less than {1 / LARGEST:g} apart; scale it")
    if len(values) < max(MIN_POINTS, values.shape[1] + 1):
        raise ValueError(f"{file}: {len(values)} points are too few, at least {MIN_POINTS} and one more than columns")


def _check_image(values: np.ndarray, image: Image, file: str) -> None:
    if image[0] * image[1] != values.shape[1]:
        raise ValueError(
            f"image: {image[0]} rows of {image[1]} pixels are {image[0] * image[1]}, and {file} has"
            f" {values.shape[1]} columns"
        )
    if len(values) < MIN_POINTS:
        raise ValueError(f"{file}: {len(values)} images are too few, at least {MIN_POINTS}")
    if values.min() == values.max():
        raise ValueError(f"{file}: every pixel of every image is {values.flat[0]:g}")


def _numbers(column: Any, name: str, file: str) -> np.ndarray:
    """A column as finite numbers."""
    values = column if isinstance(column, np.ndarray) else _from_arrow(column)
    if len(values) and values.dtype.kind not in "iuf":
        text = _first_text(values)
        raise ValueError(f"{file}: column '{name}' holds {text}, not numbers; choose others by 'columns'")
    with np.errstate(over="ignore"):  # of wider floats, which are then infinite
        numbers = values.astype(float)
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers))[0])
        what = "is missing" if np.isnan(numbers[row]) else "is infinite"
        raise ValueError(f"{file}: column '{name}', row {row + 1}: the number {what}; leave such rows out")
    if (large := np.flatnonzero(np.abs(numbers) > LARGEST)).size:
        row = int(large[0])
        raise ValueError(
            f"{file}: column '{name}', row {row + 1}: {numbers[row]:g} is too large, at most {LARGEST:g}; scale it"
        )
    return numbers


def _first_text(values: np.ndarray) -> str:
    """The first entry of a column that is no number, with its row."""
    if values.dtype.kind == "c":
        return f"values of type {values.dtype}"
    for row, value in enumerate(values):
        try:
            float(value)
        except (TypeError, ValueError):
            return f"{str(value)[:40]!r} (row {row + 1})"
    return f"values of type {type(values.flat[0]).__name__}"


def _read_csv(path: Path) -> _Table:
    import pyarrow as pa
    from pyarrow import csv

    with path.open("rb") as file:
        header = file.readline()
    try:
        header.decode()
        table = csv.read_csv(path)
    except UnicodeDecodeError:
        raise ValueError(
            f"{path.name} cannot be read as csv: its header is not UTF-8; save the file as UTF-8"
        ) from None
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path.name} cannot be read as csv: {str(error).splitlines()[0]}") from None
    if all(_is_number(column) for column in table.column_names):
        first = ",".join(table.column_names)
        raise ValueError(f"{path.name}: the first line must name the columns, and it is {first[:60]!r}")
    return _Table(_columns(table, path))


def _read_parquet(path: Path) -> _Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path.name} cannot be read as parquet: {str(error).splitlines()[0]}") from None
    told = (table.schema.pandas_metadata or {}).get("index_columns", [])  # a range is told as a dict, and is no column
    index = {name for name in told if isinstance(name, str)}
    index |= {name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)}
    return _Table(_columns(table, path), index=frozenset(index))


def _columns(table: Any, path: Path) -> dict[str, Any]:
    named = [name for name in table.column_names if name.strip()]
    if len(set(named)) < len(named):
        raise ValueError(f"{path.name} has two columns of one name: {', '.join(table.column_names)}")
    return dict(zip(table.column_names, table.columns, strict=True))


def _from_arrow(column: Any) -> np.ndarray:
    """Numbers as float64, what is missing as NaN; anything else as Python objects."""
    import pyarrow as pa

    kind = column.type
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    if not any(is_kind(kind) for is_kind in numeric):
        return np.array(column.to_pylist(), dtype=object)
    if column.null_count:
        return np.array(column.to_pylist(), dtype=float)
    # Arrow's own to_numpy would import pandas, which takes longer than the rest of a plan.
    return np.from_dlpack(column.cast(pa.float64(), safe=False).combine_chunks())


def _read_npy(path: Path) -> _Table:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        # Of anything but an array of numbers numpy says that it might be a pickle.
        reason = "it is no array of numbers" if "pickle" in str(error) else str(error).splitlines()[0]
        raise ValueError(f"{path.name} cannot be read as an npy array: {reason}") from None
    if array.ndim not in (1, 2, 3):
        raise ValueError(
            f"{path.name}: expected an array of (points, columns), or of (images, rows, columns),"
            f" found {array.ndim} dimensions"
        )
    image = (array.shape[1], array.shape[2]) if array.ndim == 3 else None
    flat = array.reshape(len(array), math.prod(array.shape[1:]))
    return _Table({str(index): column for index, column in enumerate(flat.T)}, image)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def nearest(name: object, allowed: Collection[str]) -> str:
    """`` Did you mean '...'?``, or nothing when no allowed name is near."""
    near = difflib.get_close_matches(str(name), allowed, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
