from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import LogNorm, Normalize, to_rgba
from matplotlib.markers import MarkerStyle
from scipy import stats

from experiments.targets import Mixture, Points
from runner.figures import about, coverage_sharpness, curves, lines, maps, samples, write_figures
from runner.figures import axes as one_by_one
from runner.figures.axes import DODGE, marginal
from runner.figures.pictures import MOST_PANELS, Picture, choose, within_budget
from runner.figures.samples import _frames
from runner.figures.study import QUESTION, Axis, View, _most_telling, read_study, telling_levels
from runner.figures.style import DASHES, FAINT, INK, MARKERS, TARGETS, WORDS, Block, colours, sheet
from runner.report import _answers
from runner.store.targets import write_targets
from tests.runner.fakes import mixture
from tests.runner.made_results import toy_cells, write_results

NEAR, FAR = mixture("near", 1.0), mixture("far", 4.0, dim=2)
NAMES = ["coverage_sharpness", "lines", "axes", "samples", "curves"]
RATE = Axis("rate", (0.5, 1.0, 2.0, 4.0), "", numeric=True)
SIZE = Axis("size", (1, 2, 3), "", numeric=True)
INIT = Axis("init", ("wide", "tight"), "", numeric=False)  # not in the order of the alphabet


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def size(path: Path) -> tuple[int, int]:
    """Width and height, as the header of a PNG file says."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def made(targets: Sequence[str], axes: Sequence[Axis], spread: float = 0.2) -> View:
    """Random cells of every combination at three seeds, in no order, and their summary made without ``runner``."""
    generator = np.random.default_rng(7)
    levels = [pd.Index(targets, name="target"), *(pd.Index(axis.levels, name=axis.name) for axis in axes)]
    rows = pd.MultiIndex.from_product(levels).to_frame(index=False)
    by, middle = list(rows.columns), {name: generator.uniform(0.1, 0.9, len(rows)) for name in QUESTION}
    cells = rows.assign(**middle).merge(pd.DataFrame({"seed": range(3)}), how="cross").sample(frac=1, random_state=0)
    for name in QUESTION:
        cells[name] += spread * generator.uniform(-1, 1, len(cells))
    for name in QUESTION:
        names = {"mean": f"{name}_mean", "low": f"{name}_ci_low", "high": f"{name}_ci_high"}
        rows = rows.merge(over_seeds(cells, by, name).rename(columns=names).reset_index())
    means = rows[["target", "coverage_mean", "sharpness_mean"]].to_numpy().tolist()
    beaten = [any(t == u and a >= c and b >= s and (a, b) != (c, s) for u, a, b in means) for t, c, s in means]
    return View("made", tuple(targets), tuple(axes), QUESTION, rows.assign(pareto=np.invert(beaten)), cells, {})


def over_seeds(cells: pd.DataFrame, by: list[str], measure: str) -> pd.DataFrame:
    """Mean of each seed's mean, and both ends of its interval by the textbook, indexed by ``by``."""
    each = cells.groupby([*by, "seed"])[measure].mean().groupby(by).agg(["mean", "sem", "size"])
    half = each["sem"] * stats.t.ppf(0.975, each["size"] - 1)
    return pd.DataFrame({"mean": each["mean"], "low": each["mean"] - half, "high": each["mean"] + half})


def bars(panel: Any) -> np.ndarray:
    """Both ends of the intervals of a panel, ``(n, 4)`` and in order."""
    drawn = [c.get_segments() for c in panel.collections if isinstance(c, LineCollection)]
    return np.array(sorted(np.ravel(ends).tolist() for each in drawn for ends in each))


def upright(x: Sequence[float] | np.ndarray, told: pd.DataFrame) -> list[list[float]]:
    """What ``bars`` should find for these points."""
    return [[at, low, at, high] for at, low, high in zip(x, told["low"], told["high"], strict=True)]


def dots(panel: Any) -> list[Any]:
    return [c for c in panel.collections if isinstance(c, PathCollection)]


def paint(artist: Any) -> tuple[float, ...]:
    return tuple(to_rgba(artist.get_color())[:3])


def entries(figure: Any, title: str) -> dict[str, Any]:
    """The marks of a legend, by what is said of them."""
    (found,) = [legend for legend in figure.legends if legend.get_title().get_text() == title]
    return {text.get_text(): mark for text, mark in zip(found.get_texts(), found.legend_handles, strict=True)}


def test_a_sweep_with_axes_gets_every_figure_at_page_width(tmp_path: Path) -> None:
    axes = {"rate": [0.25, 1.0, 4.0], "flag": [False, True]}
    folder = write_results(tmp_path / "full", toy_cells([NEAR, FAR], axes))
    paths = write_figures(folder)
    assert names(paths) == NAMES
    assert {size(path)[0] for path in paths} == {1500}
    assert all(path.parent == folder / "figures" for path in paths)


