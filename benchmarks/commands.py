"""The commands that are measured: modesweep's own, and the baselines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Usage

ROOT = Path(__file__).parents[1]
MODESWEEP = [sys.executable, "-m", "runner.cli"]


def modesweep(*arguments: str, folder: Path) -> Usage:
    """Run and measure a modesweep command in a folder.

    Raises:
        RuntimeError: it failed.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return measured([*MODESWEEP, *arguments], cwd=folder, env={"HOME": str(folder), "PYTHONPATH": path})


def measured(command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Usage:
    """Run and measure any command.

    Raises:
        RuntimeError: it failed.
    """
    usage = measure.run(command, cwd=cwd, env=env)
    if usage.exit_code:
        raise RuntimeError(f"{' '.join(command)}: {usage.output}{usage.errors}")
    return usage


def phases(folder: Path, sweep: str) -> dict[str, float]:
    """Wall seconds of a run's parts, from its manifest."""
    found: dict[str, float] = json.loads((folder / "results" / sweep / "manifest.json").read_text())["settings"][
        "phases"
    ]
    return found


def baseline(name: str, fits: int, kind: str = "kl", *more: str) -> dict[str, float]:
    """What a baseline's ``fits`` cost: its line of JSON.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", f"benchmarks.baselines.{name}", "--fits", str(fits), "--kind", kind, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    line: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return line


def each(name: str, sizes: tuple[int, int], kind: str, *more: str) -> float:
    """Wall seconds that one more fit adds: start-up, which a thousand fits would share, is left out.

    So it is in the baseline's favour, while modesweep's own fits bear all of their start-up.
    """
    few, many = (baseline(name, size, kind, *more)["wall"] for size in sizes)
    return (many - few) / (sizes[1] - sizes[0])
