"""Targets by formula: modes, slopes, numpy beside torch, other coordinates, and identity."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize

from experiments.stacked_analytic import StackedAnalytic
from experiments.targets import Analytic, named
from experiments.targets.forms import Funnel, ManyWell, StudentTProducts
from experiments.targets.planar import Rings
from tests.experiments.test_target_suite import NAMES, analytic, draws

CENTER, FACTOR = np.array([1.5, -0.5]), np.array([[2.0, 0.0], [-0.7, 0.4]])


def framed(name: str) -> Analytic:
    """In other coordinates; of more than two, in twice as wide ones, some of them mixed."""
    target = analytic(name)
    if target.dim == 2:
        return replace(target, center=CENTER, factor=FACTOR)
    factor = 2 * np.eye(target.dim)
    factor[3, 1], factor[7, 0], factor[7, 6] = 0.3, -0.2, 0.1
    return replace(target, center=np.linspace(-1, 1, target.dim), factor=factor)


def drift(target: Analytic, place: np.ndarray) -> float:
    """How far from a place scipy finds the next maximum."""
    found = optimize.minimize(lambda x: -target.log_prob(x[None])[0], place, method="BFGS", options={"gtol": 1e-6})
    assert -found.fun >= target.log_prob(place[None])[0] - 1e-12
    return float(np.linalg.norm(found.x - place))


@pytest.mark.parametrize("name", NAMES)
def test_the_places_named_are_maxima(name: str) -> None:
    """Of crosses the heavy arms of the others move each center a little."""
    target = analytic(name)
    for place in target.form.places:
        assert drift(target, place) < (0.12 if name == "student_t_jax" else 1e-3)
        aside = place + 0.02 * np.random.default_rng(0).standard_normal((50, target.dim))
        if name == "student_t_jax":
            continue
        assert (target.log_prob(aside) <= target.log_prob(place[None])).all()


def test_there_are_as_many_maxima_as_said() -> None:
    """Counted along a radius, and over lattices of the plane."""
    for name in ("rings", "two_rings"):
        r = np.linspace(-20, 20, 40_001)
        log_p = analytic(name).log_prob(np.stack([r, np.zeros_like(r)], axis=1))
        count = int(((log_p[1:-1] > log_p[:-2]) & (log_p[1:-1] >= log_p[2:])).sum())
        assert (count + 1) // 2 == analytic(name).modes  # a circle is met twice, the disc once
    for name, size in (("double_well", 4), ("funnel2", 12), ("student_t_jax", 14)):
        x = np.linspace(-size, size, 801) + 1e-3
        grid = np.stack([g.ravel() for g in np.meshgrid(x, x, indexing="ij")], axis=1)
        log_p = analytic(name).log_prob(grid).reshape(801, 801)
        inside = log_p[1:-1, 1:-1]
        others = [log_p[1 + i : 800 + i, 1 + j : 800 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        assert np.all([inside > other for other in others], axis=0).sum() == analytic(name).modes, name
    # A moon's ridge runs askew of any lattice: its height at each x1.
    x0, x1 = np.linspace(1.0, 2.6, 3201), np.linspace(-2.2, 2.2, 111)
    ridge = np.array([analytic("two_moons").log_prob(np.stack([x0, np.full_like(x0, v)], 1)).max() for v in x1])
    assert np.argmax(ridge) == 55 and (np.diff(ridge) > 0).sum() == 55


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seen", ["own", "framed"])
def test_torch_computes_what_numpy_does(name: str, seen: str) -> None:
    target = analytic(name) if seen == "own" else framed(name)
    stacked = StackedAnalytic.stack([target] * 3, torch.float64)
    rng = np.random.default_rng(1)
    uniform, normal = rng.random((3, 400)), rng.standard_normal((3, target.dim, 400))
    x = stacked.sample(torch.tensor(uniform), torch.tensor(normal))
    by_torch = stacked.log_prob(x).numpy()
    cells = stacked.cell(x)
    assert not cells.is_floating_point()
    for k in range(3):
        by_numpy = np.asarray(target.form.sample(uniform[k], normal[k], np)).T
        by_numpy = np.linalg.solve(stacked_factor(target), (by_numpy - stacked_center(target)).T).T
        np.testing.assert_allclose(x[k].numpy().T, by_numpy, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(by_torch[k], target.log_prob(by_numpy), rtol=1e-9, atol=1e-9)
        outward = stacked_center(target)[:, None] + stacked_factor(target) @ by_numpy.T
        numbers = np.asarray(target.form.cell(outward, np))
        assert numbers.dtype.kind == "i"
        assert (numbers != cells[k].numpy()).sum() <= 1  # a point on a border


def stacked_center(target: Analytic) -> np.ndarray:
    return np.zeros(target.dim) if target.center is None else target.center


def stacked_factor(target: Analytic) -> np.ndarray:
    return np.eye(target.dim) if target.factor is None else target.factor


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_is_near(name: str) -> None:
    """Noise in, samples and their log-density out, beside double precision."""
    generator = torch.Generator().manual_seed(5)
    uniform, normal = (
        torch.rand(1, 500, generator=generator),
        torch.randn(1, analytic(name).dim, 500, generator=generator),
    )
    found = []
    for dtype in (torch.float32, torch.float64):
        stacked = StackedAnalytic.stack([analytic(name)], dtype)
        x = stacked.sample(uniform.to(dtype), normal.to(dtype))
        assert x.dtype == dtype
        found.append(np.concatenate([x[0].numpy(), stacked.log_prob(x).numpy()]))
    np.testing.assert_allclose(found[0], found[1], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seen", ["own", "framed"])
def test_slopes_are_those_of_differences(name: str, seen: str) -> None:
    target = analytic(name) if seen == "own" else framed(name)
    x = target.draws(40)
    points = torch.tensor(x.T[None].copy(), requires_grad=True)
    (score,) = torch.autograd.grad(StackedAnalytic.stack([target], torch.float64).log_prob(points).sum(), points)
    for i in range(target.dim):
        step = np.zeros(target.dim)
        step[i] = 1e-5
        slope = (target.log_prob(x + step) - target.log_prob(x - step)) / 2e-5
        np.testing.assert_allclose(score[0, i].numpy(), slope, rtol=1e-4, atol=1e-4 * float(score.abs().max()))


def test_slopes_at_the_center_of_circles_are_finite() -> None:
    for name in ("rings", "two_rings", "two_moons"):
        origin = torch.zeros(1, 2, 1, dtype=torch.float64, requires_grad=True)
        stacked = StackedAnalytic.stack([analytic(name)], torch.float64)
        (score,) = torch.autograd.grad(stacked.log_prob(origin).sum(), origin)
        assert torch.isfinite(score).all()


@pytest.mark.parametrize("name", NAMES)
def test_other_coordinates_change_the_volume_and_nothing_else(name: str) -> None:
    own, seen = analytic(name), framed(name)
    assert seen.center is not None and seen.factor is not None
    x = own.draws(50)
    y = np.linalg.solve(seen.factor, (x - seen.center).T).T
    np.testing.assert_allclose(seen.draws(50), y, rtol=1e-9, atol=1e-9)
    volume = np.linalg.slogdet(seen.factor)[1]
    np.testing.assert_allclose(seen.log_prob(y), own.log_prob(x) + volume, rtol=1e-9, atol=1e-9)
    assert seen.entropy[0] == pytest.approx(own.entropy[0] - volume)
    inverse = np.linalg.inv(seen.factor)
    np.testing.assert_allclose(seen.mean, inverse @ (own.mean - seen.center), atol=1e-12)
    np.testing.assert_allclose(seen.spread, inverse @ own.spread @ inverse.T, atol=1e-9)
    moved = replace(own, center=seen.center)
    np.testing.assert_allclose(moved.log_prob(moved.draws(50)), own.log_prob(x), rtol=1e-9, atol=1e-9)


def test_crosses_have_covariances_and_no_variances() -> None:
    """E x0 x1 of independent coordinates is the product of their means, and E x0^2 has no value."""
    target = analytic("student_t_jax")
    means = target.form.places
    between = float(np.mean(means[:, 0] * means[:, 1]) - means[:, 0].mean() * means[:, 1].mean())
    found = target.covariance
    assert np.isinf(np.diag(found)).all() and np.allclose(found[[0, 1], [1, 0]], between)
    assert np.isinf(framed("student_t_jax").covariance).all()
    scaled = replace(target, center=np.zeros(2), factor=np.diag([2.0, 5.0]))
    assert scaled.covariance[0, 1] == pytest.approx(between / 10)


def test_a_digest_is_of_the_numbers_and_the_coordinates() -> None:
    same = [Funnel(10), Funnel(10, 9.0), Funnel(10, np.float64(9.0)), Funnel(int(np.int64(10)), 9.0)]
    assert {Analytic(f"name {k}", form, about="x").digest for k, form in enumerate(same)} == {
        analytic("funnel10").digest
    }
    assert Analytic("", Funnel(np.int64(10), 9.0)).digest == analytic("funnel10").digest  # type: ignore[arg-type]
    means = tuple(tuple(np.float64(v) for v in mean) for mean in analytic("student_t_jax").form.places)
    assert Analytic("", StudentTProducts(means)).digest == analytic("student_t_jax").digest
    target = analytic("two_moons")
    different = [
        *(
            target,
            analytic("two_rings"),
            analytic("funnel2"),
            Analytic("", Funnel(2, 9.0 + 1e-14)),
            Analytic("", Rings()),
        ),
        *(Analytic("", Rings(dark=1.002)), Analytic("", ManyWell(2)), Analytic("", ManyWell(4))),
        *(
            replace(target, center=CENTER),
            replace(target, factor=FACTOR),
            replace(target, center=CENTER, factor=FACTOR),
        ),
        replace(target, center=CENTER + 1e-15, factor=FACTOR),
    ]
    assert len({one.digest for one in different}) == len(different)
    zero, minus = (replace(target, center=sign * np.zeros(2)) for sign in (1, -1))
    assert zero.digest == minus.digest


def test_targets_in_other_coordinates_are_not_stacked() -> None:
    target = analytic("two_moons")
    with pytest.raises(ValueError, match="cannot be stacked"):
        StackedAnalytic.stack([target, replace(target, center=CENTER, factor=FACTOR)])


@pytest.mark.parametrize("means", [((0.0,),), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))])
def test_crosses_lie_in_the_plane(means: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match="in the plane alone"):
        StudentTProducts(means)


def test_digests_are_the_same_in_other_processes_and_all_different() -> None:
    code = (
        "import json; from experiments.targets import named;"
        "print(json.dumps([named.target(name).digest for name in named.NAMES]))"
    )
    path = os.pathsep.join(part for part in sys.path if part)
    own = [named.target(name).digest for name in named.NAMES]
    assert len(set(own)) == len(own)
    env = os.environ | {"PYTHONHASHSEED": "4321", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == own


def test_pictures_draw_the_same_points_each_time() -> None:
    for name in NAMES:
        assert np.array_equal(analytic(name).draws(20), analytic(name).draws(20))
        assert np.isfinite(draws(name)).all()
