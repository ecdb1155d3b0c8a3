from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import yaml_text
from runner.errors import SweepError
from runner.grid import Resources
from runner.planning import make_plan
from runner.spec import Sweep, load_sweep, parse_overrides
from tests.runner.fakes import CATALOGUE

WHOLE = """
name: quick
question: What does it keep?
grids:
  - experiment: toy
    axes: {target: [near, mine], rate: [1e-3, 1.0], hidden: [[4, 4], [8]]}
    nuisance: {size: [1, 2]}
    cases:
      - {target: far, rate: 7}
    resources: {cpu: 1, gpu: 0.25}
seeds: 3
targets:
  mine: {means: 2}
"""


def sweep(grid: dict[str, Any], **options: Any) -> Sweep:
    return load_sweep({"name": "s", "grids": [{"experiment": "toy", **grid}]}, CATALOGUE, **options)


def cells(found: Sweep) -> list[tuple[Any, ...]]:
    """(target, rate, size, mode) of each configuration, in order."""
    plan = make_plan(found, CATALOGUE, {})
    params: list[Any] = [cell.params for cell in plan.cells if cell.seed == found.seeds[0]]
    return [(p.target, p.rate, p.size, p.mode) for p in params]


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(SweepError) as caught:
        load_sweep(source, CATALOGUE, **options)
    return str(caught.value)


def test_a_whole_file() -> None:
    found = load_sweep(WHOLE, CATALOGUE)
    assert (found.name, found.question, list(found.seeds)) == ("quick", "What does it keep?", [0, 1, 2])
    assert found.size == (2 * 2 * 2 * 2 + 2 * 2) * 3
    assert found.nuisance == {"toy": ("size",)}
    assert found.grids[0].axes["rate"] == [0.001, 1.0]
    assert {grid.resources for grid in found.grids} == {Resources(1.0, 0.25)}
    assert sorted(found.targets) == ["far", "mine", "near"]


