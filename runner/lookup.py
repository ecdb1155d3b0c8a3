"""Looking things up in results folders: how far a sweep is, its comparison, everything known of a cell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.comparison import Comparison, compare, compared_columns
from runner.difference import Difference, differences
from runner.errors import NoResultsError
from runner.hints import again, alone, looking
from runner.store.checkpoints import begun
from runner.store.lock import holder
from runner.store.manifest import read_manifest
from runner.store.reading import find_folder, read_table
from runner.store.shards import read_records, read_status
from runner.summary import edge_warnings

SECTIONS = {
    "parameter": "parameters",
    "metric": "metrics",
    "label": "how they were measured",
    "fit": "the fit",
    "provenance": "provenance",
}


def status(sweep: str, results: Path) -> dict[str, Any]:
    """Cells by status as the records have them now, while a run is under way too."""
    folder = find_folder(sweep, results, begun=True)
    manifest = read_manifest(folder)
    records = read_status(folder)
    counted = Counter(records.values())
    found: dict[str, Any] = {"sweep": folder.name, "records": sum(counted.values()), **sorted_counts(counted)}
    if "counts" in manifest:
        found["cells of the last plan"] = manifest["counts"]["cells"]
        found["missing after the last run"] = manifest["counts"]["missing"]
        found["last run"] = f"{manifest['finished']} by {manifest['user']} on {manifest['host']}"
    if training := set(begun(folder)) - set(records):
        found["in training, with a checkpoint"] = len(training)
    found["running now"] = holder(folder) or "no"
    found["folder"] = str(folder)
    return found


def sorted_counts(counted: Mapping[str, int]) -> dict[str, int]:
    """Counts by status, ``ok`` first."""
    return {status: counted[status] for status in sorted(counted, key=lambda s: (s != "ok", s))}


def comparisons(folder: Path) -> list[Comparison]:
    """The coverage-sharpness table of a results folder; empty when no cell has finished."""
    if not (folder / "cells.parquet").is_file():
        return []
    summary = read_table("summary", folder)
    return compare(read_table("cells", folder, columns=compared_columns(summary)), summary)


def findings(folder: Path) -> tuple[list[Comparison], list[str]]:
    """What ``summary`` gives, of a results folder; both are empty when no cell has finished."""
    if not (folder / "cells.parquet").is_file():
        return [], []
    return comparisons(folder), edge_warnings(read_table("summary", folder))


def summary(sweep: str, results: Path) -> tuple[list[Comparison], list[str]]:
    """The table, a sentence for each nuisance axis whose best value lies on its edge, and one on what is left."""
    folder = find_folder(sweep, results)
    return comparisons(folder), [*edge_warnings(read_table("summary", folder)), *_left(folder)]


def _left(folder: Path) -> list[str]:
    """How many cells of the last plan are not ok or have not run, and the command that runs them."""
    counts = read_manifest(folder).get("counts")
    if not counts or counts["ok"] == counts["cells"]:
        return []
    missing = counts["missing"]
    not_ok = counts["cells"] - counts["ok"] - missing
    said = [f"{number:,} {what}" for number, what in ((not_ok, "are not ok"), (missing, "have not run")) if number]
    command = again(folder) + (" --retry-failed" if not_ok else "")
    return [f"Of {counts['cells']:,} cells {' and '.join(said)}; to run those: {command}"]


def compare_sweeps(a: str, b: str, results: Path) -> list[Difference]:
    """What B's results differ by from A's; see ``differences``.

    Raises:
        NoResultsError: there are no results of one of them, or the two have no experiment in common.
    """
    first, second = (find_folder(sweep, results) for sweep in (a, b))
    digests, others = (read_manifest(folder).get("targets", {}) for folder in (first, second))
    unlike = [name for name in digests if others.get(name, digests[name]) != digests[name]]
    found = differences(read_table("cells", first), read_table("cells", second), unlike)
    if not found:
        see = f"modesweep summary SWEEP{looking(results)}"
        raise NoResultsError(f"'{a}' and '{b}' have no experiment in common. What they ran: {see}")
    return found


def show(
    cell_id: str, results: Path, hindrance: Callable[[Path, str], str | None] = lambda folder, cell_id: None
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Everything known of the cell whose id begins so, in sections, and how to run it alone.

    Args:
        hindrance: why the sweep of a results folder cannot run the cell of this id again; None if it can.

    Raises:
        NoResultsError: no sweep has such a cell, or several cells' ids begin so.
    """
    folders = sorted(path.parent for path in Path(results).glob("*/records"))
    found = [(folder, id_) for folder in folders for id_ in read_status(folder) if cell_id and id_.startswith(cell_id)]
    if not found:
        held = ", ".join(folder.name for folder in folders) or "no sweep"
        raise NoResultsError(
            f"no cell has an id that begins with '{cell_id}' in {results}/ (it holds: {held}). "
            f"Ids are in cells.parquet, and in the tag cell_id of each MLflow run."
        )
    if len({id_ for _, id_ in found}) > 1:
        some = ", ".join(sorted({id_ for _, id_ in found})[:6])
        raise NoResultsError(f"several cells have an id that begins with '{cell_id}': {some}. Give more of it.")
    folder, whole = found[0]
    record = read_records(folder, [whole])
    row = record.to_pylist()[0]
    sections: dict[str, dict[str, Any]] = {heading: {} for heading in SECTIONS.values()}
    for field in record.schema:
        role = (field.metadata or {}).get(b"role", b"").decode()
        value = row[field.name]
        if role in SECTIONS and value is not None:
            unit = (field.metadata or {}).get(b"unit", b"").decode()
            sections[SECTIONS[role]][f"{field.name} ({unit})" if unit else field.name] = value
    if row["error"]:
        sections["why it is not ok"] = {"error": row["error"]}
    reason = hindrance(folder, whole)
    sections["again"] = {"command": alone(folder, whole)} if reason is None else {"not now": reason}
    kept = {name: values for name, values in sections.items() if values}
    return f"{whole}: {row['experiment']}, seed {row['seed']}, {row['status']} (sweep {row['sweep']})", kept


def summary_json(sweep: str, results: Path) -> str:
    """``summary.parquet`` as JSON records; undefined numbers are null."""
    frame = read_table("summary", find_folder(sweep, results)).to_pandas()
    return json.dumps(json.loads(frame.to_json(orient="records", double_precision=15)))
