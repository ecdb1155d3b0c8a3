"""The importance sampler against closed forms and quadrature over the latent space."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Bernoulli as Pixels
from torch.distributions import Distribution, Normal

from experiments.randomness import generators, normal
from experiments.vae.bound import Posterior
from experiments.vae.evidence import Guess, log_evidence
from experiments.vae.likelihood import Bernoulli, Gaussian, Likelihood
from experiments.vae.network import Layer, forward

F64 = torch.float64


def _decoder(widths: tuple[int, ...], gain: float, cells: int = 2) -> list[Layer]:
    """Random decoders; gain bends them."""
    rng = torch.Generator().manual_seed(len(widths) * 100 + int(10 * gain))
    return [
        Layer(
            gain * torch.randn(cells, out, before, generator=rng, dtype=F64) / before**0.5,
            gain * torch.randn(cells, out, 1, generator=rng, dtype=F64),
        )
        for before, out in pairwise(widths)
    ]


def _generate(decoder: list[Layer], likelihood: Likelihood, count: int) -> tuple[Tensor, Tensor]:
    rows = generators(range(len(decoder[0].weight)), "data")
    z = normal((decoder[0].weight.shape[2], count), rows, F64)
    return likelihood.sample(forward(decoder, z)[-1], rows), z


def _by_quadrature(
    decoder: list[Layer], scattered: Callable[[Tensor], Distribution], x: Tensor, per_axis: int = 0
) -> Tensor:
    """The midpoint rule on a fine grid of z in one or two dimensions."""
    latent = decoder[0].weight.shape[2]
    line = torch.linspace(-8, 8, per_axis or (40_001 if latent == 1 else 500), dtype=F64)
    grid = torch.stack(torch.meshgrid(*[line] * latent, indexing="ij")).flatten(1)
    log_prior = -0.5 * grid.square().sum(dim=0) - latent * (0.5 * math.log(2 * math.pi) - math.log(line[1] - line[0]))
    decoded = forward(decoder, grid.expand(len(x), -1, -1))[-1]
    rows = []
    for n in range(x.shape[2]):
        log_likelihood = scattered(decoded).log_prob(x[:, :, n : n + 1].expand_as(decoded))
        rows.append(torch.logsumexp(log_prior + log_likelihood.sum(dim=1), dim=1))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("guess_std", [1e-4, 1.0, 30.0])
@pytest.mark.parametrize(("latent", "dim"), [(1, 1), (2, 5), (4, 3)])
def test_a_linear_decoder_is_scored_well_whatever_the_encoder_says(latent: int, dim: int, guess_std: float) -> None:
    decoder = _decoder((latent, dim), 1.0)
    noise_std = torch.tensor([0.05, 0.7], dtype=F64)
    x, _ = _generate(decoder, Gaussian(noise_std), 300)
    nowhere = torch.full((2, latent, 300), 3.0, dtype=F64)
    guess = Guess(nowhere, nowhere, torch.full_like(nowhere, guess_std))
    estimate = log_evidence(decoder, Gaussian(noise_std), x, guess, generators([0, 1], "evaluation"))
    for k in range(2):
        weight, bias = decoder[0].weight[k], decoder[0].bias[k, :, 0]
        covariance = weight @ weight.T + noise_std[k] ** 2 * torch.eye(dim, dtype=F64)
        exact = stats.multivariate_normal(bias.numpy(), covariance.numpy()).logpdf(x[k].T.numpy())
        error = estimate[k] - torch.as_tensor(exact)
        # The Laplace half is the posterior itself, so no weight exceeds 2 and none of the 32 is far below.
        assert error.abs().max() < 0.7
        assert abs(error.mean()) < 5 * error.std() / 300**0.5 + 0.01


@pytest.mark.parametrize(("widths", "count"), [((1, 16, 16, 2), 250), ((2, 16, 2), 60), ((2, 16, 16, 1), 60)])
def test_bent_decoders_are_scored_as_by_quadrature(widths: tuple[int, ...], count: int) -> None:
    decoder = _decoder(widths, 1.3)
    noise_std = torch.tensor([0.1, 0.4], dtype=F64)
    x, z = _generate(decoder, Gaussian(noise_std), count)
    exact = _by_quadrature(decoder, lambda decoded: Normal(decoded, noise_std.view(-1, 1, 1)), x)
    # Encoders that are wrong and far too narrow, as a KL weight near 0 makes them; and a start at the truth.
    off = z + 0.3
    for start in (off, z):
        guess = Guess(start, off, torch.full_like(z, 1e-3))
        error = log_evidence(decoder, Gaussian(noise_std), x, guess, generators([0, 1], "evaluation")) - exact
        # A spread of 0.2 nats lowers the mean of the logarithm by 0.02, and is known to 0.02 from 120 points.
        assert error.mean().abs() < 0.05
        assert error.square().mean().sqrt() < 0.3


def test_decoders_in_single_precision_are_scored_as_in_double() -> None:
    double = [
        Layer(layer.weight.float().double(), layer.bias.float().double()) for layer in _decoder((2, 64, 64, 2), 1.3)
    ]
    single = [Layer(layer.weight.float(), layer.bias.float()) for layer in double]
    noise_std = torch.tensor([0.01, 0.1], dtype=F64)
    x, z = _generate(double, Gaussian(noise_std), 512)
    guess = Guess(z, z + 0.01, torch.full_like(z, 0.05))
    found = [
        log_evidence(decoder, Gaussian(noise_std), x, guess, generators([0, 1], "evaluation"))
        for decoder in (single, double)
    ]
    # Outputs are rounded at 1e-7; residuals are a few widths of the noise.
    error = (found[0] - found[1]).abs()
    assert found[0].dtype == F64
    assert (error.quantile(0.9, dim=1) < 3e-7 * 10 / noise_std).all()
    assert (error.mean(dim=1) < 1e-3).all()


@pytest.mark.parametrize("gain", [1.0, 3.0])
@pytest.mark.parametrize(("widths", "count"), [((1, 12, 20), 60), ((2, 16, 6), 40), ((2, 12), 40)])
def test_pixels_are_scored_as_by_quadrature(widths: tuple[int, ...], count: int, gain: float) -> None:
    decoder = _decoder(widths, gain)
    x, z = _generate(decoder, Bernoulli(), count)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    # Probabilities of pixels are smooth in z: no needle falls between the points of a coarse grid.
    exact = _by_quadrature(decoder, lambda decoded: Pixels(logits=decoded), x, 4001 if widths[0] == 1 else 200)
    off = z + 0.3
    for start in (off, z):
        guess = Guess(start, off, torch.full_like(z, 1e-3))
        error = log_evidence(decoder, Bernoulli(), x, guess, generators([0, 1], "evaluation")) - exact
        assert error.mean().abs() < 0.05
        assert error.square().mean().sqrt() < 0.3


def test_all_pictures_of_a_few_pixels_have_probability_one() -> None:
    decoder = _decoder((1, 9, 8), 2.0)
    pictures = torch.tensor(list(product([0.0, 1.0], repeat=8)), dtype=F64).T.expand(2, -1, -1)
    zero = torch.zeros(2, 1, 256, dtype=F64)
    rows = generators([0, 1], "evaluation")
    found = [log_evidence(decoder, Bernoulli(), pictures, Guess(zero, zero, zero + 1), rows) for _ in range(20)]
    assert torch.stack(found).exp().sum(2).mean(0).tolist() == pytest.approx([1.0, 1.0], abs=0.02)


def test_the_estimate_is_unbiased_before_the_logarithm() -> None:
    decoder = _decoder((1, 16, 16, 2), 1.3, cells=1)
    noise_std = torch.tensor([0.2], dtype=F64)
    x, z = _generate(decoder, Gaussian(noise_std), 20)
    exact = _by_quadrature(decoder, lambda decoded: Normal(decoded, noise_std.view(-1, 1, 1)), x)
    repeated = x.repeat(1, 1, 400)
    guess = Guess(*(part.repeat(1, 1, 400) for part in (z, z + 0.2, torch.full_like(z, 0.05))))
    estimate = log_evidence(decoder, Gaussian(noise_std), repeated, guess, generators([3], "evaluation"))
    ratio = (estimate.view(400, 20) - exact).exp()
    error = ratio.std(dim=0) / 20
    assert ((ratio.mean(dim=0) - 1).abs() < 4.5 * error + 1e-3).all()


def test_a_collapsed_decoder_is_scored_exactly() -> None:
    flat = [Layer(torch.zeros(1, 3, 2, dtype=F64), torch.tensor([[[1.0], [2.0], [3.0]]], dtype=F64))]
    x = torch.randn(1, 3, 50, dtype=F64)
    zero = torch.zeros(1, 2, 50, dtype=F64)
    guess = Guess(zero, zero, torch.ones_like(zero))
    estimate = log_evidence(flat, Gaussian(torch.tensor([0.5], dtype=F64)), x, guess, generators([0], "evaluation"))
    normal_log_prob = torch.distributions.Normal(flat[0].bias, 0.5).log_prob(x).sum(dim=1)
    torch.testing.assert_close(estimate, normal_log_prob, rtol=1e-12, atol=1e-12)


def test_the_closed_form_of_the_kl_is_that_of_torch() -> None:
    mean, std = torch.randn(2, 3, 40, dtype=F64), torch.rand(2, 3, 40, dtype=F64) + 0.01
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    )
    torch.testing.assert_close(Posterior(mean, std).kl, expected)
