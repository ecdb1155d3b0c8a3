"""Tables on narrow screens: every number is there, whole, whatever has to give way."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runner.wide_table import WideTable

PARAMETERS = {
    "divergence": ["forward_kl", "reverse_kl", "jensen_shannon"],
    "estimator": ["reparameterization", "sticking_the_landing", "score_function_baseline"],
    "learning_rate": ["0.02", "0.1"],
    "alpha": ["-", "0.5"],
    "standardise": ["True", "False"],
    "family": ["gaussian_full", "gaussian_mixture"],
}
NUMBERS = ["coverage", "sharpness", "modes", "fwd KL"]


def shown(table: WideTable, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@given(st.data())
def test_no_number_is_cut_at_any_width(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(PARAMETERS)), unique=True))
    count = data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = [
        [
            str(rng.choice(["bimodal", "transactions"])),
            *(str(rng.choice(PARAMETERS[name])) for name in names),
            *(f"{rng.random():.3f} ±{rng.random():.3f}" for _ in NUMBERS[:2]),
            f"{k}/99",
            f"{rng.random() * 1e3:.3g}e+07",
        ]
        for k in range(count)
    ]
    width = data.draw(st.integers(30, 200))
    text = shown(WideTable("kl_fit", ["target", *names, *NUMBERS], rows, axes=1 + len(names)), width)
    assert "…" not in text
    lines = [line.split() for line in text.splitlines()]
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for row in rows:
        numbers = row[1 + len(names) :]
        last = " ".join(numbers).split()
        paragraph = ", ".join(map("{} {}".format, NUMBERS, numbers))
        assert [line for line in lines if line[-len(last) :] == last] or paragraph in words, (row, text)
    for k, name in enumerate(names, start=1):
        for value in {row[k] for row in rows} - {"-"}:
            assert value in words, (name, text)


ROWS = [
    ["near", "forward_kl", "0.02", "1.000", "0.497"],
    ["near", "reverse_kl", "0.02", "0.500", "1.000"],
    ["far", "reverse_kl", "0.02", "0.125", "1.000"],
    ["far", "reverse_kl", "0.1", "0.250", "0.990"],
]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (
            60,
            """\
kl_fit
target divergence learning_rate coverage sharpness
near   forward_kl 0.02             1.000     0.497
       reverse_kl 0.02             0.500     1.000
far    reverse_kl 0.02             0.125     1.000
       reverse_kl 0.1              0.250     0.990""",
        ),
        (
            40,
            """\
kl_fit, target near  learning_rate 0.02
divergence coverage sharpness
forward_kl    1.000     0.497
reverse_kl    0.500     1.000

kl_fit, target far  reverse_kl
learning_rate coverage sharpness
0.02             0.125     1.000
0.1              0.250     0.990""",
        ),
        (
            29,
            """\
kl_fit, target near
learning_rate 0.02
divergence coverage sharpness
forward_kl    1.000     0.497
reverse_kl    0.500     1.000

kl_fit, target far
reverse_kl
learning_rate 0.02
  coverage 0.125,
  sharpness 1.000
learning_rate 0.1
  coverage 0.250,
  sharpness 0.990""",
        ),
    ],
)
def test_what_gives_way(width: int, expected: str) -> None:
    heading = ["target", "divergence", "learning_rate", "coverage", "sharpness"]
    text = shown(WideTable("kl_fit", heading, ROWS, axes=3), width)
    assert [line.rstrip() for line in text.splitlines()] == expected.splitlines()
