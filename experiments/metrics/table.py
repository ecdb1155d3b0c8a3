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
        "capture_area",
        "",
        "mean over the modes of min(1, r), with r the fit's share of the target's mass in the mode's 99 % ellipse: the"
        " area under the curve of how many modes have r of at least tau, for tau from 0 to 1",
        "higher",
        has_error=True,
    ),
    Metric(
        "collapse_invoice",
        "nats",
        "-ln of the captured modes' weight in the target: the reverse KL of a fit that loses the others and nothing"
        " else, ln(K / m) for m of K equal modes",
        "lower",
    ),
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
        "entropy of Q's masses of the modes over ln(modes) (EMC, Blessing et al. 2024): a blur over all of them is 1"
        " too",
        "higher",
        has_error=True,
    ),
    Metric("effective_modes", "", "exp of that entropy, as a share of the modes", "higher", has_error=True),
    Metric(
        "gated_entropic_coverage",
        "",
        "the same entropy of the mass within the 99 % ellipses alone, times that mass (the target's own is 1), so that"
        " blur does not count",
        "higher",
        has_error=True,
    ),
    Metric(
        "ess_reverse",
        "",
        "effective sample size of Q's draws as a share, E_q[w]^2 / E_q[w^2] with w = p / q: blind to lost modes, 1 for"
        " one perfect mode of many; by quadrature, without the 1e-4 of Q where w is the largest",
        "higher",
        has_error=True,
    ),
    Metric(
        "ess_forward",
        "",
        "the same of the target's draws, 1 / E_p[w] (Blessing et al. 2024): sees lost modes, and is then near 0",
        "higher",
        has_error=True,
    ),
    Metric(
        "log_z_reverse",
        "nats",
        "ln E_q[w], the target's evidence from Q's draws: 0 is right; where modes are lost it is about"
        " -collapse_invoice, and its standard error knows nothing of that",
        has_error=True,
    ),
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
