from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.targets import Points
from runner.errors import StoreError
from runner.figures.study import QUESTION, Axis, View, _crossed, like_with_like
from runner.report import _value, write_report
from tests.runner.fakes import mixture
from tests.runner.made_results import toy_cells, write_results

NEAR, FAR = mixture("near", 1.0), mixture("far", 4.0, dim=2)
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """The page's text and links; refuses tags that do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.pieces: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_what_the_page_needs_is_imported_while_the_last_batches_run(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "study", toy_cells([NEAR, FAR], {"rate": [0.25, 4.0]}))
    code = f"""
import pathlib, sys
import runner.driver, runner.report
runner.report.load_libraries()
there = set(sys.modules)
runner.report.write_report(pathlib.Path({str(folder)!r}))
packages = {{name.partition(".")[0] for name in there}}
print(*(name for name in set(sys.modules) - there if name.partition(".")[0] not in packages))
print(*(name for name in set(sys.modules) - there if name.startswith(("matplotlib", "scipy", "pyarrow", "jinja2"))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_page_has_the_question_the_numbers_and_the_figures(tmp_path: Path) -> None:
    cells = toy_cells([NEAR, FAR], {"rate": [0.25, 4.0]})
    read = page(write_results(tmp_path / "study", cells, question="What does a rate keep?"))
    assert "study What does a rate keep?" in read.text
    assert "12 cells 12 ok" in read.text
    # The toy's coverage is 1 / (1 + rate).
    assert "by rate, on average over 2 targets: 0.25 keeps coverage 0.80 at sharpness 0.20" in read.text
    assert "near 0.25 3 0.800 ± 0.000 0.200 ± 0.000" in read.text
    assert "4 keeps coverage 0.20 at sharpness 0.80" in read.text
    assert "modesweep run toy.yaml" in read.text
    assert "2026-01-02 03:06 UTC, after 2 min 05 s" in read.text
    assert "coverage mass kept higher" in read.text
    assert read.tags.count("img") == 4


def test_levels_are_averaged_over_the_targets_that_all_have(tmp_path: Path) -> None:
    cells = toy_cells([NEAR, FAR], {"rate": [0.25]}) + toy_cells([NEAR], {"rate": [4.0]})
    cells += toy_cells([FAR], {"rate": [4.0], "mode": ["diverge"]})
    cells += toy_cells([mixture("third", 2.0)], {"rate": [0.25]})
    read = page(write_results(tmp_path / "uneven", cells))
    over = "by rate, on average over 1 of 3 targets, where each of these has cells that are ok: 0.25 keeps"
    assert over in read.text


def test_levels_that_have_no_target_in_common_are_not_compared(tmp_path: Path) -> None:
    cells = toy_cells([NEAR], {"rate": [0.25], "size": [1, 2]}) + toy_cells([FAR], {"rate": [4.0], "size": [1, 2]})
    cells += toy_cells([FAR], {"rate": [0.25], "mode": ["raise"]})
    read = page(write_results(tmp_path / "apart", cells))
    assert "0.25 keeps" not in read.text


def test_a_parameter_that_one_level_has_and_another_lacks_hinders_no_comparison() -> None:
    rows = pd.DataFrame(
        [
            ("a", "alpha", 0.5, "wide", 0.9),
            ("a", "alpha", 2.0, "wide", 0.5),
            ("a", "alpha", 2.0, "random", 0.1),
            ("a", "forward", None, "wide", 1.0),
            ("a", "forward", None, "tight", 0.6),
            ("b", "forward", None, "wide", 0.2),
        ],
        columns=["target", "divergence", "alpha", "init", "coverage_mean"],
    ).assign(sharpness_mean=0.5)
    axis = Axis("divergence", ("alpha", "forward"), "", False)
    others = (Axis("alpha", (0.5, 2.0), "", True), Axis("init", ("wide", "random", "tight"), "", False))
    assert _crossed(rows, axis, (axis, *others)) == ["init"]
    view = View("kl_fit", ("a", "b"), (axis, *others), QUESTION, rows, rows, {"divergence": ("target", "init")})
    settings, of = like_with_like(view, axis, axis.levels)
    assert of == 4
    assert settings[["divergence", "target", "init", "coverage"]].to_numpy().tolist() == [
        ["alpha", "a", "wide", 0.7],
        ["forward", "a", "wide", 1.0],
    ]


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "alone", toy_cells([NEAR], {"rate": [0.25, 4.0]}))
    source = write_report(folder).read_text(encoding="utf-8")
    read = Page(source)
    assert not {"script", "link", "iframe"} & set(read.tags)
    assert not re.search(r"url\(|@import|https?://", source)
    for link in read.links:
        kind, _, data = link.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")


def test_what_comes_from_the_sweep_file_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> & \"quotes\" 'too' {{ 7 * 7 }}"
    target = mixture("<b>bold</b>", 1.0)
    cells = toy_cells([target], {"rate": [0.5, 2.0]}) + toy_cells([target], {"mode": ["raise"]}, seeds=1)
    read = page(write_results(tmp_path / "evil", cells, question=evil))
    assert not {"script", "b"} & set(read.tags)
    assert evil in read.text
    assert "<b>bold</b>" in read.text


def test_failures_are_counted_by_kind_with_the_command_that_repeats_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = toy_cells([NEAR], {"mode": ["fine", "diverge"]}, seeds=2)
    cells += toy_cells([NEAR], {"mode": ["raise"]}, seeds=1)
    read = page(write_results(tmp_path / "results" / "partly", cells))
    assert "5 cells 2 ok 2 diverged 1 failed" in read.text
    first = next(cell for cell in cells if cell.params.mode == "diverge")
    assert f"2 diverged in toy; the first on near, seed 0: {first.id} loss is nan at step 50" in read.text
    assert f"modesweep run results/partly/sweep.yaml --cell {first.id} --executor inline" in read.text
    assert "the toy with seed 0 was told to raise" in read.text
    assert "near diverge 0 of 2 – – –" in read.text
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = f"modesweep run {tmp_path}/results/partly/sweep.yaml --results {tmp_path}/results --cell {first.id}"
    assert there in page(tmp_path / "results" / "partly").text


def test_the_most_frequent_kind_of_failure_comes_first(tmp_path: Path) -> None:
    cells = toy_cells([NEAR], {"mode": ["raise"], "size": [1]}, seeds=1)
    cells += toy_cells([NEAR, FAR], {"mode": ["diverge"]}, seeds=2)
    cells += [cell for cell in toy_cells([NEAR, FAR], {"mode": ["raise"]}, seeds=2) if cell.seed == 1]
    read = page(write_results(tmp_path / "kinds", cells))
    assert re.findall(r"(\d+) (\w+) in toy; the first", read.text) == [
        ("4", "diverged"),
        ("2", "failed"),
        ("1", "failed"),
    ]


def test_the_bar_of_a_share_is_as_long_as_it_and_never_beyond_its_ends(tmp_path: Path) -> None:
    nan = float("nan")
    assert [_value("coverage", mean, nan).share for mean in (-0.2, 0.0, 0.3, 1.0, 1.2)] == [0, 0, 0.3, 1, 1]
    assert [_value("sharpness", mean, nan).text for mean in (-0.2, 1.2)] == ["-0.200", "1.200"]
    assert _value("coverage", nan, nan).share is _value("loss", 0.5, nan).share is None
    source = write_report(write_results(tmp_path / "bars", toy_cells([NEAR], {"rate": [0.25, 4.0]})))
    found = re.findall(r'--share: ([\d.]+)%">([\d.]+)', source.read_text(encoding="utf-8"))
    assert found == [("80.0", "0.800"), ("20.0", "0.200"), ("20.0", "0.200"), ("80.0", "0.800")]


def test_only_failures_leave_a_page_that_says_why(tmp_path: Path) -> None:
    read = page(write_results(tmp_path / "failed", toy_cells([NEAR], {"mode": ["raise"]})))
    assert "3 cells 3 failed" in read.text
    assert "told to raise" in read.text
    assert "What is kept" not in read.text
    assert "img" not in read.tags


def test_one_cell_and_no_manifest(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "one", toy_cells([NEAR], {"rate": [4.0]}, seeds=1), manifest=False)
    read = page(folder)
    assert "1 cell 1 ok" in read.text
    assert "near 1 0.200 0.800" in read.text
    assert "±" not in read.text.replace("Means over seeds ±", "")
    assert "How it was made" not in read.text


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no results of a sweep"):
        write_report(tmp_path)


def test_thirty_targets_are_all_in_the_table(tmp_path: Path) -> None:
    targets = [mixture(f"target_{i}", 1 + i / 10, dim=3) for i in range(30)]
    read = page(write_results(tmp_path / "many", toy_cells(targets, {"rate": [0.5, 2.0]}, seeds=1)))
    assert all(f"{target.name} 0.5" in read.text for target in targets)


def test_an_edge_of_a_nuisance_axis_is_warned_of(tmp_path: Path) -> None:
    cells = toy_cells([NEAR], {"size": [1, 2], "rate": [0.5, 2.0]})
    read = page(write_results(tmp_path / "edge", cells, nuisance=["rate"]))
    assert "the best rate is the smallest" in read.text


def test_three_lines_of_pandas_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = Points("points", np.linspace(0, 1, 20)[:, None], ("x",))
    folder = write_results(tmp_path / "three", toy_cells([NEAR, points], {"rate": [0.25, 4.0]}))
    source = write_report(folder).read_text(encoding="utf-8")
    code = "".join(Page(f"<pre>{source.split('<pre>')[-1].split('</pre>')[0]}</pre>").pieces)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "report", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"near +0\.25 +0\.8 +0\.2", printed)
    assert re.search(r"points +0\.25 +0\.8 +0\.2", printed)
