from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.comparison import compare, markdown
from runner.record import schema
from runner.summary import edge_warnings, pareto, summarise
from tests.runner.fakes import TOY

FLAT = pa.schema([f for f in schema(TOY) if f.metadata[b"role"] not in (b"nested", b"fit")])
COVERAGES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, float("nan")])


def cells_of(frame: pd.DataFrame, nuisance: tuple[str, ...] = ()) -> pa.Table:
    """A cells table with these columns, and for the others what most cells have."""
    named = {"target": "near", "rate": 1.0, "size": 2, "mode": "fine", "hidden": "[4, 4]", "flag": False}
    measured = {"shape": "wide", "coverage": 1.0, "sharpness": 1.0, "loss": 0.0}
    usual: dict[str, Any] = {
        "experiment": "toy",
        "sweep": "s",
        "seed": 0,
        "status": "ok",
        **named,
        **measured,
    }
    full = frame.assign(**{name: value for name, value in usual.items() if name not in frame})
    full["configuration_id"] = full[list(named)].astype(str).agg("|".join, axis=1)
    full["cell_id"] = [f"{i:016x}" for i in range(len(full))]
    columns = [
        pa.array(full[f.name], f.type, from_pandas=False) if f.name in full else pa.nulls(len(full), f.type)
        for f in FLAT
    ]
    about = {"nuisance": json.dumps({"toy": list(nuisance)}), "objective": json.dumps({"toy": "loss"})}
    about |= {"objective_of": json.dumps({"toy": list(TOY.objective_of)})}
    return pa.table(columns, schema=FLAT.with_metadata(about))


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy says so of equal numbers
@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.lists(st.floats(-1e3, 1e3) | st.just(float("nan")), min_size=1, max_size=6), min_size=1, max_size=5
    ),
    failed=st.integers(0, 5),
)
def test_statistics_are_scipys(values: list[list[float]], failed: int) -> None:
    rows = [(float(g), s, v) for g, held in enumerate(values) for s, v in enumerate(held)]
    frame = pd.DataFrame(rows, columns=["rate", "seed", "sharpness"])
    frame["status"] = np.where(frame["seed"] == failed, "failed", "ok")
    summary = summarise(cells_of(frame)).to_pandas()
    assert list(summary["rate"]) == [float(g) for g in range(len(values))]
    for row, held in zip(summary.itertuples(), values, strict=True):
        kept = np.array([v for s, v in enumerate(held) if s != failed and not np.isnan(v)])
        assert row.n == len(held)
        assert row.n_failed == int(failed < len(held))
        assert row.n_ok == row.n - row.n_failed
        assert row.n_diverged == row.n_timeout == 0
        got = [row.sharpness_mean, row.sharpness_sd, row.sharpness_ci_low, row.sharpness_ci_high]
        expected = [np.nan] * 4
        if len(kept):
            expected[0] = float(np.mean(kept))
        if len(kept) > 1:
            expected[1] = float(scipy.stats.tstd(kept))
            error = scipy.stats.sem(kept)
            expected[2:] = [kept.mean() + side * error * scipy.stats.t.ppf(0.975, len(kept) - 1) for side in (-1, 1)]
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_the_interval_covers_the_mean_95_times_in_100() -> None:
    generator = np.random.default_rng(1)
    frame = pd.DataFrame({"rate": np.repeat(np.arange(1.0, 4001), 4), "seed": np.tile(np.arange(4), 4000)})
    frame["loss"] = generator.normal(3.0, 2.0, len(frame))
    summary = summarise(cells_of(frame)).to_pandas()
    covered = ((summary["loss_ci_low"] < 3) & (summary["loss_ci_high"] > 3)).mean()
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


def test_columns_are_described_and_errors_left_out() -> None:
    layout = summarise(cells_of(pd.DataFrame({"rate": [1.0, 2.0]}))).schema
    assert layout.field("loss_mean").metadata[b"unit"] == b"nats"
    assert layout.field("loss_ci_low").metadata[b"metric"] == b"loss"
    assert layout.field("loss_ci_low").metadata[b"statistic"] == b"ci_low"
    assert layout.field("rate").type == pa.float64()
    assert "coverage_se_mean" not in layout.names
    assert not {"seed", "cell_id", "error", "fit_seconds"} & set(layout.names)


