r"""The density of what a VAE generates, by importance sampling.

.. math:: \log q(x) = \log \int N(z; 0, I) \, N(x; \hat x(z), s^2 I) \, dz
          \approx \log \frac1M \sum_m \frac{p(x, z_m)}{r(z_m | x)}, \qquad z_m \sim r

(Burda et al. 2016, https://arxiv.org/abs/1509.00519). The encoder alone is a poor proposal: a small KL weight
makes it far narrower than the posterior, and the weights' variance infinite. So r is a defensive mixture
(Hesterberg 1995; Owen and Zhou 2000, doi:10.1080/01621459.2000.10473909) of

* the Laplace approximation at a mode that Gauss-Newton steps reach, from the best of a guess and ``BANK``
  draws of the prior: the posterior itself where the decoder is linear, and no weight is then above 2 q(x);
* the encoder's posterior;
* the prior, which bounds every weight by the likelihood.

The draws are divided among the three in fixed shares, and each is weighted by the whole mixture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.randomness import normal
from experiments.vae.cost import COLUMNS, MODES
from experiments.vae.likelihood import Likelihood
from experiments.vae.network import Layer, forward, jacobian, output, padded_columns

EACH = 8  # draws of each of the Laplace approximations, of which each posterior has MODES
ENCODER, PRIOR = 8, 8  # draws
DRAWS = MODES * EACH + ENCODER + PRIOR
NEWTON_STEPS = 2
BANK = 256


@dataclass(frozen=True)
class Guess:
    """Where posteriors may lie: a start for the search of a mode, the encoder's Gaussian; ``(K, L, N)``."""

    start: Tensor
    mean: Tensor
    std: Tensor


