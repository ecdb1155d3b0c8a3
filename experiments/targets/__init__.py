"""Targets: what is fitted. A `Mixture` knows its density, a `Points` only samples."""

from experiments.targets.mixture import Mixture
from experiments.targets.points import Points

Target = Mixture | Points

__all__ = ["Mixture", "Points", "Target"]
