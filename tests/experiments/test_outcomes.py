"""What would fill a worker's memory: outcomes keep alive only what they report, and stacks say what they take."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch.profiler import ProfilerActivity, profile

from experiments.catalogue import CATALOGUE
from experiments.targets import Mixture
from tests.experiments.test_device import GRIDS, outcomes_of

OTHERS = {
    "one dimension": "kl_fit, fixed: {target: bimodal, divergence: forward_kl}",
    "flow, mixture": "kl_fit, fixed: {target: ring8_easy, divergence: forward_kl, family: flow}",
}


@pytest.mark.parametrize("grid", [*GRIDS.values(), *OTHERS.values()], ids=[*GRIDS, *OTHERS])
def test_the_samples_of_an_outcome_keep_no_other_draws_alive(grid: str) -> None:
    for outcome in outcomes_of(grid, steps=20):
        assert outcome.status == "ok", outcome.error
        assert outcome.samples is not None and len(outcome.samples) > 0
        assert outcome.samples.flags.owndata


def peak_bytes(run: Callable[[], object]) -> float:
    """The most that torch holds at once, and the most that numpy does."""
    run()  # so that modules are not counted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        tracemalloc.start()
        run()
        of_numpy = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    events = watched.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return float(np.cumsum([change for _, change in changes]).max() + of_numpy)


PAIR = {"family": "gaussian_mixture", "components": 2, "samples": 20_000, "steps": 1}
MANY = {"family": "gaussian_mixture", "components": 32, "samples": 10_000, "steps": 1}
WIDE = {"family": "gaussian_full", "samples": 20_000, "steps": 1}
NARROW = {"hidden": (8,), "latent_dim": 1, "batch_size": 1000, "steps": 2}
LATENT = {"hidden": (32,), "latent_dim": 16, "steps": 2}


@pytest.mark.parametrize(
    ("experiment", "dim", "params", "cells"),
    [
        *(("gradients", 50, {"samples": 1, "repeats": 5000}, cells) for cells in (1, 32)),
        *(("kl_fit", 2, params, cells) for params in (PAIR, MANY, WIDE) for cells in (1, 2)),
        *(("vae", dim, params, cells) for dim, params in ((2, NARROW), (40, NARROW), (2, LATENT)) for cells in (1, 40)),
    ],
)
def test_a_stack_takes_what_it_says_padding_included(
    experiment: str, dim: int, params: dict[str, Any], cells: int
) -> None:
    chosen = CATALOGUE.experiments[experiment]
    target = Mixture("normals", np.full(8, 1 / 8), np.eye(8, dim), np.stack([np.eye(dim)] * 8))
    if experiment == "gradients":
        target = Mixture("normal", np.ones(1), np.zeros((1, dim)), np.eye(dim)[None])
    made = chosen.params(target=target.name, **params)
    stack = [SimpleNamespace(params=made, target=target, seed=seed) for seed in range(cells)]
    taken = peak_bytes(lambda: chosen.run_batch(stack, "cpu"))
    said = chosen.bytes_of_stack(made, target, cells, "cpu")
    assert taken / 1.2 < said < 2.5 * taken, (taken, said)
