r"""Integrands of divergences as functions of the log-ratio u = log p - log q at each point.

Every divergence of the study is :math:`w_f KL(P \| Q) + w_r KL(Q \| P) + E_P[g(u)] + E_Q[g(u)]`: a KL is sampled
from its own side, the rest from both sides, where for Jensen-Shannon and for alpha between 0 and 1 g is bounded. At
every point g is 0 or more, so that nothing cancels where P and Q nearly agree.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

SMALL = -40.0  # below which ln(sigma(u)) is u, to the last bit


def log_part(u: Tensor, part: Tensor) -> Tensor:
    r""":math:`\ln \sigma(u)` where :math:`\sigma(u)` is known, at half of logsigmoid's cost; it may be 0."""
    return torch.where(u < SMALL, u, part.log())


def forward_kl(u: Tensor) -> Tensor:
    r""":math:`g(u) = \sigma(u) u - \sigma(u) + \sigma(-u)`, with :math:`\int (p + q) g(u) = KL(P \| Q)`.

    The last two terms integrate to zero and make every point's share 0 or more: it tells what a point costs. Training
    and metrics average the log-ratio over draws of P alone.
    """
    p, q = u.sigmoid(), (-u).sigmoid()
    return p * u - p + q


def reverse_kl(u: Tensor) -> Tensor:
    r""":math:`g(u) = \sigma(-u) (-u) - \sigma(-u) + \sigma(u)`, with :math:`\int (p + q) g(u) = KL(Q \| P)`."""
    return forward_kl(-u)


def jensen_shannon(u: Tensor) -> Tensor:
    r""":math:`g(u) = \tfrac12 \sum_\pm \sigma(\pm u) \ln 2 \sigma(\pm u)`, at most ln(2) / 2."""
    log_p, log_q = logsigmoid(u), logsigmoid(-u)
    return 0.5 * (math.log(2) + log_p.exp() * log_p + log_q.exp() * log_q)


def alpha(u: Tensor, alpha: Tensor) -> Tensor:
    r"""Of :math:`D_\alpha = (1 - \int p^\alpha q^{1 - \alpha}) / (\alpha (1 - \alpha))`, for alpha other than 0 and 1.

    .. math:: g(u) = \frac{\alpha \sigma(u) + (1 - \alpha) \sigma(-u) - e^{\alpha u} \sigma(-u)}{\alpha (1 - \alpha)}

    Cichocki and Amari 2010, doi 10.3390/e12061532. Unbounded for alpha outside of [0, 1], where the divergence may
    be infinite.
    """
    log_p, log_q = logsigmoid(u), logsigmoid(-u)
    power = (alpha * u + log_q).exp()
    return (alpha * log_p.exp() + (1 - alpha) * log_q.exp() - power) / (alpha * (1 - alpha))
