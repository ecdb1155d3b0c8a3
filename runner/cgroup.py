"""What Linux's control groups leave this process, as in a container or a batch system's job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOUNT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cpu_limit(mount: Path = MOUNT, own: Path = OWN) -> float | None:
    """Cores whose time the process may use; None without a limit."""
    limits = []
    for group in _groups("cpu", mount, own):
        both = _read(group / "cpu.max") or f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
        with suppress(ValueError, ZeroDivisionError):  # quota "max", or no such file
            quota, period = map(float, both.split())
            limits.append(quota / period)
    return min((limit for limit in limits if limit > 0), default=None)  # version 1 writes -1 for none


def memory_limit(mount: Path = MOUNT, own: Path = OWN) -> int | None:
    """Bytes of memory that the process may hold; None without a limit."""
    limits = []
    for group in _groups("memory", mount, own):
        with suppress(ValueError):
            limits.append(int(_read(group / "memory.max") or _read(group / "memory.limit_in_bytes")))
    return min(limits, default=None)


def _groups(controller: str, mount: Path, own: Path) -> Iterator[Path]:
    """The folders of the process's group and of all around it; a container may see no more than the outermost."""
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controller if controllers else mount  # version 2 has one tree for all controllers
        inner = base / path.lstrip("/")
        yield from (group for group in (inner, *inner.parents) if group.is_relative_to(base))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