def test_a_path_is_read_and_its_folder_remembered(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(WHOLE)
    assert load_sweep(path, CATALOGUE).folder == tmp_path
    assert load_sweep(str(path), CATALOGUE).source == str(path)


# Cases: the rule in runner/grid.py.


def test_cases_of_new_parameters_multiply() -> None:
    found = sweep(
        {
            "axes": {"target": ["near", "far"]},
            "cases": [{"rate": 0.01, "size": 10}, {"rate": 0.001, "size": 40}],
        }
    )
    assert cells(found) == [
        ("near", 0.01, 10, "fine"),
        ("far", 0.01, 10, "fine"),
        ("near", 0.001, 40, "fine"),
        ("far", 0.001, 40, "fine"),
    ]


def test_a_case_that_sets_an_axis_adds() -> None:
    found = sweep({"axes": {"target": ["near"], "rate": [1, 2]}, "cases": [{"target": "far", "size": 4}]})
    assert cells(found) == [
        ("near", 1, 2, "fine"),
        ("near", 2, 2, "fine"),
        ("far", 1, 4, "fine"),
        ("far", 2, 4, "fine"),
    ]


def test_a_case_that_sets_a_fixed_value_adds() -> None:
    found = sweep({"axes": {"target": ["near"]}, "fixed": {"size": 3}, "cases": [{"size": 5}]})
    assert [size for _, _, size, _ in cells(found)] == [3, 5]


def test_both_kinds_of_cases_side_by_side() -> None:
    cases = [{"rate": 2}, {"rate": 3}, {"target": "far", "rate": 4}]
    found = sweep({"axes": {"target": ["near"], "size": [1, 2]}, "cases": cases})
    assert [(target, rate, size) for target, rate, size, _ in cells(found)] == [
        ("near", 2, 1),
        ("near", 2, 2),
        ("near", 3, 1),
        ("near", 3, 2),
        ("far", 4, 1),
        ("far", 4, 2),
    ]


def test_a_case_equal_to_the_product_runs_once() -> None:
    found = sweep({"axes": {"target": ["near"], "rate": [1, 2]}, "cases": [{"rate": 2}]})
    assert found.size == 3
    assert [rate for _, rate, _, _ in cells(found)] == [1, 2]


# Overrides.


@pytest.mark.parametrize(
    "grid",
    [
        {"axes": {"target": ["near"], "rate": [1, 2, 3]}},
        {"axes": {"target": ["near"]}, "fixed": {"rate": 9}},
        {"axes": {"target": ["near"]}, "nuisance": {"rate": [1, 2]}},
        {"axes": {"target": ["near"]}, "cases": [{"rate": 3}, {"rate": 4}]},
        {"axes": {"target": ["near"]}},
    ],
)
@pytest.mark.parametrize("values", [[7.0], [7.0, 8.0]])
def test_an_override_takes_the_place_of_the_value_wherever_it_stands(grid: Any, values: list[float]) -> None:
    assert [rate for _, rate, _, _ in cells(sweep(grid, overrides={"rate": values}))] == values


def test_an_override_keeps_a_case_in_its_kind() -> None:
    grid = {"axes": {"target": ["near"]}, "cases": [{"target": "far", "size": 4}]}
    assert cells(sweep(grid, overrides={"target": ["near"]})) == [
        ("near", 1, 2, "fine"),
        ("near", 1, 4, "fine"),
    ]
    zipped = {"axes": {"target": ["near"]}, "cases": [{"rate": 1, "size": 5}, {"rate": 2, "size": 6}]}
    assert cells(sweep(zipped, overrides={"size": [3]})) == [("near", 1, 3, "fine"), ("near", 2, 3, "fine")]


def test_an_override_leaves_nuisance_parameters_so() -> None:
    grid = {"axes": {"target": ["near"]}, "nuisance": {"rate": [1, 2]}}
    assert sweep(grid, overrides={"rate": [3, 4]}).nuisance == {"toy": ("rate",)}


MIXED = """
name: s
grids:
  - experiment: toy
    axes: {target: [near]}
    nuisance: {rate: [1, 2]}
  - experiment: toy
    axes: {target: [far]}
"""


def test_an_override_makes_a_parameter_nuisance_where_another_grid_has_it_so() -> None:
    text = MIXED + "    fixed: {rate: 3}\n"
    assert load_sweep(text, CATALOGUE).size == 3
    found = load_sweep(text, CATALOGUE, {"rate": [3, 4]})
    assert [(dict(grid.nuisance), dict(grid.fixed)) for grid in found.grids] == [({"rate": [3, 4]}, {})] * 2


def test_a_target_is_no_nuisance_parameter() -> None:
    told = refusal(MIXED.replace("target: [near]", "size: [1]").replace("rate: [1, 2]", "target: [near]"))
    assert "line 6, grids[0].nuisance.target: 'target' is never optimised away" in told
    assert "give it in axes" in told


@pytest.mark.parametrize("line", ["fixed: {rate: 3}", "cases: [{size: 3}]", "nuisance: {rate: [3, 4]}"])
def test_nuisance_in_every_grid_that_varies_it(line: str) -> None:
    assert load_sweep(f"{MIXED}    {line}\n", CATALOGUE).nuisance == {"toy": ("rate",)}


@pytest.mark.parametrize(
    ("end", "place"),
    [
        (", rate: [1, 2, 3]}", "line 8, grids[1].axes.rate"),
        ("}\n    cases: [{rate: 3}, {rate: 4}]", "line 9, grids[1].cases[0].rate"),
    ],
)
def test_nuisance_in_one_grid_and_varied_in_another(end: str, place: str) -> None:
    told = refusal(MIXED.replace("[far]}", f"[far]{end}"))
    assert f"{place}: 'rate' varies here and is nuisance in grids[0]: in one sweep" in told


def test_overrides_are_read_as_yaml() -> None:
    texts = ["rate=1e-3,2", "mode=fine, diverge", "hidden=[[64, 64], [32]]", "size=3", "flag=true"]
    assert parse_overrides(texts) == {
        "rate": [0.001, 2],
        "mode": ["fine", "diverge"],
        "hidden": [[64, 64], [32]],
        "size": [3],
        "flag": [True],
    }


@pytest.mark.parametrize("text", ["rate", "=3", "rate=", "rate=[1", "rate= "])
def test_an_override_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SweepError, match="--set"):
        parse_overrides([text])


def test_one_override_given_twice() -> None:
    with pytest.raises(SweepError, match="twice"):
        parse_overrides(["rate=1", "rate=2"])


