"""Rows on mixtures in the plane: the textbook's two modes, FAB's 40, rings and grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import numpy as np

from experiments.truth import Divergence, Family
from experiments.truth.nodes import entropy
from experiments.verification import independent
from experiments.verification.estimate import Estimate
from experiments.verification.independent import Mix
from experiments.verification.machinery import fit, judged, metric, optima, optimum, reference, shipped
from experiments.verification.row import Row

HERMITE = "Gauss-Hermite quadrature and scipy's BFGS"
NATS, WIDTH = 0.01, 0.02


def rows() -> Iterator[Row]:
    """All rows of this module."""
    yield from _textbook()
    # A step costs 40 components here.
    yield from (replace(row, slow=row.slow or row.asked is not None) for row in _many())
    yield from _ring_and_grid()
    yield from _random()


def _entropy(name: str) -> float:
    return entropy(shipped(name))[0]


def _textbook() -> Iterator[Row]:
    """Murphy 2012, figure 21.1: both directions cover its two modes; the panels that are drawn are not the optima."""
    p = reference(shipped("pmtk3_bimodal"))
    case = "textbook"
    yield Row(f"{case}/H(P)", "optimum", HERMITE, 3.018844, partial(_entropy, "pmtk3_bimodal"), 1e-6)
    known = {
        "forward_kl": (0.165606, (0.0, 0.0, 1.5, 1.0, 2.0)),
        "reverse_kl": (0.200711, (-0.156, -0.103, 1.2348, 0.8595, 1.7455)),
    }
    for divergence, (value, place) in known.items():
        asked = fit(p, divergence=divergence)
        best = partial(optimum, p, "gaussian_full", divergence)
        yield Row(f"{case}/{divergence} optimum", "optimum", HERMITE, value, lambda b=best: _value(b().value), 2e-6)
        yield Row(f"{case}/{divergence}", "fit", HERMITE, value, partial(metric, name=divergence), NATS, asked)
        for i, (name, number) in enumerate(zip(("mean 0", "mean 1", "S 00", "S 01", "S 11"), place, strict=True)):
            digits = 1e-9 if divergence == "forward_kl" else (5e-4 if i < 2 else 1e-4)
            yield Row(
                f"{case}/{divergence} optimum's {name}",
                "optimum",
                "moments" if divergence == "forward_kl" else HERMITE,
                number,
                lambda b=best, i=i: _flat(b().mean, b().covariance)[i],
                digits,
            )
            yield Row(
                f"{case}/{divergence} {name}",
                "fit",
                "moments" if divergence == "forward_kl" else HERMITE,
                number,
                lambda o, i=i: _flat(o.mean, o.covariance)[i],
                2 * WIDTH * 2.0 if i > 1 else WIDTH * math.sqrt(2),
                asked,
            )
    apart = replace(p, means=tuple(tuple(2 * x for x in m) for m in p.means))
    far = partial(optimum, apart)
    yield Row(
        f"{case}, twice as far/reverse_kl optimum", "optimum", HERMITE, 0.69239, lambda: _value(far().value), 1e-5
    )
    for i in (0, 1):
        yield Row(
            f"{case}, twice as far/reverse_kl optimum's |mean {i}|",
            "optimum",
            HERMITE,
            1.998,
            lambda i=i: abs(far().mean[i]),
            5e-4,
        )


def _value(value: float | None) -> float:
    if value is None:
        raise LookupError("the optimum's value is unknown")
    return value


def _flat(mean: object, covariance: object) -> tuple[float, ...]:
    m, c = np.asarray(mean), np.asarray(covariance)
    return float(m[0]), float(m[1]), float(c[0, 0]), float(c[0, 1]), float(c[1, 1])


def _many() -> Iterator[Row]:
    """FAB's 40 Gaussians."""
    p, case = reference(shipped("gmm40")), "gmm40"
    drawn = "200,000 draws, scipy"

    @cache
    def h() -> Estimate:
        x = p.draw(200_000, np.random.default_rng(1))
        log_p = -p.log_pdf(x)
        return Estimate(float(log_p.mean()), float(log_p.std()) / math.sqrt(len(log_p)))

    def above(shape: str) -> Estimate:
        covariance = p.moments()[1]
        log_det = np.linalg.slogdet(covariance)[1] if shape == "full" else np.log(np.diag(covariance)).sum()
        return Estimate(math.log(2 * math.pi * math.e) + 0.5 * log_det - h().value, h().error)

    yield Row(f"{case}/H(P)", "optimum", drawn, h, partial(_entropy, "gmm40"), 1e-4)
    for i, (name, value) in enumerate(
        zip(("mean 0", "mean 1", "S 00", "S 01", "S 11"), (-2.1405, 1.2400, 441.8165, 171.2169, 623.4339), strict=True)
    ):
        yield Row(
            f"{case}/{name}",
            "optimum",
            "moments of FAB's locations",
            value,
            lambda i=i: _flat(optimum(p, name="forward_kl").mean, optimum(p, name="forward_kl").covariance)[i],
            1e-4,
        )
    families: dict[Family, float] = {"gaussian_full": 2.1861, "gaussian_diagonal": 2.2424}
    for family, value in families.items():
        shape = family.removeprefix("gaussian_")
        best = partial(optimum, p, family, "forward_kl")
        yield Row(
            f"{case}/forward_kl {shape} optimum",
            "optimum",
            f"moments and {drawn}",
            partial(above, shape),
            lambda b=best: _value(b().value),
            1e-4,
        )
        yield Row(
            f"{case}/forward_kl {shape} optimum, printed",
            "optimum",
            "known to 0.0007",
            Estimate(value, 0.0007),
            lambda b=best: _value(b().value),
            1e-4,
        )
        yield Row(
            f"{case}/forward_kl {shape}",
            "fit",
            "known to 0.0007",
            Estimate(value, 0.0007),
            partial(metric, name="forward_kl"),
            NATS,
            fit(p, divergence="forward_kl", family=family),
        )
    asked = fit(p, divergence="forward_kl")
    for name, value, tolerance in (
        ("reverse_kl", 28.03, 0.5),
        ("high_quality", 0.233, 5e-3),
        ("entropic_coverage", 0.944, 5e-3),
    ):
        yield Row(
            f"{case}/forward fit's {name}",
            "fit",
            "draws of the optimum",
            value,
            partial(metric, name=name),
            tolerance,
            asked,
        )
    printed = {
        "reverse_kl optimum": 2.279705,
        "mean 0": -27.56308,
        "mean 1": -18.92342,
        "S 00": 3.09432,
        "S 01": 0.52096,
        "S 11": 4.65334,
    }
    for i, (name, value) in enumerate(printed.items()):
        yield Row(
            f"{case}/reverse {name}",
            "optimum",
            "Gauss-Hermite quadrature, 200 x 200 nodes, and scipy's BFGS",
            value,
            lambda i=i: (_value(optimum(p).value), *_flat(optimum(p).mean, optimum(p).covariance))[i],
            2e-6 if i == 0 else 1e-4,
            slow=True,
        )
    yield Row(
        f"{case}/reverse optimum, an isolated mode",
        "optimum",
        "ln 40",
        math.log(40),
        lambda: max(
            _value(o.value) for o in optima(p, "gaussian_full", Divergence("reverse_kl")) if "seeking" in o.label
        ),
        1e-4,
        slow=True,
    )


