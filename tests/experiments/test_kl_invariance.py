"""A fit is the same, bit for bit, whatever it is stacked with; and a fit that diverges does so alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from experiments.experiment import Outcome
from experiments.kl_fit import KL_FIT, Params, judge, optimum
from experiments.targets import Mixture, Points
from experiments.truth.certificate import UNKNOWN
from tests.experiments.test_kl_truth import random_mixture

DIVERGENCES = get_args(Params.model_fields["divergence"].annotation)
FAMILIES = get_args(Params.model_fields["family"].annotation)


@pytest.fixture(autouse=True)
def _one_thread_and_few_draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(judge, "DRAWS", 160)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cells(targets: list[Mixture] | list[Points], count: int, inits: list[str], **fixed: Any) -> list[SimpleNamespace]:
    """Of one batch key, and different in all that may differ within it."""
    rng = np.random.default_rng(0)
    if fixed.get("family") == "flow":
        fixed |= {"flow_transforms": 2, "flow_hidden": 8, "flow_bins": 4}
    made = []
    for k in range(count):
        target = targets[k % len(targets)]
        varied = {
            "init": inits[k % len(inits)],
            "init_scale": float(rng.uniform(0.5, 2)),
            "learning_rate": 0.01 + 0.001 * k,
        }
        if fixed.get("divergence") == "alpha":
            varied["alpha"] = float(rng.choice([-0.3, 0.2, 1.4]))
        if fixed.get("divergence") == "mixed":
            varied["forward_weight"] = float(rng.choice([0.1, 0.7]))
        params = Params(target=target.name, steps=12, samples=24, **varied, **fixed)
        made.append(SimpleNamespace(params=params, target=target, seed=int(rng.integers(5))))
    assert len({KL_FIT.batch_key(cell.params, cell.target) for cell in made}) == 1
    return made


def check_equal(first: Outcome, second: Outcome) -> None:
    assert (first.status, first.error, dict(first.labels)) == (second.status, second.error, dict(second.labels))
    assert first.metrics.keys() == second.metrics.keys()
    for name, value in first.metrics.items():
        assert np.array_equal(value, second.metrics[name], equal_nan=True), name
    for part in ("samples", "mean", "covariance", "curve_steps"):
        one, other = getattr(first, part), getattr(second, part)
        assert (one is None) == (other is None), part
        assert one is None or np.array_equal(one, other, equal_nan=True), part
    for part in ("curves", "modes"):
        columns, others = getattr(first, part), getattr(second, part)
        assert columns.keys() == others.keys()
        assert all(np.array_equal(columns[name], others[name], equal_nan=True) for name in columns), part


SHAPES = [(1, 2, "float32"), (2, 4, "float32"), (5, 3, "float64")]
PAIRS = list(itertools.product(DIVERGENCES, FAMILIES))


@pytest.fixture
def no_optima(monkeypatch: pytest.MonkeyPatch) -> None:
    """To find them takes far longer than to fit; they are a property of the target, whatever is stacked."""
    monkeypatch.setattr(optimum, "search_ahead", lambda target, family, divergence: None)
    monkeypatch.setattr(optimum, "certify", lambda target, family, divergence, mean, tril: [UNKNOWN] * len(mean))


# Each pair at one of the shapes, in turn: a divergence meets all shapes, and so does a family.
@pytest.mark.parametrize(
    ("divergence", "family", "shape"),
    [(*pair, SHAPES[(DIVERGENCES.index(pair[0]) + FAMILIES.index(pair[1])) % 3]) for pair in PAIRS],
)
@pytest.mark.usefixtures("no_optima")
def test_alone_or_among_others(divergence: str, family: str, shape: tuple[int, int, str]) -> None:
    check_alone_or_among_others(divergence, family, *shape, count=23 if family == "flow" else 71)


@pytest.mark.parametrize(("divergence", "dim"), [("forward_kl", 2), ("reverse_kl", 2), ("jeffreys", 1), ("alpha", 1)])
def test_certificates_alone_or_among_others(divergence: str, dim: int) -> None:
    check_alone_or_among_others(divergence, "gaussian_full", dim, 2, "float64", count=23)


def check_alone_or_among_others(divergence: str, family: str, dim: int, modes: int, dtype: str, count: int) -> None:
    targets = [random_mixture(seed, dim, modes) for seed in range(2)]
    inits = ["wide", "narrow", "random", "mode:0"]
    stack = cells(targets, count, inits, divergence=divergence, family=family, dtype=dtype)
    whole = KL_FIT.run_batch(stack, "cpu")
    order = np.random.default_rng(1).permutation(len(stack))
    shuffled = KL_FIT.run_batch([stack[i] for i in order], "cpu")
    for place, i in enumerate(order):
        check_equal(shuffled[place], whole[i])
    for size in (1, 7):
        for start in (0, count // 2, count - 7):
            part = slice(start, min(start + size, len(stack)))
            for own, among in zip(KL_FIT.run_batch(stack[part], "cpu"), whole[part], strict=True):
                check_equal(own, among)


@pytest.mark.parametrize("estimator", ["sticking_the_landing", "score_function", "score_function_baseline"])
@pytest.mark.usefixtures("no_optima")
def test_other_estimators_alone_or_among_others(estimator: str) -> None:
    targets = [random_mixture(seed, 2, 4) for seed in range(3)]
    stack = cells(targets, 37, ["wide", "narrow", "mode:0"], divergence="reverse_kl", estimator=estimator)
    whole = KL_FIT.run_batch(stack, "cpu")
    for k in (0, 17, 36):
        (own,) = KL_FIT.run_batch([stack[k]], "cpu")
        check_equal(own, whole[k])


@pytest.mark.parametrize("family", FAMILIES)
def test_points_alone_or_among_others(family: str) -> None:
    rng = np.random.default_rng(2)
    targets = [Points(f"p{k}", rng.normal(size=(50, 2)) * [1.0, 30.0], ("a", "b")) for k in range(2)]
    stack = cells(targets, 37, ["wide", "random"], divergence="forward_kl", family=family)
    whole = KL_FIT.run_batch(stack, "cpu")
    for k in (0, 17, 36):
        (own,) = KL_FIT.run_batch([stack[k]], "cpu")
        check_equal(own, whole[k])


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.usefixtures("no_optima")
def test_a_diverging_fit_leaves_the_others_alone(divergence: str) -> None:
    targets = [random_mixture(seed, 2, 2) for seed in range(2)]
    healthy = cells(targets, 9, ["wide"], divergence=divergence)
    sick = cells(targets, 9, ["wide"], divergence=divergence)
    sick[4].params = sick[4].params.model_copy(update={"learning_rate": 1e30})
    expected, found = KL_FIT.run_batch(healthy, "cpu"), KL_FIT.run_batch(sick, "cpu")
    assert found[4].status == "diverged"
    assert "learning_rate" in (found[4].error or "")
    for k in range(9):
        if k != 4:
            assert found[k].status == "ok"
            check_equal(found[k], expected[k])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_to_points_that_diverges_leaves_the_others_alone(family: str, optimizer: str) -> None:
    """Some stop at numbers that are finite but have no density: those are not judged."""
    targets = [Points("p", np.random.default_rng(2).normal(size=(50, 2)), ("a", "b"))]
    chosen: dict[str, Any] = {"divergence": "forward_kl", "family": family, "optimizer": optimizer}
    healthy, sick = (cells(targets, 5, ["wide"], **chosen) for _ in range(2))
    for k, rate in ((1, 1e9), (3, 1e30)):
        sick[k].params = sick[k].params.model_copy(update={"learning_rate": rate})
    expected, found = KL_FIT.run_batch(healthy, "cpu"), KL_FIT.run_batch(sick, "cpu")
    assert [outcome.status for outcome in found] == ["ok", "diverged", "ok", "diverged", "ok"]
    for k in (0, 2, 4):
        check_equal(found[k], expected[k])
    for k in (1, 3):
        assert "learning_rate" in (found[k].error or "") and not found[k].metrics
        assert found[k].labels == {"coverage_method": "knn"}


@pytest.mark.usefixtures("no_optima")
def test_sgd_in_own_coordinates_alone_or_among_others() -> None:
    targets = [random_mixture(seed, 1, 2) for seed in range(3)]
    stack = cells(targets, 37, ["wide", "narrow"], divergence="reverse_kl", optimizer="sgd", standardise=False)
    for k, cell in enumerate(stack):
        cell.params = cell.params.model_copy(update={"init_loc": 0.1 * k - 1})
    whole = KL_FIT.run_batch(stack, "cpu")
    for k in (0, 17, 36):
        (own,) = KL_FIT.run_batch([stack[k]], "cpu")
        check_equal(own, whole[k])
