r"""What the weights ``w = p / q`` tell: effective sample sizes and the evidence, as the sampling literature has them.

Blessing et al. 2024, "Beyond ELBOs", https://arxiv.org/abs/2406.07423, section 3. ``f`` is always log p - log q.
"""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.metrics.estimate import Estimate
from experiments.metrics.partition import Measure

UNSEEN = 1e-4  # of Q's mass: where not one of 10,000 draws is to be expected


def reverse(f: Tensor, q: Measure) -> dict[str, Estimate]:
    r"""``ess_reverse`` and ``log_z_reverse``, from points of Q.

    .. math:: ESS = \frac{E_q[w]^2}{E_q[w^2]}, \qquad \ln Z = \ln E_q[w]

    Draws of Q know nothing of what Q has lost: where Q is P on m of K equal modes they say 1 and ln(m/K), while the
    limits of infinitely many draws, of any Q that is nowhere 0, are 1 / (1 + chi2(P || Q)) and 0. Quadrature would
    give those limits, which nobody sees; so it leaves out the part of Q, of mass ``UNSEEN``, with the largest weights.
    Errors by the delta method.
    """
    if q.exact:
        f, weight = _seen(f, q.weight)
    top = f.amax(dim=1, keepdim=True)
    w = (f - top).exp_()
    square = w * w
    if q.exact:
        whole = weight.sum(dim=1)
        first, second = (weight * w).sum(dim=1) / whole, (weight * square).sum(dim=1) / whole
        none = torch.zeros_like(first)
        return {
            "ess_reverse": Estimate(first.square() / second, none),
            "log_z_reverse": Estimate(first.log() + top.squeeze(1), none),
        }
    n = f.shape[1]
    first, second = w.mean(dim=1), square.mean(dim=1)
    third, fourth = w.mul_(square).mean(dim=1), square.square_().mean(dim=1)
    ess = first.square() / second
    spread = 4 / ess - 4 * third / (first * second) + fourth / second.square() - 1
    return {
        "ess_reverse": Estimate(ess, ess.square() * spread / n),
        "log_z_reverse": Estimate(first.log() + top.squeeze(1), (1 / ess - 1) / n),
    }


def forward(f: Tensor, p: Measure) -> dict[str, Estimate]:
    r"""``ess_forward``, from points of P, which are everywhere where P is.

    .. math:: ESS = \frac{Z}{E_p[w]} = \frac{1}{1 + \chi^2(P \| Q)}

    P is normalised here, so Z is 1; where it is not known the paper estimates it by the harmonic mean E_p[1 / w],
    whose variance is infinite where Q is the wider. Error by the delta method.
    """
    if p.exact:
        chi = torch.logsumexp(p.weight.log() + f, dim=1)
        return {"ess_forward": Estimate((-chi).exp(), torch.zeros_like(chi))}
    top = f.amax(dim=1, keepdim=True)
    w = (f - top).exp_()
    mean = w.mean(dim=1)
    ess = (-mean.log() - top.squeeze(1)).exp()
    spread = w.square_().mean(dim=1) / mean.square() - 1
    return {"ess_forward": Estimate(ess.clamp(max=1.0), ess.square() * spread / f.shape[1])}


def _seen(f: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes by falling f, without those at the head that together hold ``UNSEEN``; one is cut where that ends."""
    f, order = f.sort(dim=1, descending=True, stable=True)
    weight = weight.gather(1, order)
    seen = (weight.cumsum(dim=1) - UNSEEN).clamp(min=0).minimum(weight)
    # What is not seen must not set the scale of what is, either.
    return torch.where(seen > 0, f, -torch.inf), seen
