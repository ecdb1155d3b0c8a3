"""Each estimator against formulas written out in numpy, at given noise: no sampling, no tolerance for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.gradients.estimators import ESTIMATORS, DiagonalGaussian, gradient
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture

F64 = torch.float64
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
NORMAL = Mixture("normal", np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))

places = st.floats(-3, 3)
widths = st.floats(0.1, 4)


def one_sample(name: str, mu: float, s: float, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of KL(N(mu, s^2) || N(0, 1)), by hand: the estimates of d/dmu and d/d log s from one z each."""
    x = mu + s * z
    value = 0.5 * x**2 - 0.5 * z**2 - math.log(s)
    score_mu, score_log_s = z / s, z**2 - 1
    if name == "naive":
        return score_mu, score_log_s
    if name == "score_function":
        return value * score_mu, value * score_log_s
    if name == "reparameterization":
        return x, x * s * z - 1
    assert name == "sticking_the_landing"
    return x - z / s, (x - z / s) * s * z


def measured(name: str, target: Mixture, loc: np.ndarray, log_scale: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The gradients ``(D + S, R)`` at noise ``(D, R, N)``."""
    arrays = (torch.as_tensor(np.asarray(a, float))[None] for a in (loc, log_scale, noise))
    found = gradient(ESTIMATORS[name], StackedMixture.stack([target], F64), *arrays)
    assert found is not None
    return found[0].numpy()


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and variance over the standard normal, of values at the nodes."""
    mean = float(WEIGHTS @ values)
    return mean, float(WEIGHTS @ (values - mean) ** 2)


@pytest.mark.parametrize("name", ["naive", "score_function", "reparameterization", "sticking_the_landing"])
@settings(max_examples=25, deadline=None)
@given(mu=places, s=widths)
def test_one_sample_is_the_formula(name: str, mu: float, s: float) -> None:
    found = measured(name, NORMAL, [mu], [math.log(s)], NODES[None, :, None])
    for one, other in zip(found, one_sample(name, mu, s, NODES), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * (1 + abs(mu) ** 3))


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0, -2.0])
def test_variances_in_the_mean_are_the_known_ones(mu: float) -> None:
    def variance(name: str) -> float:
        mean, variance = moments(measured(name, NORMAL, [mu], [0.0], NODES[None, :, None])[0])
        assert mean == pytest.approx(mu, abs=1e-9)
        return variance

    assert variance("score_function") == pytest.approx(mu**4 / 4 + 2 * mu**2, abs=1e-8)
    assert variance("reparameterization") == pytest.approx(1, abs=1e-8)
    assert variance("sticking_the_landing") == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("s", [0.5, 1.0, 2.0, 0.3, 1.7])
def test_variances_in_the_width_are_the_known_ones(s: float) -> None:
    def variance(name: str) -> float:
        mean, variance = moments(measured(name, NORMAL, [0.0], [math.log(s)], NODES[None, :, None])[1] / s)
        assert mean == pytest.approx(s - 1 / s, abs=1e-9)
        return variance

    assert variance("reparameterization") == pytest.approx(2 * s**2, rel=1e-8)
    assert variance("sticking_the_landing") == pytest.approx(2 * (s - 1 / s) ** 2, rel=1e-8, abs=1e-12)
    # f = a + b z^2 and its score z^2 - 1; moments of z up to the eighth, 105.
    a, b = -math.log(s), (s**2 - 1) / 2
    expected = (2 * a**2 + 20 * a * b + 74 * b**2) / s**2
    assert variance("score_function") == pytest.approx(expected, rel=1e-8, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(s=widths.filter(lambda s: abs(s - 0.5**0.5) > 1e-3), mu=places)
def test_sticking_the_landing_loses_below_one_over_root_two(s: float, mu: float) -> None:
    def variance(name: str) -> float:
        found = measured(name, NORMAL, [mu], [math.log(s)], NODES[None, :, None])
        return sum(moments(part)[1] for part in found)

    assert (variance("sticking_the_landing") < variance("reparameterization")) == (s > 0.5**0.5)


def mixture(rng: np.random.Generator, dim: int, modes: int, df: float | None = None) -> Mixture:
    factors = 0.4 * rng.standard_normal((modes, dim, dim)) + np.eye(dim)
    covariances = factors @ factors.transpose(0, 2, 1)
    return Mixture("m", rng.dirichlet(np.full(modes, 3.0)), rng.normal(0, 2, (modes, dim)), covariances, df)


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"blocked", "score_function_baseline"}))
def test_many_samples_are_averaged(name: str) -> None:
    rng = np.random.default_rng(0)
    target, noise = mixture(rng, 3, 4), rng.standard_normal((3, 5, 7))
    point = rng.standard_normal(3), 0.3 * rng.standard_normal(3)
    whole = measured(name, target, *point, noise)
    singles = measured(name, target, *point, noise.reshape(3, 35, 1)).reshape(6, 5, 7)
    np.testing.assert_allclose(whole, singles.mean(axis=2), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("samples", [2, 3, 8])
def test_the_baseline_is_the_mean_of_the_others(samples: int) -> None:
    rng = np.random.default_rng(samples)
    target, noise = mixture(rng, 2, 3), rng.standard_normal((2, 1, samples))
    loc, log_scale = rng.standard_normal(2), 0.3 * rng.standard_normal(2)
    # Values by torch.distributions, the sum over the others by two loops.
    q = torch.distributions.Independent(torch.distributions.Normal(*map(torch.tensor, (loc, np.exp(log_scale)))), 1)
    components = torch.distributions.MultivariateNormal(torch.tensor(target.means), torch.tensor(target.covariances))
    p = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.tensor(target.weights)), components)
    z = noise[:, 0].T
    x = torch.tensor(loc + np.exp(log_scale) * z)
    value = (q.log_prob(x) - p.log_prob(x)).numpy()
    expected = np.zeros(4)
    for i in range(samples):
        others = sum(value[j] for j in range(samples) if j != i) / (samples - 1)
        score = np.concatenate([z[i] / np.exp(log_scale), z[i] ** 2 - 1])
        expected += (value[i] - others) * score / samples
    found = measured("score_function_baseline", target, loc, log_scale, noise)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("df", [None, 3.0])