def test_two_crossed_numeric_axes_have_a_map(tmp_path: Path) -> None:
    axes = {"rate": [0.25, 1.0, 4.0], "size": [1, 2, 3, 4], "flag": [False, True]}
    folder = write_results(tmp_path / "crossed", toy_cells([NEAR, FAR], axes))
    assert "maps" in names(write_figures(folder))
    (view,) = read_study(folder).views
    chosen = maps._map(view)
    assert chosen is not None
    assert {chosen.x.name, chosen.y.name} == {"rate", "size"}
    assert (chosen.value, set(chosen.levels)) == ("shape", {"wide", "narrow"})
    assert chosen.split is not None and chosen.split.name == "flag"
    assert chosen.panels == (("near", False), ("far", False), ("near", True), ("far", True))
    table = maps._table(maps._cells(view, chosen, "near", True), chosen)
    table = table if chosen.y.name == "rate" else table.T
    assert table.shape == (3, 4)
    narrow = chosen.levels.index("narrow")
    assert (table == narrow).tolist() == [[False] * 4, [True] * 4, [True] * 4]


def test_a_combination_that_was_not_run_stays_white(tmp_path: Path) -> None:
    cells = toy_cells([NEAR], {"rate": [0.25, 1.0, 4.0], "size": [1, 2, 3, 4]})
    cells = [cell for cell in cells if not (cell.params.rate == 4.0 and cell.params.size == 2)]
    (view,) = read_study(write_results(tmp_path / "hole", cells)).views
    chosen = maps._map(view)
    assert chosen is not None
    assert np.isnan(maps._table(maps._cells(view, chosen, "near", None), chosen)).sum() == 1


def test_lines_hold_what_they_do_not_show_at_its_fullest_level(tmp_path: Path) -> None:
    cells = toy_cells([NEAR, FAR], {"rate": [0.25, 0.5, 1.0, 4.0], "size": [1, 2], "flag": [False, True]})
    cells = [cell for cell in cells if cell.params.flag or cell.params.rate > 0.3]
    (view,) = read_study(write_results(tmp_path / "held", cells)).views
    chosen = lines._choose(view)
    assert chosen is not None
    assert chosen.x.name == "rate"
    assert chosen.told is not None
    shown = {"size", "flag"} - {chosen.told.name}
    assert set(chosen.held) == shown
    assert len(chosen.cells) == 2 * (4 * 2 if chosen.told.name == "size" else 4 + 3) * 3


def test_captions_say_what_is_held_only_where_something_is(tmp_path: Path) -> None:
    rates = {"rate": [0.25, 0.5, 1.0, 4.0]}
    held = "All other axes are held"
    alone = read_study(write_results(tmp_path / "alone", toy_cells([NEAR], rates))).views
    assert held not in about("lines", alone)["caption"]
    assert "a line for each level" not in about("lines", alone)["caption"]
    more = {**rates, "size": [1, 2], "flag": [False, True]}
    crossed = read_study(write_results(tmp_path / "crossed", toy_cells([NEAR], more))).views
    assert held in about("lines", crossed)["caption"]
    assert "a line for each level" in about("lines", crossed)["caption"]
    assert about("axes", crossed)["title"] == "Axis by axis"


def test_a_figure_says_how_many_of_the_targets_it_shows(tmp_path: Path) -> None:
    targets = [mixture(f"t{i}", 1 + i / 10) for i in range(8)]
    folder = write_results(tmp_path / "eight", toy_cells(targets, {"rate": [0.5, 1.0, 2.0]}, seeds=1))
    views = read_study(folder).views
    assert "toy: first 4 of 8 targets" in [text.get_text() for text in curves.draw(folder, views).texts]
    assert "toy: 6 of 8 targets" in [text.get_text() for text in lines.draw(views).texts]
    assert "toy" in [text.get_text() for text in samples.draw(folder, views).texts]


def test_of_a_numeric_axis_the_ends_and_the_best_level_are_told(tmp_path: Path) -> None:
    cells = toy_cells([NEAR, FAR], {"rate": [0.25, 0.5, 1.0, 4.0]})
    (view,) = read_study(write_results(tmp_path / "best", cells)).views
    assert telling_levels(view, 4) == (0.25, 4.0)  # each of the toy's rates keeps as much as the others
    assert "highest" not in next(_answers(view))
    good = view.summary["sharpness_mean"] + 0.2 * (view.summary["rate"] == 1.0)
    view = replace(view, summary=view.summary.assign(sharpness_mean=good))
    assert telling_levels(view, 4) == (0.25, 1.0, 4.0)
    assert [picture.level for picture in choose(view)] == [0.25, 1.0, 4.0] * 2
    (said,) = _answers(view)
    assert "1 (the highest sum of 4 levels) keeps coverage 0.50 at sharpness 0.70; 4 keeps" in said


def test_one_cell_has_no_axes_to_show(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "one", toy_cells([NEAR], {}, seeds=1))
    assert names(write_figures(folder)) == ["coverage_sharpness", "samples", "curves"]


