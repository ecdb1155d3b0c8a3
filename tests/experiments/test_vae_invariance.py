"""A cell's outcome is the same, bit for bit, whatever it is stacked with."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.experiment import Outcome
from experiments.targets import Mixture, Points
from experiments.vae import VAE, Params, judge


@pytest.fixture(autouse=True)
def _one_thread_and_few_draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(judge, "DRAWS", 80)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _mixture(dim: int, modes: int, seed: int, df: float | None = None) -> Mixture:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(modes))
    factors = 0.3 * rng.normal(size=(modes, dim, dim)) + 0.5 * np.eye(dim)
    covariances = factors @ factors.transpose(0, 2, 1)
    return Mixture(f"random{seed}", weights, rng.normal(size=(modes, dim)), covariances, df=df)


def _points(seed: int) -> Points:
    return Points(f"file{seed}", np.random.default_rng(seed).normal(size=(41, 3)), ("a", "b", "c"))


def _grey(seed: int) -> Points:
    return Points(f"grey{seed}", np.random.default_rng(seed).uniform(size=(41, 5)), ("a", "b", "c", "d", "e"))


CASES = {
    "plane": ([_mixture(2, 3, s) for s in range(4)], {}),
    "double": ([_mixture(2, 3, s) for s in range(2)], {"dtype": "float64", "latent_dim": 3}),
    "line": ([_mixture(1, 2, s) for s in range(3)], {"latent_dim": 1, "likelihood": "mse"}),
    "heavy": ([_mixture(10, 2, s, df=3.0) for s in range(2)], {"latent_dim": 5, "encoder": "linear"}),
    "file": ([_points(s) for s in range(2)], {"train_size": 30, "decoder": "linear"}),
    "learned": ([_mixture(2, 3, s) for s in range(2)], {"likelihood": "gaussian_learned"}),
    "pixels": ([_grey(s) for s in range(2)], {"likelihood": "bernoulli", "train_size": 30, "standardise": False}),
    "fixed": ([_mixture(2, 4, 5)], {"train_size": 45, "sample": "mean"}),
}


def _cells(targets: list[Mixture | Points], fixed: dict[str, object]) -> list[SimpleNamespace]:
    rng = np.random.default_rng(0)
    cells = []
    for k in range(19):
        target = targets[k % len(targets)]
        varied = {
            "kl_weight": float(rng.choice([0.0, 0.3, 1.0, 5.0])),
            "noise_std": float(rng.uniform(0.05, 1.0)),
            "learning_rate": float(rng.choice([1e-3, 1e-2])),
            "free_bits": float(rng.choice([0.0, 0.2])),
            "kl_warmup": float(rng.choice([0.0, 0.5])),
            "standardise": bool(rng.integers(2)),
        }
        params = Params(target=target.name, steps=9, batch_size=13, hidden=(11, 7), **(varied | fixed))
        cells.append(SimpleNamespace(params=params, target=target, seed=int(rng.integers(3))))
    return cells


def _numbers(outcome: Outcome) -> dict[str, bytes]:
    arrays = {"samples": outcome.samples, "steps": outcome.curve_steps, **outcome.curves, **outcome.modes}
    # Bytes, so that NaN equals NaN and -0.0 differs from 0.0.
    numbers = {name: np.asarray(value).tobytes() for name, value in arrays.items()}
    return numbers | {f"metric {name}": np.float64(value).tobytes() for name, value in outcome.metrics.items()}


@pytest.mark.parametrize("case", CASES)
def test_alone_in_sevens_and_all_together(case: str) -> None:
    cells = _cells(*CASES[case])
    together = [_numbers(outcome) for outcome in VAE.run_batch(cells, "cpu")]
    in_sevens = [_numbers(o) for start in (0, 7, 14) for o in VAE.run_batch(cells[start : start + 7], "cpu")]
    assert in_sevens == together
    for k in (0, 8, 18):
        assert _numbers(VAE.run_batch([cells[k]], "cpu")[0]) == together[k]
    order = np.random.default_rng(1).permutation(len(cells))
    shuffled = VAE.run_batch([cells[k] for k in order], "cpu")
    assert [_numbers(outcome) for outcome in shuffled] == [together[k] for k in order]


def test_stacks_larger_than_one_slice() -> None:
    (target,) = CASES["fixed"][0]
    cells = [
        SimpleNamespace(params=Params(target=target.name, steps=3, hidden=(5,), latent_dim=1), target=target, seed=s)
        for s in range(70)
    ]
    together = VAE.run_batch(cells, "cpu")
    assert _numbers(VAE.run_batch([cells[66]], "cpu")[0]) == _numbers(together[66])
    assert _numbers(together[0]) != _numbers(together[1])


def test_cells_of_one_seed_share_their_start_and_their_data() -> None:
    """Two KL weights at one seed are a paired comparison: their first minibatch has the same distortion."""
    target = _mixture(2, 3, 0)
    params = [Params(target=target.name, steps=2, kl_weight=w) for w in (0.1, 4.0)]
    cells = [SimpleNamespace(params=p, target=target, seed=s) for p in params for s in (0, 1)]
    first = [outcome.curves["distortion"][0] for outcome in VAE.run_batch(cells, "cpu")]
    assert first[0] == first[2] != first[1] == first[3]
