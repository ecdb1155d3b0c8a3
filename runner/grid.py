"""A grid: the cells of one experiment, as a product of values, and the cases that the product does not reach.

A grid is the product of its ``axes``, its ``nuisance`` parameters and the seeds; ``fixed`` holds for all.
Each of its ``cases`` gives several parameters at once, and what they set says what is meant:

- only parameters that the grid gives nowhere else: the case is one value of a zipped axis. All such cases
  together multiply the product: two of them make twice as many cells, and none runs without a case.
- a parameter that the grid gives already (in axes, nuisance or fixed): the case adds to the product. It is
  the same grid again, with the case's values in the place of the grid's own.

So nothing that a file writes is without effect. A cell that is described twice runs once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from runner.experiment import Experiment

Values = Annotated[list[Any], Field(min_length=1)]


@dataclass(frozen=True)
class Resources:
    """What one batch occupies: CPU cores and (fractions of) GPUs, in Ray's sense."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    cpu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    gpu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class GridFile(BaseModel):
    """A grid as the file writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    axes: dict[str, Values] = {}
    fixed: dict[str, Any] = {}
    nuisance: dict[str, Values] = {}
    cases: list[Annotated[dict[str, Any], Field(min_length=1)]] = []
    resources: Resources = Resources()

    @field_validator("resources")
    @classmethod
    def _whole_gpus(cls, value: Resources) -> Resources:
        if value.gpu > 1 and not value.gpu.is_integer():
            raise ValueError(f"gpu is a fraction below 1 or a whole number, got {value.gpu:g}")
        return value


@dataclass(frozen=True)
class Grid:
    """A plain product of values, its cases resolved: what its cells take their parameters from."""

    experiment: str
    axes: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    nuisance: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    resources: Resources = Resources()
    place: str = field(default="", compare=False)

    @property
    def size(self) -> int:
        """The number of its configurations, equal ones counted again."""
        return math.prod(len(values) for values in (*self.axes.values(), *self.nuisance.values()))

    def values(self, name: str) -> Sequence[Any]:
        """The values that a parameter takes in this grid; none if it keeps its default."""
        return self.axes.get(name) or self.nuisance.get(name) or [self.fixed[name]] if name in self else []

    def __contains__(self, name: object) -> bool:
        return name in self.axes or name in self.nuisance or name in self.fixed


def resolve_cases(file: GridFile, place: str) -> list[Grid]:
    """The products that a grid and its cases stand for; the module's docstring has the rule."""
    plain = Grid(file.experiment, file.axes, file.fixed, file.nuisance, file.resources, place)
    zipped: list[Grid] = []
    added: list[Grid] = []
    for index, case in enumerate(file.cases):
        grid = replace(plain, place=f"{place}.cases[{index}]")
        for name, value in case.items():
            grid = with_values(grid, name, [value])
        (added if any(name in plain for name in case) else zipped).append(grid)
    return [*(zipped or [plain]), *added]


def with_values(grid: Grid, name: str, values: Sequence[Any], nuisance: bool = False) -> Grid:
    """The grid with these values of one parameter; several values of a nuisance parameter leave it one.

    Args:
        nuisance: several values make it one, for it is one in other grids of the experiment.
    """
    if len(values) == 1:
        drop = {key: v for key, v in grid.axes.items() if key != name}
        rest = {key: v for key, v in grid.nuisance.items() if key != name}
        return replace(grid, axes=drop, nuisance=rest, fixed={**grid.fixed, name: values[0]})
    fixed = {key: v for key, v in grid.fixed.items() if key != name}
    if nuisance or name in grid.nuisance:
        return replace(grid, nuisance={**grid.nuisance, name: values}, fixed=fixed)
    return replace(grid, axes={**grid.axes, name: values}, fixed=fixed)


def override(
    grids: Sequence[Grid], name: str, values: Sequence[Any], experiments: Mapping[str, Experiment]
) -> list[Grid]:
    """The grids with other values of one parameter, where their experiment has it."""
    nuisance = {grid.experiment for grid in grids if name in grid.nuisance}
    changed: list[Grid] = []
    for grid in grids:
        experiment = experiments.get(grid.experiment)
        if experiment is not None and name in experiment.params.model_fields:
            grid = with_values(grid, name, values, grid.experiment in nuisance)
        if grid not in changed:  # a case may have differed from its grid in this parameter alone
            changed.append(grid)
    return changed
