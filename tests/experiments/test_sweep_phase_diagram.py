"""The shipped phase diagram against gradient flow and thresholds that are computed here, without its code."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from experiments.catalogue import CATALOGUE
from experiments.kl_fit import KL_FIT
from experiments.truth import optima
from runner import api
from runner.planning import Cell

LOCATIONS, SCALES = (0.5, 1.0, 1.5, 2.0, 2.5), (0.3, 0.5, 1.0, 2.0, 3.0)
# Where the flow of reverse KL in (a, log s) ends, S seeking and c covering: a row for each location, a letter for
# each scale.
BASINS = {
    2.6: ("Scccc", "SSccc", "SSccc", "SSScc", "SSSSS"),
    3.0: ("Scccc", "SSccc", "SSScc", "SSSSS", "SSSSS"),
    4.0: ("SSccc", "SSccc", "SSScc", "SSSSS", "SSSSS"),
    6.0: ("SSccc", "SSccc", "SSScc", "SSSSS", "SSSSS"),
}


def slopes(m: float, a: float, log_s: float) -> tuple[float, float]:
    """Downhill along a and log s of KL(N(a, s^2) || half N(-m, 1) + half N(m, 1)), on an even grid."""
    z = np.linspace(-9, 9, 2001)
    weight = np.exp(-0.5 * z**2)
    weight /= weight.sum()
    x = a + np.exp(log_s) * z
    score = weight * (m * np.tanh(m * x) - x)
    return float(score.sum()), float(1 + np.exp(log_s) * (score * z).sum())


def letter(m: float, a: float, s: float) -> str:
    flow = solve_ivp(lambda _, y: slopes(m, *y), (0, 200), [a, np.log(s)], method="LSODA", rtol=1e-7)
    return "S" if abs(flow.y[0, -1]) > m / 2 else "c"


def shipped(m: float) -> list[Cell]:
    """The sweep's cells that follow the gradient flow."""
    sweep = api.load_sweep("phase_diagram", [f"target=m{m:g}"])
    cells = api.plan(sweep).cells
    return [c for c in cells if c.params.optimizer == "sgd" and c.params.init_loc is not None]


@pytest.mark.parametrize("m", [pytest.param(m, marks=[] if m == 3.0 else pytest.mark.slow) for m in BASINS])
def test_small_steps_end_where_the_gradient_flow_does(m: float) -> None:
    cells = shipped(m)
    found = {
        (c.params.init_loc, c.params.init_scale): o.labels["optimum_label"]
        for c, o in zip(cells, KL_FIT.run_batch(cells, "cpu"), strict=True)
    }
    letters = tuple("".join("c" if found[a, s] == "covering" else "S" for s in SCALES) for a in LOCATIONS)
    assert letters == BASINS[m]


@pytest.mark.parametrize(
    "m", [3.0, pytest.param(2.6, marks=pytest.mark.slow), pytest.param(6.0, marks=pytest.mark.slow)]
)
def test_the_basins_are_those_of_the_flow(m: float) -> None:
    assert tuple("".join(letter(m, a, s) for s in SCALES) for a in LOCATIONS) == BASINS[m]


def test_seeking_becomes_the_best_where_both_optima_are_equal() -> None:
    """From the optima that fits are judged by."""

    def lead(m: float) -> float:
        target = CATALOGUE.define("t", pair(m), None)  # type: ignore[arg-type]
        found = {o.label.split(":")[0]: o.value for o in optima(target, "gaussian_full", "reverse_kl")}
        return float(found["seeking"] - found["covering"])

    assert brentq(lead, 2.7, 2.9, xtol=1e-5) == pytest.approx(2.8001, abs=1e-4)
    counts = [len(optima(CATALOGUE.define("t", pair(m), None), "gaussian_full", "reverse_kl")) for m in (2.412, 2.4128)]  # type: ignore[arg-type]
    assert counts == [1, 3]


def pair(m: float) -> dict[str, object]:
    return {"weights": [0.5, 0.5], "means": [[-m], [m]], "standard_deviations": [[1], [1]]}


def test_sgd_takes_one_plain_step() -> None:
    from experiments.adam import SGD

    theta = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    descent = SGD([theta], torch.tensor([0.1, 0.2, 0.3]))
    descent.step(
        [torch.full((3, 2), float("nan")).index_fill(0, torch.tensor([0, 1]), 1.0)],
        (0.5, 0.0),
        torch.tensor([True, True, False]),
    )
    assert theta.tolist() == [pytest.approx([0.95, 1.95]), pytest.approx([2.9, 3.9]), [5.0, 6.0]]


def test_init_loc_places_the_start() -> None:
    from experiments.kl_fit.start import initial

    target = CATALOGUE.target("playtime")
    params = SimpleNamespace(init="narrow", init_scale=2.0, init_loc=100.0)
    mean, covariance = initial(target, params, torch.Generator())
    assert mean.tolist() == [100.0]
    assert covariance == pytest.approx(np.array([[400.0]]))
