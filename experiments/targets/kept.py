"""Tables of targets as tensors that stay on their device: a copy at each step would make the host wait for it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np


@lru_cache(maxsize=256)
def tensors(owner: Any, names: tuple[str, ...], torch: Any, device: Any) -> tuple[Any, ...]:
    """Arrays that an object, which is hashed by its identity, has under these names."""
    with torch.inference_mode(False):  # they serve autograd too
        return tuple(torch.as_tensor(getattr(owner, name), device=device) for name in names)


@lru_cache(maxsize=256)
def column(values: tuple[float, ...], torch: Any, dtype: Any, device: Any) -> Any:
    """``(n, 1)``."""
    with torch.inference_mode(False):
        return torch.as_tensor(np.array(values)[:, None], dtype=dtype, device=device)
