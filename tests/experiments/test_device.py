"""What would slow a GPU: step loops that wait for the host. And on a GPU: that its numbers are those of the CPU."""

from __future__ import annotations

import gc
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import runner
from experiments import adam, replay
from experiments.catalogue import CATALOGUE
from experiments.experiment import Outcome
from runner import worker

# Each of these makes the host wait for the device, or copies to or from it.
WAITS = {
    *("item", "cpu", "cuda", "numpy", "tolist", "nonzero", "equal", "allclose", "tensor", "as_tensor", "from_numpy"),
    *("__bool__", "__float__", "__int__", "__index__", "__array__", "masked_select", "unique"),
}


class Waits(TorchFunctionMode):
    """Counts the calls of ``WAITS``, however they are spelled."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in WAITS:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


QUICK = {
    "forward, full": "kl_fit, fixed: {target: ring8_easy, divergence: forward_kl}",
    "reverse, full": "kl_fit, fixed: {target: ring8_easy, divergence: reverse_kl}",
    "reverse, ten dimensions": "kl_fit, fixed: {target: ten, divergence: reverse_kl}",
    "reverse, Student-t": "kl_fit, fixed: {target: student_t_mixture, divergence: reverse_kl}",
    "forward, Student-t": "kl_fit, fixed: {target: heavy, divergence: forward_kl, family: student_t}",
    "Jeffreys": "kl_fit, fixed: {target: ring8_easy, divergence: jeffreys}",
    "Jensen-Shannon": "kl_fit, fixed: {target: bimodal, divergence: jensen_shannon}",
    "alpha": "kl_fit, fixed: {target: ring8_easy, divergence: alpha, alpha: 0.5}",
    "score function": "kl_fit, fixed: {target: bimodal, divergence: reverse_kl, estimator: score_function_baseline}",
    "SGD": "kl_fit, fixed: {target: ring8_easy, divergence: reverse_kl, optimizer: sgd}",
    "double precision": "kl_fit, fixed: {target: grid25, divergence: forward_kl, dtype: float64}",
    "mixture": "kl_fit, fixed: {target: ring8_easy, divergence: forward_kl, family: gaussian_mixture, components: 3}",
    **{
        f"forward, {name}": f"kl_fit, fixed: {{target: {name}, divergence: forward_kl}}"
        for name in ("two_moons", "rings", "funnel2", "double_well")
    },
    "reverse, student_t_jax": "kl_fit, fixed: {target: student_t_jax, divergence: reverse_kl}",
    "points": "kl_fit, fixed: {target: faithful, divergence: forward_kl}",
    "vae": "vae, fixed: {target: ring8_easy, latent_dim: 2, hidden: [8]}",
    "vae with warm-up": "vae, fixed: {target: faithful, latent_dim: 2, hidden: [8], kl_warmup: 0.5, free_bits: 0.1}",
    "vae, heavy tails": "vae, fixed: {target: heavy, latent_dim: 2, hidden: [8]}",
    "vae, few points": "vae, fixed: {target: ring8_easy, latent_dim: 1, likelihood: mse, train_size: 200}",
    "vae, learned noise": "vae, fixed: {target: ring8_easy, latent_dim: 2, hidden: [8], likelihood: gaussian_learned}",
    "vae, pixels": "vae, fixed: {target: digits, latent_dim: 2, hidden: [8], likelihood: bernoulli}",
}
FLOWS = {
    "flow": "kl_fit, fixed: {target: double_well, divergence: reverse_kl, family: flow}",
    "points, flow": "kl_fit, fixed: {target: faithful, divergence: forward_kl, family: flow}",
}
GRIDS = QUICK | FLOWS
TEN = "{weights: [1], means: [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]], standard_deviations: [[1, 1, 1, 1, 1, 1, 1, 1, 1, 1]]}"
HEAVY = "{weights: [0.5, 0.5], means: [[0, 0], [4, 1]], standard_deviations: [[1, 1], [1, 0.5]], df: 5}"

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def cells_of(grid: str, seeds: int, *overrides: str) -> Sequence[Any]:
    text = f"name: device\ngrids: [{{experiment: {grid}, }}]\nseeds: {seeds}\ntargets: {{ten: {TEN}, heavy: {HEAVY}}}"
    return runner.plan(runner.load_sweep(text, overrides)).cells


def outcomes_of(grid: str, steps: int, device: str = "cpu", seeds: int = 2) -> list[Outcome]:
    cells = cells_of(grid, seeds, f"steps={steps}")
    return list(CATALOGUE.experiments[cells[0].experiment].run_batch(cells, device))


@pytest.mark.parametrize("grid", QUICK.values(), ids=list(QUICK))
def test_the_number_of_waits_does_not_grow_with_the_steps(grid: str) -> None:
    counts = {}
    for steps in (300, 600):  # noise is drawn, and curves are kept, in fewer pieces than there are steps
        with Waits() as waits:
            outcomes_of(grid, steps)
        counts[steps] = waits.count
    assert sum(counts[300].values()) > 0  # something is counted: results do come back in the end
    growth = sum(counts[600].values()) - sum(counts[300].values())
    assert growth <= 30, counts  # a tenth of the steps at most


def test_the_count_sees_every_way_to_wait() -> None:
    x = torch.ones(3)
    with Waits() as waits:
        float(x[0]), bool(x[0]), int(x[0]), x.tolist(), x.cpu(), x[0].item(), x.numpy(), torch.as_tensor([1.0])
    assert sum(waits.count.values()) == 8


@pytest.mark.parametrize("optimiser", [adam.Adam, adam.SGD])
def test_moves_that_are_tensors_make_the_same_steps(optimiser: Any) -> None:
    gradients = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = []
    for as_tensor in (False, True):
        theta = torch.zeros(3, 4, dtype=torch.float64)
        descent = optimiser([theta], torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
        for gradient, move in zip(gradients, descent.moves(50), strict=True):
            descent.step([gradient], torch.tensor(move, dtype=torch.float64) if as_tensor else move)
        ends.append(theta)
    assert ends[0].numpy() == pytest.approx(ends[1].numpy(), rel=1e-12)


@needs_gpu
@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_a_gpu_finds_what_the_cpu_finds(grid: str) -> None:
    """Other random numbers, and a seed may end in another optimum: means over seeds agree within their errors."""
    steps, seeds = (60, 8) if "flow" in grid else (300, 32)
    on_cpu, on_gpu = (outcomes_of(grid, steps, device, seeds) for device in ("cpu", "cuda"))
    assert [o.status for o in on_cpu] == [o.status for o in on_gpu] == ["ok"] * seeds
    assert on_cpu[0].metrics.keys() == on_gpu[0].metrics.keys()
    compared = 0
    for name in on_cpu[0].metrics:
        if f"{name}_se" in on_cpu[0].metrics:
            a, b = (np.array([o.metrics[name] for o in side]) for side in (on_cpu, on_gpu))
            own = np.array([o.metrics[f"{name}_se"] for side in (on_cpu, on_gpu) for o in side])
            with np.errstate(invalid="ignore"):  # a metric may be infinite for each seed
                error = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / seeds + (own**2).sum() / seeds**2)
            if np.isfinite(error):
                assert b.mean() == pytest.approx(a.mean(), abs=5 * error + 1e-3 * max(1.0, abs(a.mean()))), name
                compared += 1
    assert compared >= 4


@needs_gpu
@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_replayed_steps_do_what_single_ones_do(grid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = outcomes_of(grid, 60, "cuda")
    monkeypatch.setattr(replay, "WARM", 10**9)
    for one, other in zip(replayed, outcomes_of(grid, 60, "cuda"), strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-6, abs=1e-9, nan_ok=True)
        for name, curve in one.curves.items():
            assert curve == pytest.approx(other.curves[name], rel=1e-6, abs=1e-9)


@needs_gpu
@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_on_a_gpu_the_number_of_waits_does_not_grow_with_the_steps(
    grid: str, monkeypatch: pytest.MonkeyPatch, waits_of_cuda: list[Any]
) -> None:
    monkeypatch.setattr(replay, "WARM", 10**9)  # a step that is replayed could not wait
    counts = []
    for steps in (60, 120) if "flow" in grid else (300, 600):
        waits_of_cuda.clear()
        outcomes_of(grid, steps, "cuda")
        counts.append(len(waits_of_cuda))
    assert 0 < counts[1] <= counts[0] + 30


@needs_gpu
@pytest.mark.parametrize(
    ("grid", "cells"),
    [
        ("kl_fit, fixed: {target: ring8_easy, divergence: forward_kl, steps: 90}", 300),
        ("kl_fit, fixed: {target: gmm40, divergence: reverse_kl, samples: 5000, steps: 90}", 64),
        ("kl_fit, fixed: {target: grid25, divergence: reverse_kl, family: gaussian_mixture, steps: 90}", 300),
        ("kl_fit, fixed: {target: ten, divergence: reverse_kl, steps: 90}", 64),
        ("kl_fit, fixed: {target: ring8, divergence: jensen_shannon, steps: 90}", 300),
        ("kl_fit, fixed: {target: ring8, divergence: reverse_kl, family: student_t, steps: 90}", 300),
        ("kl_fit, fixed: {target: double_well, divergence: reverse_kl, family: flow, steps: 30}", 16),
        ("gradients, fixed: {target: ring8}", 64),
        ("vae, fixed: {target: ring8_easy, steps: 90}", 16),
        ("vae, fixed: {target: ring8_easy, likelihood: gaussian_learned, hidden: [256, 256], steps: 90}", 70),
        ("vae, fixed: {target: digits, likelihood: bernoulli, steps: 90}", 16),
        ("vae, fixed: {target: heavy, latent_dim: 16, steps: 90}", 40),
    ],
)
def test_a_stack_takes_no_more_of_a_gpu_than_its_worker_leaves_it(grid: str, cells: int) -> None:
    stack = cells_of(grid, cells)
    experiment = CATALOGUE.experiments[stack[0].experiment]
    said = experiment.bytes_of_stack(stack[0].params, stack[0].target, cells, "cuda")
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    experiment.run_batch(stack, "cuda")
    taken = torch.cuda.max_memory_allocated() - before
    assert taken < worker.CUDA_LIBRARIES + said / worker.CUDA_SHARE, (taken, said)


@needs_gpu
def test_cuda_tells_of_every_wait(waits_of_cuda: list[Any]) -> None:
    for x in torch.ones(7, device="cuda").unbind():
        x.item()
    assert len(waits_of_cuda) == 7


@pytest.fixture
def waits_of_cuda() -> Iterator[Sequence[Any]]:
    """A list that grows by one whenever the host waits for the GPU."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        told.clear()
        yield told
        torch.cuda.set_sync_debug_mode("default")
