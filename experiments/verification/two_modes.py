"""Rows on two modes in one dimension: what each divergence keeps, and where seeking turns into covering.

P = (N(-m, 1) + N(m, 1)) / 2, and a heavy wide mode beside a light narrow one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from scipy.optimize import brentq

from experiments.truth import Divergence, Optimum
from experiments.verification import independent
from experiments.verification.independent import Mix
from experiments.verification.machinery import fit, judged, optima, optimum
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
    yield from _alpha()
    yield from _others()
    yield from _unequal()
    yield from _kept()


def _forward() -> Iterator[Row]:
    """Moment matching."""
    for m, value in {1: 0.009743, 2: 0.171999, 3: 0.461995, 4: 0.723553}.items():
        p, case = pair(m), f"two modes/+-{m}, forward"
        sd = math.sqrt(1 + m * m)
        asked = fit(p, divergence="forward_kl")
        yield Row(f"{case} sd", "fit", "sqrt(1 + m^2)", sd, _sd, WIDTH * sd, asked)
        yield Row(f"{case} mean", "fit", "symmetry", 0.0, _mean, WIDTH * sd, asked)
        yield Row(f"{case} KL", "fit", SIMPSON, value, _of("forward_kl"), NATS, asked)
        yield Row(
            f"{case} optimum", "optimum", SIMPSON, value, lambda p=p: _known(optimum(p, name="forward_kl").value), 1e-6
        )


def _sd(outcome: Any) -> float:
    return math.sqrt(outcome.covariance[0, 0])


def _mean(outcome: Any) -> float:
    return float(outcome.mean[0])


def _of(name: str) -> Callable[[Any], float]:
    """Reads a metric."""
    return lambda outcome: float(outcome.metrics[name])


def _nth(found: Callable[[], tuple[float, float, float]], i: int) -> float:
    """Mean, sd or value of an optimum that is found when it is asked for."""
    return found()[i]


def _known(value: float | None) -> float:
    if value is None:
        raise LookupError("the optimum's value is unknown")
    return value


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
    find = partial(_labelled, p, Divergence("reverse_kl"), label)
    yield Row(f"{case} sd", "fit", SIMPSON, sd, _sd, WIDTH * sd, asked)
    yield Row(f"{case} mean", "fit", SIMPSON, place, _mean, WIDTH * math.sqrt(1 + m * m), asked)
    yield Row(f"{case} KL", "fit", SIMPSON, value, _of("reverse_kl"), NATS, asked)
    yield Row(f"{case} optimum's sd", "optimum", SIMPSON, sd, lambda: math.sqrt(find().covariance[0][0]), 1e-5)
    yield Row(f"{case} optimum's mean", "optimum", SIMPSON, place, lambda: find().mean[0], 1e-5)
    yield Row(f"{case} optimum", "optimum", SIMPSON, value, lambda: _known(find().value), 1e-6)


def _labelled(p: Mix, divergence: Divergence, label: str) -> Optimum:
    found = [o for o in optima(p, "gaussian_full", divergence) if o.label.startswith(label)]
    if not found:
        raise LookupError(f"no optimum is {label}")
    return found[0]


def _advantage(p: Mix, divergence: Divergence) -> float:
    """How much better covering is than the best seeking optimum, in nats; infinite where none seeks."""
    values = {o.label.partition(":")[0]: _known(o.value) for o in reversed(optima(p, "gaussian_full", divergence))}
    return values.get("seeking", math.inf) - values.get("covering", math.inf)


def _thresholds() -> Iterator[Row]:
    """Seeking optima appear beyond the first separation and win beyond the second."""
    reverse = Divergence("reverse_kl")

    @cache
    def wins() -> float:
        return float(brentq(lambda m: _advantage(pair(m), reverse), 2.6, 3.0, xtol=1e-7))

    def appears() -> float:
        return _bisect(lambda m: math.isfinite(_advantage(pair(m), reverse)), 2.3, 2.6, 2e-5)

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
        "seeking mean": (2.7680, lambda: abs(_labelled(pair(wins()), reverse, "seeking").mean[0])),
        "seeking sd": (1.0443, lambda: _labelled(pair(wins()), reverse, "seeking").covariance[0][0] ** 0.5),
        "covering sd": (2.6015, lambda: _labelled(pair(wins()), reverse, "covering").covariance[0][0] ** 0.5),
        "KL": (0.68427, lambda: _known(_labelled(pair(wins()), reverse, "covering").value)),
    }
    for name, (value, obtain) in found.items():
        yield Row(f"phase/{name} where seeking wins", "optimum", where, value, obtain, 1e-4)


def _bisect(holds: Callable[[float], bool], low: float, high: float, width: float) -> float:
    """Where a statement that is false at ``low`` becomes true."""
    while high - low > width:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return 0.5 * (low + high)


def _alpha() -> Iterator[Row]:
    """Along alpha, from reverse KL at 0 to forward KL at 1, the best optimum turns from seeking to covering."""
    for m, window in {3: (0.02, 0.4), 4: (0.1, 0.49)}.items():
        p = pair(m)
        yield Row(
            f"alpha/+-{m}, covering wins at alpha",
            "optimum",
            f"equal values of two optima, {SIMPSON}",
            partial(_reference_alpha, p, m, window),
            lambda p=p, window=window: float(
                brentq(lambda a: -_advantage(p, Divergence("alpha", alpha=a)), *window, xtol=1e-6)
            ),
            1e-4,
            slow=m == 4,
        )
    for alpha in (-0.25, 0.25, 0.5, 0.75, 1.5):
        p = pair(2)
        yield Row(
            f"alpha/+-2, alpha {alpha:g} optimum",
            "optimum",
            SIMPSON,
            partial(_least_alpha, p, alpha, (0.0, 1.95 if alpha < 0 else 2.2)),
            lambda p=p, alpha=alpha: _known(optimum(p, name="alpha", alpha=alpha).value),
            1e-6,
        )

    # At alpha = -1/2 the divergence falls up to sd sqrt(3), where p^alpha q^(1 - alpha) ceases to be integrable.
    edge = Mix.line([1], [0], [math.sqrt(3) * (1 - 1e-9)])
    yield Row(
        "alpha/+-2, alpha -0.5 least value, at the edge",
        "optimum",
        f"{SIMPSON}, sd sqrt(3)",
        lambda: independent.alpha_divergence(pair(2), edge, -0.5),
        lambda: _known(optimum(pair(2), name="alpha", alpha=-0.5).value),
        1e-6,
    )


def _least_alpha(p: Mix, alpha: float, start: tuple[float, float]) -> float:
    return independent.best_on_a_line(lambda q: independent.alpha_divergence(p, q, alpha), [start])[2]


def _reference_alpha(p: Mix, m: float, window: tuple[float, float]) -> float:
    def difference(alpha: float) -> float:
        return _least_alpha(p, alpha, (0.0, m)) - _least_alpha(p, alpha, (m, 1.05))

    return float(brentq(difference, *window, xtol=1e-5))


def _others() -> Iterator[Row]:
    """Jeffreys, mixed and Jensen-Shannon: optima, and fits at the defaults."""
    both: dict[str, tuple[dict[str, Any], Callable[[Mix, Mix], float]]] = {
        "jeffreys": ({}, lambda p, q: independent.kl(p, q) + independent.kl(q, p)),
        "mixed": ({"forward_weight": 0.3}, lambda p, q: 0.3 * independent.kl(p, q) + 0.7 * independent.kl(q, p)),
        "jensen_shannon": ({}, independent.jensen_shannon),
        "alpha": ({"alpha": 0.5}, lambda p, q: independent.alpha_divergence(p, q, 0.5)),
    }
    targets = {"+-2": (pair(2), [(0.0, 2.2)]), "unequal": (UNEQUAL, [(-3.0, 1.0), (-1.8, 2.6)])}
    for name, (parameter, value) in both.items():
        for case, (p, starts) in targets.items():
            known = cache(partial(independent.best_on_a_line, partial(value, p), starts))
            best = partial(optimum, p, name=name, **parameter)
            asked = fit(p, divergence=name, **parameter)
            row = partial(Row, source=SIMPSON)
            yield row(
                f"{name}/{case}/optimum",
                "optimum",
                reference=partial(_nth, known, 2),
                obtain=lambda best=best: _known(best().value),
                tolerance=1e-6,
            )
            yield row(
                f"{name}/{case}/optimum's sd",
                "optimum",
                reference=partial(_nth, known, 1),
                obtain=lambda best=best: best().covariance[0][0] ** 0.5,
                tolerance=1e-4,
            )
            yield row(
                f"{name}/{case}/fit's value, beside Simpson's",
                "fit",
                reference=0.0,
                obtain=lambda o, value=value, p=p: (
                    o.metrics["objective"] - value(p, independent.normal(o.mean, o.covariance))
                ),
                tolerance=1e-6,
                asked=asked,
            )
            yield row(
                f"{name}/{case}/fit above the optimum that it reached",
                "fit",
                reference=0.0,
                obtain=lambda o, p=p, name=name, parameter=parameter: _above(p, o, name, parameter),
                tolerance=NATS,
                asked=asked,
            )


def _above(p: Mix, outcome: Any, name: Any, parameter: dict[str, float]) -> float:
    own = outcome.metrics["optimum_value"] + outcome.metrics["optimum_gap"]
    return own - _known(_labelled(p, Divergence(name, **parameter), outcome.labels["optimum_label"]).value)


def _unequal() -> Iterator[Row]:
    """0.8 N(-3, 1) + 0.2 N(3, 0.25)."""
    p, case = UNEQUAL, "unequal modes"
    mean, covariance = p.moments()
    forward = fit(p, divergence="forward_kl")
    sd = math.sqrt(covariance[0, 0])
    yield Row(f"{case}/forward mean", "fit", "moments", float(mean[0]), _mean, WIDTH * sd, forward)
    yield Row(f"{case}/forward sd", "fit", "moments", sd, _sd, WIDTH * sd, forward)
    yield Row(
        f"{case}/forward optimum",
        "optimum",
        "ln sd + ln(2 pi e) / 2 - H(P), Simpson's rule",
        lambda: math.log(sd) + 0.5 * math.log(2 * math.pi * math.e) - independent.entropy(p),
        lambda: _known(optimum(p, name="forward_kl").value),
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
        find = partial(_labelled, p, Divergence("reverse_kl"), label)
        for i, (what, tight, loose) in enumerate(
            (("mean", 1e-5, WIDTH * sd), ("sd", 1e-5, WIDTH * sd), ("KL", 1e-7, NATS))
        ):
            yield Row(
                f"{case}/reverse {label} optimum's {what}",
                "optimum",
                SIMPSON,
                partial(_nth, known, i),
                lambda find=find, i=i: (find().mean[0], find().covariance[0][0] ** 0.5, _known(find().value))[i],
                tight,
            )
            yield Row(
                f"{case}/reverse {label} {what}",
                "fit",
                SIMPSON,
                partial(_nth, known, i),
                (_mean, _sd, _of("reverse_kl"))[i],
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
