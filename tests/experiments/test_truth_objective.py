"""The quadrature and its gradients, against scipy's integrals and finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from experiments.targets import Mixture, named
from experiments.truth import Divergence
from experiments.truth.descent import descend, lowest_curvature
from experiments.truth.nodes import entropy, log_prob_and_score
from experiments.truth.objective import Objective, basis, move

DIVERGENCES = [
    Divergence("forward_kl"),
    Divergence("reverse_kl"),
    Divergence("jeffreys"),
    Divergence("jensen_shannon"),
    Divergence("mixed", forward_weight=0.3),
    Divergence("alpha", alpha=0.5),
    Divergence("alpha", alpha=0.1),
    Divergence("alpha", alpha=1.4),
    Divergence("alpha", alpha=-0.6),
]


def random_mixture(seed: int, dim: int, modes: int = 3, df: float | None = None) -> Mixture:
    rng = np.random.default_rng(seed)
    factors = 0.4 * rng.normal(size=(modes, dim, dim)) + np.eye(dim)
    weights = rng.dirichlet(5 * np.ones(modes))
    return Mixture("random", weights, 2 * rng.normal(size=(modes, dim)), factors @ factors.transpose(0, 2, 1), df)


def log_density(target: Mixture, x: np.ndarray) -> np.ndarray:
    """By scipy, ``(..., D) -> (...)``."""
    parts = zip(target.weights, target.means, target.covariances, strict=True)
    if target.df is None:
        each = [math.log(w) + stats.multivariate_normal(m, c).logpdf(x) for w, m, c in parts]
    else:
        each = [math.log(w) + stats.multivariate_t(m, c, df=target.df).logpdf(x) for w, m, c in parts]
    return np.asarray(np.logaddexp.reduce(each))


def integrand(divergence: Divergence, log_p: float, log_q: float) -> float:
    """The textbook definitions, at one point."""
    p, q = math.exp(log_p), math.exp(log_q)
    forward, reverse = p * (log_p - log_q), q * (log_q - log_p)
    log_m = float(np.logaddexp(log_p, log_q)) - math.log(2)
    a, w = divergence.alpha, divergence.forward_weight
    match divergence.name:
        case "forward_kl":
            return forward
        case "reverse_kl":
            return reverse
        case "jeffreys":
            return forward + reverse
        case "mixed":
            return w * forward + (1 - w) * reverse
        case "jensen_shannon":
            return 0.5 * p * (log_p - log_m) + 0.5 * q * (log_q - log_m)
        case "alpha":
            return (a * p + (1 - a) * q - math.exp(a * log_p + (1 - a) * log_q)) / (a * (1 - a))


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.key)
@pytest.mark.parametrize(("df", "mean", "sd"), [(None, 0.3, 1.9), (None, -0.5, 2.4), (4.0, 0.2, 1.7)])
def test_values_in_one_dimension(divergence: Divergence, df: float | None, mean: float, sd: float) -> None:
    target = random_mixture(5, 1, df=df)
    if df is not None and divergence.name == "alpha" and divergence.alpha > 1:
        with pytest.raises(ValueError, match="too heavy"):
            divergence.refuse(target)
        return
    q = stats.norm(mean, sd)

    def at(x: float) -> float:
        return integrand(divergence, float(log_density(target, np.array([x]))), float(q.logpdf(x)))

    # Student-t tails under forward KL fall like x^2 / x^5: out to 4000 what is left is below 1e-7.
    edges = [-4000, -200, -25, -4, 0, 4, 25, 200, 4000] if df else [-25, -4, 0, 4, 25]
    reach = edges if not (df and divergence.name == "alpha") else [-25, -4, 0, 4, 25]
    pairs = itertools.pairwise(reach)
    expected = sum(integrate.quad(at, a, b, epsabs=1e-11, epsrel=1e-10, limit=300)[0] for a, b in pairs)
    if df and divergence.name == "alpha":
        # Beyond 25 the power p^alpha q^(1 - alpha) is gone, and the masses of P and Q are left.
        a = divergence.alpha
        z = (np.array([[-25.0], [25.0]]) - target.means[:, 0]) / np.sqrt(target.covariances[:, 0, 0])
        outside = target.weights @ (stats.t.cdf(z[0], df) + stats.t.sf(z[1], df))
        expected += float(outside) / (1 - a)
    found, _ = Objective(target, divergence, "full", 2)((np.array([[mean]]), np.array([[[sd]]])))
    tolerance = 2e-6 if df else 1e-8
    if expected > 1e10:  # it grows with the range: the integral over the line is infinite
        expected = math.inf
    assert found[0] == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.key)
@pytest.mark.parametrize("shape", ["isotropic", "diagonal", "full"])
def test_gradients_are_those_of_the_value(divergence: Divergence, shape: str) -> None:
    for dim, df in ((1, None), (2, None), (2, 5.0)):
        if df is not None and divergence.name == "alpha" and divergence.alpha > 1:
            continue
        target = random_mixture(dim, dim, df=df)
        objective = Objective(target, divergence, shape, 0)  # type: ignore[arg-type]
        tril = np.tril(np.linalg.cholesky(1.2 * target.covariance))
        tril = tril if shape == "full" else np.diag(np.diag(tril))
        q = (target.mean[None] + 0.1, tril[None])
        value, gradient = objective(q)
        size = dim + len(basis(shape, dim))  # type: ignore[arg-type]
        for j in range(size):
            steps = 1e-6 * np.eye(size)[j]
            plus, minus = (objective(move(q, s * steps[None], objective.directions))[0][0] for s in (1, -1))
            assert gradient[0, j] == pytest.approx((plus - minus) / 2e-6, abs=1e-7, rel=1e-6)
        assert np.isfinite(value).all()


@pytest.mark.parametrize("df", [None, 2.0, 3.5])
def test_density_score_and_entropy(df: float | None) -> None:
    target = random_mixture(8, 2, 4, df)
    x = 3 * np.random.default_rng(0).normal(size=(50, 2))
    log_p, score = log_prob_and_score(target, x)
    assert log_p == pytest.approx(log_density(target, x), rel=1e-12)
    for j in range(2):
        h = 1e-6 * np.eye(2)[j]
        slope = (log_density(target, x + h) - log_density(target, x - h)) / 2e-6
        assert score[:, j] == pytest.approx(slope, abs=1e-7)
    line = random_mixture(8, 1, 4, df)
    value, error = entropy(line)

    def at(x: float) -> float:
        log_p = float(log_density(line, np.array([x])))
        return -math.exp(log_p) * log_p

    ends = [-np.inf, -30, -3, 0, 3, 30, np.inf]
    pieces = itertools.pairwise(ends)
    expected = sum(integrate.quad(at, a, b, epsabs=1e-11, limit=300)[0] for a, b in pieces)
    assert value == pytest.approx(expected, abs=1e-7)
    assert error < 1e-6


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.key)
def test_nothing_separates_a_gaussian_from_itself(divergence: Divergence) -> None:
    target = random_mixture(1, 2, 1)
    q = (target.means, np.linalg.cholesky(target.covariances))
    value, gradient = Objective(target, divergence, "full", 0)(q)
    assert value[0] == pytest.approx(0, abs=1e-7)
    assert np.abs(gradient).max() < 1e-6


def test_alpha_of_one_half_is_four_times_squared_hellinger() -> None:
    """Of two Gaussians on a line: 1 - sqrt(2 s t / (s^2 + t^2)) exp(-(m - n)^2 / (4 (s^2 + t^2)))."""
    target = Mixture("", np.ones(1), np.array([[1.0]]), np.array([[[4.0]]]))
    found = Objective(target, Divergence("alpha", alpha=0.5), "full", 1)((np.zeros((1, 1)), np.ones((1, 1, 1))))
    assert found[0][0] == pytest.approx(4 * (1 - math.sqrt(4 / 5) * math.exp(-1 / 20)), abs=1e-10)


def test_alpha_goes_to_the_two_kls() -> None:
    target, q = named.target("bimodal_close"), (np.array([[0.3]]), np.array([[[1.8]]]))
    for limit, kl in ((0.0, "reverse_kl"), (1.0, "forward_kl")):
        exact = Objective(target, Divergence(kl), "full", 2)(q)[0]  # type: ignore[arg-type]
        assert Objective(target, Divergence("alpha", alpha=limit), "full", 2)(q)[0] == pytest.approx(exact)
        near = [Objective(target, Divergence("alpha", alpha=limit + e), "full", 2)(q)[0] for e in (1e-4, -1e-4)]
        assert np.mean(near) == pytest.approx(exact[0], abs=1e-6)


def test_where_alpha_is_infinite() -> None:
    """With alpha = 2 and P = N(0, 1), the integral of p^2 / q is finite only for variances above 1/2."""
    target = named.target("unimodal")
    for divergence, narrow, wide in (
        (Divergence("alpha", alpha=2.0), [0.7, np.inf], [0.71, None]),
        (Divergence("alpha", alpha=-1.0), [1.42, np.inf], [1.41, None]),
    ):
        objective = Objective(target, divergence, "full", 0)
        assert objective((np.zeros((1, 1)), np.full((1, 1, 1), narrow[0])))[0][0] == np.inf
        assert np.isfinite(objective((np.zeros((1, 1)), np.full((1, 1, 1), wide[0])))[0][0])


@pytest.mark.parametrize(
    "divergence",
    [
        Divergence("forward_kl"),
        Divergence("jeffreys"),
        Divergence("mixed", forward_weight=0.1),
        Divergence("alpha", alpha=1.0),
        Divergence("alpha", alpha=2.0),
    ],
    ids=lambda d: d.key,
)
def test_heavy_tails_are_refused(divergence: Divergence) -> None:
    with pytest.raises(ValueError, match=r"student_t_mixture.*df 2.*infinite.*Use"):
        divergence.refuse(named.target("student_t_mixture"))  # type: ignore[arg-type]
    Divergence("alpha", alpha=0.9).refuse(named.target("student_t_mixture"))  # type: ignore[arg-type]


def bimodal(m: float) -> Mixture:
    return Mixture("", np.full(2, 0.5), np.array([[-m], [m]]), np.ones((2, 1, 1)))


BASINS = {
    2.6: {0.5: "Scccc", 1.0: "SSccc", 1.5: "SSccc", 2.0: "SSScc", 2.5: "SSSSS"},
    3.0: {0.5: "Scccc", 1.0: "SSccc", 1.5: "SSScc", 2.0: "SSSSS"},
    4.0: {0.5: "SSccc", 1.0: "SSccc", 1.5: "SSScc", 2.0: "SSSSS"},
    6.0: {0.5: "SSccc", 1.0: "SSccc", 1.5: "SSScc", 2.0: "SSSSS"},
}


@pytest.mark.parametrize("m", BASINS)
def test_basins_of_gradient_flow_on_two_modes(m: float) -> None:
    """From (a, s) the flow of reverse KL in (a, log s) ends seeking (S) or covering (c)."""
    widths = [0.3, 0.5, 1.0, 2.0, 3.0]
    starts = [(a, s) for a in BASINS[m] for s in widths]
    mean, sd = np.array(starts).T
    objective = Objective(bimodal(m), Divergence("reverse_kl"), "full", 0)
    for _ in range(3000):
        _, gradient = objective((mean[:, None], sd[:, None, None]))
        mean, sd = mean - 0.02 * gradient[:, 0] / sd, sd * np.exp(-0.02 * gradient[:, 1])
    ends = np.where(np.abs(mean) > 0.5 * m, "S", "c").reshape(-1, len(widths))
    assert ["".join(row) for row in ends] == list(BASINS[m].values())


def test_descents_go_down_to_flat_places_and_saddles_are_told() -> None:
    """At m = 1.5 m0 the middle of three stationary points between covering and seeking is a saddle."""
    objective = Objective(bimodal(3.0), Divergence("reverse_kl"), "full", 1)
    starts = (np.array([[2.0], [0.1], [-5.0]]), np.array([[[0.5]], [[2.0]], [[1.0]]]))
    found = descend(objective, starts, 1e-8)
    assert found.value == pytest.approx([0.688769, 0.840621, 0.688769], abs=1e-6)
    assert (found.slope <= 1e-8).all()
    assert (lowest_curvature(objective, found.q)[0] > 0.01).all()
    narrow = (np.zeros((1, 1)), np.full((1, 1, 1), 0.5))  # where both modes pull alike
    assert lowest_curvature(objective, narrow)[0][0] < -0.1


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.key)
def test_values_alone_are_the_same(divergence: Divergence) -> None:
    for dim in (1, 2):
        objective = Objective(random_mixture(3, dim), divergence, "full", 0)
        scale = np.array([0.3, 1.0, 2.5])[:, None, None]
        q = (np.zeros((3, dim)), scale * np.eye(dim))
        assert np.array_equal(objective.values(q), objective(q)[0])
