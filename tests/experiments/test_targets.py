from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.kl_fit.points import StackedPoints
from experiments.targets import Mixture, Points


def random_mixture(seed: int, count: int, dim: int, df: float | None = None) -> Mixture:
    generator = np.random.default_rng(seed)
    factors = generator.standard_normal((count, dim, dim + 2))
    weights = generator.dirichlet(np.full(count, 2.0))
    means = 3 * generator.standard_normal((count, dim))
    return Mixture("m", weights, means, factors @ factors.transpose(0, 2, 1), df)


@pytest.mark.parametrize(("seed", "count", "dim"), [(0, 1, 1), (1, 4, 2), (2, 3, 10)])
@pytest.mark.parametrize("df", [None, 5.0])
def test_mean_and_covariance_are_those_of_its_samples(seed: int, count: int, dim: int, df: float | None) -> None:
    target = random_mixture(seed, count, dim, df)
    generator = np.random.default_rng(seed)
    n = 400_000
    draws = []
    for w, m, c in zip(target.weights, target.means, target.covariances, strict=True):
        size = round(w * n)
        if df is None:
            draws.append(stats.multivariate_normal(m, c).rvs(size, random_state=generator).reshape(size, dim))
        else:
            draws.append(stats.multivariate_t(m, c, df).rvs(size, random_state=generator).reshape(size, dim))
    sample = np.concatenate(draws)
    sd = np.sqrt(np.diag(target.covariance))
    # 6 standard errors: 6 sd / sqrt(n) for a mean, and 6 sqrt(kurtosis / n) for a covariance.
    assert np.abs((sample.mean(0) - target.mean) / sd).max() < 6 / np.sqrt(n)
    assert np.abs((np.cov(sample.T).reshape(dim, dim) - target.covariance) / np.outer(sd, sd)).max() < 0.03


def test_infinite_variance_is_said_to_be_so() -> None:
    assert np.isinf(random_mixture(0, 2, 2, df=2.0).covariance).all()


def test_the_digest_is_of_the_numbers_alone() -> None:
    one = random_mixture(3, 2, 2)
    same = Mixture("other", one.weights.copy(), np.asfortranarray(one.means), one.covariances, about="x", unit="m")
    assert one.digest == same.digest
    zero = Mixture("z", np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))
    minus = Mixture("z", np.ones(1), -np.zeros((1, 1)), np.ones((1, 1, 1)))
    assert zero.digest == minus.digest


@pytest.mark.parametrize("part", ["weights", "means", "covariances", "df"])
def test_the_digest_changes_with_every_number(part: str) -> None:
    one = random_mixture(3, 2, 2)
    parts: dict[str, Any] = {name: getattr(one, name) for name in ("weights", "means", "covariances", "df")}
    parts[part] = 3.0 if part == "df" else parts[part] * (1 + 1e-15)
    assert Mixture("m", **parts).digest != one.digest


def test_points_know_their_moments_and_content() -> None:
    values = np.random.default_rng(0).standard_normal((50, 3))
    points = Points("p", values, ("a", "b", "c"))
    assert points.dim == 3
    assert np.allclose(points.mean, np.mean(values, 0))
    assert np.allclose(points.covariance, np.cov(values.T, bias=True))
    assert points.digest == Points("q", values.copy(), ("x", "y", "z")).digest
    changed = values.copy()
    changed[7, 1] += 1e-12
    assert points.digest != Points("p", changed, ("a", "b", "c")).digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_are_drawn_by_their_place_in_the_file(dtype: torch.dtype) -> None:
    """Of n rows the (i + 1/2) / n-th is row i; the largest single number below 1 is of the last one."""
    short, long = np.arange(10.0).reshape(5, 2), -1.0 - np.arange(14.0).reshape(7, 2)
    files = [short, long, short]
    stacked = StackedPoints.stack(files, dtype, "cpu")
    uniform = torch.full((3, 9), 1 - 2.0**-24, dtype=dtype)
    for row, file in zip(uniform, files, strict=True):
        row[0] = 0.0
        row[1 : 1 + len(file)] = (torch.arange(len(file), dtype=dtype) + 0.5) / len(file)
    found = stacked.sample(uniform, torch.empty(3, 2, 9)).mT.numpy()
    for points, file in zip(found, files, strict=True):
        assert np.array_equal(points, np.concatenate([file[:1], file, file[[-1] * (8 - len(file))]]))
