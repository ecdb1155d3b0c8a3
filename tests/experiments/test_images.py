"""Targets whose points are images: the data, the distances between them, and what can be fitted to them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.targets import Points, named


def digits() -> Points:
    found = named.target("digits")
    assert isinstance(found, Points)
    return found


def test_the_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    known, target = load_digits(), digits()
    assert target.image == known.images.shape[1:] == (8, 8)
    assert np.array_equal(target.values.reshape(-1, 8, 8) * 16, known.images)
    assert (target.values.min(), target.values.max()) == (0, 1)
    row, column = 3, 5
    assert np.array_equal(target.values[:, target.columns.index(f"pixel_{row}_{column}")] * 16, known.images[:, 3, 5])
    assert len(set(target.columns)) == 64


@pytest.mark.parametrize("name", named.NAMES)
def test_a_list_says_what_the_target_is(name: str) -> None:
    said, target = named.brief(name), named.target(name)
    assert (said.name, said.dim, said.unit, said.about) == (name, target.dim, target.unit, target.about)
    assert said.modes == getattr(target, "modes", None)
    assert said.points == (len(target.values) if isinstance(target, Points) else None)


def test_an_unknown_name_has_no_line() -> None:
    with pytest.raises(KeyError):
        named.brief("digit")


@pytest.mark.parametrize("what", [["list", "targets"], ["list", "data"], ["plan", "quickstart"]])
def test_nothing_waits_for_digits_that_are_not_asked_for(what: list[str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['modesweep', *{what}]\n"
        "from runner.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "False"
