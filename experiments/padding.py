"""What tensors are padded to, so that no shape depends on a cell's batch-mates: needed by plans, so no torch."""

from __future__ import annotations

from experiments.targets import Mixture, Target


def padded_components(components: int) -> int:
    """The number of components that tensors are padded to: the next power of two.

    It depends on the cell alone, and cells that are stacked together must share it.
    """
    return 1 << (components - 1).bit_length()


def padded_modes(target: Target) -> int:
    """Of a mixture its padded components; 1 for what has none."""
    return padded_components(target.modes) if isinstance(target, Mixture) else 1
