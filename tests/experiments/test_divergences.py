"""Losses and their gradients against scipy's quadrature; fits against optima that scipy finds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from experiments.experiment import Outcome
from experiments.kl_fit import KL_FIT, Params
from experiments.kl_fit.divergences import Noise, divergence
from experiments.kl_fit.families import Gaussian, Shape, gaussian
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture, named
from experiments.targets.definition import define
from tests.experiments.test_kl_truth import fitted, log_density, random_mixture

CHOSEN: list[dict[str, Any]] = [
    {"divergence": "forward_kl"},
    {"divergence": "reverse_kl"},
    {"divergence": "jeffreys"},
    {"divergence": "mixed", "forward_weight": 0.2},
    {"divergence": "mixed", "forward_weight": 0.8},
    {"divergence": "jensen_shannon"},
    {"divergence": "alpha", "alpha": 0.25},
    {"divergence": "alpha", "alpha": 0.5},
    {"divergence": "alpha", "alpha": 0.9},
    {"divergence": "alpha", "alpha": -0.3},
    {"divergence": "alpha", "alpha": 1.4},
]
ESTIMATORS = ["reparameterization", "sticking_the_landing", "score_function", "score_function_baseline"]


def name(chosen: dict[str, Any]) -> str:
    return "-".join(str(value) for value in chosen.values())


def exact(target: Mixture, mean: float, sd: float, chosen: dict[str, Any]) -> float:
    """The divergence by its definition, by the trapezoidal rule, which is exact to rounding for such densities."""
    widths = np.sqrt(target.covariances[:, 0, 0])
    ends = [target.means[:, 0] - 12 * widths, target.means[:, 0] + 12 * widths, [mean - 12 * sd, mean + 12 * sd]]
    x = np.linspace(np.concatenate(ends).min(), np.concatenate(ends).max(), 20_001)
    log_p, log_q = log_density(target, x[:, None]), stats.norm.logpdf(x, mean, sd)
    p, q = np.exp(log_p), np.exp(log_q)
    forward, reverse = p * (log_p - log_q), q * (log_q - log_p)
    match chosen["divergence"]:
        case "jensen_shannon":
            log_m = np.logaddexp(log_p, log_q) - math.log(2)
            y = 0.5 * (p * (log_p - log_m) + q * (log_q - log_m))
        case "alpha":
            a = chosen["alpha"]
            y = (a * p + (1 - a) * q - np.exp(a * log_p + (1 - a) * log_q)) / (a * (1 - a))
        case "mixed":
            y = chosen["forward_weight"] * forward + (1 - chosen["forward_weight"]) * reverse
        case "jeffreys":
            y = forward + reverse
        case kl:
            y = forward if kl == "forward_kl" else reverse
    return float(integrate.trapezoid(y, x))


def loss_and_gradient(
    target: Mixture, mean: float, sd: float, chosen: dict[str, Any], n: int, **more: Any
) -> tuple[float, np.ndarray]:
    """The training loss of one stack with n samples, and its gradient by mean and log sd."""
    stack = StackedMixture.stack([target], torch.float64)
    theta = torch.tensor([[mean, math.log(sd)]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(1, 1, n, generator=generator, dtype=torch.float64)
    uniform = torch.rand(1, n, generator=generator, dtype=torch.float64)
    params = Params(target=target.name, **chosen, **more)
    value, gradient = divergence([params], theta).loss_and_gradient(
        stack, Gaussian("full", 1), theta, Noise(normal, n, uniform), whole=True
    )
    return float(value), gradient[0].numpy()


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("chosen", CHOSEN[:6], ids=name)
def test_the_gradient_does_without_the_loss(chosen: dict[str, Any], dim: int) -> None:
    """To the last bit; and what is kept of a descent without autograd serves one that needs it."""
    for kept in (gaussian._entropy_gradient, gaussian._below, gaussian._layout):
        kept.cache_clear()
    stack, family = StackedMixture.stack([random_mixture(dim, dim, 4)] * 2), Gaussian("full", dim)
    noise = torch.Generator().manual_seed(dim)
    theta = 0.3 * torch.randn(2, family.parameters, generator=noise)
    drawn = Noise(torch.randn(2, dim, 16, generator=noise), 16, torch.rand(2, 16, generator=noise))
    descended = divergence([Params(target="bimodal", **chosen)] * 2, theta)
    with torch.inference_mode(descended.is_written_out(stack, family)):
        _, gradient = descended.loss_and_gradient(stack, family, theta, drawn, whole=False)
    loss, again = descended.loss_and_gradient(stack, family, theta, drawn, whole=True)
    assert loss is not None and torch.equal(gradient, again)
    last = divergence([Params(target="bimodal", divergence="jensen_shannon")] * 2, theta)
    assert torch.isfinite(last.loss_and_gradient(stack, family, theta, drawn, whole=True)[1]).all()


@pytest.mark.parametrize("shape", ["isotropic", "diagonal", "full"])
@pytest.mark.parametrize(("dim", "df"), [(1, None), (2, None), (2, 3.0), (5, None)])
@pytest.mark.parametrize("chosen", [{"divergence": "reverse_kl"}, {"divergence": "mixed", "forward_weight": 0.3}])
def test_gradients_of_kls_are_those_of_differences(
    chosen: dict[str, Any], shape: Shape, dim: int, df: float | None
) -> None:
    """Of the loss at fixed noise, whose columns beyond the count are not to be felt."""
    k, n, width = 3, 37, 48
    targets = [replace(random_mixture(seed, dim, 4), df=df) for seed in range(k)]
    stack, family = StackedMixture.stack(targets, torch.float64), Gaussian(shape, dim)
    noise = torch.Generator().manual_seed(dim)
    theta = 0.3 * torch.randn(k, family.parameters, generator=noise, dtype=torch.float64)
    normal = torch.randn(k, dim, width, generator=noise, dtype=torch.float64)
    uniform = torch.rand(k, width, generator=noise, dtype=torch.float64)
    gamma = None if df is None else 1.0 + torch.rand(k, width, generator=noise, dtype=torch.float64)
    descended = divergence([Params(target="bimodal", **chosen)] * k, theta)

    def loss(at: torch.Tensor, beyond: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        moved = normal.clone()
        moved[:, :, n:] += beyond
        return descended.loss_and_gradient(stack, family, at, Noise(moved, n, uniform, gamma), whole=True)

    value, gradient = loss(theta)
    for found, again in zip((value, gradient), loss(theta, beyond=5.0), strict=True):
        assert torch.equal(found, again)
    for j in range(family.parameters):
        step = torch.zeros_like(theta)
        step[:, j] = 1e-6
        slope = (loss(theta + step)[0] - loss(theta - step)[0]) / 2e-6
        assert torch.allclose(gradient[:, j], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chosen", CHOSEN, ids=name)
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_and_gradients_are_those_of_quadrature(chosen: dict[str, Any], seed: int) -> None:
    target = random_mixture(seed, 1, 3)
    mean, sd = float(target.mean[0]) + 0.3, 1.05 * math.sqrt(float(target.covariance[0, 0]))
    if chosen.get("alpha", 0) < 0:  # where a component of P is much narrower than Q the integrand has no variance
        sd = math.sqrt(float(target.covariances.min()))
    value, gradient = loss_and_gradient(target, mean, sd, chosen, 400_000)
    step = 1e-4

    def slope(by_mean: float, by_log_sd: float) -> float:
        ends = [exact(target, mean + s * by_mean, sd * math.exp(s * by_log_sd), chosen) for s in (step, -step)]
        return (ends[0] - ends[1]) / (2 * step)

    assert value == pytest.approx(exact(target, mean, sd, chosen), abs=0.01)
    assert gradient == pytest.approx([slope(1, 0), slope(0, 1)], abs=0.02)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_of_reverse_kl_has_its_gradient_on_average(estimator: str) -> None:
    target, chosen = random_mixture(3, 1, 2), {"divergence": "reverse_kl"}
    mean, sd = 0.4, 1.3
    plain = loss_and_gradient(target, mean, sd, chosen, 400_000)
    value, gradient = loss_and_gradient(target, mean, sd, chosen, 400_000, estimator=estimator)
    assert value == pytest.approx(plain[0], abs=0.01)
    assert gradient == pytest.approx(plain[1], abs=0.03)


def test_the_mean_of_all_others_is_a_baseline_without_bias() -> None:
    """Of two samples, of which each is the other's baseline: the mean of many gradients, by quadrature."""
    target, mean, sd, cells = random_mixture(3, 1, 2), 0.4, 1.3, 20_000
    noise = torch.Generator().manual_seed(3)
    theta = torch.tensor([[mean, math.log(sd)]], dtype=torch.float64).expand(cells, 2)
    drawn = Noise(torch.randn(cells, 1, 2, generator=noise, dtype=torch.float64), 2)
    stack = StackedMixture.stack([target] * cells, torch.float64)
    params = Params(target=target.name, divergence="reverse_kl", estimator="score_function_baseline", samples=2)
    _, gradients = divergence([params], theta).loss_and_gradient(stack, Gaussian("full", 1), theta, drawn, whole=True)
    found = gradients.numpy()
    error = found.std(axis=0) / math.sqrt(cells)
    for j, step in enumerate(([1e-4, 0.0], [0.0, 1e-4])):
        ends = [
            exact(target, mean + s * step[0], sd * math.exp(s * step[1]), {"divergence": "reverse_kl"}) for s in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / 2e-4
        assert found[:, j].mean() == pytest.approx(slope, abs=4.5 * error[j])
        assert error[j] < 0.05 * abs(slope)


def test_sticking_the_landing_is_still_where_q_is_the_target() -> None:
    target = random_mixture(4, 1, 1)
    mean, sd = float(target.mean[0]), math.sqrt(float(target.covariance[0, 0]))
    for n in (1, 5):
        _, gradient = loss_and_gradient(target, mean, sd, {"divergence": "reverse_kl"}, n, estimator=ESTIMATORS[1])
        assert np.abs(gradient).max() < 1e-10


@pytest.mark.parametrize(
    ("chosen", "target"),
    [*((chosen, "random") for chosen in CHOSEN[2:]), *((chosen, "bimodal_close") for chosen in CHOSEN[2::2])],
    ids=lambda value: value if isinstance(value, str) else name(value),
)
def test_fits_end_at_an_optimum_that_scipy_finds(chosen: dict[str, Any], target: str) -> None:
    p = random_mixture(5, 1, 2) if target == "random" else named.target(target)
    (outcome,) = fitted(p, init="wide", steps=1000, samples=256, **chosen)
    mean, sd = float(outcome.mean[0]), math.sqrt(float(outcome.covariance[0, 0]))
    found = optimize.minimize(
        lambda t: exact(p, t[0], math.exp(t[1]), chosen),
        [mean, math.log(sd)],
        method="Nelder-Mead",
        options={"xatol": 1e-4, "fatol": 1e-8},
    )
    assert exact(p, mean, sd, chosen) - found.fun < 0.01
    assert mean == pytest.approx(found.x[0], abs=0.02 * math.sqrt(float(p.covariance[0, 0])))
    assert sd == pytest.approx(math.exp(found.x[1]), rel=0.03)
    assert outcome.metrics["objective"] == pytest.approx(exact(p, mean, sd, chosen), abs=1e-6)
    # From the target's own width the covering optimum is near, which for a small alpha need not be the best one.
    assert outcome.metrics["converged"] == 1
    assert outcome.metrics["optimum_value"] < found.fun + 1e-6
    assert outcome.metrics["optimum_gap"] == pytest.approx(
        exact(p, mean, sd, chosen) - outcome.metrics["optimum_value"], abs=1e-5
    )


def test_alpha_s_ends_are_the_two_kls() -> None:
    p = random_mixture(6, 1, 2)
    for end, kl in ((0.0, "reverse_kl"), (1.0, "forward_kl")):
        (by_alpha,) = fitted(p, divergence="alpha", alpha=end, steps=200)
        (by_name,) = fitted(p, divergence=kl, steps=200)
        assert by_alpha.metrics == by_name.metrics
        near = exact(p, 0.1, 1.4, {"divergence": "alpha", "alpha": abs(end - 1e-5)})
        assert near == pytest.approx(exact(p, 0.1, 1.4, {"divergence": kl}), abs=1e-3)


def test_alpha_decides_between_seeking_and_covering() -> None:
    """Modes at +-4, from one of them: a small alpha stays, a large one leaves for both."""
    p = named.target("bimodal")
    small, large = (
        fitted(p, init="mode:0", divergence="alpha", alpha=alpha, steps=2000)[0].labels["optimum_label"]
        for alpha in (0.05, 0.95)
    )
    assert (small, large) == ("seeking:0", "covering")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"divergence": "alpha"}, "needs alpha"),
        ({"divergence": "mixed"}, "needs forward_weight"),
        ({"divergence": "jeffreys", "alpha": 0.5}, "alpha belongs to divergence alpha"),
        ({"divergence": "forward_kl", "estimator": "score_function"}, "one of reverse KL's gradient"),
        ({"estimator": "score_function", "family": "gaussian_mixture"}, "stratified"),
        ({"estimator": "score_function_baseline", "samples": 1}, "samples 1 leaves none.*samples 2 or more"),
    ],
)
def test_what_means_nothing_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        KL_FIT.check(Params(target="bimodal", **given), named.target("bimodal"))


