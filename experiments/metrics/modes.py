"""What is kept of each mode of one cell, and what that comes to: a few sums over M modes, in numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SMALLEST_MASS = 1e-300  # a mode that Q holds less of counts as holding this much, so that its cost stays finite
Z = 1.959963984540054  # of a 95 % interval
FAIR = 0.1  # of a mode's mass in its ellipse, and it counts as captured

__all__ = ["InEllipses", "capture_area", "capture_curve", "collapse_invoice", "entropic", "gated_entropic", "nats"]


@dataclass(frozen=True)
class InEllipses:
    r"""One measure's sums over the modes' 99 % ellipses, ``(M,)``, with :math:`s = p / (p + q)`.

    Args:
        mass: of the points.
        share, square: of mass times s, and times its square.
        draws: how many, or None for quadrature.
    """

    mass: np.ndarray
    share: np.ndarray
    square: np.ndarray
    draws: int | None


def fair_shares(p: InEllipses, q: InEllipses) -> np.ndarray:
    r"""Q's mass in each mode's ellipse as a share of P's there, ``(M,)``.

    Both sides' points count (balance heuristic, Veach and Guibas 1995), so that of Q = P every share is exactly 1.
    An ellipse that no point of either side lies in has a share of 0.
    """
    held, own = _held(p, q), p.share + q.share
    return np.divide(held, own, out=np.zeros_like(held), where=(held != 0) | (own != 0))


def captured(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Whether Q's mass in each mode's ellipse ``(M,)`` is a tenth of P's there; draws may leave it without either's."""
    return (q >= FAIR * p) & (q > 0)


def _held(p: InEllipses, q: InEllipses) -> np.ndarray:
    return (p.mass - p.share) + (q.mass - q.share)


def capture_area(p: InEllipses, q: InEllipses) -> tuple[float, float]:
    r"""Area under the capture curve, and its standard error.

    .. math:: \int_0^1 \frac{\#\{k : r_k \ge \tau\}}{M} d\tau = \frac1M \sum_k \min(1, r_k)

    with :math:`r_k` the fair shares. The error is by the delta method, the ellipses taken to be disjoint.
    """
    shares = fair_shares(p, q)
    own = p.share + q.share
    slope = np.divide(1.0, len(shares) * own, out=np.zeros_like(own), where=(shares < 1) & (own != 0))
    variance = 0.0
    for side in (p, q):
        if side.draws:
            first = slope * (side.mass - (1 + shares) * side.share)
            second = slope**2 * (side.mass - 2 * (1 + shares) * side.share + (1 + shares) ** 2 * side.square)
            variance += max(0.0, float(second.sum() - first.sum() ** 2)) / side.draws
    return float(np.minimum(shares, 1.0).mean()), math.sqrt(variance)


