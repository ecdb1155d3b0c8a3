"""The export process beside a sweep: live, interrupted, killed from either side, and without MLflow."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from runner.store.shards import write_shard
from runner.tracking import follow as follow_module
from runner.tracking.follow import Orders, follow
from runner.tracking.follower import Follower
from runner.tracking.location import Location, locate
from runner.tracking.request import ExportReport, Request
from tests.runner.test_tracking_store import check_equal, children, parents, store, template
from tests.runner.tracking_cases import make_cells, make_folder, make_table

__all__ = ["store", "template"]  # fixtures


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_runs_appear_while_the_sweep_goes_on(store: Location, tmp_path: Path) -> None:
    cells = make_cells(9)
    folder = make_folder(tmp_path, [make_table(cells[:3])])
    follower = Follower(Request(folder, store, cells=[cell.id for cell in cells]))
    wait_for(lambda: follower.poll().exported == 3)
    assert len(children(store)) == 3
    assert parents(store)[0].info.status == "RUNNING"
    second, third = make_table(cells[3:6], later=1.0), make_table(cells[6:], later=2.0)
    write_shard(folder, second)
    wait_for(lambda: follower.poll().exported == 6)
    assert follower.poll().of == 9
    write_shard(folder, third)
    report = follower.finish("FINISHED", "| divergence | coverage |\n|---|---|\n| forward_kl | 1.00 |")
    assert report == ExportReport(cells=9, written=9)
    for table in (second, third):
        check_equal(store, table)
    (parent,) = parents(store)
    assert parent.info.status == "FINISHED"
    assert "| forward_kl | 1.00 |" in parent.data.tags["mlflow.note.content"]


DRIVER = """
import os, signal, sys
from pathlib import Path
from runner.tracking.follower import Follower
from runner.tracking.location import locate
from runner.tracking.request import Request

if __name__ == "__main__":
    assert not any(name in sys.modules for name in ("mlflow", "pyarrow", "pandas")), "the driver stays light"
    folder = Path(sys.argv[1])
    follower = Follower(Request(folder, locate(sys.argv[2], folder)))
    print(follower._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_driver_leaves_finished_exports_and_no_process(store: Location, tmp_path: Path) -> None:
    table = make_table(make_cells(4))
    folder = make_folder(tmp_path, [table])
    command = [sys.executable, "-c", DRIVER, str(folder), store.uri]
    driver = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert driver.returncode == -signal.SIGKILL
    process = int(driver.stdout)
    wait_for(lambda: not Path(f"/proc/{process}").exists() or "Z" in Path(f"/proc/{process}/stat").read_text())
    check_equal(store, table)
    assert parents(store)[0].info.status == "KILLED"


def test_a_killed_exporter_is_reported_and_not_raised(store: Location, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [make_table(make_cells(4))])
    follower = Follower(Request(folder, store))
    os.kill(follower._process.pid, signal.SIGKILL)
    report = follower.finish("FINISHED")
    assert report.error
    assert f"`{follower._request.repetition}` catches up" in report.error


def test_ctrl_c_at_the_terminal_does_not_reach_the_exporter(store: Location, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [make_table(make_cells(2))])
    follower = Follower(Request(folder, store))
    assert os.getpgid(follower._process.pid) != os.getpgid(0)
    wait_for(lambda: follower.poll().exported == 2)
    os.kill(follower._process.pid, signal.SIGINT)
    assert follower.finish("KILLED").error is None
    assert parents(store)[0].info.status == "KILLED"


def test_no_mlflow_no_harm_and_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = make_folder(tmp_path, [make_table(make_cells(2))])
    uri = f"http://jo:s3cr3t@127.0.0.1:{closed_port()}"
    follower = Follower(Request(folder, locate(uri, tmp_path)))
    arguments = Path(f"/proc/{follower._process.pid}/cmdline").read_text()
    environment = Path(f"/proc/{follower._process.pid}/environ").read_text()
    wait_for(lambda: follower.poll().late is not None)
    late = follower.poll().late
    report = follower.finish("FINISHED")
    assert report.error
    assert "could not be written" in report.error
    assert f"`modesweep export made --results {tmp_path} --tracking-uri 'http://jo:***@" in report.error
    for text in (arguments, environment, report.error, str(late), repr(follower._request)):
        assert "s3cr3t" not in text
    assert "\n" not in report.error


class FlakyExport:
    """Opens and advances as told: each call takes the next of ``failures``, None for success."""

    failures: list[Exception | None]

    def __init__(self, request: Request) -> None:
        self.url = None
        self._maybe_fail()

    def _maybe_fail(self) -> None:
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure

    def advance(self, progress: Callable[[int, int], None]) -> None:
        self._maybe_fail()
        progress(1, 1)

    def end(self, status: str, table: str | None) -> ExportReport:
        self._maybe_fail()
        return ExportReport(cells=1)

    def report(self) -> ExportReport:
        return ExportReport(cells=0)


@pytest.mark.parametrize(
    ("failures", "error", "late"),
    [
        ([], None, 0),
        ([OSError("down"), None, None, None], None, 1),
        ([None, OSError("down"), OSError("again")], "again", 1),
        ([None, None, OSError("at the end")], None, 1),
        ([OSError("down")] * 9, "down", 1),
    ],
)
def test_failures_are_tried_again_a_bounded_number_of_times(
    failures: list[Exception | None],
    error: str | None,
    late: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow_module, "Export", FlakyExport)
    monkeypatch.setattr(follow_module, "PAUSES", (0.01,))
    FlakyExport.failures = list(failures)
    events: list[Mapping[str, Any]] = []
    orders = Orders()
    orders.status = "FINISHED"
    orders.ended.set()
    report = follow(Request(tmp_path, Location("sqlite:///x.db")), orders, events.append)
    assert (error in report.error) if error and report.error else report.error is error
    assert sum("late" in event for event in events) == late


def test_orders_tell_an_end_from_a_death() -> None:
    ended, died = Orders(), Orders()
    ended.listen(iter(['{"finish": "FAILED"}\n']))  # type: ignore[arg-type]
    died.listen(iter([]))  # type: ignore[arg-type]
    assert (ended.status, died.status) == ("FAILED", "KILLED")
    assert ended.ended.is_set()
    assert died.ended.is_set()


def test_a_request_survives_the_pipe(tmp_path: Path) -> None:
    request = Request(tmp_path, locate(None, tmp_path), "groups", ("a", "b"), {"mlflow.user": "jö"})
    again = Request.from_line(request.to_line())
    assert again.to_line() == request.to_line()
    assert again.cells == ["a", "b"]
    assert "\n" not in request.to_line()


def test_a_large_plan_does_not_hold_up_the_driver(store: Location, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [make_table(make_cells(2))])
    cells = [f"{i:016x}" for i in range(200_000)]
    follower = Follower(Request(folder, store, cells=cells))
    assert follower.poll().of == 200_000  # returned at once: the pipe holds 64 KiB of the 4 MB
    assert follower.finish("KILLED").cells == 2
    client = MlflowClient(store.uri)
    assert client.get_experiment_by_name("made") is not None
