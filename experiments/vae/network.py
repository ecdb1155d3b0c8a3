r"""K multilayer perceptrons as one tensor program, their gradients written out.

Layout: activations are sample-last, ``(K, features, N)``, so that every layer is one ``baddbmm`` of
``(K, out, in)`` with ``(K, in, N)``. N is padded to a multiple of ``COLUMNS``: where the rows of a matrix do not
start on cache lines, the last bits of its products depend on its place in the stack (measured with MKL).

All parameters of a stack lie in one flat tensor, layer by layer, each block ``(K, out, in)`` contiguous: products
write their gradients straight into the like-shaped flat gradient, and the optimiser is a handful of elementwise
operations on the whole.

Hidden units are rectified: forward and backward of such a layer cost 2 microseconds a network (64 units, 128
samples, one core), those of a tanh layer 27, beside the 39 of its matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from experiments.randomness import uniform

COLUMNS = 16


@dataclass(frozen=True)
class Layer:
    """One affine map of K networks: weight ``(K, out, in)``, bias ``(K, out, 1)``; views of a flat tensor."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Widths:
    """The layer widths of an encoder and a decoder, inputs first."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]

    @property
    def latent(self) -> int:
        """Latent dimensions."""
        return self.decoder[0]


@dataclass(frozen=True)
class Stack:
    """K encoders and decoders, and the flat tensor that holds all their parameters."""

    flat: Tensor
    encoder: list[Layer]
    decoder: list[Layer]

    @classmethod
    def zeros(cls, stack: int, widths: Widths, dtype: torch.dtype, device: str | torch.device) -> Stack:
        """Networks of these widths with every parameter 0."""
        encoder, decoder = (stack * parameter_count(w) for w in (widths.encoder, widths.decoder))
        # Rounded up, so that elementwise kernels never fall into their scalar remainder loops.
        flat = torch.zeros(-(-(encoder + decoder) // 64) * 64, dtype=dtype, device=device)
        return cls.over(flat, stack, widths)

    @classmethod
    def over(cls, flat: Tensor, stack: int, widths: Widths) -> Stack:
        """Networks whose parameters are the elements of ``flat``."""
        encoder = stack * parameter_count(widths.encoder)
        return cls(flat, layers(flat, stack, widths.encoder), layers(flat[encoder:], stack, widths.decoder))

    @property
    def every_layer(self) -> list[Layer]:
        """Of both networks."""
        return [*self.encoder, *self.decoder]

    @property
    def parameters(self) -> list[Tensor]:
        """Every layer's weight and bias, ``(K, ...)``."""
        return [p for layer in self.every_layer for p in (layer.weight, layer.bias)]


def padded_columns(count: int) -> int:
    """The next multiple of ``COLUMNS``."""
    return -(-count // COLUMNS) * COLUMNS


def sizes(widths: Sequence[int]) -> list[tuple[int, int]]:
    """``(out, in)`` of each layer of a network whose layers have these widths, the input's first."""
    return [(after, before) for before, after in pairwise(widths)]


def parameter_count(widths: Sequence[int]) -> int:
    """Weights and biases of one network."""
    return sum(out * (before + 1) for out, before in sizes(widths))


def layers(flat: Tensor, stack: int, widths: Sequence[int]) -> list[Layer]:
    """The layers of ``stack`` networks, as views of the first elements of ``flat``."""
    found, at = [], 0
    for out, before in sizes(widths):
        weight = flat[at : at + stack * out * before].view(stack, out, before)
        at += weight.numel()
        bias = flat[at : at + stack * out].view(stack, out, 1)
        at += bias.numel()
        found.append(Layer(weight, bias))
    return found


def initialise(into: Sequence[Layer], generators: Sequence[torch.Generator]) -> None:
    r"""Fill the layers as ``torch.nn.Linear`` does: weights and biases uniform on :math:`\pm 1/\sqrt{in}`."""
    for layer in into:
        _, out, before = layer.weight.shape
        draw = (uniform((out, before + 1), generators, layer.weight.dtype) * 2 - 1) / before**0.5
        layer.weight.copy_(draw[:, :, :before])
        layer.bias.copy_(draw[:, :, before:])


def forward(network: Sequence[Layer], x: Tensor, out: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Every layer's output, ``(K, width, N)``, for inputs ``x (K, in, N)``; written into ``out`` if given."""
    outputs: list[Tensor] = []
    for index, layer in enumerate(network):
        if out is None:
            x = torch.baddbmm(layer.bias, layer.weight, x)
        else:
            x = torch.baddbmm(layer.bias, layer.weight, x, out=out[index])
        if index < len(network) - 1:
            x.relu_()
        outputs.append(x)
    return outputs


def output(network: Sequence[Layer], x: Tensor) -> Tensor:
    """The last layer's output, ``(K, out, N)``: computed in the network's precision, given in that of ``x``."""
    return forward(network, x.to(network[0].weight.dtype))[-1].to(x.dtype)


def backward(
    network: Sequence[Layer],
    x: Tensor,
    outputs: Sequence[Tensor],
    grad: Tensor,
    into: Sequence[Layer],
    scratch: Sequence[Tensor],
) -> Tensor:
    """Write a scalar's gradient at every parameter; returns the one at the first layer's output.

    Args:
        x: the network's input, ``(K, in, N)``.
        outputs: what `forward` returned for it.
        grad: the scalar's gradient at the last output, ``(K, out, N)``.
        into: where the parameters' gradients are written.
        scratch: buffers shaped as the hidden outputs.
    """
    for index in reversed(range(len(network))):
        below = outputs[index - 1] if index else x
        torch.bmm(grad, below.mT, out=into[index].weight)
        torch.sum(grad, -1, keepdim=True, out=into[index].bias)
        if index:
            back = torch.bmm(network[index].weight.mT, grad, out=scratch[index - 1])
            grad = torch.ops.aten.threshold_backward.grad_input(back, below, 0, grad_input=back)
    return grad


def jacobian(network: Sequence[Layer], outputs: Sequence[Tensor]) -> Tensor:
    """d output / d input at the points that gave ``outputs``, exact: ``(K, N, out, in)``.

    One product for each input and layer, from the first layer up, or for each output from the last one down,
    whichever are fewer.
    """
    weights = [layer.weight for layer in network]
    gates = [torch.gt(hidden, 0, out=torch.empty_like(hidden)) for hidden in outputs[:-1]]
    if outputs[-1].shape[1] >= weights[0].shape[2]:
        return _products(weights, gates, outputs[-1].shape[2]).permute(0, 3, 1, 2)
    down = _products([weight.mT for weight in reversed(weights)], gates[::-1], outputs[-1].shape[2])
    return down.permute(0, 3, 2, 1)


def _products(weights: Sequence[Tensor], gates: Sequence[Tensor], points: int) -> Tensor:
    """``(K, last, first, N)``: the weights' product, each row of all but the last one gated, ``(K, width, N)``."""
    found = weights[0].unsqueeze(-1).expand(-1, -1, -1, points)
    for weight, gate in zip(weights[1:], gates, strict=True):
        gated = found * gate.unsqueeze(2)
        found = torch.bmm(weight, gated.flatten(2)).unflatten(2, gated.shape[2:])
    return found
