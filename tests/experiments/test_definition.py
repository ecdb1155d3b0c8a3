from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from experiments.targets import Mixture, Points
from experiments.targets.definition import define

HERE = Path()
TWO = {"weights": [0.7, 0.3], "means": [[-3.0], [3.0]], "covariances": [[[1.0]], [[4.0]]]}
LINE = {"weights": [1], "means": [[2]], "standard_deviations": [[3]]}


def test_one_number_holds_for_all_coordinates() -> None:
    target = define("t", {**LINE, "dim": 3, "correlation": 0.5}, Path())
    assert isinstance(target, Mixture)
    assert target.means.tolist() == [[2, 2, 2]]
    assert target.covariances.tolist() == [[[9, 4.5, 4.5], [4.5, 9, 4.5], [4.5, 4.5, 9]]]
    plain = {"weights": [1], "means": [[2] * 3], "standard_deviations": [[3] * 3]}
    assert define("t", {**LINE, "dim": 3}, Path()).digest == define("t", plain, Path()).digest


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1, 2, 10]))
@settings(deadline=None, max_examples=30)
def test_a_mixture_written_out_is_that_mixture(seed: int, count: int, dim: int) -> None:
    generator = np.random.default_rng(seed)
    factors = generator.standard_normal((count, dim, dim + 2))
    covariances = factors @ factors.transpose(0, 2, 1)
    covariances = (covariances + covariances.transpose(0, 2, 1)) / 2
    means = 5 * generator.standard_normal((count, dim))
    weights = generator.dirichlet(np.full(count, 3.0))
    written = {"weights": weights.tolist(), "means": means.tolist(), "covariances": covariances.tolist()}
    found = define("mine", written, HERE)
    assert isinstance(found, Mixture)
    assert (found.name, found.dim, found.modes, found.df) == ("mine", dim, count, None)
    assert np.allclose(found.weights, weights, rtol=1e-12)
    assert np.array_equal(found.means, means)
    assert np.array_equal(found.covariances, covariances)


def test_whole_numbers_and_their_digest() -> None:
    whole = {"weights": [1], "means": [[0, 2]], "covariances": [[[1, 0], [0, 4]]]}
    real = {"weights": [1.0], "means": [[-0.0, 2.0]], "covariances": [[[1.0, 0.0], [0.0, 4.0]]]}
    deviations = {"weights": [1], "means": [[0, 2]], "standard_deviations": [[1, 2]]}
    assert len({define("m", definition, HERE).digest for definition in (whole, real, deviations)}) == 1


def test_student_t_unit_and_about() -> None:
    found = define("m", {**TWO, "df": 3, "unit": "mm", "about": "heavy"}, HERE)
    assert isinstance(found, Mixture)
    assert (found.df, found.unit, found.about) == (3.0, "mm", "heavy")


