"""The table's files and the verb: what is written is what was compared, and a row that differs is exit code 1."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pyarrow.parquet as pq
import pytest

from experiments import verification
from experiments.verification import Row
from runner import api, cli
from runner.errors import StoreError, SweepError

GOOD = Row("law/small/value", "closed form", "a | b", 1.0, lambda: 1.0, 1e-6)
BAD = replace(GOOD, name="law/large/value", obtain=lambda: 2.0)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "rows", lambda quick=False: (GOOD,) if quick else (GOOD, BAD))


def say(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.argv", ["modesweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_files(table: None, results: Path) -> None:
    found, folder = api.verify(results)
    assert folder is not None
    frame = pd.read_parquet(folder / "verify.parquet")
    assert frame["name"].tolist() == [GOOD.name, BAD.name]
    assert frame["passed"].tolist() == [True, False]
    assert frame["difference"].tolist() == [0.0, 1.0]
    assert all(
        field.metadata[b"role"] and field.metadata[b"meaning"] for field in pq.read_schema(folder / "verify.parquet")
    )
    text = (folder / "verify.md").read_text()
    assert "1 of 2 numbers agree, 1 differ" in text
    assert "a \\| b" in text
    assert [result.passed for result in found] == [True, False]


def test_exit_codes(
    table: None, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say(monkeypatch, "verify", "--quick", "--results", str(results)) == 0
    assert "1 of 1 numbers agree" in capsys.readouterr().out
    assert say(monkeypatch, "verify", "--results", str(results)) == 1
    said = capsys.readouterr().out
    assert "law/large/value" in said
    assert "differs" in said
    assert say(monkeypatch, "verify", "law/large", "--json", "--results", str(results)) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["failed"], said["table"][0]["obtained"]) == (1, 1, 2.0)
    assert say(monkeypatch, "verify", "lore", "--results", str(results)) == 2
    assert "Topics: law" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("experiments.verification.verify", Mock(side_effect=AssertionError("computed")))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="could not be written: Not a directory"):
        api.verify(tmp_path / "file" / "results", quick=True)


def test_an_unknown_topic_is_refused(table: None, results: Path) -> None:
    with pytest.raises(SweepError, match="'lore'"):
        api.verify(results, topics=["law", "lore"])


def test_chosen_topics_leave_the_table_of_all_as_it_was(table: None, results: Path) -> None:
    _, folder = api.verify(results)
    assert folder is not None
    found, none = api.verify(results, topics=["law/small"])
    assert (len(found), none) == (1, None)
    assert len(pd.read_parquet(folder / "verify.parquet")) == 2