def capture_curve(shares: np.ndarray, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Share of the M modes with a fair share of at least tau, ``(T,)``, and the ends of its 95 % Wilson interval.

    .. math:: \frac{c + z^2 / 2M \pm z \sqrt{c (1 - c) / M + z^2 / 4 M^2}}{1 + z^2 / M}

    with c the share itself (Wilson 1927): the modes taken as a sample of modes that the target might have had.
    """
    m = len(shares)
    c = (shares[:, None] >= tau).mean(axis=0)
    half = Z * np.sqrt(c * (1 - c) / m + Z**2 / (4 * m**2))
    ends = [(c + Z**2 / (2 * m) + side) / (1 + Z**2 / m) for side in (-half, half)]
    return c, np.maximum(ends[0], 0.0), np.minimum(ends[1], 1.0)


def collapse_invoice(weights: np.ndarray, captured: np.ndarray) -> float:
    r"""What losing modes and nothing else costs in reverse KL, nats.

    .. math:: -\ln \sum_{captured} w_k

    Of Q = P given its captured modes this is KL(Q || P), and minus the limit of ``log_z_reverse``; of m of K equal
    modes it is ln(K / m). Infinite where no mode is captured.
    """
    kept = float(weights[captured].sum() / weights.sum())
    return -math.log(min(kept, 1.0)) + 0.0 if kept > 0 else math.inf


def entropic(mass: np.ndarray, draws: int | None) -> dict[str, float]:
    r"""``entropic_coverage`` H / ln M and ``effective_modes`` exp(H) / M of Q's masses ``(M,)``, with errors.

    Blessing et al. 2024, https://arxiv.org/abs/2406.07423. Of n draws H is low by about (M - 1) / (2 n).
    """
    modes = len(mass)
    share = mass / mass.sum()
    entropy, spread = _entropy(share)
    error = math.sqrt(spread / draws) if draws else 0.0
    scale = math.log(modes) if modes > 1 else math.nan
    effective = math.exp(entropy) / modes
    return {
        "entropic_coverage": entropy / scale,
        "entropic_coverage_se": error / scale,
        "effective_modes": effective,
        "effective_modes_se": effective * error,
    }


def gated_entropic(p: np.ndarray, q: np.ndarray, draws: int | None) -> dict[str, float]:
    r"""``gated_entropic_coverage``, of masses that lie in the 99 % ellipse of their own mode, ``(M,)``.

    .. math:: \min\left(1, \frac{G_q}{G_p}\right) \frac{H(g / G_q)}{\ln M}, \qquad G = \sum_k g_k

    The mass outside is lost, not left out: it multiplies the entropy of what is inside. A density spread over all
    modes and the space between has a high entropy and little inside.
    """
    if len(q) < 2:
        return {"gated_entropic_coverage": math.nan, "gated_entropic_coverage_se": math.nan}
    inside, own = float(q.sum()), float(p.sum())
    if not inside > 0:
        return {"gated_entropic_coverage": 0.0, "gated_entropic_coverage_se": 0.0}
    entropy, spread = _entropy(q / inside)
    gate = min(1.0, inside / own)
    variance = 0.0
    if draws:
        # Given how many draws are inside, they are a histogram; their number is binomial, and so is P's.
        # At a gate of 1 its own error stays: it is 1 on one side alone, and which side that is the draws do not know.
        variance = gate**2 * (spread / inside + entropy**2 * ((1 - inside) / inside + (1 - own) / own)) / draws
    scale = math.log(len(q))
    return {
        "gated_entropic_coverage": gate * entropy / scale,
        "gated_entropic_coverage_se": math.sqrt(max(0.0, variance)) / scale,
    }


def _entropy(share: np.ndarray) -> tuple[float, float]:
    """Of shares that sum to one; and the variance of -ln(share) of a draw."""
    log = np.log(np.where(share > 0, share, 1.0))
    entropy = float(-(share * log).sum()) + 0.0
    return entropy, max(0.0, float((share * log**2).sum()) - entropy**2)


def nats(a: np.ndarray, b: np.ndarray, forward: np.ndarray, reverse: np.ndarray) -> Mapping[str, np.ndarray]:
    r"""Each mode's part of both KLs, ``(M,)`` each: they add up to the chain rule's totals.

    .. math:: a_k \ln \frac{a_k}{b_k} \quad\text{and}\quad a_k KL(a|A_k \,\|\, b|A_k)

    Args:
        a, b: P's and Q's masses of the modes' cells.
        forward, reverse: integrals over each cell of p ln(p / q), and of q ln(q / p).
    """
    a, b = np.maximum(a, SMALLEST_MASS), np.maximum(b, SMALLEST_MASS)
    log = np.log(a / b)
    lost = {"forward": a * log, "reverse": -b * log}
    whole = {"forward": forward, "reverse": reverse}
    return {f"{name}_coverage_nats": lost[name] for name in lost} | {
        f"{name}_shape_nats": whole[name] - lost[name] for name in lost
    }
