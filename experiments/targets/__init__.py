"""Targets: what is fitted. A `Mixture` and an `Analytic` know their density, a `Points` only samples."""

from experiments.targets.analytic import Analytic
from experiments.targets.mixture import Mixture
from experiments.targets.points import Points

Target = Mixture | Points | Analytic

__all__ = ["Analytic", "Mixture", "Points", "Target"]