def test_weights_that_sum_to_one_but_for_rounding() -> None:
    found = define(
        "m",
        {"weights": [0.1] * 10, "means": [[i] for i in range(10)], "standard_deviations": [[1]] * 10},
        HERE,
    )
    assert isinstance(found, Mixture)
    assert found.weights.sum() == pytest.approx(1, abs=1e-15)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "no weights and no means"),
    "no covariances": ({"weights": [1], "means": [[0]]}, "give either covariances"),
    "dim of covariances": ({**TWO, "dim": 3}, "dim belongs to standard_deviations"),
    "dim of nothing": ({**LINE, "dim": 0}, "dim must be a whole number from 1 to 1024, got 0"),
    "dim of a covariance that has no room": ({**LINE, "dim": 100_000}, "from 1 to 1024, got 100000"),
    "dim beside two numbers": ({**LINE, "means": [[0, 1]], "dim": 2}, "a list of one number"),
    "correlation of one": ({**LINE, "dim": 2, "correlation": 1}, "correlation must lie between -1 and 1"),
    "impossible correlation": ({**LINE, "dim": 4, "correlation": -0.5}, "not positive definite"),
    "both spreads": ({**TWO, "standard_deviations": [[1], [1]]}, "give either covariances"),
    "an unknown key": (
        {**TWO, "covarainces": 1},
        "'covarainces' is not a key of a target. Did you mean 'covariances'?",
    ),
    "a sum of 1.1": ({**TWO, "weights": [0.8, 0.3]}, "weights must sum to 1, and these sum to 1.1"),
    "no weight": ({**TWO, "weights": [1.0, 0.0]}, "weights must all be positive"),
    "three weights": ({**TWO, "weights": [0.5, 0.3, 0.2]}, "3 weights for 2 means"),
    "flat means": ({**TWO, "means": [-3, 3]}, "means: expected 2 levels of lists, as in [[-3.0], [3.0]]"),
    "ragged means": ({**TWO, "means": [[1], [1, 2]]}, "means: its lists differ in length"),
    "text": ({**TWO, "means": [["a"], ["b"]]}, "means: expected numbers"),
    "true": ({**TWO, "weights": [True]}, "weights: expected numbers"),
    "nan": ({**TWO, "means": [[float("nan")], [0]]}, "means: every number must be finite"),
    "null": ({**TWO, "means": None}, "means: expected numbers"),
    "flat covariances": ({**TWO, "covariances": [1, 1]}, "covariances: expected 3 levels of lists"),
    "another dimension": (
        {**TWO, "means": [[0, 1], [2, 3]]},
        "2 of dimension 1, but the means are 2 of dimension 2",
    ),
    "one covariance": (
        {**TWO, "covariances": [[[1]]]},
        "1 of dimension 1, but the means are 2 of dimension 1",
    ),
    "a negative variance": (
        {**TWO, "covariances": [[[1]], [[-1]]]},
        "covariances[1] is not positive definite",
    ),
    "a singular one": (
        {"weights": [1], "means": [[0, 0]], "covariances": [[[1, 1], [1, 1]]]},
        "covariances[0] is not positive definite",
    ),
    "an asymmetric one": (
        {"weights": [1], "means": [[0, 0]], "covariances": [[[1, 0.5], [0.4, 1]]]},
        "covariances[0] is not symmetric",
    ),
    "a deviation of zero": (
        {"weights": [1], "means": [[0]], "standard_deviations": [[0]]},
        "must all be positive",
    ),
    "df of zero": ({**TWO, "df": 0}, "degrees of freedom"),
    "a df too small for a line": ({**TWO, "df": 0.9}, "df must be 1 or more in one dimension, got 0.9: metrics are"),
    "df as text": ({**TWO, "df": "3"}, "degrees of freedom"),
    "a unit that is no text": ({**TWO, "unit": 3}, "unit: expected text"),
    "no such file": ({"file": "none.csv"}, "no such file"),
    "a folder": ({"file": ".."}, "is a folder; give a csv, parquet or npy file"),
    "no file": ({"file": ""}, "is a folder; give a csv, parquet or npy file"),
    "a level too many": (
        {"points": {"file": "p.csv", "columns": ["x"]}},
        "'points' is one level too many: file, columns belong to the target itself",
    ),
    "a file that is no text": ({"file": 3}, "file: expected text"),
    "weights with a file": ({"file": "a.csv", "weights": [1]}, "'weights' is not a key of a target"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_definition_is_refused_in_words(case: str, tmp_path: Path) -> None:
    definition, expected = BROKEN[case]
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        define("mine", definition, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_small_df_is_refused_on_a_line_alone() -> None:
    plane = {"weights": [1], "means": [[0, 0]], "covariances": [[[1, 0], [0, 1]]]}
    assert [define("m", {**part, "df": df}, HERE).df for part, df in ((TWO, 1), (plane, 0.5))] == [1.0, 0.5]  # type: ignore[union-attr]


# Files.

VALUES = np.random.default_rng(0).standard_normal((40, 3))


def written(folder: Path, suffix: str, values: np.ndarray = VALUES) -> Path:
    table = pa.table(dict(zip("xyz", values.T, strict=True)))
    path = folder / f"points.{suffix}"
    if suffix == "csv":
        csv.write_csv(table, path)
    elif suffix == "parquet":
        parquet.write_table(table, path, row_group_size=7)
    else:
        np.save(path, values)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npy"])
def test_a_file_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    found = define("mine", {"file": path.name, "unit": "mm"}, tmp_path)
    assert isinstance(found, Points)
    assert found.columns == (("0", "1", "2") if suffix == "npy" else ("x", "y", "z"))
    assert np.array_equal(found.values, VALUES)
    assert (found.name, found.unit) == ("mine", "mm")


@pytest.mark.parametrize(("suffix", "columns"), [("csv", ["z", "x"]), ("parquet", ["z", "x"]), ("npy", [2, 0])])
def test_columns_are_chosen_in_the_order_given(tmp_path: Path, suffix: str, columns: list[Any]) -> None:
    found = define("mine", {"file": str(written(tmp_path, suffix)), "columns": columns}, HERE)
    assert isinstance(found, Points)
    assert np.array_equal(found.values, VALUES[:, [2, 0]])


def test_one_dimension_of_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(20, dtype=np.int32))
    found = define("mine", {"file": "a.npy"}, tmp_path)
    assert isinstance(found, Points)
    assert found.values.shape == (20, 1)


def test_the_same_points_in_another_kind_of_file_are_the_same_target(tmp_path: Path) -> None:
    digests = {define("m", {"file": str(written(tmp_path, s))}, HERE).digest for s in ("csv", "parquet", "npy")}
    assert len(digests) == 1


def rows(*lines: str) -> str:
    return "x,y\n" + "\n".join([f"{i},{i * i}" for i in range(20)] + list(lines)) + "\n"


FILES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a missing number": (rows("3,"), {}, "column 'y', row 21: the number is missing"),
    "nan": (rows("nan,3"), {}, "column 'x', row 21: the number is missing"),
    "infinity": (rows("3,-inf"), {}, "column 'y', row 21: the number is infinite"),
    "text": (rows("3,abc"), {}, "column 'y' holds 'abc' (row 21), not numbers"),
    "a missing column": (rows(), {"columns": ["x", "yy"]}, "no column 'yy'. Did you mean 'y'? It has: x, y."),
    "a column twice": (rows(), {"columns": ["x", "x"]}, "has one of them twice"),
    "no columns": (rows(), {"columns": []}, "expected a list of names"),
    "columns as text": (rows(), {"columns": "x"}, "expected a list of names"),
    "a constant": ("x\n" + "3\n" * 20, {}, "column 'x' is 3 in every row"),
    "too few": ("x\n1\n2\n", {}, "2 points are too few"),
    "no rows": ("x,y\n", {}, "0 points are too few"),
    "a pandas index": (
        ",x,y\n" + "".join(f"{i},{i},{i * i}\n" for i in range(20)),
        {},
        "column 1 has no name: if it is pandas' index, write the file with index=False, or choose columns: [x, y]",
    ),
    "two columns without names": ("x, ,\n" + "1,2,3\n" * 20, {}, "p.csv: column 2 has no name"),
    "too large": (rows("3,-1e200"), {}, "p.csv: column 'y', row 21: -1e+200 is too large, at most 1e+150"),
    "too close": (
        "x\n" + "".join(f"{i}e-200\n" for i in range(20)),
        {},
        "column 'x' has numbers less than 1e-150",
    ),
    "no header": ("1,2\n" * 20, {}, "the first line must name the columns"),
    "two columns of one name": ("x,x\n" + "1,2\n" * 20, {}, "two columns of one name"),
    "an uneven row": (rows("1,2,3"), {}, "cannot be read as csv"),
    "an empty file": ("", {}, "cannot be read as csv"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_broken_file_is_refused_in_words(case: str, tmp_path: Path) -> None:
    text, options, expected = FILES[case]
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        define("mine", {"file": "p.csv", **options}, tmp_path)
    assert "\n" not in str(caught.value)


def test_columns_may_be_chosen_beside_one_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(",x,y\n" + "".join(f"{i},{i * i},{-i}\n" for i in range(20)))
    found = define("mine", {"file": "p.csv", "columns": ["y", "x"]}, tmp_path)
    assert isinstance(found, Points)
    assert np.array_equal(found.values, np.stack([-np.arange(20), np.arange(20) ** 2], axis=1))


@pytest.mark.parametrize("index", ["range", "filtered", "named", "two levels", "without metadata"])
def test_a_pandas_index_is_no_coordinate(index: str, tmp_path: Path) -> None:
    """Unless it is chosen."""
    table, path = pd.DataFrame(VALUES, columns=list("xyz")), tmp_path / "p.parquet"
    kept, own = table, None
    if index == "filtered":
        kept, own = table[table.x > 0], "__index_level_0__"
    elif index == "named":
        kept, own = table.set_index(pd.Index(np.arange(40) ** 2, name="day")), "day"
    elif index == "two levels":
        kept, own = table.set_index([np.arange(40) ** 2, np.arange(40)]), "__index_level_0__"
    if index == "without metadata":
        own = "__index_level_0__"
        parquet.write_table(pa.table({own: range(40), **{c: table[c] for c in "xyz"}}), path)
    else:
        kept.to_parquet(path)
    found = define("mine", {"file": "p.parquet"}, tmp_path)
    assert isinstance(found, Points)
    assert found.columns == ("x", "y", "z")
    assert np.array_equal(found.values, kept.to_numpy())
    if own is not None:
        chosen = define("mine", {"file": "p.parquet", "columns": ["x", own]}, tmp_path)
        assert isinstance(chosen, Points)
        assert chosen.columns == ("x", own)


def test_an_index_alone(tmp_path: Path) -> None:
    pd.DataFrame(index=pd.Index(np.arange(20.0), name="day")).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(ValueError, match=r"p\.parquet has no columns but an index; choose it by columns: \[day\]"):
        define("mine", {"file": "p.parquet"}, tmp_path)


def test_a_table_without_rows(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": pa.array([], pa.string())}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match=r"p\.parquet: 0 points are too few"):
        define("mine", {"file": "p.parquet"}, tmp_path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_header_in_another_encoding(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("größe,y\n" + "1,2\n" * 20, encoding=encoding)
    with pytest.raises(
        ValueError, match=r"p\.csv cannot be read as csv: its header is not UTF-8; save the file as UTF-8"
    ):
        define("mine", {"file": "p.csv"}, tmp_path)


ARRAYS: dict[str, tuple[np.ndarray, str]] = {
    "no rows": (np.zeros((0, 2)), "a.npy: 0 points are too few, at least 10"),
    "no columns": (np.zeros((20, 0)), "a.npy has no columns"),
    "no images": (np.zeros((0, 3, 4)), "a.npy: 0 images are too few, at least 10"),
    "images without pixels": (np.zeros((20, 0, 4)), "a.npy has no columns"),
    "complex numbers": (np.arange(20) * 1j, "a.npy: column '0' holds values of type complex128, not numbers"),
    "large numbers": (np.arange(20) * 1e200, "a.npy: column '0', row 2: 1e+200 is too large, at most 1e+150"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_an_array_that_is_no_table_of_numbers(case: str, tmp_path: Path) -> None:
    array, expected = ARRAYS[case]
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=re.escape(expected)):
        define("mine", {"file": "a.npy"}, tmp_path)


def test_a_file_of_another_name_or_kind(tmp_path: Path) -> None:
    written(tmp_path, "csv")
    with pytest.raises(ValueError, match=r"Did you mean 'points\.csv'\?"):
        define("mine", {"file": "point.csv"}, tmp_path)
    (tmp_path / "points.xlsx").write_text("x")
    with pytest.raises(ValueError, match=r"the file is one of \.csv, \.parquet, \.npy"):
        define("mine", {"file": "points.xlsx"}, tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_a_damaged_file(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="cannot be read as"):
        define("mine", {"file": path.name}, tmp_path)


def test_an_array_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}] * 20, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read as an npy array: it is no array of numbers$"):
        define("mine", {"file": "a.npy"}, tmp_path)


def test_an_array_of_four_dimensions(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 5, 6)))
    with pytest.raises(ValueError, match=r"\(images, rows, columns\), found 4 dimensions"):
        define("mine", {"file": "a.npy"}, tmp_path)


def test_an_array_of_images_says_so_itself(tmp_path: Path) -> None:
    images = np.random.default_rng(1).uniform(size=(20, 3, 4))
    images[:, 0, 0] = 0  # a corner that nothing is ever drawn in
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "flat.npy", images.reshape(20, 12))
    found = define("mine", {"file": "images.npy"}, tmp_path)
    flat = define("mine", {"file": "flat.npy", "image": [3, 4]}, tmp_path)
    turned = define("mine", {"file": "flat.npy", "image": [4, 3]}, tmp_path)
    assert isinstance(found, Points) and isinstance(flat, Points)
    assert found.image == flat.image == (3, 4)
    assert np.array_equal(found.values.reshape(images.shape), images)
    assert found.digest == flat.digest != turned.digest
    with pytest.raises(ValueError, match=r"column '0' is 0 in every row"):
        define("mine", {"file": "flat.npy"}, tmp_path)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ([3, 5], "image: 3 rows of 5 pixels are 15, and flat.npy has 12 columns"),
        ([12], "expected rows and columns of pixels, such as [28, 28], got [12]"),
        ("3x4", "expected rows and columns of pixels, such as [28, 28], got '3x4'"),
        ([0, 4], "expected rows and columns of pixels"),
        ([True, 12], "expected rows and columns of pixels"),
    ],
)
def test_an_impossible_image(image: object, expected: str, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.random.default_rng(1).uniform(size=(20, 12)))
    with pytest.raises(ValueError, match=re.escape(expected)):
        define("mine", {"file": "flat.npy", "image": image}, tmp_path)


