from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from experiments.targets import Analytic, Mixture, Points, named

DIGESTS = {
    "unimodal": "923d3f3e818eece70434dba6f1a6d63c",
    "bimodal": "5325233c77be8f46fb35314728a3e69e",
    "bimodal_close": "3598c70263f46b8b1af9c30733bdee86",
    "bimodal_unequal": "615ded60749d570be7270cf98699cdb0",
    "trimodal": "d3efc529364c7855222104ff3a660560",
    "multimodal": "1b4f7933ecd5073d65db5fb6a35b3212",
    "gmm1d": "706ac83da7171c395978d64191508a09",
    "playtime": "d7bab4750afe289e1598b61379f674e4",
    "transactions": "b355b9123365e87f413c7b906d43b702",
    "correlated": "39971798ad7a4fa99d80bb221fa6d5f4",
    "pmtk3_bimodal": "a19fce04033c0c376fbd3f5c9992506d",
    "ring8": "69a1ea047d116323d4a91fdc3831832c",
    "ring8_easy": "7cac3149cae12540d49d54bd9b9c3a05",
    "grid25": "45d908f355c2d3fab46f300c01fe4cdd",
    "gmm40": "6d4a4c43dab4c078b93a884c804b0d86",
    "mog10": "606d321b93e570a82ac98e20f104416d",
    "gmmvi_simple": "76a56884baa73762cc91d04bdcf06338",
    "star": "104870f7135913df6b69f44b88ee4c3e",
    "student_t_mixture": "240c2a55340b0d744ab46a634f639b8b",
    "ring8_wide": "7ba163abf7339d2162c2364f5f517380",
    "gmm40_jax": "33002c5d5493db2075b4917e16654acd",
    "gmm40_jax50": "3bca0a58f4f76d8ea02e0d706dff496f",
    "mog10_jax": "f544212b50a25d32e6d4747c6e73bc0d",
    "student_t_jax": "783c6db569459689adc7a3d02879a189",
    "gmmvi_gmm20": "975e61d4ef0ae2cb2f318a8e9cbb9321",
    "gmmvi_gmm100": "57b88af5b7941427baa1032bf580d152",
    "gmmvi_stm20": "b2d9f877f3815812fd4c45bdfc83de20",
    "rings": "010b5c7b46a699a661d5ff712df8cc3c",
    "two_rings": "cc53475f5100199a2b701123ed2015b8",
    "two_moons": "ad6c8e0f234a47a9663bf69957808ce4",
    "funnel2": "dedf8717d47ace7a9c12ff3db7abe438",
    "funnel10": "51253768aa2b06889f346a5af7c92e0d",
    "double_well": "35d86df653f571727bb7cea18891962f",
    "many_well32": "4895de4fcee95aeae4b1cdd3927a48d1",
    "faithful": "b76bd79330297394456bdae999bc780d",
    "eruptions": "1c8c43dc76aa65a03913c3f0c77fab92",
    "digits": "c04738e6053ebbb72530ac4bf27d91ed",
}


def mixture(name: str) -> Mixture:
    found = named.target(name)
    assert isinstance(found, Mixture)
    return found


def entropy(target: Mixture, n: int = 20_000) -> tuple[float, float]:
    """Monte-Carlo entropy in nats, and its standard error."""
    generator = np.random.default_rng(0)
    component = generator.choice(target.modes, n, p=target.weights)
    factors = np.linalg.cholesky(target.covariances)[component]
    x = target.means[component] + np.einsum("nij,nj->ni", factors, generator.standard_normal((n, target.dim)))
    density = sum(
        w * stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(target.weights, target.means, target.covariances, strict=True)
    )
    return -np.log(density).mean(), np.log(density).std() / math.sqrt(n)


@pytest.mark.parametrize("name", named.NAMES)
def test_every_target_is_whole(name: str) -> None:
    target = named.target(name)
    assert target.name == name
    assert target is named.target(name)
    assert target.about
    assert re.fullmatch(r"[a-z0-9_]+", name)
    if isinstance(target, Points):
        assert target.values.shape == (1797 if name == "digits" else 272, len(target.columns))
        return
    if isinstance(target, Analytic):
        assert target.form.places.shape[1] == target.dim
        return
    assert target.weights.shape == (target.modes,)
    assert target.means.shape == (target.modes, target.dim)
    assert target.covariances.shape == (target.modes, target.dim, target.dim)
    assert (target.weights > 0).all()
    assert target.weights.sum() == pytest.approx(1, abs=1e-9)
    assert np.allclose(target.covariances, target.covariances.transpose(0, 2, 1), atol=0)
    assert (np.linalg.eigvalsh(target.covariances) > 0).all()
    assert len(np.unique(target.means, axis=0)) == target.modes


