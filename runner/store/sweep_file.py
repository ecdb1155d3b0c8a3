"""What the ``sweep.yaml`` of a results folder says: the question, and what its cells are told apart by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from runner.store.manifest import SWEEP


@dataclass(frozen=True)
class About:
    """What the sweep file says: ``axes`` are the parameters that vary, by experiment; seeds 0 is unknown."""

    name: str
    question: str = ""
    axes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seeds: int = 0


def about(folder: Path) -> About:
    """Read ``sweep.yaml`` of a results folder; the folder's name alone if it has none, or none that can be read."""
    content = None
    with suppress(OSError, ValueError, yaml.YAMLError):
        content = yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        return About(folder.resolve().name)
    values: dict[str, dict[str, set[str]]] = {}
    for grid in content.get("grids") or ():
        held = values.setdefault(grid.get("experiment", ""), {})
        for name, value in _settings(grid):
            held.setdefault(name, set()).add(repr(value))
    axes = {experiment: [name for name in held if len(held[name]) > 1] for experiment, held in values.items()}
    seeds = content.get("seeds", 1)
    name, question = str(content.get("name") or folder.resolve().name), str(content.get("question") or "")
    return About(name, " ".join(question.split()), axes, seeds if isinstance(seeds, int) else len(seeds))


def _settings(grid: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every parameter that a grid sets, with each value it gives."""
    for part in ("axes", "nuisance"):
        for name, values in (grid.get(part) or {}).items():
            yield from ((name, value) for value in (values if isinstance(values, list) else [values]))
    yield from (grid.get("fixed") or {}).items()
    for case in grid.get("cases") or ():
        yield from case.items()
        yield from ((name, "what the rest of the grid has") for name in case)