def test_labels_that_differ_are_listed_with_their_number() -> None:
    frame = pd.DataFrame(
        {
            "rate": [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0],
            "seed": [0, 1, 2, 3, 0, 1, 0],
            "shape": ["narrow", "wide", "narrow", "lost", "wide", "wide", "wide"],
            "status": ["ok", "ok", "ok", "failed", "ok", "ok", "failed"],
        }
    )
    assert summarise(cells_of(frame))["shape"].to_pylist() == ["narrow (2), wide (1)", "wide", None]


def brute_force_frontier(points: list[tuple[str, str, float, float]]) -> list[bool]:
    def beaten(group: tuple[str, str], c: float, s: float) -> bool:
        return any((e, t) == group and c2 >= c and s2 >= s and (c2 > c or s2 > s) for e, t, c2, s2 in points)

    return [bool(np.isfinite(c + s)) and not beaten((e, t), c, s) for e, t, c, s in points]


POINT = st.tuples(st.sampled_from(["toy", "other"]), st.sampled_from(["near", "far"]), COVERAGES, COVERAGES)


@settings(max_examples=150, deadline=None)
@given(st.lists(POINT, min_size=1, max_size=14))
def test_the_frontier_is_what_brute_force_finds(points: list[tuple[str, str, float, float]]) -> None:
    frame = pd.DataFrame(points, columns=["experiment", "target", "coverage", "sharpness"])
    frame["rate"] = np.arange(len(frame)) + 1.0
    assert summarise(cells_of(frame))["pareto"].to_pylist() == brute_force_frontier(points)


def test_without_coverage_nothing_is_on_the_frontier() -> None:
    assert not pareto(pa.table({"experiment": ["a"], "target": ["b"]}), np.ones(1, bool)).any()


def test_a_nuisance_value_that_was_not_kept_beats_nothing() -> None:
    frame = pd.DataFrame(
        {
            "rate": [0.1, 1.0, 0.1, 1.0],
            "size": [2, 2, 3, 3],
            "loss": [0.0, 1.0, 0.0, 1.0],
            "coverage": [0.5, 0.9, 0.4, 0.3],
            "sharpness": [0.5, 0.9, 0.6, 0.3],
        }
    )
    assert summarise(cells_of(frame, nuisance=("rate",)))["pareto"].to_pylist() == [True, False, True, False]
    assert summarise(cells_of(frame))["pareto"].to_pylist() == [False, True, False, False]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_best_nuisance_value_is_what_brute_force_finds(data: st.DataObject) -> None:
    rows = [
        (target, rate, size, seed, data.draw(st.sampled_from([0.0, 1.0, 2.0, 5.0, float("nan")])))
        for target in ("near", "far")
        for size in (2, 3)
        for rate in (0.1, 0.2, 0.3)
        for seed in (0, 1)
    ]
    frame = pd.DataFrame(rows, columns=["target", "rate", "size", "seed", "loss"])
    order = data.draw(st.permutations(range(len(frame))))
    summary = summarise(cells_of(frame.iloc[order].reset_index(drop=True), nuisance=("rate",))).to_pandas()
    means = frame.groupby(["target", "size", "rate"])["loss"].mean()
    for (target, size), chosen in summary.groupby(["target", "size"]):
        best = chosen[chosen["nuisance_best"]]
        assert len(best) == 1
        own = means.loc[target, size]
        if own.notna().any():
            assert own[best["rate"].iloc[0]] == own.min()


def test_a_nuisance_value_whose_seeds_diverged_loses_to_one_with_more_that_are_ok() -> None:
    frame = grid(rate=[0.1, 1.0, 10.0, 100.0], size=[2, 3], seed=[0, 1, 2])
    frame["loss"] = -frame["rate"]
    lost = (frame["size"] == 2) & (frame["rate"] >= 10.0) & (frame["seed"] > 0)
    lost |= (frame["size"] == 3) & (frame["rate"] != 1.0)
    lost |= (frame["size"] == 3) & (frame["seed"] == 2)
    frame["status"] = np.where(lost, "diverged", "ok")
    summary = summarise(cells_of(frame, nuisance=("rate",))).to_pandas()
    assert summary[summary["nuisance_best"]][["size", "rate", "n_ok"]].to_numpy().tolist() == [[2, 1, 3], [3, 1, 2]]


