"""JAX's random numbers, the benchmark targets drawn by them, and every shipped mixture against scipy's densities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from experiments.stacked_mixture import StackedMixture
from experiments.targets import Analytic, Mixture, named, threefry

MIXTURES = [name for name in named.NAMES if isinstance(named.target(name), Mixture)]
PLANAR = [
    "correlated",
    "pmtk3_bimodal",
    "ring8_easy",
    "gmmvi_simple",
    "star",
    "mog10",
    "mog10_jax",
    "gmm40",
    "gmm40_jax",
]


def mixture(name: str) -> Mixture:
    found = named.target(name)
    assert isinstance(found, Mixture)
    return found


def log_density(target: Mixture, x: np.ndarray) -> np.ndarray:
    """By scipy, ``(n, D) -> (n,)``."""
    parts = []
    for w, m, s in zip(target.weights, target.means, target.covariances, strict=True):
        own = stats.multivariate_normal(m, s) if target.df is None else stats.multivariate_t(m, s, df=target.df)
        parts.append(math.log(w) + np.reshape(own.logpdf(x), len(x)))
    return np.asarray(special.logsumexp(parts, axis=0))


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_has_the_known_answers(
    key: tuple[int, int], counter: tuple[int, int], expected: tuple[int, int]
) -> None:
    """Of Random123 (Salmon et al. 2011), threefry2x32 with 20 rounds."""
    own = np.uint32(key[0]), np.uint32(key[1])
    x0, x1 = (np.array([c], np.uint32) for c in counter)
    with np.errstate(over="ignore"):
        found = threefry.threefry2x32(own, x0, x1)
    assert (int(found[0][0]), int(found[1][0])) == expected


def test_keys_and_normals_are_the_ones_that_jaxs_documentation_prints() -> None:
    """Normals are sqrt(2) erfinv of uniforms in (-1, 1), from below: of PRNGKey(0) and of its second half."""
    key = threefry.key(0)
    first, second = threefry.split(key)
    assert [[int(word) for word in half] for half in (first, second)] == [
        [4146024105, 967050713],
        [2718843009, 1272950319],
    ]
    for own, printed in ((key, -0.20584226), (second, -1.2515389)):
        u = threefry.uniform(own, (1,), -0.99999994, 1)
        assert math.sqrt(2) * special.erfinv(u[0]) == pytest.approx(printed, abs=1e-6)


def test_an_odd_number_of_bits_is_the_head_of_an_even_number_of_counters() -> None:
    """The counters are padded by a 0, and their halves are the words of each block."""
    key = threefry.key(7)
    blocks = threefry.threefry2x32(key, np.array([0, 1], np.uint32), np.array([2, 0], np.uint32))
    assert threefry.bits(key, 3).tolist() == np.concatenate(blocks)[:3].tolist()


def test_uniform_numbers_fill_their_interval() -> None:
    x = threefry.uniform(threefry.key(3), (20_000,), -3, 5)
    assert stats.kstest(x, stats.uniform(-3, 8).cdf).pvalue > 1e-4
    assert np.array_equal(x, x.astype(np.float32))


@pytest.mark.parametrize(("name", "dim"), [("gmm40_jax", 2), ("gmm40_jax50", 50)])
def test_gmm40_of_jax_has_unit_modes_in_its_box(name: str, dim: int) -> None:
    target = mixture(name)
    assert (target.modes, target.dim) == (40, dim)
    assert stats.kstest(target.means.ravel(), stats.uniform(-40, 80).cdf).pvalue > 1e-3
    assert np.array_equal(target.covariances, np.tile(np.eye(dim), (40, 1, 1)))


def test_mog10_of_jax_has_the_covariances_that_scipy_draws() -> None:
    key, target = threefry.key(0), mixture("mog10_jax")
    for covariance in target.covariances:
        key, own = threefry.split(key)
        seed = threefry.below(own, 30)
        assert 0 <= seed < 2**30
        assert np.allclose(
            covariance, stats.wishart(df=4, scale=np.eye(2)).rvs(random_state=seed), rtol=1e-10, atol=1e-11
        )
    crosses = named.target("student_t_jax")
    assert isinstance(crosses, Analytic)
    assert np.array_equal(target.means, crosses.form.places)  # of one key and box


@pytest.mark.parametrize(("name", "box"), [("gmmvi_gmm20", 50), ("gmmvi_gmm100", 50), ("gmmvi_stm20", 20)])
def test_gmmvi_targets_are_of_their_recipes(name: str, box: int) -> None:
    """``E A'A`` is D (D / 10)^2 on the diagonal, and every eigenvalue of ``A'A + I`` is 1 or more."""
    target = mixture(name)
    grams = target.covariances if target.df is None else np.linalg.inv(target.covariances)
    assert stats.kstest(target.means.ravel(), stats.uniform(-box, 2 * box).cdf).pvalue > 1e-3
    assert (np.linalg.eigvalsh(grams)[:, 0] > 1 - 1e-4).all()
    d = target.dim
    traces = np.einsum("kii->k", grams - np.eye(d)) / (d / 10) ** 2
    # A trace is chi-square with D^2 degrees of freedom.
    assert stats.kstest(traces, stats.chi2(d * d).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", MIXTURES)
def test_densities_and_slopes_are_those_of_scipy(name: str) -> None:
    target = mixture(name)
    x = target.draws(12)
    points = torch.tensor(x.T[None].copy(), requires_grad=True)
    log_p = StackedMixture.stack([target], torch.float64).log_prob(points)
    np.testing.assert_allclose(log_p[0].detach().numpy(), log_density(target, x), rtol=1e-7, atol=1e-7)
    (score,) = torch.autograd.grad(log_p.sum(), points)
    width = math.sqrt(np.linalg.eigvalsh(target.covariances).min())
    for i in range(0, target.dim, 7):
        step = np.zeros(target.dim)
        step[i] = 1e-4 * width
        slope = (log_density(target, x + step) - log_density(target, x - step)) / (2 * step[i])
        np.testing.assert_allclose(score[0, i].numpy(), slope, rtol=1e-4, atol=1e-4 / width)


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_of_torch_are_those_of_numpy(name: str) -> None:
    """Two samplers: the same coordinates, and the same log-densities, in distribution."""
    target = mixture(name)
    stacked = StackedMixture.stack([target], torch.float64)
    drawn = stacked.draw(1500, [torch.Generator().manual_seed(1)])
    by_torch, by_numpy = drawn[0].numpy().T, target.draws(1500)
    for i in range(0, target.dim, 5):
        assert stats.ks_2samp(by_torch[:, i], by_numpy[:, i]).pvalue > 1e-4
    with torch.no_grad():
        log_p = [stacked.log_prob(x)[0].numpy() for x in (drawn, torch.tensor(by_numpy.T[None].copy()))]
    assert stats.ks_2samp(*log_p).pvalue > 1e-4


@pytest.mark.parametrize("name", [name for name in MIXTURES if mixture(name).dim == 1])
def test_mass_and_moments_on_a_line(name: str) -> None:
    target = mixture(name)
    stacked = StackedMixture.stack([target], torch.float64)
    sd = np.sqrt(target.covariances[:, 0, 0])
    ends = np.unique([m + k * s for m, s in zip(target.means[:, 0], sd, strict=True) for k in (-10, -3, 0, 3, 10)])
    nodes, weights = np.polynomial.legendre.leggauss(60)
    half, middle = 0.5 * np.diff(ends)[:, None], 0.5 * (ends[1:] + ends[:-1])[:, None]
    x, share = (middle + half * nodes).ravel(), (half * weights).ravel()
    share = share * stacked.log_prob(torch.tensor(x[None, None])).exp()[0].numpy()
    assert share.sum() == pytest.approx(1, abs=1e-9)
    assert share @ x == pytest.approx(target.mean[0], abs=1e-7 * math.sqrt(target.covariance[0, 0]))
    assert share @ (x - target.mean[0]) ** 2 == pytest.approx(target.covariance[0, 0], rel=1e-7)


@pytest.mark.parametrize("name", PLANAR)
def test_mass_and_moments_in_the_plane(name: str) -> None:
    target = mixture(name)
    stacked = StackedMixture.stack([target], torch.float64)
    reach = 7 * np.sqrt(np.einsum("kii->ki", target.covariances))
    axes = [np.linspace((target.means - reach)[:, i].min(), (target.means + reach)[:, i].max(), 401) for i in (0, 1)]
    x = np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")])
    area = float(np.prod([axis[1] - axis[0] for axis in axes]))
    mass = area * np.concatenate(
        [stacked.log_prob(torch.tensor(part[None].copy())).exp()[0].numpy() for part in np.array_split(x, 40, axis=1)]
    )
    assert mass.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(x @ mass, target.mean, atol=1e-5)
    away = x - target.mean[:, None]
    np.testing.assert_allclose((away * mass) @ away.T, target.covariance, rtol=1e-5, atol=1e-5)


def test_separate_modes_are_maxima() -> None:
    """Half a width aside the density is lower by exp(-1/8), all around."""
    for name in ("grid25", "ring8", "ring8_wide"):
        target = mixture(name)
        width = math.sqrt(target.covariances[0, 0, 0])
        turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        aside = target.means[:, None] + 0.5 * width * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        peak, around = log_density(target, target.means), log_density(target, aside.reshape(-1, 2)).reshape(-1, 16)
        np.testing.assert_allclose(peak[:, None] - around, 0.125, atol=1e-6)
        expected = -math.log(target.modes * 2 * math.pi * width**2)
        np.testing.assert_allclose(peak, expected, atol=1e-6)


def test_one_dimensional_student_t_of_infinite_variance() -> None:
    """student_t_mixture is in the plane; its projection on a line is a mixture of the same degrees of freedom."""
    target = mixture("student_t_mixture")
    one = Mixture("line", target.weights, target.means[:, :1], target.covariances[:, :1, :1], df=2.0)
    stacked = StackedMixture.stack([target], torch.float64)
    at = 0.7

    def over(y: float) -> float:
        return float(stacked.log_prob(torch.tensor([[[at], [y]]], dtype=torch.float64)).exp())

    found = sum(integrate.quad(over, *ends)[0] for ends in ((-math.inf, -14), (-14, 0), (0, 14), (14, math.inf)))
    assert found == pytest.approx(float(np.exp(log_density(one, np.array([[at]])))[0]), rel=1e-6)
