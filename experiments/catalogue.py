"""Everything that a sweep file may name: the experiments, the targets, and the sweeps that come with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.experiment import Experiment
from experiments.gradients import GRADIENTS
from experiments.kl_fit import KL_FIT
from experiments.targets import Target, named
from experiments.targets.definition import define
from experiments.vae import VAE

SWEEPS = Path(__file__).parent / "sweeps"


@dataclass(frozen=True)
class Catalogue:
    """Experiments by name, and the shipped targets and sweeps. Nothing is read until it is asked for."""

    experiments: Mapping[str, Experiment]
    target_names: tuple[str, ...]

    def target(self, name: str) -> Target:
        """The shipped target of that name; KeyError if there is none."""
        return named.target(name)

    def brief(self, name: str) -> named.Brief:
        """What a list says of that target; KeyError if there is none."""
        return named.brief(name)

    def define(self, name: str, definition: Mapping[str, Any], folder: Path) -> Target:
        """The target that a sweep file defines, its paths relative to ``folder``; ValueError if it cannot."""
        if name in self.target_names:
            raise ValueError(f"'{name}' is the name of a shipped target: choose another")
        return define(name, definition, folder)

    @cached_property
    def sweeps(self) -> Mapping[str, Path]:
        """The sweep files that come with modesweep, by name."""
        return {path.stem: path for path in sorted(SWEEPS.glob("*.yaml"))}


CATALOGUE = Catalogue({experiment.name: experiment for experiment in (KL_FIT, VAE, GRADIENTS)}, named.NAMES)
