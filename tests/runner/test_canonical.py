from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.canonical import OPERATIONAL, canonical, cell_id, configuration_text, digest

ROOT = Path(__file__).parents[2]
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reordered(value: Any) -> Any:
    """The same value with every mapping's keys in reverse, lists as tuples, whole floats as integers."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return tuple(map(reordered, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


@given(plain)
@settings(deadline=None)
def test_it_is_json_that_reads_back_equal(value: Any) -> None:
    assert json.loads(canonical(value)) == value


@given(plain)
@settings(deadline=None)
def test_key_order_and_number_type_do_not_matter(value: Any) -> None:
    assert canonical(reordered(value)) == canonical(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (1e22, "10000000000000000000000"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-3, "0.001"),
        (5e-324, "5e-324"),
        (True, "true"),
        ((1, [2.0, None]), "[1,[2,null]]"),
        ({"b": 1, "a": "é\n\"'"}, '{"a":"é\\n\\"\'","b":1}'),
    ],
)
def test_its_exact_form(value: Any, text: str) -> None:
    assert canonical(value) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_a_number_that_is_not_finite_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="finite"):
        canonical(value)


@pytest.mark.parametrize("value", [{1, 2}, {1: 2}, b"x", object()])
def test_other_kinds_are_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical(value)


PARAMS = {
    "target": "ring8",
    "divergence": "reverse_kl",
    "learning_rate": 0.02,
    "steps": 1000,
    "hidden": (64, 64),
    "clip": None,
    "flag": False,
    "name": "größe",
}


def test_golden_ids() -> None:
    """These ids are in people's results folders. If this fails, the code is wrong, not the test."""
    text = configuration_text("kl_fit", 3, PARAMS, "0123456789abcdef")
    assert text == (
        '{"experiment":"kl_fit","params":{"clip":null,"divergence":"reverse_kl","flag":false,"hidden":[64,64],'
        '"learning_rate":0.02,"name":"größe","steps":1000,"target":"ring8"},"target":"0123456789abcdef","version":3}'
    )
    assert digest(text) == "93c2a7f97fe7d8ed"
    assert cell_id(text, 0) == "4156f471c2bd6db0"
    assert cell_id(text, 2**63 - 1) == "2027ef46d9715e68"


def test_a_cell_id_hashes_the_configuration_and_the_seed() -> None:
    text = configuration_text("toy", 1, {"target": "a"}, "00")
    whole = '{"experiment":"toy","params":{"target":"a"},"target":"00","version":1,"seed":7}'
    assert cell_id(text, 7) == digest(whole)
    assert json.loads(whole)["seed"] == 7


def test_whatever_defines_a_cell_changes_its_id() -> None:
    changed = [
        configuration_text("toy", 1, {"rate": 1.0}, "00"),
        configuration_text("toy2", 1, {"rate": 1.0}, "00"),
        configuration_text("toy", 2, {"rate": 1.0}, "00"),
        configuration_text("toy", 1, {"rate": 1.5}, "00"),
        configuration_text("toy", 1, {"rate": 1.0, "x": None}, "00"),
        configuration_text("toy", 1, {"rate": 1.0}, "01"),
    ]
    ids = {cell_id(text, seed) for text in changed for seed in (0, 1)} | {digest(text) for text in changed}
    assert len(ids) == 3 * len(changed)


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_ids_do_not_depend_on_the_process(hash_seed: str) -> None:
    code = f"from runner.canonical import *; print(cell_id(configuration_text('k', 1, {PARAMS!r}, 'd'), 5))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed, "PYTHONIOENCODING": "utf8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == cell_id(configuration_text("k", 1, PARAMS, "d"), 5)


def test_operational_settings_are_the_options_of_a_run() -> None:
    assert {
        "workers",
        "executor",
        "address",
        "cells_per_batch",
        "resources",
        "device",
        "tracking_uri",
    } <= OPERATIONAL
