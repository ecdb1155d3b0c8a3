"""The written-out gradient and the stacked networks, against a plain loop of torch modules."""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.adam import decay
from experiments.randomness import generators
from experiments.targets import Mixture
from experiments.vae import VAE, Params
from experiments.vae.data_term import LearnedNoise, data_term
from experiments.vae.likelihood import of_name
from experiments.vae.network import Layer, Stack, Widths, forward, initialise, jacobian
from experiments.vae.train import Schedule, train

F64 = torch.float64


def _stack(widths: Widths, cells: int) -> Stack:
    model = Stack.zeros(cells, widths, F64, "cpu")
    initialise(model.every_layer, generators(range(cells), "init"))
    return model


def _module(layers: list[Layer], k: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for layer in layers:
        linear = nn.Linear(layer.weight.shape[2], layer.weight.shape[1], dtype=F64)
        linear.weight.data = layer.weight[k].clone()
        linear.bias.data = layer.bias[k, :, 0].clone()
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def _reference(
    encoder: nn.Sequential,
    decoder: nn.Sequential,
    cell: dict[str, float],
    likelihood: str,
    x: Tensor,
    noise: Tensor,
) -> Tensor:
    """The textbook loop: ``x (steps, N, D)``, ``noise (steps, N, L)``; returns the noise's standard deviation."""
    log_std = torch.tensor(cell["noise_std"], dtype=F64).log().requires_grad_(likelihood == "gaussian_learned")
    networks = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam([{"params": networks}, {"params": [log_std], "betas": (0.9, 0.99)}])
    for step, (points, epsilon) in enumerate(zip(x, noise, strict=True)):
        for group in optimiser.param_groups:
            group["lr"] = cell["learning_rate"] * decay(step / len(x))
        mu, log_var = encoder(points).chunk(2, dim=1)
        decoded = decoder(mu + torch.exp(log_var / 2) * epsilon)
        if likelihood == "mse":
            data_term = ((points - decoded) ** 2).sum(dim=1).mean()
        elif likelihood == "bernoulli":
            pixels = torch.distributions.Bernoulli(logits=decoded)
            data_term = -pixels.log_prob(points).sum(dim=1).mean()
        else:
            normal = torch.distributions.Normal(decoded, log_std.exp())
            data_term = -normal.log_prob(points).sum(dim=1).mean()
        posterior = torch.distributions.Normal(mu, torch.exp(log_var / 2))
        kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean(dim=0)
        if cell["free_bits"]:
            kl = kl.clamp(min=cell["free_bits"])
        warm_up = cell["kl_warmup"] * len(x)
        ramp = min(1.0, (step + 1) / warm_up) if warm_up else 1.0
        optimiser.zero_grad()
        (data_term + cell["kl_weight"] * ramp * kl.sum()).backward()
        optimiser.step()
    return log_std.detach().exp()


@pytest.mark.parametrize("likelihood", get_args(Params.model_fields["likelihood"].annotation))
@pytest.mark.parametrize("hidden", [(), (9,), (16, 12)])
def test_training_equals_a_loop_of_modules_with_the_same_weights_and_noise(
    likelihood: str, hidden: tuple[int, ...]
) -> None:
    dim, latent, samples, steps = 3, 2, 20, 12
    cells = [
        {"learning_rate": 1e-3, "kl_weight": 0.1, "noise_std": 0.1, "kl_warmup": 0.0, "free_bits": 0.0},
        {"learning_rate": 1e-2, "kl_weight": 1.0, "noise_std": 0.5, "kl_warmup": 0.7, "free_bits": 0.0},
        {"learning_rate": 3e-2, "kl_weight": 4.0, "noise_std": 0.2, "kl_warmup": 0.2, "free_bits": 0.4},
    ]
    widths = Widths((dim, *hidden, 2 * latent), (latent, *hidden[::-1], dim))
    model = _stack(widths, len(cells))
    references = [(_module(model.encoder, k), _module(model.decoder, k)) for k in range(len(cells))]
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(len(cells), dim, steps, samples, generator=rng, dtype=F64)
    noise = torch.randn(len(cells), latent, steps, samples, generator=rng, dtype=F64)
    if likelihood == "bernoulli":
        x = (x > 0).to(F64)

    def column(name: str) -> Tensor:
        return torch.tensor([cell[name] for cell in cells], dtype=F64)

    schedule = Schedule(column("learning_rate"), column("kl_weight"), column("kl_warmup"), column("free_bits"))
    term = data_term(likelihood, column("noise_std"), dim)
    # In two chunks, as the draws come.
    train(model, widths, schedule, term, x.split(7, 2), noise.split(7, 2), steps=steps, batch_size=samples)

    for k, (encoder, decoder) in enumerate(references):
        points, epsilon = x[k].permute(1, 2, 0), noise[k].permute(1, 2, 0)
        noise_std = _reference(encoder, decoder, cells[k], likelihood, points, epsilon)
        expected = [*encoder.parameters(), *decoder.parameters()]
        mine = [part for layer in model.every_layer for part in (layer.weight[k], layer.bias[k, :, 0])]
        for one, other in zip(mine, expected, strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-10, atol=1e-10)
        if isinstance(term, LearnedNoise):
            assert abs(noise_std.item() / cells[k]["noise_std"] - 1) > 0.005
            torch.testing.assert_close(term.log_std[k].exp(), noise_std, rtol=1e-10, atol=0)


def test_the_trace_is_of_the_minibatches_before_each_step() -> None:
    widths = Widths((2, 5, 2), (1, 5, 2))
    model = _stack(widths, 2)
    encoder, decoder = _module(model.encoder, 1), _module(model.decoder, 1)
    x, noise = torch.randn(2, 2, 1, 30, dtype=F64), torch.randn(2, 1, 1, 30, dtype=F64)
    ones = torch.ones(2, dtype=F64)
    schedule = Schedule(0.1 * ones, ones, 0 * ones, 0 * ones)
    trace = train(model, widths, schedule, data_term("mse", ones, 2), [x], [noise], steps=1, batch_size=30)
    points = x[1, :, 0].T
    mu, log_var = encoder(points).detach().chunk(2, dim=1)
    square = (decoder(mu + (0.5 * log_var).exp() * noise[1, :, 0].T) - points).square().sum(dim=1).mean()
    torch.testing.assert_close(trace.error[0, 1], square.detach())
    kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).mean(dim=0)
    torch.testing.assert_close(trace.kl[0, 1], kl)


