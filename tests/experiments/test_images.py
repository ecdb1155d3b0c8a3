"""Targets whose points are images: the data, the distances between them, and what can be fitted to them."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from experiments.experiment import Experiment, Outcome
from experiments.kl_fit import KL_FIT
from experiments.targets import Points, named
from experiments.vae import VAE

RARE = np.array([1.0, 1.0, 1.0, 0.01])  # how much ink each of four pixels sees


def pixels(n: int = 120) -> Points:
    """Images of 2 x 2 pixels, one of which is nearly always empty."""
    values = np.random.default_rng(4).random((n, 4)) ** 2 * RARE
    return Points("pixels", values, ("a", "b", "c", "d"), image=(2, 2))


def digits() -> Points:
    found = named.target("digits")
    assert isinstance(found, Points)
    return found


def run(experiment: Experiment, target: Points, seed: int = 0, **params: object) -> Outcome:
    made = experiment.params(target=target.name, **params)
    experiment.check(made, target)
    (outcome,) = experiment.run_batch([SimpleNamespace(params=made, target=target, seed=seed)], "cpu")
    assert outcome.status == "ok", outcome.error
    return outcome


def recall(points: np.ndarray, samples: np.ndarray) -> float:
    """Share of points that lie within some sample's distance to its fifth neighbour, by all distances."""
    reach = np.sort(cdist(samples, samples), axis=1)[:, 5]
    return float((cdist(points, samples) <= reach).any(axis=1).mean())


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


def test_an_image_is_another_target_than_its_numbers() -> None:
    """What is near it is another matter, and so are coverage and sharpness."""
    rows, columns = pixels().image or (0, 0)
    shapes = [pixels(), replace(pixels(), image=None), replace(pixels(), image=(1, rows * columns))]
    assert len({of.digest for of in shapes}) == 3


def test_distances_between_images_are_between_pixels_as_they_are() -> None:
    """Of a fit of one width, standardising would put nearly all distance into the pixel that is nearly always empty."""
    image = pixels()
    table = replace(image, image=None)
    scale = image.values.std(axis=0)
    fits = {of: run(KL_FIT, of, divergence="forward_kl", family="gaussian_isotropic") for of in (image, table)}
    samples = fits[image].samples
    assert samples is not None and np.array_equal(samples, fits[table].samples)
    for of, unit in ((image, 1.0), (table, scale)):
        x, q = image.values / unit, samples[: len(image.values)] / unit
        found = fits[of].metrics
        assert (found["coverage"], found["sharpness"]) == (recall(x, q), recall(q, x))
    assert fits[image].metrics["coverage"] != fits[table].metrics["coverage"]


@pytest.mark.parametrize("standardise", [False, True])
def test_a_vae_is_scored_by_pixels_whatever_it_was_trained_in(standardise: bool) -> None:
    image = pixels()
    params = {"standardise": standardise, "steps": 100, "hidden": (16,), "noise_std": 0.3}
    outcome = run(VAE, image, **params)
    assert outcome.samples is not None
    x, q = image.values, outcome.samples[: len(image.values)]
    found = outcome.metrics["coverage"], outcome.metrics["sharpness"]
    assert found == (recall(x, q), recall(q, x))
    table = run(VAE, replace(image, image=None), **params)
    assert found != (table.metrics["coverage"], table.metrics["sharpness"])


@pytest.mark.parametrize("family", ["gaussian_diagonal", "gaussian_full", "student_t", "gaussian_mixture", "flow"])
def test_what_would_narrow_for_ever_on_constant_pixels_is_refused(family: str) -> None:
    params = KL_FIT.params(target="digits", divergence="forward_kl", family=family)
    with pytest.raises(ValueError) as refused:
        KL_FIT.check(params, digits())
    for word in ("pixel_0_0, pixel_4_0 and pixel_4_7", family, "no bound", "gaussian_isotropic", "vae"):
        assert word in str(refused.value)


def test_a_refusal_names_few_columns() -> None:
    values = np.random.default_rng(0).random((20, 9)) * ([0] * 8 + [1])
    params = KL_FIT.params(target="empty", divergence="forward_kl", family="gaussian_diagonal")
    for constant, said in ((1, "c0 has no"), (2, "c0 and c1 have no"), (8, "c0, c1, c2 and 5 more have no")):
        kept = slice(8 - constant, None)
        names = tuple(f"c{k}" for k in range(constant + 1))
        with pytest.raises(ValueError, match=said):
            KL_FIT.check(params, Points("empty", values[:, kept], names))


@pytest.mark.parametrize("init", ["wide", "random"])
def test_one_width_for_all_pixels_can_be_fitted(init: str) -> None:
    """Its optimum has the mean image, and the mean of the pixels' variances."""
    outcome = run(KL_FIT, digits(), divergence="forward_kl", family="gaussian_isotropic", init=init, steps=400)
    variance = np.mean(np.var(digits().values, axis=0))
    best = 32 * math.log(2 * math.pi * math.e * variance)
    assert outcome.metrics["optimum_value"] == pytest.approx(best, abs=1e-8)
    assert 0 <= outcome.metrics["optimum_gap"] < 0.01
    assert outcome.metrics["cross_entropy"] == pytest.approx(best + outcome.metrics["optimum_gap"], abs=1e-6)
    assert outcome.metrics["sharpness"] < 0.01  # noise of all directions is no digit


@pytest.mark.parametrize("standardise", [False, True])
def test_a_vae_learns_digits(standardise: bool) -> None:
    """It reconstructs held-out digits better than the mean image does, and its draws lie among them."""
    outcome = run(
        VAE,
        digits(),
        standardise=standardise,
        noise_std=0.5 if standardise else 0.2,
        latent_dim=8,
        hidden=(64,),
        steps=1500,
        learning_rate=3e-3,
        train_size=1400,
        sample="mean",
    )
    found = outcome.metrics
    assert outcome.labels == {"coverage_method": "knn", "test_points": "held_out"}
    assert found["reconstruction_mse"] < 0.6 * np.var(digits().values, axis=0).sum()
    assert found["active_units"] == 8
    assert found["coverage"] > 0.3 and found["sharpness"] > 0.5
    assert outcome.samples is not None
    # A pixel without ink anywhere stays so.
    assert abs(outcome.samples[:, [0, 32, 39]]).max() < 0.1