def test_overridden_seeds() -> None:
    assert list(sweep({"axes": {"target": ["near"]}}, seeds=2).seeds) == [0, 1]
    assert list(sweep({"axes": {"target": ["near"]}}, seeds=[5, 3]).seeds) == [5, 3]
    assert "--seeds: expected at least 1 seed, got 0" in refusal(WHOLE, seeds=0)


@pytest.mark.parametrize("seeds", [np.int64(3), np.arange(3), list(np.arange(3)), np.arange(3, dtype=np.uint8)])
def test_seeds_may_be_numpys(seeds: Any) -> None:
    found = sweep({"axes": {"target": ["near"]}}, seeds=seeds).seeds
    assert list(found) == [0, 1, 2]
    assert {type(seed) for seed in found} == {int}


@pytest.mark.parametrize("seeds", [np.float64(3), np.array([0.0, 1.0]), np.bool_(True), np.array([]), [True], {0: 1}])
def test_what_numpy_has_that_are_no_seeds(seeds: Any) -> None:
    assert "--seeds: expected how many, such as 4" in refusal(WHOLE, seeds=seeds)


# Writing it back.


@given(
    rates=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=3, unique=True),
    sizes=st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True),
    case=st.sampled_from([{}, {"rate": 3.5}, {"mode": "diverge"}, {"target": "far", "hidden": [7, 7]}]),
    seeds=st.integers(1, 3) | st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True),
    question=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)
@settings(deadline=None, max_examples=40)
def test_a_sweep_written_back_is_the_same_sweep(
    rates: list[float], sizes: list[int], case: dict[str, Any], seeds: Any, question: str
) -> None:
    grid = {"experiment": "toy", "axes": {"target": ["near"], "rate": rates}, "nuisance": {"size": sizes}}
    source = {
        "name": "s",
        "question": question,
        "grids": [{**grid, "cases": [case] if case else []}],
        "seeds": seeds,
    }
    first = load_sweep(source, CATALOGUE)
    again = load_sweep(first.to_yaml(), CATALOGUE)
    ids = [[cell.id for cell in make_plan(found, CATALOGUE, {}).cells] for found in (first, again)]
    assert ids[0] == ids[1]
    assert (again.name, again.question, again.nuisance) == (first.name, first.question, first.nuisance)


def test_what_is_written_back_finds_its_files_from_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\ngrids: [{experiment: toy, axes: {target: [p]}}]\ntargets: {p: {points: [1], file: a.csv}}\n"
    )
    written = yaml.safe_load(load_sweep(path, CATALOGUE).to_yaml())
    assert written["targets"]["p"]["file"] == str(tmp_path / "a.csv")
    path.write_text(path.read_text().replace("a.csv", "~/b.csv"))
    written = yaml.safe_load(load_sweep(path, CATALOGUE).to_yaml())
    assert written["targets"]["p"]["file"] == str(Path.home().resolve() / "b.csv")


# YAML.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        (".5", 0.5),
        ("1_000", 1000),
        ("010", 10),
        ("-3", -3),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("null", None),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("mode:0", "mode:0"),
        ("'1'", "1"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found, _ = yaml_text.parse(f"a: {text}", "x")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)
    assert yaml_text.parse(yaml_text.dump(found), "x")[0] == found


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x), max_leaves=6))
@settings(deadline=None)
def test_dumped_values_read_back(value: Any) -> None:
    text = yaml_text.dump({"a": value})
    assert yaml_text.parse(text, "x")[0] == {"a": value}


# Broken files. Each: the text, then what its one message must say.

