"""Slips of public code: what each would give, computed here, beside what this project gives.

Each test names the repository, and where there is one the issue, in which the slip was found.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.experiment import Outcome
from experiments.kl_fit import KL_FIT, Params
from experiments.kl_fit.divergences import Noise, divergence
from experiments.kl_fit.families import Gaussian
from experiments.metrics.density import Evaluation, Measure, evaluate
from experiments.metrics.neighbours import precision_recall
from experiments.references import neighbour_scores
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture, named
from experiments.vae import VAE
from experiments.vae.likelihood import theta

N = 4000


def mixture(name: str) -> Mixture:
    found = named.target(name)
    assert isinstance(found, Mixture)
    return found


def judged(target: Mixture, fit: Mixture, n: int = N, seed: int = 0) -> Evaluation:
    """A fit that is a mixture, by n draws of each side."""
    p, q = (StackedMixture.stack([each], torch.float64) for each in (target, fit))
    x_p, x_q = (s.draw(n, [torch.Generator().manual_seed(seed + k)]) for k, s in enumerate((p, q)))
    return evaluate([target], *(Measure.of_draws(x, q.log_prob(x)) for x in (x_p, x_q)))[0]


def gaussian(mean: list[float], covariance: np.ndarray) -> Mixture:
    return Mixture("fit", np.ones(1), np.array([mean]), covariance[None])


def entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())


def test_a_ring_of_eight_has_eight_places() -> None:
    """poolio/unrolled_gan #7: linspace from 0 to 2 pi has both ends, which are one mode of twice the mass."""
    ring = mixture("ring8")
    angles = np.linspace(0, 2 * np.pi, 8)
    slipped = replace(ring, means=np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert len(np.unique(slipped.means.round(9), axis=0)) == 7
    assert len(np.unique(ring.means.round(9), axis=0)) == 8
    masses = np.array([2, 1, 1, 1, 1, 1, 1]) / 8
    noise = math.log(2 * math.pi * math.e * 0.01**2)
    assert (entropy(masses) + noise, math.log(8) + noise) == pytest.approx((-4.46631, -4.29302), abs=1e-5)
    assert judged(ring, ring).metrics["entropic_coverage"] == pytest.approx(1, abs=0.002)
    # From within the slip cannot be seen: of seven places eight modes are found. Of the ring only angle 0 is met.
    assert judged(slipped, slipped).metrics["modes_captured"] == 8
    assert judged(ring, slipped).metrics["modes_captured"] == 1
    doubled = replace(ring, means=ring.means[[0, 0, 1, 2, 3, 4, 5, 6]])
    found = judged(ring, doubled)
    assert found.metrics["modes_captured"] == 7
    assert found.metrics["entropic_coverage"] == pytest.approx(entropy(masses) / math.log(8), abs=0.01)
    assert entropy(masses) / math.log(8) == pytest.approx(0.9167, abs=1e-4)


def test_a_variance_is_not_a_standard_deviation() -> None:
    """fjxmlzn/PacGAN, pacgan/extensions.py: ``norm(scale=diag(variance))`` in the log-likelihood of a ring."""
    ring = mixture("ring8")
    variance = ring.covariances[0, 0, 0]
    x = ring.draws(2000)
    slipped = np.zeros(len(x))
    right = np.zeros(len(x))
    for m in ring.means:
        slipped += stats.norm(m, variance).pdf(x).prod(axis=1) / 8
        right += stats.norm(m, math.sqrt(variance)).pdf(x).prod(axis=1) / 8
    found = StackedMixture.stack([ring], torch.float64).log_prob(torch.tensor(x.T[None].copy()))[0].numpy()
    np.testing.assert_allclose(found, np.log(right), atol=1e-9)
    assert found.mean() == pytest.approx(4.293, abs=0.1)
    with np.errstate(divide="ignore"):
        assert np.log(slipped + 1e-200).mean() < -100
    # And of high quality is what lies within three deviations: of the target 1 - exp(-9 / 2), not all or nothing.
    ceiling = judged(ring, ring).metrics["high_quality_ceiling"]
    assert ceiling == pytest.approx(-math.expm1(-4.5), abs=5 * math.sqrt(0.0111 * 0.9889 / N))


def test_forward_weights_belong_to_the_points_they_are_of() -> None:
    """lollcat/fab-torch, target_distributions/gmm.py: ``test_set`` draws anew whenever it is read.

    Where log p is of one reading and log q of another, the mean of p / q is the product of two means: of a Gaussian P
    in the plane and a Q of r times its covariance, 1 + chi2 = r / (2 - 1 / r) becomes r / (2 (1 - 1 / r)).
    """
    r, target = 2.5, mixture("correlated")
    wide = gaussian([0.0, 0.0], r * target.covariances[0])
    p, q = (StackedMixture.stack([each], torch.float64) for each in (target, wide))
    readings = [p.draw(20_000, [torch.Generator().manual_seed(seed)]) for seed in (1, 2)]
    slipped = 1 / float((p.log_prob(readings[0]) - q.log_prob(readings[1])).exp().mean())
    assert slipped == pytest.approx(2 * (1 - 1 / r) / r, rel=0.05)
    (found,) = evaluate([target], *(Measure.of_draws(x, q.log_prob(x)) for x in readings))
    assert found.metrics["ess_forward"] == pytest.approx((2 - 1 / r) / r, rel=0.02)
    assert slipped == pytest.approx(0.48, abs=0.03) and found.metrics["ess_forward"] == pytest.approx(0.64, abs=0.02)
    # Even of the exact fit, which has weights of 1, it says that half of the draws and more are lost.
    for m in (judged(target, target).metrics, judged(mixture("grid25"), mixture("grid25")).metrics):
        assert (m["ess_forward"], m["ess_reverse"]) == pytest.approx((1, 1), abs=1e-9)
    assert 1 / float((p.log_prob(readings[0]) - p.log_prob(readings[1])).exp().mean()) < 0.5


def test_precision_and_recall_know_which_sample_is_the_reference() -> None:
    """msmsajjadi/precision-recall-distributions: its README passes the real sample where the code takes the other."""
    grid, fit = mixture("grid25"), mixture("grid25")
    half = replace(fit, weights=np.full(12, 1 / 12), means=fit.means[:12], covariances=fit.covariances[:12])
    real, generated = grid.draws(2500), half.draws(2500)
    precision, recall = precision_recall(real, generated)
    assert (precision, recall) == pytest.approx((0.99, 0.48), abs=0.02)
    assert precision_recall(generated, real) == (recall, precision)
    m = judged(grid, half).metrics
    assert m["coverage"] < 0.55 and m["sharpness"] > 0.97


def test_a_sample_contains_itself_even_where_all_points_coincide() -> None:
    """clovaai/generative-evaluation-prdc #7: with ``<`` for ``<=`` identical constant features score 0."""
    ones = np.ones((64, 16))
    radius = np.sort(np.linalg.norm(ones[:, None] - ones[None], axis=2), axis=1)[:, 5]
    assert (np.linalg.norm(ones[:1] - ones, axis=1) < radius).mean() == 0.0
    assert precision_recall(ones, ones) == (1.0, 1.0)
    lattice = np.stack([g.ravel() for g in np.meshgrid(np.arange(8.0), np.arange(8.0))], axis=1)
    # Neighbours at exactly the radius are in the ball as well.
    assert precision_recall(lattice, np.add(lattice, [1.0, 0.0]), k=3) == (1.0, 1.0)


def by_all_distances(reference: np.ndarray, samples: np.ndarray, k: int = 5) -> float:
    """Precision: balls to the k-th neighbour, but to the nearest point at a distance where that is 0."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))

    own = distances(reference, reference)
    radii = np.sort(own, axis=1)[:, k]
    nearest = np.where(own > 0, own, np.inf).min(axis=1)
    radii = np.where(radii > 0, radii, nearest) * (1 + 1e-12)
    return float((distances(samples, reference) <= radii).any(axis=1).mean())


def tied(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A reference with ties, and samples."""
    rng = np.random.default_rng(3)
    if kind == "rounded":
        return rng.normal(50, 10, (600, 1)).round(), rng.normal(50, 10, (600, 1))
    if kind == "rounded in a plane":
        return rng.normal(0, 2, (600, 2)).round(), rng.normal(0, 3, (600, 2))
    if kind == "repeated rows":
        return np.repeat(rng.normal(size=(12, 2)), 20, axis=0), rng.normal(size=(240, 2))
    if kind == "images":
        inked = rng.uniform(size=(200, 9)) < np.array([0.0] * 6 + [0.5] * 3)  # of eight images
        return inked.astype(float), (rng.uniform(size=(200, 9)) < 0.2).astype(float)
    return rng.normal(size=(300, 2)), rng.normal(size=(300, 2))


@pytest.mark.parametrize("kind", ["rounded", "rounded in a plane", "repeated rows", "images", "without ties"])
def test_points_that_tie_have_balls_of_some_width(kind: str) -> None:
    """clovaai/generative-evaluation-prdc: where k + 1 points tie the radius is 0, and no other point is ever near."""
    reference, samples = tied(kind)
    precision, recall = precision_recall(reference, samples)
    assert precision == by_all_distances(reference, samples)
    assert (precision > 0.4) and (recall > 0.05)


@pytest.mark.parametrize(("n", "m", "k"), [(40, 90, 5), (90, 40, 3)])
def test_density_and_coverage_count_what_plain_loops_do(n: int, m: int, k: int) -> None:
    """Naeem et al. 2020, of n reference points and m samples: the one is divided by k m, the other by n."""
    rng = np.random.default_rng(n)
    reference, samples = rng.normal(size=(n, 2)), rng.normal(0.4, 0.7, size=(m, 2))
    pairs, covered = 0, 0
    for own in reference:
        radius = sorted(math.dist(own, other) for other in reference)[k]  # the first is its own
        inside = sum(math.dist(own, other) <= radius for other in samples)
        pairs, covered = pairs + inside, covered + (inside > 0)
    found = neighbour_scores(reference, samples, k)
    assert found["knn_density"] == pytest.approx(pairs / (k * m), rel=1e-12)
    assert found["knn_coverage"] == pytest.approx(covered / n, rel=1e-12)
    assert (found["knn_precision"], found["knn_recall"]) == precision_recall(reference, samples, k)
    assert 0.2 < found["knn_coverage"] < 1


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_rounding_hardly_moves_precision(dim: int, spread: float) -> None:
    """Of 2000 normal points on a lattice of a fifth of their sd, beside the same points before."""
    rng = np.random.default_rng(0)
    x, samples = rng.normal(50, 10, (2000, dim)), rng.normal(50, 10 * spread, (2000, dim))
    exact, rounded = (precision_recall(points, samples)[0] for points in (x, np.round(x / 2) * 2))
    assert rounded == pytest.approx(exact, abs=0.02)


def test_samples_that_tie_are_a_collapse() -> None:
    """Half of them at each of two points: they cover these, not what lies between."""
    reference = np.linspace(-1, 1, 201)[:, None]
    assert precision_recall(reference, np.repeat([[-1.0], [1.0]], 100, axis=0)) == (1.0, 2 / 201)


def test_forward_kl_is_not_a_cross_entropy() -> None:
    """VincentStimper/normalizing-flows #29, #44, #60: ``forward_kld`` is -E log q, and so may be negative."""
    ring = mixture("ring8")
    own = judged(ring, ring).metrics
    slipped = -float(StackedMixture.stack([ring], torch.float64).log_prob(torch.tensor(ring.draws(N).T[None])).mean())
    assert slipped == pytest.approx(-4.293, abs=0.1)
    assert (own["forward_kl"], own["reverse_kl"]) == pytest.approx((0, 0), abs=1e-9)
    params = Params(target="ring8", divergence="forward_kl", steps=40, samples=64)
    (found,) = KL_FIT.run_batch([SimpleNamespace(params=params, target=ring, seed=0)], "cpu")
    # The best Gaussian has E[x^2] = 0.5001: ln(2 pi e 0.5001) - H.
    best = math.log(2 * math.pi * math.e * 0.5001) + 4.29302
    assert best == pytest.approx(6.437952, abs=1e-5)
    assert found.metrics["forward_kl"] > best - 4 * found.metrics["forward_kl_se"]
    assert found.metrics["optimum_value"] == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_the_limits_of_alpha_have_a_gradient(alpha: float) -> None:
    """VincentStimper/normalizing-flows, core.py: at its default alpha = 1 the loss is sign(0) times something, 0."""
    target = mixture("bimodal_close")
    stack, noise = StackedMixture.stack([target], torch.float64), torch.Generator().manual_seed(0)
    normal = torch.randn(1, 1, 256, generator=noise, dtype=torch.float64)
    uniform = torch.rand(1, 256, generator=noise, dtype=torch.float64)
    losses, gradients = [], []
    for chosen in ({"divergence": "alpha", "alpha": alpha}, {"divergence": f"{'forward' if alpha else 'reverse'}_kl"}):
        at = torch.tensor([[0.5, 0.3]], dtype=torch.float64)
        loss, gradient = divergence([Params(target=target.name, **chosen)], at).loss_and_gradient(
            stack, Gaussian("full", 1), at, Noise(normal, 256, uniform), whole=True
        )
        losses.append(float(loss))
        gradients.append(gradient)
    assert losses[0] == losses[1] > 0
    assert torch.equal(*gradients) and gradients[0].abs().min() > 1e-3
    # sign(alpha - 1) logsumexp(alpha log w), w = p / q at draws of Q: its gradient is 0 at both ends.
    at = torch.tensor([[0.5, 0.3]], dtype=torch.float64, requires_grad=True)
    x = Gaussian("full", 1).rsample(at, normal)
    log_w = stack.log_prob(x) - Gaussian("full", 1).log_prob(at, x)
    slipped = np.sign(alpha - 1) * torch.logsumexp(alpha * log_w, dim=1)
    assert torch.autograd.grad(slipped.sum(), at)[0].abs().max() < 1e-12


def vaes(target: Mixture, settings: list[dict[str, Any]], **fixed: Any) -> list[Outcome]:
    made = [VAE.params(target=target.name, encoder="linear", decoder="linear", **fixed, **own) for own in settings]
    outcomes = VAE.run_batch([SimpleNamespace(params=params, target=target, seed=0) for params in made], "cpu")
    assert all(outcome.status == "ok" for outcome in outcomes)
    return outcomes


def test_the_vaes_likelihoods_have_their_sign_and_their_variance() -> None:
    """clementchadebec/benchmark_VAE, vae_model.py: ``get_nll`` is the mean of log p, of a decoder of fixed variance."""
    target = gaussian([0.0, 0.0], np.array([[1.0, 0.3], [0.3, 0.5]]))
    (found,) = vaes(target, [{}], noise_std=0.3, latent_dim=2, steps=600, learning_rate=0.05)
    m, s2 = found.metrics, 0.3**2
    exact = 0.5 * math.log((2 * math.pi * math.e) ** 2 * np.linalg.det(target.covariances[0]))
    assert m["nll"] == pytest.approx(exact, abs=4 * m["nll_se"] + 0.03)
    assert m["bound_gap"] == pytest.approx(-m["elbo"] - m["nll"], abs=1e-5)
    assert m["bound_gap"] > -4 * m["bound_gap_se"] and m["forward_kl"] > -4 * m["forward_kl_se"]
    square = m["reconstruction_mse"]
    assert m["distortion"] == pytest.approx(0.5 * square / s2 + math.log(2 * math.pi * s2), rel=1e-4)
    slipped = square + math.log(2 * math.pi)
    assert abs(slipped - m["distortion"]) > 1


def test_the_kl_term_is_there_and_its_weight_is_used() -> None:
    """AlexanderVNikitin/tsgm #69: beta is stored and not used; facebookresearch/irmae #1: there is no KL term."""
    target = gaussian([0.0, 0.0], np.diag([1.0, 0.25]))
    settings = [{"kl_weight": weight} for weight in (0.0, 1.0, 4.5)]
    without, plain, heavy = vaes(target, settings, noise_std=0.5, latent_dim=2, steps=600, learning_rate=0.02)
    rates = [outcome.metrics["rate"] for outcome in (without, plain, heavy)]
    # Of one latent dimension in use 1/2 ln(1 / 0.25), and at 4.5 nothing: 4.5 * 0.25 is more than every variance.
    assert rates[1:] == pytest.approx([math.log(2), 0.0], abs=0.06)
    assert rates[0] > 1.5 and without.metrics["reconstruction_mse"] < plain.metrics["reconstruction_mse"]
    for weight, outcome in zip((0.0, 1.0, 4.5), (without, plain, heavy), strict=True):
        m = outcome.metrics
        assert m["objective"] == pytest.approx(m["distortion"] + weight * m["rate"], rel=1e-6)
        assert m["elbo"] == pytest.approx(-m["distortion"] - m["rate"], rel=1e-6)


def test_errors_are_sums_over_dimensions_and_theta_says_what_a_weight_means() -> None:
    """AntixK/PyTorch-VAE #11, #23, #35, #40, #56: a mean over D dimensions plus w KL is a theta of w D / 2."""
    dim, weight = 64 * 64 * 3, 0.00025
    assert theta("mse", weight * dim, 1.0) == pytest.approx(0.5 * weight * dim) == pytest.approx(1.536)
    assert (theta("mse", 1.6, 1.0), theta("gaussian", 0.8, 1.0)) == pytest.approx((0.8, 0.8))
    # Four equal variances of 1: at theta 0.8 nothing collapses; of a mean theta would be 3.2, and all would.
    target = gaussian([0.0] * 4, np.eye(4))
    (found,) = vaes(target, [{}], likelihood="mse", kl_weight=1.6, latent_dim=4, steps=600, learning_rate=0.05)
    assert found.metrics["active_units"] == 4
    assert found.metrics["reconstruction_mse"] == pytest.approx(4 * 0.8, abs=0.15)
    assert found.metrics["theta"] == pytest.approx(0.8)
    assert 0.5 * 1.6 * 4 > 1


@pytest.mark.parametrize("name", [n for n in named.NAMES if isinstance(named.target(n), Mixture)])
def test_entropic_coverage_is_there_for_every_mixture(name: str) -> None:
    """DenisBless/variational_sampling_methods, gaussian_mixture1d.yaml: ``has_entropy: False``, and no column."""
    target = mixture(name)
    found = judged(target, target, n=500).metrics
    if target.modes == 1:
        assert math.isnan(found["entropic_coverage"])  # ln 1 is the scale
        return
    # Of the masses where a component's own density is the highest, counted by scipy.
    x = target.draws(2000)
    if target.df is None:
        parts = [stats.multivariate_normal(m, s) for m, s in zip(target.means, target.covariances, strict=True)]
    else:
        shapes = zip(target.means, target.covariances, strict=True)
        parts = [stats.multivariate_t(m, s, df=target.df) for m, s in shapes]
    owner = np.argmax([part.logpdf(x) for part in parts], axis=0)
    shares = np.bincount(owner, minlength=target.modes) / len(x)
    expected = entropy(shares[shares > 0]) / math.log(target.modes)
    bias = target.modes / (2 * 500 * math.log(target.modes))
    assert found["entropic_coverage"] == pytest.approx(expected, abs=bias + 5 * found["entropic_coverage_se"] + 0.01)
