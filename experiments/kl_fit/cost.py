"""What a stack of fits takes: memory, time, and how many cells it is padded to. Plans need it, so no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.kl_fit.names import operations
from experiments.padding import padded_modes
from experiments.targets import Points, Target

if TYPE_CHECKING:
    from experiments.kl_fit import Params

STACK = 32  # stacks are multiples of this: vectorised loops then leave no remainder, whose last bits would differ
# Flows, and mixtures of many components, cost a hundred times a Gaussian: that many copies of a last cell would cost
# more than all the others. Their tensors are whole vectors for each two cells.
STACK_OF_LARGE = 2
MANY = 16  # components
DRAWS = 10_000  # of P and of Q by which a fit is judged where the dimension is above one, or Q a flow


def flow_numbers(params: Params, dim: int) -> int:
    """How many numbers a flow's training holds for each sample, counted: a spline takes some 14 passes."""
    bent = max(1, dim // 2)
    return params.flow_transforms * (4 * params.flow_hidden + bent * (42 * params.flow_bins + 60))


def multiple(params: Params, dim: int) -> int:
    """Of what number of cells stacks are; mixtures in one dimension are judged by that number too."""
    many = params.family == "gaussian_mixture" and params.components >= MANY and dim > 1
    return STACK_OF_LARGE if many or params.family == "flow" else STACK


def bytes_of_stack(params: Params, target: Target, cells: int) -> int:
    """What training takes for each cell, padding too, or judging for a block of cells where that is more.

    Too much for cells beyond those that train at once.
    """
    each, size = _training_bytes(params, target), multiple(params, target.dim)
    by_draws = not isinstance(target, Points) and (target.dim > 1 or params.family == "flow")
    judging = STACK * 8 * DRAWS * (5 * target.dim + 40) if by_draws else 0
    return max(-(-cells // size) * size * each, judging)


def _training_bytes(params: Params, target: Target) -> int:
    """Of one cell of a stack, from counts of the numbers that a step holds for each sample at its peak."""
    dim, item = target.dim, 4 if params.dtype == "float32" else 8
    modes = padded_modes(target)
    fitted = params.components if params.family == "gaussian_mixture" else 0
    numbers = modes * (dim + 3) + fitted * (5 * dim + 6) + 6 * dim + 4
    if operations(params) in ("jensen_shannon", "alpha"):  # samples of both sides, by autograd
        numbers += 30
    if params.family == "student_t":
        numbers += 3 * (dim + params.family_df)
    if params.family == "flow":
        numbers += flow_numbers(params, dim)
    fixed = 50_000 + (20_000_000 if params.family == "flow" else 0)  # 17 to 23 MB a flow of gmm40, at 256 samples
    parameters = 8 * 8 * (dim + dim * (modes + fitted)) * (dim + 2)
    return fixed + parameters + item * params.samples * numbers


def bytes_on_gpu(params: Params, target: Target) -> int:
    """What a cell's training may take there, where a step is held twice: as it is, and as the graph replayed."""
    modes = padded_modes(target)
    item = 4 if params.dtype == "float32" else 8
    fitted = params.components if params.family == "gaussian_mixture" and params.components > 1 else 0
    training = item * target.dim * params.samples * (4 * modes + 75 * fitted + 40)
    if params.family == "student_t":
        training += item * target.dim * params.samples * 340
    if params.family == "flow":
        training += 20_000_000 + item * params.samples * flow_numbers(params, target.dim)
    parameters = 8 * 8 * (target.dim + target.dim * (modes + fitted)) * (target.dim + 2)
    return 50_000 + training + parameters


def seconds_per_cell(params: Params, target: Target) -> float:
    """From timings of full stacks on one core."""
    modes = padded_modes(target)
    item = 1.0 if params.dtype == "float32" else 2.0
    per_sample = 1.5e-9 * (3 + 3 * target.dim + modes * (3 + 1.2 * target.dim + 0.15 * target.dim**2))
    fitted = 0 if params.family != "gaussian_mixture" else params.components
    extra = 24e-9 * fitted * (3 + 1.5 * target.dim)
    if params.family == "student_t":
        extra += 40e-9 * params.family_df
    judging = 1e-3 * (1 + 0.3 * fitted)
    if params.family == "flow":  # gmm40: some 4 s for 1000 steps of 256 samples, and 0.27 s to judge
        extra += 4.4e-9 * flow_numbers(params, target.dim)
        judging = 0.27
    return params.steps * (1.2e-6 + item * params.samples * (per_sample + extra)) + judging
