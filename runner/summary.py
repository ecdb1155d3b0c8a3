"""From cells to configurations: means over seeds with intervals, the frontier, and what was optimised away.

Everything needed is in the metadata of the cells' table, so this module knows no experiment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runner.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
IDENTITY = ("experiment", "configuration_id")
COUNTS = {
    "n": "cells that have a record: one for each seed",
    "n_ok": "cells whose status is ok; the statistics are over these",
    "n_diverged": "cells that diverged",
    "n_failed": "cells that raised an error",
    "n_timeout": "cells that ran past their time",
}
BEST = "objective_mean above the lowest objective of the sweep's cells with this target and this objective"
NUISANCE_BEST = "lowest mean objective of its nuisance values, among those with the most cells that are ok"
STATISTICS = {
    "mean": "mean over seeds of: {}",
    "sd": "standard deviation over seeds of: {}",
    "ci_low": "lower end of the 95 % Student-t interval for the mean of: {}",
    "ci_high": "upper end of the 95 % Student-t interval for the mean of: {}",
}


class Columns(Protocol):
    """A table of which one column at a time is needed: in memory, or on the disk."""

    @property
    def schema(self) -> pa.Schema: ...
    def __getitem__(self, name: str) -> pa.ChunkedArray: ...


def summarise(cells: Columns) -> pa.Table:
    """A row for each configuration, in the order of the cells.

    Over the seeds whose status is ``ok``, NaN left out, each metric has ``<metric>_mean``, ``_sd`` and the
    95 % Student-t interval of the mean ``_ci_low``, ``_ci_high`` (NaN with a single seed). A label is its
    value, or where seeds differ each value with its number. ``nuisance_best`` marks the configuration of
    lowest mean objective among those that differ only in nuisance parameters and have the most cells that are
    ok; ``pareto`` those of one experiment and target that no other of the marked ones beats in both coverage and
    sharpness. ``sweep_best_gap`` is how far the mean objective lies above the lowest of any cell here that minimised
    the same: no truth, only what was found.

    Args:
        cells: as in ``cells.parquet``: fields with the metadata of ``runner.record``, and in the table's own
            metadata ``objective``, ``objective_of`` and ``nuisance`` by experiment, as JSON.
    """
    codes = pc.dictionary_encode(cells["configuration_id"].combine_chunks()).indices.to_numpy()
    first = np.unique(codes, return_index=True)[1]
    status = cells["status"].to_numpy()
    ok = status == "ok"
    columns: list[tuple[pa.Field, Any]] = []
    for f in cells.schema:
        if f.name in IDENTITY or _role(f) == "parameter":
            columns.append((f, cells[f.name].take(pa.array(first))))
    for name, meaning in COUNTS.items():
        chosen = codes if name == "n" else codes[status == name.removeprefix("n_")]
        columns.append((_field(name, pa.int64(), "count", meaning), np.bincount(chosen, minlength=len(first))))
    for f in cells.schema:
        if _role(f) == "label":
            columns.append((f, _labels(cells[f.name].to_pandas(), codes, ok, len(first))))
        elif _role(f) == "metric" and b"error_of" not in f.metadata:
            values = cells[f.name].to_numpy()
            columns.extend(zip(_statistic_fields(f), statistics(values, codes, ok, len(first)), strict=True))
    summary = _table(columns, cells.schema.metadata)
    best = _best(summary)
    marks = [
        (
            _field("pareto", pa.bool_(), "mark", "on the frontier of mean coverage and sharpness"),
            pareto(summary, best),
        ),
        (
            _field("nuisance_best", pa.bool_(), "mark", NUISANCE_BEST),
            best,
        ),
        (
            _field("sweep_best_gap", pa.float64(), "mark", BEST),
            _above_best(cells, summary, codes, ok),
        ),
    ]
    return _table([*zip(summary.schema, summary.columns, strict=True), *marks], cells.schema.metadata)


def statistics(values: np.ndarray, codes: np.ndarray, ok: np.ndarray, groups: int) -> tuple[np.ndarray, ...]:
    """Mean, standard deviation and both ends of the mean's 95 % interval, each ``(groups,)``.

    Args:
        values: ``(n,)``; NaN is left out.
        codes: ``(n,)``, the group of each value.
        ok: ``(n,)``, whether the value counts.
        groups: how many there are.
    """
    from scipy.special import stdtrit

    held = ok & ~np.isnan(values)
    values, codes = values[held], codes[held]
    n = np.bincount(codes, minlength=groups)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        mean = np.bincount(codes, values, groups) / n
        variance = np.bincount(codes, (values - mean[codes]) ** 2, groups) / (n - 1)
        sd = np.where(n > 1, np.sqrt(variance), np.nan)
        half = stdtrit(np.maximum(n - 1, 1), 0.5 + CONFIDENCE / 2) * sd / np.sqrt(n)
        return mean, sd, mean - half, mean + half


def pareto(summary: pa.Table, among: np.ndarray) -> np.ndarray:
    """Which of the rows ``among`` no other of these, of one experiment and target, beats: as good, better in one."""
    names = summary.column_names
    frontier = np.zeros(len(summary), bool)
    if not {"coverage_mean", "sharpness_mean"} <= set(names):
        return frontier
    frame = summary.select(["experiment", "target", "coverage_mean", "sharpness_mean"]).to_pandas()
    frame = frame.set_axis(["experiment", "target", "coverage", "sharpness"], axis="columns")
    frame = frame[among & np.isfinite(frame["coverage"]) & np.isfinite(frame["sharpness"])]
    frame["group"] = frame.groupby(["experiment", "target"], sort=False, dropna=False).ngroup()
    # The best sharpness at each level of coverage, and the best at any higher level.
    levels = frame.groupby(["group", "coverage"], as_index=False)["sharpness"].max()
    levels = levels.sort_values(["group", "coverage"], ascending=[True, False])
    above = levels.groupby("group")["sharpness"].cummax().groupby(levels["group"]).shift(fill_value=-np.inf)
    levels = levels[levels["sharpness"] > above]
    on = frame.reset_index().merge(levels, on=["group", "coverage", "sharpness"])["index"]
    frontier[on.to_numpy()] = True
    return frontier


def edge_warnings(summary: pa.Table) -> list[str]:
    """A sentence for each nuisance parameter whose best value is the smallest or largest that was tried."""
    sentences = []
    for experiment, frame, nuisance, objective in _settings(summary):
        for name in nuisance:
            if frame[name].dtype.kind not in "iuf":  # words and truth values have no edge
                continue
            tried = frame.groupby("setting")[name].agg(["min", "max"])
            best = frame[frame["nuisance_best"] & np.isfinite(frame[objective])].set_index("setting")[name]
            tried = tried.loc[best.index]
            tried = tried[tried["min"] < tried["max"]]
            for end, word in (("min", "smallest"), ("max", "largest")):
                at_edge = best.loc[tried.index][best.loc[tried.index] == tried[end]]
                if len(at_edge):
                    values = ", ".join(f"{value:g}" for value in sorted(at_edge.unique()))
                    sentences.append(
                        f"{experiment}: in {len(at_edge)} of {len(tried)} settings the best {name} is the "
                        f"{word} tried ({values}): the optimum may lie beyond, so widen this nuisance axis"
                    )
    return sentences


def parameters(table: Columns) -> list[str]:
    """The names of the table's parameter columns.

    Raises:
        StoreError: the table does not say what its columns are.
    """
    if not any(map(_role, table.schema)):
        raise StoreError(
            "a table of this sweep does not say what its columns are, as when another program has written it anew:"
            " run the sweep again to make its tables (finished cells are kept)"
        )
    return [f.name for f in table.schema if _role(f) == "parameter"]


def by_experiment(table: Columns, key: str) -> dict[str, Any]:
    """Each experiment's ``objective`` or ``nuisance`` parameters, whichever the key asks of the table."""
    held: dict[str, Any] = json.loads((table.schema.metadata or {}).get(key.encode(), b"{}"))
    return held