def test_only_failures_have_no_figures_and_older_ones_go(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "failed", toy_cells([NEAR], {"mode": ["raise"]}))
    stale = folder / "figures" / "axes.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    assert write_figures(folder) == []
    assert not stale.exists()


def test_ten_dimensions_cannot_be_drawn_as_samples(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "ten", toy_cells([mixture("deep", 2.0, dim=10)], {"rate": [0.5, 2.0]}))
    assert names(write_figures(folder)) == ["coverage_sharpness", "axes", "curves"]


def test_without_samples_the_other_figures_remain(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "bare", toy_cells([NEAR], {"rate": [0.5, 2.0]}), samples=False)
    assert names(write_figures(folder)) == ["coverage_sharpness", "axes", "curves"]


def test_what_recorded_no_curves_has_no_line(tmp_path: Path) -> None:
    cells = toy_cells([NEAR, FAR], {"rate": [0.5, 1.0, 2.0]})
    folder = write_results(tmp_path / "uneven", cells)
    path = folder / "curves.parquet"
    silent = {cell.id for cell in cells if cell.target is FAR or cell.params.rate == 2.0}
    kept = pq.read_table(path).to_pandas()
    kept = kept[~kept["cell_id"].isin(silent)]
    assert len(kept) > 0
    kept.to_parquet(path)
    assert names(write_figures(folder)) == NAMES
    kept.iloc[:0].to_parquet(path)
    assert names(write_figures(folder)) == NAMES[:-1]


def test_thirty_targets_and_names_that_look_like_formulas(tmp_path: Path) -> None:
    targets = [mixture(f"cost_{i} in $ or $x^", 1 + i / 10) for i in range(30)]
    folder = write_results(tmp_path / "many", toy_cells(targets, {"rate": [0.5, 1.0, 2.0]}, seeds=2))
    paths = write_figures(folder)
    assert names(paths) == NAMES
    assert max(size(path)[1] for path in paths) < 4000


def test_the_most_telling_axis_comes_first_and_what_tells_nothing_last(tmp_path: Path) -> None:
    # Of the toy's parameters rate alone moves coverage and sharpness.
    axes = {"size": [1, 2, 3], "flag": [False, True], "rate": [0.5, 2.0]}
    folder = write_results(tmp_path / "order", toy_cells([NEAR, FAR], axes))
    (view,) = read_study(folder).views
    assert [axis.name for axis in view.axes] == ["rate", "size", "flag"]
    assert [axis.numeric for axis in view.axes] == [True, True, False]


def test_a_nuisance_parameter_is_no_axis_and_only_its_best_value_is_shown(tmp_path: Path) -> None:
    cells = toy_cells([NEAR], {"size": [1, 2], "rate": [0.5, 2.0]})
    folder = write_results(tmp_path / "nuisance", cells, nuisance=["rate"])
    (view,) = read_study(folder).views
    assert [axis.name for axis in view.axes] == ["size"]
    # The toy's loss is its rate and noise, so the smaller one is best.
    assert set(view.summary["rate"]) == {0.5}
    assert len(view.cells) == 2 * 3


def test_a_parameter_that_follows_another_is_shown_once(tmp_path: Path) -> None:
    cells = toy_cells([NEAR], {"rate": [0.5], "size": [1]}) + toy_cells([NEAR], {"rate": [2.0], "size": [9]})
    (view,) = read_study(write_results(tmp_path / "zipped", cells)).views
    assert [axis.name for axis in view.axes] == ["rate"]


def test_a_parameter_that_differs_only_between_targets_is_no_axis(tmp_path: Path) -> None:
    cells = toy_cells([NEAR], {"size": [1]}) + toy_cells([FAR], {"size": [9]})
    (view,) = read_study(write_results(tmp_path / "between", cells)).views
    assert view.axes == ()


def test_marginal_is_the_t_interval_over_seeds_of_each_seeds_mean() -> None:
    generator = np.random.default_rng(3)
    rows = [
        {"target": "a", "rate": rate, "size": width, "seed": seed, "coverage": generator.normal(rate)}
        for rate in (1.0, 2.0)
        for width in (1, 2, 3)
        for seed in range(5)
    ]
    cells = pd.DataFrame(rows).sample(frac=1, random_state=0)
    points = marginal(cells, ["target", "rate"], "coverage").set_index("rate")
    for rate in (1.0, 2.0):
        by_seed = [
            np.mean([row["coverage"] for row in rows if row["rate"] == rate and row["seed"] == seed])
            for seed in range(5)
        ]
        low, high = stats.t.interval(0.95, 4, np.mean(by_seed), stats.sem(by_seed))
        assert points.loc[rate, ["mean", "low", "high"]].tolist() == pytest.approx([np.mean(by_seed), low, high])


def test_marginal_of_one_seed_has_no_interval() -> None:
    cells = pd.DataFrame({"rate": [1.0, 2.0], "seed": [0, 0], "coverage": [0.2, 0.4]})
    points = marginal(cells, ["rate"], "coverage")
    assert points["mean"].tolist() == [0.2, 0.4]
    assert points[["low", "high"]].isna().all(axis=None)


