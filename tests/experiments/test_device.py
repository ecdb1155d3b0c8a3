"""What would slow a GPU: the step loops of both experiments never wait for the host."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

import runner
from experiments.catalogue import CATALOGUE
from experiments.experiment import Outcome

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


GRIDS = {
    "forward, full": "kl_fit, fixed: {target: ring8_easy, divergence: forward_kl}",
    "reverse, full": "kl_fit, fixed: {target: ring8_easy, divergence: reverse_kl}",
    "reverse, ten dimensions": "kl_fit, fixed: {target: ten, divergence: reverse_kl}",
    "reverse, Student-t": "kl_fit, fixed: {target: student_t_mixture, divergence: reverse_kl}",
    "points": "kl_fit, fixed: {target: faithful, divergence: forward_kl}",
    "vae": "vae, fixed: {target: ring8_easy, latent_dim: 2, hidden: [8]}",
    "vae with warm-up": "vae, fixed: {target: faithful, latent_dim: 2, hidden: [8], kl_warmup: 0.5, free_bits: 0.1}",
}
TEN = "{weights: [1], means: [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]], standard_deviations: [[1, 1, 1, 1, 1, 1, 1, 1, 1, 1]]}"


def outcomes_of(grid: str, steps: int) -> list[Outcome]:
    text = f"name: device\ngrids: [{{experiment: {grid}, }}]\nseeds: 2\ntargets: {{ten: {TEN}}}"
    cells = runner.plan(runner.load_sweep(text, [f"steps={steps}"])).cells
    return list(CATALOGUE.experiments[cells[0].experiment].run_batch(cells, "cpu"))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_numbers_are_close_to_the_cpu_s() -> None:
    text = "name: gpu\ngrids: [{experiment: kl_fit, fixed: {target: ring8_easy, divergence: forward_kl}}]\nseeds: 4"
    cells = runner.plan(runner.load_sweep(text)).cells
    run = CATALOGUE.experiments["kl_fit"].run_batch
    on_cpu, on_gpu = run(cells, "cpu"), run(cells, "cuda")
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert b.metrics["forward_kl"] == pytest.approx(a.metrics["forward_kl"], abs=0.05)
        assert b.metrics["coverage"] == pytest.approx(a.metrics["coverage"], abs=0.02)
