"""Export: the shards of a sweep become MLflow runs, as often as one likes and each record once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import filelock
import pyarrow as pa
import pyarrow.compute as pc

from runner.errors import TrackingError
from runner.store.shards import read_shards, read_status, shard_paths
from runner.store.sweep_file import about
from runner.tracking.configurations import Configurations
from runner.tracking.location import ENVIRONMENT
from runner.tracking.request import ExportReport, Progress, Request, explain
from runner.tracking.runs import Kind, Run, cell_runs
from runner.tracking.sweep_folder import artifacts, note

TOGETHER = 256  # runs in one transaction
WAIT_FOR_OTHER = 10.0  # seconds; an export whose driver was killed ends by itself within a few
UNUSED = {"modes", "q_samples", "q_mean", "q_covariance", "q_weights"}


def export(request: Request, progress: Progress = lambda done, total: None, table: str | None = None) -> ExportReport:
    """Export every shard that there is now, and end the parent run.

    Args:
        request: what to export, and where to.
        progress: told the number of cells exported, and of all.
        table: what the parent's note shows below the question, in markdown; None keeps a note that is there.

    Raises:
        TrackingError: MLflow cannot be reached or refuses. What was exported stays; a repetition adds the
            rest.
    """
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    try:
        with alone(request):
            running = Export(request)
            running.advance(progress)
            return running.end(None, table)
    except Exception as error:
        raise TrackingError(explain(error, request)) from error


@contextmanager
def alone(request: Request, wait: float = WAIT_FOR_OTHER) -> Iterator[None]:
    """Hold the right to export this sweep to this store: two exports at once would make runs twice.

    Raises:
        TrackingError: another export held it for all of the seconds that this one waits.
    """
    lock = filelock.FileLock(request.folder / f".mlflow-{request.location.digest}.lock")
    try:
        lock.acquire(timeout=wait)
    except filelock.Timeout:
        message = f"another process is exporting {request.folder} to this MLflow; try again when it has ended"
        raise TrackingError(message) from None
    try:
        yield
    finally:
        lock.release()


class Export:
    """An export under way: MLflow is open, and the shards that were read are not read again."""

    def __init__(self, request: Request) -> None:
        from runner.tracking import mlflow_store

        self.request = request
        self._mlflow = mlflow_store
        self._about = about(request.folder)
        kind: Kind = "cell" if request.mode == "cells" else "configuration"
        self._session = mlflow_store.open_session(
            request.location, self._about.name, kind, request.tags, self._about.question
        )
        self._groups = Configurations(self._about.seeds, self._about.axes) if kind == "configuration" else None
        self._planned = None if request.cells is None else pa.array(request.cells, pa.string())
        self._read: set[Path] = set()
        self._cells: set[str] = set()
        self._written = 0

    @property
    def url(self) -> str | None:
        """The parent run's address, if a server shows it."""
        return self._mlflow.page(self.request.location, self._session)

    def advance(self, progress: Progress = lambda done, total: None) -> None:
        """Export the shards that were not read yet."""
        for path, table in self._tables(self._read):
            runs = cell_runs(table, self._about.axes) if self._groups is None else self._groups.add(table)
            self._write(runs)
            self._cells.update(table.column("cell_id").to_pylist())
            self._read.add(path)
            progress(len(self._cells), self._total())

    def end(self, status: str | None, table: str | None = None) -> ExportReport:
        """Write what is left, attach tables and note to the parent run, and end it.

        Args:
            status: FINISHED, FAILED or KILLED; None says FINISHED if every cell is ok, FAILED otherwise.
            table: what the parent's note shows below the question, in markdown; None keeps a note that is
                there.
        """
        if self._groups is not None:
            self._write(self._groups.flush(lambda: (records for _, records in self._tables())))
        folder = self.request.folder
        text = None if table is None and self._session.described else note(self._about, folder, table)
        problems = self._mlflow.finish(self._session, status or self._status(), text, artifacts(folder))
        return self.report(tuple(self.request.location.hide(problem) for problem in problems))

    def report(self, problems: tuple[str, ...] = ()) -> ExportReport:
        """What has been exported so far."""
        others = set() if self.request.cells is None else self._session.known.keys() - set(self.request.cells)
        count = len(others) if self.request.mode == "cells" else 0
        return ExportReport(len(self._cells), self._written, self.url, problems, others=count)

    def _tables(self, but: Collection[Path] = ()) -> Iterator[tuple[Path, pa.Table]]:
        """The plan's records, shard by shard."""
        paths = [path for path in shard_paths(self.request.folder) if path not in but]
        for path, table in read_shards(paths, lambda name: name not in UNUSED):
            if self._planned is not None:
                table = table.filter(pc.is_in(table.column("cell_id"), self._planned))
            yield path, table

    def _write(self, runs: Sequence[Run]) -> None:
        for start in range(0, len(runs), TOGETHER):
            self._written += self._mlflow.write(self._session, runs[start : start + TOGETHER])

    def _total(self) -> int:
        return len(self._cells) if self.request.cells is None else len(self.request.cells)

    def _status(self) -> str:
        statuses = read_status(self.request.folder)
        wanted = statuses if self.request.cells is None else self.request.cells
        return "FINISHED" if all(statuses.get(cell) == "ok" for cell in wanted) else "FAILED"
