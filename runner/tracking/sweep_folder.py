"""What MLflow's run of a sweep gets of its results folder: files to attach, and a description."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runner.store.manifest import SWEEP
from runner.store.sweep_file import About

ARTIFACTS = (
    SWEEP,
    "manifest.json",
    "cells.parquet",
    "summary.parquet",
    "modes.parquet",
    "report.html",
)


def artifacts(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """The files of a results folder that are worth a copy in MLflow, each with its folder there."""
    yield from ((folder / name, None) for name in ARTIFACTS if (folder / name).is_file())
    yield from ((path, "figures") for path in sorted((folder / "figures").glob("*.png")))


def note(about: About, folder: Path, table: str | None) -> str:
    """The parent run's description, in markdown: the question, a table, and how to read the results."""
    parts = [f"**{about.question}**"] if about.question else []
    parts += [table] if table else []
    parts.append(f"Tables for pandas: `{folder / 'cells.parquet'}`, `{folder / 'summary.parquet'}`.")
    return "\n\n".join(parts)
