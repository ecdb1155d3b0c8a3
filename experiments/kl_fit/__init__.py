"""kl_fit: fit a family of densities to a target by a divergence, and measure what the fit keeps."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints

from experiments.experiment import Cell, Checkpoints, Experiment, Metric, Outcome
from experiments.experiment import Params as BaseParams
from experiments.kl_fit.cost import bytes_of_stack, seconds_per_cell
from experiments.kl_fit.names import operations
from experiments.kl_fit.tails import check_tails
from experiments.metrics import DENSITY_METRICS, NEIGHBOUR_METRICS
from experiments.metrics import LABELS as COVERAGE_LABELS
from experiments.padding import padded_modes
from experiments.targets import Analytic, Mixture, Points, Target

LEAST_ALPHA = 1e-6  # from 0 or 1: nearer, 1 - alpha has few digits in single precision, and the divergence none

Init = Annotated[str, StringConstraints(pattern=r"^(wide|narrow|random|mode:\d+)$")]


# One line each; docs/divergences has the rest.
MEANINGS = {
    "forward_kl": "KL(P || Q), mean of log p - log q under P: what P has and Q lacks costs most; covers",
    "reverse_kl": "KL(Q || P), mean of log q - log p under Q: what Q has and P lacks costs most; seeks a mode",
    "jeffreys": "KL(P || Q) + KL(Q || P): both cost",
    "mixed": "w KL(P || Q) + (1 - w) KL(Q || P), with w = forward_weight",
    "jensen_shannon": "mean KL of P and of Q to (P + Q) / 2: at most ln 2, whatever is lost or made up",
    "alpha": "(1 - int p^alpha q^(1 - alpha)) / (alpha (1 - alpha)): from reverse KL at 0 to forward KL at 1",
}


class Params(BaseParams):
    """Parameters of one fit."""

    divergence: Literal["forward_kl", "reverse_kl", "jeffreys", "mixed", "jensen_shannon", "alpha"] = Field(
        "reverse_kl",
        json_schema_extra={"meanings": {**MEANINGS}},
        description="what the fit minimises; `modesweep list divergences` says what each is",
    )
    alpha: float | None = Field(
        None,
        ge=-10,
        le=10,
        description="of divergence alpha, and given with no other: 1 is forward KL, 0 reverse KL, 1/2 four times the"
        " squared Hellinger distance",
    )
    forward_weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="w of divergence mixed, and given with no other: w KL(P || Q) + (1 - w) KL(Q || P)",
    )
    family: Literal[
        "gaussian_isotropic", "gaussian_diagonal", "gaussian_full", "student_t", "gaussian_mixture", "flow"
    ] = Field(
        "gaussian_full",
        description="what Q may be: a Gaussian with a covariance of some shape, a Student-t with a full scale matrix,"
        " a mixture of full Gaussians whose weights are learnt, or a neural spline flow of coupling transforms",
    )
    components: int = Field(
        8,
        ge=1,
        le=1024,
        description="of family gaussian_mixture; they start drawn from the init, and share its volume",
    )
    family_df: int = Field(
        5,
        ge=3,
        le=100,
        description="degrees of freedom of family student_t, a whole number; it has a covariance from 3 on",
    )
    flow_transforms: int = Field(
        4,
        ge=1,
        le=64,
        description="of family flow, each of which bends half of the coordinates; it starts as the init's Gaussian",
    )
    flow_hidden: int = Field(
        32,
        ge=1,
        le=1024,
        description="of family flow: units in each of the two hidden layers that make a transform's splines",
    )
    flow_bins: int = Field(16, ge=2, le=128, description="of family flow: pieces of a spline")
    estimator: Literal["reparameterization", "sticking_the_landing", "score_function", "score_function_baseline"] = (
        Field(
            "reparameterization",
            description="of reverse KL's gradient; the other divergences have only reparameterization",
        )
    )
    init: Init = Field(
        "wide",
        description="where Q starts, restricted to the family. wide: the target's mean and covariance; narrow: its"
        " mean, and the width of its narrowest component; random: as narrow, at a location drawn from a Gaussian of"
        " the target's mean and covariance; mode:<k>: the k-th component, from 0. student_t takes its scale matrix"
        " from a Student-t component, and its covariance from all else",
    )
    init_scale: float = Field(1.0, gt=0, description="multiplies the initial standard deviations")
    init_loc: float | None = Field(
        None,
        description="where Q's mean starts instead, each coordinate of it, in the target's own units",
    )
    steps: int = Field(1000, ge=1, le=10_000_000, description="of the optimizer")
    samples: int = Field(256, ge=1, le=1_000_000, description="drawn afresh at each step, of P or of Q")
    optimizer: Literal["adam", "sgd"] = Field(
        "adam",
        description="adam, or sgd whose small steps follow the gradient flow",
    )
    learning_rate: float = Field(
        0.02,
        gt=0,
        description="of the optimizer; constant for the first half of the steps, then it falls to zero along a cosine"
        " so that the fit settles",
    )
    standardise: bool = Field(
        True,
        description="whether steps are in units of the target's own standard deviations, which makes one learning"
        " rate fit all targets. It moves no optimum, but may decide which one a fit reaches",
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="numbers that the steps are computed in")


METRICS: tuple[Metric, ...] = (
    Metric(
        "objective",
        "nats",
        "the chosen divergence of the final fit; cross entropy for points",
        "lower",
        has_error=True,
    ),
    *DENSITY_METRICS,
    *(metric for metric in NEIGHBOUR_METRICS if metric not in DENSITY_METRICS),
    Metric(
        "optimum_value",
        "nats",
        "the least value that any Q of the family can have of the divergence; cross entropy for points",
    ),
    Metric("optimum_gap", "nats", "this fit's exact distance above optimum_value, without Monte-Carlo error", "lower"),
    Metric(
        "converged",
        "",
        "1 where the fit is within 0.01 nats of the local optimum that it is at or was on its way to, else 0",
        "higher",
    ),
)

LABELS = {
    **COVERAGE_LABELS,
    "optimum_label": "the local optimum that the fit reached: covering, seeking:<k> (one mode), partial:<k>,<l>,..."
    " (some modes) or between",
}


def check(params: Params, target: Target) -> None:
    """Refuse what has no answer."""
    _check_names(params)
    mode = re.fullmatch(r"mode:(\d+)", params.init)
    if isinstance(target, Points):
        _check_points(params, target, is_mode=mode is not None)
        return
    if mode and isinstance(target, Analytic):
        raise ValueError(
            f"init {params.init} needs the target's components, and target {target.name!r} is a formula without any."
            " Use init wide, narrow or random"
        )
    if mode and int(mode[1]) >= target.modes:
        last = target.modes - 1
        raise ValueError(f"init {params.init}: target {target.name!r} has modes mode:0 to mode:{last}")
    draws_fit = operations(params) != "forward_kl"
    if params.family == "gaussian_mixture" and draws_fit and params.samples < params.components:
        raise ValueError(
            f"family gaussian_mixture: each of its {params.components} components needs a sample at each step, and"
            f" there are {params.samples}. Use samples {params.components} or more"
        )
    check_tails(params, target)


def _check_names(params: Params) -> None:
    """Parameters that mean something with one divergence alone, and estimators that need reverse KL."""
    for name, divergence in (("alpha", "alpha"), ("forward_weight", "mixed")):
        given = getattr(params, name) is not None
        if given and params.divergence != divergence:
            raise ValueError(
                f"{name} belongs to divergence {divergence}, and this is {params.divergence}: leave it out"
            )
        if not given and params.divergence == divergence:
            raise ValueError(f"divergence {divergence} needs {name}, such as 0.5")
    if params.alpha is not None and 0 < min(abs(params.alpha), abs(1 - params.alpha)) < LEAST_ALPHA:
        raise ValueError(
            f"alpha {params.alpha:g} is so near to {round(params.alpha)} that rounding would decide: use alpha"
            f" {round(params.alpha)} itself, or one at least {LEAST_ALPHA:g} away"
        )
    if params.estimator == "reparameterization":
        return
    if operations(params) != "reverse_kl":
        raise ValueError(
            f"estimator {params.estimator} is one of reverse KL's gradient, and the divergence is {params.divergence}."
            " Use estimator reparameterization, or divergence reverse_kl"
        )
    if params.family == "gaussian_mixture":
        raise ValueError(
            f"estimator {params.estimator}: the samples of a gaussian_mixture are stratified, and their weights have"
            " exact gradients. Use estimator reparameterization"
        )
    if params.estimator == "score_function_baseline" and params.samples < 2:
        raise ValueError(
            "estimator score_function_baseline compares each sample with the others, and samples 1 leaves"
            " none. Use samples 2 or more, or estimator score_function"
        )


def _check_points(params: Params, target: Points, is_mode: bool) -> None:
    if operations(params) != "forward_kl":
        raise ValueError(
            f"divergence {params.divergence} needs the target's density, and target {target.name!r} is known by"
            " its points alone. Use divergence forward_kl"
        )
    if params.init == "narrow" or is_mode:
        raise ValueError(
            f"init {params.init} needs the target's components, and target {target.name!r} has only points."
            " Use init wide or random"
        )
    deviations = np.sqrt(np.diag(target.covariance))
    constant = [c for c, sd in zip(target.columns, deviations, strict=True) if not sd > 0]
    if params.family == "gaussian_isotropic" and len(constant) < target.dim:
        return  # one width for all coordinates
    if constant:
        raise ValueError(
            f"target {target.name!r}: {_some(constant)} no spread, so a fit of family {params.family} would get ever"
            " narrower there, and its likelihood has no bound. Use family gaussian_isotropic, or experiment vae"
        )
    correlation = target.covariance / np.outer(deviations, deviations)
    if params.family != "gaussian_diagonal" and np.linalg.eigvalsh(correlation)[0] < 1e-10:
        raise ValueError(
            f"target {target.name!r}: its columns are linearly dependent, so a full covariance would be singular."
            " Use family gaussian_diagonal, or fewer columns"
        )


def _some(columns: Sequence[str]) -> str:
    """``x has``, ``x and y have``, or ``x, y, z and 4 more have``."""
    if len(columns) == 1:
        return f"{columns[0]} has"
    most = 3
    last = columns[-1] if len(columns) <= most else f"{len(columns) - most} more"
    return f"{', '.join(columns[: min(most, len(columns) - 1)])} and {last} have"


def batch_key(params: Params, target: Target) -> Hashable:
    """Shapes, operations and coordinates; locations, weights, widths, inits, learning rates and seeds are tensors."""
    kind: Hashable = "points"
    if isinstance(target, Mixture):
        kind = (padded_modes(target), target.df is None)
    elif isinstance(target, Analytic):
        kind = target.digest
    return (
        *(operations(params), params.family, params.estimator, params.steps, params.samples, params.dtype),
        *(params.optimizer, params.standardise),
        *(target.dim, kind),
        *(_components(params), params.family_df if params.family == "student_t" else 0),
        *((params.flow_transforms, params.flow_hidden, params.flow_bins) if params.family == "flow" else ()),
    )


def _components(params: Params) -> int:
    return params.components if params.family == "gaussian_mixture" else 1


def run_batch(cells: Sequence[Cell], device: str, checkpoints: Checkpoints | None = None) -> list[Outcome]:
    """Fit and evaluate a stack of cells of one batch key."""
    from experiments.kl_fit.batch import run

    return run(cells, device, checkpoints)


KL_FIT = Experiment(
    name="kl_fit",
    version=5,
    params=Params,
    metrics=METRICS,
    objective="objective",
    objective_of=(
        *("divergence", "alpha", "forward_weight"),
        *("family", "family_df", "components", "flow_transforms", "flow_hidden", "flow_bins"),
    ),
    used_with={
        "components": ("family", "gaussian_mixture"),
        "family_df": ("family", "student_t"),
        **dict.fromkeys(("flow_transforms", "flow_hidden", "flow_bins"), ("family", "flow")),
    },
    check=check,
    batch_key=batch_key,
    bytes_of_stack=bytes_of_stack,
    seconds_per_cell=seconds_per_cell,
    run_batch=run_batch,
    labels=LABELS,
)