def _ring_and_grid() -> Iterator[Row]:
    """One Gaussian for 8 or 25 needles, by forward KL."""
    known = {"ring8": (0.5001, 6.437952, 0.0026, -4.29302), "grid25": (8.0025, 4.852343, 0.015, 0.065288)}
    for name, (variance, value, quality, h) in known.items():
        p = reference(shipped(name))
        asked = fit(p, divergence="forward_kl")
        formula = "(d ln(2 pi e) + ln|S|) / 2 - ln K - d ln(2 pi e s^2) / 2"
        yield Row(f"needles/{name} H(P)", "optimum", "ln K + d ln(2 pi e s^2) / 2", h, partial(_entropy, name), 1e-5)
        yield Row(
            f"needles/{name} forward_kl optimum",
            "optimum",
            formula,
            value,
            lambda p=p: _value(optimum(p, name="forward_kl").value),
            1e-6,
        )
        yield Row(f"needles/{name} forward_kl", "fit", formula, value, partial(metric, name="forward_kl"), NATS, asked)
        for i in (0, 1):
            yield Row(
                f"needles/{name} variance {i}",
                "fit",
                "moments",
                variance,
                lambda o, i=i: float(o.covariance[i, i]),
                2 * WIDTH * variance,
                asked,
            )
        exact = partial(_in_ellipses, p)
        yield Row(
            f"needles/{name} forward fit's high_quality",
            "metric",
            "sums of 2-D integrals",
            exact,
            lambda p=p: _judged(p, "high_quality"),
            1e-4,
        )
        yield Row(
            f"needles/{name} forward fit's high_quality, printed",
            "metric",
            "printed digits",
            quality,
            lambda p=p: _judged(p, "high_quality"),
            5e-4,
        )


