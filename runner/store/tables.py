"""Tables: the parquet files for people and pandas, made anew from the shards of a sweep.

``cells`` has a row for each cell of the plan, in the plan's order; ``curves``, ``modes`` and ``samples`` have
several for each, and ``summary`` one for each configuration.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runner.provenance import version
from runner.store.files import replacing
from runner.store.nested import curve_schema, mode_schema, sample_rows, sample_schema, struct_rows
from runner.store.shards import REQUIRED, Report, joined, newest, read_shards, shard_paths
from runner.summary import summarise

ROLES = ("identity", "parameter", "label", "metric", "fit", "provenance")
ROWS = 1 << 14  # of cells at a time: a wide sweep's take some 25 MB
CHUNK = 4 << 20  # bytes of curves, modes and samples at a time; taken apart into rows they are several times that
SOURCE = {"curves": "curves", "modes": "modes", "samples": "q_samples"}

Places = Mapping[Path, tuple[np.ndarray, np.ndarray]]
"""For each shard that counts, the rows that do, and each one's place in ``cells``."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """How many cells the plan has, what became of them, and how many cells of other plans have records."""

    cells: int
    ok: int
    diverged: int
    failed: int
    timeout: int
    missing: int
    other: int

    @property
    def tabulated(self) -> bool:
        """Whether there are tables: any cell, of this plan or another, has a record."""
        return self.missing < self.cells or self.other > 0


def write_tables(
    folder: Path,
    cell_ids: Sequence[str],
    *,
    sweep: str,
    nuisance: Mapping[str, Sequence[str]],
    samples: bool = True,
    report: Report = _log.warning,
) -> Counts:
    """Make ``cells``, ``summary``, ``curves``, ``modes`` and ``samples.parquet`` from the folder's shards.

    Args:
        folder: the sweep's results folder.
        cell_ids: the cells of the plan, in its order; records of any others stay in the shards alone.
        sweep: its name, kept in each file's metadata.
        nuisance: by experiment, the parameters that the summary optimises away.
        samples: whether to write ``samples.parquet``; an older one is removed when not.
        report: told of each damaged shard.

    Raises:
        StoreError: a file cannot be written; each table is then either the new or the old one, whole.
    """
    about = {"modesweep_version": version(), "sweep": sweep}
    optimised = json.dumps({name: list(parameters) for name, parameters in nuisance.items()})
    path, damaged = folder / "cells.parquet", set[Path]()
    while (found := _find(folder, cell_ids, damaged, report)) is not None:
        try:
            _write_cells(path, found, {**about, "nuisance": optimised, **found.objectives}, report)
            break
        except _DamagedError as error:  # what the shards told of is now older, or missing
            damaged |= error.shards
    if found is None:
        return _counts(cell_ids, [], 0)
    with pq.ParquetFile(path) as file:
        write(folder / "summary.parquet", summarise(_OnDisk(file)))
    layouts = {"curves": curve_schema(), "modes": mode_schema(), "samples": sample_schema(found.sample_width)}
    if not samples:
        del layouts["samples"]
        (folder / "samples.parquet").unlink(missing_ok=True)
    described = {name: layout.with_metadata(about) for name, layout in layouts.items()}
    _write_nested(folder, found.places, described, report)
    return _counts(cell_ids, found.statuses, found.other)


@dataclass(frozen=True)
class _Found:
    """Where the newest record of each cell of the plan lies; the records themselves stay on the disk.

    Args:
        places: of the records.
        layout: of ``cells``.
        objectives: what the file's metadata say of each experiment's objective, as JSON.
        sample_width: dimensions of the widest samples.
        statuses: in the order of ``cells``.
        other: how many cells have records and are not of the plan.
    """

    places: Places
    layout: pa.Schema
    objectives: Mapping[str, str]
    sample_width: int
    statuses: Sequence[str]
    other: int


class _DamagedError(Exception):
    """Of these shards some columns could be read, and others not."""

    def __init__(self, shards: set[Path]) -> None:
        super().__init__(shards)
        self.shards = shards


@dataclass(frozen=True)
class _OnDisk:
    """The columns of a parquet file, each read when it is asked for: a summary looks at one after the other."""

    file: pq.ParquetFile

    @property
    def schema(self) -> pa.Schema:
        return self.file.schema_arrow

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.file.read(columns=[name])[name]


def _find(folder: Path, cell_ids: Sequence[str], damaged: Set[Path], report: Report) -> _Found | None:
    paths = [path for path in shard_paths(folder) if path not in damaged]
    shards = list(read_shards(paths, REQUIRED.__contains__, report, set_aside=True))
    if not shards:
        return None
    records = pa.concat_tables([table.select(sorted(REQUIRED)) for _, table in shards])
    rows = newest(records, cell_ids)
    starts = np.cumsum([0, *(len(table) for _, table in shards)])
    by_shard = np.argsort(rows)
    bounds = np.searchsorted(rows[by_shard], starts)
    places = {}
    for (path, _), start, a, b in zip(shards, starts[:-1], bounds[:-1], bounds[1:], strict=True):
        if b > a:
            places[path] = (rows[by_shard[a:b]] - start, by_shard[a:b])
    layouts = {path: pq.read_schema(path) for path, _ in shards}
    notes = [layout.metadata for layout in layouts.values()]
    objectives = {_note(note, "experiment"): _note(note, "objective") for note in notes}
    objectives_of = {_note(note, "experiment"): json.loads(_note(note, "objective_of") or "[]") for note in notes}
    return _Found(
        places=places,
        layout=_layout(layouts, places),
        objectives={"objective": json.dumps(objectives), "objective_of": json.dumps(objectives_of)},
        sample_width=max(int(_note(note, "sample_width") or 0) for note in notes),
        statuses=records["status"].take(rows).to_pylist(),
        other=pc.count_distinct(records["cell_id"]).as_py() - len(rows),
    )


