"""What a command costs: wall time, and the CPU time and peak memory of every process that it starts.

Ray's daemons leave the process tree (they are handed to init) and its workers come and go, so neither
``getrusage`` nor a walk over children sees them all. Every process of a measured command carries the same
mark in its environment instead, and ``/proc`` is read at intervals. Linux only; needs nothing but Python.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARK = "MODESWEEP_BENCH_ID"
# A look at Ray's ten processes takes 1.5 to 2 ms, so the watcher takes 2 % of one core. A process that nobody
# waits for loses half an interval on average, of the seconds that a Ray worker takes: the cost of what starts
# a process per fit is understated, not overstated.
INTERVAL = 0.1
# How long daemons may take to leave after the command has ended, before they are ended.
GRACE = 5.0

TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """One process at one moment; times in seconds, memory in bytes.

    Args:
        reaped: CPU time of the descendants that it has waited for, as the kernel counts it: exact.
        peak: the largest resident memory so far.
    """

    parent: int
    started: int
    state: str
    own: float
    reaped: float
    peak: int


@dataclass(frozen=True)
class Usage:
    """What a command cost.

    Args:
        wall: seconds until the command ended.
        cpu: seconds, user and system, of all its processes.
        driver_peak, largest_peak: bytes of resident memory, of the command's own process and of its largest.
        processes: how many were seen.
        left_behind: how many had to be ended because they outlived the command by `GRACE` seconds.
        exit_code: of the command.
        output, errors: what it printed.
    """

    wall: float
    cpu: float
    driver_peak: int
    largest_peak: int
    processes: int
    left_behind: int
    exit_code: int
    output: str
    errors: str


@dataclass
class Watch:
    """The processes that carry one mark, and their descendants, as last seen."""

    mark: str
    root: int
    seen: dict[tuple[int, int], Sample] = field(default_factory=dict)
    foreign: set[int] = field(default_factory=set)

    def look(self) -> set[int]:
        """Read ``/proc`` once; returns the ids of the processes that are running now."""
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self.foreign &= pids
        ours = {pid for pid, _ in self.seen} | {self.root}
        running = set()
        # In the order of their ids parents come before the children that they have just started.
        for pid in sorted(pids - self.foreign):
            sample = read(pid)
            if sample is None:
                continue
            if pid not in ours and sample.parent not in ours and not marked(pid, self.mark):
                self.foreign.add(pid)
                continue
            ours.add(pid)
            before = self.seen.get((pid, sample.started), sample)
            peak = max(sample.peak, before.peak)
            self.seen[pid, sample.started] = Sample(
                sample.parent, sample.started, sample.state, sample.own, sample.reaped, peak
            )
            if sample.state != "Z":
                running.add(pid)
        return running

    def cpu(self) -> float:
        """CPU seconds of all the processes seen, each counted once.

        A parent that waits for its children knows their exact time; the sum of their last samples is what is
        left for those that nobody waited for. The larger of the two is a lower bound.
        """
        children: dict[int, list[tuple[int, int]]] = {}
        pids = {pid for pid, _ in self.seen}
        roots = []
        for key, sample in self.seen.items():
            if sample.parent in pids and key[0] != self.root:
                children.setdefault(sample.parent, []).append(key)
            else:
                roots.append(key)

        def total(key: tuple[int, int]) -> float:
            below = sum(total(child) for child in children.get(key[0], []))
            return self.seen[key].own + max(self.seen[key].reaped, below)

        return sum(map(total, roots))

    def peak(self, pid: int | None = None) -> int:
        """Largest resident memory of one process, or of any."""
        return max((s.peak for (p, _), s in self.seen.items() if pid in (None, p)), default=0)


def read(pid: int) -> Sample | None:
    """One process's state, or None when it is gone."""
    try:
        # The command's name, in parentheses, may itself hold spaces and parentheses.
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    user, system, reaped_user, reaped_system = (int(x) * TICK for x in stat[11:15])
    # A process that has ended has no memory left to report.
    _, found, peak = status.partition("VmHWM:")
    return Sample(
        parent=int(stat[1]),
        started=int(stat[19]),
        state=stat[0],
        own=user + system,
        reaped=reaped_user + reaped_system,
        peak=int(peak.split(maxsplit=1)[0]) * 1024 if found else 0,
    )


def marked(pid: int, mark: str) -> bool:
    """Whether a process was started with the mark in its environment."""
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def process_started() -> float:
    """When this process was started, in seconds since the epoch; to within one clock tick."""
    sample = read(os.getpid())
    assert sample is not None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + sample.started * TICK


def run(
    command: Sequence[str],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 3600,
    interval: float = INTERVAL,
) -> Usage:
    """Run a command and measure it with everything it starts, daemons included.

    Args:
        command: the program and its arguments.
        cwd: where to run it.
        env: variables set on top of this process's own.
        timeout: seconds, after which it is ended with all its processes.
        interval: seconds between two looks at ``/proc``.

    Raises:
        TimeoutError: the command took longer than ``timeout``.
        RuntimeError: this is not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise RuntimeError("measuring a tree of processes needs Linux: it reads /proc")
    mark = uuid.uuid4().hex
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {}), MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
        watch = Watch(mark, process.pid)
        try:
            in_time = _watch_until_ended(process.pid, watch, start + timeout, interval)
            wall = time.perf_counter() - start
        finally:
            left_behind = _end_all(process, watch, interval)
        if not in_time:
            raise TimeoutError(f"after {timeout:g} s: {' '.join(command)}")
        output.seek(0)
        errors.seek(0)
        return Usage(
            wall=wall,
            cpu=watch.cpu(),
            driver_peak=watch.peak(process.pid),
            largest_peak=watch.peak(),
            processes=len(watch.seen),
            left_behind=left_behind,
            exit_code=process.returncode,
            output=output.read(),
            errors=errors.read(),
        )


def _watch_until_ended(pid: int, watch: Watch, deadline: float, interval: float) -> bool:
    """Look at intervals until the process has ended; False when it has not by the deadline.

    It is not waited for yet, so the last look reads its final times.
    """
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while True:
            ended = bool(poll.poll(interval * 1000))
            watch.look()
            if ended or time.perf_counter() > deadline:
                return ended
    finally:
        os.close(descriptor)


def _end_all(process: subprocess.Popen[bytes], watch: Watch, interval: float) -> int:
    """Wait for what the command left running, then end it; returns how many processes had to be ended."""
    ended = process.poll() is not None
    deadline = time.perf_counter() + (GRACE if ended else 0.0)
    running = watch.look()
    while running and time.perf_counter() < deadline:
        time.sleep(interval)
        running = watch.look()
    for pid in running:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            running = running - {pid}
    process.wait()
    return len(running)
