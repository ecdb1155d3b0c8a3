"""Every row of the table is a test: a number that differs from its reference fails."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import verification
from experiments.verification import Estimate, Result, Row, independent, rows, verify

ROWS = rows()
QUICK = [row.name for row in ROWS if not row.slow]
SLOW = [row.name for row in ROWS if row.slow]


def _computed(slow: bool) -> Mapping[str, Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {result.name: result for result in verify([row for row in ROWS if row.slow == slow])}
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def quick() -> Iterator[Mapping[str, Result]]:
    """All of them at once: their fits share stacks."""
    yield _computed(slow=False)


@pytest.fixture(scope="module")
def slow() -> Iterator[Mapping[str, Result]]:
    yield _computed(slow=True)


def told(result: Result) -> str:
    return (
        f"{result.name}: obtained {result.obtained!r} by {result.how}, known to be {result.reference!r}"
        f" ({result.source}); {result.difference:+.2e}, allowed {result.allowed:.2e}. {result.reason}"
    )


@pytest.mark.parametrize("name", QUICK)
def test_quick_rows(name: str, quick: Mapping[str, Result]) -> None:
    assert quick[name].passed, told(quick[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_rows(name: str, slow: Mapping[str, Result]) -> None:
    assert slow[name].passed, told(slow[name])


def test_names_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) > 500


def test_references_share_no_code_with_what_they_judge() -> None:
    found: set[str] = set()
    for path in Path(independent.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    own = {name for name in found if name.startswith(independent.__name__)}
    outside = {name.partition(".")[0] for name in found - own}
    assert outside <= {"__future__", "collections", "dataclasses", "functools", "math", "numpy", "scipy"}


def row(reference: float | Estimate, obtained: float | Estimate, tolerance: float = 0.1) -> Row:
    return Row("a/b/c", "closed form", "made up", reference, lambda: obtained, tolerance)


@pytest.mark.parametrize(
    ("reference", "obtained", "passed"),
    [
        (1.0, 1.09, True),
        (1.0, 1.11, False),
        (1.0, math.nan, False),
        (1.0, math.inf, False),
        (math.inf, math.inf, True),
        (Estimate(1.0, 0.03), Estimate(1.29, 0.04), True),  # 0.1 and four times 0.05
        (Estimate(1.0, 0.03), Estimate(1.31, 0.04), False),
    ],
)
def test_what_passes(reference: float, obtained: float, passed: bool) -> None:
    (result,) = verify([row(reference, obtained)])
    assert result.passed == passed
    assert result.reason == ""


def test_a_row_that_raises_fails_alone() -> None:
    def broken() -> float:
        raise LookupError("no optimum is known")

    bad, good = verify([replace(row(1.0, 1.0), obtain=broken), row(1.0, 1.0)])
    assert (bad.passed, bad.reason) == (False, "LookupError: no optimum is known")
    assert good.passed


def test_what_an_experiment_refuses_is_a_row_that_fails() -> None:
    two = independent.Mix.line([0.5, 0.5], [-2, 2], [1, 1])
    asked = verification.machinery.fit(two, divergence="alpha")  # without its alpha
    (result,) = verify([replace(row(1.0, 1.0), obtain=lambda o: 1.0, asked=asked)])
    assert not result.passed
    assert "needs alpha" in result.reason


def test_cells_of_one_kind_are_stacked() -> None:
    said: list[str] = []
    fits = [
        verification.machinery.fit(independent.Mix.line([0.5, 0.5], [-m, m], [1, 1]), steps=3, samples=8)
        for m in (1.0, 2.0)
    ]
    results = verify(
        [replace(row(1.0, 1.0, math.inf), obtain=lambda o: o.metrics["reverse_kl"], asked=f) for f in fits], said.append
    )
    assert said[0] == "kl_fit 1-D, a stack of 2"
    assert results[0].obtained != results[1].obtained