def _judged(p: Mix, name: str) -> Estimate:
    """Of the moment match, averaged over 16 sets of draws."""
    q = independent.normal(*p.moments())
    found = [judged(p, q, seed) for seed in range(16)]
    error = math.sqrt(np.mean([f[f"{name}_se"] ** 2 for f in found]) / len(found))
    return Estimate(float(np.mean([f[name] for f in found])), error)


def _in_ellipses(p: Mix) -> float:
    """The moment match's mass within three widths of a mode, for circles that do not touch: noncentral chi-square."""
    from scipy import stats

    mean, covariance = p.moments()
    variance = covariance[0, 0]
    assert np.allclose(covariance, variance * np.eye(2))
    reach = 9 * p.scales[0][0][0] / variance
    return float(sum(stats.ncx2.cdf(reach, 2, ((np.array(m) - mean) ** 2).sum() / variance) for m in p.means))


def _random() -> Iterator[Row]:
    """Mixtures of no special shape: reverse optima of each family, against many starts of scipy's BFGS."""
    for seed in (0, 1):
        p = random_mixture(40 + seed, 2, 2 + seed)
        starts = [(np.array(m), np.array(s)) for m, s in zip(p.means, p.scales, strict=True)] + [p.moments()]
        for shape in ("isotropic", "diagonal", "full"):
            known = cache(partial(independent.best_reverse, p, shape, starts))
            best = partial(optimum, p, f"gaussian_{shape}")  # type: ignore[arg-type]
            case = f"random plane/{seed} {shape}"
            slow = shape == "full"
            yield Row(
                f"{case} reverse_kl optimum",
                "optimum",
                HERMITE,
                partial(_least, known),
                lambda b=best: _value(b().value),
                2e-5,
                slow=slow,
            )
            for i, name in enumerate(("mean 0", "mean 1", "S 00", "S 01", "S 11")):
                if shape != "full" and name == "S 01":
                    continue
                yield Row(
                    f"{case} reverse optimum's {name}",
                    "optimum",
                    HERMITE,
                    partial(_entry, known, i),
                    lambda b=best, i=i: _flat(b().mean, b().covariance)[i],
                    1e-3,
                    slow=slow,
                )


def _least(found: Callable[[], tuple[np.ndarray, np.ndarray, float]]) -> float:
    return found()[2]


def _entry(found: Callable[[], tuple[np.ndarray, np.ndarray, float]], i: int) -> float:
    return _flat(*found()[:2])[i]


def random_mixture(seed: int, dim: int, modes: int) -> Mix:
    """Unequal weights, correlated components some widths apart."""
    rng = np.random.default_rng(seed)
    factors = 0.4 / math.sqrt(dim) * rng.normal(size=(modes, dim, dim)) + np.eye(dim) * rng.uniform(
        0.5, 1.5, (modes, 1, 1)
    )
    means = 2.0 * rng.normal(size=(modes, dim))
    return Mix.of(rng.dirichlet(np.full(modes, 4.0)), means, factors @ factors.transpose(0, 2, 1))
