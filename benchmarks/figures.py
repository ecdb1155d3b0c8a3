"""What a benchmark found: figures with the bar that each should clear, as JSON and as a page."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "results" / "benchmarks"
PACKAGES = ("modesweep", "torch", "ray", "mlflow", "pyarrow")


@dataclass(frozen=True)
class Figure:
    """One line of a section's table.

    Args:
        what: that was measured.
        value: in ``unit``.
        bar: the least (``at least``) or most (``at most``) that the value should be, or None.
    """

    what: str
    value: float
    unit: str = ""
    bar: float | None = None
    kind: str = "at most"

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
        "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Linux",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "figures": [asdict(figure) for figure in figures],
    }
    (folder / f"{section}.json").write_text(json.dumps(about, indent=1) + "\n")


def page(sections: Sequence[str], folder: Path = FOLDER) -> str:
    """Everything that is kept, as markdown, in the order of the sections."""
    kept = [json.loads(path.read_text()) for name in sections if (path := folder / f"{name}.json").is_file()]
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
        lines += ["| | measured | bar |", "|---|---:|---|"]
        for row in section["figures"]:
            figure = Figure(**row)
            lines.append(f"| {figure.what} | {figure.text} | {figure.verdict} |")
        lines += ["", f"{section['measured']}, {section['machine']}, Python {section['python']}, {versions}."]
    return "\n".join(lines) + "\n"
