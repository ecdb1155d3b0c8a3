"""The folder ``checkpoints/``: how far the long batches in flight are, a file for each. The driver alone writes it."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from runner.canonical import digest
from runner.checkpoint import Begun, Saved
from runner.errors import StoreError
from runner.store.files import replacing

CHECKPOINTS = "checkpoints"

_log = logging.getLogger(__name__)


def begun(folder: Path, code_digest: str | None = None) -> dict[str, Begun]:
    """The cells of which a sweep's results folder has a checkpoint, by id; for readers, who remove nothing.

    With a ``code_digest``, only of that code.
    """
    found: dict[str, Begun] = {}
    for path in _oldest_first(folder / CHECKPOINTS):
        with suppress(OSError, ValueError), path.open("rb") as file:
            saved = Saved.read(file, rows=False)
            if code_digest in (None, saved.origin.code_digest):
                found |= dict.fromkeys(saved.cells, Begun(path.stem, saved.share))
    return found


def _oldest_first(folder: Path) -> list[Path]:
    found: list[tuple[float, Path]] = []
    for path in folder.glob("*.npz"):
        with suppress(FileNotFoundError):  # replaced since it was listed, by the driver that another process is
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


class CheckpointFolder:
    """Which file has the newest checkpoint of which cell.

    A file goes when none of its cells needs it any more: each has a record, or a newer file. Files of other code stay
    as long, for the case that it comes back; damaged ones go at once.

    Args:
        folder: of the sweep's results.
        code_digest: of the code that would go on from them.
        report: is told in a sentence what could not be used or written.
    """

    def __init__(self, folder: Path, code_digest: str, report: Callable[[str], None] = _log.warning) -> None:
        self._folder = folder / CHECKPOINTS
        self._report = report
        self._of_cell: dict[str, Path] = {}
        self._shares: dict[Path, float] = {}
        others = 0
        for path in _oldest_first(self._folder):
            if saved := self._read(path):
                self._place(path, saved)
                if saved.origin.code_digest != code_digest:
                    del self._shares[path]
                    others += len(saved.cells)
        if others:
            report(f"{self._folder} has {others:,} cells in training by other code; here their training begins anew.")

    @property
    def cells(self) -> Collection[str]:
        """All of which there is a file, of other code too."""
        return self._of_cell.keys()

    @property
    def begun(self) -> Mapping[str, Begun]:
        """The cells whose training can go on, by id."""
        own = ((cell, path) for cell, path in self._of_cell.items() if path in self._shares)
        return {cell: Begun(path.stem, self._shares[path]) for cell, path in own}

    def read(self, cells: Iterable[str]) -> list[bytes]:
        """The files that have these cells."""
        found = []
        for path in dict.fromkeys(map(self._of_cell.get, cells)):
            with suppress(OSError):  # training then begins anew
                found += [path.read_bytes()] if path in self._shares else []
        return found

    def write(self, file: bytes) -> Saved:
        """Keep a file that a worker sent; says what is in it. A file that cannot be written is told of, and missed."""
        saved = Saved.read(io.BytesIO(file), rows=False)
        path = self._folder / f"{digest(','.join(saved.cells))}.npz"
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(file)
        except StoreError as error:
            self._report(f"A checkpoint is missing: {error}")
        else:
            self._place(path, saved)
        return saved

    def forget(self, cells: Iterable[str]) -> None:
        """These need none any more."""
        before = {self._of_cell.pop(cell) for cell in cells if cell in self._of_cell}
        self._remove_unused(before)

    def _place(self, path: Path, saved: Saved) -> None:
        before = {self._of_cell[cell] for cell in saved.cells if cell in self._of_cell}
        self._of_cell |= dict.fromkeys(saved.cells, path)
        self._shares[path] = saved.share
        self._remove_unused(before)

    def _remove_unused(self, paths: Collection[Path]) -> None:
        for path in set(paths) - set(self._of_cell.values()):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _read(self, path: Path) -> Saved | None:
        try:
            with path.open("rb") as file:
                return Saved.read(file, rows=False)
        except (OSError, ValueError) as error:
            self._report(f"{path} is damaged ({error}); the training of its cells begins anew")
            self._remove_unused({path})
            return None
