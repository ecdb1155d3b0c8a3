"""The manifest: who made a results folder, from which code, on which machine, and what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.provenance import Provenance
from runner.store.files import replacing
from runner.store.tables import Counts

MANIFEST = "manifest.json"
SWEEP = "sweep.yaml"


def write_manifest(
    folder: Path,
    sweep: str,
    provenance: Provenance,
    counts: Counts,
    *,
    started: datetime,
    finished: datetime,
    settings: Mapping[str, Any],
    targets: Mapping[str, str],
) -> None:
    """Write ``manifest.json``; of the runs before this one, which it replaces, the essentials are kept.

    Args:
        folder: the sweep's results folder.
        sweep: its name.
        provenance: of this run.
        counts: of the cells, after it.
        started: when this run did.
        finished: when it ended.
        settings: how it was run (executor, workers, ...); operational, so no part of any cell's identity.
        targets: digests by name.
    """
    times = {"started": started.isoformat(), "finished": finished.isoformat()}
    text = json.dumps(
        {
            "sweep": sweep,
            "counts": asdict(counts),
            **times,
            "wall_seconds": (finished - started).total_seconds(),
            "settings": dict(settings),
            "targets": dict(targets),
            **asdict(provenance),
            "earlier_runs": _history(folder),
        },
        indent=2,
        ensure_ascii=False,
        default=str,
    )
    write_text(folder / MANIFEST, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a results folder; empty when there is none, or none that can be read."""
    try:
        held = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _history(folder: Path) -> list[dict[str, Any]]:
    before = read_manifest(folder)
    if not before:
        return []
    kept = ("started", "finished", "wall_seconds", "command", "code_version", "host", "counts")
    return [*before.get("earlier_runs", []), {name: before.get(name) for name in kept}]
