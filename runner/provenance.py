"""Provenance: which code, on which machine, by which command; kept beside every result."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

PACKAGES = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "ray", "scipy", "torch")
COMPUTING = ("numpy", "torch")
HIDDEN = "***"

# A password may hold any of "/?#@: ", so it reaches to the last @ of its line, unless another URI begins before that.
_WITHIN = r"(?!\s\S*://)"
_USER = re.compile(rf"(?<=://)(?:((?:{_WITHIN}[^\n:])*)(:(?:{_WITHIN}[^\n])*)@|[^\s/:]*@)")
_NAMED = re.compile(
    r"""((?:[\w.-]*[_.-])?(?:token|passwd|password|pwd|secret|api_?key|access_?key|credentials?|sig(?:nature)?|auth)
    (?:[_-]?(?:id|key))?)=[^\s&;\#]+""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class Git:
    """The commit that the code came from; ``dirty`` says that files differed from it."""

    commit: str
    branch: str
    dirty: bool


@dataclass(frozen=True)
class Provenance:
    """What one needs to know to do a run again; collected once, by the driver."""

    modesweep: str
    code_version: str
    git: Git | None
    python: str
    platform: str
    machine: str
    cpus: int
    host: str
    user: str
    command: str
    packages: dict[str, str]


def collect(arguments: Sequence[str] | None = None) -> Provenance:
    """The provenance of this process; ``arguments`` is the command line, by default the process's own."""
    own = ["modesweep", *sys.argv[1:]] if arguments is None else arguments
    return Provenance(
        modesweep=version(),
        code_version=code_version(),
        git=git_state(Path.cwd()),
        python=platform.python_version(),
        platform=platform.platform(),
        machine=platform.machine(),
        cpus=os.cpu_count() or 1,
        host=socket.gethostname(),
        user=_user(),
        command=" ".join(shlex.quote(redact(part)) for part in own),
        packages=_versions(),
    )


@cache
def version() -> str:
    """The installed version of modesweep; ``0+unknown`` when it runs from a folder, uninstalled."""
    try:
        return installed_version("modesweep")
    except PackageNotFoundError:
        return "0+unknown"


@cache
def code_version() -> str:
    """The version with the commit of the code's own checkout: ``0.1.0+g1a2b3c4.dirty``, or just ``0.1.0``."""
    here = Path(__file__)
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None
    state = git_state(here.parent) if tracked else None
    if state is None:
        return version()
    return f"{version()}{'.' if '+' in version() else '+'}g{state.commit[:7]}{'.dirty' if state.dirty else ''}"


def code_digest(functions: Iterable[Callable[..., Any]]) -> str:
    """Of all that their numbers depend on: the source of the packages that define them, and ``COMPUTING``."""
    known = hashlib.blake2b(digest_size=8)
    for name in sorted({getattr(function, "__module__", "").partition(".")[0] for function in functions}):
        for path in _sources(name):
            known.update(path.name.encode() + b"\0" + path.read_bytes())
    held = _versions()
    known.update(" ".join(f"{name} {held.get(name)}" for name in COMPUTING).encode())
    return known.hexdigest()


def _sources(package: str) -> Iterator[Path]:
    """The Python files of a package that is imported, or of a module by itself, in an order of their own."""
    module = sys.modules.get(package)
    for folder in getattr(module, "__path__", ()):
        yield from sorted(Path(folder).rglob("*.py"))
    if module is not None and not hasattr(module, "__path__") and getattr(module, "__file__", None):
        yield Path(str(module.__file__))


def git_state(folder: Path) -> Git | None:
    """The git state of the project that the folder belongs to; None when there is none, or no git."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD") or ""
    return Git(commit, branch, dirty=bool(_git(folder, "status", "--porcelain", "--untracked-files=no")))


def redact(text: str) -> str:
    """The text with every password, token and key in its URIs and ``name=value`` pairs hidden.

    Where it cannot be told what belongs to a password, too much is hidden rather than too little.

    >>> redact("postgresql://me:s3cret@db.example.org/mlflow?sslmode=require")
    'postgresql://me:***@db.example.org/mlflow?sslmode=require'
    """
    return _NAMED.sub(rf"\1={HIDDEN}", _USER.sub(_hide, text))


def _hide(user: re.Match[str]) -> str:
    """Of user:password@host the password; of token@host, which is a secret by itself, all of it."""
    named = user[2] and "@" not in user[1]  # else it may be token@host:port
    return f"{user[1]}:{HIDDEN}@" if named else f"{HIDDEN}@"


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None when it is absent, fails, or knows nothing of the folder."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def _versions() -> dict[str, str]:
    held = {}
    for name in PACKAGES:
        try:
            held[name] = installed_version(name)
        except PackageNotFoundError:
            continue
    return held
