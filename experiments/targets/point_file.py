"""Points from a csv, parquet or npy file, read strictly: a bad row is found before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.targets.points import Image, Points

MIN_POINTS = 10


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
        columns: which, and in which order; names, or numbers counted from 0 in an npy file. All by default.
        unit: of the coordinates.
        about: a line for lists.
        image: rows and columns of pixels, if a point is an image, row after row; an array of images says so itself.
            Pixels may be the same in every image.

    Raises:
        ValueError: names the file, and the column and row that cannot be used.
    """
    if not path.is_file():
        raise ValueError(f"no such file: {path}.{nearest(path.name, _names_in(path.parent))}")
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".npy": _read_npy}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path.name}: the file is one of {', '.join(readers)}, by its name")
    if columns is not None and (isinstance(columns, str) or not isinstance(columns, Sequence) or not columns):
        raise ValueError(f"columns: expected a list of names, such as [x, y], got {columns!r}")
    table, own = readers[path.suffix.lower()](path)
    chosen = [str(column) for column in (table if columns is None else columns)]
    for column in chosen:
        if column not in table:
            raise ValueError(
                f"{path.name} has no column '{column}'.{nearest(column, table)} It has: {', '.join(table)}."
            )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"columns: {', '.join(chosen)} has one of them twice")
    image = image or (own if columns is None else None)
    values = np.stack([_numbers(table[column], column, path.name) for column in chosen], axis=1)
    if image is None:
        _check_spread(values, chosen, path.name)
    else:
        _check_image(values, image, path.name)
    return Points(name, values, tuple(chosen), unit, about, image)


def _check_spread(values: np.ndarray, columns: Sequence[str], file: str) -> None:
    for column, numbers in zip(columns, values.T, strict=True):
        if len(numbers) and numbers.min() == numbers.max():
            raise ValueError(f"{file}: column '{column}' is {numbers[0]:g} in every row; leave it out of 'columns'")
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
    if values.dtype.kind not in "iuf":
        text = _first_text(values)
        raise ValueError(f"{file}: column '{name}' holds {text}, not numbers; choose others by 'columns'")
    numbers = values.astype(float)
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers))[0])
        what = "is missing" if np.isnan(numbers[row]) else "is infinite"
        raise ValueError(f"{file}: column '{name}', row {row + 1}: the number {what}; leave such rows out")
    return numbers


def _first_text(values: np.ndarray) -> str:
    """The first entry of a column that is no number, with its row."""
    for row, value in enumerate(values):
        try:
            float(value)
        except (TypeError, ValueError):
            return f"{str(value)[:40]!r} (row {row + 1})"
    return f"values of type {type(values.flat[0]).__name__}"


def _read_csv(path: Path) -> tuple[dict[str, Any], None]:
    import pyarrow as pa
    from pyarrow import csv

    try:
        table = csv.read_csv(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path.name} cannot be read as csv: {str(error).splitlines()[0]}") from None
    if all(_is_number(column) for column in table.column_names):
        first = ",".join(table.column_names)
        raise ValueError(f"{path.name}: the first line must name the columns, and it is {first[:60]!r}")
    return _columns(table, path), None


def _read_parquet(path: Path) -> tuple[dict[str, Any], None]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return _columns(parquet.read_table(path), path), None
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path.name} cannot be read as parquet: {str(error).splitlines()[0]}") from None


def _columns(table: Any, path: Path) -> dict[str, Any]:
    if len(set(table.column_names)) < table.num_columns:
        raise ValueError(f"{path.name} has two columns of one name: {', '.join(table.column_names)}")
    return {column: table[column] for column in table.column_names}


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


def _read_npy(path: Path) -> tuple[dict[str, Any], Image | None]:
    """The columns, and the shape of images where the array has it."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as an npy array: {str(error).splitlines()[0]}") from None
    if array.ndim not in (1, 2, 3):
        raise ValueError(
            f"{path.name}: expected an array of (points, columns), or of (images, rows, columns),"
            f" found {array.ndim} dimensions"
        )
    image = (array.shape[1], array.shape[2]) if array.ndim == 3 else None
    flat = array.reshape(len(array), -1)
    return {str(index): column for index, column in enumerate(flat.T)}, image


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
