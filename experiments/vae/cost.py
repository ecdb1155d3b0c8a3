"""What a stack of VAEs takes: memory, time, and how many cells it is padded to. Plans need it, so no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from experiments.targets import Points, Target

if TYPE_CHECKING:
    from experiments.vae import Params

BLOCK = 16  # stacks are multiples of this: vectorised loops then leave no remainder, whose last bits would differ
TRAINED = {"cpu": 64, "cuda": 1024}  # cells at once, at most: more would not be faster
SLICE_BYTES = 10 << 20  # of a step on a core: beyond that, two cores' steps leave the cache that they share
JUDGED_ON_GPU = 256  # cells at once, that hold at most
JUDGED_BYTES = 3 << 30
COLUMNS = {"cpu": 1536, "cuda": 6144}  # a decoder's inputs at a time: what stays in cache, or keeps a GPU busy
MODES = 4  # of each posterior: there are twelve times as many draws
DRAWS = 1024  # test points, and draws of Q
NOISE_CHUNK = 16_384  # random numbers drawn by one call: a generator's call costs as much as a thousand of them


def widths(params: Params, dim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Layer widths of encoder and decoder, inputs first."""
    up = params.hidden if params.encoder == "mlp" else ()
    down = params.hidden[::-1] if params.decoder == "mlp" else ()
    return (dim, *up, 2 * params.latent_dim), (params.latent_dim, *down, dim)


def trained_at_once(params: Params, target: Target, device: str) -> int:
    """How many cells: a multiple of ``BLOCK``."""
    if device == "cuda":
        return TRAINED[device]
    return max(BLOCK, min(TRAINED[device], SLICE_BYTES // _step_bytes(params, target) // BLOCK * BLOCK))


def judged_at_once(params: Params, target: Target, device: str) -> int:
    """How many cells: a multiple of ``BLOCK``; a GPU launches the same for any number of them."""
    if device == "cpu":
        return BLOCK
    size = JUDGED_BYTES // _judging_bytes(params, target, device)
    return max(BLOCK, min(JUDGED_ON_GPU, size // BLOCK * BLOCK))


def bytes_of_stack(params: Params, target: Target, cells: int, device: str) -> int:
    """What those take that train at once, padding too, or those that are judged at once where that is more."""
    padded = -(-cells // BLOCK) * BLOCK
    trained = min(padded, trained_at_once(params, target, device))
    judged = min(padded, judged_at_once(params, target, device))
    return max(trained * _training_bytes(params, target), judged * _judging_bytes(params, target, device))


def _step_bytes(params: Params, target: Target) -> int:
    """Of one cell: parameters, Adam's moments, every layer's output and gradient."""
    layers = widths(params, target.dim)
    parameters = sum(_parameters(w) for w in layers)
    activations = 2 * params.batch_size * sum(sum(w) for w in layers)
    return (4 if params.dtype == "float32" else 8) * (9 * parameters + activations)


def _training_bytes(params: Params, target: Target) -> int:
    """Of one cell: a step's, noise, and points that are drawn once."""
    item = 4 if params.dtype == "float32" else 8
    noise = 2 * max(NOISE_CHUNK, params.batch_size * max(params.latent_dim, target.dim)) * 4
    fixed = target.dim * (params.train_size or 0)
    return 150_000 + _step_bytes(params, target) + item * (noise + 2 * fixed)


def _judging_bytes(params: Params, target: Target, device: str) -> int:
    """Of one cell: what its decoder makes of draws, its slopes at posteriors' modes, and P's densities.

    As if all were float64; networks are in the cell's ``dtype``.
    """
    _, down = widths(params, target.dim)
    latent, columns = params.latent_dim, COLUMNS[device]
    of_draws = columns * (sum(down[1:]) + 3 * MODES * latent + 6 * target.dim)
    of_modes = columns // 12 * latent * 3 * max(down)
    of_p = 0 if isinstance(target, Points) else 2 * DRAWS * (5 * target.dim + 40)
    return 8 * (of_draws + of_modes + of_p)


def seconds_per_cell(params: Params, target: Target) -> float:
    """From timings of stacks of 64 on one core."""
    up, down = (_parameters(w) for w in widths(params, target.dim))
    item = 1.0 if params.dtype == "float32" else 2.0
    step = item * (2e-5 + (up + down) * (1.2e-10 * params.batch_size + 1.2e-9))
    return params.steps * step + 0.02 + 1e-5 * down


def _parameters(widths: Sequence[int]) -> int:
    return sum(out * (before + 1) for before, out in pairwise(widths))
