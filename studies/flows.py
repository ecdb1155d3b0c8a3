"""What a family without limits loses: neural spline flows on forty modes, by direction and start."""

from __future__ import annotations

import pandas as pd

from studies.families_2d import draw, means
from studies.finding import Finding

CAPTION = (
    "Flows on gmm40: coverage (squares) and sharpness (points), means over seeds; at the right the fewest modes that a"
    " fit captured, of all."
)


def find(cells: pd.DataFrame) -> Finding:
    """A row for each direction and start."""
    table = means(cells, ["target", "divergence", "init"])
    samples = int((cells["steps"] * cells["samples"]).iloc[0])
    forward, reverse = (cells[cells["divergence"] == name] for name in ("forward_kl", "reverse_kl"))
    ess = reverse.loc[reverse["init"] == "random", "ess_reverse"]
    said = [
        f"Forward KL: {forward['forward_kl'].min():.3f} to {forward['forward_kl'].max():.3f} nats in {len(forward)}"
        f" fits, with {_modes(forward)} modes, each from {samples:,} samples of the target.",
        f"Reverse KL: {reverse['modes_captured'].min():.0f} to {reverse['modes_captured'].max():.0f} modes, coverage"
        f" {reverse['coverage'].min():.2f} to {reverse['coverage'].max():.2f} at sharpness"
        f" {reverse['sharpness'].min():.2f} or more, with {samples:,} evaluations of the target's density in each fit.",
        "From random starts, where it keeps the fewest, its reverse ESS, which is blind to lost modes, has a median of"
        f" {ess.median():.2f} (and {ess.min():.2f} at the least: a single draw that lands near a lost mode takes it"
        " down).",
    ]
    return Finding(said, table.reset_index().round(4), draw(table), CAPTION)


def _modes(cells: pd.DataFrame) -> str:
    fewest, total = int(cells["modes_captured"].min()), int(cells["modes_total"].max())
    return f"all {total}" if fewest == total else f"{fewest} or more of the {total}"
