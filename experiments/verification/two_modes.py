"""Rows on two modes in one dimension: what each divergence keeps, and where seeking turns into covering.

P = (N(-m, 1) + N(m, 1)) / 2, and a heavy wide mode beside a light narrow one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial

from scipy.optimize import brentq

from experiments.truth import Divergence
from experiments.verification import independent
from experiments.verification.independent import Mix
from experiments.verification.machinery import center, fit, judged, labelled, nats, optima, optimum, reads, width
from experiments.verification.row import Row

UNEQUAL = Mix.line([0.8, 0.2], [-3, 3], [1, 0.5])
NATS, WIDTH = 0.01, 0.02
SIMPSON = "Simpson's rule and scipy.optimize"


def pair(m: float) -> Mix:
    """Two equal modes at -m and m."""
    return Mix.line([0.5, 0.5], [-m, m], [1, 1])


def rows() -> Iterator[Row]:
    """All rows of this module."""
    yield from _forward()
    yield from _reverse()
    yield from _thresholds()
    yield from _unequal()
    yield from _kept()


def _forward() -> Iterator[Row]:
    """Moment matching."""
    for m, value in {1: 0.009743, 2: 0.171999, 3: 0.461995, 4: 0.723553}.items():
        p, case = pair(m), f"two modes/+-{m}, forward"
        sd = math.sqrt(1 + m * m)
        asked = fit(p, divergence="forward_kl")
        yield Row(f"{case} sd", "fit", "sqrt(1 + m^2)", sd, width, WIDTH * sd, asked)
        yield Row(f"{case} mean", "fit", "symmetry", 0.0, center, WIDTH * sd, asked)
        yield Row(f"{case} KL", "fit", SIMPSON, value, reads("forward_kl"), NATS, asked)
        yield Row(f"{case} optimum", "optimum", SIMPSON, value, lambda p=p: nats(optimum(p, name="forward_kl")), 1e-6)


def nth(found: Callable[[], tuple[float, float, float]], i: int) -> float:
    """Mean, sd or value of an optimum that is found when it is asked for."""
    return found()[i]


def _reverse() -> Iterator[Row]:
    covering = {1: (1.39373, 0.010888), 2: (2.04701, 0.226508), 3: (2.74377, 0.840621), 4: (3.47272, 1.871197)}
    seeking = {3: (2.98431, 1.02337, 0.688769), 4: (3.99960, 1.00080, 0.693053)}
    for m, (sd, value) in covering.items():
        yield from _one_optimum(m, "covering", "wide", 0.0, sd, value)
    for m, known in seeking.items():
        yield from _one_optimum(m, "seeking:1", "mode:1", *known)


def _one_optimum(m: float, label: str, init: str, place: float, sd: float, value: float) -> Iterator[Row]:
    p, case = pair(m), f"two modes/+-{m}, reverse {label}"
    asked = fit(p, divergence="reverse_kl", init=init)
    find = partial(labelled, p, Divergence("reverse_kl"), label)
    yield Row(f"{case} sd", "fit", SIMPSON, sd, width, WIDTH * sd, asked)
    yield Row(f"{case} mean", "fit", SIMPSON, place, center, WIDTH * math.sqrt(1 + m * m), asked)
    yield Row(f"{case} KL", "fit", SIMPSON, value, reads("reverse_kl"), NATS, asked)
    yield Row(f"{case} optimum's sd", "optimum", SIMPSON, sd, lambda: math.sqrt(find().covariance[0][0]), 1e-5)
    yield Row(f"{case} optimum's mean", "optimum", SIMPSON, place, lambda: find().mean[0], 1e-5)
    yield Row(f"{case} optimum", "optimum", SIMPSON, value, lambda: nats(find()), 1e-6)


def advantage(p: Mix, divergence: Divergence) -> float:
    """How much better covering is than the best seeking optimum, in nats; infinite where none seeks."""
    values = {o.label.partition(":")[0]: nats(o) for o in reversed(optima(p, "gaussian_full", divergence))}
    return values.get("seeking", math.inf) - values.get("covering", math.inf)


def _thresholds() -> Iterator[Row]:
    """Seeking optima appear beyond the first separation and win beyond the second."""
    reverse = Divergence("reverse_kl")

    @cache
    def wins() -> float:
        return float(brentq(lambda m: advantage(pair(m), reverse), 2.6, 3.0, xtol=1e-7))

    def appears() -> float:
        return _bisect(lambda m: math.isfinite(advantage(pair(m), reverse)), 2.3, 2.6, 2e-5)

    where = "equal values of two optima, scipy's brentq"
    yield Row(
        "phase/seeking appears at m",
        "optimum",
        "gradient and Hessian vanish: scipy's fsolve",
        lambda: independent.fold((2.41, 2.15, 1.29))[0],
        appears,
        5e-5,
    )
    yield Row("phase/seeking wins at m", "optimum", where, 2.8001, wins, 1e-4)
    found: dict[str, tuple[float, Callable[[], float]]] = {
        "seeking mean": (2.7680, lambda: abs(labelled(pair(wins()), reverse, "seeking").mean[0])),
        "seeking sd": (1.0443, lambda: labelled(pair(wins()), reverse, "seeking").covariance[0][0] ** 0.5),
        "covering sd": (2.6015, lambda: labelled(pair(wins()), reverse, "covering").covariance[0][0] ** 0.5),
        "KL": (0.68427, lambda: nats(labelled(pair(wins()), reverse, "covering"))),
    }
    for name, (value, obtain) in found.items():
        yield Row(f"phase/{name} where seeking wins", "optimum", where, value, obtain, 1e-4)


def _bisect(holds: Callable[[float], bool], low: float, high: float, width: float) -> float:
    """Where a statement that is false at ``low`` becomes true."""
    while high - low > width:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return 0.5 * (low + high)


def _unequal() -> Iterator[Row]:
    """0.8 N(-3, 1) + 0.2 N(3, 0.25)."""
    p, case = UNEQUAL, "unequal modes"
    mean, covariance = p.moments()
    forward = fit(p, divergence="forward_kl")
    sd = math.sqrt(covariance[0, 0])
    yield Row(f"{case}/forward mean", "fit", "moments", float(mean[0]), center, WIDTH * sd, forward)
    yield Row(f"{case}/forward sd", "fit", "moments", sd, width, WIDTH * sd, forward)
    yield Row(
        f"{case}/forward optimum",
        "optimum",
        "ln sd + ln(2 pi e) / 2 - H(P), Simpson's rule",
        lambda: math.log(sd) + 0.5 * math.log(2 * math.pi * math.e) - independent.entropy(p),
        lambda: nats(optimum(p, name="forward_kl")),
        1e-8,
    )
    yield Row(
        f"{case}/reverse optima",
        "optimum",
        "one at each mode, none between: scipy from 9 starts",
        partial(_minima, p),
        lambda: float(len(optima(p, "gaussian_full", Divergence("reverse_kl")))),
        0.0,
    )
    starts = {"seeking:0": (-3.0, 1.0), "seeking:1": (3.0, 0.5)}
    for label, start in starts.items():
        known = cache(partial(independent.best_on_a_line, lambda q: independent.kl(q, p), [start]))
        init = label.replace("seeking", "mode")
        asked = fit(p, divergence="reverse_kl", init=init)
        find = partial(labelled, p, Divergence("reverse_kl"), label)
        for i, (what, tight, loose) in enumerate(
            (("mean", 1e-5, WIDTH * sd), ("sd", 1e-5, WIDTH * sd), ("KL", 1e-7, NATS))
        ):
            yield Row(
                f"{case}/reverse {label} optimum's {what}",
                "optimum",
                SIMPSON,
                partial(nth, known, i),
                lambda find=find, i=i: (find().mean[0], find().covariance[0][0] ** 0.5, nats(find()))[i],
                tight,
            )
            yield Row(
                f"{case}/reverse {label} {what}",
                "fit",
                SIMPSON,
                partial(nth, known, i),
                (center, width, reads("reverse_kl"))[i],
                loose,
                asked,
            )


def _minima(p: Mix) -> float:
    """How many places scipy's descents end at."""
    starts = [(mean, sd) for mean in (-3.0, 0.0, 3.0) for sd in (0.5, 1.5, 4.0)]
    ends = [independent.best_on_a_line(lambda q: independent.kl(q, p), [start])[:2] for start in starts]
    return float(len({(round(mean, 2), round(sd, 2)) for mean, sd in ends}))


