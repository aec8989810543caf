"""Which battles a call is about, and what their agents do: checked alike by the simulator and the real game."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def listed_battles(battles: Any) -> NDArray[np.int64]:
    """Numbers of battles [b], contiguous; ValueError if they are no integers (a mask, for one), or not distinct."""
    out = _whole("battles", battles)
    if out.ndim != 1:
        raise ValueError(f"battles must be a list of numbers, got shape {out.shape}")
    if not (out[1:] > out[:-1]).all() and np.unique(out).size < out.size:
        raise ValueError(f"battles must be distinct, got {out.tolist()}")
    return out


def listed_actions(actions: Any, count: int, n_agents: int) -> NDArray[np.int64]:
    """Actions [count, n_agents], contiguous; ValueError for another shape, or if they are no integers."""
    out = _whole("actions", actions)
    if out.shape != (count, n_agents):
        raise ValueError(f"actions must have shape {(count, n_agents)}, got {out.shape}")
    return out


def _whole(what: str, given: Any) -> NDArray[np.int64]:
    array = np.asarray(given)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(f"{what} must be integers, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64)
