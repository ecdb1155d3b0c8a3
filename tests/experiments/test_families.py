"""One suite for all families: what a family promises, against quadrature, scipy and torch.distributions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from experiments.kl_fit import KL_FIT, Params
from experiments.kl_fit.families import FAMILIES, Family, Flow, Gaussian, GaussianMixture, Sizes, StudentT, family
from experiments.kl_fit.start import initial
from experiments.stacked_mixture import StackedMixture
from tests.experiments.test_kl_truth import fitted, log_density, random_mixture

DTYPE = torch.float64


def made(name: str, dim: int) -> Family:
    params = Params(target="any", family=name, components=3, family_df=5, flow_transforms=3, flow_hidden=8, flow_bins=5)
    return family(params, dim)


def random_theta(chosen: Family, k: int = 32, seed: int = 0) -> torch.Tensor:
    """Members of no special shape: a start with random moments, and every parameter moved."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(k):
        root = rng.normal(size=(chosen.dim, chosen.dim)) * 0.3 + np.eye(chosen.dim)
        generator = torch.Generator().manual_seed(i)
        rows.append(chosen.project(rng.normal(size=chosen.dim), root @ root.T, generator))
    return torch.tensor(np.stack(rows) + rng.normal(size=(k, chosen.parameters)) * 0.2, dtype=DTYPE)


