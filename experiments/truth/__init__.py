"""Ground truth: all local optima of a divergence among Gaussians, and how far a fit is from them.

Closed forms where there are any; otherwise, in one and two dimensions, deterministic quadrature and descents
from many starts. In more dimensions nothing is claimed that is not exact: there, a mixture's optima are
unknown, except for forward KL, whose optimum matches the target's moments.
"""

from experiments.truth.cache import optima, search_ahead
from experiments.truth.certificate import Certificate, certify
from experiments.truth.divergence import Divergence
from experiments.truth.search import Family, Optimum

__all__ = ["Certificate", "Divergence", "Family", "Optimum", "certify", "optima", "search_ahead"]
