"""Every test gets a HOME, a working folder and stores of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from runner import collector

# Tests run side by side, a process for each core; read by torch and numpy when they are first imported.
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

collector.relax()

settings.register_profile("modesweep", deadline=None)  # a busy machine is no failure
settings.load_profile("modesweep")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "MODESWEEP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder."""
    return tmp_path / "results"


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> None:
    """A shell that starts the tests in the background lets them, and what they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
