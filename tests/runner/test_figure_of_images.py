"""Draws that are images, as the report shows them: which, where in the mosaic, and how grey."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from experiments.targets import Points
from runner.figures import images, write_figures
from runner.figures.study import read_study
from runner.planning import Cell
from runner.store.targets import write_targets
from tests.runner.fakes import mixture
from tests.runner.made_results import toy_cells, write_results

ROWS, COLUMNS = 2, 3
VALUES = np.random.default_rng(1).integers(0, 9, (60, ROWS * COLUMNS)).astype(float)
IMAGE = Points("stamps", VALUES, tuple("abcdef"), image=(ROWS, COLUMNS))
TABLE = Points("table", VALUES, tuple("abcdef"))


def drawn(folder: Path) -> list[Any]:
    """The panels of the figure that show something."""
    figure = images.draw(folder, read_study(folder).views)
    assert figure is not None
    return [panel for panel in figure.axes if panel.images]


def tiles(panel: Any) -> list[np.ndarray]:
    """What is shown in each place of a mosaic, row by row, without what is empty; the gaps are empty."""
    shown = np.ma.filled(panel.images[0].get_array().astype(float), np.nan)
    assert shown.shape == (5 * (ROWS + 1) - 1, 5 * (COLUMNS + 1) - 1)
    assert np.isnan(shown[ROWS :: ROWS + 1]).all() and np.isnan(shown[:, COLUMNS :: COLUMNS + 1]).all()
    places = [(3 * row, 4 * column) for row in range(5) for column in range(5)]
    each = [shown[top : top + ROWS, left : left + COLUMNS] for top, left in places]
    return [tile for tile in each if not np.isnan(tile).all()]


def title(panel: Any) -> list[str]:
    return panel.get_title(loc="left").split("\n")


def of(cells: list[Cell], folder: Path, **params: Any) -> np.ndarray:
    """The kept samples ``(n, rows, columns)`` of the cell with these parameters and seed 0."""
    (cell,) = [c for c in cells if c.seed == 0 and all(getattr(c.params, k) == v for k, v in params.items())]
    table = pd.read_parquet(folder / "samples.parquet")
    table = table[table["cell_id"] == cell.id].sort_values("draw")
    return table[[f"x{i}" for i in range(ROWS * COLUMNS)]].to_numpy().reshape(-1, ROWS, COLUMNS)


def test_images_have_a_figure_and_no_other_picture_of_draws(tmp_path: Path) -> None:
    rates = {"rate": [0.25, 4.0]}
    folder = write_results(tmp_path / "images", toy_cells([IMAGE], rates))
    written = [path.stem for path in write_figures(folder)]
    assert "images" in written and "samples" not in written
    for name, target in (("table", TABLE), ("deep", mixture("deep", 2.0, dim=3))):
        written = [path.stem for path in write_figures(write_results(tmp_path / name, toy_cells([target], rates)))]
        assert not {"images", "samples"} & set(written)


def test_without_samples_an_older_figure_goes(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "bare", toy_cells([IMAGE], {"rate": [0.25, 4.0]}), samples=False)
    stale = folder / "figures" / "images.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    assert "images" not in [path.stem for path in write_figures(folder)]
    assert not stale.exists()


def test_each_panel_is_a_mosaic_of_the_first_draws(tmp_path: Path) -> None:
    cells = toy_cells([IMAGE], {"rate": [0.25, 1.0, 4.0]})
    folder = write_results(tmp_path / "one", cells)
    target, low, high = drawn(folder)
    assert np.array_equal(tiles(target), VALUES[:25].reshape(25, ROWS, COLUMNS))
    for panel, rate in ((low, 0.25), (high, 4.0)):
        shown = of(cells, folder, rate=rate)
        assert len(shown) == 5
        np.testing.assert_allclose(tiles(panel), shown, rtol=1e-6)
        assert title(panel) == [f"rate {rate:g}", f"coverage {1 / (1 + rate):.2f}  sharpness {rate / (1 + rate):.2f}"]
    assert title(target) == ["stamps", "the target"]
    assert {panel.images[0].get_clim() for panel in (target, low, high)} == {(VALUES.min(), VALUES.max())}
    assert {panel.images[0].get_cmap().name for panel in (target, low, high)} == {"gray"}


def test_the_second_axis_goes_down_and_what_was_not_run_stays_empty(tmp_path: Path) -> None:
    cells = toy_cells([IMAGE, TABLE], {"rate": [0.25, 1.0, 4.0], "size": [1, 2], "flag": [False]})
    cells = [c for c in cells if not (c.params.rate == 4.0 and c.params.size == 2)]
    folder = write_results(tmp_path / "two", cells)
    panels = drawn(folder)
    assert [title(panel)[:-1] for panel in panels] == [
        ["stamps"],
        ["rate 0.25", "size 1"],
        ["rate 4", "size 1"],
        ["stamps"],
        ["rate 0.25", "size 2"],
    ]
    mine = [c for c in cells if c.target is IMAGE]
    np.testing.assert_allclose(tiles(panels[2]), of(mine, folder, rate=4.0, size=1), rtol=1e-6)
    np.testing.assert_array_equal(tiles(panels[3]), VALUES[25:50].reshape(25, ROWS, COLUMNS))
    across, down = ([panel.get_position() for panel in panels][k] for k in (2, 4))
    assert across.x0 > down.x0 and across.y0 > down.y1


def test_each_fit_is_in_the_column_and_row_of_its_levels_and_stands_upright(tmp_path: Path) -> None:
    cells = toy_cells([IMAGE], {"rate": [0.25, 4.0], "size": [1, 2]})
    folder = write_results(tmp_path / "grid", cells)
    table = pd.read_parquet(folder / "samples.parquet")
    pixels = [f"x{i}" for i in range(ROWS * COLUMNS)]
    table[pixels] = np.random.default_rng(3).normal(size=(len(table), len(pixels)))  # the toy's rates have the same
    table.to_parquet(folder / "samples.parquet")
    panels = drawn(folder)
    fits = {(0.25, 1): panels[1], (4.0, 1): panels[2], (0.25, 2): panels[4], (4.0, 2): panels[5]}
    for (rate, size), panel in fits.items():
        np.testing.assert_allclose(tiles(panel), of(cells, folder, rate=rate, size=size), rtol=1e-6)
        assert title(panel)[:2] == [f"rate {rate:g}", f"size {size}"]
    for panel in panels:
        (image,) = panel.images
        (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
        assert left < right and bottom > top and image.origin == "upper"
        assert image.get_interpolation() == "nearest"
        assert image.get_clim() == (VALUES.min(), VALUES.max())


def test_a_cell_alone_is_the_fit(tmp_path: Path) -> None:
    target, fit = drawn(write_results(tmp_path / "alone", toy_cells([IMAGE], {}, seeds=1)))
    assert title(fit)[0] == "the fit"
    assert fit.get_position().width == pytest.approx(target.get_position().width)


def test_what_a_figure_does_not_show_is_said(tmp_path: Path) -> None:
    axes = {"rate": [0.25, 4.0], "size": [1, 2], "flag": [True, False]}
    folder = write_results(tmp_path / "held", toy_cells([IMAGE], axes, seeds=1))
    figure = images.draw(folder, read_study(folder).views)
    assert figure is not None
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["flag True"]


def test_five_panels_in_a_row_are_narrow_and_say_one_number_a_line(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "words", toy_cells([IMAGE], {"hidden": [(n,) for n in range(1, 5)]}, seeds=1))
    panels = drawn(folder)
    assert len({panel.get_position().y0 for panel in panels}) == 1
    assert title(panels[1])[1:] == ["coverage 0.50", "sharpness 0.50"]


def test_the_first_images_fill_a_mosaic_and_the_rest_are_left_out() -> None:
    many = np.arange(30 * 64, dtype=float).reshape(30, 64)
    whole = images.mosaic(many, (8, 8))
    assert whole.shape == (44, 44)
    assert np.array_equal(whole[9 * 3 : 9 * 3 + 8, 9 * 4 : 9 * 4 + 8].ravel(), many[19])
    assert np.nanmax(whole) == many[24].max()
    few = images.mosaic(many[:7, :2], (1, 2))
    assert few.shape == (9, 14)
    assert np.isfinite(few).sum() == 14


def test_the_shape_of_images_is_kept_with_the_targets(tmp_path: Path) -> None:
    write_targets(tmp_path, [IMAGE, TABLE, mixture("near", 1.0)])
    held = pq.read_schema(tmp_path / "targets.parquet").metadata
    assert json.loads(held[b"images"]) == {"stamps": [ROWS, COLUMNS]}
    assert set(json.loads(held[b"coordinates"])) == {"stamps", "table", "near"}


def test_folders_of_older_runs_have_no_images(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "old", toy_cells([IMAGE], {"rate": [0.25, 4.0]}))
    table = pq.read_table(folder / "targets.parquet")
    pq.write_table(table.replace_schema_metadata({"coordinates": "{}"}), folder / "targets.parquet")
    assert images.draw(folder, read_study(folder).views) is None
