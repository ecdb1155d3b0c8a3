"""Tracking URIs: what is accepted, made absolute, refused with help, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy import make_url

from runner.errors import SweepError, TrackingError
from runner.tracking.location import Location, locate
from runner.tracking.request import Request, choose_mode, explain


def test_the_default_is_a_database_in_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    location = locate(None, Path("results"))
    assert location.uri == f"sqlite:///{tmp_path}/results/mlflow.db"
    assert location.artifacts == (tmp_path / "results" / "mlartifacts").as_uri()
    assert location.database == tmp_path / "results" / "mlflow.db"


def test_relative_databases_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("sqlite:///runs.db", tmp_path).uri == f"sqlite:///{tmp_path}/runs.db"
    assert locate("sqlite:////a/b.db", tmp_path).database == Path("/a/b.db")


@pytest.mark.parametrize("name", ["r %41 2", "r?x", "100 %", "p%q", "größe #1", "a&b=c+d;e:f@g"])
def test_a_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    location = locate(None, tmp_path / name)
    assert location.database == tmp_path / name / "mlflow.db"
    assert make_url(location.uri).database == str(location.database)
    # MLflow makes the folder of the path as it is written.
    assert location.uri.endswith(f"/{name}/mlflow.db") == (name not in ("r %41 2", "r?x"))
    assert location.artifacts is not None
    assert Path(local_file_uri_to_path(location.artifacts)) == tmp_path / name / "mlartifacts"
    assert locate(location.uri, Path("elsewhere")) == location


@pytest.mark.parametrize(
    "uri",
    [
        "http://localhost:5000",
        "https://mlflow.example.org/prefix",
        "postgresql://me:pw@db/mlflow",
        "mysql+pymysql://me@db/mlflow",
        "databricks",
        "databricks://profile",
    ],
)
def test_servers_and_databases_are_taken_as_they_are(uri: str, tmp_path: Path) -> None:
    assert locate(uri, tmp_path) == Location(uri)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("./mlruns", "sqlite:///"),
        ("file:///tmp/mlruns", "sqlite:///"),
        ("htp://localhost:5000", "Did you mean 'http'?"),
        ("postgres://db/mlflow", "Did you mean 'postgresql'?"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://", "names no file"),
        ("http://", "not the address"),
        ("localhost:5000", "not the address"),
        ("sqlite:////tmp", "is a folder"),
    ],
)
def test_what_is_no_store_is_refused_with_help(uri: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="--tracking-uri") as refusal:
        locate(uri, tmp_path)
    assert words in str(refusal.value)


@pytest.mark.parametrize("uri", ["htp://me:s3cr3t@host/", "sqlite+pysqlcipher://:s3cr3t@/x.db"])
def test_a_refusal_hides_the_password(uri: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError) as refusal:
        locate(uri, tmp_path)
    assert "s3cr3t" not in str(refusal.value)


password = st.text("abcdefghijklmnopqrstuvwxyz0123456789$!~/@:?#[] ", min_size=4)


@given(secret=password, user=st.sampled_from(["", "me"]), before=st.sampled_from(["", "wrong password "]))
def test_no_text_shows_a_password(secret: str, user: str, before: str) -> None:
    location = Location(f"postgresql://{user}:{secret}~Q7@db.example.org/mlflow")
    for text in (location.uri, repr(location), f"{before}'{secret}~Q7' for user", str({"u": location.uri})):
        assert f"{secret}~Q7" not in location.hide(text)


@pytest.mark.parametrize("word", ["pa/ss", "pa:s/s", "12/34", "p[a/s?s#", "pa ss"])
def test_a_password_that_should_have_been_encoded_is_hidden(word: str, tmp_path: Path) -> None:
    location = locate(f"postgresql://me:{word}@db/mlflow?o=a@b", tmp_path)
    assert word not in repr(location)
    assert location.hide(f"wrong password '{word}'") == "wrong password '***'"


def test_a_path_is_no_password(tmp_path: Path) -> None:
    assert locate("sqlite:////a:b@c/d.db", tmp_path).hide("a bad database") == "a bad database"


def test_encoded_passwords_are_hidden_in_both_forms() -> None:
    location = Location("mysql://me:p%40ss@db/x?sslkey=k3y3&token=t0k")
    assert location.hide("p@ss p%40ss t0k") == "*** *** ***"


def test_equal_stores_have_equal_digests(tmp_path: Path) -> None:
    assert locate(None, tmp_path).digest == locate(f"sqlite:///{tmp_path}/mlflow.db", Path("/")).digest
    assert locate(None, tmp_path).digest != locate(None, tmp_path / "other").digest


@pytest.mark.parametrize(
    ("asked", "cells", "mode", "noticed"),
    [
        (None, 20_000, "cells", False),
        (None, 20_001, "groups", True),
        ("cells", 90_000, "cells", False),
        ("groups", 3, "groups", False),
        ("off", 3, None, False),
    ],
)
def test_large_sweeps_get_a_run_for_each_configuration(
    asked: str | None, cells: int, mode: str | None, noticed: bool
) -> None:
    chosen, notice = choose_mode(asked, cells)  # type: ignore[arg-type]
    assert chosen == mode
    assert (notice is not None) == noticed


def test_an_explanation_is_one_line_with_the_way_on() -> None:
    request = Request(Path("results/mine"), Location("http://me:s3cr3t@host:1"))
    error = RuntimeError("refused by http://me:s3cr3t@host:1\n  traceback and more")
    text = explain(error, request)
    assert "s3cr3t" not in text
    assert "\n" not in text
    assert "`modesweep export mine --tracking-uri 'http://me:***@host:1'` catches up" in text
    for results, where in (("results", ""), ("my runs", " --results 'my runs'")):
        own = Request(Path(results) / "mine", locate(None, Path(results)))
        assert f"`modesweep export mine{where}` catches up" in explain(error, own)
    assert explain(TrackingError("deleted"), request) == "deleted"
    assert "KeyError" in explain(KeyError(), request)