def _layout(layouts: Mapping[Path, pa.Schema], places: Places) -> pa.Schema:
    """The columns by role, and within a role by experiment, in the order of the experiments' first cells."""
    first: dict[str, int] = {}
    for path in sorted(places, key=lambda path: int(places[path][1].min())):
        first.setdefault(_note(layouts[path].metadata, "experiment"), len(first))
    # Schemas are equal whatever their metadata, and what newer code says of a column is there alone.
    distinct = list({layout.serialize().to_pybytes(): layout for layout in layouts.values()}.values())
    distinct.sort(key=lambda layout: first.get(_note(layout.metadata, "experiment"), len(first)))
    together = joined([layout.empty_table() for layout in distinct]).schema
    flat = [_described(field, distinct) for field in together if field.name not in SOURCE.values()]
    rank = {role: i for i, role in enumerate(ROLES)}
    fields = sorted(flat, key=lambda field: rank.get(_note(field.metadata, "role"), len(rank)))
    return pa.schema(fields)


def _described(field: pa.Field, layouts: Iterable[pa.Schema]) -> pa.Field:
    """The field with its meaning: that of each experiment, where experiments do not mean the same by it."""
    meant: dict[str, str] = {}
    for layout in layouts:
        if field.name in layout.names and (meaning := _note(layout.field(field.name).metadata, "meaning")):
            meant.setdefault(_note(layout.metadata, "experiment"), meaning)
    together = [f"{name}: {meaning}" for name, meaning in meant.items()] if len(set(meant.values())) > 1 else []
    meaning = "; ".join(together) or next(iter(meant.values()), "")
    return field.with_metadata({**(field.metadata or {}), b"meaning": meaning.encode()})


def _write_cells(path: Path, found: _Found, about: Mapping[str, str], report: Report) -> None:
    """The rows in the plan's order, some thousand at a time, each from the shards that they lie in."""
    layout = found.layout.with_metadata(about)
    spans = {shard: (int(at.min()), int(at.max())) for shard, (_, at) in found.places.items()}
    with replacing(path) as temporary, pq.ParquetWriter(temporary, layout, **_options(layout)) as writer:
        for start in range(0, max(1, len(found.statuses)), ROWS):
            stop = start + ROWS
            here = [shard for shard, (low, high) in spans.items() if low < stop and high >= start]
            pieces, places = {}, []
            for shard, table in read_shards(here, set(layout.names).__contains__, report, set_aside=True):
                rows, at = found.places[shard]
                inside = (at >= start) & (at < stop)
                pieces[shard] = table.take(rows[inside])
                places.append(at[inside])
            if missing := set(here) - set(pieces):
                raise _DamagedError(missing)
            order = np.argsort(np.concatenate([*places, np.zeros(0, int)]))
            whole = joined([layout.empty_table(), *pieces.values()])
            writer.write_table(whole.select(layout.names).take(order).cast(layout))


def _write_nested(
    folder: Path,
    places: Places,
    layouts: Mapping[str, pa.Schema],
    report: Report,
) -> None:
    """Curves, modes and samples, chunk by chunk: in the plan's order within a chunk."""
    with ExitStack() as open_files:
        writers = {}
        for name, layout in layouts.items():
            path = open_files.enter_context(replacing(folder / f"{name}.parquet"))
            writers[name] = open_files.enter_context(pq.ParquetWriter(path, layout, **_options(layout)))
        for records in _chunks(places, {SOURCE[name] for name in layouts}, report):
            for name, writer in writers.items():
                if name == "samples":
                    writer.write_table(sample_rows(records, layouts[name]))
                else:
                    writer.write_table(struct_rows(records, name, layouts[name]))


def _chunks(places: Places, columns: set[str], report: Report) -> Iterator[pa.Table]:
    """The nested columns of the records that count, some megabytes at a time."""
    first_cell_first = sorted(places, key=lambda path: places[path][1].min())
    held: list[pa.Table] = []
    size = 0
    for path, table in read_shards(first_cell_first, {"cell_id", *columns}.__contains__, report, set_aside=True):
        rows, at = places[path]
        held.append(table.take(rows).append_column("place", pa.array(at)))
        size += held[-1].nbytes
        if size >= CHUNK:
            yield joined(held).sort_by("place")
            held, size = [], 0
    if held:
        yield joined(held).sort_by("place")


def write(path: Path, table: pa.Table) -> None:
    """Write one table, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, **_options(table.schema))


def _options(layout: pa.Schema) -> dict[str, Any]:
    """Measurements hardly repeat: a dictionary of them costs time and saves nothing."""
    repeating = [f.name for f in layout if _note(f.metadata, "role") not in ("metric", "fit", "nested")]
    return {"compression": "zstd", "write_page_checksum": True, "use_dictionary": repeating}


def _note(metadata: Mapping[bytes, bytes] | None, name: str) -> str:
    return (metadata or {}).get(name.encode(), b"").decode()


def _counts(cell_ids: Sequence[str], statuses: Sequence[str], other: int) -> Counts:
    counted = Counter(statuses)
    return Counts(
        cells=len(cell_ids),
        ok=counted["ok"],
        diverged=counted["diverged"],
        failed=counted["failed"],
        timeout=counted["timeout"],
        missing=len(cell_ids) - len(statuses),
        other=other,
    )