@given(st.sets(st.integers(-1000, 1000), min_size=2, max_size=40), st.integers(2, 12))
def test_the_extremes_of_an_axis_hold_its_ends_in_order(values: set[int], most: int) -> None:
    levels = tuple(sorted(values))
    shown = Axis("n", levels, "", numeric=True).extremes(most)
    assert len(shown) == min(most, len(levels)) == len(set(shown))
    assert (shown[0], shown[-1]) == (levels[0], levels[-1])
    assert list(shown) == sorted(shown)


@pytest.mark.parametrize(
    ("levels", "logarithmic", "ordinal"),
    [
        ((0.01, 0.1, 1.0), True, False),
        ((1, 2, 4), False, False),
        ((0.0, 0.01, 1.0), False, True),  # zero has no place on a logarithmic axis
        ((-1.0, 0.0, 1.0), False, False),
    ],
)
def test_numbers_over_several_decades_get_a_logarithmic_axis(
    levels: tuple[float, ...], logarithmic: bool, ordinal: bool
) -> None:
    axis = Axis("rate", levels, "", numeric=True)
    assert (axis.logarithmic, axis.ordinal) == (logarithmic, ordinal)
    places = [axis.position(level) for level in levels]
    assert places == (sorted(range(len(levels))) if ordinal else list(levels))


def test_every_level_has_a_colour_of_its_own() -> None:
    words = Axis("divergence", tuple("abcdefg"), "", numeric=False)
    numbers = Axis("rate", tuple(range(12)), "", numeric=True)
    assert len(set(colours(words).values())) == 7
    assert len(set(colours(numbers).values())) == 12


@settings(max_examples=12, deadline=None)  # making axes is slow
@given(
    st.lists(
        st.builds(Block, st.just("b"), st.integers(1, 7), st.integers(1, 4), st.floats(1, 3), st.floats(0.1, 0.7)),
        min_size=1,
        max_size=2,
    )
)
def test_panels_lie_on_the_sheet_and_never_over_each_other(blocks: list[Block]) -> None:
    _, placed = sheet(blocks)
    boxes = [axes.get_position() for place in placed for axes in place.axes]
    assert len(boxes) == sum(block.panels for block in blocks)
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
        for other in boxes[:i]:
            apart = box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0
            assert apart


def test_coverage_is_across_and_sharpness_up_with_the_intervals_of_each() -> None:
    view = made(["a", "b"], [RATE, INIT])
    # One configuration has no rate, as where another parameter decides whether there is one.
    view.summary.loc[view.summary.index[-1], "rate"] = np.nan
    for panel, target in zip(coverage_sharpness.draw([view]).axes, view.targets, strict=True):
        rows = view.summary[view.summary["target"] == target]
        star, *points = dots(panel)
        assert star.get_offsets().tolist() == [[1, 1]]
        found = [
            (*at, *point.get_facecolor()[0][:3], len(point.get_paths()[0].vertices))
            for point in points
            for at in point.get_offsets().tolist()
        ]
        shapes = {
            level: len(MarkerStyle(mark).get_path().vertices) for level, mark in zip(INIT.levels, MARKERS, strict=False)
        }
        assert len(set(shapes.values())) == 2
        expected = [
            (
                row["coverage_mean"],
                row["sharpness_mean"],
                *to_rgba(colours(RATE).get(row["rate"], FAINT))[:3],
                shapes[row["init"]],
            )
            for row in rows.to_dict("records")
        ]
        np.testing.assert_allclose(sorted(found), sorted(expected))
        ends = rows.filter(like="_ci_").clip(0, 1).assign(x=rows["coverage_mean"], y=rows["sharpness_mean"])
        assert ends.isin([0, 1]).any(axis=None)  # some would reach beyond the shares there are
        level = ends[["coverage_ci_low", "y", "coverage_ci_high", "y"]].to_numpy().tolist()
        tall = ends[["x", "sharpness_ci_low", "x", "sharpness_ci_high"]].to_numpy().tolist()
        np.testing.assert_allclose(bars(panel), sorted(level + tall))
        assert (panel.get_title(loc="left"), panel.get_xlabel()) == (target, "coverage")
        sizes = [point.get_sizes()[0] for point in points]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == rows["rate"].nunique(dropna=False)


def test_the_frontier_goes_through_what_is_not_beaten_and_down_before_the_next() -> None:
    view = made(["a", "b"], [RATE, INIT])
    for panel, target in zip(coverage_sharpness.draw([view]).axes, view.targets, strict=True):
        rows = view.summary[view.summary["target"] == target]
        best = rows[rows["pareto"]].sort_values("coverage_mean")
        assert 1 < len(best) < len(rows)
        (line,) = panel.lines
        assert line.get_xydata().tolist() == best[["coverage_mean", "sharpness_mean"]].to_numpy().tolist()
        assert line.get_drawstyle() == "steps-pre"


