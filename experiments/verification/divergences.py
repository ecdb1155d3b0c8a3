"""Rows on alpha, Jeffreys, mixed and Jensen-Shannon divergences in one dimension: optima and fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from scipy.optimize import brentq

from experiments.truth import Divergence
from experiments.verification import independent
from experiments.verification.independent import Mix
from experiments.verification.machinery import fit, labelled, nats, optimum, own_value
from experiments.verification.row import Row
from experiments.verification.two_modes import NATS, SIMPSON, UNEQUAL, advantage, nth, pair


def rows() -> Iterator[Row]:
    """All rows of this module."""
    yield from _alpha()
    yield from _others()


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
                brentq(lambda a: -advantage(p, Divergence("alpha", alpha=a)), *window, xtol=1e-6)
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
            lambda p=p, alpha=alpha: nats(optimum(p, name="alpha", alpha=alpha)),
            1e-6,
        )

    # At alpha = -1/2 the divergence falls up to sd sqrt(3), where p^alpha q^(1 - alpha) ceases to be integrable.
    edge = Mix.line([1], [0], [math.sqrt(3) * (1 - 1e-9)])
    yield Row(
        "alpha/+-2, alpha -0.5 least value, at the edge",
        "optimum",
        f"{SIMPSON}, sd sqrt(3)",
        lambda: independent.alpha_divergence(pair(2), edge, -0.5),
        lambda: nats(optimum(pair(2), name="alpha", alpha=-0.5)),
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
                reference=partial(nth, known, 2),
                obtain=lambda best=best: nats(best()),
                tolerance=1e-6,
            )
            yield row(
                f"{name}/{case}/optimum's sd",
                "optimum",
                reference=partial(nth, known, 1),
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
    return own_value(outcome) - nats(labelled(p, Divergence(name, **parameter), outcome.labels["optimum_label"]))
