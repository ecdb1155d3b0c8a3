"""What is known exactly: divergences between Gaussians, their optima, and laws that fits are checked by.

Everything is float64 and in nats. Sources: Bishop 2006, section 10.1.2 (both optima of a Gaussian), Murphy
2012, section 21.2.2; Cover and Thomas 2006 for entropies; Neal 2003 for the funnel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import linalg, special

Shape = Literal["isotropic", "diagonal", "full"]


def kl_gaussians(mean_q: np.ndarray, cov_q: np.ndarray, mean_p: np.ndarray, cov_p: np.ndarray) -> float:
    r"""KL(N(mean_q, cov_q) || N(mean_p, cov_p)) by Cholesky factors and triangular solves.

    .. math:: \tfrac12 \Big[ \sum_{i>j} W_{ij}^2 + \sum_i (W_{ii}^2 - 1 - \ln W_{ii}^2) + |y|^2 \Big],
              \quad W = L_p^{-1} L_q, \; y = L_p^{-1} (m_q - m_p)

    A sum of terms that are never negative, so that nothing cancels: two Gaussians in 100 dimensions that
    differ by 1e-10 nats are told apart. Means are ``(D,)``, covariances ``(D, D)``.

    Raises:
        numpy.linalg.LinAlgError: a covariance is not positive definite.
    """
    lower_q, lower_p = np.linalg.cholesky(np.atleast_2d(cov_q)), np.linalg.cholesky(np.atleast_2d(cov_p))
    return kl_from_factors(np.atleast_1d(mean_q), lower_q, np.atleast_1d(mean_p), lower_p)


def kl_from_factors(mean_q: np.ndarray, tril_q: np.ndarray, mean_p: np.ndarray, tril_p: np.ndarray) -> float:
    """The same, from the Cholesky factors."""
    right = np.column_stack([tril_q, mean_q - mean_p])
    solved = linalg.solve_triangular(tril_p, right, lower=True)
    below, y = np.tril(solved[:, :-1], -1), solved[:, -1]
    ratio = np.diag(tril_q) / np.diag(tril_p)
    stretch = (ratio - 1) * (ratio + 1)
    return 0.5 * float((below**2).sum() + (stretch - np.log1p(stretch)).sum() + (y**2).sum())


def entropy_gaussian(cov: np.ndarray) -> float:
    """``ln |2 pi e S| / 2``."""
    lower = np.linalg.cholesky(np.atleast_2d(cov))
    return float(np.log(np.diag(lower)).sum() + 0.5 * len(lower) * math.log(2 * math.pi * math.e))


def restrict(covariance: np.ndarray, shape: Shape) -> np.ndarray:
    """Covariance of the forward-KL optimum: the target's own, its diagonal, or ``tr S / D`` all along it."""
    if shape == "full":
        return np.asarray(covariance, dtype=float)
    variances = np.diag(covariance)
    return np.diag(np.full_like(variances, variances.mean()) if shape == "isotropic" else variances)


def mixed_optimum(covariance: np.ndarray, forward_weight: float, shape: Shape) -> np.ndarray:
    r"""Covariance that minimises ``w KL(P || Q) + (1 - w) KL(Q || P)`` for a Gaussian P; its mean is P's.

    Each variance v solves :math:`(1 - w) \Lambda v^2 + (2 w - 1) v - w \Sigma = 0`, with :math:`\Sigma_{ii}`
    and the precision's :math:`\Lambda_{ii}` (isotropic: their averages over the diagonal). So ``w = 1`` gives
    :math:`\Sigma_{ii}`, ``w = 0`` gives :math:`1 / \Lambda_{ii}`, and ``w = 1/2``, Jeffreys' divergence,
    the geometric mean of the two.
    """
    if shape == "full":
        return np.asarray(covariance, dtype=float)
    lower = np.linalg.cholesky(covariance)
    inverse = linalg.solve_triangular(lower, np.eye(len(lower)), lower=True)
    sigma, precision = np.diag(covariance), (inverse**2).sum(axis=0)
    if shape == "isotropic":
        sigma, precision = np.full_like(sigma, sigma.mean()), np.full_like(sigma, precision.mean())
    w, b = forward_weight, 2 * forward_weight - 1
    root = np.sqrt(b * b + 4 * w * (1 - w) * precision * sigma)
    # The same root, written so that neither end divides by zero nor cancels.
    variance = 2 * w * sigma / (b + root) if b > 0 else (root - b) / (2 * (1 - w) * precision)
    return np.diag(variance)


