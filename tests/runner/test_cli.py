"""The command line as a person meets it: exit codes, one screen of text, and no traceback."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from unittest.mock import MagicMock, Mock

import pandas as pd
import pytest

from runner import api, cli
from runner.tracking.request import ExportReport

GOOD = """\
name: mine
grids:
  - experiment: kl_fit
    axes: {target: [bimodal], divergence: [forward_kl, reverse_kl]}
    fixed: {steps: 20, samples: 16}
"""

# What is broken, what replaces what, and what the answer must name.
BROKEN = {
    "syntax": ("grids:", "grids: [", ["line"]),
    "parameter": ("divergence:", "divergance:", ["grids[0].axes.divergance", "Did you mean 'divergence'"]),
    "target": ("[bimodal]", "[bimodel]", ["bimodel", "Did you mean 'bimodal'"]),
    "value": ("reverse_kl]", "reverse_lk]", ["reverse_lk", "reverse_kl"]),
    "experiment": ("kl_fit", "klfit", ["klfit", "kl_fit"]),
    "key": ("grids:", "grid:", ["grid", "grids"]),
    "name": ("name: mine", "name: My Sweep", ["name"]),
    "type": ("steps: 20", "steps: many", ["steps", "many"]),
    "range": ("samples: 16", "samples: 0", ["samples"]),
    "twice": ("fixed: {steps: 20,", "fixed: {target: bimodal, steps: 20,", ["target"]),
    "empty axis": ("[bimodal]", "[]", ["target"]),
    "duplicate": ("name: mine", "name: mine\nname: yours", ["name"]),
    "seeds": ("name: mine", "name: mine\nseeds: none", ["seeds"]),
    "undefined": ("samples: 16}", 'samples: 16, init: "mode:7"}', ["mode:7", "mode:0 to mode:1"]),
    "file": ("[bimodal]", "[mine]", ["nowhere.csv"]),
    "long name": ("[bimodal]", "[mine]", ["targets.mine", "File name too long"]),
    "home": ("[bimodal]", "[mine]", ["~nosuchuser/x.csv", "home directory"]),
    "covariance": ("[bimodal]", "[mine]", ["covariance"]),
}
TARGETS = {
    "file": "targets: {mine: {file: nowhere.csv}}\n",
    "long name": f"targets: {{mine: {{file: {'a' * 300}.csv}}}}\n",
    "home": "targets: {mine: {file: ~nosuchuser/x.csv}}\n",
    "covariance": "targets: {mine: {weights: [1.0], means: [[0.0, 0.0]], covariances: [[[1.0, 2.0], [2.0, 1.0]]]}}\n",
}


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run a command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["modesweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Said(ended.value.code or 0, out, err)  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_sweep_file_is_answered_on_one_screen(say, fault: str) -> None:
    old, new, named = BROKEN[fault]
    assert old in GOOD
    Path("mine.yaml").write_text(GOOD.replace(old, new) + TARGETS.get(fault, ""))
    said = say("run", "mine.yaml")
    assert said.code == 2
    assert said.out == ""
    assert "mine.yaml" in said.err
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) <= 24
    for word in named:
        assert word in said.err
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "quickstrt"], ["quickstrt", "Did you mean 'quickstart'"]),
        (["run", "./nothere.yaml"], ["nothere.yaml"]),
        (["plan", "smoke", "--set", "divergense=forward_kl"], ["divergense", "divergence"]),
        (["plan", "smoke", "--set", "steps"], ["--set steps"]),
        (["plan", "smoke", "--seeds", "0"], ["seeds"]),
        (["plan", "smoke", "--max-cells", "3"], ["16", "--max-cells"]),
        (["run", "smoke", "--tracking-uri", "ftp://example.org"], ["ftp"]),
        (["plan", "smoke", "--tracking-uri", "./mlruns"], ["./mlruns", "sqlite:///mlflow.db"]),
        (["run", "smoke", "--cell", "zzz"], ["zzz"]),
        (["run", "smoke", "--address", "ray://x:1"], ["--address ray://x:1: a client's", "`ray job submit`"]),
        (["plan", "smoke", "--address", "ray://x:1"], ["Use host:port or auto"]),
        (["run", "smoke", "--executor", "inline", "--results", "r\udcff"], ["--results", "r\\udcff", "UTF-8"]),
        (["run", "smoke", "--executor", "inline", "--tracking-uri", "sqlite:///r\udcff"], ["--tracking-uri", "UTF-8"]),
        (["ui", "--port", "-5"], ["--port", "1"]),
        (["ui", "--port", "70000"], ["--port", "65535"]),
    ],
)
def test_a_wrong_option_is_answered_before_anything_starts(say, arguments: list[str], named: list[str]) -> None:
    said = say(*arguments)
    assert said.code == 2
    assert "Traceback" not in said.err
    for word in named:
        assert word in said.err
    assert not Path("results").exists()


def test_plan_shows_cells_and_starts_nothing(say) -> None:
    Path("mine.yaml").write_text(GOOD)
    said = say("plan", "mine.yaml", "--seeds", "3")
    assert said.code == 0
    assert "6 cells, 6 to run" in said.out
    assert len(re.findall(r"^  [0-9a-f]{16}  kl_fit", said.out, re.M)) == 5
    assert not Path("results").exists()


def test_plan_says_what_the_file_gives_where_it_is_the_default_too(say) -> None:
    axes = "divergence: [forward_kl, reverse_kl], init: [wide, random], learning_rate: [0.02]}"
    cases = "\n    cases: [{standardise: true, optimizer: adam}]"
    Path("mine.yaml").write_text(GOOD.replace("divergence: [forward_kl, reverse_kl]}", axes + cases))
    told = " ".join(say("plan", "mine.yaml").out.split())
    rest = "steps=20 samples=16 optimizer=adam learning_rate=0.02 standardise=True seed=0"
    for divergence in ("forward_kl", "reverse_kl"):
        for init in ("wide", "random"):
            assert f"kl_fit target=bimodal divergence={divergence} init={init} {rest}" in told


def test_plan_as_json(say) -> None:
    said = say("plan", "smoke", "--json")
    plan = json.loads(said.out)
    assert plan["cells"] == plan["todo"] == 16
    assert len(plan["first_cells"]) == 5


def test_mlflow_off_asks_for_no_store(say) -> None:
    assert say("plan", "smoke", "--tracking-uri", "./mlruns", "--mlflow", "off").code == 0


def test_run_then_look_at_it(say) -> None:
    Path("mine.yaml").write_text(GOOD)
    report = json.loads(say("run", "mine.yaml", "--executor", "inline", "--mlflow", "off", "--json").out)
    assert report["counts"]["ok"] == 2
    assert "Nothing to run" in say("plan", "mine.yaml").out
    assert "forward_kl" in say("summary", "mine").out
    assert json.loads(say("summary", "mine", "--json").out)[0]["n"] == 1
    assert json.loads(say("status", "mine", "--json").out)["ok"] == 2
    id_ = pd.read_parquet("results/mine/cells.parquet")["cell_id"][0]
    shown = say("show", id_[:8]).out
    assert id_ in shown
    assert "coverage" in shown
    assert f"--cell {id_}" in shown
    elsewhere = ("--cell", id_, "--results", "other", "--executor", "inline", "--mlflow", "off")
    assert say("run", "mine.yaml", *elsewhere).code == 0  # of two cells, the one that was asked for is ok
    again = say("run", "results/mine/sweep.yaml", "--cell", id_, "--executor", "inline", "--mlflow", "off")
    assert again.code == 0
    assert "1 ok" in again.out


def test_a_run_warns_of_a_nuisance_axis_as_its_summary_does(say) -> None:
    Path("mine.yaml").write_text(GOOD.replace("    fixed:", "    nuisance: {learning_rate: [0.01, 0.02]}\n    fixed:"))
    ran = say("run", "mine.yaml", "--executor", "inline", "--mlflow", "off").out
    for said in (ran, say("summary", "mine").out):
        told = " ".join(said.split())
        assert "settings the best learning_rate is the" in told
        assert "so widen this nuisance axis" in told


def test_a_summary_says_what_is_not_ok_or_has_not_run_and_what_runs_it(say) -> None:
    Path("mine.yaml").write_text(GOOD + "    cases: [{learning_rate: 0.02}, {learning_rate: 1.0e+30}]\nseeds: 2\n")
    run = ("run", "mine.yaml", "--executor", "inline", "--mlflow", "off", "--results", "there")
    say(*run, "--set", "divergence=forward_kl")
    told = say("summary", "mine", "--results", "there").out
    assert re.search(r"1e\+30 .* - 0 of 2\n", told)
    again = "modesweep run there/mine/sweep.yaml --results there"
    assert f"Of 4 cells 2 are not ok; to run those: {again} --retry-failed" in " ".join(told.split())
    id_ = json.loads(say("plan", "mine.yaml", "--results", "other", "--json").out)["first_cells"][0]["cell_id"]
    say(*run[:-1], "other", "--cell", id_)
    told = " ".join(say("summary", "mine", "--results", "other").out.split())
    assert "Of 8 cells 7 have not run; to run those: modesweep run other/mine/sweep.yaml --results other" in told
    assert "--retry-failed" not in told


def test_the_exit_code_says_whether_every_cell_that_was_asked_for_is_ok(say) -> None:
    Path("mine.yaml").write_text(GOOD + "    cases: [{learning_rate: 0.02}, {learning_rate: 1.0e+30}]\n")
    run = ("run", "mine.yaml", "--executor", "inline", "--mlflow", "off", "--set", "divergence=forward_kl")
    assert say(*run).code == 1
    ids = dict(pd.read_parquet("results/mine/cells.parquet")[["status", "cell_id"]].to_numpy())
    assert say(*run).code == 1  # nothing ran, and what there is has not changed
    assert say(*run, "--cell", ids["ok"]).code == 0
    assert say(*run, "--cell", ids["diverged"], "--json").code == 1
    Path("mine.yaml").write_text(GOOD + "    cases: [{learning_rate: 0.02}]\n")
    assert say(*run).code == 0  # nothing ran here either


def test_hints_look_where_the_command_looked(say, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text(GOOD)
    here = ["--results", "my runs"]
    follower = MagicMock(finish=Mock(return_value=ExportReport(2)), poll=Mock(return_value=Mock(exported=2)))
    monkeypatch.setattr("runner.driver.Follower", Mock(return_value=follower))
    ran = say("run", "mine.yaml", "--executor", "inline", *here, "--tracking-uri", "postgresql://me:pw@db/x")
    assert "modesweep ui --results 'my runs' --tracking-uri 'postgresql://me:***@db/x'" in " ".join(ran.out.split())
    id_ = pd.read_parquet("my runs/mine/cells.parquet")["cell_id"][0]
    shown = json.loads(say("show", id_, "--json", *here).out)
    alone = f"modesweep run 'my runs/mine/sweep.yaml' --results 'my runs' --cell {id_} --executor inline"
    assert shown["again"]["command"] == alone
    assert say(*shlex.split(alone)[1:], "--mlflow", "off").code == 0
    assert not Path("results").exists()
    assert say("status", "mine").err.rstrip().endswith("Next: modesweep run ./mine.yaml")
    assert say("status", "smoke", *here).err.rstrip().endswith("Next: modesweep run smoke --results 'my runs'")
    assert "`modesweep run quickstart --results 'my runs'` makes some" in " ".join(say("ui", *here).err.split())


def test_a_cell_of_an_earlier_plan_has_no_command_that_would_be_refused(say) -> None:
    Path("mine.yaml").write_text(GOOD)
    run = ("run", "mine.yaml", "--executor", "inline", "--mlflow", "off")
    say(*run)
    ids = dict(pd.read_parquet("results/mine/cells.parquet")[["divergence", "cell_id"]].to_numpy())
    say(*run, "--set", "divergence=forward_kl")
    assert "command" in json.loads(say("show", ids["forward_kl"], "--json").out)["again"]
    gone = " ".join(say("show", ids["reverse_kl"]).out.split())
    assert gone.endswith("the cell is of an earlier plan, and results/mine/sweep.yaml has it no more")
    assert "--cell" not in gone
    Path("results/mine/sweep.yaml").unlink()
    told = json.loads(say("show", ids["forward_kl"], "--json").out)["again"]
    assert "results/mine/sweep.yaml: no such sweep file" in told["not now"]


def test_what_is_not_finite_is_null_in_json(say, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"metrics": {"forward_kl": math.inf, "coverage": 0.5}, "the fit": {"q_mean": [math.nan, 1.0]}}
    monkeypatch.setattr("runner.lookup.show", lambda *_: ("a cell", held))
    shown = json.loads(say("show", "abc", "--json").out)
    assert shown == {"metrics": {"forward_kl": None, "coverage": 0.5}, "the fit": {"q_mean": [None, 1.0]}}


def test_ctrl_c_says_how_to_continue(say, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes; while cells run, or MLflow is waited for, there is a report as well."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run", interrupt)
    said = say("run", "smoke", "--results", "my results", "--json")
    assert said.code == 130
    assert said.out == ""
    assert "To continue: modesweep run smoke --results 'my results' --json\n" in said.err


def test_sigterm_ends_a_run_in_good_order(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD + "seeds: 500\n")
    command = [sys.executable, "-m", "runner.cli", "run", "mine.yaml", "--executor", "inline", "--mlflow", "off"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--cells-per-batch", "1"], cwd=tmp_path, env=environment, **piped) as running:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("results/mine/records/*.parquet")):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.terminate()
        out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "")
    assert "Stopped early; to continue: modesweep run mine.yaml" in out
    assert 0 < len(pd.read_parquet(tmp_path / "results/mine/cells.parquet")) < 1000
    assert (tmp_path / "results/mine/report.html").is_file()


def test_stopped_before_the_first_batch(say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.executors.inline.worker.run", Mock(side_effect=KeyboardInterrupt))
    Path("mine.yaml").write_text(GOOD)
    said = say("run", "mine.yaml", "--executor", "inline", "--mlflow", "off")
    assert said.code == 130
    assert "mine: no batch had ended, in" in said.out
    assert "Tables and report are made" not in said.out
    assert "Stopped early; to continue: modesweep run mine.yaml --executor inline --mlflow off\n" in said.out


def test_a_hint_can_be_copied_whole_and_says_nothing_twice(say) -> None:
    Path("mine.yaml").write_text(GOOD + "    cases: [{learning_rate: 1.0e+30}]\n")
    command = "run mine.yaml --executor inline --mlflow off --results a/folder/with/a/long/name --retry-failed"
    told = say(*command.split()).out.splitlines()
    assert f"To run those again: modesweep {command}" in told
    assert sum(line.startswith(f"  Alone: modesweep {command} --cell ") for line in told) == 1
    told = say(*command.split(), "--fail-fast").out.splitlines()
    assert f"Stopped early; to continue: modesweep {command} --fail-fast" not in told
    (left,) = [
        line
        for line in say("summary", "mine", "--results", "a/folder/with/a/long/name").out.splitlines()
        if "Of " in line
    ]
    assert left.endswith(" --retry-failed")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_lacks_a_sign_ends_nothing(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    run = [sys.executable, "-m", "runner.cli", "run", "mine.yaml", "--executor", "inline", "--mlflow", "off"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run(run, capture_output=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"2 of 2 cells ok" in done.stdout


def test_what_may_not_be_read_is_told_in_a_line(say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.lookup.status", Mock(side_effect=PermissionError(13, "Permission denied", "/x/mine")))
    said = say("status", "mine")
    assert (said.code, said.err) == (1, "modesweep: /x/mine: Permission denied\n")


def test_tables_that_are_damaged_or_written_anew_by_another_program(say) -> None:
    Path("mine.yaml").write_text(GOOD)
    run = ("run", "mine.yaml", "--executor", "inline", "--mlflow", "off")
    say(*run)
    tables = Path("results/mine")
    for name in ("curves", "samples", "targets"):
        path = tables / f"{name}.parquet"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        said = say("report", "mine")
        assert said.code == 1
        assert f"{name}.parquet cannot be read" in said.err
        assert said.err.rstrip().endswith("run the sweep again to make it anew")
        path.write_bytes(whole)
    for name in ("cells", "summary"):
        pd.read_parquet(tables / f"{name}.parquet").to_parquet(tables / f"{name}.parquet")
    for verb in ("summary", "report"):
        said = say(verb, "mine")
        assert (said.code, "does not say what its columns are" in said.err) == (1, True)
    say(*run)
    assert say("summary", "mine").code == 0


def test_one_cell_takes_as_long_on_many_workers(say) -> None:
    Path("mine.yaml").write_text(GOOD.replace("steps: 20", "steps: 100000"))
    told = say("plan", "mine.yaml", "--set", "divergence=forward_kl", "--workers", "8").out
    (row,) = [line for line in told.splitlines() if line.startswith("kl_fit")]
    (about,) = re.findall("About (.*) of fits on 8 workers", told)
    assert row.endswith(f" {about}")


@pytest.mark.parametrize(
    ("verb", "default"),
    [("run", "the number of cores"), ("run", "mlflow.db in the results folder"), ("run", "by size"), ("verify", "all")],
)
def test_help_says_what_is_chosen_where_nothing_is(say, verb: str, default: str) -> None:
    told = " ".join(word for word in say(verb, "--help").out.split() if word != "│")
    assert f"[default: {default}]" in told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("how", [["--json"], ["--names"], []])
def test_an_output_that_is_full_is_told_in_a_line(how: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "runner.cli", "list", "targets", *how]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=Path(cli.__file__).parents[1]
        )
    assert done.returncode == 1
    assert done.stderr == "modesweep: cannot write to standard output: No space left on device\n"


def test_a_reader_that_has_enough_ends_a_command_quietly() -> None:
    command = f"{shlex.quote(sys.executable)} -m runner.cli list experiments --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=Path(cli.__file__).parents[1])
    assert (done.returncode, done.stderr) == (1, "")


def test_where_a_stream_is_closed_the_command_runs_all_the_same() -> None:
    command = f"{shlex.quote(sys.executable)} -m runner.cli list targets"
    for closed, code in ((">&-", 0), ("--no-such-option 2>&-", 2)):
        told = ["bash", "-c", f"{command} {closed}"]
        done = subprocess.run(told, capture_output=True, text=True, cwd=Path(cli.__file__).parents[1])
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_what_is_not_there_is_said(say) -> None:
    verbs = ("summary", "status", "report", "export")
    for command in (*([verb, "mine"] for verb in verbs), ["compare", "mine", "smoke"], ["show", "abc"]):
        said = say(*command)
        assert said.code == 2
        assert "Traceback" not in said.err
        assert said.err.rstrip().endswith(("Next: run its YAML file first.", "of each MLflow run."))


@pytest.mark.parametrize("kind", [kind for kind in cli.Kind if kind is not cli.Kind.references])
def test_everything_that_can_be_listed(say, kind: str) -> None:
    table = say("list", kind).out
    names = say("list", kind, "--names").out.split()
    rows = json.loads(say("list", kind, "--json").out)
    assert names
    assert names == list(dict.fromkeys(next(iter(row.values())) for row in rows))
    assert all(name in table for name in names)


def test_experiments_are_listed_with_what_their_parameters_mean(say) -> None:
    table = say("list", "experiments").out
    assert all(len(line) <= 100 for line in table.splitlines())
    told = " ".join(table.split())
    for row in json.loads(say("list", "experiments", "--json").out):
        assert row["meaning"] in told
        assert f"{row['parameter']} {row['default']} {row['allowed'][:20]}" in told


def test_references_are_a_ladder(say, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads(say("list", "references", "--target", "bimodal", "--json").out)
    by_name = {row["fit"]: row for row in rows}
    assert by_name["oracle"]["capture_area"] == pytest.approx(1.0)
    assert by_name["one mode"]["collapse_invoice"] == pytest.approx(math.log(2))
    assert by_name["half width"]["log_width"] == pytest.approx(-math.log(2), abs=0.05)
    assert all(0 <= row["knn_recall"] <= 1 for row in rows)
    names = say("list", "references", "--target", "bimodal", "--names").out.splitlines()
    assert names == list(by_name)
    table = say("list", "references", "--target", "bimodal").out
    for name in ("knn_precision", "knn_coverage", "high_quality", "modes_captured", "ess_reverse", "capture_area"):
        assert name in table
    assert "references --target grid25" in " ".join(say("list", "--help").out.split())
    numbers = sorted(table.split())
    monkeypatch.setenv("COLUMNS", "50")
    narrow = say("list", "references", "--target", "bimodal").out
    assert all(len(line) <= 50 for line in narrow.splitlines())
    assert set(numbers) <= set(narrow.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["references"], "--target NAME"),
        (["references", "--target", "grid26"], "Did you mean 'grid25'"),
        (["references", "--target", "faithful"], "is no mixture"),
        (["references", "--target", "rings"], "is no mixture"),
        (["targets", "--target", "grid25"], "list references"),
    ],
)
def test_references_of_what_has_none(say, arguments: list[str], told: str) -> None:
    said = say("list", *arguments)
    assert said.code == 2
    assert told in said.err
    assert not said.out


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["plan", "quickstart"], {"ray", "mlflow", "torch", "pandas", "sklearn"}),
        (["list", "targets"], {"sklearn"}),  # which digits are loaded with
        (["list", "data"], {"sklearn"}),
    ],
)
def test_nothing_heavy_is_imported_where_it_is_not_used(arguments: list[str], heavy: set[str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['modesweep', *{arguments}]\n"
        "from runner.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_is_no_text_is_shown_without_its_password(say) -> None:
    said = say("run", "quickstart", "--tracking-uri", "http://me:s3cr3t@host/\udcff")
    assert said.code == 2
    assert "is not text" in said.err
    assert "s3cr3t" not in said.err
