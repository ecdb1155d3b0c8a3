"""Reference mathematics: numpy and scipy alone, sharing no line with the code that it judges."""

from experiments.verification.independent.line import (
    alpha_divergence,
    best_on_a_line,
    between_nats,
    coverage,
    entropy,
    fold,
    integral,
    jensen_shannon,
    kl,
    mass_in,
    region,
    sharpness,
)
from experiments.verification.independent.mix import Mix, normal, random_mixture
from experiments.verification.independent.space import Drawn, best_reverse, by_draws, entropy_by_hermite, reverse_kl

__all__ = [
    "Drawn",
    "Mix",
    "alpha_divergence",
    "best_on_a_line",
    "best_reverse",
    "between_nats",
    "by_draws",
    "coverage",
    "entropy",
    "entropy_by_hermite",
    "fold",
    "integral",
    "jensen_shannon",
    "kl",
    "mass_in",
    "normal",
    "random_mixture",
    "region",
    "reverse_kl",
    "sharpness",
]