MANY = {"family": "gaussian_mixture", "components": 8, "samples": 4}


@pytest.mark.parametrize(
    ("alpha", "target", "given"),
    [(1.0, "bimodal", MANY), (1.0, "faithful", {}), (0.0, "bimodal", {"estimator": "score_function"})],
)
def test_alpha_s_ends_may_do_what_the_kls_may(alpha: float, target: str, given: dict[str, Any]) -> None:
    def outcome(**divergence: Any) -> Outcome:
        return fitted(named.target(target), steps=20, init="wide", **divergence, **given)[0]

    kl, limit = outcome(divergence=["reverse_kl", "forward_kl"][int(alpha)]), outcome(divergence="alpha", alpha=alpha)
    assert limit.metrics == kl.metrics
    assert np.array_equal(limit.samples, kl.samples)
    with pytest.raises(ValueError, match=r"needs a sample|needs the target's density|one of reverse KL's gradient"):
        outcome(divergence="alpha", alpha=0.5)


def test_alpha_at_0_needs_what_reverse_kl_needs() -> None:
    with pytest.raises(ValueError, match="needs a sample"):
        KL_FIT.check(Params(target="bimodal", divergence="alpha", alpha=0.0, **MANY), named.target("bimodal"))


@pytest.mark.parametrize(
    "given",
    [
        {"divergence": "forward_kl"},
        {"divergence": "jeffreys"},
        {"divergence": "mixed", "forward_weight": 0.1},
        {"divergence": "alpha", "alpha": 1.5},
        {"divergence": "alpha", "alpha": 1.0},
    ],
    ids=name,
)
def test_tails_too_heavy_for_any_gaussian_are_refused(given: dict[str, Any]) -> None:
    target = named.target("student_t_mixture")
    with pytest.raises(ValueError, match="infinite"):
        KL_FIT.check(Params(target=target.name, **given), target)
    KL_FIT.check(Params(target=target.name, divergence="mixed", forward_weight=0.0), target)


