from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.targets import Mixture, Points
from runner.figures import about, curves, lines, maps, samples, write_figures
from runner.figures.axes import marginal
from runner.figures.pictures import MOST_PANELS, Picture, choose, within_budget
from runner.figures.samples import _frames
from runner.figures.study import Axis, read_study, telling_levels
from runner.figures.style import Block, colours, sheet
from runner.report import _answers
from runner.store.targets import write_targets
from tests.runner.fakes import mixture
from tests.runner.made_results import toy_cells, write_results

NEAR, FAR = mixture("near", 1.0), mixture("far", 4.0, dim=2)
NAMES = ["coverage_sharpness", "lines", "axes", "samples", "curves"]


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def size(path: Path) -> tuple[int, int]:
    """Width and height, as the header of a PNG file says."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


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
