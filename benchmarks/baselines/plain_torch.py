"""A plain torch loop, one fit after another: `python -m benchmarks.baselines.plain_torch --fits 8 --kind kl`.

A Gaussian fitted to a mixture by forward or reverse KL, or a small VAE trained on one, then measured once
with draws of both. One thread, densities without argument checks, no synchronisation in the loop.
It reports fewer numbers than modesweep does for the same cell (no per-mode table, no ground truth, standard
errors of the divergences alone; no curve, unless it is asked for), which is in its favour.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

Config = dict[str, float | int | str]
Metrics = dict[str, float]
Report = Callable[[Metrics], object]

CURVE = 35  # points of the loss, as many as modesweep keeps of a thousand steps
KL_WEIGHTS = (0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 4.0)
NOISE_STD = 0.1


def kl_grid(fits: int) -> list[Config]:
    """The first ``fits`` points of two targets x two directions x seeds; every four hold one of each."""
    points = itertools.product(range(fits), ("bimodal", "ring8"), ("forward_kl", "reverse_kl"))
    return [
        {"target": target, "divergence": divergence, "seed": seed}
        for seed, target, divergence in itertools.islice(points, fits)
    ]


def vae_grid(fits: int) -> list[Config]:
    """The first ``fits`` points of three latent sizes x eight KL weights x seeds."""
    points = itertools.product(range(fits), KL_WEIGHTS, (1, 2, 4))
    return [
        {"target": "ring8", "latent_dim": latent_dim, "kl_weight": kl_weight, "seed": seed}
        for seed, kl_weight, latent_dim in itertools.islice(points, fits)
    ]


def make_target(name: str) -> MixtureSameFamily:
    """Two unit Gaussians at -4 and 4, or eight of sd 0.2551 on a circle of radius 2; weights equal."""
    if name == "bimodal":
        loc, scale = torch.tensor([[-4.0], [4.0]]), 1.0
    elif name == "ring8":
        angle = torch.arange(8) * (2 * math.pi / 8)
        loc, scale = 2 * torch.stack([angle.cos(), angle.sin()], dim=-1), 0.2551
    else:
        raise ValueError(f"unknown target {name!r}; allowed: bimodal, ring8")
    components = Normal(loc, torch.full_like(loc, scale), validate_args=False)
    return MixtureSameFamily(
        Categorical(logits=torch.zeros(len(loc)), validate_args=False),
        Independent(components, 1, validate_args=False),
        validate_args=False,
    )


def gaussian(loc: Tensor, raw: Tensor) -> Independent | MultivariateNormal:
    """A Gaussian with log standard deviations (of the Cholesky factor) on the diagonal of ``raw``."""
    if len(loc) == 1:
        # Twice as fast as a MultivariateNormal of one dimension.
        return Independent(Normal(loc, raw[0].exp(), validate_args=False), 1, validate_args=False)
    scale_tril = raw.tril(-1) + raw.diagonal().exp().diag()
    return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


def fit_kl(
    config: Config, report: Report | None = None, steps: int = 1000, samples: int = 256, learning_rate: float = 0.02
) -> Metrics:
    """Fit a Gaussian with a full covariance, from the target's own mean and standard deviations."""
    torch.manual_seed(int(config["seed"]))
    p = make_target(str(config["target"]))
    forward = config["divergence"] == "forward_kl"
    loc = p.mean.clone().requires_grad_()
    raw = p.stddev.log().diag().requires_grad_()
    # Fused is the fastest Adam for small tensors: half the time of the default here, a sixth in a VAE.
    optimizer = torch.optim.Adam([loc, raw], lr=learning_rate, fused=True)
    for step in range(1, steps + 1):
        q = gaussian(loc, raw)
        if forward:
            loss = -q.log_prob(p.sample((samples,))).mean()
        else:
            x = q.rsample((samples,))
            loss = (q.log_prob(x) - p.log_prob(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if report and step % (steps // CURVE) == 0:
            report({"loss": loss.item()})
    with torch.no_grad():
        q = gaussian(loc, raw)
        return {"loss": loss.item(), **compare(p, q.sample((10_000,)), q.log_prob)}


class VAE(nn.Module):
    """An encoder to the mean and log variance of z, and a decoder to the mean of x; both two layers of 64."""

    def __init__(self, dim: int, latent_dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.encoder = mlp(dim, hidden, 2 * latent_dim)
        self.decoder = mlp(latent_dim, hidden, dim)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        return mean, log_var

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared error and KL to the prior of each example, and the posterior means."""
        mean, log_var = self.encode(x)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        squared_error = (x - self.decoder(z)).square().sum(-1)
        rate = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
        return squared_error, rate, mean

    def sample(self, n: int, latent_dim: int) -> Tensor:
        x = self.decoder(torch.randn(n, latent_dim))
        return x + NOISE_STD * torch.randn_like(x)

    def log_prob(self, x: Tensor, draws: int = 50) -> Tensor:
        """Importance sampling of log q(x), ``draws`` from the encoder and as many from the prior.

        With the encoder alone (Burda et al. 2016) the prior's mass that no x is encoded to would be missed.
        """
        mean, log_var = self.encode(x)
        posterior = Normal(mean, torch.exp(0.5 * log_var), validate_args=False)
        prior = Normal(0.0, 1.0, validate_args=False)
        z = torch.cat([posterior.sample((draws,)), torch.randn(draws, *mean.shape)])
        likelihood = Normal(self.decoder(z), NOISE_STD, validate_args=False).log_prob(x).sum(-1)
        from_prior, from_encoder = prior.log_prob(z).sum(-1), posterior.log_prob(z).sum(-1)
        proposal = torch.logaddexp(from_prior, from_encoder) - math.log(2)
        return (likelihood + from_prior - proposal).logsumexp(0) - math.log(2 * draws)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


def fit_vae(
    config: Config, report: Report | None = None, steps: int = 2000, batch_size: int = 128, learning_rate: float = 1e-3
) -> Metrics:
    """Train a VAE on fresh draws of the target, and measure it on a thousand more."""
    torch.manual_seed(int(config["seed"]))
    p = make_target(str(config["target"]))
    latent_dim, kl_weight = int(config["latent_dim"]), float(config["kl_weight"])
    vae = VAE(p.event_shape[0], latent_dim)
    optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate, fused=True)
    for step in range(1, steps + 1):
        squared_error, rate, _mean = vae(p.sample((batch_size,)))
        loss = (squared_error / (2 * NOISE_STD**2) + kl_weight * rate).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if report and step % (steps // CURVE) == 0:
            report({"loss": loss.item()})
    with torch.no_grad():
        x = p.sample((1000,))
        squared_error, rate, mean = vae(x)
        constant = p.event_shape[0] * math.log(NOISE_STD * math.sqrt(2 * math.pi))
        distortion = squared_error / (2 * NOISE_STD**2) + constant
        return {
            "loss": loss.item(),
            "elbo": -(distortion + rate).mean().item(),
            "rate": rate.mean().item(),
            "distortion": distortion.mean().item(),
            "reconstruction_mse": squared_error.mean().item(),
            "nll": -vae.log_prob(x).mean().item(),
            "active_units": float((mean.var(0) > 0.01).sum()),
            **compare(p, vae.sample(1000, latent_dim), vae.log_prob),
        }


def compare(p: MixtureSameFamily, from_q: Tensor, log_q: Callable[[Tensor], Tensor]) -> Metrics:
    """What a fit keeps of the target and how sharp it is, from as many draws of P as of Q.

    Args:
        p: the target.
        from_q: draws of the fit, ``(N, D)``.
        log_q: its log density.
    """
    from_p = p.sample(from_q.shape[:1])
    p_at_p, p_at_q = p.log_prob(from_p), p.log_prob(from_q)
    q_at_p, q_at_q = log_q(from_p), log_q(from_q)
    forward, reverse = p_at_p - q_at_p, q_at_q - p_at_q
    half = math.log(0.5)
    shannon = 0.5 * (p_at_p - torch.logaddexp(p_at_p, q_at_p) - half).mean()
    shannon += 0.5 * (q_at_q - torch.logaddexp(p_at_q, q_at_q) - half).mean()

    components = p.component_distribution.base_dist
    near_p, near_q = (((x[:, None] - components.loc) / components.scale).square().sum(-1) for x in (from_p, from_q))
    # The 99 % ellipse of a mode; the quantile of chi-square is closed in two dimensions.
    radius = {1: 2.5758**2, 2: -2 * math.log(0.01)}[from_p.shape[1]]
    captured = (near_q < radius).float().mean(0) >= 0.1 * (near_p < radius).float().mean(0)
    mode = near_q.argmin(1).bincount(minlength=near_q.shape[1]) / len(near_q)
    metrics = {
        "coverage": (q_at_p > q_at_q.quantile(0.05)).float().mean() / 0.95,
        "sharpness": (p_at_q > p_at_p.quantile(0.05)).float().mean() / 0.95,
        "forward_kl": forward.mean(),
        "forward_kl_se": forward.std() / math.sqrt(len(forward)),
        "reverse_kl": reverse.mean(),
        "reverse_kl_se": reverse.std() / math.sqrt(len(reverse)),
        "jensen_shannon": shannon,
        "entropy_gap": p_at_p.mean() - q_at_q.mean(),
        "modes_captured": captured.sum(),
        "high_quality": (near_q.min(1).values < 9).float().mean(),
        "entropic_coverage": torch.special.entr(mode).sum() / math.log(len(mode)),
    }
    return {name: float(value) for name, value in metrics.items()} | {
        name: min(1.0, float(metrics[name])) for name in ("coverage", "sharpness")
    }


def fit(kind: str, config: Config, report: Report | None = None) -> Metrics:
    """One fit on one thread; adds when it began, in seconds since the epoch, and how long it took.

    ``report`` is told the loss at ``CURVE`` steps.
    """
    torch.set_num_threads(1)
    began, start = time.time(), time.perf_counter()
    metrics = FITS[kind](config, report)
    return {**metrics, "began": began, "seconds": time.perf_counter() - start}


FITS: dict[str, Callable[[Config, Report | None], Metrics]] = {"kl": fit_kl, "vae": fit_vae}
GRIDS: dict[str, Callable[[int], list[Config]]] = {"kl": kl_grid, "vae": vae_grid}


def rows(kind: str, configs: Sequence[Config]) -> list[dict[str, object]]:
    """One fit after another."""
    return [{**config, **fit(kind, config)} for config in configs]


if __name__ == "__main__":
    from benchmarks.baselines.command import main

    main(__doc__, lambda options: rows(options.kind, GRIDS[options.kind](options.fits)))
