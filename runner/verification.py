"""The table of ``modesweep verify``: numbers obtained beside numbers known, on the terminal and as files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.store.files import replacing
from runner.store.tables import write

FOLDER = "verify"
COLUMNS: tuple[tuple[str, pa.DataType, str, str], ...] = (
    ("name", pa.string(), "identity", "topic/case/quantity"),
    ("topic", pa.string(), "identity", "what the row is about"),
    ("how", pa.string(), "provenance", "what obtained the number: closed form, optimum, fit, metric or gradient"),
    ("source", pa.string(), "provenance", "where the reference is from"),
    ("obtained", pa.float64(), "metric", "the number that modesweep computes"),
    ("reference", pa.float64(), "metric", "the same number from elsewhere"),
    ("difference", pa.float64(), "metric", "obtained minus reference"),
    ("error", pa.float64(), "metric", "Monte-Carlo standard error of the difference; 0 where nothing is drawn"),
    ("tolerance", pa.float64(), "parameter", "difference that passes beside four standard errors"),
    ("allowed", pa.float64(), "parameter", "tolerance plus four standard errors"),
    ("passed", pa.bool_(), "identity", "whether the difference is allowed"),
    ("reason", pa.string(), "provenance", "why a number could not be obtained"),
    ("seconds", pa.float64(), "provenance", "spent on the row, shared stacks of fits excluded"),
)
"""Name, type, role and meaning of each column."""


class Verified(Protocol):
    """A row of the table: attributes of the names of ``COLUMNS``, of which these are used here."""

    @property
    def name(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def how(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def obtained(self) -> float: ...
    @property
    def reference(self) -> float: ...
    @property
    def difference(self) -> float: ...
    @property
    def allowed(self) -> float: ...
    @property
    def passed(self) -> bool: ...
    @property
    def reason(self) -> str: ...


def check_writable(folder: Path) -> None:
    """Try whether ``write_files`` can write, before minutes of fits and not after them.

    Raises:
        StoreError: no file can be written there.
    """
    trial = folder / FOLDER / ".trial"
    with replacing(trial) as temporary:
        temporary.touch()
    trial.unlink(missing_ok=True)


def write_files(results: Sequence[Verified], folder: Path) -> Path:
    """Write ``verify.parquet`` and ``verify.md`` into ``folder/verify``; returns that folder.

    Raises:
        StoreError: a file cannot be written.
    """
    own = folder / FOLDER
    fields = [pa.field(name, kind, metadata={"role": role, "meaning": said}) for name, kind, role, said in COLUMNS]
    columns = {name: [getattr(result, name) for result in results] for name, *_ in COLUMNS}
    write(own / f"{FOLDER}.parquet", pa.table(columns, schema=pa.schema(fields)))
    with replacing(own / f"{FOLDER}.md") as temporary:
        temporary.write_text(markdown(results), encoding="utf-8")
    return own


def markdown(results: Sequence[Verified]) -> str:
    """A table for each topic."""
    lines = [f"# Obtained beside known\n\n{_count(results)}.\n"]
    for topic in dict.fromkeys(result.topic for result in results):
        lines += [f"\n## {topic}\n", "| what | how | obtained | reference | difference | allowed | source | |"]
        lines.append("|---|---|---:|---:|---:|---:|---|---|")
        for result in results:
            if result.topic == topic:
                what, *numbers = _texts(result)
                cells = [what, result.how, *numbers, result.source, "ok" if result.passed else "**differs**"]
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def view(results: Sequence[Verified]) -> RenderableType:
    """The same on a terminal."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("row", overflow="fold")
    table.add_column("how")
    for name in ("obtained", "reference", "difference", "allowed", ""):
        table.add_column(name, justify="right", no_wrap=True)
    shown = list(results)
    for before, result in zip([None, *shown], shown, strict=False):
        if before is not None and before.topic != result.topic:
            table.add_section()
        _, *numbers = _texts(result)
        mark = Text("ok", "green") if result.passed else Text("differs", "bold red")
        table.add_row(result.name, result.how, *numbers, mark)
        if result.reason:
            table.add_row(Text(f"  {result.reason}", "red"), "", "", "", "", "", "")
    count = Text(_count(results), "bold" if all(result.passed for result in results) else "bold red")
    return Group(table, Text(""), count)


def as_json(results: Sequence[Verified], folder: Path | None) -> dict[str, Any]:
    """The same as plain values, with the folder of the table if there is one; a number not obtained is null."""
    rows = [{name: _plain(getattr(result, name)) for name, *_ in COLUMNS} for result in results]
    failed = sum(not result.passed for result in results)
    return {"folder": folder and str(folder), "rows": len(results), "failed": failed, "table": rows}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _texts(result: Verified) -> list[str]:
    what = result.name.partition("/")[2] or result.name
    numbers = (result.obtained, result.reference)
    return [what, *(f"{x:.7g}" for x in numbers), f"{result.difference:+.1e}", f"{result.allowed:.1e}"]


def _count(results: Sequence[Verified]) -> str:
    passed = sum(result.passed for result in results)
    return f"{passed} of {len(results)} numbers agree" + (
        "" if passed == len(results) else f", {len(results) - passed} differ"
    )