@pytest.mark.parametrize("alpha", [-1.5, -0.2, 0.4, 1.4, 3.0])
@pytest.mark.parametrize("df", [2.5, 4.0, 30.0, None])
@pytest.mark.parametrize("family_df", [3, 12])
def test_student_t_fits_whose_tails_alone_are_infinite_are_refused(
    alpha: float, df: float | None, family_df: int
) -> None:
    """The integral over ten times as far a tail falls where it is finite, and rises where it is not."""
    log_p = stats.norm.logpdf if df is None else stats.t(df).logpdf
    log_q = stats.t(family_df).logpdf
    at = 10.0 if df is None else 1e4
    near, far = (alpha * log_p(x) + (1 - alpha) * log_q(x) + np.log(x) for x in (at, 10 * at))
    shape = {"weights": [1], "means": [[0]], "covariances": [[[1]]]} | ({} if df is None else {"df": df})
    target = define("t", shape, Path())
    params = Params(target="t", divergence="alpha", alpha=alpha, family="student_t", family_df=family_df)
    if far > near:
        with pytest.raises(ValueError, match="divergence infinite"):
            KL_FIT.check(params, target)
    else:
        KL_FIT.check(params, target)


@pytest.mark.parametrize(("alpha", "df", "family_df"), [(2.0, 3.0, 6), (1.5, 4.0, 12), (-1.0, 12.0, 6)])
def test_student_t_fits_whose_tails_are_at_the_boundary_are_refused(alpha: float, df: float, family_df: int) -> None:
    """p^alpha q^(1 - alpha) falls like 1 / r: each decade has the same integral, and with a lighter tail less."""

    def decade(end: float, df_q: float) -> float:
        def f(u: float) -> float:
            x = math.exp(u)
            return math.exp(alpha * stats.t(df).logpdf(x) + (1 - alpha) * stats.t(df_q).logpdf(x) + u)

        return float(integrate.quad(f, math.log(end), math.log(10 * end))[0])

    assert decade(1e6, family_df) == pytest.approx(decade(1e4, family_df), rel=1e-3)
    finite = family_df - 1 if alpha > 1 else family_df + 1
    assert decade(1e6, finite) < 0.5 * decade(1e4, finite)
    target = Mixture("t", np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)), df=df)
    params = Params(target="t", divergence="alpha", alpha=alpha, family="student_t", family_df=family_df)
    with pytest.raises(ValueError, match="divergence infinite"):
        KL_FIT.check(params, target)
    KL_FIT.check(params.model_copy(update={"family_df": finite}), target)


