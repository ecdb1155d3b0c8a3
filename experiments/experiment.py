"""What an experiment is: a few frozen values and four functions, none of which needs torch until it runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from experiments.targets import Target


class Params(BaseModel):
    """The parameters of one cell, its seed excluded. Every field takes part in the cell's identity.

    A field's ``description`` is what `modesweep list experiments` and the tables say of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str = Field(description="P: its name, from `modesweep list targets` or the sweep file's own")


@dataclass(frozen=True)
class Metric:
    """A number that an experiment reports for each cell.

    ``has_error`` says that a Monte-Carlo standard error is reported beside it, as ``<name>_se``.
    """

    name: str
    unit: str
    meaning: str
    better: Literal["higher", "lower"] | None = None
    has_error: bool = False


class Cell(Protocol):
    """What ``run_batch`` needs to know of a cell; the cells of one batch have one kind of params and of target."""

    @property
    def params(self) -> Any: ...
    @property
    def target(self) -> Any: ...
    @property
    def seed(self) -> int: ...


class Checkpoints(Protocol):
    """Where stacks in training leave how far they are, and find it again; arrays with a row for each cell."""

    def find(self, cells: Sequence[Cell]) -> Mapping[str, np.ndarray] | None:
        """What was kept of these cells; None unless one call of ``keep`` had all of them."""
        ...

    def due(self) -> bool:
        """Whether it is time to keep something; asked often."""
        ...

    def keep(self, cells: Sequence[Cell], share: float, rows: Mapping[str, np.ndarray]) -> None:
        """In place of what was kept of these cells before; ``share`` of their training is done."""
        ...


class RunBatch(Protocol):
    """Runs a stack of cells on ``cpu`` or ``cuda``; training that takes long goes on from its last checkpoint."""

    def __call__(
        self, cells: Sequence[Cell], device: str, checkpoints: Checkpoints | None = None
    ) -> Sequence[Outcome]: ...


@dataclass(frozen=True)
class Outcome:
    """The result of one cell, as plain numbers and numpy arrays.

    Args:
        status: ``ok``, or ``diverged`` when the objective or a parameter left the finite numbers.
        error: the reason, for a person, when the status is not ``ok``.
        metrics: by name; a metric that does not apply is left out, one that is undefined is NaN.
        curve_steps: the training steps kept, shape ``(S,)``, the first and the last among them.
        curves: by metric name, shape ``(S,)``.
        modes: one array of shape ``(M,)`` for each of weight, target_mass, fitted_mass, captured, fair_share,
            log_width, and forward_coverage_nats, forward_shape_nats, reverse_coverage_nats, reverse_shape_nats; one
            that is not known is left out.
        samples: draws from the fitted distribution, shape ``(n, D)``.
        mean, covariance, weights: of a parametric fit, ``(D,)``, ``(D, D)`` and ``(components,)``.
    """

    status: Literal["ok", "diverged"] = "ok"
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    curve_steps: np.ndarray | None = None
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    modes: Mapping[str, np.ndarray] = field(default_factory=dict)
    samples: np.ndarray | None = None
    mean: np.ndarray | None = None
    covariance: np.ndarray | None = None
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Experiment:
    """A named experiment: its parameters, its metrics, and how to run a stack of its cells.

    Args:
        version: raised when results change meaning; part of every cell's identity.
        params: the pydantic model that the sweep file's parameters are read with.
        metrics: what each record reports; ``objective`` names the one that training minimises,
            by which nuisance parameters are chosen.
        objective_of: parameters that say, with the target, what the objective is and among which models: those of
            which two cells must agree before one can be called better. Empty where no such ranking makes sense.
        used_with: parameters that mean something with one value of another alone: name -> (the other, its value).
            An axis of one is refused in a grid that never has that value.
        labels: text columns reported beside the metrics, name -> meaning.
        check: raises ValueError, with the reason and what would be allowed, for a combination of
            parameters and target that is undefined.
        batch_key: what two cells must share to be stacked: shapes and the sequence of operations.
        bytes_of_stack: peak working memory of a stack of so many cells, ``bytes_of_stack(params, target, cells,
            device)``: with what it is padded by, and so the same for one cell as for all that are padded to one size.
        seconds_per_cell: a rough estimate of one cell's share of a full stack, on one core.
        run_batch: runs a stack: ``run_batch(cells, device, checkpoints) -> outcomes``, in the order of the cells.
            A cell's outcome never depends on its batch-mates, nor on where its training was interrupted: bit for bit
            on CPU.
    """

    name: str
    version: int
    params: type[Params]
    metrics: tuple[Metric, ...]
    objective: str
    check: Callable[[Any, Target], None]
    batch_key: Callable[[Any, Target], Hashable]
    bytes_of_stack: Callable[[Any, Target, int, str], int]
    seconds_per_cell: Callable[[Any, Target], float]
    run_batch: RunBatch
    objective_of: tuple[str, ...] = ()
    used_with: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