GRID = "grids: [{experiment: toy, axes: {target: [near]}}]\n"
BROKEN = {
    "empty": ("\n", ["is empty", "modesweep list sweeps"]),
    "a list": ("- a\n- b\n", ["expected a mapping with name and grids"]),
    "not yaml": ("name: [a\ngrids: 1\n", ["line 2, column 6", "expected ',' or ']'"]),
    "a tab": ("name: a\n\tgrids: 1\n", ["line 2, column 1"]),
    "a key twice": ("name: a\n" + GRID + "name: b\n", ["line 3", "'name' is given twice, first on line 1"]),
    "python objects": ("name: !!python/object/apply:os.system [ls]\n", ["line 1", "python/object"]),
    "an alias of itself": ("name: &a [*a]\n", ["recursive"]),
    "no grids": ("name: a\n", ["  grids: is missing"]),
    "grids empty": ("name: a\ngrids: []\n", ["grids", "is empty"]),
    "a bad name": ("name: My Sweep\n" + GRID, ["line 1, name", "must match ^[a-z0-9_-]{1,64}$"]),
    "an unknown key": ("name: a\nquetsion: b\n" + GRID, ["line 2, quetsion", "Did you mean 'question'?"]),
    "an unknown key of a grid": (
        "name: a\ngrids:\n- experiment: toy\n  axis: {target: [near]}\n",
        ["line 4, grids[0].axis", "Did you mean 'axes'?"],
    ),
    "an unknown experiment": (
        "name: a\ngrids: [{experiment: toi, axes: {target: [near]}}]\n",
        ["grids[0].experiment", "Did you mean 'toy'?", "modesweep list experiments"],
    ),
    "an unknown parameter": (
        "name: a\ngrids:\n- experiment: toy\n  axes:\n    target: [near]\n    raet: [1]\n",
        [
            "line 6, grids[0].axes.raet",
            "Did you mean 'rate'?",
            "Parameters: target, rate, size, mode, hidden, flag",
        ],
    ),
    "an unknown target": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near, neer]}}]\n",
        ["grids[0].axes.target[1]", "Did you mean 'near'?", "modesweep list targets"],
    ),
    "an unknown word": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near]}, fixed: {mode: fein}}]\n",
        ["grids[0].fixed.mode", "Did you mean 'fine'?", "diverge, raise"],
    ),
    "no target": ("name: a\ngrids: [{experiment: toy}]\n", ["grids[0]", "'target' is missing"]),
    "text for a number": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], rate: [fast]}}]\n",
        ["grids[0].axes.rate[0]", 'expected a number, got "fast"'],
    ),
    "a quoted number": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], size: ['3']}}]\n",
        ["grids[0].axes.size[0]", 'expected a value such as 3, got "3"'],
    ),
    "true for a number": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], size: [true]}}]\n",
        ["grids[0].axes.size[0]", "got true"],
    ),
    "a fraction for a whole number": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], size: [1.5]}}]\n",
        ["grids[0].axes.size[0]", "expected a whole number, got 1.5"],
    ),
    "infinity": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], rate: [.inf]}}]\n",
        ["grids[0].axes.rate[0]", "finite"],
    ),
    "out of range": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], rate: [-1]}}]\n",
        ["grids[0].axes.rate[0]", "must be greater than 0, got -1"],
    ),
    "an empty axis": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], rate: []}}]\n",
        ["grids[0].axes.rate", "is empty"],
    ),
    "an axis that is no list": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], rate: 1}}]\n",
        ["grids[0].axes.rate", "expected a list, got 1: write [1]"],
    ),
    "one list where a list of lists belongs": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], hidden: [64, 64]}}]\n",
        ["1 problem.", "grids[0].axes.hidden: each value of `hidden` is a list itself: write [[64, 64]]"],
    ),
    "a value that is no list beside one that is": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], hidden: [[64, 64], 32]}}]\n",
        ["1 problem.", "grids[0].axes.hidden[1]: expected a list, got 32: write [32]"],
    ),
    "several fixed values": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near]}, fixed: {rate: [1, 2]}}]\n",
        ["grids[0].fixed.rate", "expected a number, got [1, 2]; several values belong under axes"],
    ),
    "a value twice": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], rate: [1, 2, 1.0]}}]\n",
        ["grids[0].axes.rate[2]", "given twice"],
    ),
    "a parameter twice": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], rate: [1]}, fixed: {rate: 2}}]\n",
        ["grids[0].fixed.rate", "'rate' is given in axes too"],
    ),
    "a seed as a parameter": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], seed: [1]}}]\n",
        ["grids[0].axes.seed", "'seeds' at the top"],
    ),
    "a setting as a parameter": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near], workers: [1]}}]\n",
        ["grids[0].axes.workers", "says how a sweep runs"],
    ),
    "an empty case": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near]}, cases: [{}]}]\n",
        ["grids[0].cases[0]", "is empty"],
    ),
    "a wrong case": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near]}, cases: [{rate: 0}, {sise: 1}]}]\n",
        ["grids[0].cases[0].rate", "greater than 0", "grids[0].cases[1].sise", "Did you mean 'size'?"],
    ),
    "no seeds": ("name: a\nseeds: 0\n" + GRID, ["line 2, seeds", "at least 1 seed"]),
    "seeds twice": ("name: a\nseeds: [1, 2, 1]\n" + GRID, ["line 2, seeds", "seed 1 is given twice"]),
    "a negative seed": ("name: a\nseeds: [-1]\n" + GRID, ["seeds", "between 0 and"]),
    "seeds as text": ("name: a\nseeds: many\n" + GRID, ["seeds", "expected how many, such as 4"]),
    "unknown resources": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near]}, resources: {gpus: 1}}]\n",
        ["grids[0].resources.gpus", "Did you mean 'gpu'?"],
    ),
    "one and a half gpus": (
        "name: a\ngrids: [{experiment: toy, axes: {target: [near]}, resources: {gpu: 1.5}}]\n",
        ["grids[0].resources", "a fraction below 1 or a whole number, got 1.5"],
    ),
    "a shipped target's name": (
        "name: a\ntargets: {near: {means: 1}}\n" + GRID,
        ["targets.near", "shipped target"],
    ),
    "a broken target": (
        "name: a\ntargets: {mine: {}}\n" + GRID,
        ["targets.mine", "needs 'means' or 'points'"],
    ),
    "a target that is no mapping": (
        "name: a\ntargets: {mine: 3}\n" + GRID,
        ["targets.mine", "expected a mapping"],
    ),
    "seeds of a grid": (
        "name: a\ngrids:\n  - {experiment: toy, axes: {target: [near]}, seeds: 4}\n",
        ["line 3, grids[0].seeds", "seeds are given once for the whole sweep: 'seeds' at the top, or --seeds"],
    ),
    "a target's name": ("name: a\ntargets: {'a b': {means: 1}}\n" + GRID, ["targets.a b", "a to z, A to Z, digits"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_words(case: str) -> None:
    text, expected = BROKEN[case]
    message = refusal(text)
    for part in expected:
        assert part in message
    assert len(message.splitlines()) <= 12
    assert "Nothing was started" in message or "modesweep list sweeps" in message


def test_all_problems_are_listed_at_once_in_the_order_of_the_file() -> None:
    message = refusal("""
name: Bad!
grids:
  - experiment: toy
    axes: {target: [neer], divergance: [1], rate: [0, 1]}
    resources: {gpus: 1}
  - experiment: tooy
seeds: -1
""")
    assert "7 problems" in message
    places = [
        "name",
        "grids[0].axes.target[0]",
        "grids[0].axes.rate[0]",
        "gpus",
        "grids[1].experiment",
        "seeds",
    ]
    positions = [message.index(f"{place}:") for place in places]
    assert len(set(positions)) == len(places)
    lines = [int(line.split("line ")[1].split(",")[0]) for line in message.splitlines() if line.startswith("  line")]
    assert lines == sorted(lines)


def test_a_target_that_is_broken_is_not_also_called_unknown() -> None:
    message = refusal("name: a\ntargets: {mine: {}}\ngrids: [{experiment: toy, axes: {target: [mine]}}]\n")
    assert "1 problem." in message


@pytest.mark.parametrize("name", ["rat", "target_name"])
def test_an_unknown_override(name: str) -> None:
    message = refusal(WHOLE, overrides={name: [1]})
    assert f"--set {name}" in message
    assert "Parameters: flag, hidden, mode, rate, size, target" in message


def test_a_wrong_value_in_an_override() -> None:
    assert '--set rate[0]: expected a number, got "x"' in refusal(WHOLE, overrides={"rate": ["x"]})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such sweep file" in refusal(tmp_path / "none.yaml")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "UTF-8" in refusal(tmp_path / "binary.yaml")
    (tmp_path / "control.yaml").write_bytes(b"name: \x00a\n")
    assert "not readable as YAML" in refusal(tmp_path / "control.yaml")


def test_aliases_that_multiply_are_refused() -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "values" in refusal("\n".join(["name: a", "a0: &a0 [1, 1]", *levels]))
