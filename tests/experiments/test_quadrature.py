"""Landmarks and panels of one-dimensional mixtures: closed forms, and what they must withstand."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.metrics import landmarks
from experiments.metrics.quadrature import mixture_quadrature, quadrature
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture


def equal(means: np.ndarray, sd: float = 1.0) -> Mixture:
    m = len(means)
    return Mixture("equal", np.full(m, 1 / m), means[:, None], np.full((m, 1, 1), sd**2))


def test_many_components_need_little_memory() -> None:
    """All places at once would take 0.6 GB. 16 widths apart, the landmarks are those of each component alone."""
    target = equal(16.0 * np.arange(256))
    tracemalloc.start()
    found = landmarks.fresh_landmarks(target)
    borders = found.borders
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e8
    assert borders == pytest.approx(16 * np.arange(255) + 8.0, abs=1e-9)
    half = stats.norm.ppf(0.975)
    assert found.ends == pytest.approx((16 * np.arange(256)[:, None] + [-half, half]).ravel(), abs=1e-9)
    assert found.level == pytest.approx(stats.norm.logpdf(half) - math.log(256), abs=1e-12)


def test_densities_are_taken_at_some_nodes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And borders of targets alone: a fit's are M^3 numbers that nobody reads."""
    sizes, bordered = [], []
    log_prob, borders = StackedMixture.log_prob, landmarks._borders

    def watched(self: StackedMixture, x: torch.Tensor) -> torch.Tensor:
        sizes.append(x.shape[2])
        return log_prob(self, x)

    monkeypatch.setattr(StackedMixture, "log_prob", watched)
    monkeypatch.setattr(landmarks, "_borders", lambda of: bordered.append(of.modes) or borders(of))
    target, fit = equal(7.0 * np.arange(3) + 0.123), equal(3.0 * np.arange(64))
    p, q, *_ = mixture_quadrature([target], [fit])
    quadrature([target], np.zeros(1), np.ones(1))
    assert max(sizes) <= 512 < p.x.shape[2]
    assert bordered == [3]
    assert (float(p.weight.sum()), float(q.weight.sum())) == pytest.approx((1, 1), abs=1e-9)
