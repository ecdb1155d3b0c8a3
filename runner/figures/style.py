"""How every figure looks: a sheet of panels with a legend column at the right, colours and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.figures.study import Axis, View

# Okabe and Ito (2008), https://jfly.uni-koeln.de/color/: told apart with any colour vision.
WORDS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Paul Tol's muted scheme, https://personal.sron.nl/~pault/: for targets, so that no colour means two things.
TARGETS = ("#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#DDCC77", "#44AA99", "#AA4499", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":")
INK, FAINT, PAPER = "#222222", "#9a9a9a", "#ececec"

RC: Mapping[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titley": 1.0,  # a fixed place: searching for a free one takes a fifth of the drawing
    "axes.labelsize": 9,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": PAPER,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    # Names come from the sweep file: a dollar sign in one is a dollar sign, not the start of a formula.
    "text.parse_math": False,
}

PAGE = 10.0  # inches
LEGEND = 1.9
LEFT, TITLE, FOOT = 0.65, 0.3, 0.6
LABEL_GAP = 0.35
LINE = 8.5 * (1.2 + LABEL_GAP) / 72 * 1.02  # height of a legend's entry


@dataclass(frozen=True)
class Block:
    """Panels that belong together, under one heading and beside one legend. Sizes are in inches."""

    title: str
    panels: int
    columns: int
    height: float
    gap: float = 0.25
    head: float = 0.3  # room over every panel for its title
    foot: float = 0.12  # room under every row but the last; ``FOOT`` where each panel has its own axis

    @property
    def rows(self) -> int:
        return -(-self.panels // self.columns)

    @property
    def total(self) -> float:
        return TITLE + self.rows * (self.head + self.height) + (self.rows - 1) * self.foot + FOOT

    def is_lowest(self, panel: int) -> bool:
        """Whether no panel stands below this one."""
        return panel + self.columns >= self.panels


@dataclass(frozen=True)
class Placed:
    """A block on its sheet: its panels, and where its legend begins (figure fractions)."""

    block: Block
    axes: tuple[Any, ...]
    legend_at: tuple[float, float]


def sheet(blocks: Sequence[Block]) -> tuple[Any, list[Placed]]:
    """A figure one page wide, with the blocks below each other and room for legends at the right."""
    from matplotlib.figure import Figure

    height = sum(block.total for block in blocks)
    figure = Figure(figsize=(PAGE, height))
    placed, top = [], height
    for block in blocks:
        figure.text(LEFT / PAGE, (top - 0.2) / height, block.title, weight="bold", size=11, va="center")
        width = (PAGE - LEGEND - LEFT - (block.columns - 1) * block.gap) / block.columns
        first = top - TITLE
        axes = []
        for i in range(block.panels):
            row, column = divmod(i, block.columns)
            left = LEFT + column * (width + block.gap)
            bottom = first - (row + 1) * (block.head + block.height) - row * block.foot
            axes.append(figure.add_axes((left / PAGE, bottom / height, width / PAGE, block.height / height)))
        right = LEFT + min(block.panels, block.columns) * (width + block.gap) - block.gap
        legend_at = ((right + 0.22) / PAGE, (first - block.head + 0.1) / height)
        placed.append(Placed(block, tuple(axes), legend_at))
        top -= block.total
    return figure, placed


def heading(view: View, shown: int, which: str = "") -> str:
    """An experiment's name and, where not all of its targets are shown, how many are, and which."""
    known = len(view.targets)
    return view.experiment if shown == known else f"{view.experiment}: {which}{shown} of {known} targets"


def legend(figure: Any, placed: Placed, groups: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]]) -> None:
    """Draw one legend: for each heading its entries, as (label, the look of a ``Line2D``)."""
    from matplotlib.lines import Line2D

    x, y = placed.legend_at
    for heading, entries in groups.items():
        drawn = figure.legend(
            handles=[Line2D([], [], label=shorten(label, 22), **look) for label, look in entries],
            title=shorten(heading, 26),
            title_fontproperties={"weight": "bold", "size": RC["legend.fontsize"]},
            alignment="left",
            loc="upper left",
            bbox_to_anchor=(x, y),
            borderaxespad=0,
            borderpad=0,
            handlelength=1.6,
            labelspacing=LABEL_GAP,
        )
        drawn.set_in_layout(False)
        y -= (len(entries) + 1 + bool(heading)) * LINE / figure.get_figheight()


def colours(axis: Axis | None) -> dict[Any, Any]:
    """Level -> colour: told apart for words, dark to light for numbers; one colour where nothing varies."""
    if axis is None:
        return {}
    if not axis.numeric:
        return {level: WORDS[i] if i < len(WORDS) else FAINT for i, level in enumerate(axis.levels)}
    from matplotlib import colormaps

    last = len(axis.levels) - 1
    # Viridis ends in a yellow that white paper swallows.
    return {level: colormaps["viridis"](0.9 * i / last) for i, level in enumerate(axis.levels)}


def swatches(axis: Axis, most: int = len(WORDS), **look: Any) -> list[tuple[str, dict[str, Any]]]:
    """Legend entries for an axis shown by colour."""
    colour = colours(axis)
    shown = axis.extremes(8) if axis.numeric else axis.levels[:most]
    entries = [(word(level), {"color": colour[level], **look}) for level in shown]
    rest = len(axis.levels) - most
    if not axis.numeric and rest > 0:
        entries.append((f"{rest} others", {"color": FAINT, **look}))
    return entries


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """Up to ``most`` of them, evenly chosen, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, most - 1))] for i in range(most)]


def logarithmic(panel: Any, direction: str = "x", span: float = 100.0) -> None:
    """A logarithmic axis with plain numbers at the decades, or where it spans few also at 2 and 5 of each."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    getattr(panel, f"set_{direction}scale")("log")
    axis = getattr(panel, f"{direction}axis")
    axis.set_major_locator(LogLocator(numticks=6) if span >= 50 else LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def word(level: Any) -> str:
    """A parameter's value as a person writes it."""
    if isinstance(level, float):
        return f"{level:.4g}"
    return str(level)


def shorten(text: str, most: int) -> str:
    """At most so many characters of a name."""
    return text if len(text) <= most else text[: most - 1] + "…"
