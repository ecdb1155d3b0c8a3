r"""Training K variational autoencoders as one tensor program.

Each minimises, per example,

.. math:: \ell(d(z), x) + \beta \sum_j \max(\lambda, \mathrm{KL}_j), \qquad
          \mathrm{KL}_j = \tfrac12 (\mu_j^2 + e^{v_j} - 1 - v_j), \qquad z = \mu + e^{v / 2} \epsilon

(Kingma and Welling 2014, https://arxiv.org/abs/1312.6114; the KL weight of Higgins et al. 2017,
https://openreview.net/forum?id=Sy2fzU9gl), with the data term l of what z decodes to (data_term.py), the encoder's
(mu, v = log_var), lambda the free bits of one latent dimension, applied to the minibatch's mean KL_j (Kingma et al.
2016, https://arxiv.org/abs/1606.04934), and beta growing linearly over the warm-up. The gradient is written out: a
step is some sixty kernels for the whole stack, and waits for no result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from experiments.adam import Adam, FusedAdam, Move
from experiments.checkpoint import NOWHERE, Checkpoint, State, numbered
from experiments.replay import replayed
from experiments.vae.data_term import DataTerm
from experiments.vae.network import Stack, Widths, backward, forward, padded_columns

# A noise far too narrow has an enormous gradient. What Adam divides by must not remember it for long: with the usual
# 0.999 the noise then stands still short of its optimum.
BETAS_OF_TERM = (0.9, 0.99)
POINTS_OF_CURVE = 30


@dataclass(frozen=True)
class Schedule:
    """What a cell may choose without leaving its stack; each ``(K,)``."""

    learning_rate: Tensor
    kl_weight: Tensor
    kl_warmup: Tensor
    free_bits: Tensor


@dataclass(frozen=True)
class Trace:
    """What is known of the steps: means over the minibatches of a few, and how many of each cell stayed finite.

    Args:
        steps: counted from 0, evenly spaced in their logarithm, ``(S,)``.
        error: of the data term, ``(S, K)``.
        kl: of each latent dimension, ``(S, K, L)``.
        lasted: ``(K,)``.
    """

    steps: np.ndarray
    error: Tensor
    kl: Tensor
    lasted: Tensor

    @classmethod
    def zeros(cls, steps: int, stack: int, latent: int, like: Tensor) -> Trace:
        """Of no step so far."""
        shown = np.unique(np.geomspace(1, steps, POINTS_OF_CURVE).round().astype(np.int64)) - 1
        points, lasted = len(shown), like.new_zeros(stack, dtype=torch.long)
        return cls(shown, like.new_zeros(points, stack), like.new_zeros(points, stack, latent), lasted)

    @property
    def of_cells(self) -> dict[str, Tensor]:
        """The same tensors, each with the cells as first axis."""
        return {"error": self.error.T, "kl": self.kl.transpose(0, 1), "lasted": self.lasted}

    def take(self, first: int, error: Tensor, kl: Tensor) -> None:
        """The next steps, from ``first`` on: ``(C, K)`` and ``(C, K, L)``."""
        finite = torch.isfinite(error) & torch.isfinite(kl).all(dim=-1)
        run = finite.long().cumprod(dim=0).sum(dim=0)
        self.lasted.add_(torch.where(self.lasted == first, run, 0))
        begin, end = np.searchsorted(self.steps, (first, first + len(error)))
        for row, step in enumerate(self.steps[begin:end], start=int(begin)):
            self.error[row], self.kl[row] = error[step - first], kl[step - first]


@torch.inference_mode()  # gradients are written out, and torch need not be ready for autograd
def train(
    model: Stack,
    widths: Widths,
    schedule: Schedule,
    term: DataTerm,
    data: Iterable[Tensor],
    noise: Iterable[Tensor],
    *,
    steps: int,
    batch_size: int,
    streams: Mapping[str, Sequence[torch.Generator]] | None = None,
    checkpoint: Checkpoint = NOWHERE,
) -> Trace:
    """Train in place.

    Args:
        term: the data term of the loss, whose parameters are trained too.
        data: chunks of C minibatches, ``(K, D, C, N)``, as many as the steps need.
        noise: standard normal draws for each, ``(K, L, C, N)``.
        streams: from which data and noise are drawn, a chunk of both when it is needed.
        checkpoint: from which to go on, and where to keep how far this is.
    """
    flat, stack = model.flat, len(schedule.kl_weight)
    gradient = Stack.zeros(stack, widths, flat.dtype, flat.device)
    rates = _per_parameter(schedule.learning_rate, widths, flat)
    # A graph of a GPU's step would replay the fused kernel with one number as its rate, and each step has its own.
    optimiser = FusedAdam(flat, rates) if flat.device.type == "cpu" else Adam([flat], rates)
    of_term = Adam(term.parameters, schedule.learning_rate, betas=BETAS_OF_TERM)
    buffers = _Buffers.allocate(widths, stack, padded_columns(batch_size), flat)
    trace = Trace.zeros(steps, stack, widths.latent, flat)
    # The loss is a mean over the minibatch: each point's share of it, and nothing for the padding.
    share = flat.new_zeros(padded_columns(batch_size))
    share[:batch_size] = 1 / batch_size
    # Without free bits a KL rounded below 0 must keep its gradient.
    floor = torch.where(schedule.free_bits > 0, schedule.free_bits, -math.inf).view(-1, 1)

    def advance(x: Tensor, epsilon: Tensor, kl_weight: Tensor, move: Move, of_terms: Move) -> tuple[Tensor, Tensor]:
        z, decoded = _encode_decode(model, buffers, x, epsilon)
        slope = term.slope(decoded, x, share, batch_size)
        kl = _kl(buffers)[..., :batch_size].mean(-1)
        kl_gradient = (kl_weight * (kl >= floor)).unsqueeze(-1) * share
        _backpropagate(model, gradient, buffers, x, z, epsilon, slope.at_output, kl_gradient)
        optimiser.step([gradient.flat], move)
        of_term.step(slope.at_parameters, of_terms)
        return slope.error, kl

    replay = replayed(advance, flat.device)
    parameters = [*model.parameters, *term.parameters]
    moments = [p for moment in optimiser.moments for p in Stack.over(moment, stack, widths).parameters]
    tensors = numbered("parameter", parameters) | numbered("moment", [*moments, *of_term.moments])
    state = State(tensors | trace.of_cells, streams or {})
    done = checkpoint.restore(state)
    moves = (islice(of.moves(steps), done, None) for of in (optimiser, of_term))
    per_step = zip(islice(_kl_weights(schedule, steps), done, None), *moves, strict=False)
    for x, epsilon in zip(map(_padded, data), map(_padded, noise), strict=False):
        count = min(x.shape[2], steps - done)
        error, kl = flat.new_empty(count, stack), flat.new_empty(count, stack, widths.latent)
        minibatches = zip(x.unbind(2), epsilon.unbind(2), islice(per_step, count), strict=False)
        for i, (points, draws, others) in enumerate(minibatches):
            error[i], kl[i] = replay(points, draws, *others)
        trace.take(done, error, kl)
        done += count
        if done == steps:  # before more is drawn
            break
        checkpoint.keep_if_due(done, steps, state)
    trace.error.div_(batch_size)
    return trace


def _padded(chunk: Tensor) -> Tensor:
    """A chunk ``(K, D, C, N)`` of minibatches, N padded with zeros."""
    missing = padded_columns(chunk.shape[-1]) - chunk.shape[-1]
    return pad(chunk, (0, missing)) if missing else chunk


def kl_weight_factor(schedule: Schedule, step: Tensor, steps: int) -> Tensor:
    """Of the KL weight at steps counted from 0, ``(S, 1) -> (S, K)``: linear over the warm-up, then 1."""
    return ((step + 1) / (schedule.kl_warmup * steps)).clamp(max=1)


def _kl_weights(schedule: Schedule, steps: int) -> Iterator[Tensor]:
    """The KL weight of each step, ``(K, 1)``."""
    for begin in range(0, steps, 256):
        step = torch.arange(begin, begin + 256, device=schedule.kl_weight.device).view(-1, 1)
        yield from (schedule.kl_weight * kl_weight_factor(schedule, step, steps)).unsqueeze(-1).unbind(0)


def _per_parameter(values: Tensor, widths: Widths, like: Tensor) -> Tensor:
    """One value for each cell -> one for each element of the flat parameter tensor; 1 where that is padding."""
    spread = Stack.zeros(len(values), widths, like.dtype, like.device)
    spread.flat.fill_(1.0)
    for parameter in spread.parameters:
        parameter.copy_(values.view(-1, 1, 1).expand_as(parameter))
    return spread.flat


@dataclass(frozen=True)
class _Buffers:
    """Every intermediate of a step, allocated once: fresh memory costs more than most of the kernels."""

    encoded: list[Tensor]
    decoded: list[Tensor]
    std: Tensor
    grad_encoded: list[Tensor]
    grad_decoded: list[Tensor]

    @classmethod
    def allocate(cls, widths: Widths, stack: int, columns: int, like: Tensor) -> _Buffers:
        def empty(width: int) -> Tensor:
            return like.new_empty(stack, width, columns)

        return cls(
            encoded=[empty(width) for width in widths.encoder[1:]],
            decoded=[empty(width) for width in widths.decoder[1:]],
            std=empty(widths.latent),
            grad_encoded=[empty(width) for width in widths.encoder[1:]],
            grad_decoded=[empty(width) for width in widths.decoder[1:-1]],
        )


def _encode_decode(model: Stack, buffers: _Buffers, x: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """One posterior sample of each point, ``(K, L, N)``, and what it decodes to, ``(K, D, N)``."""
    mu, log_var = forward(model.encoder, x, buffers.encoded)[-1].chunk(2, dim=1)
    std = torch.mul(log_var, 0.5, out=buffers.std).exp_()
    z = torch.addcmul(mu, std, epsilon)
    return z, forward(model.decoder, z, buffers.decoded)[-1]


def _kl(buffers: _Buffers) -> Tensor:
    """From N(0, 1), of each point and latent dimension, ``(K, L, N)``."""
    mu, log_var = buffers.encoded[-1].chunk(2, dim=1)
    return torch.addcmul(mu.square(), buffers.std, buffers.std).sub_(log_var).sub_(1).mul_(0.5)


def _backpropagate(
    model: Stack,
    gradient: Stack,
    buffers: _Buffers,
    x: Tensor,
    z: Tensor,
    epsilon: Tensor,
    grad_output: Tensor,
    kl_gradient: Tensor,
) -> None:
    """Write the loss's gradient, given that at the decoder's output and of each KL, ``(K, L, N)``."""
    mu, _ = buffers.encoded[-1].chunk(2, dim=1)
    std = buffers.std
    grad = backward(model.decoder, z, buffers.decoded, grad_output, gradient.decoder, buffers.grad_decoded)
    grad_z = torch.bmm(model.decoder[0].weight.mT, grad)
    grad_mu, grad_log_var = buffers.grad_encoded[-1].chunk(2, dim=1)
    torch.addcmul(grad_z, mu, kl_gradient, out=grad_mu)
    torch.mul(grad_z, epsilon, out=grad_log_var).mul_(std)
    grad_log_var.addcmul_(std.square().sub_(1), kl_gradient).mul_(0.5)
    backward(model.encoder, x, buffers.encoded, buffers.grad_encoded[-1], gradient.encoder, buffers.grad_encoded)
