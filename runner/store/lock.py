"""One driver for each results folder: the lock that a second one runs into, and who holds it.

The operating system holds the lock and drops it when its process ends, however it ends, so a killed driver
blocks nobody.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from runner.errors import StoreError

LOCK = ".lock"
HOLDER = ".lock-holder.json"
PATIENCE = 0.3  # seconds; `holder` holds the lock for an instant when it looks


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the only driver that writes to ``folder`` while the block runs; the folder is made if need be.

    Raises:
        StoreError: another process holds it (the message says which), or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise StoreError(_in_use(folder)) from None
    except (OSError, NotImplementedError) as error:
        raise StoreError(f"{folder} cannot be written or locked: {error}") from error
    try:
        _sign(folder)
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def holder(folder: Path) -> str | None:
    """Who is working in ``folder`` now, in words; None if nobody is."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return _who(folder)
    except OSError:
        return None
    lock.release()
    return None


def _sign(folder: Path) -> None:
    signature = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": Path(sys.argv[0]).name,
    }
    with suppress(OSError):  # the lock counts; the signature only helps the one who is turned away
        (folder / HOLDER).write_text(json.dumps(signature))


def _in_use(folder: Path) -> str:
    advice = "wait for it, end it, or choose another folder with --results"
    return f"{folder} is in use by {_who(folder)}: {advice}"


def _who(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
