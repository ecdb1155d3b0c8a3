"""What is studied: divergences, families, VAEs and the metrics that judge them. Pure torch, numpy and scipy.

Shapes, everywhere: K stacked cells, N samples, D dimensions. Results are ``(K, N, D)``;
inside the training loops samples lie last, ``(K, D, N)``, which is several times faster.
"""
