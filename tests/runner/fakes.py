"""A torch-free experiment and catalogue, for tests of the runner that need no science."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from experiments.experiment import Cell, Experiment, Metric, Outcome, Params
from experiments.targets import Mixture, Points, Target


class ToyParams(Params):
    """`mode` says how the cell behaves: `raise` fails, `kill` takes its process with it, `slow` sleeps."""

    rate: float = Field(1.0, gt=0, description="what coverage and sharpness follow")
    size: int = Field(2, ge=1, description="cells of one size share a batch")
    mode: Literal["fine", "diverge", "raise", "kill", "slow"] = Field("fine", description="how the cell behaves")
    hidden: tuple[int, ...] = Field((4, 4), description="a list")
    flag: bool = Field(False, description="needs a density")


def check(params: ToyParams, target: Target) -> None:
    if params.flag and isinstance(target, Points):
        raise ValueError(f"flag needs a density, which target '{target.name}' lacks; set flag to false")


def batch_key(params: ToyParams, target: Target) -> Hashable:
    return params.size, params.hidden, target.dim


def run_batch(cells: Sequence[Cell], device: str, checkpoints: Any = None) -> list[Outcome]:
    for cell in cells:
        if cell.params.mode == "raise":
            raise RuntimeError(f"the toy with seed {cell.seed} was told to raise")
        if cell.params.mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if cell.params.mode == "slow":
            time.sleep(0.2)
    return [_outcome(cell) for cell in cells]


def _outcome(cell: Cell) -> Outcome:
    """Numbers that depend on the cell alone, so that any grouping into batches gives the same ones."""
    generator = np.random.default_rng(cell.seed)
    noise, dim = generator.standard_normal(), cell.target.dim
    steps = np.array([1, 50, 100])
    outcome = Outcome(
        metrics={
            "coverage": 1 / (1 + cell.params.rate),
            "coverage_se": 0.01,
            "sharpness": cell.params.rate / (1 + cell.params.rate),
            "loss": cell.params.rate + 0.1 * noise,
        },
        labels={"shape": "wide" if cell.params.rate < 1 else "narrow"},
        curve_steps=steps,
        curves={"loss": cell.params.rate + noise / steps},
        modes={
            "weight": np.array([0.5, 0.5]),
            "target_mass": np.array([0.5, 0.5]),
            "fitted_mass": np.array([0.9, 0.0]),
            "captured": np.array([True, False]),
            "log_width": np.array([0.0, np.nan]),
        },
        samples=generator.standard_normal((5, dim)),
        mean=np.full(dim, noise),
        covariance=np.eye(dim),
        weights=np.ones(1),
    )
    if cell.params.mode == "diverge":
        lost = {"loss": float("nan")}
        return replace(outcome, status="diverged", error="loss is nan at step 50", metrics=lost)
    return outcome


TOY = Experiment(
    name="toy",
    version=1,
    params=ToyParams,
    metrics=(
        Metric("coverage", "", "mass kept", better="higher", has_error=True),
        Metric("sharpness", "", "plausible samples", better="higher"),
        Metric("loss", "nats", "what training minimises", better="lower"),
    ),
    objective="loss",
    objective_of=("rate",),
    check=check,
    batch_key=batch_key,
    bytes_of_stack=lambda params, target, cells, device: 1000 * params.size * cells,
    seconds_per_cell=lambda params, target: 0.001 * params.size,
    run_batch=run_batch,
    labels={"shape": "wide or narrow"},
)


def mixture(name: str, separation: float, dim: int = 1) -> Mixture:
    """Two unit-variance modes at -separation and +separation, in every coordinate."""
    means = np.full((2, dim), separation) * np.array([[-1.0], [1.0]])
    return Mixture(name, np.array([0.5, 0.5]), means, np.stack([np.eye(dim)] * 2), about="two modes")


@dataclass(frozen=True)
class FakeCatalogue:
    """Satisfies `runner.experiment.Catalogue` with one experiment and two shipped targets."""

    experiments: Mapping[str, Experiment]
    targets: Mapping[str, Target]

    @property
    def target_names(self) -> Sequence[str]:
        return tuple(self.targets)

    def target(self, name: str) -> Target:
        return self.targets[name]

    def define(self, name: str, definition: Mapping[str, Any], folder: Path) -> Target:
        if "means" in definition:
            return mixture(name, float(definition["means"]))
        if "points" in definition:
            return Points(name, np.asarray(definition["points"], float).reshape(-1, 1), ("x",))
        raise ValueError(f"target '{name}' needs 'means' or 'points'")


CATALOGUE = FakeCatalogue({"toy": TOY}, {"near": mixture("near", 1.0), "far": mixture("far", 4.0)})
