"""What a worker and the pool share: one block of memory per game, and short messages.

The block is an anonymous file (memfd) that both map: it is gone when both are, whatever ends them. Messages are
bytes: `reset`, `step`, `quit` one way; `ready <JSON>`, `done`, `failed <why>` the other.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Sizes:
    """Of one game's arrays."""

    n_agents: int
    n_enemies: int
    n_actions: int
    obs_size: int
    state_size: int

    def layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        n = self.n_agents
        return {
            "actions": ((n,), "<i8"),
            "reward": ((1,), "<f8"),
            "flags": ((5,), "<i8"),  # terminated, truncated, won, dead allies, dead enemies
            "loop": ((1,), "<i8"),
            "obs": ((n, self.obs_size), "<f4"),
            "raw": ((n + self.n_enemies, 5), "<f4"),  # as observe.py has it
            "state": ((self.state_size,), "<f4"),
            "avail_actions": ((n, self.n_actions), "|b1"),
            "alive": ((n,), "|b1"),
        }


class Block:
    """The shared arrays of one game, as attributes."""

    actions: NDArray[np.int64]  # [N] of the next step
    reward: NDArray[np.float64]  # [1]
    flags: NDArray[np.int64]  # [5]
    loop: NDArray[np.int64]  # [1] game loops since the game was created
    obs: NDArray[np.float32]  # [N, O]
    raw: NDArray[np.float32]  # [U, 5]
    state: NDArray[np.float32]  # [S]
    avail_actions: NDArray[np.bool_]  # [N, A]
    alive: NDArray[np.bool_]  # [N]

    def __init__(self, handle: int, sizes: Sizes) -> None:
        """Map the file behind `handle`, which must be as long as `size_of` says."""
        memory, at = mmap.mmap(handle, size_of(sizes)), 0
        for name, (shape, dtype) in sizes.layout().items():
            count = int(np.prod(shape))
            setattr(self, name, np.frombuffer(memory, dtype, count, at).reshape(shape))
            at += 8 * -(-count * np.dtype(dtype).itemsize // 8)


def size_of(sizes: Sizes) -> int:
    """Bytes of a block; every array starts at a multiple of 8."""
    rows = sizes.layout().values()
    return sum(8 * -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 8) for shape, dtype in rows)


def open_block(sizes: Sizes) -> int:
    """A new anonymous file of the right length; its handle."""
    handle = os.memfd_create("dm2-game")
    os.truncate(handle, size_of(sizes))
    return handle


_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread of process `parent` that started it ends, however it ends."""
    _LIBC.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before it could be watched
