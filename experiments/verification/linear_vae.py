"""Rows on VAEs with affine encoder and decoder, whose optimum is reverse water-filling at theta = beta s^2.

Lucas et al. 2019, arXiv 1911.02469; Cover and Thomas 2006, section 10.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from experiments.randomness import generators
from experiments.vae.evidence import Guess, log_evidence
from experiments.vae.likelihood import Gaussian
from experiments.vae.network import Layer
from experiments.verification.estimate import Estimate
from experiments.verification.independent import Mix
from experiments.verification.machinery import Asked, average, vae
from experiments.verification.row import Row

SPECTRUM = (4.0, 2.0, 1.0, 0.5, 0.25)
NOISE = 0.4  # variance
LEFT = 0.02  # nats that training leaves


def rows() -> Iterator[Row]:
    """All rows of this module."""
    yield from _evidence()
    yield from _water_filling()
    yield from _squared_error()
    yield from _learned_noise()


@cache
def _target() -> Mix:
    """That spectrum in random directions."""
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(5, 5)))[0]
    covariance = (turn * np.array(SPECTRUM)) @ turn.T
    return Mix.of(np.ones(1), np.zeros((1, 5)), 0.5 * (covariance + covariance.T)[None])


def _linear(kl_weight: float, **settings: Any) -> Asked:
    chosen: dict[str, Any] = {
        "encoder": "linear",
        "decoder": "linear",
        "latent_dim": 5,
        "learning_rate": 0.02,
        "steps": 3000,
    }
    return vae(_target(), kl_weight=kl_weight, **(chosen | settings))


def _water_filling() -> Iterator[Row]:
    known = {
        1.0: {"active_units": 4, "rate": 2.52573, "reconstruction_mse": 1.85, "nll": 7.14219, "elbo": -7.14219},
        2.0: {"active_units": 3, "rate": 1.37444, "reconstruction_mse": 3.15, "nll": 7.24985, "elbo": -7.61590},
    }
    for beta, metrics in known.items():
        asked, name = _linear(beta, noise_std=NOISE**0.5), f"beta {beta:g}"
        tolerances = {"active_units": 0.0, "reconstruction_mse": LEFT * (1 + metrics["reconstruction_mse"])}
        filled = {metric: (value, tolerances.get(metric, LEFT)) for metric, value in metrics.items()}
        yield from _fitted(name, "reverse water-filling", asked, filled)
        yield from _fitted(name, "beta s^2", asked, {"theta": (beta * NOISE, 1e-6)})
        # Generated variances are l - (beta - 1) s^2 for active units and s^2 for the others.
        shrunk = np.where(np.array(SPECTRUM) > beta * NOISE, np.array(SPECTRUM) - (beta - 1) * NOISE, NOISE)
        ratio = np.array(SPECTRUM) / shrunk
        generated = {
            "forward_kl": (0.5 * (ratio - 1 - np.log(ratio)).sum(), LEFT),
            "reverse_kl": (0.5 * (1 / ratio - 1 + np.log(ratio)).sum(), LEFT),
            "entropy_gap": (-0.5 * np.log(ratio).sum(), LEFT),
        }
        yield from _fitted(f"{name} generated", "variances l - (beta - 1) s^2", asked, generated)


def _fitted(name: str, source: str, asked: Asked, known: Mapping[str, tuple[float, float]]) -> Iterator[Row]:
    """Rows of trained VAEs: metric -> what it is known to be, and the tolerance."""
    for metric, (value, tolerance) in known.items():
        yield Row(
            f"linear vae/{name} {metric}",
            "fit",
            source,
            float(value),
            lambda *os, n=metric: average(os, n),
            tolerance,
            asked,
            slow=True,
        )


def _squared_error() -> Iterator[Row]:
    """Squared error plus w times the KL is the Gaussian likelihood at theta = w / 2."""
    for weight in (0.8, 3.0):
        theta = weight / 2
        active = np.array(SPECTRUM) > theta
        rate = 0.5 * np.log(np.array(SPECTRUM)[active] / theta).sum()
        error = np.minimum(SPECTRUM, theta).sum()
        known = {
            "theta": (theta, 1e-6),
            "rate": (rate, LEFT),
            "reconstruction_mse": (error, LEFT * (1 + error)),
            "active_units": (active.sum(), 0.0),
        }
        asked = _linear(weight, likelihood="mse")
        yield from _fitted(f"squared error, weight {weight:g}", "reverse water-filling at w / 2", asked, known)


def _learned_noise() -> Iterator[Row]:
    """Where D s^2 is the squared error: k active units leave k beta s^2 of it, and the others what they would hold."""
    for beta, latent in ((1.0, 2), (0.5, 3)):
        noise = sum(SPECTRUM[latent:]) / (len(SPECTRUM) - latent * beta)
        known = {
            "learned_noise_std": (noise**0.5, LEFT / 2),
            "theta": (beta * noise, LEFT),
            "rate": (0.5 * np.log(np.array(SPECTRUM[:latent]) / (beta * noise)).sum(), LEFT),
            "active_units": (latent, 0.0),
        }
        # A batch as large as leaves the noise steady.
        asked = _linear(beta, likelihood="gaussian_learned", noise_std=0.5, latent_dim=latent, batch_size=512)
        source = "sum of the inactive variances / (D - k beta)"
        yield from _fitted(f"learned noise, beta {beta:g}", source, asked, known)


def _evidence() -> Iterator[Row]:
    """Prior N(0, 1), likelihood N(z, 1), x = 1: log p(x) = log N(1; 0, 2), whatever the encoder says."""
    for mean in (0.0, 0.5):
        yield Row(
            f"importance sampling/encoder N({mean:g}, 1), log p",
            "metric",
            "log N(1; 0, 2)",
            -1.515512,
            partial(_log_evidence, mean),
            1e-3,
        )


def _log_evidence(mean: float) -> Estimate:
    count = 512
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    there = torch.full((1, 1, count), mean, dtype=torch.float64)
    decoder = [Layer(one, torch.zeros_like(one))]
    found = log_evidence(
        decoder,
        Gaussian(torch.ones(1, dtype=torch.float64)),
        torch.ones_like(there),
        Guess(there, there, torch.ones_like(there)),
        generators([0], "evaluation"),
    ).numpy()
    return Estimate(float(found.mean()), float(found.std()) / count**0.5)
