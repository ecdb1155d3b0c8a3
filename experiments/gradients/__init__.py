"""gradients: estimators of reverse KL's gradient, measured at a point: mean, bias, variance and cost."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

from pydantic import Field

from experiments.experiment import Cell, Checkpoints, Experiment, Metric, Outcome
from experiments.experiment import Params as BaseParams
from experiments.padding import padded_modes
from experiments.targets import Analytic, Mixture, Points, Target

STACK = 32  # stacks are of this size: vectorised loops then leave no remainder, whose last bits would differ
NOISE_BLOCK = 8192  # numbers drawn at once for a seed: one call costs as much as about a thousand of them
PART_BYTES = 4 << 20  # of the largest tensors: beyond the cache each pass costs two to three times as much

EstimatorName = Literal[
    "blocked",
    "naive",
    "score_function",
    "score_function_baseline",
    "reparameterization",
    "sticking_the_landing",
]


class Params(BaseParams):
    """Where and how one gradient of KL(Q || P) is measured; nothing is trained.

    Q is a Gaussian without correlation, placed in coordinates in which the target has mean 0 and standard
    deviations 1. Gradients are with respect to Q's ``loc`` in these coordinates and to the log of its widths.
    """

    estimator: EstimatorName = Field(
        "reparameterization",
        description="blocked: the sample has no path to the parameters, so there is no gradient; naive: autograd of"
        " log q - log p at such a sample, a gradient whose mean is 0; score_function: REINFORCE;"
        " score_function_baseline: each sample's value compared with the mean of the others (leave-one-out);"
        " reparameterization: through loc + scale * noise; sticking_the_landing: the same, without the term whose"
        " mean is 0",
    )
    family: Literal["gaussian_isotropic", "gaussian_diagonal"] = Field(
        "gaussian_diagonal",
        description="a width for each dimension of Q, or one for all",
    )
    offset: float = Field(
        1.0,
        description="distance of Q's mean from the target's, along (1, ..., 1), in coordinates in which the target"
        " has standard deviations 1, or for gaussian_isotropic a mean variance of 1",
    )
    width: float = Field(1.0, gt=0, description="Q's standard deviations, as a multiple of the target's")
    samples: int = Field(16, ge=1, le=8192, description="that one gradient is the mean of")
    repeats: int = Field(
        2000,
        ge=2,
        le=100_000,
        description="independent gradients, over which mean and variance are taken",
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="numbers that gradients are computed in")


METRICS: tuple[Metric, ...] = (
    Metric(
        "mean_squared_error",
        "nats^2",
        "mean squared distance of a gradient from the exact one: bias^2 + variance",
        "lower",
        has_error=True,
    ),
    Metric("has_gradient", "", "1 where autograd gives a gradient, 0 where it gives none"),
    Metric(
        "slope_loc",
        "nats per sd",
        "mean of the estimated derivative of KL(Q || P) as Q's mean moves along its offset",
        has_error=True,
    ),
    Metric(
        "slope_log_scale",
        "nats",
        "mean of the estimated derivative of KL(Q || P) by the log of a factor on all of Q's widths",
        has_error=True,
    ),
    Metric("exact_slope_loc", "nats per sd", "the exact derivative as Q's mean moves along its offset"),
    Metric("exact_slope_log_scale", "nats", "the exact derivative by the log of a factor on all widths"),
    Metric("gradient_norm", "nats", "norm of the exact gradient, all components"),
    Metric("exact_error", "nats", "error of the exact gradient: 0 in closed form, else an estimate", "lower"),
    Metric(
        "bias",
        "nats",
        "distance of the mean gradient from the exact one; without bias it is about its standard error",
        "lower",
        has_error=True,
    ),
    Metric("variance", "nats^2", "of one gradient, summed over its components", "lower", has_error=True),
    Metric("variance_loc", "nats^2", "the part of variance in Q's mean", "lower", has_error=True),
    Metric("variance_log_scale", "nats^2", "the part of variance in Q's log widths", "lower", has_error=True),
    Metric("variance_per_sample", "nats^2", "variance times samples", "lower", has_error=True),
    Metric(
        "signal_to_noise",
        "",
        "gradient_norm over the root of the variance, of one gradient",
        "higher",
        has_error=True,
    ),
    Metric(
        "evaluations",
        "",
        "of the target's log-density for one gradient, forward and backward; its time is fit_seconds / repeats",
        "lower",
    ),
    Metric("dimension", "", "D, of the target"),
)

LABELS = {"exact_method": "how the exact gradient was computed: closed_form, quadrature or monte_carlo"}


def check(params: Params, target: Target) -> None:
    """Refuse what is undefined."""
    if isinstance(target, Points):
        raise ValueError(
            f"the gradient of KL(Q || P) needs the target's density, and target {target.name!r} is known by"
            " its points alone. Use a mixture"
        )
    if isinstance(target, Analytic):
        raise ValueError(f"the exact gradient is known for mixtures, and target {target.name!r} is none. Use a mixture")
    if params.estimator == "score_function_baseline" and params.samples < 2:
        raise ValueError(
            "estimator score_function_baseline compares each sample with the others, and samples 1 leaves"
            " none. Use samples 2 or more, or estimator score_function"
        )


def batch_key(params: Params, target: Target) -> Hashable:
    """Shapes and operations; the target's numbers, offsets, widths and seeds are tensors."""
    gaussian = isinstance(target, Mixture) and target.df is None
    shape = (target.dim, padded_modes(target), gaussian)
    return (params.estimator, params.family, params.samples, params.repeats, params.dtype, *shape)


def bytes_of_stack(params: Params, target: Target, cells: int, device: str) -> int:
    """All gradients of each cell are held, and one cell's in double precision; samples are drawn in blocks."""
    item = 4 if params.dtype == "float32" else 8
    numbers = params.repeats * (target.dim + (1 if params.family == "gaussian_isotropic" else target.dim))
    drawn = 3 * STACK * item * max(NOISE_BLOCK, target.dim * params.samples)
    hot = 6 * max(PART_BYTES, STACK * item * params.samples * (target.dim + 2) * padded_modes(target))
    return drawn + hot + 4 * 8 * numbers + min(cells, STACK) * item * numbers + 10_000 * cells


def seconds_per_cell(params: Params, target: Target) -> float:
    """From timings of full stacks on one core, the exact gradient included."""
    item = 1.0 if params.dtype == "float32" else 2.0
    dim, modes = target.dim, padded_modes(target)
    per_sample = 1e-9 * (12 + 6 * dim + modes * (4 + 7 * dim + 0.1 * dim**2))
    drawn = 0 if params.estimator == "blocked" else params.repeats * params.samples
    return 4e-4 + item * drawn * per_sample


def run_batch(cells: Sequence[Cell], device: str, checkpoints: Checkpoints | None = None) -> list[Outcome]:
    """Measure the gradients of a stack of cells of one batch key; there is no training to go on with."""
    from experiments.gradients.batch import run

    return run(cells, device)


GRADIENTS = Experiment(
    name="gradients",
    version=2,
    params=Params,
    metrics=METRICS,
    objective="mean_squared_error",
    check=check,
    batch_key=batch_key,
    bytes_of_stack=bytes_of_stack,
    seconds_per_cell=seconds_per_cell,
    run_batch=run_batch,
    labels=LABELS,
)
