"""The targets that come with modesweep, by name: each with what it shows and where it is from.

Every number is the same on every machine to the last bit, because a target's digest is part of a cell's
identity: what is computed here is rounded to 12 decimals, which removes what processors disagree about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from experiments.targets import Analytic, Mixture, Points, Target, drawn
from experiments.targets.forms import Funnel, ManyWell
from experiments.targets.planar import Rings, TwoMoons, TwoRings
from experiments.targets.point_file import read_points

DATA = Path(__file__).parent.parent / "data"


@dataclass(frozen=True)
class Brief:
    """What a list says of a target: ``modes`` of a density, ``points`` of data."""

    name: str
    dim: int
    modes: int | None
    points: int | None
    unit: str
    about: str


def _mixture(
    weights: Sequence[float],
    means: Sequence[Sequence[float]] | np.ndarray,
    covariances: Sequence[Sequence[Sequence[float]]] | np.ndarray,
    about: str,
    *,
    df: float | None = None,
    unit: str = "",
) -> Mixture:
    """A mixture still without its name, which is its key in the table below."""
    w, m, c = (np.round(np.asarray(part, dtype=float), 12) + 0.0 for part in (weights, means, covariances))
    return Mixture("", w, m, c, df, unit, about)


def _line(
    weights: Sequence[float], means: Sequence[float], deviations: Sequence[float], about: str, unit: str = ""
) -> Mixture:
    """Gaussians on a line."""
    column, variances = np.reshape(means, (-1, 1)), np.reshape(deviations, (-1, 1, 1)) ** 2.0
    return _mixture(weights, column, variances, about, unit=unit)


def _round(means: np.ndarray, deviation: float, about: str, df: float | None = None) -> Mixture:
    """Equally heavy, equally wide components without correlation."""
    count, dim = means.shape
    covariances = np.tile(deviation**2 * np.eye(dim), (count, 1, 1))
    return _mixture([1 / count] * count, means, covariances, about, df=df)


def _circle(count: int, radius: float) -> np.ndarray:
    # 2 pi k / count: an angle for both 0 and 2 pi, a common slip, would double one mode and lose another.
    angles = 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _turned(angle: float, variances: Sequence[float]) -> np.ndarray:
    """A covariance whose axes are turned by an angle."""
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    return np.asarray(turn @ np.diag(variances) @ turn.T)


def _gmm40() -> Mixture:
    """The locations are 80 (u - 1/2), with the u of ``torch.rand(40, 2)`` after ``torch.manual_seed(0)``."""
    raw = np.random.RandomState(0).randint(0, 2**32, 80, dtype=np.uint32)
    uniform = (raw & (2**24 - 1)) / 2**24
    means = ((uniform - 0.5) * 80).reshape(40, 2)
    about = "FAB's 40 Gaussians, some overlapping, on a square of side 80 (Midgley et al. 2023, arXiv 2208.01893)"
    return _round(means, math.log1p(math.e), about)


def _uniform_square(count: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).uniform(-10, 10, (count, 2))


def _mog10() -> Mixture:
    """Wishart covariances as sums of ``dim + 2`` outer products."""
    draws = np.random.RandomState(10).standard_normal((10, 2, 4))
    about = "10 Gaussians of random shapes, as in Blessing et al. 2024 (arXiv 2406.07423); drawn with numpy"
    return _mixture([0.1] * 10, _uniform_square(10, 1), draws @ draws.transpose(0, 2, 1), about)


def _star(arms: int) -> Mixture:
    angles = 2 * np.pi * np.arange(arms) / arms
    covariances = np.stack([_turned(angle, [1, 0.01]) for angle in angles])
    about = f"{arms} thin arms that meet in the middle (Lin et al. 2019, arXiv 1906.02914)"
    return _mixture([1 / arms] * arms, _circle(arms, 1.5), covariances, about)


_GRID = np.array([[x, y] for x in (-4.0, -2.0, 0.0, 2.0, 4.0) for y in (-4.0, -2.0, 0.0, 2.0, 4.0)])

# GMMVI's own rotation turns clockwise.
_GMMVI = np.stack([_turned(-math.pi / 4, [0.5, 1]), _turned(math.pi / 4, [0.5, 1]), _turned(math.pi / 2, [1, 2])])

_MIXTURES: Mapping[str, Mixture] = {
    "unimodal": _line([1], [0], [1], "the standard normal: every divergence should fit it exactly"),
    "bimodal": _line([0.5, 0.5], [-4, 4], [1, 1], "two modes far apart: reverse KL keeps one"),
    "bimodal_close": _line(
        [0.5, 0.5], [-2, 2], [1, 1], "two modes 4 sd apart: even reverse KL covers both at its optimum"
    ),
    "bimodal_unequal": _line([0.8, 0.2], [-3, 3], [1, 0.5], "a heavy wide mode and a light narrow one"),
    "trimodal": _line([0.3, 0.4, 0.3], [-6, 0, 6], [1, 1, 1], "three modes, the middle one heaviest"),
    "multimodal": _line([1 / 8] * 8, range(-14, 15, 4), [0.5] * 8, "eight equal modes in a row"),
    "gmm1d": _line(
        [0.25] * 4,
        [-3, 0.5, 1.5, 2.5],
        [0.5, 0.6, 0.3, 0.4],
        "one mode apart from three (Blessing et al. 2024)",
    ),
    "playtime": _line(
        [0.7, 0.3],
        [30, 240],
        [10, 40],
        "minutes a day: many casual players and a few hardcore ones",
        "minutes",
    ),
    "transactions": _line(
        [0.97, 0.03], [40, 900], [12, 150], "amounts: many small and a few large ones, the suspicious", "USD"
    ),
    "correlated": _mixture(
        [1], [[0, 0]], [[[1, 0.9], [0.9, 1]]], "one Gaussian, correlation 0.9: a test of diagonal families"
    ),
    "pmtk3_bimodal": _mixture(
        [0.5, 0.5],
        [[-1, -1], [1, 1]],
        [[[0.5, 0.25], [0.25, 1]], [[0.5, -0.25], [-0.25, 1]]],
        "the textbook figure of forward and reverse KL (Murphy 2012, figure 21.1; pmtk3)",
    ),
    "ring8": _round(
        _circle(8, 1.0),
        0.01,
        "hard: 8 needles on a circle of radius 1, sd 0.01 (Lin et al. 2018, PacGAN, arXiv 1712.04086)",
    ),
    "ring8_easy": _round(
        _circle(8, 2.0),
        2 / 3 * math.sin(math.pi / 8),
        "8 modes on a circle that touch (Stimper et al. 2023, normflows)",
    ),
    "grid25": _round(_GRID, 0.05, "25 needles on a square lattice (Srivastava et al. 2017, VEEGAN, arXiv 1705.07761)"),
    "gmm40": _gmm40(),
    "mog10": _mog10(),
    "gmmvi_simple": _mixture(
        [0.5, 0.3, 0.2],
        [[-2, -2], [2, -2], [0, 2]],
        _GMMVI,
        "three unequal Gaussians (Arenz et al. 2022, GMMVI, arXiv 2209.11533)",
    ),
    "star": _star(5),
    "student_t_mixture": _round(
        _uniform_square(10, 2),
        1.0,
        "10 Student-t components with 2 degrees of freedom: infinite variance",
        df=2.0,
    ),
}

_LATER: Mapping[str, Callable[[], Mixture | Analytic]] = {
    "ring8_wide": lambda: _round(_circle(8, 2.0), 0.02, "8 needles on a circle of radius 2, sd 0.02"),
    "gmm40_jax": lambda: drawn.gmm40_jax(2),
    "gmm40_jax50": lambda: drawn.gmm40_jax(50),
    "mog10_jax": drawn.mog10_jax,
    "student_t_jax": drawn.student_t_jax,
    "gmmvi_gmm20": lambda: drawn.gmmvi_gaussians(20),
    "gmmvi_gmm100": lambda: drawn.gmmvi_gaussians(100),
    "gmmvi_stm20": lambda: drawn.gmmvi_student_t(20),
    "rings": lambda: Analytic(
        "", Rings(), about="a disc within rings, cos r + 1.001 (targets/rings.py of Blessing et al. 2024)"
    ),
    "two_rings": lambda: Analytic("", TwoRings(), about="rings of radius 1 and 2, sd 1/8 (normflows)"),
    "two_moons": lambda: Analytic("", TwoMoons(), about="two crescents that face each other (normflows)"),
    "funnel2": lambda: Analytic("", Funnel(2), about="Neal's funnel in the plane: a neck and a mouth"),
    "funnel10": lambda: Analytic(
        "", Funnel(10), about="Neal's funnel (Neal 2003): one mode, widths from e^-4.5 to e^4.5 within 3 sd"
    ),
    "double_well": lambda: Analytic("", ManyWell(2), about="a heavy and a light well: two coordinates of many_well32"),
    "many_well32": lambda: Analytic(
        "", ManyWell(32), about="16 double wells, 65,536 modes (Midgley et al. 2023, FAB, arXiv 2208.01893)"
    ),
}
"""Targets that take a moment to make, or are no mixtures: made when they are asked for."""

_FAITHFUL = "of Old Faithful, 272 of them, bimodal and real (Azzalini & Bowman 1990; Haerdle 1991)"

_DIGITS = Brief(
    "digits",
    dim=64,
    modes=None,
    points=1797,
    unit="",
    about="1,797 handwritten digits, images of 8 x 8 pixels from 0 to 1 (Alpaydin & Kaynak 1998, UCI, the test set)",
)


def _digits(name: str) -> Points:
    """UCI's "Optical Recognition of Handwritten Digits", its test set as scikit-learn has it: 17 greys, here k / 16.

    Three pixels at the edge are 0 in every image.
    """
    from sklearn.datasets import load_digits  # importing it takes over a second

    columns = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
    return Points(name, load_digits().data / 16, columns, about=_DIGITS.about, image=(8, 8))


_POINTS: Mapping[str, Callable[[str], Points]] = {
    "faithful": partial(
        read_points,
        path=DATA / "faithful.csv",
        unit="minutes",
        about=f"eruptions and the waits that follow them {_FAITHFUL}",
    ),
    "eruptions": partial(
        read_points,
        path=DATA / "faithful.csv",
        columns=["eruptions"],
        unit="minutes",
        about=f"eruptions {_FAITHFUL}",
    ),
    _DIGITS.name: _digits,
}

_TOLD = {_DIGITS.name: _DIGITS}
"""What takes long to load, for lists."""

NAMES = (*_MIXTURES, *_LATER, *_POINTS)


@cache
def target(name: str) -> Target:
    """The shipped target of that name, always the same object; KeyError if there is none."""
    if name in _POINTS:
        return _POINTS[name](name)
    return replace(_MIXTURES[name] if name in _MIXTURES else _LATER[name](), name=name)


def brief(name: str) -> Brief:
    """What a list says of the shipped target of that name, without loading what takes long; KeyError if none."""
    if name in _TOLD:
        return _TOLD[name]
    found = target(name)
    if isinstance(found, Points):
        return Brief(name, found.dim, None, len(found.values), found.unit, found.about)
    return Brief(name, found.dim, found.modes, None, found.unit, found.about)