def test_a_stack_shares_optimizer_and_coordinates_and_not_its_starts() -> None:
    target, base = named.target("bimodal"), Params(target="bimodal")
    key = KL_FIT.batch_key(base, target)
    assert KL_FIT.batch_key(base.model_copy(update={"init_loc": 1.5, "init_scale": 3.0}), target) == key
    for other in ({"optimizer": "sgd"}, {"standardise": False}):
        assert KL_FIT.batch_key(base.model_copy(update=other), target) != key


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("standardise", [True, False])
def test_optimizer_and_coordinates_move_no_optimum(optimizer: str, standardise: bool) -> None:
    """One optimum, by moments: whichever way leads there."""
    target = random_mixture(5, 1, 3)
    params = Params(
        target=target.name,
        divergence="forward_kl",
        optimizer=optimizer,
        standardise=standardise,
        steps=800,
        learning_rate=0.05,
        init_loc=float(target.means[0, 0]),
    )
    (found,) = KL_FIT.run_batch([SimpleNamespace(params=params, target=target, seed=0)], "cpu")
    mean = float(target.weights @ target.means[:, 0])
    second = float(target.weights @ (target.covariances[:, 0, 0] + target.means[:, 0] ** 2))
    assert found.mean is not None and found.covariance is not None
    sd = math.sqrt(second - mean**2)
    assert float(found.mean[0]) == pytest.approx(mean, abs=0.05 * sd)
    assert math.sqrt(float(np.ravel(found.covariance)[0])) == pytest.approx(sd, rel=0.05)
    assert found.metrics["converged"] == 1