def mixture_moments(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``(D,)`` and covariance ``(D, D)`` of weighted components; the weights need not sum to one."""
    share = weights / weights.sum()
    mean = share @ means
    away = means - mean
    return mean, np.einsum("k,kij->ij", share, covariances) + np.einsum("k,ki,kj->ij", share, away, away)


def entropy_student_t(df: float, scale: np.ndarray) -> float:
    r"""Of a multivariate Student-t with scale matrix ``(D, D)``.

    .. math:: \ln \frac{\Gamma(\nu/2) (\nu \pi)^{D/2} |S|^{1/2}}{\Gamma((\nu + D)/2)}
              + \frac{\nu + D}{2} \Big[ \psi\Big(\frac{\nu + D}2\Big) - \psi\Big(\frac{\nu}2\Big) \Big]
    """
    lower = np.linalg.cholesky(np.atleast_2d(scale))
    d = len(lower)
    half, more = 0.5 * df, 0.5 * (df + d)
    log_scale = special.gammaln(half) - special.gammaln(more) + 0.5 * d * math.log(df * math.pi)
    spread = more * (special.digamma(more) - special.digamma(half))
    return float(np.log(np.diag(lower)).sum() + log_scale + spread)


def forward_kl_student_t(df: float, scale: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    """KL(P || Q) of a Student-t at the origin to N(mean, cov); infinite for df of 2 and less."""
    if df <= 2:
        return math.inf
    lower = np.linalg.cholesky(np.atleast_2d(cov))
    second = np.atleast_2d(scale) * df / (df - 2) + np.outer(mean, mean)
    solved = linalg.solve_triangular(lower, second, lower=True)
    trace = np.trace(linalg.solve_triangular(lower, solved.T, lower=True))
    cross = 0.5 * len(lower) * math.log(2 * math.pi) + np.log(np.diag(lower)).sum() + 0.5 * trace
    return float(cross - entropy_student_t(df, scale))


def reverse_kl_student_t(ratio: float, df: float, dim: int) -> float:
    """KL(Q || P) of Q = N(m, ratio**2 S) to the Student-t of location m and scale S: one radial integral."""
    more = 0.5 * (df + dim)
    grown = _radial(lambda r2: math.log1p(ratio**2 * r2 / df), dim)
    constant = special.gammaln(0.5 * df) - special.gammaln(more) + 0.5 * dim * math.log(df * math.pi)
    return float(constant + more * grown - 0.5 * dim * math.log(2 * math.pi * math.e) - dim * math.log(ratio))


def reverse_optimum_student_t(df: float, dim: int) -> float:
    r"""The ratio c that minimises ``reverse_kl_student_t``.

    .. math:: (\nu + D)\, E\Big[\frac{c^2 r^2}{\nu + c^2 r^2}\Big] = D, \qquad r^2 \sim \chi^2_D
    """

    from scipy import optimize  # workers need only the KLs, and start sooner without it

    def slope(log_ratio: float) -> float:
        c2 = math.exp(2 * log_ratio)
        return (df + dim) * _radial(lambda r2: c2 * r2 / (df + c2 * r2), dim) - dim

    return math.exp(float(optimize.brentq(slope, -3.0, 3.0, xtol=1e-13)))


def _radial(function, dim: int) -> float:  # type: ignore[no-untyped-def]
    """Mean of a function of the squared norm of a standard normal."""
    from scipy import integrate, stats

    density = stats.chi2(dim).pdf
    top = float(stats.chi2.isf(1e-18, dim))
    # In terms of the norm the density has no pole at zero, even in one dimension.
    value, _ = integrate.quad(
        lambda r: function(r * r) * density(r * r) * 2 * r if r else 0.0, 0, math.sqrt(top), epsabs=1e-13
    )
    return float(value)


@dataclass(frozen=True)
class FunnelOptimum:
    """Variances of the neck and of each other coordinate, and the ELBO."""

    neck: float
    rest: float
    elbo: float


def funnel_mean_field(dim: int, neck_variance: float = 9.0) -> FunnelOptimum:
    r"""The best diagonal Gaussian under reverse KL to ``x0 ~ N(0, v), xi ~ N(0, exp x0)``; its mean is zero.

    .. math:: s_0^2 = \frac{v}{1 + v n / 2}, \quad t^2 = e^{-s_0^2 / 2}, \quad
              ELBO = -\tfrac12 \ln(1 + v n / 2), \quad n = D - 1
    """
    gain = 1 + 0.5 * neck_variance * (dim - 1)
    neck = neck_variance / gain
    return FunnelOptimum(neck, math.exp(-0.5 * neck), -0.5 * math.log(gain))


def reverse_kl_funnel(mean: np.ndarray, variance: np.ndarray, neck_variance: float = 9.0) -> float:
    r"""KL(Q || P) of Q = N(mean, diag variance), ``(D,)`` each, to the funnel.

    .. math:: \tfrac12 \Big[ \frac{m_0^2 + s_0^2}{v} + \ln v + n m_0 + e^{s_0^2 / 2 - m_0} \sum_i (m_i^2 + s_i^2)
              - D - \sum_{i \ge 0} \ln s_i^2 \Big]
    """
    neck, rest = (mean[0], variance[0]), float((mean[1:] ** 2 + variance[1:]).sum())
    quadratic = (neck[0] ** 2 + neck[1]) / neck_variance + math.exp(0.5 * neck[1] - neck[0]) * rest
    logs = math.log(neck_variance) + (len(mean) - 1) * neck[0] - float(np.log(variance).sum())
    return 0.5 * float(quadratic + logs - len(mean))


def collapse_invoice(modes: int, kept: int) -> float:
    """``ln(K / m)``: reverse KL of P given m of its K equal, separate modes; its forward KL is infinite."""
    if not 1 <= kept <= modes:
        raise ValueError(f"kept: from 1 to the {modes} modes, got {kept}")
    return math.log(modes / kept)


def light_mode_threshold(heavy: int) -> float:
    r"""Relative weight below which reverse KL drops one light mode beside m heavy ones.

    .. math:: (m / (m + 1))^{m + 1}

    Q weighs equally the modes that it keeps, m or m + 1 of them, and they are separate.
    """
    return (heavy / (heavy + 1)) ** (heavy + 1)
