"""Optima are found once for each target, family and divergence, and kept on disk by their content."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from experiments.targets import Target
from experiments.truth.divergence import Divergence
from experiments.truth.search import Family, Optimum, search

VERSION = 2  # raised when the search would find something else
PATIENCE = 600.0  # seconds; the longest search known takes half a minute
NOWHERE = Path(os.devnull)  # below a file nothing can be read or written


@dataclass(frozen=True)
class _Question:
    """What the optima depend on; equal for targets of the same numbers, whatever their names."""

    digest: str
    family: Family
    divergence: Divergence
    target: Target = field(compare=False)

    @property
    def key(self) -> dict[str, Any]:
        names = {"target": self.digest, "family": self.family, "divergence": self.divergence.key}
        return {"version": VERSION, **names}


def optima(target: Target, family: Family, divergence: Divergence | str) -> tuple[Optimum, ...]:
    """The local optima that were found, the best first; empty where none is known.

    Kept in ``$MODESWEEP_CACHE``, or in ``modesweep`` in the user's cache folder (``$XDG_CACHE_HOME``,
    ``~/.cache``). A folder that cannot be written costs time and nothing else.

    Raises:
        ValueError: no Gaussian has a finite divergence from the target.
    """
    return _optima(_question(target, family, divergence))


def search_ahead(target: Target, family: Family, divergence: Divergence | str) -> None:
    """Search for the optima before they are wanted, unless another process is at it: by then it will have them."""
    question = _question(target, family, divergence)
    if not _is_searched_for(_path(question)):
        _optima(question)


def _question(target: Target, family: Family, divergence: Divergence | str) -> _Question:
    chosen = divergence if isinstance(divergence, Divergence) else Divergence(divergence)  # type: ignore[arg-type]
    return _Question(target.digest, family, chosen, target)


@lru_cache(maxsize=1024)
def _optima(question: _Question) -> tuple[Optimum, ...]:
    path = _path(question)
    found = _read(path, question)
    if found is None:
        with _alone(path):
            found = _read(path, question)
            if found is None:
                found = search(question.target, question.family, question.divergence)
                with suppress(OSError):
                    _write(path, question, found)
    return found


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Workers that ask the same at once wait for the first one's answer, where files can be locked, and not forever."""
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(_lock(path, PATIENCE))
        yield


def _is_searched_for(path: Path) -> bool:
    try:
        with _lock(path, 0.0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def _lock(path: Path, patience: float) -> BaseFileLock:
    return FileLock(path.with_suffix(".lock"), timeout=patience)


def folder() -> Path:
    """Where optima are kept; ``NOWHERE`` for a user who has no home."""
    own, base = os.environ.get("MODESWEEP_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        cache = Path(own).expanduser() if own else (Path(base) if base else Path.home() / ".cache") / "modesweep"
    except RuntimeError:
        cache = NOWHERE
    return cache / "truth"


def _path(question: _Question) -> Path:
    name = hashlib.blake2b(json.dumps(question.key, sort_keys=True).encode(), digest_size=16).hexdigest()
    return folder() / f"{name}.json"


def _read(path: Path, question: _Question) -> tuple[Optimum, ...] | None:
    """None if the file is not there, is damaged, or answers something else: then the search answers."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["question"] != question.key:
            return None
        return tuple(_optimum(row) for row in kept["optima"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _optimum(row: dict[str, Any]) -> Optimum:
    value = None if row["value"] is None else float(row["value"])
    covariance = tuple(tuple(float(x) for x in line) for line in row["covariance"])
    return Optimum(value, float(row["error"]), str(row["label"]), tuple(float(x) for x in row["mean"]), covariance)


def _write(path: Path, question: _Question, found: tuple[Optimum, ...]) -> None:
    """Whole or not at all: another worker may be reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"question": question.key, "optima": [asdict(o) for o in found]}, indent=1)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
