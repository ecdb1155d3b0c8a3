"""The ELBO and its parts on test points, against the likelihood that it bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.randomness import normal
from experiments.vae.data import Views
from experiments.vae.likelihood import Gaussian, Likelihood, theta
from experiments.vae.network import Layer, output

POSTERIOR_DRAWS = 8  # of each test point
ACTIVE = 0.01  # Burda et al. 2016, https://arxiv.org/abs/1509.00519


@dataclass(frozen=True)
class Posterior:
    """The encoder's Gaussian at N points, ``(K, L, N)``."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, encoder: Sequence[Layer], x: Tensor) -> Posterior:
        """At ``x (K, D, N)``."""
        mean, log_var = output(encoder, x).chunk(2, dim=1)
        return cls(mean, (0.5 * log_var).exp())

    @property
    def kl(self) -> Tensor:
        r""":math:`(\mu^2 + \sigma^2 - 1) / 2 - \ln \sigma`: KL from N(0, 1), ``(K, L, N)``."""
        return 0.5 * (self.mean.square() + self.std.square() - 1) - self.std.log()


def bound_metrics(
    views: Views,
    decoder: Sequence[Layer],
    likelihood: Likelihood,
    x: Tensor,
    posterior: Posterior,
    nll: Tensor,
    count: int,
    generators: Sequence[torch.Generator],
) -> list[dict[str, float]]:
    """``objective``, ``elbo``, ``rate``, ``distortion``, ``reconstruction_mse``, ``nll``, ``bound_gap``,
    ``active_units``, ``theta`` and ``learned_noise_std`` of each cell, in the data's own units.

    Args:
        x: test points in training coordinates, ``(K, D, N)``.
        nll: of them, in training coordinates, ``(K, N)``.
        count: how many of them count; the others are padding.
    """
    square, distortion = _reconstruction(decoder, likelihood, x, posterior, generators)
    square, distortion = square[..., :count], distortion[:, :count]
    posterior = Posterior(posterior.mean[..., :count], posterior.std[..., :count])
    nll = nll[:, :count]
    scale = torch.as_tensor(np.stack([c.scale for c in views.coordinates]), dtype=x.dtype, device=x.device)
    log_volume = scale.log().sum(dim=1, keepdim=True)
    rate = posterior.kl.sum(dim=1)
    distortion = distortion + log_volume
    per_point = {
        "objective": _objective(views, square, distortion, posterior),
        "elbo": -distortion - rate,
        "rate": rate,
        "distortion": distortion,
        "reconstruction_mse": (square * scale.square().unsqueeze(-1)).sum(dim=1),
        "nll": nll + log_volume,
        "bound_gap": distortion + rate - nll - log_volume,
    }
    columns = {"active_units": (posterior.mean.var(dim=-1) > ACTIVE).sum(dim=1).to(x.dtype)}
    for name, values in per_point.items():
        columns[name] = values.mean(dim=1)
        columns[f"{name}_se"] = values.std(dim=1) / math.sqrt(values.shape[1])
    table = {name: column.tolist() for name, column in columns.items()}
    return [
        {name: column[k] for name, column in table.items()} | _noise(cell.params, likelihood, k)
        for k, cell in enumerate(views.cells)
    ]


def _noise(params: Any, likelihood: Likelihood, k: int) -> dict[str, float]:
    """What is known of the decoder's noise, in training coordinates: nothing where data are pixels."""
    if not isinstance(likelihood, Gaussian):
        return {}
    noise_std = float(likelihood.noise_std[k])
    learned = {"learned_noise_std": noise_std} if params.likelihood == "gaussian_learned" else {}
    return {"theta": theta(params.likelihood, params.kl_weight, noise_std), **learned}


def _objective(views: Views, square: Tensor, distortion: Tensor, posterior: Posterior) -> Tensor:
    """Of each point, ``(K, N)``; the mean KL of a dimension below its free bits counts as these, whatever a point's."""
    kl_weight = views.per_cell(lambda params: params.kl_weight, square).unsqueeze(-1)
    free_bits = views.per_cell(lambda params: params.free_bits, square).view(-1, 1, 1)
    kl = posterior.kl
    is_free = (free_bits > 0) & (kl.mean(dim=-1, keepdim=True) < free_bits)
    term = square.sum(dim=1) if views.cells[0].params.likelihood == "mse" else distortion
    return term + kl_weight * torch.where(is_free, free_bits, kl).sum(dim=1)


def _reconstruction(
    decoder: Sequence[Layer],
    likelihood: Likelihood,
    x: Tensor,
    posterior: Posterior,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """Squared error of each dimension, ``(K, D, N)``, and -log p(x | z), ``(K, N)``, at posterior samples."""
    square, distortion = torch.zeros_like(x), torch.zeros_like(x[:, 0])
    for _ in range(POSTERIOR_DRAWS):
        z = posterior.mean + posterior.std * normal(posterior.mean.shape[1:], generators, x.dtype)
        decoded = output(decoder, z)
        square += (likelihood.mean(decoded) - x).square()
        distortion -= likelihood.log_prob(decoded, x)
    return square / POSTERIOR_DRAWS, distortion / POSTERIOR_DRAWS
