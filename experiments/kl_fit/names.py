"""What a divergence's name means, without torch: plans need it too."""

from __future__ import annotations

from typing import Any


def operations(params: Any) -> str:
    """What training computes for it, which cells of one stack share: alpha's limits at 0 and 1 are the KLs."""
    if params.divergence in ("jeffreys", "mixed"):
        return "weighted_kls"
    if params.divergence == "alpha" and params.alpha in (0, 1):
        return "forward_kl" if params.alpha == 1 else "reverse_kl"
    return str(params.divergence)


def kl_weights(params: Any) -> tuple[float, float]:
    """Weights of forward and of reverse KL in what is minimised; both 0 where it is no sum of them."""
    if params.divergence == "jeffreys":
        return 1.0, 1.0
    if params.divergence == "mixed":
        return params.forward_weight, 1.0 - params.forward_weight
    used = operations(params)
    return float(used == "forward_kl"), float(used == "reverse_kl")
