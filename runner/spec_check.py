"""A grid's names and values against the experiments and targets there are; every problem with its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from runner.canonical import OPERATIONAL, canonical
from runner.experiment import Catalogue, Experiment, Target
from runner.grid import Grid, GridFile
from runner.problems import SEEDS, SEEDS_AT_TOP, Problem, explain, show_value, unknown
from runner.yaml_text import Path as Place
from runner.yaml_text import show_path

TARGET_NAME = r"[A-Za-z0-9_.-]{1,64}"
LIST_TARGETS, LIST_EXPERIMENTS = "modesweep list targets", "modesweep list experiments"


def define_targets(
    definitions: object, catalogue: Catalogue, folder: Path, problems: list[Problem]
) -> dict[str, Target | None]:
    """The file's own targets by name; one that cannot be built is None, and `problems` says why."""
    defined: dict[str, Target | None] = {}
    for name, definition in definitions.items() if isinstance(definitions, Mapping) else ():
        place, name = ("targets", name), str(name)
        defined[name] = None
        if not re.fullmatch(TARGET_NAME, name):
            text = f"a target's name is made of a to z, A to Z, digits, _ . and -, got '{name}'"
            problems.append(Problem(place, text))
        elif name in catalogue.target_names:
            text = f"'{name}' is the name of a shipped target: choose another"
            problems.append(Problem(place, text, LIST_TARGETS))
        elif not isinstance(definition, Mapping):
            problems.append(Problem(place, f"expected a mapping, got {show_value(definition)}"))
        else:
            try:
                defined[name] = catalogue.define(name, definition, folder)
            except ValueError as error:
                problems.append(Problem(place, str(error)))
    return defined


def check_grid(
    grid: GridFile, place: Place, catalogue: Catalogue, targets: Collection[str], *, whole: bool = True
) -> list[Problem]:
    """Everything wrong with the names and values of one grid; `whole`: no part of it was left out."""
    experiment = catalogue.experiments.get(grid.experiment)
    if experiment is None:
        text = unknown(grid.experiment, "an experiment", catalogue.experiments, "Experiments")
        return [Problem((*place, "experiment"), text, LIST_EXPERIMENTS)]
    problems: list[Problem] = []
    given: dict[str, str] = {}
    for section, names in (("axes", grid.axes), ("nuisance", grid.nuisance), ("fixed", grid.fixed)):
        for name in names:
            if name in given:
                text = f"'{name}' is given in {given[name]} too: one of axes, nuisance and fixed is its place"
                problems.append(Problem((*place, section, name), text))
            given.setdefault(name, section)
    if "target" in grid.nuisance:
        text = "'target' is never optimised away, as fits of different targets do not compare: give it in axes"
        problems.append(Problem((*place, "nuisance", "target"), text))
    for section, lists in (("axes", grid.axes), ("nuisance", grid.nuisance)):
        for name, values in lists.items():
            problems += _check_values(experiment, name, values, (*place, section, name), targets)
    singles = [(("fixed",), grid.fixed), *((("cases", i), case) for i, case in enumerate(grid.cases))]
    for where, values_by_name in singles:
        for name, value in values_by_name.items():
            problems += _check_value(experiment, name, value, (*place, *where, name), targets)
    zipped = [case for case in grid.cases if not given.keys() & case.keys()]
    for name, info in experiment.params.model_fields.items():
        named = name in given or (zipped and all(name in case for case in zipped))
        if whole and info.is_required() and not named:
            problems.append(Problem(place, f"'{name}' is missing: give it in axes or fixed"))
    return problems


def check_roles(grids: Mapping[Place, GridFile]) -> list[Problem]:
    """Parameters that one grid varies and another has as nuisance: the summary would optimise both away."""
    nuisance = {(grid.experiment, name): place for place, grid in grids.items() for name in grid.nuisance}
    problems: list[Problem] = []
    for place, grid in grids.items():
        varied: list[Place] = [("axes", name) for name in grid.axes]
        varied += [("cases", i, name) for i, case in enumerate(grid.cases) for name in case]
        for where in varied:
            name = str(where[-1])
            other = nuisance.get((grid.experiment, name))
            if other is not None and name not in grid.nuisance:
                text = (
                    f"'{name}' varies here and is nuisance in {show_path(other)}: "
                    f"in one sweep it is nuisance in all grids of {grid.experiment} that vary it, or in none"
                )
                problems.append(Problem((*place, *where), text))
    return problems


