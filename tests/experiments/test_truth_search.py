"""Optima found by the search against numbers from elsewhere, scipy's global optimiser, and the fits themselves."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from scipy import integrate, optimize, stats

from experiments.targets import Mixture, Points, named
from experiments.truth import Divergence, certify, optima, search_ahead
from experiments.truth import cache as truth_cache
from experiments.truth.labels import labels
from tests.experiments.test_kl_truth import FAMILIES, fitted, hermite, random_mixture, reverse_kl


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODESWEEP_CACHE", str(tmp_path / "cache"))
    truth_cache._optima.cache_clear()


def bimodal(m: float) -> Mixture:
    return Mixture("two", np.full(2, 0.5), np.array([[-m], [m]]), np.ones((2, 1, 1)))


@pytest.mark.parametrize(
    ("m", "label", "place", "sd", "value"),
    [
        (1.0, "covering", 0.0, 1.39373, 0.010888),
        (2.0, "covering", 0.0, 2.04701, 0.226508),
        (3.0, "seeking", 2.98431, 1.02337, 0.688769),
        (4.0, "seeking", 3.99960, 1.00080, 0.693053),
    ],
)
def test_two_modes(m: float, label: str, place: float, sd: float, value: float) -> None:
    best = optima(bimodal(m), "gaussian_full", "reverse_kl")[0]
    assert best.label.startswith(label)
    assert (abs(best.mean[0]), math.sqrt(best.covariance[0][0])) == pytest.approx((place, sd), abs=1e-5)
    assert best.value == pytest.approx(value, abs=1e-6)


def test_where_seeking_appears_and_where_it_wins() -> None:
    """Beyond m = 2.4131 there are seeking optima, beyond 2.8001 they are the best; the covering one stays."""
    kinds = {m: [o.label.partition(":")[0] for o in optima(bimodal(m), "gaussian_full", "reverse_kl")] for m in
             (2.40, 2.42, 2.79, 2.81, 5.0)}  # fmt: skip
    assert kinds[2.40] == ["covering"]
    assert kinds[2.42][0] == kinds[2.79][0] == "covering"
    assert len(kinds[2.42]) == len(kinds[2.79]) == 3
    assert kinds[2.81] == kinds[5.0] == ["seeking", "seeking", "covering"]


def test_the_textbook_s_mixture_is_covered_by_both() -> None:
    forward = optima(named.target("pmtk3_bimodal"), "gaussian_full", "forward_kl")
    reverse = optima(named.target("pmtk3_bimodal"), "gaussian_full", "reverse_kl")
    assert (forward[0].value, reverse[0].value) == pytest.approx((0.165606, 0.200711), abs=2e-6)
    assert [o.label for o in reverse] == ["covering"]
    assert np.array(reverse[0].covariance) == pytest.approx(np.array([[1.2348, 0.8595], [0.8595, 1.7455]]), abs=1e-4)


@pytest.mark.parametrize(
    ("target", "alpha"),
    [(named.target("star"), -0.5), (Mixture("thin", np.ones(1), np.zeros((1, 2)), np.diag([1, 0.01])[None]), -1.0)],
)
def test_no_optimum_is_known_where_every_start_is_infinite(target: Mixture, alpha: float) -> None:
    """Below 0 p^alpha q^(1 - alpha) grows along a thin mode's short axis, unless Q is narrower; fits are run."""
    variances = np.linalg.eigvalsh(target.covariances)
    precision = alpha / variances[:, 0] + (1 - alpha) / variances.mean(axis=1)  # of Q with the mode's mean variance
    assert (precision < 0).all()
    assert optima(target, "gaussian_isotropic", Divergence("alpha", alpha=alpha)) == ()
    divergence = {
        "divergence": "alpha",
        "alpha": alpha,
        "family": "gaussian_isotropic",
        "init": "narrow",
        "init_scale": 0.1,
    }
    (fit,) = fitted(target, steps=20, samples=16, **divergence)
    assert "objective" in fit.metrics and "optimum_label" not in fit.labels
    assert not {"optimum_value", "optimum_gap", "converged"} & set(fit.metrics)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("seed", "dim"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_random_mixtures_against_many_starts_of_scipy(seed: int, dim: int, family: str) -> None:
    target = random_mixture(seed, dim, 2 + seed % 2)
    kl = reverse_kl(target, hermite(dim, 90))
    pairs = [(i, j) for i in range(dim) for j in range(i)] if family == "gaussian_full" else []
    widths = 1 if family == "gaussian_isotropic" else dim

    def at(theta: np.ndarray) -> float:
        lower = np.diag(np.exp(np.broadcast_to(theta[dim : dim + widths], dim)))
        for (i, j), value in zip(pairs, theta[dim + widths :], strict=True):
            lower[i, j] = value
        return kl(theta[:dim], lower)

    starts = [np.concatenate([m, np.full(widths, s), np.zeros(len(pairs))]) for m in target.means for s in (-0.5, 0.7)]
    starts.append(np.concatenate([target.mean, np.full(widths, 0.8), np.zeros(len(pairs))]))
    best = min(optimize.minimize(at, start, method="BFGS", tol=1e-6).fun for start in starts)
    assert optima(target, family, "reverse_kl")[0].value == pytest.approx(best, abs=2e-5)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_fits_are_certified(divergence: str) -> None:
    """The gap is the fit's own KL, by other quadrature, above the best; one that stopped short says so."""
    target = random_mixture(11, 2, 2)
    whole = fitted(target, divergence=divergence, init="mode:0")[0]
    short = fitted(target, divergence=divergence, init="mode:0", init_scale=0.2, steps=5)[0]
    for outcome in (whole, short):
        metrics = outcome.metrics
        assert metrics["objective"] == pytest.approx(
            metrics["optimum_value"] + metrics["optimum_gap"], abs=5 * metrics["objective_se"] + 1e-6
        )
        if divergence == "reverse_kl":
            own = reverse_kl(target, hermite(2, 120))(outcome.mean, np.linalg.cholesky(outcome.covariance))
            assert metrics["optimum_value"] + metrics["optimum_gap"] == pytest.approx(own, abs=1e-5)
    assert (whole.metrics["converged"], short.metrics["converged"]) == (1.0, 0.0)
    assert short.metrics["optimum_gap"] > 0.1


def test_a_fit_s_optimum_has_a_name() -> None:
    target = named.target("bimodal")
    for init, label in (("mode:0", "seeking:0"), ("mode:1", "seeking:1"), ("wide", "covering")):
        (outcome,) = fitted(target, divergence="reverse_kl", init=init)
        assert outcome.labels["optimum_label"] == label
        assert outcome.metrics["converged"] == 1
    assert outcome.metrics["optimum_gap"] == pytest.approx(1.871197 - 0.693053, abs=1e-3)  # covering, and not the best


def test_nothing_is_claimed_of_what_is_unknown() -> None:
    (outcome,) = fitted(random_mixture(5, 5, 3), divergence="reverse_kl", steps=20)
    assert not {"optimum_value", "optimum_gap", "converged"} & set(outcome.metrics)
    (outcome,) = fitted(random_mixture(5, 5, 3), divergence="forward_kl")
    assert outcome.metrics["converged"] == 1
    assert "optimum_value" not in outcome.metrics  # its entropy has no closed form, but the gap needs none


def test_points_have_the_sample_s_moments() -> None:
    values = np.random.default_rng(1).normal(size=(200, 2)) * [1.0, 5.0]
    (best,) = optima(Points("mine", values, ("a", "b")), "gaussian_diagonal", "forward_kl")
    assert np.array(best.covariance) == pytest.approx(np.diag(values.var(axis=0)), rel=1e-9)
    assert best.value == pytest.approx(0.5 * np.log(2 * math.pi * math.e * values.var(axis=0)).sum(), abs=1e-9)
    assert optima(Points("mine", values, ("a", "b")), "gaussian_full", "reverse_kl") == ()


def test_optima_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = bimodal(3.0)
    found = optima(target, "gaussian_full", "reverse_kl")
    (path,) = (tmp_path / "cache" / "truth").glob("*.json")
    asked: list[str] = []
    monkeypatch.setattr(truth_cache, "search", lambda *question: asked.append("again") or found)

    def again(target: Mixture) -> list[str]:
        asked.clear()
        truth_cache._optima.cache_clear()
        assert optima(target, "gaussian_full", "reverse_kl") == found
        return list(asked)

    renamed = Mixture("another name", target.weights, target.means, target.covariances)
    assert again(renamed) == []
    whole = path.read_text()
    for damaged in ("", whole[:-40], json.dumps({"question": {}, "optima": []})):
        path.write_text(damaged)
        assert again(target) == ["again"]
    assert again(target) == []
    assert again(Mixture("two", target.weights, 1.01 * target.means, target.covariances)) == ["again"]


def test_of_two_who_ask_at_once_one_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = optima(bimodal(3.0), "gaussian_full", "reverse_kl"), []

    def search(*question: Any) -> Any:
        asked.append(question)
        time.sleep(0.5)
        return found

    monkeypatch.setattr(truth_cache, "search", search)
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda _: optima(bimodal(2.0), "gaussian_full", "reverse_kl"), range(2))
        assert list(answers) == [found, found]
    assert len(asked) == 1


