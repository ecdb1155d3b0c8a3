"""What would fill a worker's memory: outcomes keep nothing alive but what they report."""

from __future__ import annotations

import pytest

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
