"""The experiment from cells to outcomes: its numbers are true, and belong to the cell alone."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from pydantic import ValidationError

from experiments.experiment import Outcome
from experiments.gradients import GRADIENTS, LABELS, METRICS, EstimatorName, Params, batch_key, check
from experiments.gradients.batch import statistics
from experiments.gradients.estimators import ESTIMATORS
from experiments.gradients.exact import ExactGradient
from experiments.targets import Mixture, Points

NORMAL = Mixture("normal", np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))
PAIR = Mixture("pair", np.array([0.3, 0.7]), np.array([[-2.0], [1.0]]), np.array([[[1.0]], [[0.25]]]))
PLANE = Mixture("plane", np.ones(3) / 3, np.array([[0.0, 2], [2, 0], [-2, -2]]), np.tile(np.eye(2), (3, 1, 1)))
HEAVY = Mixture("heavy", np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)), df=1.0)
FILE = Points("file", np.arange(20.0).reshape(10, 2), ("x", "y"))
WITH_GRADIENT = [name for name in ESTIMATORS if name != "blocked"]
UNBIASED = [name for name in WITH_GRADIENT if name != "naive"]


def cell(target: Mixture = NORMAL, seed: int = 0, **params: object) -> SimpleNamespace:
    return SimpleNamespace(params=Params(target=target.name, **params), target=target, seed=seed)


def run(*cells: SimpleNamespace) -> list[Outcome]:
    return GRADIENTS.run_batch(cells, "cpu")


def same(one: Outcome, other: Outcome) -> bool:
    """Bit for bit, NaN equal to NaN."""
    assert list(one.metrics) == list(other.metrics)
    values = [np.array(list(outcome.metrics.values())).tobytes() for outcome in (one, other)]
    return values[0] == values[1] and one.status == other.status and one.labels == other.labels


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize(
    ("estimator", "offset", "width", "metric", "truth"),
    [
        ("score_function", 1.0, 1.0, "variance_loc", 2.25),
        ("score_function", -2.0, 1.0, "variance_loc", 12.0),
        ("reparameterization", 1.0, 1.0, "variance_loc", 1.0),
        ("reparameterization", 0.0, 0.5, "variance_log_scale", 0.125),
        ("reparameterization", 0.0, 2.0, "variance_log_scale", 32.0),
        ("sticking_the_landing", 0.0, 0.5, "variance_log_scale", 1.125),
        ("sticking_the_landing", 0.0, 2.0, "variance_log_scale", 18.0),
        ("naive", 1.0, 0.5, "variance_loc", 4.0),
    ],
)
def test_one_sample_variances(
    estimator: str, offset: float, width: float, metric: str, truth: float, samples: int
) -> None:
    shared = {
        "estimator": estimator,
        "offset": offset,
        "width": width,
        "samples": samples,
        "dtype": "float64",
    }
    metrics = [o.metrics for o in run(*(cell(seed=seed, repeats=2000, **shared) for seed in range(32)))]
    # The variance of a mean of four is a quarter.
    value = samples * float(np.mean([m[metric] for m in metrics]))
    error = samples * math.sqrt(np.mean([m[f"{metric}_se"] ** 2 for m in metrics]) / 32)
    assert error < 0.02 * truth
    assert abs(value - truth) < 3.5 * error


def test_sticking_the_landing_has_no_variance_where_q_is_the_target() -> None:
    at, beside = run(
        cell(estimator="sticking_the_landing", offset=0.0, dtype="float64"),
        cell(estimator="sticking_the_landing", offset=0.5, dtype="float64"),
    )
    assert at.metrics["variance"] == at.metrics["mean_squared_error"] == at.metrics["bias"] == 0
    assert math.isnan(at.metrics["signal_to_noise"])
    assert beside.metrics["variance_loc"] < 1e-28
    assert beside.metrics["slope_loc"] == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("target", [PAIR, PLANE, HEAVY], ids=lambda t: t.name)
@pytest.mark.parametrize("estimator", UNBIASED)
def test_no_bias_for_mixtures(estimator: str, target: Mixture) -> None:
    for outcome in run(
        *(
            cell(target, seed, estimator=estimator, offset=0.7, width=0.8, samples=4, dtype="float64")
            for seed in range(3)
        )
    ):
        metrics = outcome.metrics
        assert metrics["exact_error"] < 1e-5
        for name in ("slope_loc", "slope_log_scale"):
            assert abs(metrics[name] - metrics[f"exact_{name}"]) < 4 * metrics[f"{name}_se"]
        assert metrics["bias"] < 3.5 * metrics["bias_se"]
        assert metrics["mean_squared_error"] == pytest.approx(metrics["variance"], rel=0.02)


def test_the_naive_gradient_is_zero_on_average() -> None:
    (metrics,) = (outcome.metrics for outcome in run(cell(PLANE, estimator="naive", dtype="float64")))
    assert abs(metrics["slope_loc"]) < 4 * metrics["slope_loc_se"]
    assert abs(metrics["bias"] - metrics["gradient_norm"]) < 4 * metrics["bias_se"]
    assert metrics["gradient_norm"] > 50 * metrics["bias_se"]


def test_noise_is_shared_by_the_estimators_of_one_seed() -> None:
    # The path's gradient and the score of Q, which is the naive gradient, add up to the reparameterization's.
    def slopes(estimator: str) -> np.ndarray:
        (outcome,) = run(cell(PLANE, estimator=estimator, dtype="float64", repeats=50))
        return np.array([outcome.metrics[name] for name in ("slope_loc", "slope_log_scale")])

    total = slopes("sticking_the_landing") + slopes("naive")
    np.testing.assert_allclose(total, slopes("reparameterization"), rtol=1e-10)


def test_blocked_has_no_gradient() -> None:
    (outcome,) = run(cell(PAIR, estimator="blocked"))
    assert outcome.status == "ok" and outcome.metrics["has_gradient"] == 0
    undefined = {name for name, value in outcome.metrics.items() if math.isnan(value)}
    measured = {metric.name for metric in METRICS if metric.has_error}
    assert undefined == measured | {f"{name}_se" for name in measured}
    assert outcome.metrics["gradient_norm"] > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
@pytest.mark.parametrize(("target", "samples"), [(PAIR, 16), (PLANE, 3)], ids=lambda v: getattr(v, "name", v))
def test_a_cell_does_not_depend_on_its_batch(target: Mixture, samples: int, estimator: str, dtype: str) -> None:
    shared = {"estimator": estimator, "dtype": dtype, "samples": samples, "repeats": 37}
    cells = [
        cell(target, seed % 5, width=width, offset=offset, **shared)
        for seed, (width, offset) in enumerate(
            (w, o) for w in (0.1, 0.5, 1.0, 1.7, 3.0) for o in np.linspace(-1, 2, 7).tolist()
        )
    ]  # fmt: skip
    together = run(*cells)
    assert len(together) == 35 > 32
    for k in (0, 3, 17, 31, 32, 34):
        assert same(run(cells[k])[0], together[k])
    for one, other in zip(together, reversed(run(*reversed(cells))), strict=True):
        assert same(one, other)


def test_batch_mates_may_have_other_targets() -> None:
    shifted = Mixture("shifted", PAIR.weights, PAIR.means * 3 + 5, PAIR.covariances)
    cells = [cell(PAIR, 1), cell(shifted, 1), cell(PAIR, 2)]
    assert len({batch_key(c.params, c.target) for c in cells}) == 1
    for one, other in zip(run(*cells), (run(c)[0] for c in cells), strict=True):
        assert same(one, other)


@pytest.mark.parametrize("family", ["gaussian_diagonal", "gaussian_isotropic"])
def test_units_and_origin_of_the_coordinates_do_not_matter(family: str) -> None:
    moved = Mixture("moved", PLANE.weights, PLANE.means * 60 - 7, PLANE.covariances * 3600)
    one, other = run(*(cell(t, family=family, repeats=20, dtype="float64") for t in (PLANE, moved)))
    for name, value in one.metrics.items():
        assert other.metrics[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("estimator", ["reparameterization", "score_function"])
def test_single_precision_is_enough_for_a_narrow_q(estimator: str) -> None:
    single, double = (
        run(cell(estimator=estimator, width=1e-5, repeats=200, dtype=dtype))[0].metrics
        for dtype in ("float32", "float64")
    )
    # Their noise differs: both are right, within their errors.
    assert single["has_gradient"] == double["has_gradient"] == 1
    for name in ("slope_loc", "slope_log_scale", "variance"):
        error = math.hypot(single[f"{name}_se"], double[f"{name}_se"])
        assert abs(single[name] - double[name]) < 5 * error + 1e-5


def test_gradients_that_leave_the_finite_numbers_are_said_to() -> None:
    wild, calm = run(cell(offset=1e30), cell())
    assert wild.status == "diverged" and "float64" in str(wild.error) and not wild.metrics
    assert calm.status == "ok" and same(calm, run(cell())[0])
    assert run(cell(offset=1e30, dtype="float64"))[0].status == "ok"


def test_statistics_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    gradients = rng.normal(0, [[1], [2], [3], [4]], (4, 400)) + np.array([[1.0], [2], [3], [4]])
    exact = ExactGradient(np.array([1.0, 0.0, 3.0, 4.0]), 0.1, "monte_carlo")
    found = statistics(gradients, exact, dim=2, samples=8)
    each = gradients.var(axis=1, ddof=1)
    assert found["variance_loc"] == pytest.approx(each[:2].sum())
    assert found["variance_log_scale"] == pytest.approx(each[2:].sum())
    assert found["variance"] == pytest.approx(each.sum())
    assert found["variance_per_sample"] == pytest.approx(8 * each.sum())
    assert found["slope_loc"] == pytest.approx(gradients[:2].sum(axis=0).mean() / math.sqrt(2))
    assert found["slope_log_scale"] == pytest.approx(gradients[2:].sum(axis=0).mean())
    assert found["slope_log_scale_se"] == pytest.approx(gradients[2:].sum(axis=0).std(ddof=1) / 20)
    assert found["bias"] == pytest.approx(np.linalg.norm(gradients.mean(axis=1) - exact.value))
    assert found["bias_se"] == pytest.approx(math.sqrt(each.sum() / 400 + 0.01))
    assert found["signal_to_noise"] == pytest.approx(math.sqrt(26 / each.sum()))
    errors = ((gradients.T - exact.value) ** 2).sum(axis=1)
    assert found["mean_squared_error"] == pytest.approx(errors.mean())


def test_errors_are_the_spread_between_seeds() -> None:
    metrics = [o.metrics for o in run(*(cell(PAIR, seed, repeats=200, samples=2) for seed in range(200)))]
    for name in (m.name for m in METRICS if m.has_error and m.name not in ("bias", "mean_squared_error")):
        values = np.array([m[name] for m in metrics])
        claimed = float(np.median([m[f"{name}_se"] for m in metrics]))
        assert values.std(ddof=1) == pytest.approx(claimed, rel=0.25), name


def test_what_is_reported_is_in_the_table() -> None:
    for name in ESTIMATORS:
        (outcome,) = run(cell(PAIR, estimator=name, repeats=5))
        with_error = {metric.name for metric in METRICS if metric.has_error}
        assert set(outcome.metrics) == {m.name for m in METRICS} | {f"{name}_se" for name in with_error}
        assert set(outcome.labels) == set(LABELS)
        assert outcome.metrics["evaluations"] == (32 if name in ("reparameterization", "sticking_the_landing") else 16)


def test_tables_agree() -> None:
    assert get_args(EstimatorName) == tuple(ESTIMATORS)


def test_importing_the_experiment_does_not_import_torch() -> None:
    code = "import sys, experiments.gradients; sys.exit(any(m in sys.modules for m in ('torch', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("estimator", "reinforce"),
        ("width", 0.0),
        ("samples", 0),
        ("repeats", 1),
        ("offset", math.nan),
        ("dim", 2),
    ],
)
def test_impossible_parameters_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Params(target="normal", **{field: value})


def test_undefined_combinations_are_refused_with_what_would_do() -> None:
    with pytest.raises(ValueError, match=r"'file'.*points alone.*Use a mixture"):
        check(Params(target="file"), FILE)
    alone = Params(target="normal", estimator="score_function_baseline", samples=1)
    with pytest.raises(ValueError, match=r"samples 1.*Use samples 2 or more"):
        check(alone, NORMAL)
    check(alone.model_copy(update={"samples": 2}), HEAVY)
    check(alone.model_copy(update={"estimator": "score_function"}), NORMAL)


def test_cells_stack_when_only_numbers_differ() -> None:
    base = Params(target="pair")
    free = base.model_copy(update={"offset": 3.0, "width": 0.1})
    other = Mixture("other", np.array([0.1, 0.9]), np.array([[0.0], [9.0]]), np.ones((2, 1, 1)))
    assert batch_key(free, other) == batch_key(base, PAIR)
    changes: Sequence[tuple[str, object]] = (
        ("estimator", "naive"), ("family", "gaussian_isotropic"), ("samples", 2), ("repeats", 3),
        ("dtype", "float64"),
    )  # fmt: skip
    for field, value in changes:
        assert batch_key(base.model_copy(update={field: value}), PAIR) != batch_key(base, PAIR), field
    assert len({batch_key(base, target) for target in (NORMAL, PAIR, PLANE, HEAVY)}) == 4


def test_estimates_grow_with_the_work() -> None:
    small, large = Params(target="pair"), Params(target="pair", repeats=100_000, samples=256)
    assert GRADIENTS.seconds_per_cell(large, PAIR) > 50 * GRADIENTS.seconds_per_cell(small, PAIR) > 0
    assert GRADIENTS.bytes_of_stack(large, PAIR, 32, "cpu") > 2 * GRADIENTS.bytes_of_stack(small, PAIR, 32, "cpu") > 0
