"""Every divergence side by side: what its best Gaussian keeps, and where fits from other starts end."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from studies.finding import Finding, panels, spans

ORDER = (
    "forward_kl",
    "alpha 1.5",
    "mixed 0.9",
    "alpha 0.75",
    "jeffreys",
    "jensen_shannon",
    "alpha 0.5",
    "alpha 0.25",
    "mixed 0.1",
    "reverse_kl",
)
CAPTION = (
    "The fit with the lowest value of each divergence, over all starts and seeds: coverage (squares) and sharpness"
    " (points). The word is the optimum that it reached. `seeking 0`: less than a quarter of the other mode's own mass"
    " is inside Q's 95 % region, however wide Q is. Coverage is 1 as soon as 95 % of the target's mass is inside, for"
    " which the mode of 97 % is enough. Forward KL's one optimum is called covering whatever is inside."
)


def find(cells: pd.DataFrame) -> Finding:
    """A row for each target and divergence: the best fit, and the gaps from both starts."""
    cells = cells.assign(
        name=[
            " ".join([c.divergence, *(f"{x:g}" for x in (c.alpha, c.forward_weight) if x == x)])
            for c in cells.itertuples()
        ],
        location=cells["q_mean"].str[0],
        sd=cells["q_covariance"].str[0] ** 0.5,
    )
    gaps = cells.pivot_table(index=["target", "name"], columns="init", values="optimum_gap", aggfunc="mean")
    best = cells.loc[cells.groupby(["target", "name"])["optimum_gap"].idxmin()].set_index(["target", "name"])
    columns = ["optimum_label", "optimum_value", "coverage", "sharpness", "forward_kl", "reverse_kl", "location", "sd"]
    table = best[columns].assign(gap_from_wide=gaps["wide"], gap_from_mode=gaps["mode:0"])
    targets = list(cells["target"].unique())
    table = table.reindex([(target, name) for target in targets for name in ORDER if (target, name) in table.index])
    return Finding(_said(table), table.reset_index().round(4), _draw(table, targets), CAPTION)


def _said(table: pd.DataFrame) -> list[str]:
    bimodal, close, unequal = (table.loc[name] for name in ("bimodal", "pmtk3_bimodal", "transactions"))
    seeking = bimodal.index[bimodal["optimum_label"].str.startswith("seeking")]
    split = bimodal[(bimodal[["gap_from_wide", "gap_from_mode"]].max(axis=1)) > 0.01]
    away = (900 - unequal["location"]) / unequal["sd"]
    narrow, broad = unequal[unequal["sharpness"] > 0.99], unequal[unequal["sharpness"] <= 0.99]
    lost = unequal.loc["reverse_kl", "optimum_value"]
    return [
        f"bimodal (modes 8 sd apart): seeking is the best under {', '.join(seeking)} alone. Under"
        f" {', '.join(split.index)} the start decides which of two optima a fit ends in.",
        f"pmtk3_bimodal (modes that overlap): every divergence covers; sharpness goes from"
        f" {close['sharpness'].min():.3f} to {close['sharpness'].max():.3f}, coverage from"
        f" {close['coverage'].min():.3f} to {close['coverage'].max():.3f}.",
        f"transactions (3 % of the mass far away): {', '.join(narrow.index)} leave the light mode"
        f" {away[narrow.index].min():.0f} sd away and lose it, for {lost:.4f} nats"
        f" under reverse KL (-ln 0.97 = {-math.log(0.97):.4f}). {', '.join(broad.index)} must reach for it: it lies"
        f" {away[broad.index].min():.1f} to {away[broad.index].max():.1f} sd away, and sharpness falls to"
        f" {broad['sharpness'].min():.2f} to {broad['sharpness'].max():.2f}.",
    ]


def _draw(table: pd.DataFrame, targets: list[str]) -> Any:
    figure, axes = panels(1, len(targets), 10, 3.3, sharey=True)
    for panel, target in zip(axes[0], targets, strict=True):
        rows = table.loc[target]
        at = [len(ORDER) - ORDER.index(name) for name in rows.index]
        spans(panel, at, rows, [str(word).replace(":", " ") for word in rows["optimum_label"]])
        panel.set(title=target, xlim=(-0.03, 1.5), xticks=(0, 0.5, 1))
        panel.set_yticks(range(1, len(ORDER) + 1), ORDER[::-1], fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure
