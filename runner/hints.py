"""Commands that messages suggest, with the options without which they would look elsewhere."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

DEFAULT = Path("results")


def looking(results: Path, tracking_uri: str | None = None) -> str:
    """The options that lead a command to these results and this MLflow; none where it looks there anyway.

    >>> looking(Path("results")), looking(Path("/data/my runs"), "sqlite:///a.db")
    ('', " --results '/data/my runs' --tracking-uri sqlite:///a.db")
    """
    given = [] if results.resolve() == DEFAULT.resolve() else ["--results", shown(results)]
    given += ["--tracking-uri", tracking_uri] if tracking_uri else []
    return "".join(f" {shlex.quote(part)}" for part in given)


def with_options(command: str, *options: str) -> str:
    """The command with these options at its end, as far as it does not have them.

    >>> with_options("modesweep run a --retry-failed", "--retry-failed", "--executor inline")
    'modesweep run a --retry-failed --executor inline'
    """
    return " ".join([command, *(option for option in options if option not in command)])


def again(folder: Path) -> str:
    """The command that runs the sweep of a results folder again, into the same folder."""
    sweep = shlex.quote(f"{shown(folder)}/sweep.yaml")
    return f"modesweep run {sweep}{looking(folder.resolve().parent)}"


def alone(folder: Path, cell_id: str) -> str:
    """The command that runs one cell of a results folder again, into the same folder."""
    return f"{again(folder)} --cell {cell_id} --executor inline"


def shown(folder: Path) -> str:
    """The folder as one types it: relative to where the command was given, when it lies below."""
    below = os.path.relpath(folder)
    return str(folder) if below.startswith("..") else below
