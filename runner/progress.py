"""What a person sees while a sweep runs: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_SECONDS = 5.0  # between two plain lines: a log should be readable, and short
FIRST_GUESS = 0.02  # no ETA before this share of the work is done: it would only be noise


@dataclass
class Tally:
    """How far a run is; ``work`` is in estimated seconds of one core, so unequal batches count fairly.

    ``under_way`` is what of it long batches in training have done, by the id of their first cell.
    """

    cells: int
    work: float
    statuses: Counter[str] = field(default_factory=Counter)
    work_done: float = 0.0
    under_way: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    first_result: float | None = None
    exported: int | None = None

    @property
    def done(self) -> int:
        return sum(self.statuses.values())

    @property
    def failed(self) -> int:
        return self.done - self.statuses["ok"]

    @property
    def share(self) -> float:
        return (self.work_done + sum(self.under_way.values())) / self.work if self.work else 1.0

    def add(self, statuses: Counter[str], first: str, work: float) -> None:
        """Count one more batch, whose first cell has this id."""
        self.statuses += statuses
        self.work_done += work
        self.under_way.pop(first, None)
        if self.first_result is None:
            self.first_result = time.monotonic()

    def eta(self) -> float | None:
        """Seconds left, from the pace so far; None while that says little."""
        if self.share < FIRST_GUESS or self.done == self.cells:
            return None
        return (time.monotonic() - self.started) * (1 - self.share) / self.share

    def rate(self) -> float:
        """Cells a second."""
        return self.done / max(time.monotonic() - self.started, 1e-9)


class Listener(Protocol):
    """Is told what happens in a run; it decides what a person sees of it."""

    def begin(self, tally: Tally) -> None:
        """Cells are about to run."""

    def advance(self, tally: Tally) -> None:
        """A batch finished, or told how far it is."""

    def say(self, text: str, *, style: str = "") -> None:
        """Something to tell at once."""

    def end(self) -> None:
        """No more cells will run."""


class Silent:
    """A listener that shows nothing: for use from Python and for ``--json``."""

    def begin(self, tally: Tally) -> None: ...
    def advance(self, tally: Tally) -> None: ...
    def say(self, text: str, *, style: str = "") -> None: ...
    def end(self) -> None: ...


class Terminal:
    """A live bar where the console can show one, a line every few seconds where it cannot."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._stack = ExitStack()
        self._live: Live | None = None
        self._tally: Tally | None = None
        self._last_line = 0.0

    def begin(self, tally: Tally) -> None:
        self._tally = tally
        self._last_line = time.monotonic()
        if self.console.is_terminal:
            live = Live(self, console=self.console, refresh_per_second=4, transient=True)
            self._live = self._stack.enter_context(live)

    def advance(self, tally: Tally) -> None:
        due = time.monotonic() - self._last_line >= PLAIN_SECONDS
        if self._live is None and (due or tally.done == tally.cells):
            self._last_line = time.monotonic()
            self.console.print(_line(tally), highlight=False, soft_wrap=True)

    def say(self, text: str, *, style: str = "") -> None:
        self.console.print(Text(text, style=style), soft_wrap=True)

    def end(self) -> None:
        self._stack.close()
        self._live = None

    def __rich__(self) -> Table:
        assert self._tally is not None
        tally = self._tally
        bar = ProgressBar(total=1.0, completed=min(tally.share, 1.0), width=30)
        row = Table.grid(padding=(0, 1))
        row.add_row(f"{tally.share:4.0%}", bar, Text(_line(tally, beside_bar=True), overflow="ellipsis", no_wrap=True))
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``8 s``, ``2 min 05 s``, ``3 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _line(tally: Tally, beside_bar: bool = False) -> str:
    parts = [f"{tally.done:,} of {tally.cells:,} cells"]
    if tally.failed:
        parts.append(f"{tally.failed:,} not ok")
    if tally.first_result is not None:
        parts.append(f"{tally.rate():,.0f} cells/s" if tally.rate() >= 1 else f"{tally.rate() * 60:.1f} cells/min")
    elif not tally.under_way:
        parts.append(f"on the first batch, {duration(time.monotonic() - tally.started)}")
    if tally.under_way and not beside_bar:
        parts.append(f"{tally.share:.0%} done")
    eta = tally.eta()
    if eta is not None:
        parts.append(f"{duration(eta)} left")
    if tally.exported is not None:
        parts.append(f"{tally.exported:,} in MLflow")
    return " · ".join(parts)
