"""Obtained beside known: numbers that this package computes, each compared with the same number from elsewhere.

A reference is a formula, digits that are printed, or code of ``independent.py``, which shares none with what it
judges. ``modesweep verify`` writes the table.
"""

from __future__ import annotations

from experiments.verification.estimate import Estimate
from experiments.verification.row import Result, Row, verify

__all__ = ["Estimate", "Result", "Row", "rows", "verify"]


def rows(quick: bool = False) -> tuple[Row, ...]:
    """Every row, by topic; ``quick`` leaves out what takes long."""
    from experiments.verification import (
        gaussians,
        gradient_variances,
        ladder,
        linear_vae,
        mixtures,
        planar,
        student_t,
        two_modes,
    )

    modules = (gaussians, two_modes, planar, student_t, mixtures, ladder, gradient_variances, linear_vae)
    every = (row for module in modules for row in module.rows())
    return tuple(row for row in every if not (quick and row.slow))