def test_nobody_waits_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = optima(bimodal(3.0), "gaussian_full", "reverse_kl")
    (path,) = (tmp_path / "cache" / "truth").glob("*.json")
    path.unlink()
    truth_cache._optima.cache_clear()
    monkeypatch.setattr(truth_cache, "PATIENCE", 0.1)
    with FileLock(path.with_suffix(".lock")):
        assert optima(bimodal(3.0), "gaussian_full", "reverse_kl") == found


def test_nobody_searches_ahead_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question: Any = (bimodal(3.0), "gaussian_full", "reverse_kl")
    found = optima(*question)
    (path,) = (tmp_path / "cache" / "truth").glob("*.json")
    path.unlink()
    truth_cache._optima.cache_clear()
    asked: list[Any] = []
    monkeypatch.setattr(truth_cache, "search", lambda *question: asked.append(question) or found)
    with FileLock(path.with_suffix(".lock")):
        search_ahead(*question)
    assert not asked
    search_ahead(*question)
    assert len(asked) == 1
    assert optima(*question) == found
    assert len(asked) == 1


# Below a file; where even asking what is there is refused, as in a home that cannot be entered; of nobody's home.
@pytest.mark.parametrize("place", ["file", "x" * 300, "~there-is-no-such-user/cache"])
def test_where_nothing_can_be_kept_each_searches(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODESWEEP_CACHE", place)
    found = optima(bimodal(3.0), "gaussian_full", "reverse_kl")
    truth_cache._optima.cache_clear()
    search_ahead(bimodal(3.0), "gaussian_full", "reverse_kl")
    truth_cache._optima.cache_clear()
    assert found == optima(bimodal(3.0), "gaussian_full", "reverse_kl") != ()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_user_without_a_home_has_optima(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    for name in ("MODESWEEP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert truth_cache.folder() == truth_cache.NOWHERE / "truth"
    assert optima(bimodal(3.0), "gaussian_full", "reverse_kl")


@pytest.mark.parametrize(
    ("name", "divergence"),
    [
        ("ring8_easy", Divergence("reverse_kl")),
        ("bimodal", Divergence("reverse_kl")),
        ("bimodal", Divergence("jensen_shannon")),
        ("ring8_easy", Divergence("alpha", alpha=0.5)),
    ],
)
def test_certificates_do_not_depend_on_their_company(name: str, divergence: Divergence) -> None:
    """Not in a bit, whatever the number of fits beside."""
    target = named.target(name)
    rng = np.random.default_rng(0)
    size = 21
    mean = target.means[rng.integers(target.modes, size=size)] + 0.02 * rng.normal(size=(size, target.dim))
    tril = np.linalg.cholesky(target.covariances[:1]) * rng.uniform(0.7, 1.4, (size, 1, 1))
    together = certify(target, "gaussian_full", divergence, mean, tril)
    for rows in (slice(0, 1), slice(3, 8), slice(20, 21), slice(1, 18)):
        assert certify(target, "gaussian_full", divergence, mean[rows], tril[rows]) == together[rows]


def bell(dim: int, half: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes ``(n, D)`` and weights of the standard normal, by the trapezoidal rule."""
    z = np.linspace(-half, half, count)
    grid = np.stack(np.meshgrid(*[z] * dim, indexing="ij"), -1).reshape(-1, dim)
    return grid, (z[1] - z[0]) ** dim * stats.norm.pdf(grid).prod(axis=1)


@pytest.mark.parametrize("m", [2.0, 2.5])
def test_no_optimum_is_a_saddle(m: float) -> None:
    """Round Gaussians in the plane: for this m the one between both modes, to which symmetry leads, is one."""
    target = Mixture("pair", np.full(2, 0.5), np.array([[-m, 0.0], [m, 0.0]]), np.stack([np.eye(2)] * 2))
    kl = reverse_kl(target, bell(2, 8.0, 161))

    def curvatures(x: float, y: float, log_sd: float) -> np.ndarray:
        """Of the KL by place and log width, from second differences."""
        h, steps = 1e-2, np.eye(3) * 1e-2

        def at(step: np.ndarray) -> float:
            return kl(np.array([x + step[0], y + step[1]]), math.exp(log_sd + step[2]) * np.eye(2))

        signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
        bends = [[sum(s * t * at(s * a + t * b) for s, t in signs) / (4 * h * h) for a in steps] for b in steps]
        return np.linalg.eigvalsh(np.array(bends))

    middle = optimize.minimize_scalar(
        lambda s: kl(np.zeros(2), math.exp(s) * np.eye(2)), bounds=(0, 2), method="bounded"
    )
    assert curvatures(0.0, 0.0, float(middle.x))[0] < -0.02
    found = optima(target, "gaussian_isotropic", "reverse_kl")
    assert sorted(o.label for o in found) == ["seeking:0", "seeking:1"]
    for o in found:
        assert curvatures(*o.mean, 0.5 * math.log(o.covariance[0][0]))[0] > 0.02
        assert o.value is not None and o.value < middle.fun - 0.01
        assert abs(o.value - kl(np.array(o.mean), np.linalg.cholesky(np.array(o.covariance)))) < o.error + 1e-10


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("seed", "dim"), [(1, 1), (2, 1), (3, 2), (5, 2)])
def test_values_are_within_their_error(seed: int, dim: int, family: Any) -> None:
    """And the last of eleven digits, by the trapezoidal rule."""
    target = random_mixture(seed, dim, 2 + seed % 2)
    kl = reverse_kl(target, bell(dim, 8.5, 321))
    for o in optima(target, family, "reverse_kl"):
        own = kl(np.array(o.mean), np.linalg.cholesky(np.array(o.covariance)))
        assert abs(o.value - own) < o.error + 1e-10
        assert 0 < o.error < 1e-6


@pytest.mark.parametrize(("gap", "converged"), [(0.005, 1), (0.009, 1), (0.011, 0), (0.05, 0)])
def test_a_hundredth_of_a_nat_is_arrived(gap: float, converged: int) -> None:
    """Fits moved aside until their own KL, by other quadrature, is as much above the optimum's."""
    target, z = bimodal(3.0), hermite(1, 120)
    kl, place, sd = reverse_kl(target, z), 2.984306, 1.023366
    own = kl(np.array([place]), np.array([[sd]]))

    def above(delta: float) -> float:
        return kl(np.array([place + delta]), np.array([[sd]])) - own - gap

    mean = place + optimize.brentq(above, 0, 1)
    (found,) = certify(target, "gaussian_full", Divergence("reverse_kl"), np.array([[mean]]), np.array([[[sd]]]))
    assert (found.label, found.converged) == ("seeking:1", bool(converged))
    assert found.gap == pytest.approx(gap, abs=1e-6)
    # Of forward KL, and of a Gaussian in space by either, the gap of a mean aside by d widths is d^2 / 2.
    for normal in (target, Mixture("normal", np.ones(1), np.zeros((1, 5)), np.eye(5)[None])):
        for divergence in (Divergence("forward_kl"), Divergence("reverse_kl"))[: 1 if normal is target else 2]:
            tril = np.linalg.cholesky(normal.covariance)
            aside = normal.mean + math.sqrt(2 * gap) * tril[:, 0]
            (found,) = certify(normal, "gaussian_full", divergence, aside[None], tril[None])
            assert found.converged == bool(converged) and found.gap == pytest.approx(gap, abs=1e-9)


@pytest.mark.parametrize(("share", "label"), [(0.2, "seeking:0"), (0.3, "covering")])
def test_a_quarter_of_a_mode_keeps_it(share: float, label: str) -> None:
    """Of the other mode as much as said lies within the 95 % interval, which ends there by scipy's quantiles."""
    end = 10 + stats.norm.ppf(share)
    sd = (end + 10) / stats.norm.ppf(0.975)
    assert labels(bimodal(10.0), (np.array([[-10.0]]), np.array([[[sd]]]))) == [label]


def test_what_cannot_be_put_in_place_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And answers all the same."""

    def replace(*names: object) -> None:
        raise PermissionError("in use")

    monkeypatch.setattr(os, "replace", replace)
    assert optima(bimodal(3.0), "gaussian_full", "reverse_kl")
    assert {path.suffix for path in (tmp_path / "cache" / "truth").iterdir()} <= {".lock"}


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e6])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_optima_do_not_depend_on_the_unit(scale: float, divergence: Any) -> None:
    weights, means, covariances = np.array([0.8, 0.2]), np.array([[-2.0], [3.0]]), np.array([[[1.0]], [[0.09]]])
    usual = optima(Mixture("a", weights, means, covariances), "gaussian_full", divergence)
    scaled = optima(Mixture("b", weights, scale * means, scale**2 * covariances), "gaussian_full", divergence)
    assert [o.label for o in scaled] == [o.label for o in usual]
    for one, other in zip(scaled, usual, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-9)
        assert one.mean[0] == pytest.approx(scale * other.mean[0], rel=1e-5)
        assert one.covariance[0][0] == pytest.approx(scale**2 * other.covariance[0][0], rel=1e-5)


@pytest.mark.parametrize("distance", [1e3, 1e5, 1e6])
def test_between_modes_far_apart_nothing_is_taken_for_an_optimum(distance: float) -> None:
    """Descents from there run out of iterations; on finer levels they took minutes."""
    target = Mixture("far", np.array([0.6, 0.4]), np.array([[-distance], [distance]]), np.array([[[1.0]], [[0.25]]]))
    found = optima(target, "gaussian_full", "reverse_kl")
    assert [o.label for o in found] == ["seeking:0", "seeking:1"]
    assert [o.value for o in found] == pytest.approx([-math.log(0.6), -math.log(0.4)], abs=1e-9)


@pytest.mark.parametrize("times", [30, 300, 3000])
def test_forward_kl_beside_a_needle(times: int) -> None:
    """Its entropy by scipy, in pieces around the needle."""
    sd = 1 / times
    target = Mixture("needle", np.full(2, 0.5), np.array([[0.0], [1.0]]), np.array([[[1.0]], [[sd**2]]]))

    def integrand(x: float) -> float:
        p = 0.5 * stats.norm.pdf(x) + 0.5 * stats.norm.pdf(x, 1, sd)
        return -p * math.log(p)

    ends = [-12, *(1 + sd * np.array([-40, -12, -4, 0, 4, 12, 40])), 12]
    entropy = sum(integrate.quad(integrand, *pair, epsabs=1e-13, limit=200)[0] for pair in itertools.pairwise(ends))
    (best,) = optima(target, "gaussian_full", "forward_kl")
    variance = 0.5 * (1 + sd**2) + 0.25
    assert best.value == pytest.approx(0.5 * math.log(2 * math.pi * math.e * variance) - entropy, abs=1e-9)
