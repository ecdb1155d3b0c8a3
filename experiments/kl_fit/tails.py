"""Divergences that are infinite because of the tails of the target or of the family, refused before a fit."""

from __future__ import annotations

import math
from typing import Any

from experiments.kl_fit.names import kl_weights, operations
from experiments.targets import Analytic, Mixture


def check_tails(params: Any, target: Mixture | Analytic) -> None:
    """Refuse parameters ``kl_fit.Params`` whose divergence from the target is infinite for every member of the family.

    Raises:
        ValueError: says what would be finite.
    """
    if target.df is not None and params.family != "student_t":
        _beside_gaussians(params, target, target.df)
    if isinstance(target, Analytic):
        _of_formulas(params, target)
    elif params.family == "student_t" and operations(params) == "alpha":
        _beside_powers(params, target)


def _beside_gaussians(params: Any, target: Mixture | Analytic, df: float) -> None:
    """Under a Student-t target -log q of a Gaussian grows like the square."""
    if df <= 2 and kl_weights(params)[0] > 0:
        raise ValueError(
            f"{params.divergence}: target {target.name!r} has Student-t components with df {df:g}, whose variance is"
            " infinite, so no Gaussian has a finite KL(P || Q). Use divergence reverse_kl, family student_t, or"
            " df above 2"
        )
    if operations(params) == "alpha" and params.alpha > 1:
        raise ValueError(
            f"alpha {params.alpha:g}: the tails of target {target.name!r} (Student-t, df {df:g}) are too heavy for any"
            " Gaussian, and the divergence infinite. Use alpha below 1, or family student_t"
        )


def _beside_powers(params: Any, target: Mixture) -> None:
    """``p^alpha q^(1 - alpha)`` of densities ``r^-(df + D)`` has a finite integral where its mean df is above 0."""
    of_p = math.inf if target.df is None else target.df
    if params.alpha * of_p + (1 - params.alpha) * params.family_df <= 0:
        tails = "Gaussian" if target.df is None else f"Student-t, df {target.df:g}"
        raise ValueError(
            f"alpha {params.alpha:g}: beside the tails of a student_t with family_df {params.family_df} those of target"
            f" {target.name!r} ({tails}) make the divergence infinite. Use alpha between 0 and 1, or another family"
        )


def _of_formulas(params: Any, target: Analytic) -> None:
    """A Student-t Q has the mean of -log p where that grows slower than its df; alpha compares the tails of both.

    ``p^alpha q^(1 - alpha)`` has no integral where alpha is above 1 and p has the heavier tails, or below 0 and the
    lighter ones. Where both fall like powers of the distance it depends on those of each direction: refused too.
    """
    slowest, fastest = target.form.tails
    student = params.family == "student_t"
    if student and kl_weights(params)[1] > 0 and fastest >= params.family_df:
        raise ValueError(
            f"{params.divergence}: the tails of target {target.name!r} fall too fast for those of a student_t with"
            f" family_df {params.family_df}, and KL(Q || P) is infinite. Use divergence forward_kl, or another family"
        )
    if operations(params) != "alpha" or 0 <= params.alpha <= 1:
        return
    of_q, powers = 0.0 if student else 2.0, student and fastest == 0
    if powers or (slowest < of_q if params.alpha > 1 else fastest > of_q):
        which = "heavy" if params.alpha > 1 else "light"
        raise ValueError(
            f"alpha {params.alpha:g}: the tails of target {target.name!r} are too {which} for those of family"
            f" {params.family}, and the divergence {'may be' if powers else 'is'} infinite. Use alpha between 0 and 1"
        )