def noise(chosen: Family, k: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(k, chosen.noise_dim, n, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def weights(chosen: Family, theta: torch.Tensor, n: int) -> torch.Tensor:
    found = chosen.weights(theta, n)
    return torch.full((len(theta), n), 1 / n, dtype=DTYPE) if found is None else found


def test_fits_are_ranked_among_those_of_one_family_and_size() -> None:
    sizes = {name for name, value in vars(Sizes).items() if isinstance(value, property)}
    assert sizes > {"family", "components"}
    assert sizes <= set(KL_FIT.objective_of)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_shapes_and_gradients(name: str, dim: int) -> None:
    chosen = made(name, dim)
    n = 3000 if name == "flow" else 50  # the outermost pieces of a spline see few samples
    theta = random_theta(chosen).requires_grad_()
    assert theta.shape == (32, chosen.parameters)
    x = chosen.rsample(theta, noise(chosen, 32, n))
    assert x.shape == (32, dim, n)
    density = chosen.log_prob(theta, x.detach())
    assert density.shape == (32, n)
    assert torch.allclose(weights(chosen, theta, n).sum(dim=1), torch.ones(32, dtype=DTYPE))
    (of_density,) = torch.autograd.grad(density.sum(), theta)
    assert (of_density != 0).all()
    (of_samples,) = torch.autograd.grad((weights(chosen, theta, n) * x.square().sum(dim=1)).sum(), theta)
    assert (of_samples != 0).all()


GAUSSIANS = [name for name in FAMILIES if name.startswith("gaussian_") and name != "gaussian_mixture"]


@pytest.mark.parametrize("name", GAUSSIANS)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_gradients_written_out_are_those_of_differences(name: str, dim: int) -> None:
    """Of a Gaussian's samples, and of its cross entropy, whose value scipy knows; columns beyond n do not count."""
    chosen = made(name, dim)
    assert isinstance(chosen, Gaussian)
    k, n, width = 4, 37, 48
    theta = random_theta(chosen, k)
    normal = noise(chosen, k, width, seed=1)
    points = 2 * noise(chosen, k, width, seed=2) + 0.5

    def cross_entropy(at: torch.Tensor) -> torch.Tensor:
        value, _ = chosen.cross_entropy(at, points, n, whole=True)
        assert value is not None
        return value

    def of_samples(at: torch.Tensor) -> torch.Tensor:
        return chosen.rsample(at, normal).sin().mul(torch.arange(1.0, width + 1)).sum(dim=(1, 2))

    loc, tril = chosen.moments(theta)
    for row, m, root, x in zip(cross_entropy(theta), loc.numpy(), tril.numpy(), points.numpy(), strict=True):
        assert row.item() == pytest.approx(-stats.multivariate_normal(m, root @ root.T).logpdf(x[:, :n].T).mean())
    at = theta.clone().requires_grad_()
    (by_samples,) = torch.autograd.grad(of_samples(at).sum(), at)
    by_points = chosen.cross_entropy(theta, points, n, whole=True)[1]
    by_entropy = chosen.entropy_gradient(theta).expand(k, -1)
    for function, gradient in (
        (cross_entropy, by_points),
        (of_samples, by_samples),
        (chosen.entropy, by_entropy),
    ):
        for j in range(chosen.parameters):
            step = torch.zeros_like(theta)
            step[:, j] = 1e-5
            slope = (function(theta + step) - function(theta - step)) / 2e-5
            assert torch.allclose(gradient[:, j], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", GAUSSIANS)
def test_samples_of_a_gaussian_move_with_their_noise(name: str) -> None:
    """As those of a flow need, which bends what the Gaussian is given."""
    chosen = made(name, 3)
    theta, normal = random_theta(chosen, 4), noise(chosen, 4, 16).requires_grad_()
    weight = noise(chosen, 4, 16, seed=3)
    (gradient,) = torch.autograd.grad((chosen.rsample(theta, normal) * weight).sum(), normal)
    tril = chosen.moments(theta)[1]
    assert torch.allclose(gradient, tril.mT @ weight)


@pytest.mark.parametrize(("dim", "modes"), [(1, 2), (2, 3), (2, 8), (3, 5), (5, 2), (5, 8)])
@pytest.mark.parametrize("df", [None, 3.0])
def test_samples_of_a_stack_are_made_as_the_definition_says(dim: int, modes: int, df: float | None) -> None:
    """The component by the uniform number; then its mean, plus its Cholesky factor times the normal numbers."""
    targets = [replace(random_mixture(seed, dim, modes), df=df) for seed in range(3)]
    stacked = StackedMixture.stack(targets, DTYPE)
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(3, 500, dtype=DTYPE, generator=generator)
    normal = torch.randn(3, dim, 500, dtype=DTYPE, generator=generator)
    gamma = None if df is None else torch.rand(3, 500, dtype=DTYPE, generator=generator) + 0.1
    x = stacked.sample(uniform, normal, gamma).numpy()
    for k, target in enumerate(targets):
        chosen = np.searchsorted(np.cumsum(target.weights), uniform[k].numpy(), side="right").clip(max=modes - 1)
        spread = normal[k].numpy().T
        if gamma is not None:
            spread = spread * np.sqrt(0.5 * target.df / gamma[k].numpy())[:, None]
        factors = np.linalg.cholesky(target.covariances)[chosen]
        expected = target.means[chosen] + np.einsum("nij,nj->ni", factors, spread)
        np.testing.assert_allclose(x[k].T, expected, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_density_integrates_to_one_in_one_dimension(name: str) -> None:
    chosen = made(name, 1)
    theta = random_theta(chosen, 2)
    if name == "flow":  # smooth but at its knots, more than an adaptive rule can find: a fine grid instead
        u = np.linspace(-9, 9, 200_001)
        values = chosen.log_prob(theta[:1], torch.tensor(np.sinh(u))[None, None]).exp()[0].numpy()
        assert integrate.trapezoid(values * np.cosh(u), u) == pytest.approx(1, abs=1e-8)
        return

    def density(x: float) -> float:
        return float(chosen.log_prob(theta[:1], torch.full((1, 1, 1), x, dtype=DTYPE)).exp())

    total = integrate.quad(density, -np.inf, np.inf, limit=500, epsabs=1e-10)[0]
    assert total == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("name", FAMILIES)
def test_density_integrates_to_one_in_two_dimensions(name: str) -> None:
    chosen = made(name, 2)
    theta = random_theta(chosen, 1)
    # x = sinh(u) reaches the tails; the trapezium rule is exact to rounding error for what vanishes at both ends.
    u = np.linspace(-9, 9, 601)
    x, jacobian = np.sinh(u), np.cosh(u) * (u[1] - u[0])
    points = torch.tensor(np.stack(np.meshgrid(x, x, indexing="ij")).reshape(1, 2, -1))
    density = chosen.log_prob(theta, points).exp().reshape(601, 601).numpy()
    # A flow's density has kinks, where its perceptrons have theirs: the rule's error is then of second order.
    assert jacobian @ density @ jacobian == pytest.approx(1, abs=1e-5 if name == "flow" else 1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_agree_with_density(name: str) -> None:
    chosen = made(name, 1)
    theta = random_theta(chosen, 1)
    n = 30_000
    x = chosen.rsample(theta, noise(chosen, 1, n))[0, 0].numpy()
    weight = weights(chosen, theta, n)[0].numpy()
    order = np.argsort(x)
    grid = np.sinh(np.linspace(-9, 9, 20_001))
    density = chosen.log_prob(theta, torch.tensor(grid[None, None])).exp()[0].numpy()
    cdf = integrate.cumulative_trapezoid(density, grid, initial=0)
    distance = np.abs(np.cumsum(weight[order]) - np.interp(x[order], grid, cdf)).max()
    assert stats.kstwobign.sf(distance / math.sqrt((weight**2).sum())) > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_entropy_is_that_of_the_samples(name: str, dim: int) -> None:
    chosen = made(name, dim)
    theta = random_theta(chosen)
    entropy = chosen.entropy(theta)
    if entropy is None:
        return
    log_q = chosen.log_prob(theta, chosen.rsample(theta, noise(chosen, 32, 20_000)))
    error = log_q.std(dim=1) / math.sqrt(20_000)
    assert ((entropy + log_q.mean(dim=1)).abs() < 4.5 * error).all()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stacked_equals_padded_alone(name: str, dim: int, dtype: torch.dtype) -> None:
    chosen = made(name, dim)
    theta, z = random_theta(chosen, 64).to(dtype), noise(chosen, 64, 48).to(dtype)

    def results(theta: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
        theta = theta.clone().requires_grad_()
        x = chosen.rsample(theta, z.clone())
        loss = (chosen.log_prob(theta, x) + x.square().sum(dim=1)).mean(dim=1)
        return [x.detach(), loss.detach(), *torch.autograd.grad(loss.sum(), theta)]

    whole = results(theta, z)
    for k in (0, 13, 63):
        alone = results(theta[k].expand(32, -1), z[k].expand(32, -1, -1))
        assert all(torch.equal(one[0], among[k]) for one, among in zip(alone, whole, strict=True))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_student_t_is_that_of_scipy(dim: int) -> None:
    chosen = StudentT(dim, 5)
    theta = random_theta(chosen)
    x = chosen.rsample(theta, noise(chosen, 32, 30))
    entropy, log_q = chosen.entropy(theta), chosen.log_prob(theta, x)
    for k in range(3):
        fit = chosen.mixture(theta[k].numpy(), np.zeros(dim), np.eye(dim))
        exact = stats.multivariate_t(fit.means[0], fit.covariances[0], df=5)
        assert np.allclose(log_q[k], exact.logpdf(x[k].T.numpy()), atol=1e-11)
        assert float(entropy[k]) == pytest.approx(float(exact.entropy()), abs=1e-9)


@pytest.mark.parametrize("df", [1.5, 5.0, None])
@pytest.mark.parametrize(("init", "k"), [("mode:0", 0), ("mode:2", 2), ("narrow", None), ("random", None)])
def test_a_student_t_starts_as_wide_as_the_mode(df: float | None, init: str, k: int | None) -> None:
    """Its scale matrix is a Student-t component's; its covariance that of a Gaussian one."""
    target = replace(random_mixture(3, 2, 3), df=df)
    params = Params(target="any", family="student_t", family_df=5, init=init)
    chosen = family(params, 2)
    assert isinstance(chosen, StudentT)
    theta = chosen.project(*initial(target, params, torch.Generator()))
    fit = chosen.mixture(theta, np.zeros(2), np.eye(2))
    narrowest = int(np.argmin(np.linalg.det(target.covariances)))
    own = target.covariances[narrowest if k is None else k]
    assert np.allclose(fit.covariance if df is None else fit.covariances[0], own, rtol=1e-12)
    if k is not None:
        assert np.allclose(fit.mean, target.means[k], rtol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_mixture_is_that_of_scipy_in_any_coordinates(dim: int) -> None:
    chosen = GaussianMixture(dim, 3)
    theta = random_theta(chosen, 1)
    rng = np.random.default_rng(5)
    center, factor = rng.normal(size=dim), np.tril(rng.normal(size=(dim, dim))) + 3 * np.eye(dim)
    x = rng.normal(size=(dim, 40))
    fit = chosen.mixture(theta[0].numpy(), center, factor)
    expected = log_density(fit, (center[:, None] + factor @ x).T) + np.linalg.slogdet(factor)[1]
    assert np.allclose(chosen.log_prob(theta, torch.tensor(x[None]))[0], expected, atol=1e-10)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_flow_knows_the_density_of_its_samples(dim: int) -> None:
    """By its own inverse, and by the Jacobian of what makes a sample of the noise."""
    chosen = Flow(dim, 6, 8, 5)
    theta, z = random_theta(chosen), noise(chosen, 32, 100)
    x, log_q = chosen.rsample_and_log_prob(theta, z)
    assert torch.allclose(chosen.log_prob(theta, x), log_q, atol=1e-8)
    for i in range(5):

        def sample(z: torch.Tensor) -> torch.Tensor:
            return chosen.rsample(theta[:1], z[None, :, None])[0, :, 0]

        jacobian = torch.autograd.functional.jacobian(sample, z[0, :, i])
        normal = stats.multivariate_normal(np.zeros(dim)).logpdf(z[0, :, i].numpy())
        assert float(log_q[0, i]) == pytest.approx(normal - float(torch.linalg.slogdet(jacobian)[1]), abs=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_new_flow_is_its_gaussian(dim: int) -> None:
    """And all of its parameters but those of last layers, which are zero, differ from one another."""
    chosen, gaussian = Flow(dim, 4, 8, 5), Gaussian("full", dim)
    rng = np.random.default_rng(dim)
    mean, root = rng.normal(size=dim), rng.normal(size=(dim, dim))
    start = chosen.project(mean, root @ root.T, torch.Generator().manual_seed(0))
    x = torch.tensor(rng.normal(size=(1, dim, 50)) * 3)
    expected = gaussian.log_prob(torch.tensor(gaussian.project(mean, root @ root.T))[None], x)
    assert torch.allclose(chosen.log_prob(torch.tensor(start)[None], x), expected, atol=1e-10)
    drawn = start[gaussian.parameters :][start[gaussian.parameters :] != 0]
    assert len(np.unique(drawn)) == len(drawn)
    assert (len(drawn) > 0) == (dim > 1)


@pytest.mark.parametrize("dim", [2, 3, 5, 8, 9])
def test_every_pair_of_coordinates_meets_in_a_flow(dim: int) -> None:
    chosen = Flow(dim, 2 * (dim - 1).bit_length(), 4, 4)
    pairs = {(i, j) for coupling in chosen.couplings for i in coupling.bent for j in coupling.given}
    assert pairs == {(i, j) for i in range(dim) for j in range(dim) if i != j}


def test_gradient_of_mixing_weights_is_exact() -> None:
    """Against differences of KL(Q || P) by quadrature, with quantiles in place of noise."""
    target = random_mixture(3, 1, 2)
    chosen = GaussianMixture(1, 3)
    theta = random_theta(chosen, 1, seed=4)
    p = StackedMixture.stack([target], DTYPE)

    def kl(theta: np.ndarray) -> float:
        grid = torch.linspace(-40, 40, 200_001, dtype=DTYPE).view(1, 1, -1)
        log_q = chosen.log_prob(torch.tensor(theta[None]), grid)
        return float((log_q.exp() * (log_q - p.log_prob(grid))).sum() * (80 / 200_000))

    middle = theta[0].numpy()
    steps = np.eye(len(middle)) * 1e-5
    expected = np.array([(kl(middle + step) - kl(middle - step)) / 2e-5 for step in steps])
    n = 30_000
    rank = (np.arange(n) // 3 + 0.5) / (n / 3)
    variable = theta.clone().requires_grad_()
    x = chosen.rsample(variable, torch.tensor(stats.norm.ppf(rank))[None, None])
    loss = (weights(chosen, variable, n) * (chosen.log_prob(variable, x) - p.log_prob(x))).sum()
    (found,) = torch.autograd.grad(loss, variable)
    assert np.allclose(found[0].numpy(), expected, atol=2e-3)
    assert np.abs(expected[:3]).min() > 1e-2


@pytest.mark.parametrize(
    ("dim", "divergence"), [(1, "forward_kl"), (1, "reverse_kl"), (2, "forward_kl"), (2, "reverse_kl")]
)
def test_a_flow_finds_a_mixture(dim: int, divergence: str) -> None:
    target = random_mixture(1, dim, 3)
    sizes = {"flow_transforms": 2, "flow_hidden": 16, "flow_bins": 8}
    fit = fitted(target, divergence=divergence, family="flow", steps=300, samples=128, **sizes)[0]
    assert fit.metrics[divergence] < 0.05 + 3 * fit.metrics[f"{divergence}_se"]
    assert np.allclose(fit.mean, target.mean, atol=0.15)
    assert fit.covariance.shape == (dim, dim)
    assert fit.weights is None


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_a_mixture_finds_a_mixture(dim: int, divergence: str) -> None:
    target = random_mixture(1, dim, 3)
    fit = fitted(target, divergence=divergence, family="gaussian_mixture", components=6, steps=2000)[0]
    assert fit.metrics[divergence] < 0.02 + 3 * fit.metrics[f"{divergence}_se"]
    assert np.allclose(fit.mean, target.mean, atol=0.15)
