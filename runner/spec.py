"""The sweep file: a question and its grids, read strictly.

Everything that is wrong is found before anything starts, and said at once.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from runner import yaml_text
from runner.errors import SweepError
from runner.experiment import Catalogue, Target
from runner.grid import Grid, GridFile, Resources, Values, override, resolve_cases
from runner.problems import Problem, refuse, show_value, validated
from runner.spec_check import check_grid, check_override, check_roles, check_use, define_targets

NAME = r"^[a-z0-9_-]{1,64}$"
SHIPPED = "Start from one of: modesweep list sweeps"


class SweepFile(BaseModel):
    """A sweep file's top level; its seeds, grids and targets are read on their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=NAME)]
    question: str = ""
    grids: Values
    seeds: Any = 1
    targets: dict[str, Any] = {}


@dataclass(frozen=True)
class Sweep:
    """A sweep that can run: names known, values valid, targets loaded.

    Args:
        grids: products; each case of the file has become a grid of its own.
        seeds: every configuration runs once with each.
        targets: those that the grids name, by name.
        definitions: the file's own ``targets``, as it writes them; relative paths start at ``folder``.
        source: what messages call the file.
    """

    name: str
    question: str
    grids: tuple[Grid, ...]
    seeds: Sequence[int]
    targets: Mapping[str, Target]
    definitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    folder: Path = Path()
    source: str = "the sweep"

    @property
    def size(self) -> int:
        """The number of cells, cells that are described twice counted twice."""
        return sum(grid.size for grid in self.grids) * len(self.seeds)

    @property
    def nuisance(self) -> dict[str, tuple[str, ...]]:
        """For each experiment, the parameters that the summary optimises away."""
        names: dict[str, dict[str, None]] = {grid.experiment: {} for grid in self.grids}
        for grid in self.grids:
            names[grid.experiment].update(dict.fromkeys(grid.nuisance))
        return {experiment: tuple(found) for experiment, found in names.items()}

    def to_yaml(self) -> str:
        """A sweep file that describes the same cells from any folder; its cases are written as grids."""
        seeds = len(self.seeds) if self.seeds == range(len(self.seeds)) else list(self.seeds)
        whole = {
            "name": self.name,
            "question": self.question,
            "grids": [_grid_yaml(grid) for grid in self.grids],
            "seeds": seeds,
            "targets": {name: self._absolute(value) for name, value in self.definitions.items()},
        }
        return yaml_text.dump({key: value for key, value in whole.items() if value not in ("", {})})

    def _absolute(self, definition: Mapping[str, Any]) -> Mapping[str, Any]:
        # Results keep this text in a folder of their own, from where a relative path would lead nowhere.
        file = definition.get("file")
        if not isinstance(file, str):
            return definition
        return {**definition, "file": str((self.folder / Path(file).expanduser()).resolve())}


def load_sweep(
    source: Path | str | Mapping[str, Any],
    catalogue: Catalogue,
    overrides: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | Sequence[int] | None = None,
) -> Sweep:
    """Read a sweep and check it against the experiments and targets there are.

    Args:
        catalogue: the experiments and targets that the file may name.
        source: a path, the text itself (known by its line breaks), or the mapping that a file would hold.
        overrides: parameter -> values in the place of the file's, in every grid whose experiment has it.
        seeds: takes the place of the file's.

    Raises:
        SweepError: lists everything that is wrong: the place, what is allowed, the nearest match.
    """
    text, label, folder = _read(source)
    raw, lines = yaml_text.parse(text, label)
    if raw is None or raw == {}:
        raise SweepError(f"{label} is empty: a sweep has a name and grids. {SHIPPED}")
    if not isinstance(raw, Mapping):
        raise SweepError(f"{label}: expected a mapping with name and grids, got {show_value(raw)}. {SHIPPED}")
    problems: list[Problem] = []
    head = validated(SweepFile, raw, (), problems, "a sweep file")
    defined = define_targets(raw.get("targets"), catalogue, folder, problems)
    target_names = tuple(dict.fromkeys((*catalogue.target_names, *defined)))
    files: dict[yaml_text.Path, GridFile] = {}
    grids: list[Grid] = []
    for index, item in enumerate(raw["grids"] if isinstance(raw.get("grids"), list) else []):
        path, before = ("grids", index), len(problems)
        grid = validated(GridFile, item, path, problems, "a grid")
        if grid is not None:
            whole = len(problems) == before
            problems += check_grid(grid, path, catalogue, target_names, whole=whole)
            grids += resolve_cases(grid, f"grids[{index}]")
            files[path] = grid
    problems += check_roles(files)
    for name, values in (overrides or {}).items():
        problems += check_override(name, values, {grid.experiment for grid in grids}, catalogue, target_names)
        grids = override(grids, name, values, catalogue.experiments)
    for found in grids:
        if found.experiment in catalogue.experiments:
            problems += check_use(found, catalogue.experiments[found.experiment])
    chosen: Sequence[int] = ()
    try:
        chosen = read_seeds(raw.get("seeds", 1) if seeds is None else seeds)
    except ValueError as error:
        problems.append(Problem(("seeds" if seeds is None else "--seeds",), str(error)))
    if problems or head is None:
        raise refuse(label, problems, lines)
    names = dict.fromkeys(name for grid in grids for name in grid.values("target"))
    targets = {name: defined.get(name) or catalogue.target(name) for name in names}
    return Sweep(head.name, head.question, tuple(grids), chosen, targets, head.targets, folder, label)