def log_evidence(
    decoder: Sequence[Layer],
    likelihood: Likelihood,
    x: Tensor,
    guess: Guess,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Log q at ``x (K, D, N)``, N a multiple of 16, in nats, ``(K, N)``.

    It is low by half the weights' squared variation over M.
    """
    bank = normal((guess.start.shape[1], BANK), generators, x.dtype)
    images = output(decoder, bank)
    size = padded_columns(COLUMNS[x.device.type] // DRAWS)
    blocks = zip(*(part.split(size, dim=-1) for part in (x, guess.start, guess.mean, guess.std)), strict=True)
    estimates = []
    for points, start, mean, std in blocks:
        starts = _starts(decoder, likelihood, points, start, bank, images)
        modes, factor = _laplace(decoder, likelihood, points, starts)
        estimates.append(_estimate(decoder, likelihood, points, modes, factor, Guess(start, mean, std), generators))
    return torch.cat(estimates, dim=-1)


def _estimate(
    decoder: Sequence[Layer],
    likelihood: Likelihood,
    x: Tensor,
    modes: Tensor,
    factor: Tensor,
    guess: Guess,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Draw from the three parts of the proposal, and weight each draw by the whole."""
    stack, count, _, latent, _ = modes.shape
    mean, std = guess.mean.mT.unsqueeze(-1), guess.std.mT.unsqueeze(-1)
    noise = normal((count, latent, DRAWS), generators, x.dtype)
    near, posterior, prior = noise.split((MODES * EACH, ENCODER, PRIOR), dim=-1)
    near = near.unflatten(-1, (MODES, EACH)).transpose(2, 3)
    near = modes + torch.linalg.solve_triangular(factor.mT, near, upper=True)
    z = torch.cat([near.transpose(2, 3).flatten(-2), mean + std * posterior, prior], dim=-1)

    log_prior = -0.5 * z.square().sum(2)  # every density here lacks the factor (2 pi)^(-L/2)
    log_near = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
    # One product for all modes of a point: one for each would take three times as long.
    whitened = (factor.mT.flatten(2, 3) @ z).unflatten(2, (MODES, latent)) - factor.mT @ modes
    log_near = log_near - 0.5 * whitened.square_().sum(3)
    log_encoder = -std.log().sum(2) - 0.5 * ((z - mean) / std).square().sum(2)
    log_proposal = torch.logsumexp(
        torch.cat(
            [
                log_near + math.log(EACH / DRAWS),
                (log_encoder + math.log(ENCODER / DRAWS)).unsqueeze(2),
                (log_prior + math.log(PRIOR / DRAWS)).unsqueeze(2),
            ],
            dim=2,
        ),
        dim=2,
    )
    decoded = output(decoder, z.transpose(1, 2).reshape(stack, latent, count * DRAWS))
    log_likelihood = likelihood.log_prob(decoded.view(stack, -1, count, DRAWS), x.unsqueeze(-1))
    return torch.logsumexp(log_likelihood + log_prior - log_proposal, dim=-1) - math.log(DRAWS)


def _starts(
    decoder: Sequence[Layer], likelihood: Likelihood, x: Tensor, start: Tensor, bank: Tensor, images: Tensor
) -> Tensor:
    """``(K, L, N, MODES)``: the likeliest of each part of a bank of prior draws, and of the own start.

    Args:
        bank: shared by all points, ``(K, L, BANK)``.
        images: what the decoder makes of it.
    """
    # Without h(x), which all candidates share.
    eta, level = likelihood.natural(images)
    height = level + 0.5 * bank.square().sum(1, keepdim=True)
    joint = torch.baddbmm(-height, x.mT, eta).unflatten(2, (MODES, -1))
    best, index = joint.max(dim=3)
    index = index + torch.arange(MODES, device=x.device) * (BANK // MODES)
    chosen = bank.gather(2, index.flatten(1).unsqueeze(1).expand(-1, bank.shape[1], -1))
    chosen = chosen.unflatten(2, (-1, MODES))
    own = _log_joint(likelihood, output(decoder, start), x, start) - likelihood.carrier(x)
    chosen[..., 0] = torch.where((own >= best[..., 0]).unsqueeze(1), start, chosen[..., 0])
    return chosen


def _laplace(decoder: Sequence[Layer], likelihood: Likelihood, x: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Modes of each posterior, ``(K, N, MODES, L, 1)``, and Cholesky factors of their precisions.

    A Gauss-Newton step is kept where it raises the joint density.
    """
    z = starts.flatten(2)
    x = x.repeat_interleave(starts.shape[3], dim=2)
    dtype = decoder[0].weight.dtype
    outputs = forward(decoder, z.to(dtype))
    decoded = outputs[-1].to(z.dtype)
    joint = _log_joint(likelihood, decoded, x, z)
    for _ in range(NEWTON_STEPS):
        slope = jacobian(decoder, outputs).to(z.dtype)
        uphill = slope.mT @ likelihood.score(decoded, x).mT.unsqueeze(-1) - z.mT.unsqueeze(-1)
        factor = _precision_factor(likelihood, slope, decoded)
        trial = z + torch.cholesky_solve(uphill, factor).squeeze(-1).mT
        trial_outputs = forward(decoder, trial.to(dtype))
        trial_joint = _log_joint(likelihood, trial_outputs[-1].to(z.dtype), x, trial)
        uphill_there = (trial_joint > joint).unsqueeze(1)
        z = torch.where(uphill_there, trial, z)
        outputs = [torch.where(uphill_there, *both) for both in zip(trial_outputs, outputs, strict=True)]
        decoded = outputs[-1].to(z.dtype)
        joint = torch.maximum(trial_joint, joint)
    factor = _precision_factor(likelihood, jacobian(decoder, outputs).to(z.dtype), decoded)
    return z.mT.unsqueeze(-1).unflatten(1, (-1, MODES)), factor.unflatten(1, (-1, MODES))


def _precision_factor(likelihood: Likelihood, slope: Tensor, decoded: Tensor) -> Tensor:
    precision = likelihood.information(slope, decoded)
    precision.diagonal(dim1=-2, dim2=-1).add_(1)
    return torch.linalg.cholesky_ex(precision)[0]


def _log_joint(likelihood: Likelihood, decoded: Tensor, x: Tensor, z: Tensor) -> Tensor:
    return likelihood.log_prob(decoded, x) - 0.5 * z.square().sum(1)
