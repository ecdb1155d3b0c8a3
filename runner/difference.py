"""Two sweeps side by side: what differs between their parameters, and between the results of equal cells."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runner.comparison import HEADINGS, JUDGED_BY, counted, said
from runner.summary import by_experiment, parameters, statistics

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Difference:
    """One experiment in both sweeps.

    Args:
        settings: sentences on parameters that have one value in each sweep, and not the same one, and on targets
            that share no more than a name.
        axes: the parameters that a row is told by; a row is there if both sweeps have cells of it.
        measures: columns of the mean of B - A over seeds; ``<measure>_half`` is half its 95 % interval.
        rows: those columns, ``n``, the number of seeds that both have and that are ok in both, and ``records``, that
            of seeds that both have.
        identical: how many of the cells that both hold have the same numbers, bit for bit; and how many there are.
    """

    experiment: str
    settings: tuple[str, ...]
    axes: tuple[str, ...]
    measures: tuple[str, ...]
    rows: pd.DataFrame
    identical: tuple[int, int]

    def texts(self, limit: int) -> tuple[list[str], list[list[str]]]:
        """Heading and the first rows as a person reads them."""
        heading = [*self.axes, *(HEADINGS.get(name, name) for name in self.measures), "n"]
        rows = [
            [
                *(said(row[axis]) for axis in self.axes),
                *(_signed(row[name], row[f"{name}_half"]) for name in self.measures),
                counted(row),
            ]
            for row in self.rows.head(limit).to_dict("records")
        ]
        return heading, rows


def differences(a: pa.Table, b: pa.Table, unlike: Collection[str] = ()) -> list[Difference]:
    """``B - A``, paired by seed, for each experiment that both tables of cells have.

    Cells of one seed share their noise, so a paired difference is far sharper than that of two means.

    Args:
        unlike: targets that are others in B than in A, under the same name.
    """
    both = [name for name in a["experiment"].unique().to_pylist() if name in b["experiment"].unique().to_pylist()]
    return [_difference(name, a, b, unlike) for name in both]


def _difference(experiment: str, a: pa.Table, b: pa.Table, unlike: Collection[str]) -> Difference:
    own = [_cells(table, experiment) for table in (a, b)]
    names = [name for name in parameters(a) if name in parameters(b)]
    values = {name: [_values(frame[name]) for frame in own] for name in names}
    changed = [name for name in names if values[name][0] != values[name][1] and max(map(len, values[name])) == 1]
    axes = [name for name in names if name not in changed and max(map(len, values[name])) > 1]
    axes = ["target", *(name for name in axes if name != "target")]
    objective = by_experiment(a, "objective").get(experiment, "")
    wanted = dict.fromkeys((*JUDGED_BY, "forward_kl", "reverse_kl", objective))
    measures = [name for name in wanted if name and all(name in f and f[name].notna().any() for f in own)]
    keys = [*axes, "seed"]
    first, second = (frame.groupby(keys, dropna=False, sort=False)[[*measures, "ok"]].mean() for frame in own)
    paired = (second - first).assign(ok=second["ok"] * first["ok"] > 0)
    paired = paired.loc[first.index.intersection(second.index, sort=False)].reset_index()
    return Difference(
        experiment,
        (
            *(f"{name}: {values[name][0][0]} in A, {values[name][1][0]} in B" for name in changed),
            *(f"target {name}: one in A, another in B" for name in unlike if name in set(own[0].target)),
        ),
        tuple(axes),
        tuple(measures),
        _rows(paired, axes, measures),
        _identical(own[0], own[1], measures),
    )


def _values(column: pd.Series) -> list[object]:
    """Each once; one that is missing is None, which equals itself."""
    distinct = column.drop_duplicates().astype(object)
    return [None if missing else value for value, missing in zip(distinct, distinct.isna(), strict=True)]


def _cells(table: pa.Table, experiment: str) -> pd.DataFrame:
    """The experiment's cells, and whether each is ``ok``; where it is not, its metrics say nothing."""
    found: pd.DataFrame = table.filter(pc.equal(table["experiment"], experiment)).to_pandas()
    found["ok"] = found["status"] == "ok"
    metrics = [field.name for field in table.schema if (field.metadata or {}).get(b"role") == b"metric"]
    found.loc[~found["ok"], metrics] = math.nan
    return found


def _rows(paired: pd.DataFrame, axes: list[str], measures: list[str]) -> pd.DataFrame:
    groups = paired.groupby(axes, sort=False, dropna=False)
    codes = groups.ngroup().to_numpy()
    first = np.unique(codes, return_index=True)[1]
    rows = paired.loc[first, axes].reset_index(drop=True)
    rows["n"], rows["records"] = groups["ok"].sum().to_numpy(), groups.size().to_numpy()
    for name in measures:
        mean, _, low, high = statistics(paired[name].to_numpy(), codes, np.ones(len(codes), bool), len(first))
        rows[name], rows[f"{name}_half"] = mean, (high - low) / 2
    return rows


def _identical(a: pd.DataFrame, b: pd.DataFrame, measures: list[str]) -> tuple[int, int]:
    left, right = (frame[frame["ok"]].set_index("cell_id")[measures] for frame in (a, b))
    shared = left.index.intersection(right.index)
    left, right = left.loc[shared], right.loc[shared]
    return int(((left == right) | (left.isna() & right.isna())).all(axis=1).sum()), len(shared)


def _signed(mean: float, half: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:+.3g}" + (f" ±{half:.2g}" if half > 0 else "")