def test_paths_give_the_gradient_of_the_average_loss(df: float | None) -> None:
    # Central differences of the mean of f(loc + scale * z) at fixed z: the definition, without autograd.
    rng = np.random.default_rng(1)
    target, noise = mixture(rng, 2, 3, df), rng.standard_normal((2, 1, 50))
    theta = np.concatenate([rng.standard_normal(2), 0.3 * rng.standard_normal(2)])
    stacked = StackedMixture.stack([target], F64)

    def loss(theta: np.ndarray) -> float:
        loc, log_scale = theta[:2, None], theta[2:, None]
        z = noise[:, 0]
        log_p = stacked.log_prob(torch.tensor(loc + np.exp(log_scale) * z)[None])[0].numpy()
        log_q = -0.5 * (z**2).sum(axis=0) - log_scale.sum() - np.log(2 * np.pi)
        return float((log_q - log_p).mean())

    steps = 1e-5 * np.eye(4)
    expected = [(loss(theta + step) - loss(theta - step)) / 2e-5 for step in steps]
    found = measured("reparameterization", target, theta[:2], theta[2:], noise)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"blocked"}))
def test_one_width_for_all_gets_the_sum_of_their_gradients(name: str) -> None:
    rng = np.random.default_rng(2)
    target, noise = mixture(rng, 3, 2), rng.standard_normal((3, 4, 6))
    loc = rng.standard_normal(3)
    each = measured(name, target, loc, np.full(3, -0.4), noise)
    shared = measured(name, target, loc, [-0.4], noise)
    assert shared.shape == (4, 4)
    np.testing.assert_allclose(shared[:3], each[:3], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(shared[3], each[3:].sum(axis=0), rtol=1e-10, atol=1e-10)


def test_a_blocked_sample_gives_no_gradient() -> None:
    target = StackedMixture.stack([NORMAL], F64)
    point = torch.zeros(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64), torch.randn(1, 1, 3, 4, dtype=F64)
    assert gradient(ESTIMATORS["blocked"], target, *point) is None
    assert all(gradient(ESTIMATORS[name], target, *point) is not None for name in set(ESTIMATORS) - {"blocked"})


def test_samples_have_paths_where_those_of_torch_distributions_do() -> None:
    loc, log_scale = (torch.zeros(1, 2, 3, requires_grad=True) for _ in range(2))
    mine = DiagonalGaussian(loc, log_scale)
    theirs = torch.distributions.Normal(loc, log_scale.exp())
    noise = torch.randn(1, 2, 3, 5)
    assert mine.sample(noise).requires_grad is theirs.sample().requires_grad is False
    assert mine.rsample(noise).requires_grad is theirs.rsample().requires_grad is True
    assert torch.equal(mine.sample(noise), mine.rsample(noise))


def test_log_prob_is_that_of_torch_distributions() -> None:
    torch.manual_seed(0)
    loc, log_scale = torch.randn(2, 3, 2, 4, dtype=F64)
    x = torch.randn(3, 2, 4, 6, dtype=F64)
    expected = torch.distributions.Normal(loc[..., None], log_scale.exp()[..., None]).log_prob(x).sum(dim=1)
    torch.testing.assert_close(DiagonalGaussian(loc, log_scale).log_prob(x), expected)
    shared = DiagonalGaussian(loc, log_scale[:, :1])
    expected = torch.distributions.Normal(loc[..., None], log_scale[:, :1].exp()[..., None]).log_prob(x).sum(dim=1)
    torch.testing.assert_close(shared.log_prob(x), expected)
