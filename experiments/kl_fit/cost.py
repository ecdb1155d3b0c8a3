"""What a stack of fits takes: memory, time, and how many cells it is padded to. Plans need it, so no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.kl_fit.names import operations
from experiments.metrics import CHUNK
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
# Numbers drawn at once for a seed: one call costs as much as about a thousand of them, or on a GPU as all of them.
NOISE_BLOCK = {"cpu": 8192, "cuda": 65_536}
SLICE_BYTES = 8 << 20  # of a step's largest tensors: more cells share its calls, and far beyond the cache gain no more
SLICE_OF_FLOWS = 64 << 20  # of all that a step holds; a flow's many small calls cost less for more cells
# A GPU launches the same for any number of cells: as many at once as leave room for other trials' stacks.
SLICE_ON_GPU = 4 << 30  # bytes of all that training holds
JUDGED_ON_GPU = 256  # cells, whose largest tensors are at most
JUDGED_BYTES = 256 << 20


def flow_numbers(params: Params, dim: int) -> int:
    """How many numbers a flow's training holds for each sample, counted: a spline takes some 14 passes."""
    bent = max(1, dim // 2)
    return params.flow_transforms * (4 * params.flow_hidden + bent * (42 * params.flow_bins + 60))


def multiple(params: Params, dim: int) -> int:
    """Of what number of cells stacks are; mixtures in one dimension are judged by that number too."""
    many = params.family == "gaussian_mixture" and params.components >= MANY and dim > 1
    return STACK_OF_LARGE if many or params.family == "flow" else STACK


def trained_at_once(params: Params, target: Target, device: str) -> int:
    """How many cells: so that a step's tensors stay in a core's cache, or all is well within a GPU."""
    item = 4 if params.dtype == "float32" else 8
    whole = multiple(params, target.dim)
    if device == "cuda":
        size = SLICE_ON_GPU // _training_bytes_on_gpu(params, target)
    elif params.family == "flow":
        size = min(STACK, SLICE_OF_FLOWS // (item * params.samples * flow_numbers(params, target.dim)))
    else:
        size = min(512, SLICE_BYTES // (item * params.samples * (target.dim + 2) * _components(params, target)))
    return max(whole, size // whole * whole)


def judged_at_once(params: Params, target: Target, device: str) -> int:
    """How many cells: a multiple of ``STACK``."""
    if device == "cpu" or params.family == "flow":
        return STACK
    largest = 8 * max(CHUNK[device] * _components(params, target), DRAWS * target.dim)
    return max(STACK, min(JUDGED_ON_GPU, JUDGED_BYTES // largest // STACK * STACK))


def _components(params: Params, target: Target) -> int:
    """Of the target or of the fit, whichever has more: the longest axis of the largest tensors."""
    return max(padded_modes(target), params.components if params.family == "gaussian_mixture" else 1)


def bytes_of_stack(params: Params, target: Target, cells: int, device: str) -> int:
    """What those take that train at once, padding too, or those that are judged at once where that is more."""
    size = multiple(params, target.dim)
    padded = -(-cells // size) * size
    trained = min(padded, trained_at_once(params, target, device))
    judged = min(max(padded, STACK), judged_at_once(params, target, device))
    by_draws = not isinstance(target, Points) and (target.dim > 1 or params.family == "flow")
    judging_bytes = 8 * DRAWS * (5 * target.dim + 40) if by_draws else 0
    training_bytes = _training_bytes_on_gpu if device == "cuda" else _training_bytes
    return max(trained * training_bytes(params, target), judged * judging_bytes)


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


def _training_bytes_on_gpu(params: Params, target: Target) -> int:
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
    noise = 4 * item * NOISE_BLOCK["cuda"]  # normal and uniform, the next block's beside the last one's
    return 50_000 + training + parameters + noise


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
