"""Shards: the append-only files ``records/*.parquet``, one for each batch, that everything else is made from.

A shard appears whole or not at all: it is written under another name, flushed to the disk, then renamed.
Nothing edits a shard afterwards, so reading needs no lock, and a process killed at any moment leaves every
finished batch readable.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runner.errors import StoreError
from runner.store.files import replacing

RECORDS = "records"
DAMAGED = ".damaged"
REQUIRED = {"cell_id": pa.string(), "status": pa.string(), "finished_at": pa.timestamp("us", "UTC")}
READERS = 8
AHEAD = 16

Report = Callable[[str], None]

_log = logging.getLogger(__name__)


def write_shard(folder: Path, table: pa.Table) -> Path:
    """Write one batch's records to ``folder/records/<batch_id>-<unique>.parquet``, whole or not at all.

    Raises:
        StoreError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    batch_id = table.column("batch_id")[0].as_py()
    path = folder / RECORDS / f"{batch_id}-{uuid.uuid4().hex}.parquet"
    with replacing(path) as temporary:
        # Hundreds of short columns: lz4, and dictionaries for text alone, take half the time of the defaults.
        text = [field.name for field in table.schema if field.type == pa.string()]
        pq.write_table(table, temporary, compression="lz4", use_dictionary=text, write_page_checksum=True)
    return path


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a sweep's results folder, by name; empty when there is none yet.

    Raises:
        StoreError: there may be some, and they cannot be listed.
    """
    records = folder / RECORDS
    try:
        return sorted(path for path in records.iterdir() if path.suffix == ".parquet")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"{records} cannot be read: {error.strerror}") from error


def read_status(folder: Path, report: Report = _log.warning) -> dict[str, str]:
    """The status of every cell that has a record: cell id -> the status of its newest record.

    ``report`` is told in a sentence of a damaged shard, whose cells count as having no record.
    """
    tables = [table for _, table in read_shards(shard_paths(folder), REQUIRED.__contains__, report)]
    if not tables:
        return {}
    newest_last = pa.concat_tables(tables).sort_by("finished_at")
    return dict(zip(newest_last["cell_id"].to_pylist(), newest_last["status"].to_pylist(), strict=True))


def read_records(
    folder: Path,
    cell_ids: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    report: Report = _log.warning,
) -> pa.Table:
    """Every record, or the newest record of each of the given cells, in their order.

    A column that only some records have is null in the others. Cells without a record are left out.
    """
    wanted = anything if columns is None else {*columns, *REQUIRED}.__contains__
    paths = shard_paths(folder)
    if cell_ids is not None:  # a few cells lie in a few shards: only those are read in full
        asked = pa.array(cell_ids, pa.string())
        ids = read_shards(paths, "cell_id".__eq__, report)
        paths = [path for path, table in ids if pc.any(pc.is_in(table["cell_id"], asked)).as_py()]
    table = joined([table for _, table in read_shards(paths, wanted, report)])
    if cell_ids is not None and len(table):
        table = table.take(newest(table, cell_ids))
    return table if columns is None or not len(table) else table.select(columns)


def newest(records: pa.Table, cell_ids: Sequence[str]) -> np.ndarray:
    """The row of each cell's newest record, in the order of the cells; cells without one are left out."""
    positions = pc.index_in(records["cell_id"], value_set=pa.array(cell_ids, pa.string()))
    asked = np.flatnonzero(pc.is_valid(positions))
    place = positions.drop_null().to_numpy()
    finished = records["finished_at"].cast(pa.int64()).to_numpy()[asked]
    order = np.lexsort((finished, place))
    last = np.append(np.diff(place[order]) != 0, True)[: len(order)]
    rows: np.ndarray = asked[order[last]]
    return rows


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of several experiments as one: a column that a table does not have is null in its rows.

    Where two give one column different types, numbers become float64, lists of structs get the fields of all, and
    anything else becomes text.
    """
    kinds: dict[str, set[pa.DataType]] = {}
    for layout in {table.schema for table in tables}:
        for field in layout:
            kinds.setdefault(field.name, set()).add(field.type)
    common = {name: _common(held) for name, held in kinds.items() if len(held) > 1}
    cast = [_with_types(table, common) for table in tables]
    return pa.concat_tables(cast, promote_options="default") if cast else pa.table({})


def _common(kinds: set[pa.DataType]) -> pa.DataType:
    if all(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) for kind in kinds):
        fields = {field.name: field for kind in kinds for field in kind.value_type}
        widest = max(kinds, key=lambda kind: kind.value_type.num_fields).value_type
        rest = [fields[name] for name in sorted(set(fields) - {field.name for field in widest})]
        return pa.list_(pa.struct([*widest, *rest]))
    numeric = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds)
    return pa.float64() if numeric else pa.string()


def _with_types(table: pa.Table, kinds: Mapping[str, pa.DataType]) -> pa.Table:
    fields = [field.with_type(kinds.get(field.name, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata)) if kinds else table


def anything(name: str) -> bool:
    """Every column."""
    return True


def read_shards(
    paths: Sequence[Path],
    wanted: Callable[[str], bool] = anything,
    report: Report = _log.warning,
    *,
    set_aside: bool = False,
) -> Iterator[tuple[Path, pa.Table]]:
    """Each readable shard's table, in the order of the paths.

    Only the columns whose name is ``wanted`` are read, and a few shards at a time, so memory stays small.

    Args:
        report: told in a sentence of each damaged shard, which is left out.
        set_aside: rename it ``<name>.damaged``. For the driver, which holds the folder's lock: what a reader sees may
            be a file system's old view of a shard, or one that a newer pyarrow wrote.
    """

    def read(path: Path) -> pa.Table | None:
        try:
            return _read_shard(path, wanted)
        except FileNotFoundError:  # set aside since it was listed
            return None
        except (pa.ArrowInvalid, OSError) as error:
            # The operating system's own refusals have a number, and say nothing of the content.
            if getattr(error, "errno", None) is not None:
                raise StoreError(f"{path} cannot be read: {error}") from error
            if set_aside:
                with suppress(OSError):  # a folder that cannot be written can still be read
                    path.rename(path.with_name(path.name + DAMAGED))
            report(f"{path} is damaged ({_first_line(error)}); it is left out, and a run does its cells again")
            return None

    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), AHEAD):
            group = paths[start : start + AHEAD]
            for path, table in zip(group, pool.map(read, group), strict=True):
                if table is not None:
                    yield path, table


def _read_shard(path: Path, wanted: Callable[[str], bool]) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        held = file.schema_arrow
        for name, kind in REQUIRED.items():
            if name not in held.names or held.field(name).type != kind:
                raise pa.ArrowInvalid(f"it has no column '{name}' of type {kind}")
        return file.read(columns=[name for name in held.names if wanted(name)], use_threads=False)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
