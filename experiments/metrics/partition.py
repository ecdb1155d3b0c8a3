"""Sums over the partition of space by the most responsible mode: all that the per-mode metrics are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from experiments.metrics import CHUNK
from experiments.stacked_mixture import StackedMixture, shares

ELLIPSE = 0.99  # of a Gaussian mode's mass


@dataclass(frozen=True)
class Measure:
    r"""Weighted points that stand for P, or for Q: expectations are :math:`\sum_i w_i f(x_i)`.

    Quadrature nodes, weighted by the density, and plain draws are the same to every metric.

    Args:
        x: ``(K, D, N)``, float64.
        weight: ``(K, N)``, summing to one over the points.
        log_q: log-density of Q at the points, ``(K, N)``.
        exact: whether this is quadrature, whose errors are reported as zero.
    """

    x: Tensor
    weight: Tensor
    log_q: Tensor
    exact: bool = False

    @classmethod
    def of_draws(cls, x: Tensor, log_q: Tensor) -> Measure:
        """Independent draws ``(K, D, N)``, each of the same weight."""
        return cls(x, torch.full_like(log_q, 1.0 / log_q.shape[1]), log_q)


def pieces(points: Tensor) -> list[Tensor]:
    """Some of the points ``(..., N)`` at a time."""
    return [part.contiguous() for part in points.split(CHUNK[points.device.type], dim=-1)]


def log_density(mixture: StackedMixture, x: Tensor) -> Tensor:
    """At ``(K, D, N)``, some points at a time: the ``(K, M, N)`` tensors of many components then stay in the cache."""
    return torch.cat([mixture.log_prob(part) for part in pieces(x)], dim=1)


@dataclass(frozen=True)
class Tally:
    """What one pass over a measure leaves. Sums over the M cells of the partition are weighted.

    Args:
        log_p: log-density of P at the points, ``(K, N)``.
        log_ratio: log p - log q there, ``(K, N)``.
        p_part, q_part: p / (p + q) and q / (p + q) there, ``(K, N)``.
        nearest: squared Mahalanobis distance to the nearest mode, ``(K, N)``.
        mode: index of the cell that a point lies in, as a float, ``(K, N)``; of modes that tie, the first.
        mass: ``(K, M)``.
        x: ``(K, M, D)``.
        distance: squared Mahalanobis distance to the mode, ``(K, M)``.
        in_ellipse: mass in each mode's 99 % ellipse, and that mass times s and s^2 with s = p / (p + q),
            ``(K, M, 3)``.
        nearest_mass: mass where a component's own density, without its weight, is the highest, ``(K, M)``.
        sum_of_log_ratio, sum_of_p_part, sum_of_q_part: ``(K, M)`` each.
        gated: mass within the 99 % ellipse of the cell's own mode, ``(K, M)``.
    """

    log_p: Tensor
    log_ratio: Tensor
    p_part: Tensor
    q_part: Tensor
    nearest: Tensor
    mode: Tensor
    mass: Tensor
    x: Tensor
    distance: Tensor
    in_ellipse: Tensor
    nearest_mass: Tensor
    sum_of_log_ratio: Tensor
    sum_of_p_part: Tensor
    sum_of_q_part: Tensor
    gated: Tensor


def tally(mixture: StackedMixture, measure: Measure) -> Tally:
    """One pass over the points of a measure; see ``Tally``."""
    limit = 2 * float(special.gammaincinv(0.5 * mixture.dim, ELLIPSE))  # quantile of chi2; scipy.stats loads slowly
    shape = mixture.log_weights.amax(dim=1, keepdim=True)
    padding = mixture.log_weights == -torch.inf
    equal = ((mixture.log_weights == shape) | padding).all(dim=1)
    split = [t.split(CHUNK[t.device.type], dim=-1) for t in (measure.x, measure.weight, measure.log_q)]
    every = bool(equal.all())
    parts = [_chunk(mixture, limit, every, *piece) for piece in zip(*split, strict=True)]
    points, sums, ellipse, own = zip(*parts, strict=True)
    log_p, log_ratio, p_part, q_part, nearest, mode = (torch.cat(part, dim=1) for part in zip(*points, strict=True))
    total = _add(sums)
    mass, p_parts, q_parts, distance, log_ratios, gated = total[:, :6].unbind(dim=1)
    # Where all weights are equal the two partitions are one; so a cell's result needs no other cell's weights.
    nearest_mass = torch.where(equal, mass, _add(own))
    return Tally(
        log_p=log_p,
        log_ratio=log_ratio,
        p_part=p_part,
        q_part=q_part,
        nearest=nearest,
        mode=mode,
        mass=mass,
        x=total[:, 6:].transpose(1, 2),
        distance=distance,
        in_ellipse=_add(ellipse)[:, [1, 2, 0]].transpose(1, 2),
        nearest_mass=nearest_mass,
        sum_of_log_ratio=log_ratios,
        sum_of_p_part=p_parts,
        sum_of_q_part=q_parts,
        gated=gated,
    )


def _chunk(
    mixture: StackedMixture, limit: float, equal: bool, x: Tensor, weight: Tensor, log_q: Tensor
) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
    """What is kept of some points themselves, then their sums over cells, over ellipses, and the nearest masses."""
    joint, distance = mixture.log_joint(x)
    inside = torch.le(distance, limit, out=torch.empty_like(joint))
    top = joint.amax(dim=1, keepdim=True)
    hot, ties = _hot(joint, top)
    if equal:
        nearest_mass = torch.zeros_like(inside[:, :, 0])
    else:
        own = joint - mixture.log_weights.clamp(min=-1e30)  # padding: -inf minus itself is not a number
        nearest_mass = torch.bmm(_hot(own, own.amax(dim=1, keepdim=True))[0], weight.unsqueeze(2)).squeeze(2)
    m = mixture.components
    numbers = torch.arange(m, dtype=x.dtype, device=x.device).view(1, 1, m)
    if ties:
        # The first; 0 where a fit has diverged and none is hot.
        mode = torch.where(hot > 0, numbers.mT, float(m)).amin(dim=1).remainder_(m)
    else:
        mode = torch.bmm(numbers.expand(len(x), -1, -1), hot).squeeze(1)
    log_p = shares(joint)[1].log_().add_(top).squeeze(1)
    log_ratio = log_p - log_q
    p_part, q_part = torch.sigmoid(log_ratio), torch.sigmoid(-log_ratio)
    nearest = distance.amin(dim=1)
    own = (hot * distance).sum(dim=1)
    k, d, n = x.shape
    rows = torch.empty(k, 7 + d, n, dtype=x.dtype, device=x.device)
    rows[:, 1] = weight
    torch.mul(weight, p_part, out=rows[:, 2])
    torch.mul(rows[:, 2], p_part, out=rows[:, 0])
    torch.mul(weight, q_part, out=rows[:, 3])
    torch.mul(weight, own, out=rows[:, 4])
    torch.mul(weight, log_ratio, out=rows[:, 5])
    torch.le(own, limit, out=rows[:, 6]).mul_(weight)
    torch.mul(weight.unsqueeze(1), x, out=rows[:, 7:])
    ellipse, sums = torch.bmm(rows[:, :3], inside.transpose(1, 2)), torch.bmm(rows[:, 1:], hot.transpose(1, 2))
    return (log_p, log_ratio, p_part, q_part, nearest, mode), sums, ellipse, nearest_mass


def _hot(score: Tensor, top: Tensor) -> tuple[Tensor, bool]:
    """One-hot over the modes, ``(K, M, N)``, and whether that may not be so everywhere.

    Modes that tie, as identical ones do everywhere, share the point.
    """
    hot = torch.ge(score, top, out=torch.empty_like(score))
    # None is hot where a fit has diverged: not a number on top, which must not make up for another cell's ties.
    if float(hot.sum() + 0.0 * top.sum()) == top.numel():
        return hot, False
    return hot.div_(hot.sum(dim=1, keepdim=True).clamp_(min=1.0)), True


def _add(parts: tuple[Tensor, ...]) -> Tensor:
    """In the order of the chunks, so that the rounding is the same everywhere."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