def test_without_nuisance_parameters_every_configuration_counts() -> None:
    assert summarise(cells_of(pd.DataFrame({"rate": [1.0, 2.0]})))["nuisance_best"].to_pylist() == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([1.0, 0.0, 2.0], []),
        ([0.0, 1.0, 2.0], ["the smallest tried (0.1)"]),
        ([2.0, 1.0, 0.0], ["the largest tried (10)"]),
        ([float("nan")] * 3, []),
    ],
)
def test_a_best_value_at_the_edge_is_warned_of(losses: list[float], said: list[str]) -> None:
    frame = pd.DataFrame({"rate": [0.1, 1.0, 10.0], "loss": losses})
    sentences = edge_warnings(summarise(cells_of(frame, nuisance=("rate",))))
    assert len(sentences) == len(said)
    assert all(part in sentence and "1 of 1" in sentence for part, sentence in zip(said, sentences, strict=True))


def test_edges_are_counted_over_settings_and_text_has_none() -> None:
    frame = grid(target=["near", "far"], rate=[0.1, 1.0, 10.0], mode=["fine", "slow"])
    frame["loss"] = frame["rate"].where(frame["target"] == "near", (frame["rate"] - 1) ** 2)
    frame["loss"] += frame["mode"] == "slow"
    sentences = edge_warnings(summarise(cells_of(frame, nuisance=("rate", "mode"))))
    assert len(sentences) == 1
    assert "in 1 of 2 settings the best rate is the smallest tried (0.1)" in sentences[0]


def test_the_only_value_tried_is_no_edge() -> None:
    tried = {"near": [0.1, 1.0, 10.0], "far": [5.0]}
    frame = pd.DataFrame([(target, rate) for target in tried for rate in tried[target]], columns=["target", "rate"])
    frame["loss"] = np.abs(np.log(frame["rate"]))
    assert edge_warnings(summarise(cells_of(frame, nuisance=("rate",)))) == []
    (sentence,) = edge_warnings(summarise(cells_of(frame.assign(loss=frame["rate"]), nuisance=("rate",))))
    assert "in 1 of 1 settings the best rate is the smallest tried (0.1)" in sentence


def grid(**axes: Any) -> pd.DataFrame:
    return pd.MultiIndex.from_product(axes.values(), names=list(axes)).to_frame(index=False)


def compared(frame: pd.DataFrame, nuisance: tuple[str, ...] = (), **options: Any) -> Any:
    cells = cells_of(frame, nuisance)
    return compare(cells, summarise(cells), **options)


def test_the_comparison_shows_what_varies() -> None:
    frame = grid(target=["near", "far"], rate=[0.5, 2.0], seed=[0, 1, 2])
    generator = np.random.default_rng(0)
    frame["coverage"], frame["sharpness"] = generator.random((2, len(frame)))
    (part,) = compared(frame)
    assert (part.experiment, part.axes, part.measures) == (
        "toy",
        ("target", "rate"),
        ("coverage", "sharpness", "loss"),
    )
    assert part.notes == ()
    assert list(zip(part.rows["target"], part.rows["rate"], strict=True)) == [
        ("near", 0.5), ("near", 2.0), ("far", 0.5), ("far", 2.0)
    ]  # fmt: skip
    for row in part.rows.itertuples():
        own = frame[(frame["target"] == row.target) & (frame["rate"] == row.rate)]["coverage"]
        half = scipy.stats.sem(own) * scipy.stats.t.ppf(0.975, 2)
        np.testing.assert_allclose([row.coverage, row.coverage_half, row.n], [own.mean(), half, 3])


