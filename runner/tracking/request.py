"""What to export and where to, and what came of it: plain values that travel between processes as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from runner.errors import ModesweepError
from runner.hints import looking
from runner.provenance import Provenance
from runner.tracking.location import Location, locate

Mode = Literal["cells", "groups"]
Progress = Callable[[int, int], None]

GROUPS_ABOVE = 20_000  # cells; MLflow's pages and searches take seconds beyond (17 s for a search of 10,000 runs)


@dataclass(frozen=True)
class Request:
    """What to export, and where to.

    Args:
        folder: the sweep's results folder.
        mode: a run for each cell, or for each configuration with means over its seeds.
        cells: the ids of the cells of the plan; records of any others are left out. None: every record.
        tags: what the parent run and each run below it are tagged with, such as the git commit.
    """

    folder: Path
    location: Location
    mode: Mode = "cells"
    cells: Sequence[str] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def repetition(self) -> str:
        """The command that exports the same once more; its URI, if it needs one, has no secrets."""
        results = self.folder.resolve().parent
        uri = None if self.location == locate(None, results) else self.location.hide(self.location.uri)
        return f"modesweep export {self.folder.resolve().name}{looking(results, uri)}"

    def to_line(self) -> str:
        """One line of JSON. It may hold a password, so it travels by a pipe, never on a command line."""
        cells = None if self.cells is None else list(self.cells)
        return json.dumps(
            {
                "folder": str(self.folder.resolve()),
                "location": asdict(self.location),
                "mode": self.mode,
                "cells": cells,
                "tags": dict(self.tags),
            }
        )

    @classmethod
    def from_line(cls, line: str) -> Request:
        """The request that ``to_line`` wrote."""
        said = json.loads(line)
        return cls(**{**said, "folder": Path(said["folder"]), "location": Location(**said["location"])})


@dataclass(frozen=True)
class ExportReport:
    """What an export did: cells read, runs written (new or renewed), and why it ended early, if it did.

    ``url`` is the parent run's page where a server shows it; ``problems`` is what else went wrong; ``others`` is how
    many cells of earlier plans the store has beside those of this one.
    """

    cells: int = 0
    written: int = 0
    url: str | None = None
    problems: tuple[str, ...] = ()
    error: str | None = None
    others: int = 0

    @property
    def counted(self) -> str:
        """How many cells the store has, in words."""
        return f"{self.cells:,} cells" + (f", and {self.others:,} of earlier plans" if self.others else "")


def choose_mode(asked: Literal["cells", "groups", "off"] | None, cells: int) -> tuple[Mode | None, str | None]:
    """The mode for a sweep of so many cells, None for off, and a notice if a user would not expect it."""
    if asked is not None:
        return (None if asked == "off" else asked), None
    if cells <= GROUPS_ABOVE:
        return "cells", None
    return "groups", (
        f"{cells:,} cells are more than MLflow shows well: it gets one run for each configuration, with "
        f"means over its seeds. `--mlflow cells` asks for one run for each cell"
    )


def provenance_tags(provenance: Provenance) -> dict[str, str]:
    """MLflow's own tags for the source, the user and the git state, and modesweep's version."""
    tags = {
        "mlflow.user": provenance.user,
        "mlflow.source.name": provenance.command[:500],
        "mlflow.source.type": "LOCAL",
        "modesweep_version": provenance.modesweep,
    }
    if provenance.git is not None:
        tags["mlflow.source.git.commit"] = provenance.git.commit
        tags["mlflow.source.git.branch"] = provenance.git.branch
        tags["mlflow.source.git.dirty"] = str(provenance.git.dirty).lower()
    return tags


def explain(error: BaseException, request: Request) -> str:
    """Why an export failed, in a sentence or two without secrets, and what to do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = request.location.hide(lines[0])[:400]
    if isinstance(error, ModesweepError):
        return reason
    return (
        f"MLflow at {request.location.hide(request.location.uri)} could not be written: "
        f"{reason.rstrip('.')}. The results are safe; `{request.repetition}` catches up"
    )
