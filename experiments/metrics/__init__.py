"""What a fit is judged by. The table of names is here; ``density`` and ``neighbours`` compute the numbers."""

from experiments.metrics.table import DENSITY_METRICS, LABELS, NEIGHBOUR_METRICS

__all__ = ["CHUNK", "DENSITY_METRICS", "LABELS", "NEIGHBOUR_METRICS"]

# Points at a time: the (K, M, chunk) tensors of a block of cells stay in a core's cache, or keep a GPU busy.
CHUNK = {"cpu": 512, "cuda": 2048}
