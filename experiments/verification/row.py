"""One line of the table: a number that is known, and the number that the package itself comes to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.experiment import Outcome
from experiments.verification.estimate import Estimate, Number
from experiments.verification.machinery import Asked, run

SIGMAS = 4.0  # standard errors that a Monte-Carlo number may be off, beside the tolerance


@dataclass(frozen=True)
class Row:
    """A number, where it is known from, and how the package obtains it.

    Args:
        name: ``topic/case/quantity``.
        how: what obtains it: ``closed form``, ``optimum`` (the certificate's), ``fit``, ``metric``, ``gradient``.
        source: where the reference is from: a formula, or the mathematics that computes it.
        reference: the number, or a function without arguments that computes it by code of its own.
        obtain: computes the number by the code that sweeps run; called with the outcomes of ``asked``.
        tolerance: largest difference that passes, in the number's own unit; Monte-Carlo errors come on top of it.
        asked: the cells that the number is read from, if any; those of many rows are run as stacks.
        slow: whether a quick check leaves the row out.
    """

    name: str
    how: str
    source: str
    reference: Number | Callable[[], Number]
    obtain: Callable[..., Number]
    tolerance: float
    asked: Asked | None = None
    slow: bool = False

    @property
    def topic(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Result:
    """A row that was computed.

    Args:
        error: standard error of the difference; 0 where nothing is drawn.
        allowed: tolerance plus four standard errors.
        reason: why a number could not be obtained, else empty.
    """

    name: str
    topic: str
    how: str
    source: str
    obtained: float
    reference: float
    difference: float
    error: float
    tolerance: float
    allowed: float
    passed: bool
    reason: str
    seconds: float


def verify(rows: Sequence[Row], progress: Callable[[str], None] = lambda done: None) -> list[Result]:
    """Compute both numbers of each row and compare them, in order; an exception is a row that fails.

    Args:
        progress: called with what has just been done.
    """
    outcomes = run([row.asked for row in rows if row.asked is not None], progress)
    results = []
    for row in rows:
        results.append(_check(row, outcomes))
        progress(row.name)
    return results


def _check(row: Row, outcomes: Mapping[Asked, tuple[Outcome, ...] | Exception]) -> Result:
    began = time.perf_counter()
    reason = ""
    obtained = reference = Estimate(math.nan)
    try:
        reference = _estimate(row.reference() if callable(row.reference) else row.reference)
        found = () if row.asked is None else outcomes[row.asked]
        if isinstance(found, Exception):
            raise found
        obtained = _estimate(row.obtain(*found))
    except Exception as raised:  # one broken row must not hide the others
        reason = f"{type(raised).__name__}: {raised}"
    difference = 0.0 if obtained.value == reference.value else obtained.value - reference.value
    error = math.hypot(obtained.error, reference.error)
    allowed = row.tolerance + SIGMAS * error
    return Result(
        name=row.name,
        topic=row.topic,
        how=row.how,
        source=row.source,
        obtained=obtained.value,
        reference=reference.value,
        difference=difference,
        error=error,
        tolerance=row.tolerance,
        allowed=allowed,
        passed=abs(difference) <= allowed,  # a NaN is no match
        reason=reason,
        seconds=time.perf_counter() - began,
    )


def _estimate(number: Number) -> Estimate:
    return number if isinstance(number, Estimate) else Estimate(float(number))