def test_many_targets_share_a_panel_without_a_frontier_or_bars() -> None:
    view = made([f"t{i}" for i in range(30)], [RATE, INIT])
    (panel,) = coverage_sharpness.draw([view]).axes
    _, *points = dots(panel)
    found = [at for point in points for at in point.get_offsets().tolist()]
    assert sorted(found) == sorted(view.summary[["coverage_mean", "sharpness_mean"]].to_numpy().tolist())
    assert len(panel.lines) == len(bars(panel)) == 0


def test_an_axis_alone_shows_the_mean_over_the_others_and_its_whole_interval() -> None:
    view = made(["a", "b"], [INIT, RATE])
    first, second, *_ = panels = one_by_one.draw([view]).axes
    assert [(p.get_title(loc="left"), p.get_xlabel()) for p in panels] == [
        (measure, axis.name) for axis in view.axes for measure in QUESTION
    ]
    for panel, measure in zip((first, second), QUESTION, strict=True):
        told = over_seeds(view.cells, ["target", "init"], measure).clip(0, 1)
        ends = []
        for line, target, colour, shift in zip(panel.lines, "ab", TARGETS, (-0.25, 0.25), strict=False):
            expected = told.loc[target].loc[list(INIT.levels)]
            x = np.arange(2) + shift * DODGE
            np.testing.assert_allclose(line.get_xydata(), np.column_stack([x, expected["mean"]]))
            assert paint(line) == to_rgba(colour)[:3]
            ends += upright(x, expected)
        np.testing.assert_allclose(bars(panel), sorted(ends))
        assert [text.get_text() for text in panel.get_xticklabels()] == list(INIT.levels)
        assert panel.get_xticks().tolist() == [0, 1]


def test_dashes_tell_the_words_of_the_most_telling_axis_apart() -> None:
    view = made(["a", "b"], [INIT, RATE])
    *_, third, fourth = one_by_one.draw([view]).axes
    for panel, measure in zip((third, fourth), QUESTION, strict=True):
        told = over_seeds(view.cells, ["init", "target", "rate"], measure)
        assert told["low"].min() < 0 and told["high"].max() > 1
        keys = [(init, target) for init in INIT.levels for target in "ab"]
        for line, (init, target) in zip(panel.lines, keys, strict=True):
            expected = told.loc[init, target]
            np.testing.assert_allclose(line.get_xydata(), np.column_stack([RATE.levels, expected["mean"]]))
            assert line.get_linestyle() == DASHES[INIT.levels.index(init)]
            assert paint(line) == to_rgba(TARGETS["ab".index(target)])[:3]
        ends = [end for key in keys for end in upright(RATE.levels, told.loc[key].clip(0, 1))]
        np.testing.assert_allclose(bars(panel), sorted(ends))


def test_of_many_targets_the_mean_alone_is_bold_and_has_intervals() -> None:
    view = made([f"t{i}" for i in range(len(TARGETS) + 1)], [RATE])
    for panel, measure in zip(one_by_one.draw([view]).axes, QUESTION, strict=True):
        *each, bold = panel.lines
        told = over_seeds(view.cells, ["target", "rate"], measure)
        for line, target in zip(each, view.targets, strict=True):
            np.testing.assert_allclose(line.get_ydata(), told.loc[target, "mean"])
            assert paint(line) == to_rgba(FAINT)[:3] and line.get_linewidth() < bold.get_linewidth()
        mean = over_seeds(view.cells, ["rate"], measure)
        np.testing.assert_allclose(bold.get_xydata(), np.column_stack([RATE.levels, mean["mean"]]))
        assert paint(bold) == to_rgba(INK)[:3]
        np.testing.assert_allclose(bars(panel), upright(RATE.levels, mean.clip(0, 1)))


def test_along_a_numeric_axis_each_line_has_the_means_and_whole_intervals_of_its_level() -> None:
    view = made(["a", "b"], [RATE, INIT])
    figure = lines.draw([view])
    told = {name: paint(mark) for name, mark in entries(figure, "init").items()}
    keys = [(measure, target) for measure in QUESTION for target in view.targets]
    for panel, (measure, target) in zip(figure.axes, keys, strict=True):
        expected = over_seeds(view.cells, ["target", "init", "rate"], measure).loc[target]
        ends = []
        for line, init in zip(panel.lines, INIT.levels, strict=True):
            np.testing.assert_allclose(
                line.get_xydata(), np.column_stack([RATE.levels, expected.loc[init, "mean"]]), rtol=1e-9
            )
            assert paint(line) == told[init] == to_rgba(colours(INIT)[init])[:3]
            ends += upright(RATE.levels, expected.loc[init].clip(0, 1))
        assert (expected[["low", "high"]].clip(0, 1) != expected[["low", "high"]]).any(axis=None)
        np.testing.assert_allclose(bars(panel), sorted(ends))
        assert (panel.get_title(loc="left"), panel.get_xlabel()) == (target, "rate")
    assert [panel.get_ylabel() for panel in figure.axes] == ["coverage", "", "sharpness", ""]


