"""The light half of the experiment: parameters, refusals, stacking, and the table of metrics."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from experiments.targets import Mixture, Points
from experiments.vae import LABELS, METRICS, VAE, Params, batch_key, check
from experiments.vae.data import split

PAIR = Mixture("pair", np.array([0.5, 0.5]), np.array([[-4.0], [4.0]]), np.ones((2, 1, 1)))
TRIPLE = Mixture("triple", np.ones(3) / 3, np.array([[-4.0], [0.0], [4.0]]), np.ones((3, 1, 1)))
HEAVY = Mixture("heavy", np.ones(1), np.zeros((1, 2)), np.eye(2)[None], df=2.0)
GREY = Points("grey", np.random.default_rng(0).uniform(size=(50, 4)), ("a", "b", "c", "d"))
FILE = Points("file", np.arange(20.0).reshape(10, 2), ("x", "y"))


def test_importing_the_experiment_does_not_import_torch() -> None:
    code = "import sys, experiments.vae; sys.exit(any(m in sys.modules for m in ('torch', 'scipy', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=_root(), check=False).returncode == 0


def _root() -> str:
    import experiments

    return str(next(iter(experiments.__path__)) + "/..")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latent_dim", 0),
        ("kl_weight", -0.1),
        ("noise_std", 0.0),
        ("likelihood", "poisson"),
        ("hidden", ()),
        ("kl_warmup", 1.5),
        ("steps", 0),
        ("learning_rate", float("nan")),
        ("betta", 1.0),
    ],
)
def test_impossible_parameters_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Params(target="pair", **{field: value})


def test_undefined_combinations_are_refused_with_what_would_do() -> None:
    with pytest.raises(ValueError, match=r"df 2.*infinite.*df above 2"):
        check(Params(target="heavy"), HEAVY)
    with pytest.raises(ValueError, match=r"train_size 11.*has 10 points.*at most 10"):
        check(Params(target="file", train_size=11), FILE)
    with pytest.raises(ValueError, match=r"train_size 9 of the 10 points.*leaves 1 to test on.*at most 8, or 10"):
        check(Params(target="file", train_size=9), FILE)
    with pytest.raises(ValueError, match=r"1 point"):
        check(Params(target="one"), Points("one", np.zeros((1, 2)), ("x", "y")))
    check(Params(target="file", train_size=10, encoder="linear"), FILE)


def test_pixels_are_between_0_and_1() -> None:
    pixels = {"likelihood": "bernoulli"}
    with pytest.raises(ValueError, match=r"target 'pair' has a density.*likelihood gaussian, or a target of pixels"):
        check(Params(target="pair", **pixels), PAIR)
    with pytest.raises(ValueError, match=r"column 'x' of target 'file' reaches from 0 to 18\. Use .*divide"):
        check(Params(target="file", **pixels), FILE)
    with pytest.raises(ValueError, match=r"Use standardise false"):
        check(Params(target="grey", standardise=True, **pixels), GREY)
    check(Params(target="grey", **pixels), GREY)


def test_cells_stack_when_only_numbers_differ() -> None:
    base = Params(target="pair")
    free = {"kl_weight": 4.0, "noise_std": 0.3, "learning_rate": 0.1, "free_bits": 0.5, "kl_warmup": 0.5}
    other = Mixture("other", np.array([0.1, 0.9]), np.array([[0.0], [9.0]]), np.ones((2, 1, 1)))
    assert batch_key(base.model_copy(update=free | {"standardise": True}), other) == batch_key(base, PAIR)
    for field, value in {
        "latent_dim": 3,
        "hidden": (64,),
        "encoder": "linear",
        "likelihood": "mse",
        "steps": 10,
        "batch_size": 64,
        "train_size": 100,
        "dtype": "float64",
        "sample": "mean",
    }.items():
        assert batch_key(base.model_copy(update={field: value}), PAIR) != batch_key(base, PAIR), field
    assert batch_key(base, TRIPLE) != batch_key(base, PAIR)


def test_a_linear_network_has_no_hidden_widths_to_differ_in() -> None:
    linear = Params(target="pair", encoder="linear", decoder="linear")
    assert batch_key(linear, PAIR) == batch_key(linear.model_copy(update={"hidden": (7,)}), PAIR)


@pytest.mark.parametrize(
    ("target", "params"),
    [
        (PAIR, {}),
        (PAIR, {"sample": "mean"}),
        (PAIR, {"likelihood": "gaussian_learned"}),
        (FILE, {}),
        (FILE, {"train_size": 6, "likelihood": "mse"}),
        (GREY, {"likelihood": "bernoulli"}),
        (GREY, {"likelihood": "bernoulli", "sample": "mean", "train_size": 30}),
    ],
)
def test_what_is_reported_is_in_the_table(target: Mixture | Points, params: dict[str, object]) -> None:
    cell = SimpleNamespace(params=Params(target=target.name, steps=3, **params), target=target, seed=0)
    (outcome,) = VAE.run_batch([cell], "cpu")
    assert outcome.status == "ok"
    with_error = {metric.name for metric in METRICS if metric.has_error}
    allowed = {metric.name for metric in METRICS} | {f"{name}_se" for name in with_error}
    assert set(outcome.metrics) <= allowed
    assert {f"{name}_se" for name in with_error & set(outcome.metrics)} <= set(outcome.metrics)
    assert set(outcome.labels) == set(LABELS)
    assert np.isfinite([outcome.metrics[m] for m in ("objective", "coverage", "sharpness", "nll")]).all()
    assert ("theta" in outcome.metrics) == (params.get("likelihood") != "bernoulli")
    assert ("learned_noise_std" in outcome.metrics) == (params.get("likelihood") == "gaussian_learned")
    method = "density" if target is PAIR and "sample" not in params else "knn"
    assert outcome.labels["coverage_method"] == method
    assert outcome.samples is not None and outcome.samples.shape == (300, target.dim)
    assert outcome.curve_steps is not None and outcome.curve_steps.tolist() == [0, 1, 2]


def test_only_like_objectives_are_ranked() -> None:
    assert {"kl_weight", "free_bits", "likelihood", "noise_std", "standardise"} <= set(VAE.objective_of)


def test_test_points_say_where_they_come_from() -> None:
    def label(target: Mixture | Points, **params: object) -> str:
        cell = SimpleNamespace(params=Params(target=target.name, steps=1, **params), target=target, seed=0)
        return VAE.run_batch([cell], "cpu")[0].labels["test_points"]

    assert label(PAIR) == label(PAIR, train_size=50) == "fresh"
    assert label(FILE) == "training"
    assert label(FILE, train_size=7) == "held_out"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("train_size", [2, 5, 8])
def test_what_is_tested_on_was_not_trained_on(train_size: int, seed: int) -> None:
    """Each of the file's ten rows is in one of the two parts, once."""
    parts = split(FILE, train_size, seed)
    assert [len(part) for part in parts] == [train_size, 10 - train_size]
    rows = np.concatenate(parts)
    assert np.array_equal(rows[rows[:, 0].argsort()], FILE.values)
    assert not np.array_equal(parts[0], split(FILE, train_size, seed + 1)[0])


@pytest.mark.parametrize("train_size", [8, 10])
def test_two_test_points_have_finite_errors(train_size: int) -> None:
    params = Params(target="file", train_size=train_size, steps=3)
    check(params, FILE)
    (outcome,) = VAE.run_batch([SimpleNamespace(params=params, target=FILE, seed=0)], "cpu")
    assert np.isfinite(list(outcome.metrics.values())).all()


def test_estimates_grow_with_the_work() -> None:
    small, large = Params(target="pair"), Params(target="pair", hidden=(256, 256), steps=4000)
    assert VAE.seconds_per_cell(large, PAIR) > 2 * VAE.seconds_per_cell(small, PAIR) > 0
    assert VAE.bytes_of_stack(large, PAIR, 16, "cpu") > 2 * VAE.bytes_of_stack(small, PAIR, 16, "cpu") > 0
