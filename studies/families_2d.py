"""Families side by side under each direction: coverage, sharpness and modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from studies.finding import Finding, panels, spans

NUMBERS = ("coverage", "sharpness", "modes_captured", "forward_kl", "reverse_kl")
CAPTION = (
    "Coverage (squares) and sharpness (points), means over seeds; at the right the fewest modes that a fit captured,"
    " of all."
)


def means(cells: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means over seeds in the order of the sweep, with the fewest and most modes captured."""
    groups = cells.groupby(list(by), sort=False)
    modes = groups["modes_captured"].agg(["min", "max"])
    return groups[[*NUMBERS, "modes_total"]].mean().assign(fewest=modes["min"], most=modes["max"], fits=groups.size())


def find(cells: pd.DataFrame) -> Finding:
    """A row for each target, direction and family."""
    table = means(cells, ["target", "divergence", "family"])
    grid = table.loc["grid25"]
    mixture, flow = (grid.loc[("reverse_kl", name)] for name in ("gaussian_mixture", "flow"))
    forward = grid.loc[("forward_kl", "flow")]
    said = [
        f"grid25 under reverse KL: a mixture finds {span(mixture)} of 25 modes in {mixture['fits']:.0f} fits"
        f" ({mixture['reverse_kl']:.3f} nats), a flow {span(flow)} ({flow['reverse_kl']:.2f} nats; ln 25 = 3.219).",
        f"Under forward KL the flow finds {span(forward)} of 25, at coverage {forward['coverage']:.2f} and sharpness"
        f" {forward['sharpness']:.2f}.",
    ]
    return Finding(said, table.reset_index().round(4), draw(table), CAPTION)


def span(row: pd.Series) -> str:
    """How many modes fits captured."""
    fewest, most = int(row["fewest"]), int(row["most"])
    return f"{fewest}" if fewest == most else f"{fewest} to {most}"


def draw(table: pd.DataFrame) -> Any:
    """A panel for each value of the first level, a line for each of the others."""
    names = list(table.index.unique(0))
    lines = list(dict.fromkeys(key[1:] for key in table.index))
    figure, axes = panels(1, len(names), 10, 0.6 + 0.28 * len(lines), sharey=True)
    for panel, name in zip(axes[0], names, strict=True):
        rows = table.loc[name]
        at = [len(lines) - lines.index(key) for key in rows.index]
        beside = [f"{row.fewest:.0f} of {row.modes_total:.0f}" for row in rows.itertuples()]
        spans(panel, at, rows, beside)
        panel.set(title=name, xlim=(-0.05, 1.5), xticks=(0, 0.5, 1), ylim=(0.4, len(lines) + 0.6))
    words = [", ".join(part.replace("_kl", " KL").replace("_", " ") for part in line) for line in lines]
    axes[0, 0].set_yticks(range(len(lines), 0, -1), words, fontsize=7.5)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure
