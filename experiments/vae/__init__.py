"""vae: what the KL weight, the latent size and the decoder's noise make a VAE keep of a target."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from experiments.experiment import Cell, Checkpoints, Experiment, Metric, Outcome
from experiments.experiment import Params as BaseParams
from experiments.metrics import DENSITY_METRICS
from experiments.metrics import LABELS as METRIC_LABELS
from experiments.targets import Analytic, Points, Target
from experiments.vae.cost import bytes_of_stack, seconds_per_cell, widths


class Params(BaseParams):
    """The parameters of one VAE."""

    latent_dim: int = Field(2, ge=1, le=256, description="dimensions of z, whose prior is N(0, I)")
    kl_weight: float = Field(1.0, ge=0, description="weight of the KL term: 1 is the ELBO, more or less a beta-VAE")
    likelihood: Literal["gaussian", "gaussian_learned", "bernoulli", "mse"] = Field(
        "gaussian",
        description="gaussian with fixed noise_std; gaussian_learned, which starts from noise_std; bernoulli, of pixels"
        " that are 0 or 1, or grey and drawn as 0 or 1 anew in every step; or mse, the squared error plus kl_weight"
        " times the KL, in whose training noise_std takes no part",
    )
    noise_std: float = Field(
        0.1, gt=0, description="of the decoder's noise, in training coordinates; pixels of bernoulli have none"
    )
    encoder: Literal["mlp", "linear"] = Field(
        "mlp",
        description="mlp: rectified layers of the hidden widths; linear: one affine map",
    )
    decoder: Literal["mlp", "linear"] = Field(
        "mlp",
        description="mlp: rectified layers of the hidden widths in reverse; linear: one affine map",
    )
    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        (64, 64),
        min_length=1,
        max_length=8,
        description="widths of the encoder's hidden layers, a list; the decoder's in reverse",
    )
    kl_warmup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the steps over which the KL weight grows from 0, linearly",
    )
    free_bits: float = Field(0.0, ge=0, description="nats below which a latent dimension's KL is not reduced")
    steps: int = Field(2000, ge=1, description="of Adam")
    batch_size: int = Field(128, ge=1, description="training points of each step")
    train_size: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="points of a fixed training set, chosen by the cell's seed; without it every step trains on fresh"
        " samples (of a file: on all its points). Of a file the others are tested on: at least 2, or where none is"
        " left all",
    )
    learning_rate: float = Field(
        1e-3,
        gt=0,
        description="of Adam; constant for the first half of the steps, then it falls to zero along a cosine",
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="numbers that training is computed in")
    sample: Literal["noisy", "mean"] = Field(
        "noisy",
        description="whether the fitted distribution includes the decoder's noise, or is of decoder means",
    )
    standardise: bool = Field(
        False,
        description="train on coordinates of mean 0 and variance 1; results are in the data's own",
    )


METRICS: tuple[Metric, ...] = (
    Metric(
        "objective",
        "",
        "what training minimised, of the final model on the test points: nats, or squared units for mse",
        "lower",
        has_error=True,
    ),
    Metric("elbo", "nats", "evidence lower bound at KL weight 1: -(rate + distortion)", "higher", has_error=True),
    Metric("rate", "nats", "KL of the encoder's posterior from the prior", has_error=True),
    Metric(
        "distortion",
        "nats",
        "-log p(x | z) at posterior samples; of mse under Gaussian noise of noise_std",
        "lower",
        has_error=True,
    ),
    Metric(
        "reconstruction_mse",
        "squared units",
        "squared error at posterior samples, summed over dimensions",
        "lower",
        has_error=True,
    ),
    Metric(
        "nll",
        "nats",
        "-log q(x) of test points, by importance sampling with 48 draws each",
        "lower",
        has_error=True,
    ),
    Metric(
        "bound_gap",
        "nats",
        "-elbo - nll: what the encoder's posterior costs, 0 or more, but for the error of nll",
        "lower",
        has_error=True,
    ),
    Metric("active_units", "units", "latent dimensions whose posterior mean varies by more than 0.01", None),
    Metric(
        "theta",
        "",
        "kl_weight * noise_std^2 (kl_weight / 2 for mse), in training coordinates: the variance below which"
        " a direction of a linear VAE collapses",
    ),
    Metric(
        "learned_noise_std",
        "",
        "where training took the decoder's noise, in training coordinates (likelihood gaussian_learned)",
    ),
    *DENSITY_METRICS,
)

LABELS = METRIC_LABELS | {
    "test_points": "what the metrics were measured on: fresh samples, held_out points, or the training points"
}


def check(params: Params, target: Target) -> None:
    """Refuse what is undefined."""
    if params.likelihood == "bernoulli":
        _check_pixels(params, target)
    if isinstance(target, Points):
        count = len(target.values)
        if count < 2:
            raise ValueError(f"target {target.name!r} has {count} point; a VAE needs at least 2")
        if params.train_size is not None and params.train_size > count:
            raise ValueError(
                f"train_size {params.train_size}: target {target.name!r} has {count} points."
                f" Use at most {count}, or null for all of them"
            )
        if params.train_size == count - 1:
            fewer = f"at most {count - 2}, or " if count > 2 else ""
            raise ValueError(
                f"train_size {params.train_size} of the {count} points of target {target.name!r} leaves 1 to test on,"
                " and one point has no spread: no error, and no neighbours for coverage."
                f" Use {fewer}{count} to train and test on all of them"
            )
    elif target.df is not None and target.df <= 2:
        raise ValueError(
            f"target {target.name!r} has Student-t components with df {target.df:g}, whose variance is"
            " infinite, so a reconstruction has no expected squared error. Use df above 2"
        )


def _check_pixels(params: Params, target: Target) -> None:
    if not isinstance(target, Points):
        raise ValueError(
            f"likelihood bernoulli is of points between 0 and 1, and target {target.name!r} has a density on all"
            " numbers. Use likelihood gaussian, or a target of pixels, such as digits"
        )
    low, high = target.values.min(axis=0), target.values.max(axis=0)
    for name, least, most in zip(target.columns, low, high, strict=True):
        if least < 0 or most > 1:
            raise ValueError(
                f"likelihood bernoulli is of points between 0 and 1, and column {name!r} of target {target.name!r}"
                f" reaches from {least:g} to {most:g}. Use likelihood gaussian, or divide the column by its largest"
            )
    if params.standardise:
        raise ValueError("likelihood bernoulli is of points between 0 and 1. Use standardise false")


def batch_key(params: Params, target: Target) -> Hashable:
    """Shapes and operations; noise, weights, warm-up, learning rates, coordinates and seeds are tensors."""
    if isinstance(target, Points):
        kind: Hashable = ("points", len(target.values))
    elif isinstance(target, Analytic):
        # A stack sees its formula in one set of coordinates.
        kind = (target.digest, params.standardise)
    else:
        # Mixtures are padded to a power of two components.
        kind = ((target.modes - 1).bit_length(), target.df is None)
    shapes = (
        target.dim,
        kind,
        *widths(params, target.dim),
        params.batch_size,
        params.train_size,
        params.dtype,
    )
    return (*shapes, params.steps, params.likelihood, params.sample)


def run_batch(cells: Sequence[Cell], device: str, checkpoints: Checkpoints | None = None) -> list[Outcome]:
    """Train and evaluate a stack of cells of one batch key."""
    from experiments.vae.batch import run

    return run(cells, device, checkpoints)


VAE = Experiment(
    name="vae",
    version=5,
    params=Params,
    metrics=METRICS,
    objective="objective",
    objective_of=("kl_weight", "free_bits", "likelihood", "noise_std", "standardise"),
    check=check,
    batch_key=batch_key,
    bytes_of_stack=bytes_of_stack,
    seconds_per_cell=seconds_per_cell,
    run_batch=run_batch,
    labels=LABELS,
)
