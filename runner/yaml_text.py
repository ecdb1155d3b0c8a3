"""YAML as a sweep file uses it: safe, numbers as people write them, no key twice, places with their lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import yaml

from runner.errors import SweepError

Path = tuple[str | int, ...]
"""Where a value stands in a file: ``("grids", 1, "axes", "rate")`` is shown as ``grids[1].axes.rate``."""


LARGEST = 1_000_000  # a few nested aliases can stand for billions of values


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's scalars: ``1e-3`` is a number; ``yes``, ``off`` and dates are text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (how PyYAML is extended)


_NUMBER = "-+.0123456789"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*", list(_NUMBER)),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list(_NUMBER)),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if key.value in seen:
                problem = f"'{key.value}' is given twice, first on line {seen[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen[key.value] = line
    loader.flatten_mapping(node)
    # deep: built at once, which also makes the loader refuse an alias that contains itself.
    build = partial(loader.construct_object, deep=True)
    return {build(key): build(value) for key, value in node.value}


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # YAML 1.1 would read 010 as eight


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either this loader or a YAML 1.1 reader would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    # PyYAML folds these rare line breaks into spaces unless they are escaped.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _initial in set(yaml.SafeDumper.yaml_implicit_resolvers) | set(_Loader.yaml_implicit_resolvers):
    _Dumper.yaml_implicit_resolvers[_initial] = [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(_initial, []),
        *_Loader.yaml_implicit_resolvers.get(_initial, []),
    ]


def parse(text: str, label: str) -> tuple[Any, dict[Path, int]]:
    """The value that the text holds, and for each place in it the line, counted from 1.

    Raises:
        SweepError: the text is not YAML, with line and column; a key is given twice.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
        lines: dict[Path, int] = {}
        if node is not None:
            _lines(node, (), lines)
        return value, lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SweepError(f"{label}{where}: {error.problem or error.context}. Nothing was started.") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SweepError(f"{label} is not readable as YAML: {reason}. Nothing was started.") from None


def _lines(node: yaml.Node, path: Path, lines: dict[Path, int]) -> None:
    if len(lines) > LARGEST:
        raise ValueError(f"it holds more than {LARGEST:,} values, its aliases written out")
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            lines[(*path, name)] = key.start_mark.line + 1
            _lines(value, (*path, name), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _lines(item, (*path, index), lines)


def dump(value: Mapping[str, Any]) -> str:
    """YAML text that `parse` reads back equal; keys in the given order, tuples as lists."""
    text: str = yaml.dump(
        _plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def show_path(path: Path) -> str:
    """``grids[1].axes.rate`` for ``("grids", 1, "axes", "rate")``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