def test_curves_are_the_median_and_middle_four_fifths_at_steps_that_begin_at_one(tmp_path: Path) -> None:
    cells = toy_cells([NEAR], {"rate": [0.25, 4.0]}, seeds=4)
    folder = write_results(tmp_path / "curves", cells)
    table = pd.read_parquet(folder / "curves.parquet")
    generator = np.random.default_rng(2)
    table = table.assign(step=table["step"] - 1, value=generator.exponential(size=len(table)))
    assert sorted(table["step"].unique()) == [0, 49, 99]
    fast = [cell.id for cell in cells if cell.params.rate == 4.0]
    # Half of the cells at a rate of 4 end before step 49, and a quarter alone reaches step 99.
    table = table[~(table["cell_id"].isin(fast[:2]) & (table["step"] >= 49))]
    table = table[~(table["cell_id"].isin(fast[:3]) & (table["step"] == 99))]
    other = table.assign(metric="gradient", value=100.0)
    pd.concat([other, table]).to_parquet(folder / "curves.parquet")
    (panel,) = curves.draw(folder, read_study(folder).views).axes
    late = []
    for line, band, rate in zip(panel.lines, panel.collections, (0.25, 4.0), strict=True):
        of = table[table["cell_id"].isin([cell.id for cell in cells if cell.params.rate == rate])]
        steps = [0, 49, 99] if rate == 0.25 else [0, 49]
        values = [of.loc[of["step"] == step, "value"].to_numpy() for step in steps]
        assert line.get_xdata().tolist() == [step + 1 for step in steps]
        np.testing.assert_allclose(line.get_ydata(), [np.median(each) for each in values])
        border = band.get_paths()[0].vertices
        for step, each in zip(steps, values, strict=True):
            at = border[border[:, 0] == step + 1, 1]
            np.testing.assert_allclose([at.min(), at.max()], np.quantile(each, [0.1, 0.9]))
        late += [np.quantile(each, q) for step, each in zip(steps, values, strict=True) if step for q in (0.1, 0.9)]
        assert paint(line) == tuple(band.get_facecolor()[0][:3])
        assert paint(line) == tuple(colours(Axis("rate", (0.25, 4.0), "", numeric=True))[rate][:3])
    # What the first tenth of the steps was does not make the rest flat.
    height = max(late) - min(late)
    assert panel.get_ylim() == pytest.approx((min(late) - 0.1 * height, max(late) + 0.6 * height))
    assert panel.get_ylabel() == "loss"


def moved(folder: Path, cells: Sequence[Any], columns: Sequence[str], draws: int) -> dict[str, np.ndarray]:
    """Put the first draws of each cell far away in the last column, in the file too; all draws, by cell."""
    table = pd.read_parquet(folder / "samples.parquet")
    table.loc[table["cell_id"].isin([cell.id for cell in cells]) & (table["draw"] < draws), columns[-1]] = 1e3
    table.to_parquet(folder / "samples.parquet")
    return {str(name): rows[list(columns)].to_numpy(float) for name, rows in table.groupby("cell_id")}


def test_draws_in_the_plane_are_where_they_are_and_those_outside_are_counted(tmp_path: Path) -> None:
    points = np.random.default_rng(4).normal(size=(300, 2)) * [1.0, 10.0]
    cells = toy_cells([Points("leaf", points, ("length", "width"))], {"rate": [0.25, 4.0]})
    folder = write_results(tmp_path / "plane", cells)
    fits = moved(folder, [cell for cell in cells if cell.params.rate == 4.0], ["x0", "x1"], 2)
    (view,) = read_study(folder).views
    for panel, rate, said in zip(samples.draw(folder, [view]).axes, (0.25, 4.0), ([], ["40% outside"]), strict=True):
        (cell,) = [cell for cell in cells if cell.params.rate == rate and cell.seed == 0]
        target, fit = dots(panel)
        np.testing.assert_allclose(target.get_offsets(), points, rtol=1e-6)
        np.testing.assert_allclose(fit.get_offsets(), fits[cell.id], rtol=1e-6)
        assert tuple(fit.get_facecolor()[0][:3]) == tuple(colours(view.axes[0])[rate][:3])
        assert tuple(target.get_facecolor()[0][:3]) == to_rgba(FAINT)[:3]
        (low, high), (bottom, top) = panel.get_xlim(), panel.get_ylim()
        assert np.mean((points > [low, bottom]) & (points < [high, top])) > 0.99
        assert [text.get_text() for text in panel.texts] == said
        assert panel.get_title(loc="left") == f"leaf\ncoverage {1 / (1 + rate):.2f}  sharpness {rate / (1 + rate):.2f}"
    first, _ = samples.draw(folder, [view]).axes
    assert (first.get_xlabel(), first.get_ylabel()) == ("length", "width")


