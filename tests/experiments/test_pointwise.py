"""Integrands of divergences against integrals over the line, which share none of their code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from experiments import pointwise

ALPHAS = (-0.2, 0.25, 0.5, 0.75, 1.3)


def densities(seed: int):  # type: ignore[no-untyped-def]
    """A mixture of two Gaussians, and a Gaussian wide enough for every alpha above."""
    rng = np.random.default_rng(seed)
    weight, means, widths = rng.uniform(0.2, 0.8), rng.normal(0, 2, 2), rng.uniform(0.7, 1.2, 2)
    q = stats.norm(rng.normal(0, 1), rng.uniform(1.3, 1.9))

    def p(x: np.ndarray) -> np.ndarray:
        parts = [stats.norm(m, s).pdf(x) for m, s in zip(means, widths, strict=True)]
        return weight * parts[0] + (1 - weight) * parts[1]

    return p, q.pdf


def over_the_line(function) -> float:  # type: ignore[no-untyped-def]
    """Equal steps: their error falls faster than any power for what is smooth and gone at both ends."""
    line = np.linspace(-14, 14, 20001)
    return float(integrate.trapezoid(function(line), line))


def share(p, q, integrand) -> float:  # type: ignore[no-untyped-def]
    return over_the_line(lambda x: (p(x) + q(x)) * integrand(torch.from_numpy(np.log(p(x)) - np.log(q(x)))).numpy())


@pytest.mark.parametrize("seed", range(3))
def test_integrands_add_up_to_the_divergences(seed: int) -> None:
    p, q = densities(seed)
    forward = over_the_line(lambda x: p(x) * np.log(p(x) / q(x)))
    reverse = over_the_line(lambda x: q(x) * np.log(q(x) / p(x)))
    assert share(p, q, pointwise.forward_kl) == pytest.approx(forward, abs=1e-7)
    assert share(p, q, pointwise.reverse_kl) == pytest.approx(reverse, abs=1e-7)
    for alpha in ALPHAS:
        value = (1 - over_the_line(lambda x, a=alpha: p(x) ** a * q(x) ** (1 - a))) / (alpha * (1 - alpha))
        own = share(p, q, lambda u, a=alpha: pointwise.alpha(u, torch.tensor(a, dtype=torch.float64)))
        assert own == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("integrand", [pointwise.forward_kl, pointwise.reverse_kl, pointwise.jensen_shannon])
def test_nothing_is_charged_where_both_agree_and_never_less_than_nothing(integrand) -> None:  # type: ignore[no-untyped-def]
    # In steps of a tenth, with an exact zero: linspace ends up a rounding error beside it on some processors.
    u = torch.arange(-300, 301, dtype=torch.float64) / 10
    charged = integrand(u)
    assert float(charged[300]) == 0
    assert (charged >= 0).all()


def test_what_the_other_side_may_do_costs_at_most_a_nat() -> None:
    u = torch.tensor([-50.0, 50.0], dtype=torch.float64)
    assert pointwise.forward_kl(u).tolist() == pytest.approx([1.0, 49.0])
    assert pointwise.reverse_kl(u).tolist() == pytest.approx([49.0, 1.0])
    assert pointwise.jensen_shannon(u).tolist() == pytest.approx([math.log(2) / 2] * 2)


def test_the_logarithm_of_a_part_is_right_where_the_part_underflows() -> None:
    u = torch.cat([torch.linspace(-60, 60, 4001, dtype=torch.float64), torch.tensor([-1e4, -800.0, 800.0, torch.inf])])
    found = pointwise.log_part(u, torch.sigmoid(u)).numpy()
    np.testing.assert_allclose(found, special.log_expit(u.numpy()), rtol=4e-16, atol=3e-16)
