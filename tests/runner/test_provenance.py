from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import provenance
from runner.provenance import HIDDEN, code_digest, collect, git_state, redact

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:s3cret@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("https://u:p@ss:w@h:5000/#/x", "https://u:***@h:5000/#/x"),
        ("https://:only@h", "https://:***@h"),
        ("https://dapi123@host/api", "https://***@host/api"),
        ("http://h/?token=abc&run=1", "http://h/?token=***&run=1"),
        (
            "s3://b/k?X-Amz-Signature=abc&X-Amz-Credential=q",
            "s3://b/k?X-Amz-Signature=***&X-Amz-Credential=***",
        ),
        ("mysql://h/db?password=x#top", "mysql://h/db?password=***#top"),
        ("http://h?API_KEY=1;pwd=3", "http://h?API_KEY=***;pwd=***"),
        ("AWS_SECRET_ACCESS_KEY=abc", "AWS_SECRET_ACCESS_KEY=***"),
        ("https://u:a@h and https://tok@g", "https://u:***@h and https://***@g"),
        ("postgresql://me:pa/ss@db/mlflow", "postgresql://me:***@db/mlflow"),
        ("postgresql://me:p?a#s:s/@wo:rd@db/mlflow", "postgresql://me:***@db/mlflow"),
        ("postgresql://me:12/34@db/mlflow", "postgresql://me:***@db/mlflow"),
        ("postgresql://John Doe:pa ss@db/mlflow", "postgresql://John Doe:***@db/mlflow"),
        ("postgresql://me:a://b@db/mlflow", "postgresql://me:***@db/mlflow"),
        ("mysql://me@corp:pa/ss@db/mlflow", "mysql://***@db/mlflow"),
        ("https://tok@host:5000/x@v2", "https://***@v2"),
        ("mssql://CORP/me:s3cret@db", "mssql://CORP/me:***@db"),
        ("http://127.0.0.1:5000/path/me@home", "http://127.0.0.1:***@home"),  # the port may begin a password
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////tmp/results/mlflow.db",
        "databricks",
        "http://host/path@v2",
        "https://tracking.example.org:8080/#/experiments/1",
        "target=ring8",
        "author=me",
        "learning_rate=0.1",
        "kl_weight=0.1,1.0",
    ],
)
def test_the_rest_is_left_alone(text: str) -> None:
    assert redact(text) == text


PLAIN = "abcXYZ019%!$*()+,'~._-"


@given(
    user=st.text(PLAIN, min_size=4),
    word=st.text(PLAIN, min_size=4).map("s3cret".__add__),
    password=st.text(PLAIN + "/@:?#= ", min_size=4).map("{}s3cret".format),
    host=st.from_regex(r"[a-z]{1,9}", fullmatch=True),
)
def test_no_password_survives(user: str, word: str, password: str, host: str) -> None:
    for uri in (
        f"https://{user}:{password}@{host}/x",
        f"postgresql+psycopg2://{user}:{password}@{host}/x?sslmode=require",
        f"https://:{password}@{host}/x",
        f"https://{word}@{host}",
        f"http://{host}?token={word}",
    ):
        shown = redact(f"--tracking-uri={uri}")
        assert "s3cret" not in shown
        assert HIDDEN in shown
        assert host in shown


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_git_state_of_a_project(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "-b", "trunk")
    assert git_state(tmp_path) is None
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-m", "first")
    state = git_state(tmp_path)
    assert state is not None
    assert (state.commit, state.branch, state.dirty) == (git(tmp_path, "rev-parse", "HEAD"), "trunk", False)
    (tmp_path / "untracked.txt").write_text("b")
    assert git_state(tmp_path) == state
    (tmp_path / "a.txt").write_text("b")
    changed = git_state(tmp_path / ".")
    assert changed is not None
    assert changed.dirty


def test_no_git_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(ROOT) is None


def test_code_version_names_the_commit_of_tracked_code_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "runner"
    package.mkdir()
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    monkeypatch.setattr(provenance, "version", lambda: "1.2.3")
    (package / "provenance.py").write_text("")
    (tmp_path / "other.txt").write_text("")
    uncached = provenance.code_version.__wrapped__
    assert uncached() == "1.2.3"
    git(tmp_path, "init")
    git(tmp_path, "add", "other.txt")
    git(tmp_path, "commit", "-m", "somebody else's project")
    assert uncached() == "1.2.3"
    git(tmp_path, "add", "runner")
    git(tmp_path, "commit", "-m", "the code itself")
    commit = git(tmp_path, "rev-parse", "HEAD")[:7]
    assert uncached() == f"1.2.3+g{commit}"
    (package / "provenance.py").write_text("# changed")
    assert uncached() == f"1.2.3+g{commit}.dirty"


def test_everything_is_collected_without_heavy_imports() -> None:
    heavy = ("torch", "ray", "mlflow", "pandas", "pyarrow")
    code = f"import runner.provenance as p, sys; p.collect(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    held = collect(["modesweep", "run", "my sweep.yaml", "--tracking-uri=http://a:b@h"])
    assert held.command == "modesweep run 'my sweep.yaml' '--tracking-uri=http://a:***@h'"
    assert held.packages["pyarrow"]
    assert held.cpus >= 1


def test_a_digest_of_code_is_of_its_package_and_what_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").write_text("def run(): ...\n")
    (tmp_path / "mine" / "deep" / "more.py").write_text("x = 1\n")
    (tmp_path / "alone.py").write_text("def run(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine, alone = (importlib.import_module(name).run for name in ("mine", "alone"))
    first = code_digest([mine, alone])
    (tmp_path / "README.md").write_text("changed")
    assert code_digest([alone, mine]) == first
    assert len({first, code_digest([mine]), code_digest([alone]), code_digest([])}) == 4
    for path in (tmp_path / "mine" / "deep" / "more.py", tmp_path / "alone.py"):
        before = code_digest([mine, alone])
        path.write_text(path.read_text() + "# other\n")
        assert code_digest([mine, alone]) != before
    before = code_digest([mine])
    monkeypatch.setattr(provenance, "_versions", lambda: {"torch": "0"})
    assert code_digest([mine]) != before