def test_draws_on_a_line_are_densities_that_count_what_is_outside(tmp_path: Path) -> None:
    points = np.append(np.random.default_rng(4).normal(size=399), 50.0)[:, None]
    cells = toy_cells([Points("line", points, ("x",))], {"rate": [0.25, 4.0]})
    folder = write_results(tmp_path / "line", cells)
    fits = moved(folder, [cell for cell in cells if cell.params.rate == 4.0], ["x0"], 1)
    panels = samples.draw(folder, read_study(folder).views).axes
    for panel, rate, said in zip(panels, (0.25, 4.0), ([], ["20% outside"]), strict=True):
        (cell,) = [cell for cell in cells if cell.params.rate == rate and cell.seed == 0]
        target, fit = panel.patches
        for stairs, values in ((target, points), (fit, fits[cell.id])):
            density, edges, _ = stairs.get_data()
            assert (edges[0], edges[-1]) == pytest.approx(panel.get_xlim())
            inside = values[(values >= edges[0]) & (values <= edges[-1])]
            np.testing.assert_allclose(np.sum(density * np.diff(edges)), len(inside) / len(values))
            expected, _ = np.histogram(inside, edges, density=True)
            np.testing.assert_allclose(density, expected * len(inside) / len(values))
        assert np.isclose(np.sum(target.get_data().values * np.diff(target.get_data().edges)), 399 / 400)
        assert [text.get_text() for text in panel.texts] == said
        assert panel.get_ylim()[0] == 0


def fields(panel: Any) -> np.ndarray:
    """What a map shows at each place, ``(up, across)``."""
    (mesh,) = panel.collections
    corners = mesh.get_coordinates()
    up, across = np.array(mesh.get_array().shape) + 1
    assert corners.tolist() == [[[j - 0.5, i - 0.5] for j in range(across)] for i in range(up)]
    return np.ma.filled(mesh.get_array().astype(float), np.nan)


def shade(panel: Any, value: float) -> list[float]:
    (mesh,) = panel.collections
    return list(mesh.cmap(mesh.norm(value)))[:3]


def test_a_map_has_the_commonest_word_of_each_pair_of_values_in_its_colour() -> None:
    view = made(["a", "b"], [RATE, SIZE, INIT])
    words = np.where(view.cells["coverage"] > 0.55, "kept", "lost")
    words = np.where((view.cells["target"] == "b") & (view.cells["rate"] == 2.0), "odd", words)
    view = replace(view, cells=view.cells.assign(shape=words), labels=("shape",))
    figure = maps.draw([view])
    told = {name: paint(mark) for name, mark in entries(figure, "shape").items()}
    frequent = view.cells["shape"].value_counts().index
    assert told == {name: to_rgba(colour)[:3] for name, colour in zip(frequent, WORDS, strict=False)}
    keys = [(target, init) for init in INIT.levels for target in view.targets]
    assert [panel.get_title(loc="left") for panel in figure.axes] == [f"{target}, {init}" for target, init in keys]
    for panel, (target, init) in zip(figure.axes, keys, strict=True):
        rows = view.cells[(view.cells["target"] == target) & (view.cells["init"] == init)]
        found = fields(panel)
        for i, rate in enumerate(RATE.levels):
            for j, size in enumerate(SIZE.levels):
                here = rows.loc[(rows["rate"] == rate) & (rows["size"] == size), "shape"].tolist()
                most = max(set(here), key=here.count)  # of three cells and two words there is one
                np.testing.assert_allclose(shade(panel, found[i, j]), told[most])
        assert (panel.get_xticks().tolist(), panel.get_yticks().tolist()) == ([0, 1, 2], [0, 1, 2, 3])
    last = figure.axes[2]
    assert (last.get_xlabel(), last.get_ylabel()) == ("size", "rate")
    assert [text.get_text() for text in last.get_xticklabels()] == ["1", "2", "3"]
    assert [text.get_text() for text in last.get_yticklabels()] == ["0.5", "1", "2", "4"]


@pytest.mark.parametrize(("power", "norm"), [(1, Normalize), (8, LogNorm)])
def test_a_map_of_numbers_has_their_means_on_one_scale(power: int, norm: type) -> None:
    view = made(["a", "b"], [RATE, SIZE], spread=0.05)
    view = replace(view, cells=view.cells.assign(loss=view.cells["coverage"] ** power), measures=("loss",))
    figure = maps.draw([view])
    means = view.cells.groupby(["target", "rate", "size"])["loss"].mean()
    for panel, target in zip(figure.axes, view.targets, strict=True):
        np.testing.assert_allclose(fields(panel), means.loc[target].unstack().to_numpy())
        (mesh,) = panel.collections
        assert (mesh.norm.vmin, mesh.norm.vmax) == pytest.approx((means.min(), means.max()))
        assert type(mesh.norm) is norm
        # The legend's marks have the colours of their numbers, which are rounded.
        for value, mark in entries(figure, "loss").items():
            at = float(np.clip(float(value), means.min(), means.max()))
            np.testing.assert_allclose(shade(panel, at), paint(mark), atol=0.02)
    assert [float(value) for value in entries(figure, "loss")] == sorted(map(float, entries(figure, "loss")))[::-1]


