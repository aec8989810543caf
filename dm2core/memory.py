"""A cell's memory: zeros that cost nothing until written, zeros for kernels, and giving freed memory back."""

from __future__ import annotations

import ctypes
import math
import mmap

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def lazy_zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Zeros whose pages exist once they are written: grids of episodes are empty behind each episode's end.

    Small pages, because a huge page would hold several episodes with their empty ends.
    """
    count = math.prod(shape)
    if count == 0:
        return torch.zeros(shape, dtype=dtype)
    # Private, because of shared memory also pages that are only read come to exist.
    room = mmap.mmap(-1, count * dtype.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        room.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(room, dtype=dtype).view(shape)


def aligned_zeros(*shape: int) -> NDArray[np.float32]:
    """float32 zeros that begin on a line of the cache, as torch allocates them and numpy does not.

    Otherwise every whole vector of a kernel lies in two lines: an update of PPO took a twentieth longer.
    """
    return torch.zeros(shape).numpy()


def trim() -> None:
    """Give freed memory back to the system; does nothing where the C library has no malloc_trim."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
