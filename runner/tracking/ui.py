"""MLflow's pages for a local store, on this machine's own address, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from runner.errors import TrackingError
from runner.hints import looking
from runner.tracking.location import ENVIRONMENT, SERVERS, TRAINING, Location, locate

HOST = "127.0.0.1"  # MLflow asks nobody for a password, so nobody else may reach it
START = 90.0  # seconds; the server takes about four, more on a busy machine
NEWEST = 6  # experiments whose pages are told
TRIED = 20  # ports after the asked one


def serve(tracking_uri: str | None, results: Path, port: int = 5000, announce: Callable[[str], None] = print) -> int:
    """Show runs in MLflow's own pages until Ctrl-C; returns the exit code.

    Args:
        tracking_uri: a server's pages are only announced, a database is served from here.
        results: where ``mlflow.db`` is looked for without a URI.
        port: the next free one is taken if this is in use.
        announce: told the address once the pages are there.

    Raises:
        SweepError: the URI is none of an MLflow store.
        TrackingError: there is no store yet, or the server does not start.
    """
    location = locate(tracking_uri, results)
    store = location.hide(location.uri)
    if location.scheme in SERVERS:
        announce(f"The runs are shown by their own server: {store}")
        return 0
    if location.database is not None and not location.database.exists():
        there = looking(results, tracking_uri and store)
        raise TrackingError(
            f"there are no MLflow runs in {location.database} yet; `modesweep run quickstart{there}` makes some, "
            f"and `modesweep export SWEEP{there}` adds those of a sweep that ran without MLflow"
        )
    with server(location, free_port(port)) as address, suppress(KeyboardInterrupt):
        pages = "\n".join(f"  {name}: {page}" for name, page in _pages(address))
        announce(f"{address}/#/experiments?{TRAINING}\nshows the runs in {store}; Ctrl-C ends it\n{pages}".rstrip())
        while True:
            time.sleep(3600)
    return 0


def _pages(address: str) -> list[tuple[str, str]]:
    """The newest sweeps, each with the page of its runs: MLflow's own list leads to traces, of which there are none."""
    query = urllib.parse.urlencode({"max_results": NEWEST, "order_by": "last_update_time DESC"})
    with _open(f"{address}/api/2.0/mlflow/experiments/search?{query}", timeout=10) as answer:
        found = json.load(answer).get("experiments", [])
    pages = {e["name"]: f"{address}/#/experiments/{e['experiment_id']}/runs?{TRAINING}" for e in found}
    return [(name, page) for name, page in pages.items() if name != "Default"]


def _open(url: str, timeout: float) -> Any:
    """An answer of this machine's own server, which no proxy that the environment names could reach."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=timeout)


@contextmanager
def server(location: Location, port: int) -> Iterator[str]:
    """An MLflow server that answers at the address given, and is gone afterwards."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    # The URI may hold a password, which a command line would show to everybody on the machine.
    told = {"MLFLOW_BACKEND_STORE_URI": location.uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if location.artifacts is not None:
        told["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = location.artifacts
    with tempfile.TemporaryFile() as log, _terminated_like_ctrl_c():
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**ENVIRONMENT, **os.environ, **told},
            start_new_session=True,  # a group of its own, so that its workers can be ended with it
        )
        try:
            _wait_until_it_answers(process, f"http://{HOST}:{port}", log, location)
            yield f"http://{HOST}:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def free_port(asked: int) -> int:
    """The asked port, or the next one after it that nobody listens at.

    Raises:
        TrackingError: all of the next twenty are in use.
    """
    for port in range(asked, min(asked + TRIED, 65536)):
        with socket.socket() as trial, suppress(OSError):
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((HOST, port))
            return port
    raise TrackingError(f"ports {asked} to {asked + TRIED - 1} are in use; choose another with --port")


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str, log: IO[bytes], location: Location) -> None:
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError), _open(f"{address}/health", timeout=5):
            return
        time.sleep(0.1)
    log.seek(0)
    said = location.hide(log.read().decode(errors="replace")).strip().splitlines()[-3:]
    raise TrackingError("the MLflow server did not start: " + (" ".join(said) or "it says nothing"))


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """Let a plain `kill` end the server too, not only this process."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
