"""What is wrong with a sweep file, for a person to mend: the place, what is allowed, the nearest match."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from runner.errors import SweepError
from runner.yaml_text import Path, show_path

M = TypeVar("M", bound=BaseModel)

SHOWN = 8  # problems on one screen
SEEDS = ("seed", "seeds")
SEEDS_AT_TOP = "seeds are given once for the whole sweep: 'seeds' at the top, or --seeds"

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "dataclass": "a mapping",
}


@dataclass(frozen=True)
class Problem:
    """One thing to mend: where, what, and the command that shows what would be allowed."""

    path: Path
    text: str
    command: str | None = None


def refuse(label: str, problems: Iterable[Problem], lines: Mapping[Path, int] | None = None) -> SweepError:
    """The one error that lists all problems of a sweep file in the order of its lines, one for each place."""
    lines = lines or {}
    first: dict[Path, Problem] = {}
    for problem in problems:
        first.setdefault(problem.path, problem)
    found = sorted(first.values(), key=lambda problem: _line(problem.path, lines) or 0)
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    text = [f"{label} cannot be used: {count}. Nothing was started."]
    for problem in found[:SHOWN]:
        line = _line(problem.path, lines)
        place = ", ".join(part for part in (f"line {line}" if line else "", show_path(problem.path)) if part)
        text.append(f"  {place}: {problem.text}" if place else f"  {problem.text}")
    if len(found) > SHOWN:
        text.append(f"  ... and {len(found) - SHOWN} more.")
    commands = dict.fromkeys(problem.command for problem in found if problem.command)
    if commands:
        text.append("See what is allowed: " + ", ".join(commands))
    return SweepError("\n".join(text))


def _line(path: Path, lines: Mapping[Path, int]) -> int | None:
    """The line of the place, or of the nearest place around it that the file writes down."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


def unknown(name: object, kind: str, allowed: Collection[str], plural: str) -> str:
    """``'divergance' is not a parameter of kl_fit. Did you mean 'divergence'? Parameters: ...``"""
    near = difflib.get_close_matches(str(name).lower(), allowed, n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    shown = list(allowed)[:40]
    more = f" and {len(allowed) - len(shown)} more" if len(allowed) > len(shown) else ""
    return f"'{name}' is not {kind}.{guess} {plural}: {', '.join(shown)}{more}."


def show_value(value: object) -> str:
    """A value as the sweep file writes it, cut to a few words."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def explain(error: Mapping[str, Any]) -> str:
    """One pydantic error in plain words: what was expected and what was found."""
    kind, context, got = error["type"], error.get("ctx") or {}, error.get("input")
    found = f", got {show_value(got)}" if got is not None else ""
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return unknown(got, "allowed here", allowed, "Allowed")
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}{found}"
    if kind == "too_short":
        return "is empty: it needs at least one value"
    expected = _EXPECTED.get(kind.split("_")[0])
    if expected and not kind.startswith(("string_too", "finite_length")):
        return f"expected {expected}{found or ', got nothing'}{_hint(expected, got)}"
    return str(error["msg"]).replace("Input should be", "must be") + found


def _hint(expected: str, got: object) -> str:
    if isinstance(got, list) and expected != "a list":
        return "; several values belong under axes"
    if expected == "a list" and isinstance(got, int | float | str):
        return f": write [{show_value(got)}]"
    return ""


def validated(model: type[M], raw: object, path: Path, problems: list[Problem], kind: str) -> M | None:
    """The model read from ``raw``; what is wrong goes to ``problems``, and the rest is read without it.

    None if what is left is no such model. So one wrong value does not hide the next.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        errors = error.errors()
    for item in errors:
        loc = tuple(part for part in item["loc"] if part != "[key]")
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            keys = _keys(model, loc)
            where = kind if len(loc) == 1 else f"'{loc[-2]}'"
            said = SEEDS_AT_TOP if path and loc[0] in SEEDS else unknown(loc[-1], f"a key of {where}", keys, "Keys")
            problems.append(Problem((*path, *loc), said))
        else:
            problems.append(Problem((*path, *loc), explain(item)))
    rest = _without(raw, [item["loc"][:2] for item in errors])
    return None if rest == raw else validated(model, rest, path, problems, kind)


def _keys(model: type[BaseModel], loc: Path) -> Collection[str]:
    """The keys allowed where an unknown one stood."""
    inner = model.model_fields[str(loc[0])].default if len(loc) > 1 else None
    return model.model_fields if inner is None else vars(inner)


def _without(raw: object, places: Iterable[Path]) -> object:
    """A copy of nested mappings without the values at these places."""
    if not isinstance(raw, Mapping):
        return raw
    places = [place for place in places if place]
    kept = {key: value for key, value in raw.items() if (key,) not in places}
    inner = {key: [place[1:] for place in places if place[0] == key and len(place) > 1] for key in kept}
    return {key: _without(value, inner[key]) if inner[key] else value for key, value in kept.items()}
