"""What a benchmark found: figures with the bar that each should clear, as JSON and as markdown."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "results" / "benchmarks"
DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
MARKED = re.compile(r"(<!-- benchmarks: ([a-z_ ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PACKAGES = ("modesweep", "torch", "ray", "mlflow", "pyarrow")


@dataclass(frozen=True)
class Figure:
    """One line of a section's table.

    Args:
        what: that was measured.
        value: in ``unit``.
        bar: the least (``at least``) or most (``at most``) that the value should be, or None.
        stack: how many cells were one stack, where that is what was varied.
    """

    what: str
    value: float
    unit: str = ""
    bar: float | None = None
    kind: str = "at most"
    stack: int | None = None

    @property
    def title(self) -> str:
        return self.what if self.stack is None else f"{self.what}, stack of {self.stack}: a cell"

    @property
    def verdict(self) -> str:
        """The bar, and whether the value clears it."""
        if self.bar is None:
            return ""
        holds = self.value >= self.bar if self.kind == "at least" else self.value <= self.bar
        return f"{self.kind} {self.bar:g}: {'yes' if holds else 'NO'}"

    @property
    def text(self) -> str:
        return f"{self.value:.3g} {self.unit}".strip() if abs(self.value) < 1000 else f"{self.value:,.0f} {self.unit}"


def at_least(what: str, value: float, bar: float, unit: str = "") -> Figure:
    """A figure that should be large."""
    return Figure(what, value, unit, bar, "at least")


def save(section: str, title: str, figures: Sequence[Figure], quick: bool, folder: Path = FOLDER) -> None:
    """Keep a section's figures, with where and when they were measured."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "section": section,
        "title": " ".join(title.split()),
        "quick": quick,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": ", ".join([f"{len(os.sched_getaffinity(0))} cores", *_gpus(), platform.machine(), "Linux"]),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "figures": [asdict(figure) for figure in figures],
    }
    (folder / f"{section}.json").write_text(json.dumps(about, indent=1) + "\n")


def _gpus() -> list[str]:
    """Their names, where torch has been loaded and can use any."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]


def page(sections: Sequence[str], folder: Path = FOLDER) -> str:
    """Everything that is kept, as markdown, in the order of the sections."""
    kept = [_read(name, folder) for name in sections if (folder / f"{name}.json").is_file()]
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Whole commands, all their processes included, measured on the same machine one after",
        "another; compare the ratios, not the seconds. CPU seconds count every process of a command.",
    ]
    for section in kept:
        versions = ", ".join(f"{name} {number}" for name, number in section["versions"].items())
        quick = " (`--quick`: small sizes, rough figures)" if section["quick"] else ""
        lines += ["", f"## {section['section']}{quick}", "", section["title"], ""]
        lines += markdown([Figure(**row) for row in section["figures"]])
        lines += ["", f"{section['measured']}, {section['machine']}, Python {section['python']}, {versions}."]
    return "\n".join(lines) + "\n"


def markdown(figures: Sequence[Figure]) -> list[str]:
    """The lines of tables: of figures by size of a stack a row for each size, of the others one for each."""
    stacks = [figure for figure in figures if figure.stack is not None]
    others = [figure for figure in figures if figure.stack is None]
    between = [""] if stacks and others else []
    return [*(_by_stack(stacks) if stacks else []), *between, *(_one_by_one(others) if others else [])]


def renewed(document: str, folder: Path = FOLDER) -> str:
    """A document with its marked tables, ``<!-- benchmarks: SECTION ... -->``, made anew from what is kept."""

    def table(mark: re.Match[str]) -> str:
        figures = [Figure(**row) for name in mark[2].split() for row in _read(name, folder)["figures"]]
        return mark[1] + "\n".join(markdown(figures)) + "\n" + mark[3]

    return MARKED.sub(table, document)


def _one_by_one(figures: Sequence[Figure]) -> list[str]:
    rows = [f"| {figure.title} | {figure.text} | {figure.verdict} |" for figure in figures]
    return ["| | measured | bar |", "|---|---:|---|", *rows]


def _by_stack(figures: Sequence[Figure]) -> list[str]:
    found = {(figure.what, figure.stack): figure for figure in figures}
    cases = list(dict.fromkeys(figure.what for figure in figures))
    lines = ["| stack | " + " | ".join(cases) + " |", "|---:|" + "---:|" * len(cases)]
    for size in sorted({figure.stack for figure in figures if figure.stack is not None}):
        held = [found.get((case, size)) for case in cases]
        lines.append(f"| {size} | " + " | ".join(figure.text if figure else "" for figure in held) + " |")
    return lines


def _read(section: str, folder: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((folder / f"{section}.json").read_text())
    return kept
