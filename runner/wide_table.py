"""Tables of configurations on a screen of any width: no number is ever cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class WideTable:
    """Rows of text in the first layout that fits.

    One table; else a table for each target, with the parameters that vary there as columns, and where that is too
    wide as lines of text; and where a word or a number would not fit in it, each row as a paragraph.

    Args:
        title: above the rows.
        heading: names of the columns.
        rows: the target, then other parameters, then numbers.
        axes: how many columns are parameters, the target among them.
    """

    title: str
    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    axes: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def fits(table: Table) -> bool:
            wish = Measurement.get(console, options.update(max_width=10_000), table)
            return wish.maximum <= options.max_width

        whole = _table(self.title, self.heading, self.rows, self.axes)
        if fits(whole):
            yield whole
            return
        by_target: dict[str, list[Sequence[str]]] = {}
        for row in self.rows:
            by_target.setdefault(row[0], []).append(row)
        for number, group in enumerate(by_target.values()):
            if number:
                yield Text("")
            varying = [k for k in range(1, self.axes) if len({row[k] for row in group}) > 1]
            yield self._title(group[0], [k for k in range(1, self.axes) if k not in varying])
            table = self._of_target(group, varying)
            if fits(table):
                yield table
            elif fits(self._of_target(group, varying, _longest_word)):
                yield self._of_target(group, varying, _line)
            else:
                yield from self._paragraphs(group, varying, options.max_width)

    def _title(self, row: Sequence[str], fixed: Sequence[int]) -> Text:
        said = [_named(self.heading[k], row[k]) for k in fixed if row[k] != "-"]
        title = Text(f"{self.title}, target {row[0]}", "italic")
        return title.append(f"  {', '.join(said)}", "dim") if said else title

    def _of_target(
        self,
        rows: Sequence[Sequence[str]],
        varying: Sequence[int],
        in_one: Callable[[Sequence[str]], str] | None = None,
    ) -> Table:
        """A column for each parameter that varies, or ``in_one`` what that makes of them."""
        names, told = [self.heading[k] for k in varying], [[row[k] for k in varying] for row in rows]
        if in_one:
            told = [[in_one(list(map(_named, names, values)))] for values in told]
            names = ["parameters"]
        numbers = slice(self.axes, None)
        table = [[*values, *row[numbers]] for values, row in zip(told, rows, strict=True)]
        return _table(None, [*names, *self.heading[numbers]], table, len(names), in_one is not None)

    def _paragraphs(self, rows: Sequence[Sequence[str]], varying: Sequence[int], width: int) -> Iterator[Text]:
        """Of each row the parameters, and below them each number with its name; what does not apply is left out."""
        for row in rows:
            told = [_named(self.heading[k], row[k]) for k in varying]
            numbers = [f"{self.heading[k]} {row[k]}" for k in range(self.axes, len(row)) if row[k] != "-"]
            for pieces, indent, style in ((told, "", "bold"), (numbers, "  " if told else "", "")):
                for line in _filled(pieces, width, indent):
                    yield Text(line, style, no_wrap=True, overflow="ignore")


def _named(name: str, value: str) -> str:
    """A parameter's value; with its name unless the value is a word, which says itself what it is of."""
    return f"{name} {value}" if value in ("True", "False") or not value[:1].isalpha() else value


def _line(pieces: Sequence[str]) -> str:
    return ", ".join(pieces)


def _longest_word(pieces: Sequence[str]) -> str:
    """Narrower than that a column of their lines must not be."""
    return max(_line(pieces).split(), key=len, default="")


def _filled(pieces: Sequence[str], width: int, indent: str) -> list[str]:
    """The pieces with commas, in lines that break between pieces alone."""
    whole = _line([piece.replace(" ", "\xa0") for piece in pieces])  # at which textwrap does not break
    lines = wrap(
        whole, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\xa0", " ") for line in lines]


def _table(
    title: str | None, heading: Sequence[str], rows: Sequence[Sequence[str]], axes: int, in_lines: bool = False
) -> Table:
    """Numbers to the right of so many ``axes``, of which the first one's value is said once."""
    table = Table(
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,  # 80 columns are enough for two axes
        header_style="bold",
    )
    for number, name in enumerate(heading):
        if number < axes:
            table.add_column(name, no_wrap=not in_lines, overflow="fold" if in_lines else "ellipsis")
        else:
            table.add_column(name, no_wrap=True, justify="right")
    before = ""
    for first, *rest in rows:
        if before not in ("", first):
            table.add_section()
        table.add_row("" if first == before and axes > 1 else first, *rest)
        before = first
    return table
