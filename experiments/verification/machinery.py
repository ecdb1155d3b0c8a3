"""How rows obtain their numbers: by ``run_batch``, as a sweep does, and by the functions that certify its fits.

What is computed once serves all rows that ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch

from experiments.experiment import Experiment, Outcome
from experiments.gradients import GRADIENTS
from experiments.kl_fit import KL_FIT
from experiments.metrics.density import Measure, evaluate
from experiments.metrics.quadrature import mixture_quadrature
from experiments.randomness import generators
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture, named
from experiments.truth import Divergence, Family, Optimum
from experiments.truth.search import search
from experiments.vae import VAE
from experiments.verification.estimate import Estimate
from experiments.verification.independent import Mix

EXPERIMENTS: Mapping[str, Experiment] = {e.name: e for e in (KL_FIT, GRADIENTS, VAE)}
DRAWS = 10_000


@dataclass(frozen=True)
class Cell:
    """What ``run_batch`` needs to know of a cell."""

    params: Any
    target: Mixture
    seed: int


def mixture(name: str, p: Mix) -> Mixture:
    """The target with the numbers of a reference mixture."""
    return Mixture(name, np.array(p.weights), np.array(p.means), np.array(p.scales), p.df)


def reference(target: Mixture) -> Mix:
    """The other way round."""
    return Mix.of(target.weights, target.means, target.covariances, target.df)


def shipped(name: str) -> Mixture:
    """A mixture that comes with modesweep."""
    target = named.target(name)
    assert isinstance(target, Mixture)
    return target


@dataclass(frozen=True)
class Asked:
    """Cells that differ in their seed alone, as a sweep would have them."""

    experiment: str
    p: Mix
    settings: tuple[tuple[str, Any], ...]
    seeds: int = 1

    @property
    def about(self) -> str:
        """What it is, in a few words."""
        said = [str(value) for name, value in self.settings if name in ("divergence", "estimator", "family", "encoder")]
        return " ".join([self.experiment, *said, f"{self.p.dim}-D"])

    @cached_property
    def cells(self) -> list[Cell]:
        """Raises ValueError for what the experiment refuses."""
        experiment, target = EXPERIMENTS[self.experiment], mixture("verified", self.p)
        params = experiment.params(target=target.name, **dict(self.settings))
        experiment.check(params, target)
        return [Cell(params, target, seed) for seed in range(self.seeds)]


def fit(p: Mix, **settings: Any) -> Asked:
    """A ``kl_fit`` of seed 0, at the defaults but for these settings."""
    return Asked("kl_fit", p, tuple(sorted(settings.items())))


def gradients(p: Mix, seeds: int = 32, **settings: Any) -> Asked:
    """``gradients`` of as many seeds."""
    return Asked("gradients", p, tuple(sorted(settings.items())), seeds)


def vae(p: Mix, seeds: int = 4, **settings: Any) -> Asked:
    """``vae`` of as many seeds."""
    return Asked("vae", p, tuple(sorted(settings.items())), seeds)


def run(asked: Sequence[Asked], progress: Callable[[str], None]) -> dict[Asked, tuple[Outcome, ...] | Exception]:
    """Every cell's outcome, or why there is none; cells of one batch key are stacked, as in a sweep."""
    found: dict[Asked, tuple[Outcome, ...] | Exception] = {}
    groups: dict[Hashable, list[Asked]] = {}
    for ask in dict.fromkeys(asked):
        try:
            cell = ask.cells[0]
        except ValueError as error:
            found[ask] = error
            continue
        key = EXPERIMENTS[ask.experiment].batch_key(cell.params, cell.target)
        groups.setdefault((ask.experiment, key), []).append(ask)
    for group in groups.values():
        name = group[0].experiment
        outcomes = iter(EXPERIMENTS[name].run_batch([cell for ask in group for cell in ask.cells], "cpu"))
        for ask in group:
            own = tuple(islice(outcomes, ask.seeds))
            bad = [outcome.error for outcome in own if outcome.status != "ok"]
            found[ask] = ArithmeticError(str(bad[0])) if bad else own
        progress(f"{group[0].about}, a stack of {sum(ask.seeds for ask in group)}")
    return found


