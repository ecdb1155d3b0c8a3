"""What Ray is told before it starts, and what is told of it when it cannot: nothing here imports it."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runner import cgroup
from runner.batch import Batch
from runner.errors import ExecutorError, SweepError
from runner.executors import heap
from runner.experiment import Experiment

LONGEST_TEMPORARY_FOLDER = 40
CONNECT_SECONDS = 5.0
OUT_OF_MEMORY = "running low on memory"  # what Ray's memory monitor says, and nothing else of Ray
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Records tell of failures; Ray's own lines about lost workers would break into the progress display.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_SCHEDULER_EVENTS": "0",
    # When a run is interrupted, Tune's thread may outlive Ray: a call of its would start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # What Tune would set for each trial: PyTorch Lightning must not fork in a worker.
    "PL_DISABLE_FORK": "1",
    # The state file is for Tuner.restore, which a sweep does not need: it resumes from its records.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}


def set_environment(private: bool) -> None:
    """What Ray reads when it is imported, and its workers when they start; whatever the user has set stays.

    A private Ray gets a token of its own, so that none is written to the home folder, which need not exist.
    """
    for name, value in (ENVIRONMENT | heap.ENVIRONMENT).items():
        os.environ.setdefault(name, value)
    # Ray's sockets lie 60 characters below its temporary folder, and a socket's path holds 107 at most.
    if len(tempfile.gettempdir()) > LONGEST_TEMPORARY_FOLDER and os.access("/tmp", os.W_OK):
        os.environ.setdefault("RAY_TMPDIR", "/tmp")
    if not private:
        return
    # No other machine may join, so Ray listens on 127.0.0.1 alone; Linux heeds this switch as well.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Where memory ends the kernel does what Ray's monitor would do at 95 %: Ray has named its workers to it before all
    # else (oom_score_adj 1000), it takes the largest, and that one's batch runs again in halves. The monitor goes by
    # the whole machine: whatever else fills it, it kills worker after worker, and in the end what holds the batches.
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    # How long Ray's helpers outlive a driver that was killed, looking for it.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "15")
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def cores() -> int:
    """CPU cores that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, int(cgroup.cpu_limit() or count)))


def gpus(devices: Path = Path("/dev")) -> int:
    """NVIDIA GPUs of this machine that its processes may use.

    Counted from the files of their devices, which takes no time; too many where one of those cannot be used.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = sum(path.name[6:].isdigit() for path in devices.glob("nvidia*"))
    return there if visible is None else min(there, sum(name.strip() not in ("", "-1") for name in visible.split(",")))


def packages(experiments: Iterable[Experiment]) -> list[str]:
    """Folders of the packages that define the runner and the experiments, for clusters that lack them."""
    return [str(file.parent) for file in _defined_in(experiments) if file.name == "__init__.py"]


def import_folders(experiments: Iterable[Experiment]) -> list[str]:
    """Where this process has imported the experiments and the runner from, but for what is installed."""
    found = [file.parent.parent if file.name == "__init__.py" else file.parent for file in _defined_in(experiments)]
    installed = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    return list(dict.fromkeys(str(folder) for folder in found if folder not in installed))


def _defined_in(experiments: Iterable[Experiment]) -> list[Path]:
    """Files of the outermost modules that define the experiments, then the runner's; a notebook's is in its folder."""
    names = sorted({e.run_batch.__module__.partition(".")[0] for e in experiments} - {"runner"})
    modules = [sys.modules[name] for name in (*names, "runner") if name in sys.modules]
    return [Path(getattr(module, "__file__", None) or "notebook").resolve() for module in modules]


def occupied(cpu: float, gpu: float, there: Mapping[str, float]) -> dict[str, float]:
    """What a batch takes of what Ray has. GPUs are optional: without any, the CPU does the work.

    Ray places nothing that takes nothing: a batch that would, takes the core that it works on.
    """
    wanted = {"CPU": cpu, "GPU": gpu if there.get("GPU") else 0.0}
    return {name: amount for name, amount in wanted.items() if amount} or {"CPU": 1.0}


def check_resources(batches: Sequence[Batch], there: Mapping[str, float]) -> None:
    """A batch that fits nowhere would wait forever."""
    for batch in batches:
        for name, wanted in occupied(batch.resources.cpu, batch.resources.gpu, there).items():
            if wanted > there.get(name, 0.0):
                raise ExecutorError(
                    f"A batch of experiment '{batch.experiment}' asks for {wanted:g} {name}, but Ray has "
                    f"{there.get(name, 0.0):g}. Lower `resources` in the sweep file or raise --workers."
                )


def refuse_client(address: str) -> None:
    """With a client's address Tune would run in another process than the driver.

    Raises:
        SweepError: the address is one.
    """
    if "://" in address:
        raise SweepError(
            f"--address {address}: a client's address is not supported. "
            "Use host:port or auto, or submit the command with `ray job submit`."
        )


def check_address(address: str) -> None:
    """Ray itself would wait for minutes, noisily, where nothing listens.

    Raises:
        OSError: nothing answers at ``host:port``.
        SweepError: the address is a client's.
    """
    refuse_client(address)
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def no_ray(address: str | None, error: Exception) -> str:
    """What to tell a person when Ray does not start, or does not answer at ``address``."""
    if address:
        return (
            f"No Ray cluster at '{address}': {first_line(error)}\n"
            "Check the address with `ray status`, and that RAY_AUTH_MODE and the token are the cluster's.\n"
            "Without --address a Ray is started on this machine."
        )
    return f"Ray could not be started: {first_line(error)}\nRun with --executor inline to do without it."


def ray_lost(error: Exception) -> str:
    """What to tell a person when what holds the batches has died, and what to do."""
    if OUT_OF_MEMORY in str(error):
        return (
            "Ray's memory monitor ended what holds the batches: the machine runs low on memory.\n"
            "Run the same command again, with fewer --workers or fewer --cells-per-batch; what finished is kept."
        )
    return f"Ray was lost: {first_line(error)}\nRun the same command again."


def worker_died(said: str) -> bool:
    """Whether Ray tells of a worker that ended at work, rather than of one that never began."""
    if OUT_OF_MEMORY in said:
        return True
    return ("actor died" in said or "unavailable" in said) and "creation task" not in said


def cause_of_death(said: str) -> str:
    """Ray's own sentence on why the process ended, without its advice."""
    before, found, after = said.partition(OUT_OF_MEMORY)
    if found:
        return before.rpartition("\n")[2] + found + after.partition("\n")[0]
    detail = said.rpartition("Worker exit detail:")[2]
    return detail.strip().partition("\n")[0].partition(" Some common causes")[0]


def first_line(error: Exception) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
