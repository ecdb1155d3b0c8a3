"""The metrics' names, units and meanings, without the code that computes them."""

from __future__ import annotations

from experiments.experiment import Metric

_COVERAGE = (
    Metric(
        "coverage",
        "",
        "P-mass inside Q's 95 % highest-density region, divided by 0.95, at most 1: 1 covers the target"
        " (beta-recall, Alaa et al. 2022); k-NN recall where no density is known",
        "higher",
        has_error=True,
    ),
    Metric(
        "sharpness",
        "",
        "Q-mass inside P's 95 % highest-density region, divided by 0.95, at most 1: every sample is plausible"
        " (alpha-precision); k-NN precision where no density is known",
        "higher",
        has_error=True,
    ),
)

DENSITY_METRICS: tuple[Metric, ...] = (
    *_COVERAGE,
    Metric("forward_kl", "nats", "KL(P || Q)", "lower", has_error=True),
    Metric("reverse_kl", "nats", "KL(Q || P)", "lower", has_error=True),
    Metric("jensen_shannon", "nats", "Jensen-Shannon divergence, at most ln 2", "lower", has_error=True),
    Metric("entropy_gap", "nats", "H(Q) - H(P): negative is over-sharp, positive is blurry", has_error=True),
    Metric(
        "forward_coverage_nats",
        "nats",
        "part of KL(P || Q) between the modes' masses: what lost modes cost (chain rule)",
        "lower",
        has_error=True,
    ),
    Metric(
        "forward_shape_nats",
        "nats",
        "part of KL(P || Q) within the modes: what wrong shapes cost",
        "lower",
        has_error=True,
    ),
    Metric(
        "reverse_coverage_nats",
        "nats",
        "part of KL(Q || P) between the modes' masses",
        "lower",
        has_error=True,
    ),
    Metric("reverse_shape_nats", "nats", "part of KL(Q || P) within the modes", "lower", has_error=True),
    Metric(
        "modes_captured",
        "modes",
        "modes in whose 99 % ellipse Q has at least a tenth of P's mass there",
        "higher",
    ),
    Metric("modes_total", "modes", "modes of the target"),
    Metric(
        "high_quality",
        "",
        "share of Q within 3 sd (Mahalanobis) of a mode; right at the ceiling, over-sharp above it",
        has_error=True,
    ),
    Metric("high_quality_ceiling", "", "high_quality of the target itself", has_error=True),
    Metric(
        "entropic_coverage",
        "",
        "entropy of Q's masses of the modes over ln(modes) (EMC, Blessing et al. 2024)",
        "higher",
    ),
    Metric("effective_modes", "", "exp of that entropy, as a share of the modes", "higher"),
    Metric(
        "log_width",
        "",
        "mean ln(sd of Q / sd of P) over the captured modes: 0 right, negative over-sharp, positive blurry",
    ),
)

NEIGHBOUR_METRICS: tuple[Metric, ...] = (
    *_COVERAGE,
    Metric("cross_entropy", "nats", "-E log q over the points, in their own units", "lower", has_error=True),
)

LABELS = {"coverage_method": "how coverage and sharpness were measured: density or knn"}
