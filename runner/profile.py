"""Where a run's time goes: the driver's phases, how busy its workers were, and what their time was spent on."""

from __future__ import annotations

import cProfile
import json
import pstats
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import pyarrow as pa

from runner.executors import BatchResult
from runner.store.manifest import write_text

FILE = "profile.json"
KEY = b"profile"  # of a table's metadata, in which a worker's figures travel with its records
PACKAGES = ("runner", "experiments")
SHOWN = 12

Spent = dict[str, list[float]]
"""By function: how often it was called, seconds of its own and of what it calls outside these packages, and in all."""


def watched(call: Callable[[], pa.Table]) -> pa.Table:
    """The table that ``call`` makes, with what each function of these packages spent on it."""
    profiler = cProfile.Profile()
    table = profiler.runcall(call)
    spent = json.dumps(_of_packages(pstats.Stats(profiler))).encode()
    return table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: spent})


@dataclass
class Profile:
    """What is known of one run so far."""

    began: float = field(default_factory=time.perf_counter)
    first_batch: float | None = None
    batches: int = 0
    cells: int = 0
    busy: float = 0.0
    transferred: int = 0
    last: dict[str, float] = field(default_factory=dict)
    spent: Spent = field(default_factory=dict)

    def take(self, result: BatchResult) -> pa.Table:
        """Count a batch in; returns its records without the worker's figures."""
        now = time.perf_counter() - self.began
        if self.first_batch is None:
            self.first_batch = now
        names = set(result.table["worker"].unique().to_pylist())
        self.last |= dict.fromkeys(names - {""}, now)  # nobody ran a batch that killed its workers
        self.batches += 1
        self.cells += len(result.table)
        self.busy += result.seconds
        self.transferred += result.table.nbytes
        metadata = dict(result.table.schema.metadata or {})
        for name, figures in json.loads(metadata.pop(KEY, b"{}")).items():
            before = self.spent.get(name, [0.0, 0.0, 0.0])
            self.spent[name] = [a + b for a, b in zip(before, figures, strict=True)]
        return result.table.replace_schema_metadata(metadata)

    def write(self, folder: Path, phases: Mapping[str, float], workers: int) -> Path:
        """Write ``profile.json``: seconds of wall time for the driver, of a worker's time for the functions."""
        path = folder / FILE
        names = sorted(self.spent, key=lambda name: -self.spent[name][2])
        rows = [dict(zip(("calls", "own", "in_all"), self.spent[name], strict=True)) for name in names]
        figures = {
            "wall": time.perf_counter() - self.began,
            "phases": dict(phases),
            "first_batch_after": self.first_batch,
            "workers": {
                "count": workers,
                "busy": self.busy,
                "longest_idle_at_end": self._longest_idle(workers),
                "batches": self.batches,
                "cells": self.cells,
            },
            "records_bytes": self.transferred,
            "functions": [{"function": name, **row} for name, row in zip(names, rows, strict=True)],
        }
        write_text(path, json.dumps(figures, indent=1) + "\n")
        return path

    def _longest_idle(self, workers: int) -> float:
        """Seconds that a worker had nothing left to do while another worked: all of them if it never had a batch."""
        ends = sorted([*[0.0] * workers, *self.last.values()])[-workers:]
        return ends[-1] - ends[0]


def read(path: Path) -> dict[str, dict[str, object]]:
    """The figures of a profile as sections of named values, the largest functions first."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    workers = kept["workers"]
    return {
        "driver, seconds": {**kept["phases"], "first batch after": kept["first_batch_after"], "in all": kept["wall"]},
        "workers": {
            "busy, seconds": workers["busy"],
            "... of their time in cells": workers["busy"] / (workers["count"] * (kept["phases"].get("cells") or 1.0)),
            "longest idle at the end, seconds": workers["longest_idle_at_end"],
            "batches": workers["batches"],
            "records, MB": kept["records_bytes"] / 1e6,
        },
        "functions of the workers, seconds in all": {
            row["function"]: row["in_all"] for row in kept["functions"][:SHOWN]
        },
    }


def _of_packages(stats: pstats.Stats) -> Spent:
    """What the packages' own functions spent; a foreign function's time is its caller's own."""
    rows: Mapping[tuple[str, int, str], tuple[int, int, float, float, Mapping[tuple[str, int, str], tuple[float, ...]]]]
    rows = stats.stats  # type: ignore[attr-defined]
    spent: Spent = {}
    for key, (_, calls, own, in_all, _) in rows.items():
        name = _name(key)
        if name is not None:
            before = spent.get(name, [0.0, 0.0, 0.0])
            spent[name] = [before[0] + calls, before[1] + own, before[2] + in_all]
    for key, (*_, callers) in rows.items():
        for caller, (_, _, own, _) in callers.items():
            name = _name(caller)
            if _name(key) is None and name is not None:
                spent[name][1] += own
    return spent


def _name(key: tuple[str, int, str]) -> str | None:
    """``package/module.py:function`` of a function of these packages."""
    parts = PurePath(key[0]).parts
    start = next((i for i, part in enumerate(parts) if part in PACKAGES), None)
    return None if start is None else f"{'/'.join(parts[start:])}:{key[2]}"
