"""Where runs are exported to: the tracking URI, checked and made absolute, and what may be said of it."""

from __future__ import annotations

import difflib
import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from runner.errors import SweepError
from runner.provenance import HIDDEN, redact

SQL = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")

TRAINING = "workflowType=machine_learning"  # opens MLflow's pages for training, not those for language models

# Defaults for every process that imports mlflow; a user's own values win.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # mlflow retries a request 7 times, waiting up to two minutes between: too long to end a sweep with. What fails is
    # tried again as a whole.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@dataclass(frozen=True)
class Location:
    """A tracking URI, and where new experiments keep their artifacts (None: as MLflow decides)."""

    uri: str
    artifacts: str | None = None

    @property
    def scheme(self) -> str:
        """``sqlite``, ``postgresql``, ``http``, ...: the URI's scheme without its driver."""
        return _scheme(self.uri)

    @property
    def digest(self) -> str:
        """A short name for the URI that says nothing of what it holds."""
        return hashlib.blake2b(self.uri.encode(), digest_size=4).hexdigest()

    @property
    def database(self) -> Path | None:
        """The file of a sqlite store, None for any other."""
        if self.scheme != "sqlite":
            return None
        return Path(unquote(self.uri.partition("///")[2].partition("?")[0]))

    @property
    def is_sql(self) -> bool:
        """Whether this process speaks to the database itself, and not to a server."""
        return self.scheme in SQL

    def hide(self, text: str) -> str:
        """The text without this location's passwords and tokens."""
        for secret in _secrets(self.uri):
            text = text.replace(secret, HIDDEN)
        return redact(text)

    def __repr__(self) -> str:
        return f"Location({self.hide(self.uri)!r})"


def locate(tracking_uri: str | None, results: Path) -> Location:
    """The store that a tracking URI names; by default ``<results>/mlflow.db`` with ``<results>/mlartifacts``.

    A relative sqlite path becomes absolute, so that every process means the same file.

    Raises:
        SweepError: MLflow has no such kind of store, or it is the file store that MLflow gave up.
    """
    if not tracking_uri:
        return _in_file(results.resolve() / "mlflow.db")
    scheme = _scheme(tracking_uri)
    if scheme == "sqlite":
        return _sqlite(tracking_uri)
    if scheme == "databricks" or (scheme in SQL + SERVERS and re.search("://[^/?#]", tracking_uri)):
        return Location(tracking_uri)
    raise SweepError(_refusal(tracking_uri, scheme))


def _sqlite(uri: str) -> Location:
    path = uri.partition("///")[2].partition("?")[0]
    if not uri.startswith("sqlite:///") or not path or path == ":memory:":
        raise SweepError(
            f"--tracking-uri: '{redact(uri)}' names no file; write sqlite:///runs.db or sqlite:////data/runs.db"
        )
    file = Path(unquote(path)).resolve()
    if file.is_dir():
        raise SweepError(f"--tracking-uri: {file} is a folder; name a file, such as sqlite:///{file / 'mlflow.db'}")
    return _in_file(file)


def _in_file(database: Path) -> Location:
    """SQLAlchemy ends a path at a question mark, and decodes it; MLflow, which makes its folder, does not decode it.

    So what need not be written otherwise is not; where it must be, an empty folder of that name appears.
    """
    path = re.sub("%(?=[0-9A-Fa-f]{2})", "%25", str(database)).replace("?", "%3F")
    return Location(f"sqlite:///{path}", (database.parent / "mlartifacts").as_uri())


def _scheme(uri: str) -> str:
    scheme = uri.partition(":")[0] if ":" in uri else uri if uri == "databricks" else ""
    return scheme.partition("+")[0].lower()


def _refusal(uri: str, scheme: str) -> str:
    shown = Location(uri).hide(uri)
    allowed = "Allowed: sqlite:///FILE, http(s)://HOST:PORT, postgresql://, mysql://, mssql://, databricks."
    if scheme in ("", "file"):
        return (
            f"--tracking-uri: '{shown}' is a folder or a plain name, and MLflow no longer keeps runs in "
            f"folders. Try sqlite:///mlflow.db. {allowed}"
        )
    near = difflib.get_close_matches(scheme, SQL + SERVERS, n=1)
    hint = f" Did you mean '{near[0]}'?" if near and near[0] != scheme else ""
    return f"--tracking-uri: '{shown}' is not the address of an MLflow store.{hint} {allowed}"


def _secrets(uri: str) -> list[str]:
    """Passwords and tokens in a URI, as written and as decoded, the longest first."""
    if _scheme(uri) == "sqlite":  # a path, which may hold : and @
        return []
    rest = uri.partition("://")[2].partition(":")[2]
    found = [rest.rpartition("@")[0]]
    if _scheme(uri) in SQL:  # SQLAlchemy ends a password at the first @, everybody else at the last before a /
        found.append(rest.partition("@")[0] if "@" in rest else "")
    with suppress(ValueError):  # from what is not a URI to the standard library, such as one with a lone bracket
        parts = urlsplit(uri)
        found.append(parts.password or "")
        found += [value for key, value in parse_qsl(parts.query) if re.search("(?i)token|passw|secret|key", key)]
    both = {form for secret in found if secret for form in (secret, unquote(secret))}
    return sorted(both, key=len, reverse=True)