def test_too_few_or_empty_images(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.random.default_rng(1).uniform(size=(4, 2, 2)))
    np.save(tmp_path / "black.npy", np.zeros((20, 2, 2)))
    with pytest.raises(ValueError, match="4 images are too few"):
        define("mine", {"file": "few.npy"}, tmp_path)
    with pytest.raises(ValueError, match="every pixel of every image is 0"):
        define("mine", {"file": "black.npy"}, tmp_path)


def test_numbers_of_other_kinds(tmp_path: Path) -> None:
    """Whole numbers, decimals and a null in a column that is not chosen."""
    columns = {
        "a": pa.array(range(20), pa.int16()),
        "b": pa.array([i / 4 for i in range(20)], pa.float32()).cast(pa.decimal128(8, 2)),
        "c": pa.array([None] * 20, pa.float64()),
        "d": pa.array([True, False] * 10),
    }
    parquet.write_table(pa.table(columns), tmp_path / "p.parquet")
    found = define("mine", {"file": "p.parquet", "columns": ["a", "b"]}, tmp_path)
    assert isinstance(found, Points)
    assert np.array_equal(found.values, np.stack([np.arange(20), np.arange(20) / 4], axis=1))
    with pytest.raises(ValueError, match="column 'd' holds values of type bool"):
        define("mine", {"file": "p.parquet", "columns": ["a", "d"]}, tmp_path)
