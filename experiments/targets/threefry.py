"""JAX's random numbers in numpy, for the benchmark targets that are defined by them.

JAX draws with threefry2x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
https://doi.org/10.1145/2063384.2063405). Numbers are those of JAX below 0.5, with which the targets were published;
since then ``jax_threefry_partitionable`` is on by default, and the same key gives others.
"""

from __future__ import annotations

import numpy as np

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)

Key = tuple[np.uint32, np.uint32]


def key(seed: int) -> Key:
    """``jax.random.PRNGKey(seed)``."""
    return np.uint32(seed >> 32), np.uint32(seed & 0xFFFFFFFF)


def split(of: Key) -> tuple[Key, Key]:
    """``jax.random.split``: two keys."""
    a, b, c, d = bits(of, 4)
    return (a, b), (c, d)


def uniform(of: Key, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """``jax.random.uniform`` in single precision, as float64."""
    mantissa = (bits(of, int(np.prod(shape))) >> np.uint32(9)) | np.uint32(0x3F800000)
    unit = mantissa.view(np.float32).astype(float) - 1
    # XLA multiplies and adds with one rounding.
    return (unit * (high - low) + low).astype(np.float32).reshape(shape).astype(float)


def below(of: Key, power: int) -> int:
    """``jax.random.randint`` of 0 to ``2**power - 1``."""
    return int(bits(split(of)[1], 1)[0]) % 2**power


def bits(of: Key, count: int) -> np.ndarray:
    """``count`` random 32-bit numbers: the halves of the counters 0, 1, ... are the two words of each block."""
    counters = np.zeros(count + count % 2, np.uint32)
    counters[:count] = np.arange(count)
    return np.concatenate(threefry2x32(of, *np.split(counters, 2)))[:count]


def threefry2x32(of: Key, x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Twenty rounds over counters ``(x0, x1)``."""
    keys = (of[0], of[1], of[0] ^ of[1] ^ PARITY)
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))) ^ x0
        x0 = x0 + keys[(block + 1) % 3]
        x1 = x1 + keys[(block + 2) % 3] + np.uint32(block + 1)
    return x0, x1
