"""The driver's hold on the process that exports to MLflow: it starts it, hears it, and tells it the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal, Self

import runner
from runner.tracking.location import ENVIRONMENT
from runner.tracking.request import ExportReport, Request

NICENESS = 19  # the fits go first, and Ray's workers have 15
PATIENCE = 120.0  # seconds without news after which the rest is left to `modesweep export`


@dataclass(frozen=True)
class State:
    """The newest that was heard: cells exported of those planned, the page, and why MLflow is behind."""

    exported: int = 0
    of: int = 0
    url: str | None = None
    late: str | None = None


class Follower:
    """An export process beside a sweep, ended with the context. What goes wrong is in its report and never raised."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._state = State(of=len(request.cells or ()))
        self._heard = time.monotonic()
        self._report: ExportReport | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-P", "-m", "runner.tracking.follow"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(),
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
        )
        with suppress(OSError):  # it has ended, which its last words explain
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
        # A large plan is more than a pipe holds, and the process reads it only once it has started.
        self._writer = threading.Thread(target=self._send, args=(request.to_line(),), daemon=True)
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._writer.start()
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def poll(self) -> State:
        """The newest that was heard, without waiting."""
        return self._state

    def finish(
        self,
        status: Literal["FINISHED", "FAILED", "KILLED"],
        table: str | None = None,
        progress: Callable[[State], None] = lambda state: None,
        timeout: float = PATIENCE,
    ) -> ExportReport:
        """Say that the sweep has ended, wait until the rest is exported, and return what was done.

        Args:
            status: of the parent run: FINISHED if every cell is ok, FAILED otherwise, KILLED if interrupted.
            table: what the parent's note shows below the question, in markdown.
            progress: told the state a few times a second while there is something left.
            timeout: seconds without any news after which the process is stopped.
        """
        self._heard = time.monotonic()
        try:
            self._writer.join(timeout)
            self._send(json.dumps({"finish": status, "table": table}))
            while self._process.poll() is None and time.monotonic() < self._heard + timeout:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.2)
                progress(self._state)
            return self._report_at_end()
        finally:
            self.stop()

    def given_up(self) -> ExportReport:
        """End the process now, and say what is missing and how to add it."""
        self.stop()
        reason = (
            f"Interrupted: MLflow has {self._state.exported:,} of {self._state.of:,} cells. "
            f"The results are safe; `{self._request.repetition}` catches up"
        )
        return ExportReport(self._state.exported, url=self._state.url, error=reason)

    def stop(self) -> None:
        """End the process now; what was exported stays."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        self._reader.join(5)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):  # what was not sent yet is of no use any more
                if stream:
                    stream.close()

    def _send(self, line: str) -> None:
        with suppress(OSError, ValueError):  # the process has ended: its report or its last words say why
            assert self._process.stdin
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            self._heard = time.monotonic()
            if "report" in event:
                report = event["report"]
                self._report = ExportReport(**{**report, "problems": tuple(report["problems"])})
            elif "exported" in event:
                self._state = replace(self._state, **event, late=None)
            else:
                self._state = replace(self._state, **event)

    def _report_at_end(self) -> ExportReport:
        if self._process.poll() is not None:
            self._reader.join()
        if self._report is not None:
            return self._report
        return ExportReport(self._state.exported, url=self._state.url, error=self._state.late or self._last_words())

    def _last_words(self) -> str:
        self._errors.seek(0)
        said = self._request.location.hide(self._errors.read().decode(errors="replace")).strip().splitlines()
        return (
            f"the export to MLflow stopped early: {said[-1] if said else 'it was killed or did not answer'}. "
            f"The results are safe; `{self._request.repetition}` catches up"
        )


def _environment() -> dict[str, str]:
    """This process's variables, where the package is, and mlflow's defaults."""
    paths = [str(Path(runner.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
