"""Targets that a sweep file defines: a mixture written out, or a file of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.targets.mixture import Mixture
from experiments.targets.point_file import nearest, read_points
from experiments.targets.points import Image, Points

MIXTURE_KEYS = ("weights", "means", "covariances", "standard_deviations", "correlation", "dim", "df", "unit", "about")
FILE_KEYS = ("file", "columns", "image", "unit", "about")
SUM_TOLERANCE = 1e-6
LARGEST_DIM = 1024  # of what a `dim` repeats: a covariance already has a million numbers then
LEAST_DF = (
    1.0  # on a line, where metrics are integrals up to 1e10 scales: below, more than 1e-10 of the mass is farther
)


def define(name: str, definition: Mapping[str, Any], folder: Path) -> Mixture | Points:
    """The target that a mapping from a sweep file describes.

    A mixture has ``weights (M,)``, ``means (M, D)``, ``covariances (M, D, D)`` (or, without correlation,
    ``standard_deviations (M, D)``, and with one between any two coordinates also ``correlation``) and, for
    Student-t components, ``df`` (in one dimension 1 or more). With ``dim``, each mean and deviation is one number for
    all coordinates. A file of points has ``file`` (csv with a header, parquet or npy; a relative path starts at
    ``folder``) and, to choose among its columns, ``columns``; where points are images, written row after row,
    ``image``, their rows and columns of pixels. Both may have a ``unit`` and a line ``about``.

    Raises:
        ValueError: says which part is wrong, and what would be right.
    """
    allowed = FILE_KEYS if "file" in definition else MIXTURE_KEYS
    for key, value in definition.items():
        if isinstance(value, Mapping) and "file" in value:
            raise ValueError(f"'{key}' is one level too many: {', '.join(map(str, value))} belong to the target itself")
        if key not in allowed:
            raise ValueError(f"'{key}' is not a key of a target.{nearest(key, allowed)} Keys: {', '.join(allowed)}.")
    words = {key: _text(definition, key) for key in ("unit", "about")}
    if "file" in definition:
        file = _text(definition, "file")
        try:
            path, columns, image = folder / Path(file).expanduser(), definition.get("columns"), _image(definition)
            return read_points(name, path, columns, **words, image=image)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no such user after ~
            reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
            raise ValueError(f"file: '{file[:60]}' cannot be read: {reason}") from None
    return _mixture(name, definition, **words)


def _image(definition: Mapping[str, Any]) -> Image | None:
    value = definition.get("image")
    if value is None:
        return None
    whole = isinstance(value, Sequence) and [type(v) is int and v > 0 for v in value] == [True, True]
    if not whole:
        raise ValueError(f"image: expected rows and columns of pixels, such as [28, 28], got {value!r}")
    return value[0], value[1]


def _mixture(name: str, definition: Mapping[str, Any], unit: str, about: str) -> Mixture:
    spread = [key for key in ("covariances", "standard_deviations") if key in definition]
    if missing := [key for key in ("weights", "means") if key not in definition]:
        raise ValueError(
            f"no {' and no '.join(missing)}: a mixture has weights, means, covariances; points have a 'file'"
        )
    if len(spread) != 1:
        raise ValueError("give either covariances (M matrices) or standard_deviations (M lists of D numbers)")
    if spread == ["covariances"] and (extra := [key for key in ("correlation", "dim") if key in definition]):
        raise ValueError(f"{extra[0]} belongs to standard_deviations; covariances say everything")
    weights = _weights(_array(definition, "weights", 1, "[0.7, 0.3]"))
    means = _array(definition, "means", 2, "[[-3.0], [3.0]] in one dimension, [[0, 1], [2, 3]] in two")
    if spread == ["covariances"]:
        covariances = _array(definition, "covariances", 3, "[[[1.0]], [[4.0]]] in one dimension")
    else:
        deviations = _array(definition, "standard_deviations", 2, "[[1.0], [2.0]] in one dimension")
        if not (deviations > 0).all():
            raise ValueError("standard_deviations must all be positive")
        means, deviations = (
            _repeated(part, definition.get("dim"), key) for part, key in ((means, "means"), (deviations, spread[0]))
        )
        covariances = _correlated(deviations, definition.get("correlation", 0))
    count, dim = means.shape
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} means: each component has one of both")
    if covariances.shape != (count, dim, dim):
        shape = covariances.shape
        raise ValueError(
            f"{spread[0]}: {shape[0]} of dimension {shape[1]}, but the means are {count} of dimension {dim}"
        )
    _check_covariances(covariances)
    return Mixture(name, weights, means, covariances, _df(definition.get("df"), dim), unit, about)


def _repeated(numbers: np.ndarray, dim: Any, key: str) -> np.ndarray:
    """``(M, 1)`` as ``(M, dim)``; as it is without a dim."""
    if dim is None:
        return numbers
    if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= LARGEST_DIM:
        raise ValueError(f"dim must be a whole number from 1 to {LARGEST_DIM}, got {dim!r}")
    if numbers.shape[1] != 1:
        raise ValueError(f"{key}: with dim {dim}, each is a list of one number, which holds for all coordinates")
    return np.repeat(numbers, dim, axis=1)


def _correlated(deviations: np.ndarray, correlation: Any) -> np.ndarray:
    """Covariances ``(M, D, D)`` with one correlation between any two coordinates."""
    if isinstance(correlation, bool) or not isinstance(correlation, int | float) or not -1 < correlation < 1:
        raise ValueError(f"correlation must lie between -1 and 1, got {correlation!r}")
    dim = deviations.shape[1]
    matrix = correlation + (1 - correlation) * np.eye(dim)
    return deviations[:, :, None] * deviations[:, None, :] * matrix


def _weights(weights: np.ndarray) -> np.ndarray:
    if not (weights > 0).all():
        raise ValueError(f"weights must all be positive, got {weights.tolist()}")
    if abs(weights.sum() - 1) > SUM_TOLERANCE:
        raise ValueError(f"weights must sum to 1, and these sum to {weights.sum():.6g}")
    normalised: np.ndarray = weights / weights.sum()
    return normalised


def _check_covariances(covariances: np.ndarray) -> None:
    for index, matrix in enumerate(covariances):
        if not np.allclose(matrix, matrix.T, rtol=1e-9, atol=0):
            raise ValueError(f"covariances[{index}] is not symmetric")
        lowest, highest = np.linalg.eigvalsh(matrix)[[0, -1]]
        if not lowest > 1e-12 * highest:
            raise ValueError(f"covariances[{index}] is not positive definite: its eigenvalues go down to {lowest:.3g}")


def _df(value: Any, dim: int) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
        raise ValueError(f"df, the degrees of freedom, must be a positive number, got {value!r}; Gaussians have none")
    if dim == 1 and value < LEAST_DF:
        raise ValueError(
            f"df must be {LEAST_DF:g} or more in one dimension, got {value!r}: metrics are integrals there, and"
            " the tails would have mass beyond where those end"
        )
    return float(value)


def _array(definition: Mapping[str, Any], key: str, depth: int, example: str) -> np.ndarray:
    """The numbers under a key, nested as deeply as they must be."""
    try:
        array = np.array(definition[key])
    except ValueError:
        raise ValueError(f"{key}: its lists differ in length; write it as in {example}") from None
    if array.size == 0 or array.dtype.kind not in "iuf":
        raise ValueError(f"{key}: expected numbers, as in {example}")
    if array.ndim != depth:
        raise ValueError(f"{key}: expected {depth} levels of lists, as in {example}; found {array.ndim}")
    array = array.astype(float)
    if not np.isfinite(array).all():
        raise ValueError(f"{key}: every number must be finite")
    return array


def _text(definition: Mapping[str, Any], key: str) -> str:
    value = definition.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key}: expected text, got {value!r}")
    return value
