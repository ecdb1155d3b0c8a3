"""Obtained beside known: numbers that this package computes, each compared with the same number from elsewhere.

A reference is a formula, digits that are printed, or code of ``independent/``, which shares none with what it
judges. ``modesweep verify`` writes the table.
"""

from __future__ import annotations

from experiments.verification.estimate import Estimate
from experiments.verification.row import Result, Row, verify

__all__ = ["Estimate", "Result", "Row", "rows", "verify"]


def rows(quick: bool = False) -> tuple[Row, ...]:
    """Every row, by topic; ``quick`` leaves out what takes long."""
    from experiments.verification import (
        divergences,
        gaussians,
        gmm40,
        gradient_variances,
        ladder,
        linear_vae,
        mixtures,
        planar,
        student_t,
        two_modes,
    )

    modules = (gaussians, two_modes, divergences, planar, gmm40, student_t, mixtures, ladder, gradient_variances)
    every = (row for module in (*modules, linear_vae) for row in module.rows())
    return tuple(row for row in every if not (quick and row.slow))