@pytest.mark.parametrize("name", named.NAMES)
def test_digests_never_change(name: str) -> None:
    """They are part of every cell's identity: the same on every machine, for good."""
    assert named.target(name).digest == DIGESTS[name]


def test_an_unknown_name() -> None:
    with pytest.raises(KeyError):
        named.target("ring9")


def test_gmm40_is_the_one_that_torch_draws() -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    locations = (torch.rand((40, 2), generator=generator).double().numpy() - 0.5) * 80
    assert np.allclose(mixture("gmm40").means, locations, rtol=0, atol=1e-12)
    assert np.allclose(np.sqrt(mixture("gmm40").covariances[:, 0, 0]), 1.3132617, atol=1e-7)


def test_gmm40_has_the_published_entropy_and_moments() -> None:
    """FAB's own results (github.com/lollcat/fab-torch) give E log p between -6.8624 and -6.8450."""
    value, error = entropy(mixture("gmm40"))
    assert 6.845 - 3 * error < value < 6.8624 + 3 * error
    assert np.allclose(mixture("gmm40").mean, [-2.1405, 1.2400], atol=1e-4)
    assert np.allclose(mixture("gmm40").covariance, [[441.8165, 171.2169], [171.2169, 623.4339]], atol=1e-3)


@pytest.mark.parametrize(("name", "value"), [("ring8", -4.29302), ("grid25", 0.065288)])
def test_separated_modes_have_the_entropy_of_their_parts(name: str, value: float) -> None:
    """H = ln K + (d / 2) ln(2 pi e sigma^2)."""
    found, error = entropy(mixture(name))
    assert error < 0.01
    assert found == pytest.approx(value, abs=4 * error)


@pytest.mark.parametrize(("name", "radius", "deviation"), [("ring8", 1, 0.01), ("ring8_easy", 2, 0.2551)])
def test_rings_have_eight_modes_evenly_spaced(name: str, radius: float, deviation: float) -> None:
    ring = mixture(name)
    x, y = ring.means.T
    assert np.allclose(np.hypot(x, y), radius)
    assert np.allclose(np.diff(np.sort(np.arctan2(np.round(y, 9), x))), np.pi / 4)
    assert np.allclose(ring.covariances, deviation**2 * np.eye(2), rtol=1e-3)


def test_moment_matched_covariances() -> None:
    """Where the forward-KL Gaussian lies: ring 0.5001 I, grid 8.0025 I, the textbook's [[1.5, 1], [1, 2]]."""
    assert np.allclose(mixture("ring8").covariance, 0.5001 * np.eye(2))
    assert np.allclose(mixture("grid25").covariance, 8.0025 * np.eye(2))
    assert np.allclose(mixture("pmtk3_bimodal").covariance, [[1.5, 1], [1, 2]])
    assert np.allclose(mixture("bimodal").covariance, 17)


def test_a_star_looks_the_same_from_each_arm() -> None:
    star = mixture("star")
    angle = 2 * np.pi / star.modes
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert np.allclose(star.means @ turn.T, np.roll(star.means, -1, axis=0))
    assert np.allclose(turn @ star.covariances @ turn.T, np.roll(star.covariances, -1, axis=0))
    # Each arm is long along its own direction: precisions 1 along and 100 across.
    along = star.means / np.linalg.norm(star.means, axis=1, keepdims=True)
    assert np.allclose(np.einsum("ki,kij,kj->k", along, star.covariances, along), 1)
    assert np.allclose(np.linalg.det(star.covariances), 0.01)


def test_the_articles_two_examples_keep_their_units() -> None:
    assert (named.target("playtime").unit, named.target("transactions").unit) == ("minutes", "USD")
    assert mixture("playtime").means.ravel().tolist() == [30, 240]
    few = mixture("transactions").weights.min()
    assert few < 0.05


def test_old_faithful() -> None:
    """Mean, standard deviation and correlation as R prints them for datasets::faithful."""
    points = named.target("faithful")
    assert isinstance(points, Points)
    assert points.columns == ("eruptions", "waiting")
    assert points.values[:3].tolist() == [[3.6, 79], [1.8, 54], [3.333, 74]]
    assert np.allclose(points.mean, [3.487783, 70.897059], atol=1e-6)
    assert np.allclose(points.values.std(0, ddof=1), [1.141371, 13.594974], atol=1e-6)
    assert np.corrcoef(points.values.T)[0, 1] == pytest.approx(0.9008112, abs=1e-7)
    eruptions = named.target("eruptions")
    assert isinstance(eruptions, Points)
    assert np.array_equal(eruptions.values[:, 0], points.values[:, 0])