def _best(summary: pa.Table) -> np.ndarray:
    best = np.ones(len(summary), bool)
    for _, frame, _, objective in _settings(summary):
        best[frame.index] = False
        # A mean over the seeds that did not diverge says nothing of a setting at which the others did.
        ranked = frame.assign(undefined=frame[objective].isna()).sort_values(
            ["undefined", "n_ok", objective], ascending=[True, False, True], kind="stable"
        )
        best[ranked.groupby("setting").head(1).index] = True
    return best


def _above_best(cells: Columns, summary: pa.Table, codes: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """NaN where the experiment ranks nothing, or no cell of the group has a finite objective."""
    above = np.full(len(summary), np.nan)
    objectives = by_experiment(cells, "objective")
    for experiment, of in by_experiment(cells, "objective_of").items():
        objective = objectives.get(experiment)
        if not of or objective is None or f"{objective}_mean" not in summary.column_names:
            continue
        names = [name for name in ("target", *of) if name in summary.column_names]
        rows = summary.select(["experiment", *names, f"{objective}_mean"]).to_pandas()
        rows = rows[rows["experiment"] == experiment]
        if rows.empty:
            continue
        group = np.full(len(summary), -1)
        group[rows.index] = _ngroup(rows, names)
        values = cells[objective].to_numpy()
        held = ok & np.isfinite(values) & (group[codes] >= 0)
        best = np.full(group.max() + 1, np.inf)
        np.minimum.at(best, group[codes[held]], values[held])
        found = np.where(np.isfinite(best), best, np.nan)
        above[rows.index] = rows[f"{objective}_mean"] - found[group[rows.index]]
    return above


def _settings(summary: pa.Table) -> Iterator[tuple[str, pd.DataFrame, list[str], str]]:
    """Of each experiment with nuisance parameters its rows, and in ``setting`` what else they differ in."""
    nuisance, objectives = by_experiment(summary, "nuisance"), by_experiment(summary, "objective")
    named = parameters(summary)
    for experiment, names in nuisance.items():
        objective = f"{objectives.get(experiment)}_mean"
        if not names or objective not in summary.column_names:
            continue
        marks = [name for name in ("nuisance_best",) if name in summary.column_names]
        frame = summary.select([*dict.fromkeys(["experiment", *named, "n_ok", objective, *marks])]).to_pandas()
        frame = frame[frame["experiment"] == experiment]
        others = [name for name in named if name not in names]
        yield experiment, frame.assign(setting=_ngroup(frame, others)), list(names), objective


def _ngroup(frame: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    return frame.groupby(list(names), sort=False, dropna=False).ngroup()


def _labels(values: pd.Series, codes: np.ndarray, ok: np.ndarray, groups: int) -> pa.Array:
    """Each group's label; where its cells differ every one with its number, the most frequent first."""
    held = values[ok].to_frame("label").assign(code=codes[ok]).dropna()
    counts = held.value_counts(["code", "label"]).reset_index(name="count")
    counts = counts.sort_values(["code", "count", "label"], ascending=[True, False, True])
    several = counts["code"].duplicated(keep=False)
    text = np.full(groups, None, object)
    text[counts.loc[~several, "code"]] = counts.loc[~several, "label"]
    listed = counts["label"] + " (" + counts["count"].astype(str) + ")"
    joint = listed[several].groupby(counts["code"]).agg(", ".join)
    text[joint.index] = joint
    return pa.array(text, pa.string())


def _statistic_fields(field: pa.Field) -> Iterator[pa.Field]:
    note = {key.decode(): value.decode() for key, value in field.metadata.items()}
    for name, meaning in STATISTICS.items():
        more = {**note, "meaning": meaning.format(note["meaning"]), "metric": field.name, "statistic": name}
        yield pa.field(f"{field.name}_{name}", pa.float64(), metadata=more)


def _field(name: str, kind: pa.DataType, role: str, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"role": role, "unit": "", "meaning": meaning})


def _role(field: pa.Field) -> str:
    return bytes((field.metadata or {}).get(b"role", b"")).decode()


def _table(columns: Sequence[tuple[pa.Field, Any]], metadata: Any) -> pa.Table:
    arrays = [column if isinstance(column, pa.ChunkedArray) else pa.array(column, f.type) for f, column in columns]
    return pa.table(arrays, schema=pa.schema([f for f, _ in columns], metadata=metadata))