def _kept() -> Iterator[Row]:
    """Coverage and sharpness of the optima, by cumulative distributions and scipy's root finder."""
    moment = independent.normal(*pair(4).moments())
    seeking = Mix.line([1], [3.99960], [1.00080])
    cases = {
        "+-4, forward": (pair(4), moment, 1.0, 0.497),
        "+-4, reverse": (pair(4), seeking, 0.5, 1.0),
    }
    for case, (p, q, coverage, sharpness) in cases.items():
        for name, value in (("coverage", coverage), ("sharpness", sharpness)):
            yield Row(
                f"kept/{case}/{name}",
                "metric",
                "to the printed digits",
                value,
                lambda p=p, q=q, name=name: judged(p, q)[name],
                5e-4,
            )
            exact = getattr(independent, name)
            yield Row(
                f"kept/{case}/{name}, all digits",
                "metric",
                "scipy.stats.norm.cdf between roots of the density's level",
                partial(exact, p, q),
                lambda p=p, q=q, name=name: judged(p, q)[name],
                1e-8,
            )
    forward, reverse = independent.normal(*pair(3).moments()), Mix.line([1], [2.98431], [1.02337])
    for case, q in (("+-3, seeking", reverse), ("+-3, moments", forward)):
        for direction, one, other in (("forward", pair(3), q), ("reverse", q, pair(3))):
            yield Row(
                f"kept/{case}/{direction} coverage nats",
                "metric",
                "scipy.stats.norm.cdf at 0",
                partial(independent.between_nats, one, other, [0.0]),
                lambda q=q, d=direction: judged(pair(3), q)[f"{d}_coverage_nats"],
                1e-8,
            )
            yield Row(
                f"kept/{case}/{direction} shape nats",
                "metric",
                "the rest of the KL, Simpson's rule",
                partial(_shape, one, other),
                lambda q=q, d=direction: judged(pair(3), q)[f"{d}_shape_nats"],
                1e-8,
            )


def _shape(a: Mix, b: Mix) -> float:
    """What of KL(a || b) is within the two halves of the line."""
    return independent.kl(a, b) - independent.between_nats(a, b, [0.0])