def check_override(
    name: str, values: Sequence[Any], used: Iterable[str], catalogue: Catalogue, targets: Collection[str]
) -> list[Problem]:
    """Everything wrong with the values that one option gives to a parameter of the experiments in use."""
    place: Place = (f"--set {name}",)
    experiments = [catalogue.experiments[key] for key in sorted(used) if key in catalogue.experiments]
    owners = [experiment for experiment in experiments if name in experiment.params.model_fields]
    if experiments and not owners:
        names = sorted({field for experiment in experiments for field in experiment.params.model_fields})
        return [_unknown_parameter(name, "this sweep", names, place)]
    if not values:
        return [Problem(place, "needs at least one value")]
    return [p for experiment in owners for p in _check_values(experiment, name, values, place, targets)]


def check_use(grid: Grid, experiment: Experiment) -> list[Problem]:
    """Axes whose parameter no cell of the grid uses: their cells would differ in nothing but their ids."""
    problems = []
    for name, (other, value) in experiment.used_with.items():
        others = grid.values(other) or [experiment.params.model_fields[other].default]
        if len(grid.values(name)) > 1 and value not in others:
            shown = ", ".join(map(show_value, others))
            text = f"only {other} {show_value(value)} uses it, and here is {shown}: its values would give equal cells"
            problems.append(Problem((grid.place, name), text))
    return problems


def _check_values(
    experiment: Experiment, name: str, values: Sequence[Any], place: Place, targets: Collection[str]
) -> list[Problem]:
    if name not in experiment.params.model_fields:
        return _check_value(experiment, name, None, place, targets)
    reads = [_read(experiment, name, value) for value in values]
    if values and all(_wants_a_list(name, read) for read in reads):
        text = f"each value of `{name}` is a list itself: write [{show_value(values)}]"
        return [Problem(place, text)]
    problems: list[Problem] = []
    seen: set[str] = set()
    for index, (value, read) in enumerate(zip(values, reads, strict=True)):
        problems += _check_read(name, value, read, (*place, index), targets)
        key = _key(read)
        if key in seen:
            problems.append(Problem((*place, index), f"{show_value(value)} is given twice"))
        seen.add(key)
    return problems


def _wants_a_list(name: str, read: Any) -> bool:
    """Whether a value was refused for not being a list."""
    errors = read.errors() if isinstance(read, ValidationError) else []
    return any(error["loc"] == (name,) and error["type"] in ("tuple_type", "list_type") for error in errors)


def _check_value(
    experiment: Experiment, name: str, value: Any, place: Place, targets: Collection[str]
) -> list[Problem]:
    if name not in experiment.params.model_fields:
        return [_unknown_parameter(name, experiment.name, list(experiment.params.model_fields), place)]
    return _check_read(name, value, _read(experiment, name, value), place, targets)


def _check_read(name: str, value: Any, read: Any, place: Place, targets: Collection[str]) -> list[Problem]:
    """What is wrong with a value, given what the parameter's type made of it."""
    if isinstance(read, ValidationError):
        errors = [error for error in read.errors() if error["loc"][:1] == (name,)]
        return [Problem(place, explain(error)) for error in errors]
    if name == "target" and value not in targets:
        return [Problem(place, unknown(value, "a target", targets, "Targets"), LIST_TARGETS)]
    for kind in (bool, str):  # pydantic would take true for 1, and the text '10' for 10
        if isinstance(value, kind) != isinstance(read, kind):
            example = show_value(read)
            return [Problem(place, f"expected a value such as {example}, got {show_value(value)}")]
    return []


def _read(experiment: Experiment, name: str, value: Any) -> Any:
    """The value as the parameter's type reads it, or the ValidationError that refuses it."""
    try:
        return getattr(experiment.params.model_validate({"target": "", name: value}), name)
    except ValidationError as error:
        # Errors elsewhere concern parameters that this call left out.
        return error if any(item["loc"][:1] == (name,) for item in error.errors()) else value


def _key(value: Any) -> str:
    try:
        return canonical(value)
    except (TypeError, ValueError):
        return repr(value)


def _unknown_parameter(name: str, owner: str, allowed: Collection[str], place: Place) -> Problem:
    if name in SEEDS:
        return Problem(place, SEEDS_AT_TOP)
    if name in OPERATIONAL:
        text = f"'{name}' says how a sweep runs and is not a parameter of it"
        return Problem(place, text, "modesweep run --help")
    return Problem(place, unknown(name, f"a parameter of {owner}", allowed, "Parameters"), LIST_EXPERIMENTS)