@pytest.mark.parametrize("likelihood", get_args(Params.model_fields["likelihood"].annotation))
def test_a_data_term_is_minus_the_log_density_of_what_the_decoder_generates(likelihood: str) -> None:
    rng = torch.Generator().manual_seed(2)
    decoded, noise_std = torch.randn(3, 4, 32, generator=rng, dtype=F64), torch.tensor([0.2, 1.0, 3.0], dtype=F64)
    scattered = of_name(likelihood, noise_std)
    x = scattered.sample(decoded, generators(range(3), "data"))
    term, points = data_term(likelihood, noise_std, 4), 20
    slope = term.slope(decoded, x, torch.zeros(32, dtype=F64).index_fill(0, torch.arange(points), 1 / points), points)
    loss = term.loss((slope.error / points).unsqueeze(0))[0]
    expected = -scattered.log_prob(decoded, x)[:, :points].mean(1)
    if likelihood == "mse":
        expected = (decoded - x)[..., :points].square().sum(1).mean(1)
    torch.testing.assert_close(loss, expected)


def test_initial_weights_are_those_of_torch_linear() -> None:
    widths = Widths((100, 200, 2), (1, 100))
    model = Stack.zeros(16, widths, torch.float32, "cpu")
    initialise(model.every_layer, generators(range(16), "init"))
    for layer in model.every_layer:
        bound = layer.weight.shape[2] ** -0.5
        assert layer.weight.abs().max() <= bound and layer.bias.abs().max() <= bound
        if layer.weight.numel() > 10_000:
            # Uniform on +-bound: standard deviation bound / sqrt(3), known to 3 se.
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=3 / layer.weight.numel() ** 0.5)
    assert not torch.equal(model.encoder[0].weight[0], model.encoder[0].weight[1])


@pytest.mark.parametrize("widths", [(3, 8, 7, 5), (5, 8, 7, 3), (4, 6, 4), (2, 3), (3, 2)])
def test_the_jacobian_is_that_of_autograd(widths: tuple[int, ...]) -> None:
    decoder = _stack(Widths((2, 2), widths), 2).decoder
    z = torch.randn(2, widths[0], 6, dtype=F64)
    slope = jacobian(decoder, forward(decoder, z))
    assert slope.shape == (2, 6, widths[-1], widths[0])
    for k in range(2):
        module = _module(decoder, k)
        for n in range(6):
            expected = torch.autograd.functional.jacobian(module, z[k, :, n])
            torch.testing.assert_close(slope[k, n], expected)


@pytest.mark.parametrize("kl_warmup", [0.0, 0.5])
def test_the_loss_counts_free_bits(kl_warmup: float) -> None:
    """So early no latent dimension comes to a nat: each costs one. Without free bits they cost the rate."""
    target = Mixture("pair", np.array([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.full((2, 1, 1), 0.04))
    weight, latent, steps = 1000.0, 3, 16
    settings = {"kl_weight": weight, "latent_dim": latent, "kl_warmup": kl_warmup, "dtype": "float64"}
    cells = [
        SimpleNamespace(params=Params(target="pair", steps=steps, free_bits=bits, **settings), target=target, seed=0)
        for bits in (1.0, 0.0)
    ]
    for outcome, free in zip(VAE.run_batch(cells, "cpu"), (True, False), strict=True):
        curves, at = outcome.curves, np.asarray(outcome.curve_steps)
        assert (curves["rate"] < 1).all()
        ramp = np.minimum(1, (at + 1) / (kl_warmup * steps)) if kl_warmup else np.ones(len(at))
        cost = curves["loss"] - curves["distortion"]
        np.testing.assert_allclose(cost, ramp * weight * (latent if free else curves["rate"]), rtol=1e-6, atol=1e-9)


def test_a_diverging_cell_leaves_its_batch_mates_alone() -> None:
    target = Mixture("pair", np.array([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.full((2, 1, 1), 0.04))

    def cell(seed: int, **params: object) -> SimpleNamespace:
        return SimpleNamespace(params=Params(target="pair", steps=40, **params), target=target, seed=seed)

    calm = [cell(0), cell(1)]
    wild = cell(2, learning_rate=1e9)
    alone = VAE.run_batch(calm, "cpu")
    together = VAE.run_batch([calm[0], wild, calm[1]], "cpu")
    assert together[1].status == "diverged"
    assert "step" in str(together[1].error) and "learning_rate below 1e+09" in str(together[1].error)
    assert not together[1].metrics and together[1].samples is None
    for before, after in zip(alone, (together[0], together[2]), strict=True):
        assert before.status == after.status == "ok"
        assert before.metrics == after.metrics
