"""What the metrics say of fits that are known: the 25-grid itself, parts of it, too narrow, too wide, and a blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.metrics.modes import capture_curve
from experiments.references import Reference, references
from experiments.targets import Mixture, named
from runner.figures.style import INK, WORDS
from studies.finding import Finding, panels

TARGET = "grid25"
SHOWN = {  # between 0 and 1, in the picture
    "knn_precision": "k-NN\nprecision",
    "knn_recall": "k-NN\nrecall",
    "high_quality": "high\nquality",
    "sharpness": "sharpness",
    "coverage": "coverage",
    "entropic_coverage": "EMC",
    "gated_entropic_coverage": "gated\nEMC",
    "capture_area": "capture\narea",
    "ess_reverse": "reverse\nESS",
    "ess_forward": "forward\nESS",
}
BESIDE = (
    "knn_density",
    "knn_coverage",
    "modes_captured",
    "log_width",
    "reverse_kl",
    "log_z_reverse",
    "collapse_invoice",
)
CAPTION = (
    "Left: what each metric says of each fit; darker is nearer to 1. No single column tells all seven apart. Right: the"
    " share of modes of which the fit holds at least tau of the target's mass, with 95 % Wilson intervals; the area"
    " under a curve is the capture area."
)


def find(_: pd.DataFrame) -> Finding:
    """The ladder as a table, and what it shows in words."""
    target = named.target(TARGET)
    assert isinstance(target, Mixture)
    rows = references(target)
    table = pd.DataFrame([{"fit": row.name} | {n: row.metrics[n] for n in (*SHOWN, *BESIDE)} for row in rows])
    at = table.set_index("fit")
    blur, one, sharp = (at.loc[name] for name in ("moment-matched Gaussian", "one mode", "half width"))
    said = [
        f"One Gaussian over all of the grid has an entropic coverage of {blur['entropic_coverage']:.3f} with"
        f" {100 * blur['high_quality']:.1f} % good samples; gated by the ellipses it is"
        f" {blur['gated_entropic_coverage']:.3f}.",
        f"One mode of 25 has a reverse ESS of {one['ess_reverse']:.3f}; its ln Z of {one['log_z_reverse']:.3f} is minus"
        f" the collapse invoice, {one['collapse_invoice']:.3f} nats.",
        f"Half the width raises high quality to {sharp['high_quality']:.3f} and lowers k-NN recall to"
        f" {sharp['knn_recall']:.3f} though no mode is lost; log_width says {sharp['log_width']:.3f}.",
    ]
    return Finding(said, table.round(6).replace(-0.0, 0.0), _draw(rows), CAPTION)


def _draw(rows: Sequence[Reference]) -> Any:
    figure, axes = panels(1, 2, 10.5, 3.3, gridspec_kw={"width_ratios": [2.2, 1]})
    heat, curve = axes[0]
    values = np.array([[row.metrics[name] for name in SHOWN] for row in rows])
    heat.imshow(values, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        heat.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if value > 0.6 else INK)
    heat.set_xticks(range(len(SHOWN)), list(SHOWN.values()), fontsize=7)
    heat.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=7)
    heat.grid(False)
    heat.set_title(f"What metrics say of known fits of {TARGET}")
    tau = np.linspace(0, 1, 401)[1:]
    drawn = [row for row in rows if row.name in ("all but one mode", "half of the modes", "one mode", "double width")]
    for row, colour in zip(drawn, WORDS, strict=False):
        share, low, high = capture_curve(row.modes["fair_share"], tau)
        curve.plot(tau, share, color=colour, linewidth=1.6, label=row.name)
        curve.fill_between(tau, low, high, color=colour, alpha=0.15, linewidth=0)
    curve.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="tau: share of the target's mass", title="Modes captured")
    curve.legend(fontsize=7, loc="center left", bbox_to_anchor=(0, 0.7))
    return figure
