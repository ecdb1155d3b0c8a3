"""What a fit is judged by. The table of names is here; ``density`` and ``neighbours`` compute the numbers."""

from experiments.metrics.table import DENSITY_METRICS, LABELS, NEIGHBOUR_METRICS

__all__ = ["DENSITY_METRICS", "LABELS", "NEIGHBOUR_METRICS"]
