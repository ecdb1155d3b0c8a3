"""The process that exports a sweep while it runs: started by the driver, fed through stdin, heard on stdout.

The driver sends one JSON line with the request and later one with how the sweep ended; a stdin closed
without the latter means that the driver was killed. Events are JSON lines: ``{"exported": n, "of": m}``,
``{"url": ...}``, ``{"late": reason}`` when MLflow fails and is tried again, and at the end one
``{"report": ...}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TextIO

from runner import collector
from runner.tracking.export import Export, alone
from runner.tracking.request import ExportReport, Request, explain

LOOK = 0.5  # seconds between looks at the folder
PAUSES = (2.0, 5.0, 10.0, 30.0)  # seconds to wait after a failure; the last one repeats while the sweep runs
WAIT_FOR_OTHER = 60.0  # seconds for the export of a killed driver to end, which a resumed sweep may meet
LAST_ATTEMPTS = 2  # once the sweep has ended

Emit = Callable[[Mapping[str, Any]], None]


@dataclass
class Orders:
    """What the driver has said of the sweep's end so far."""

    ended: threading.Event = field(default_factory=threading.Event)
    status: str = "KILLED"
    table: str | None = None

    def listen(self, lines: TextIO) -> None:
        """Wait for the end of the sweep, or of the driver."""
        try:
            for line in lines:
                said = json.loads(line)
                self.status, self.table = said["finish"], said.get("table")
                break
        finally:
            self.ended.set()


def main() -> int:
    """Follow the sweep that the first line on stdin asks for, until its end."""
    collector.relax()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which then says how to end
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is not an event

    def emit(event: Mapping[str, Any]) -> None:
        with suppress(OSError):  # the driver is gone, and the export goes on
            events.write(json.dumps(event) + "\n")

    request = Request.from_line(sys.stdin.readline())
    orders = Orders()
    threading.Thread(target=orders.listen, args=(sys.stdin,), daemon=True).start()
    report = follow(request, orders, emit)
    emit({"report": asdict(report)})
    return 0 if report.error is None else 1


def follow(request: Request, orders: Orders, emit: Emit) -> ExportReport:
    """Export shards as they appear, and what is left at the end; a failure is told, and tried again later."""
    export: Export | None = None
    failures = failures_at_end = 0
    with ExitStack() as held:
        while True:
            ended = orders.ended.is_set()  # asked before the look: every shard written before the end is seen
            try:
                if export is None:
                    export = _open(request, held)
                    emit({"url": export.url})
                export.advance(lambda done, total: emit({"exported": done, "of": total}))
                if ended:
                    return export.end(orders.status, orders.table)
                failures = 0
            except Exception as error:
                traceback.print_exc()
                failures, failures_at_end = failures + 1, failures_at_end + ended
                reason = explain(error, request)
                if failures_at_end == LAST_ATTEMPTS:
                    return replace(export.report() if export else ExportReport(), error=reason)
                if failures == 1:
                    emit({"late": reason})
            if ended:
                time.sleep(PAUSES[0])
            else:
                orders.ended.wait(PAUSES[min(failures, len(PAUSES)) - 1] if failures else LOOK)


def _open(request: Request, held: ExitStack) -> Export:
    """Open the export; the lock is held from then on, and given back when opening fails."""
    with ExitStack() as trial:
        trial.enter_context(alone(request, WAIT_FOR_OTHER))
        export = Export(request)
        held.push(trial.pop_all())
    return export


if __name__ == "__main__":
    sys.exit(main())