def test_the_least_telling_axis_is_averaged_over_within_seeds() -> None:
    frame = grid(target=["near", "far"], rate=[0.5, 2.0], size=[2, 3, 4], seed=[0, 1, 2])
    noise = np.random.default_rng(0).normal(size=3)[frame["seed"]]
    frame["coverage"] = frame["rate"] + 0.01 * frame["size"] + noise
    (part,) = compared(frame, limit=5)
    assert part.axes == ("target", "rate")
    assert part.notes == ("toy: averaged over size (3 values)",)
    row = part.rows.iloc[0]
    by_seed = frame[(frame["target"] == "near") & (frame["rate"] == 0.5)].groupby("seed")["coverage"].mean()
    expected = [by_seed.mean(), scipy.stats.sem(by_seed) * scipy.stats.t.ppf(0.975, 2), 9]
    np.testing.assert_allclose(row[["coverage", "coverage_half", "n"]].astype(float), expected)


def test_rows_beyond_the_limit_are_left_out_and_said() -> None:
    frame = grid(target=[f"t{i}" for i in range(10)], rate=[0.5, 2.0], seed=[0])
    (part,) = compared(frame, limit=7)
    assert len(part.rows) == 7
    assert part.notes == ("toy: 13 more rows are in summary.parquet",)
    assert part.rows["coverage_half"].isna().all()


def test_only_the_best_nuisance_value_is_compared_and_numbers_are_of_cells_that_are_ok() -> None:
    frame = grid(rate=[0.5, 2.0], size=[2, 3], seed=[0, 1])
    frame["loss"] = frame["rate"]
    frame["status"] = np.where((frame["size"] == 3) & (frame["seed"] == 1), "diverged", "ok")
    (part,) = compared(frame, nuisance=("rate",))
    assert part.axes == ("target", "size")
    assert list(part.rows["n"]) == [2, 1]
    assert list(part.rows["loss"]) == [0.5, 0.5]
    assert [row[-1] for row in part.texts()[1]] == ["2", "1 of 2"]


def test_configurations_without_a_cell_that_is_ok_have_a_row_that_says_so() -> None:
    frame = grid(target=["near", "far"], rate=[0.5, 8.0], seed=[0, 1])
    frame["status"] = np.where(frame["rate"] == 8.0, "diverged", "ok")
    (part,) = compared(frame)
    heading, rows = part.texts()
    assert heading == ("target", "rate", "coverage", "sharpness", "n")
    assert rows == [
        ("near", "0.5", "1.000", "1.000", "2"),
        ("near", "8", "-", "-", "0 of 2"),
        ("far", "0.5", "1.000", "1.000", "2"),
        ("far", "8", "-", "-", "0 of 2"),
    ]
    assert "| near | 8 | - | - | 0 of 2 |" in markdown([part])
    frame["status"] = "failed"
    (part,) = compared(frame)
    assert part.texts()[1] == [(target, rate, "-", "0 of 2") for target in ("near", "far") for rate in ("0.5", "8")]


def test_the_best_of_the_sweep_is_what_brute_force_finds() -> None:
    generator = np.random.default_rng(6)
    n = 240
    frame = pd.DataFrame(
        {
            "target": generator.choice(["near", "far"], n),
            "rate": generator.choice([0.5, 2.0, 8.0], n),
            "size": generator.choice([1, 2, 3], n),
            "seed": np.arange(n),
            "status": generator.choice(["ok", "failed"], n, p=[0.9, 0.1]),
            "loss": generator.choice([np.nan, np.inf, -1.0, 0.5, 3.0], n) + generator.normal(size=n),
        }
    )
    frame.loc[(frame["target"] == "near") & (frame["rate"] == 8.0), "status"] = "failed"
    summary = summarise(cells_of(frame)).to_pandas()
    assert summary["sweep_best_gap"].notna().any()
    for row in summary.itertuples():
        same = frame[(frame["target"] == row.target) & (frame["rate"] == row.rate) & (frame["status"] == "ok")]
        own = same[(same["size"] == row.size)]["loss"].dropna()
        found = same["loss"][np.isfinite(same["loss"])]
        expected = own.mean() - found.min() if len(own) and len(found) else np.nan
        np.testing.assert_allclose(row.sweep_best_gap, expected)


def test_what_ranks_nothing_has_no_best() -> None:
    cells = cells_of(pd.DataFrame({"rate": [0.5, 2.0], "loss": [1.0, 2.0]}))
    about = {**cells.schema.metadata, b"objective_of": json.dumps({"toy": []}).encode()}
    assert summarise(cells.replace_schema_metadata(about)).to_pandas()["sweep_best_gap"].isna().all()
