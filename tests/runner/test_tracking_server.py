"""A real MLflow server on 127.0.0.1, as `modesweep ui` starts it: exported to over HTTP, looked at, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlflow import MlflowClient

from runner.errors import TrackingError
from runner.record import Failure
from runner.store.shards import write_shard
from runner.tracking import ui
from runner.tracking.location import Location, locate
from runner.tracking.request import Request
from tests.runner.test_tracking_store import check_equal, children, export, parents, template
from tests.runner.tracking_cases import copy_store, dump, make_cells, make_folder, make_table

__all__ = ["template"]  # a fixture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def behind(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """The store that the server keeps runs in."""
    folder = tmp_path_factory.mktemp("server")
    return locate(copy_store(template, folder / "mlflow.db"), folder)


@pytest.fixture(scope="module")
def served(behind: Location) -> Iterator[Location]:
    with ui.server(behind, ui.free_port(5600)) as address:
        yield Location(address)


def test_runs_sent_to_a_server_say_what_the_records_say(
    served: Location, behind: Location, template: Path, tmp_path: Path
) -> None:
    cells = make_cells(6)
    failures = {cells[1].id: Failure("failed", "RuntimeError: größer"), cells[2].id: Failure("failed", "x")}
    table = make_table(cells, failures)
    folder = make_folder(tmp_path, [table])
    report = export(Request(folder, served))
    assert (report.cells, report.written, report.problems) == (6, 6, ())
    check_equal(served, table)
    (parent,) = parents(served)
    assert report.url == f"{served.uri}/#/experiments/1/runs/{parent.info.run_id}?{ui.TRAINING}"
    assert [file.path for file in MlflowClient(served.uri).list_artifacts(parent.info.run_id)] == ["sweep.yaml"]

    assert ui._pages(served.uri) == [(folder.name, f"{served.uri}/#/experiments/1/runs?{ui.TRAINING}")]

    local = locate(copy_store(template, tmp_path / "local" / "mlflow.db"), tmp_path)
    export(Request(folder, local))
    assert behind.database
    assert local.database
    over_http, as_rows = dump(behind.database), dump(local.database)
    for name in ("params", "tags", "metrics", "latest_metrics"):
        assert over_http[name] == as_rows[name], name

    assert export(Request(folder, served)).written == 0
    retried = make_table(cells[1:2], later=60.0)
    write_shard(folder, retried)
    assert export(Request(folder, served)).written == 1
    assert len(children(served)) == 6
    check_equal(served, retried)


def test_the_pages_are_there_for_this_machine_alone(served: Location) -> None:
    with urllib.request.urlopen(served.uri) as answer:
        assert b"<title>MLflow" in answer.read()
    host, port = served.uri.removeprefix("http://").split(":")
    assert host == "127.0.0.1"
    others = {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for other in others - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((other, int(port)), 2)


def test_no_store_is_shown_on_a_command_line(served: Location, behind: Location) -> None:
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = process.read_text()
        except OSError:
            continue
        assert behind.uri not in arguments


SERVE = """
import sys
from pathlib import Path
from runner.tracking.ui import serve
sys.exit(serve(None, Path(sys.argv[1]), int(sys.argv[2]), lambda text: print(text, flush=True)))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_pages_end_with_the_command(template: Path, tmp_path: Path, end: signal.Signals) -> None:
    copy_store(template, tmp_path / "mlflow.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", SERVE, str(tmp_path), str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            address = process.stdout.readline().strip()
            assert address.startswith(f"http://127.0.0.1:{port + 1}/#/experiments")
            os.kill(process.pid, end)
            assert process.wait(30) == 0
    deadline = time.monotonic() + 10
    while ui.free_port(port + 1) != port + 1:  # the workers are gone too
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_server_has_its_own_pages(tmp_path: Path) -> None:
    said: list[str] = []
    assert ui.serve("https://me:s3cr3t@mlflow.example.org", tmp_path, announce=said.append) == 0
    assert "mlflow.example.org" in said[0]
    assert "s3cr3t" not in said[0]


def test_the_own_server_is_asked_past_any_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"experiments": [{"name": "made", "experiment_id": "7"}]}')

        def log_message(self, *_: object) -> None:
            """Quiet."""

    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Healthy) as own:
        threading.Thread(target=own.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{own.server_port}"
        with tempfile.TemporaryFile() as log:
            running = Mock(poll=Mock(side_effect=[None, 1]))
            ui._wait_until_it_answers(running, address, log, Location(address))
        assert [name for name, _ in ui._pages(address)] == ["made"]
        own.shutdown()


def test_nothing_to_show_yet(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=f"`modesweep run quickstart --results {tmp_path}` makes some"):
        ui.serve(None, tmp_path)


def test_all_ports_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "TRIED", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TrackingError, match="--port"):
            ui.free_port(taken.getsockname()[1])


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database" * 100)
    with (
        pytest.raises(TrackingError, match="did not start"),
        ui.server(locate(None, tmp_path), ui.free_port(5700)),
    ):
        pass
