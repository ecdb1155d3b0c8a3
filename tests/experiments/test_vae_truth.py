"""Trained VAEs against what theory says they must become."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.experiment import Outcome
from experiments.randomness import generators
from experiments.targets import Mixture, Points
from experiments.vae import VAE, Params
from experiments.vae.bound import Posterior, bound_metrics
from experiments.vae.data import Views, coordinates
from experiments.vae.likelihood import Gaussian
from experiments.vae.network import Layer


def _cell(target: Mixture | Points, seed: int = 0, **params: object) -> SimpleNamespace:
    made = Params(target=target.name, **params)
    VAE.check(made, target)
    return SimpleNamespace(params=made, target=target, seed=seed)


def _run(*cells: SimpleNamespace) -> list[Outcome]:
    outcomes = VAE.run_batch(cells, "cpu")
    assert [outcome.status for outcome in outcomes] == ["ok"] * len(cells)
    return outcomes


def _gaussian(variances: np.ndarray, rng: np.random.Generator) -> Mixture:
    """Of that spectrum, in random directions and at a random place."""
    dim = len(variances)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    covariance = (turn * variances) @ turn.T
    return Mixture("spectrum", np.ones(1), rng.normal(size=(1, dim)), 0.5 * (covariance + covariance.T)[None])


@dataclass(frozen=True)
class WaterFilling:
    """The optimum of a linear beta-VAE: reverse water-filling at theta = beta s^2 (Lucas et al. 2019)."""

    variances: np.ndarray
    noise_variance: float
    kl_weight: float
    latent_dim: int

    def expected(self) -> dict[str, float]:
        v, s2, dim = np.sort(self.variances)[::-1], self.noise_variance, len(self.variances)
        theta = self.kl_weight * s2
        active = (v > theta) & (np.arange(dim) < self.latent_dim)
        rate = 0.5 * np.log(v[active] / theta).sum()
        error = theta * active.sum() + v[~active].sum()
        generated = np.where(active, v - (self.kl_weight - 1) * s2, s2)
        distortion = 0.5 * error / s2 + 0.5 * dim * np.log(2 * np.pi * s2)
        nll = 0.5 * (np.log(2 * np.pi * generated) + v / generated).sum()
        ratio = v / generated
        return {
            "rate": rate,
            "distortion": distortion,
            "reconstruction_mse": error,
            "elbo": -rate - distortion,
            "nll": nll,
            "bound_gap": rate + distortion - nll,
            "objective": distortion + self.kl_weight * rate,
            "forward_kl": 0.5 * (ratio - 1 - np.log(ratio)).sum(),
            "reverse_kl": 0.5 * (1 / ratio - 1 + np.log(ratio)).sum(),
            "entropy_gap": -0.5 * np.log(ratio).sum(),
        }

    @property
    def active_units(self) -> int:
        v = np.sort(self.variances)[::-1]
        return int((v[: self.latent_dim] > self.kl_weight * self.noise_variance / 0.99).sum())


@pytest.mark.parametrize("seed", range(3))
def test_linear_vaes_reach_water_filling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dim, latent = int(rng.integers(2, 6)), int(rng.integers(1, 5))
    variances = np.exp(rng.uniform(np.log(0.2), np.log(4.0), dim))
    target, noise_variance = _gaussian(variances, rng), float(rng.uniform(0.2, 0.5))
    weights = [0.4, 1.0, float(rng.uniform(1.5, 4.0))]
    cells = [
        _cell(
            target,
            encoder="linear",
            decoder="linear",
            latent_dim=latent,
            kl_weight=weight,
            noise_std=noise_variance**0.5,
            learning_rate=0.02,
            steps=3000,
        )
        for weight in weights
    ]
    for cell, outcome in zip(cells, _run(*cells), strict=True):
        truth = WaterFilling(variances, noise_variance, cell.params.kl_weight, latent)
        for name, value in truth.expected().items():
            # 4 standard errors of the 1024 test points, and 0.02 for what training leaves.
            error = 4 * outcome.metrics[f"{name}_se"] + 0.02 * (1 + abs(value) * (name == "reconstruction_mse"))
            assert outcome.metrics[name] == pytest.approx(value, abs=error), (cell.params.kl_weight, name)
        assert outcome.metrics["active_units"] == truth.active_units
        assert outcome.metrics["theta"] == pytest.approx(cell.params.kl_weight * noise_variance)
        assert outcome.metrics["bound_gap"] > -4 * outcome.metrics["bound_gap_se"] - 0.01


def test_the_published_spectrum() -> None:
    """Spectrum (4, 2, 1, .5, .25), s^2 = .4, five latent dimensions, beta = 2."""
    truth = WaterFilling(np.array([4, 2, 1, 0.5, 0.25]), 0.4, 2.0, 5).expected()
    assert [truth["rate"], truth["reconstruction_mse"], truth["nll"], -truth["elbo"]] == pytest.approx(
        [1.37444, 3.15, 7.24985, 7.61590], abs=1e-5
    )


def test_a_unit_collapses_where_the_kl_weight_passes_its_variance_over_the_noise() -> None:
    variances, noise_std = np.array([1.0, 0.25]), 0.5
    target = _gaussian(variances, np.random.default_rng(5))
    linear = {"encoder": "linear", "decoder": "linear", "noise_std": noise_std, "learning_rate": 0.02}
    weights = {0.8: 2, 1.3: 1, 3.5: 1, 4.5: 0}  # thresholds at l / s^2 = 4 and 1
    outcomes = _run(*(_cell(target, kl_weight=weight, **linear) for weight in weights))
    assert [outcome.metrics["active_units"] for outcome in outcomes] == list(weights.values())
    assert outcomes[-1].metrics["rate"] == pytest.approx(0.0, abs=1e-3)
    assert outcomes[-1].metrics["nll"] == pytest.approx(-outcomes[-1].metrics["elbo"], abs=1e-2)


def test_the_mse_form_is_a_gaussian_vae_of_the_same_theta() -> None:
    variances = np.array([2.0, 0.7, 0.1])
    target = _gaussian(variances, np.random.default_rng(6))
    linear = {
        "encoder": "linear",
        "decoder": "linear",
        "noise_std": 0.5,
        "learning_rate": 0.02,
        "latent_dim": 3,
    }
    (article,) = _run(_cell(target, likelihood="mse", kl_weight=0.6, **linear))
    (gaussian,) = _run(_cell(target, likelihood="gaussian", kl_weight=1.2, **linear))
    assert article.metrics["theta"] == pytest.approx(gaussian.metrics["theta"]) == pytest.approx(0.3)
    for name in ("rate", "distortion", "reconstruction_mse", "nll", "forward_kl"):
        assert article.metrics[name] == pytest.approx(gaussian.metrics[name], abs=0.02), name
    squared = article.metrics["reconstruction_mse"] + 0.6 * article.metrics["rate"]
    assert article.metrics["objective"] == pytest.approx(squared, rel=1e-9)


def _learned_noise(variances: np.ndarray, kl_weight: float, latent_dim: int) -> tuple[float, int]:
    """Where the squared error of a dimension is s^2 with the units that are active at that s, and how many these are.

    k active units leave k beta s^2 + (what the others hold) = D s^2; of the solutions that do not contradict
    themselves, the one of least loss.
    """
    v, dim = np.sort(variances)[::-1], len(variances)
    found = []
    for k in range(min(latent_dim, dim) + 1):
        if k * kl_weight >= dim:
            break
        s2 = v[k:].sum() / (dim - k * kl_weight)
        if (v[:k] > kl_weight * s2).all():
            filled = WaterFilling(v, s2, kl_weight, k)
            found.append((filled.expected()["objective"], s2, k))
    _, s2, k = min(found)
    return s2, k


def test_the_closed_form_of_learned_noise_is_pca_s_and_is_least() -> None:
    variances = np.array([4.0, 2.0, 1.0, 0.5, 0.25])
    s2, active = _learned_noise(variances, 1.0, 2)
    assert (s2, active) == (pytest.approx(1.75 / 3), 2)  # the mean of what is left out (Tipping and Bishop 1999)
    rng = np.random.default_rng(11)
    for _ in range(20):
        v, beta, latent = rng.gamma(1.0, size=6), float(rng.uniform(0.3, 2.5)), int(rng.integers(1, 4))
        s2, _ = _learned_noise(v, beta, latent)
        at = [WaterFilling(v, s2 * factor, beta, latent).expected()["objective"] for factor in (0.98, 1.0, 1.02)]
        assert at[1] < min(at[0], at[2])


@pytest.mark.parametrize("seed", range(3))
def test_linear_vaes_learn_the_noise_that_pca_leaves(seed: int) -> None:
    rng = np.random.default_rng(300 + seed)
    variances = np.exp(rng.uniform(-1.5, 1.5, size=5))
    target = _gaussian(variances, rng)
    cells = [
        _cell(
            target,
            seed=seed,
            likelihood="gaussian_learned",
            encoder="linear",
            decoder="linear",
            latent_dim=3,
            kl_weight=beta,
            noise_std=start,
            learning_rate=0.02,
            steps=3000,
        )
        for beta, start in ((1.0, 0.1), (1.0, 1.5), (0.5, 0.5), (1.4, 0.3))
    ]
    for cell, outcome in zip(cells, _run(*cells), strict=True):
        beta = cell.params.kl_weight
        s2, _ = _learned_noise(variances, beta, 3)
        expected = WaterFilling(variances, s2, beta, 3).expected()
        m = outcome.metrics
        # Minibatches of 128 points of 5 dimensions move it by a percent.
        assert m["learned_noise_std"] == pytest.approx(s2**0.5, rel=0.02)
        assert m["theta"] == pytest.approx(beta * m["learned_noise_std"] ** 2)
        for name in ("reconstruction_mse", "objective", "rate", "distortion", "nll"):
            assert m[name] == pytest.approx(expected[name], abs=4 * m[f"{name}_se"] + 0.02), name
        assert outcome.curves["loss"][-1] == pytest.approx(expected["objective"], abs=0.5)


def _pictures(rng: np.random.Generator, count: int) -> Points:
    """Two glyphs of 12 pixels, in the ratio 3 to 1, each pixel flipped with probability 0.1."""
    glyphs = np.array([[1, 1, 1, 0, 0, 0] * 2, [0, 0, 1, 1, 0, 1] * 2])
    chosen = glyphs[(rng.uniform(size=count) < 0.25).astype(int)]
    values = np.abs(chosen - (rng.uniform(size=chosen.shape) < 0.1)).astype(float)
    return Points("glyphs", values, tuple(f"p{j}" for j in range(12)))


def test_pixels_that_the_latents_tell_nothing_of_cost_their_own_entropies() -> None:
    target = _pictures(np.random.default_rng(1), 4000)
    (outcome,) = _run(_cell(target, likelihood="bernoulli", kl_weight=50.0, hidden=(16,), learning_rate=0.02))
    p, m = target.values.mean(axis=0), outcome.metrics
    entropy = stats.bernoulli(p).entropy().sum()
    assert m["active_units"] == 0 and m["rate"] == pytest.approx(0.0, abs=0.01)
    for name in ("nll", "distortion", "objective"):
        assert m[name] == pytest.approx(entropy, abs=4 * m[f"{name}_se"] + 0.01)
    assert m["reconstruction_mse"] == pytest.approx((p * (1 - p)).sum(), abs=4 * m["reconstruction_mse_se"] + 0.01)
    assert outcome.curves["distortion"][-1] == pytest.approx(entropy, abs=0.8)


def test_pixels_are_learned_to_nearly_their_entropy() -> None:
    rng = np.random.default_rng(2)
    target = _pictures(rng, 6000)
    flips, glyphs = stats.bernoulli(0.1), np.array([[1, 1, 1, 0, 0, 0] * 2, [0, 0, 1, 1, 0, 1] * 2])
    flipped = target.values[:, None] != glyphs
    log_p = np.log(np.exp(flips.logpmf(flipped).sum(axis=2)) @ np.array([0.75, 0.25]))
    cells = [
        _cell(target, likelihood="bernoulli", latent_dim=2, hidden=(32, 32), learning_rate=0.005, sample=sample)
        for sample in ("noisy", "mean")
    ]
    noisy, mean = _run(cells[0])[0], _run(cells[1])[0]
    gap = noisy.metrics["nll"] + log_p.mean()
    assert -4 * noisy.metrics["nll_se"] < gap < 0.15
    assert noisy.metrics["nll"] <= -noisy.metrics["elbo"] + 4 * noisy.metrics["bound_gap_se"]
    assert set(np.unique(noisy.samples)) == {0.0, 1.0}
    assert mean.samples is not None and ((mean.samples > 0) & (mean.samples < 1)).all()
    p = target.values.mean(axis=0)
    for outcome in (noisy, mean):
        assert outcome.samples is not None
        assert outcome.samples.mean(axis=0) == pytest.approx(p, abs=5 * (0.25 / 300) ** 0.5)


def test_grey_pixels_are_drawn_as_0_or_1() -> None:
    """A grey value of g is 1 with probability g: with nothing in the latents, its entropy is that of its mean."""
    grey = Points("grey", np.tile([[0.5, 0.1, 1.0, 0.0]], (400, 1)), ("a", "b", "c", "d"))
    (outcome,) = _run(_cell(grey, likelihood="bernoulli", kl_weight=50.0, hidden=(8,), learning_rate=0.02, steps=3000))
    m = outcome.metrics
    entropy = stats.bernoulli([0.5, 0.1]).entropy().sum()
    assert m["nll"] == pytest.approx(entropy, abs=4 * m["nll_se"] + 0.03)
    assert m["reconstruction_mse"] == pytest.approx(0.25 + 0.09, abs=4 * m["reconstruction_mse_se"] + 0.01)


def test_free_bits_keep_a_unit_that_would_collapse() -> None:
    target = _gaussian(np.array([1.0, 0.2]), np.random.default_rng(7))
    linear = {
        "encoder": "linear",
        "decoder": "linear",
        "noise_std": 1.0,
        "kl_weight": 2.0,
        "learning_rate": 0.02,
    }
    without, with_bits = _run(_cell(target, **linear), _cell(target, free_bits=0.5, **linear))
    assert without.metrics["rate"] < 0.01
    assert with_bits.metrics["rate"] == pytest.approx(1.0, abs=0.1)
    assert with_bits.metrics["objective"] >= with_bits.metrics["distortion"] + 2.0 * 1.0 - 1e-9


def test_the_objective_s_error_is_of_the_dimensions_above_their_free_bits() -> None:
    target = Mixture("line", np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))
    cells = [_cell(target, noise_std=1.0, kl_weight=2.0, free_bits=bits) for bits in (0.0, 0.5, 50.0)]
    rng = np.random.default_rng(0)
    x, mean = (torch.as_tensor(rng.normal(size=(1, rows, 400))).expand(3, -1, -1) for rows in (1, 2))
    posterior = Posterior(mean * torch.tensor([[[2.0], [0.2]]]), torch.ones_like(mean))
    decoder = [Layer(x.new_zeros(3, 1, 2), x.new_zeros(3, 1, 1))]
    found = bound_metrics(
        *(Views.of(cells), decoder, Gaussian(torch.ones(3, dtype=x.dtype)), x, posterior, x[:, 0], 400),
        generators([0, 0, 0], "evaluation"),
    )
    kl = 0.5 * posterior.mean[0].square().numpy()
    distortion = -stats.norm.logpdf(x[0, 0].numpy())
    for metrics, paid in zip(found, (kl[0] + kl[1], kl[0] + 0.5, 2 * 50.0), strict=True):
        values = distortion + 2.0 * paid
        assert metrics["objective"] == pytest.approx(values.mean(), rel=1e-12)
        assert metrics["objective_se"] == pytest.approx(values.std(ddof=1) / 20, rel=1e-12)


PLAYTIME = Mixture(
    "minutes",
    np.array([0.7, 0.3]),
    np.array([[30.0, 1.0], [240.0, 5.0]]),
    np.array([np.diag([100.0, 0.09]), np.diag([2500.0, 1.0])]),
)


def test_standardised_training_reports_in_the_data_s_own_units() -> None:
    """The same numbers as for data standardised by hand, moved by the Jacobian."""
    mean, sd = PLAYTIME.mean, np.sqrt(np.diag(PLAYTIME.covariance))
    by_hand = Mixture(
        "standard", PLAYTIME.weights, (PLAYTIME.means - mean) / sd, PLAYTIME.covariances / np.outer(sd, sd)
    )
    params = {"steps": 60, "dtype": "float64", "noise_std": 0.2, "hidden": (16,)}
    (own,) = _run(_cell(PLAYTIME, standardise=True, **params))
    (standard,) = _run(_cell(by_hand, **params))
    nats = float(np.log(sd).sum())
    for name, jacobian in {"elbo": -nats, "nll": nats, "distortion": nats, "objective": nats}.items():
        assert own.metrics[name] == pytest.approx(standard.metrics[name] + jacobian, abs=1e-6), name
    for name in (
        "rate",
        "bound_gap",
        "forward_kl",
        "reverse_kl",
        "coverage",
        "sharpness",
        "log_width",
        "entropy_gap",
    ):
        assert own.metrics[name] == pytest.approx(standard.metrics[name], abs=1e-6, nan_ok=True), name
    assert own.samples is not None and standard.samples is not None
    np.testing.assert_allclose(own.samples, mean + sd * standard.samples, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(own.curves["loss"], standard.curves["loss"] + nats, rtol=1e-6)
    assert own.metrics["reconstruction_mse"] > standard.metrics["reconstruction_mse"]


def test_forward_kl_is_nll_minus_the_entropy_of_the_target() -> None:
    (outcome,) = _run(_cell(_gaussian(np.array([1.5, 0.4]), np.random.default_rng(8)), steps=300, noise_std=0.4))
    entropy = 0.5 * (2 * np.log(2 * np.pi * np.e) + np.log(1.5 * 0.4))
    forward = outcome.metrics["nll"] - entropy
    assert forward == pytest.approx(outcome.metrics["forward_kl"], abs=4 * outcome.metrics["nll_se"])


def test_points_are_learned_from_a_part_and_scored_on_the_rest() -> None:
    rng = np.random.default_rng(9)
    values = np.concatenate(
        [rng.normal([2.0, 55.0], [0.3, 6.0], (150, 2)), rng.normal([4.3, 80.0], [0.4, 6.0], (250, 2))]
    )
    points = Points("geyser", values, ("minutes", "waiting"))
    params = {
        "standardise": True,
        "noise_std": 0.35,
        "steps": 1000,
        "latent_dim": 1,
        "learning_rate": 5e-3,
        "hidden": (32,),
    }
    (outcome,) = _run(_cell(points, train_size=300, **params))
    assert outcome.labels == {"coverage_method": "knn", "test_points": "held_out"}
    assert outcome.metrics["coverage"] > 0.85 and outcome.metrics["sharpness"] > 0.85
    # In minutes, and near the entropy of the two clusters that the points were drawn from.
    weights, spreads = np.array([0.375, 0.625]), np.array([0.3 * 6.0, 0.4 * 6.0])
    entropy = float((weights * (np.log(2 * np.pi * np.e * spreads) - np.log(weights))).sum())
    assert outcome.metrics["nll"] == pytest.approx(entropy, abs=0.35)
    assert "forward_kl" not in outcome.metrics and not outcome.modes
    assert outcome.samples is not None
    assert abs(outcome.samples.mean(axis=0) - values.mean(axis=0)) @ [1 / 1.2, 1 / 13.0] < 0.5


def test_coordinates_leave_a_constant_column_alone() -> None:
    found = coordinates(Points("flat", np.array([[1.0, 2.0], [3.0, 2.0]]), ("x", "y")), standardise=True)
    assert found.scale.tolist() == [1.0, 1.0] and found.shift.tolist() == [2.0, 2.0]


def test_decoder_means_are_scored_by_neighbours_and_by_the_target_s_modes() -> None:
    ring = np.stack([np.cos(np.arange(4) * np.pi / 2), np.sin(np.arange(4) * np.pi / 2)], axis=1)
    target = Mixture("ring4", np.full(4, 0.25), ring, np.tile(0.01 * np.eye(2), (4, 1, 1)))
    noisy, mean = (
        _run(_cell(target, sample=sample, steps=400, hidden=(32,), kl_weight=0.5))[0] for sample in ("noisy", "mean")
    )
    assert (noisy.labels["coverage_method"], mean.labels["coverage_method"]) == ("density", "knn")
    assert mean.metrics["elbo"] == noisy.metrics["elbo"]  # the same model
    assert mean.metrics["high_quality"] > noisy.metrics["high_quality"]
    assert "forward_kl" in noisy.metrics and "forward_kl" not in mean.metrics
    assert mean.metrics["modes_total"] == 4.0
