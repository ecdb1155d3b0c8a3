"""A cell's identity: the hash of what defines it, and of nothing else.

Two cells are the same cell when their canonical JSON is the same text: keys sorted, no spaces, numbers by
value (``1``, ``1.0`` and ``1e0`` are one number, ``-0.0`` is ``0``, other floats are the shortest text that
reads back equal), tuples as lists, text as it is in UTF-8. This is a contract: finished cells are found by
these ids, so a change here orphans every result computed before it. The tests hold ids that must not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from json.encoder import encode_basestring as _text
from typing import Any

OPERATIONAL = frozenset(
    {
        *("executor", "address", "workers", "cells_per_batch", "memory"),
        *("max_cells", "retry_failed", "fail_fast"),
        *("resources", "cpu", "gpu", "device", "threads"),
        *("results", "tracking_uri", "mlflow", "no_samples", "json"),
    }
)
"""Settings that say how or where a sweep runs: never parameters of a cell, never part of its identity."""


def canonical(value: Any) -> str:
    """Canonical JSON of plain values: dicts, lists, tuples, text, numbers, booleans and None.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value is of another kind, or a key is not text.
    """
    writer = _WRITERS.get(type(value))
    if writer is None:
        raise TypeError(f"{type(value).__name__} has no canonical form")
    return writer(value)


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} has no canonical form: a parameter is a finite number")
    return repr(int(value)) if value.is_integer() else repr(value)


def _list(values: Sequence[Any]) -> str:
    return "[" + ",".join([canonical(value) for value in values]) + "]"


def _dict(values: Mapping[str, Any]) -> str:
    return "{" + ",".join([f"{_text(key)}:{canonical(values[key])}" for key in sorted(values)]) + "}"


_WRITERS: dict[type, Callable[[Any], str]] = {
    str: _text,
    float: _float,
    int: repr,
    bool: lambda value: "true" if value else "false",
    type(None): lambda value: "null",
    list: _list,
    tuple: _list,
    dict: _dict,
}


def digest(text: str) -> str:
    """16 hexadecimal characters of BLAKE2b: among a million cells two collide with probability 3e-8."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def configuration_text(experiment: str, version: int, params: Mapping[str, Any], target_digest: str) -> str:
    """What all seeds of a configuration share, as canonical JSON; ``params`` has every default filled in."""
    whole = {"experiment": experiment, "params": params, "target": target_digest, "version": version}
    return canonical(whole)


def cell_id(configuration: str, seed: int) -> str:
    """The id of one cell of the configuration with that text; the configuration's own id is its `digest`."""
    # The object's closing brace gives way to one more key. "seed" stands last, out of order, so that the
    # text before it, by far the longest part, is built once for all seeds.
    return digest(f'{configuration[:-1]},"seed":{seed:d}}}')
