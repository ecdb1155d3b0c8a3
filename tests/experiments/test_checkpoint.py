"""A training that was interrupted and went on, whole or in parts, gives the bits of one that was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from experiments.catalogue import CATALOGUE
from experiments.experiment import Outcome
from experiments.targets import Points

Rows = Mapping[str, np.ndarray]

# As many steps as several blocks of noise; 13 cells, so that stacks are padded.
CASES: Mapping[str, tuple[str, Sequence[str], Mapping[str, Any]]] = {
    "of samples of a mixture": ("kl_fit", ("ring8", "ring8_easy"), {"divergence": "forward_kl", "samples": 500}),
    "by descent": ("kl_fit", ("bimodal",), {"divergence": "reverse_kl", "optimizer": "sgd", "samples": 500}),
    "from both sides": ("kl_fit", ("bimodal", "playtime"), {"divergence": "jensen_shannon", "samples": 500}),
    "of the score": (
        "kl_fit",
        ("bimodal",),
        {"divergence": "reverse_kl", "estimator": "score_function", "samples": 500},
    ),
    "of heavy tails": ("kl_fit", ("student_t",), {"divergence": "forward_kl", "samples": 500}),
    "of points": ("kl_fit", ("eruptions",), {"divergence": "forward_kl", "samples": 500}),
    "a mixture": ("kl_fit", ("grid25",), {"family": "gaussian_mixture", "components": 3, "samples": 300}),
    "a flow": ("kl_fit", ("ring8",), {"family": "flow", "divergence": "forward_kl", "samples": 1000, "steps": 12}),
    "fixed noise": ("vae", ("ring8", "ring8_easy"), {"kl_warmup": 0.4, "free_bits": 0.1}),
    "learned noise": ("vae", ("ring8",), {"likelihood": "gaussian_learned", "train_size": 40}),
    "double precision": ("vae", ("bimodal",), {"likelihood": "mse", "dtype": "float64"}),
    "pixels": ("vae", ("pixels",), {"likelihood": "bernoulli"}),
}
CELLS = 13


def _target(name: str) -> Any:
    if name == "student_t":
        definition = {"weights": [0.4, 0.6], "means": [[-3.0], [3.0]], "covariances": [[[1.0]], [[1.0]]], "df": 3}
        return CATALOGUE.define(name, definition, None)  # type: ignore[arg-type]
    if name == "pixels":
        return Points(name, np.random.default_rng(0).random((50, 3)), ("a", "b", "c"))
    return CATALOGUE.target(name)


def _cells(experiment: str, targets: Sequence[str], given: Mapping[str, Any]) -> list[Any]:
    params = CATALOGUE.experiments[experiment].params
    small = {"batch_size": 250, "hidden": (11,)} if experiment == "vae" else {}
    return [
        SimpleNamespace(
            params=params(**({"target": targets[k % len(targets)], "steps": 100} | small | given)),
            target=_target(targets[k % len(targets)]),
            seed=k // 2,
            id=k,
        )
        for k in range(4 if given.get("family") == "flow" else CELLS)
    ]


class Memory:
    """Keeps every checkpoint, or gives one of them back."""

    def __init__(self, given: Mapping[int, Rows] | None = None) -> None:
        self.given = given
        self.kept: list[tuple[float, Mapping[int, Rows]]] = []

    def find(self, cells: Sequence[Any]) -> Rows | None:
        if self.given is None or not all(cell.id in self.given for cell in cells):
            return None
        rows = [self.given[cell.id] for cell in cells]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def due(self) -> bool:
        return True

    def keep(self, cells: Sequence[Any], share: float, rows: Rows) -> None:
        each = {cell.id: {name: array[k] for name, array in rows.items()} for k, cell in enumerate(cells)}
        self.kept.append((share, each))


def _bits(outcomes: Sequence[Outcome]) -> list[dict[str, bytes]]:
    """Bytes, so that NaN equals NaN and -0.0 differs from 0.0."""
    return [
        {name: np.asarray(value).tobytes() for name, value in {**o.metrics, **o.modes, "samples": o.samples}.items()}
        | {f"curve {name}": np.asarray(value).tobytes() for name, value in {**o.curves, "": o.curve_steps}.items()}
        | {"said": f"{o.status} {o.error} {o.labels}".encode()}
        for o in outcomes
    ]


@pytest.mark.parametrize("case", CASES)
def test_going_on_is_as_if_nothing_had_happened(case: str) -> None:
    name, targets, given = CASES[case]
    run, cells = CATALOGUE.experiments[name].run_batch, _cells(name, targets, given)
    expected = _bits(run(cells, "cpu"))
    memory = Memory()
    assert _bits(run(cells, "cpu", memory)) == expected
    shares = [share for share, _ in memory.kept]
    assert len(shares) >= 2
    assert shares == sorted(set(shares))
    assert shares[0] > 0
    assert shares[-1] < 1
    generator = np.random.default_rng()
    for share, kept in (memory.kept[0], memory.kept[-1]):
        resumed = Memory(kept)
        assert _bits(run(cells, "cpu", resumed)) == expected
        # What was done is not done again.
        assert [later for later, _ in resumed.kept] == [later for later in shares if later > share]
    order = generator.permutation(len(cells)).tolist()
    for part in (order[:1], order[1:]):
        again = Memory(memory.kept[int(generator.integers(len(shares)))][1])
        assert _bits(run([cells[k] for k in part], "cpu", again)) == [expected[k] for k in part], (case, order)
        assert not again.kept or again.kept[0][0] > shares[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES)
def test_going_on_on_a_gpu(case: str) -> None:
    name, targets, given = CASES[case]
    run, cells = CATALOGUE.experiments[name].run_batch, _cells(name, targets, {**given, "steps": 500})
    memory = Memory()
    expected = run(cells, "cuda", memory)
    for one, other in zip(run(cells, "cuda", Memory(memory.kept[-1][1])), expected, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4, abs=1e-6, nan_ok=True)
        for curve in one.curves:
            assert one.curves[curve] == pytest.approx(other.curves[curve], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["kl_fit", "vae"])
def test_a_fit_that_diverged_before_stays_so(name: str) -> None:
    given = {"learning_rate": 1e25, "samples": 500} if name == "kl_fit" else {"learning_rate": 1e25}
    run, cells = CATALOGUE.experiments[name].run_batch, _cells(name, ["ring8"], given)
    sound = _cells(name, ["ring8"], {**given, "learning_rate": 0.01})
    cells = [sound[0], cells[1], *sound[2:]]
    memory = Memory()
    expected = _bits(run(cells, "cpu", memory))
    assert [b"diverged" in row["said"] for row in expected] == [k == 1 for k in range(CELLS)]
    assert _bits(run(cells, "cpu", Memory(memory.kept[-1][1]))) == expected


def test_what_does_not_suit_is_not_used() -> None:
    experiment = CATALOGUE.experiments["vae"]
    cells = _cells("vae", ["ring8"], {})
    memory = Memory()
    expected = _bits(experiment.run_batch(cells, "cpu", memory))
    (_, first), (_, second) = memory.kept[:2]
    wider = {cell: rows | {"parameter_0": np.zeros((12, 2), np.float32)} for cell, rows in first.items()}
    coarser = {cell: rows | {"parameter_0": rows["parameter_0"].astype(float)} for cell, rows in first.items()}
    fewer = {cell: {n: row for n, row in rows.items() if n != "moment_0"} for cell, rows in first.items()}
    unlike = {**first, 3: second[3]}
    other_torch = {cell: rows | {"noise": np.zeros(16, np.uint8)} for cell, rows in first.items()}
    for kept in (wider, coarser, fewer, unlike, other_torch):
        again = Memory(kept)
        assert _bits(experiment.run_batch(cells, "cpu", again)) == expected
        assert len(again.kept) == len(memory.kept)