def test_numbers_are_in_order_and_words_as_the_sweep_has_them(tmp_path: Path) -> None:
    cells = toy_cells([NEAR], {"rate": [4.0, 0.25, 1.0], "mode": ["slow", "fine"]}, seeds=1)
    (view,) = read_study(write_results(tmp_path / "order", cells)).views
    assert {axis.name: axis.levels for axis in view.axes} == {"rate": (0.25, 1.0, 4.0), "mode": ("slow", "fine")}


def test_an_axis_that_helps_one_target_and_harms_another_tells_much() -> None:
    rows = pd.DataFrame(
        [
            (target, rate, size, 0.5 + (0.4 if (target == "a") == (rate == 4.0) else 0) + 0.1 * size)
            for target in "ab"
            for rate in RATE.levels
            for size in SIZE.levels
        ],
        columns=["target", "rate", "size", "coverage_mean"],
    )
    rows.loc[rows["target"] == "b", "coverage_mean"] -= 5.0
    assert _most_telling(rows, [SIZE, RATE], ["coverage"]) == (RATE, SIZE)


def test_an_axis_that_only_some_configurations_have_can_tell_most() -> None:
    rows = pd.DataFrame(
        [("a", rate, size, 0.5 + 0.1 * rate + 0.02 * size) for rate in (1.0, 4.0) for size in (1, 2, 3)]
        + [("a", None, size, 0.75 + 0.02 * size) for size in (1, 2, 3)],
        columns=["target", "rate", "size", "coverage_mean"],
    )
    assert _most_telling(rows, [SIZE, RATE], ["coverage"]) == (RATE, SIZE)


def test_pictures_of_a_target_differ_in_the_most_telling_axis_alone(tmp_path: Path) -> None:
    axes = {"rate": [0.25, 1.0, 4.0], "size": [1, 2]}
    (view,) = read_study(write_results(tmp_path / "pictures", toy_cells([NEAR, FAR], axes))).views
    pictures = choose(view)
    assert [(p.target, p.level) for p in pictures] == [
        ("near", 0.25),
        ("near", 4.0),
        ("far", 0.25),
        ("far", 4.0),
    ]
    assert {p.cell["size"] for p in pictures} == {1}
    assert {p.cell["seed"] for p in pictures} == {0}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 4))
def test_pictures_fit_a_page_and_no_target_is_shown_in_part(targets: list[int], each: int) -> None:
    chosen = {
        str(i): [Picture(f"t{t}", level, {}) for t in range(n) for level in range(each)] for i, n in enumerate(targets)
    }
    kept = within_budget(chosen)
    assert 0 < sum(map(len, kept.values())) <= MOST_PANELS
    assert all(len(pictures) % each == 0 for pictures in kept.values())


def test_the_frame_of_a_picture_is_where_the_target_is() -> None:
    pictures = [Picture("near", "a", {"cell_id": "1"}), Picture("near", "b", {"cell_id": "2"})]
    fits = {"1": np.zeros((9, 1)), "2": np.full((9, 1), 100.0)}
    ((low, high),) = _frames(pictures, fits, {"near": np.linspace(-1, 1, 101)[:, None]})["near"]
    assert -2 < low < -1
    assert 1 < high < 2
    ((low, high),) = _frames(pictures, fits, {})["near"]
    assert low < 0
    assert high > 100


def test_targets_are_kept_as_draws_with_their_coordinates(tmp_path: Path) -> None:
    covariances = np.array([[[4.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 9.0]]])
    mixed = Mixture("mixed", np.array([0.25, 0.75]), np.array([[0.0, 5.0], [8.0, -5.0]]), covariances, unit="cm")
    points = Points("points", np.array([[1.0], [2.0], [4.0]]), ("waiting",), unit="minutes")
    write_targets(tmp_path, [mixed, points, mixed], n=20_000)
    table = pd.read_parquet(tmp_path / "targets.parquet")
    draws = table[table["target"] == "mixed"][["x0", "x1"]].to_numpy(float)
    assert draws.shape == (20_000, 2)
    error = np.sqrt(np.diag(mixed.covariance) / len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - mixed.mean) < 5 * error)
    assert np.cov(draws.T) == pytest.approx(mixed.covariance, rel=0.05)
    labels = json.loads(pq.read_schema(tmp_path / "targets.parquet").metadata[b"coordinates"])
    assert labels == {"mixed": ["x0 [cm]", "x1 [cm]"], "points": ["waiting [minutes]"]}
    own = table[table["target"] == "points"]
    assert own["x0"].tolist() == [1.0, 2.0, 4.0]
    assert own["x1"].isna().all()


def test_draws_of_student_t_components_have_its_quantiles() -> None:
    target = Mixture("t", np.ones(1), np.array([[1.0]]), np.array([[[4.0]]]), df=3.0)
    draws = target.draws(20_000)[:, 0]
    assert stats.kstest(draws, stats.t(3.0, loc=1.0, scale=2.0).cdf).pvalue > 1e-3
    assert np.array_equal(draws, target.draws(20_000)[:, 0])
