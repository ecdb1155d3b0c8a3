"""Divergences as functions of one number at each point, the log-ratio u = log p - log q."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import special

from experiments.targets import Analytic, Mixture

Name = Literal["forward_kl", "reverse_kl", "jeffreys", "jensen_shannon", "alpha", "mixed"]


@dataclass(frozen=True)
class Divergence:
    r"""Any divergence of the study, written as

    .. math:: D = w_f\, KL(P \| Q) + w_r\, KL(Q \| P) + E_P[g(u)] + E_Q[g(u)]

    ``w_f`` and ``w_r`` are 1 and 0, 0 and 1, 1 and 1 (Jeffreys), w and 1 - w (mixed), or both 0. With
    :math:`\sigma(u) = p / (p + q)` the rest is, for Jensen-Shannon,
    :math:`g(u) = \tfrac12 \sum_\pm \sigma(\pm u) \ln 2 \sigma(\pm u)` and, for alpha,

    .. math:: g(u) = \frac{\alpha \sigma(u) + (1 - \alpha) \sigma(-u) - e^{\alpha u} / (1 + e^u)}
                          {\alpha (1 - \alpha)},
              \quad\text{so that}\quad D = \frac{1 - \int p^\alpha q^{1 - \alpha}}{\alpha (1 - \alpha)}

    Both are never negative at any point: the sum keeps its digits where P and Q nearly agree.

    Args:
        alpha: of ``alpha``; 1 is forward KL and 0 reverse KL. Cichocki and Amari 2010, doi 10.3390/e12061532.
        forward_weight: of ``mixed``.
    """

    name: Name
    alpha: float = 0.5
    forward_weight: float = 0.5

    @property
    def key(self) -> str:
        """The name with the parameter that it has."""
        if self.name == "alpha":
            return f"alpha={float(self.alpha)!r}"
        return f"mixed={float(self.forward_weight)!r}" if self.name == "mixed" else self.name

    @cached_property
    def kl_weights(self) -> tuple[float, float]:
        """``w_f`` and ``w_r``."""
        if self.name == "mixed":
            return self.forward_weight, 1.0 - self.forward_weight
        if self.name == "alpha":
            return float(self.alpha == 1), float(self.alpha == 0)
        return float(self.name in ("forward_kl", "jeffreys")), float(self.name in ("reverse_kl", "jeffreys"))

    @property
    def has_rest(self) -> bool:
        """Whether there is a ``g``."""
        return self.name == "jensen_shannon" or (self.name == "alpha" and self.alpha not in (0, 1))

    def rest(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``g`` and its derivative."""
        p, q = special.expit(u), special.expit(-u)
        log_p, log_q = special.log_expit(u), special.log_expit(-u)
        if self.name == "jensen_shannon":
            return 0.5 * (math.log(2) + p * log_p + q * log_q), 0.5 * p * q * u
        a = self.alpha
        with np.errstate(over="ignore"):
            power = np.exp(a * u + log_q)
        scale = 1.0 / (a * (1.0 - a))
        return scale * (a * p + (1 - a) * q - power), scale * ((2 * a - 1) * p * q - (a - p) * power)

    def refuse(self, target: Mixture | Analytic) -> None:
        """Raise ValueError where no Gaussian has a finite divergence from the target."""
        heavy = target.df is not None and (
            (target.df <= 2 and self.kl_weights[0] > 0) or (self.name == "alpha" and self.alpha > 1)
        )
        if heavy:
            raise ValueError(
                f"{self.key}: the tails of target {target.name!r} (Student-t, df {target.df:g}) are too heavy"
                " for any Gaussian: it is infinite. Use reverse_kl, jensen_shannon or alpha below 1"
            )
