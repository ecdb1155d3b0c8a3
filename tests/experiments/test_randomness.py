"""Noise: of the right distribution, and drawn once for each seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from experiments import randomness


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_noise_is_normal_far_into_its_tails(dtype: torch.dtype) -> None:
    n = 2_000_000
    (z,) = randomness.normal((n,), randomness.generators([1], "evaluation"), dtype).double().numpy()
    # Kolmogorov-Smirnov, at the 1e-4 level.
    assert stats.kstest(z, stats.norm.cdf).statistic < stats.kstwo.isf(1e-4, n)
    for bound in (2.0, 3.0, 4.0, 4.5):
        expected = 2 * stats.norm.sf(bound)
        assert abs(np.mean(np.abs(z) > bound) - expected) < 4.5 * np.sqrt(expected / n)
    assert np.unique(z).size > 0.9 * n


def test_cells_of_one_seed_share_one_draw() -> None:
    unique, rows = randomness.shared_generators([5, 3, 5], "noise")
    every = randomness.normal((4,), randomness.generators([5, 3, 5], "noise"), torch.float32)
    assert torch.equal(randomness.normal((4,), unique, torch.float32)[rows], every)
    assert torch.equal(every[0], every[2])
    assert not torch.equal(every[0], every[1])
