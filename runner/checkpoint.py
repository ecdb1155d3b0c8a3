"""How far a long batch is, on its way between the worker that trains it and the driver that keeps it.

Never pickled: arrays travel and are stored as numpy's own files, which can hold nothing that runs.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:  # an experiment without long trainings never needs it
    import numpy as np

    from runner.batch import Batch
    from runner.planning import Cell

SECONDS = 60.0  # between two checkpoints of a stack: what the death of its worker may cost


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint was made: it is of use to the same code, on the same kind of device."""

    code_digest: str
    device: str


@dataclass(frozen=True)
class Saved:
    """How far some cells are.

    Args:
        share: of their training that is done.
        began: the share that was done when this worker took it up.
        rows: arrays with a row for each cell, by name.
    """

    cells: tuple[str, ...]
    origin: Origin
    share: float
    began: float
    rows: Mapping[str, np.ndarray]

    @property
    def gained(self) -> float:
        """The share that this worker has done of what it has to do."""
        return (self.share - self.began) / (1 - self.began)

    def to_bytes(self) -> bytes:
        """As an ``.npz`` file."""
        import numpy as np

        file = io.BytesIO()
        origin = [self.origin.code_digest, self.origin.device]
        named: dict[str, Any] = {f"row_{name}": array for name, array in self.rows.items()}
        np.savez(file, cells=list(self.cells), origin=origin, shares=[self.share, self.began], **named)
        return file.getvalue()

    @classmethod
    def read(cls, file: BinaryIO, rows: bool = True) -> Saved:
        """From such a file; without its ``rows`` where only the cells are asked for.

        Raises:
            ValueError: it is damaged.
        """
        import numpy as np

        try:
            with np.load(file, allow_pickle=False) as held:
                names = [name for name in held.files if name.startswith("row_")] if rows else []
                arrays = {name.removeprefix("row_"): held[name] for name in names}
                cells, origin, shares = (held[name].tolist() for name in ("cells", "origin", "shares"))
                share, began = shares
                return cls(tuple(cells), Origin(*origin), share, began, arrays)
        except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"no checkpoint: {error}") from error


@dataclass(frozen=True)
class Begun:
    """Cells with one ``name`` have done one ``share`` of their training, and can go on as one stack."""

    name: str
    share: float


class Keeper(Protocol):
    """What an executor asks for the checkpoints of a batch, and hands new ones to."""

    def read(self, batch: Batch) -> list[bytes]:
        """The files that have cells of this batch."""
        ...

    def write(self, batch: Batch, file: bytes) -> None:
        """A worker has sent a file."""
        ...


class KeepsNothing:
    """A `Keeper` for those who want no checkpoints."""

    def read(self, batch: Batch) -> list[bytes]:
        """None."""
        return []

    def write(self, batch: Batch, file: bytes) -> None:
        """Drop it."""


class Checkpoints:
    """What a worker has of the cells of its batch; see ``experiments.experiment.Checkpoints``.

    Args:
        origin: of the checkpoints that it makes, and of those that it can use.
        held: files that the driver gave it.
        send: takes a file to the driver.
        seconds: between two files.
    """

    def __init__(
        self, origin: Origin, held: Sequence[bytes], send: Callable[[bytes], None], seconds: float = SECONDS
    ) -> None:
        self._origin = origin
        self._held = [saved for saved in map(_readable, held) if saved and saved.origin == origin]
        self._send = send
        self._seconds = seconds
        self._last = time.monotonic()
        self._began = 0.0

    def find(self, cells: Sequence[Cell]) -> Mapping[str, np.ndarray] | None:
        """The rows of these cells, in their order, if one file has all of them."""
        for saved in self._held:
            place = {cell: row for row, cell in enumerate(saved.cells)}
            if all(cell.id in place for cell in cells):
                self._began = saved.share
                rows = [place[cell.id] for cell in cells]
                return {name: array[rows] for name, array in saved.rows.items()}
        self._began = 0.0
        return None

    def due(self) -> bool:
        """Whether the last file is old enough."""
        return time.monotonic() - self._last >= self._seconds

    def keep(self, cells: Sequence[Cell], share: float, rows: Mapping[str, np.ndarray]) -> None:
        """Send these rows."""
        self._send(Saved(tuple(cell.id for cell in cells), self._origin, share, self._began, rows).to_bytes())
        self._last = time.monotonic()


def _readable(file: bytes) -> Saved | None:
    try:
        return Saved.read(io.BytesIO(file))
    except ValueError:
        return None