def metric(outcome: Outcome, name: str) -> Estimate:
    """A metric with its standard error."""
    return Estimate(outcome.metrics[name], outcome.metrics.get(f"{name}_se", 0.0))


def reads(name: str) -> Callable[[Outcome], float]:
    """Reads a metric that has no error."""
    return lambda outcome: float(outcome.metrics[name])


def own_value(outcome: Outcome) -> float:
    """A fit's exact value of its divergence, by which it is certified."""
    return float(outcome.metrics["optimum_value"] + outcome.metrics["optimum_gap"])


def center(outcome: Outcome) -> float:
    """Of a fit in one dimension."""
    assert outcome.mean is not None
    return float(outcome.mean[0])


def width(outcome: Outcome) -> float:
    """Of a fit in one dimension."""
    assert outcome.covariance is not None
    return float(np.sqrt(outcome.covariance[0, 0]))


def average(outcomes: Sequence[Outcome], name: str, factor: float = 1.0) -> Estimate:
    """Of a metric over independent seeds."""
    values = [metric(outcome, name) for outcome in outcomes]
    error = float(np.sqrt(np.mean([v.error**2 for v in values]) / len(values)))
    return Estimate(factor * float(np.mean([v.value for v in values])), abs(factor) * error)


@cache
def optima(p: Mix, family: Family, divergence: Divergence) -> tuple[Optimum, ...]:
    """What fits are certified by; searched here, so that an old cache has no say."""
    found = search(mixture("verified", p), family, divergence)
    if not found:
        raise LookupError("no optimum is known")
    return found


def optimum(p: Mix, family: Family = "gaussian_full", name: Any = "reverse_kl", **parameter: float) -> Optimum:
    """The best one."""
    return optima(p, family, Divergence(name, **parameter))[0]


def nats(best: Optimum) -> float:
    """Its divergence in nats."""
    if best.value is None:
        raise LookupError("the optimum's value is unknown")
    return best.value


def labelled(p: Mix, divergence: Divergence, label: str) -> Optimum:
    """The best of those whose label begins so, among all Gaussians."""
    found = [o for o in optima(p, "gaussian_full", divergence) if o.label.startswith(label)]
    if not found:
        raise LookupError(f"no optimum is {label}")
    return found[0]


def place(found: Any) -> tuple[float, ...]:
    """Mean and covariance of a fit or of an optimum in the plane: m0, m1, S00, S01, S11."""
    m, c = np.asarray(found.mean), np.asarray(found.covariance)
    return float(m[0]), float(m[1]), float(c[0, 0]), float(c[0, 1]), float(c[1, 1])


@cache
def judged(p: Mix, q: Mix, seed: int = 0) -> Mapping[str, float]:
    """The metrics of any fit Q: by quadrature in one dimension, else from draws."""
    target, fitted = (mixture("verified", m) for m in (p, q))
    if p.dim == 1:
        of_p, of_q, level_p, level_q = mixture_quadrature([target], [fitted])
        (found,) = evaluate([target], of_p, of_q, level_p=level_p, level_q=level_q, df_q=q.df)
        return found.metrics
    stacked = StackedMixture.stack([fitted], torch.float64)
    x_p = StackedMixture.stack([target], torch.float64).draw(DRAWS, generators([seed], "data"))
    x_q = stacked.draw(DRAWS, generators([seed], "evaluation"))
    of_p, of_q = (Measure.of_draws(x, stacked.log_prob(x)) for x in (x_p, x_q))
    (found,) = evaluate([target], of_p, of_q, df_q=q.df)
    return found.metrics


def some_modes(p: Mix, kept: int) -> Mix:
    """The first modes of an equal mixture."""
    return replace(p, weights=(1 / kept,) * kept, means=p.means[:kept], scales=p.scales[:kept])


def widened(p: Mix, factor: float) -> Mix:
    """Every component with ``factor`` times its width."""
    return Mix.of(np.array(p.weights), np.array(p.means), factor**2 * np.array(p.scales), p.df)