def read_seeds(value: Any) -> Sequence[int]:
    """``4`` means 0, 1, 2, 3; a list is taken as it is. ValueError says what is allowed."""
    if isinstance(value, range):
        return value
    if hasattr(value, "tolist"):  # an array, or a number out of one
        value = value.tolist()
    many = isinstance(value, Sequence) and not isinstance(value, str)
    numbers = [n for n in map(whole, value if many else [value]) if n is not None]
    if not numbers or (many and len(numbers) < len(value)):
        raise ValueError("expected how many, such as 4, or a list of whole numbers, such as [0, 1, 2]")
    if not many:
        if not 1 <= numbers[0] < 2**63:
            raise ValueError(f"expected at least 1 seed, got {value}")
        return range(numbers[0])
    if not all(0 <= n < 2**63 for n in numbers):
        raise ValueError("a seed lies between 0 and 2**63 - 1")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"seed {max(numbers, key=numbers.count)} is given twice")
    return tuple(numbers)


def whole(value: Any) -> int | None:
    """A whole number of any library as Python's own; None if it is none, as truth values are not."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def parse_overrides(texts: Sequence[str]) -> dict[str, list[Any]]:
    """``--set`` options as a mapping from parameter to values.

    ``steps=100``, ``divergence=forward_kl,reverse_kl``; a value that is itself a list stands in a list of
    values: ``hidden=[[64, 64], [32]]``.
    """
    overrides: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip()
        if not equals or not name or not values.strip():
            raise SweepError(f"--set {text}: expected PARAMETER=VALUE[,VALUE...], as in --set steps=500,1000")
        if name in overrides:
            raise SweepError(f"--set {name} is given twice: write its values in one, as in --set {name}=1,2")
        parsed, _ = yaml_text.parse(f"[{values}]", f"--set {text}")
        overrides[name] = parsed[0] if len(parsed) == 1 and isinstance(parsed[0], list) else parsed
    return overrides


def _read(source: Path | str | Mapping[str, Any]) -> tuple[str, str, Path]:
    """Text, what messages call it, and the folder that its paths are relative to."""
    if isinstance(source, Mapping):
        try:
            return yaml_text.dump(source), "the sweep", Path()
        except yaml.YAMLError as error:
            reason = str(error).splitlines()[0]
            raise SweepError(f"the sweep holds a value that YAML cannot: {reason}") from None
    if isinstance(source, str) and "\n" in source:
        return source, "the sweep", Path()
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8"), str(path), path.parent
    except FileNotFoundError:
        raise SweepError(f"{path}: no such sweep file. {SHIPPED}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error.strerror) if isinstance(error, OSError) else "it is not text in UTF-8"
        raise SweepError(f"{path} cannot be read as a sweep file: {reason}.") from None


def _grid_yaml(grid: Grid) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "experiment": grid.experiment,
        "axes": grid.axes,
        "fixed": grid.fixed,
        "nuisance": grid.nuisance,
        "resources": {} if grid.resources == Resources() else vars(grid.resources),
    }
    return {key: value for key, value in whole.items() if value}
