"""The only place where randomness is born: one tree of streams, (seed, role, index) -> stream.

A stream is a pure function of its address, so resuming needs no generator state: iteration k draws from
index k. Addresses are hashed with SHA-256, hence streams of different roles or indices never overlap in practice;
torch's generator on the CPU takes 32 bits of them, so that among a hundred thousand of its streams a pair is equal.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def entropy(seed: int, role: str, index: int) -> bytes:
    """32 bytes that belong to one address."""
    return hashlib.sha256(f"dm2|{seed}|{role}|{index}".encode()).digest()


def stream(seed: int, role: str, index: int = 0) -> np.random.Generator:
    """NumPy generator for one address."""
    return np.random.Generator(
        np.random.Philox(key=int.from_bytes(entropy(seed, role, index)[:16], "little"))
    )


def battle_keys(seed: int, role: str, first: int, count: int) -> NDArray[np.uint64]:
    """Keys [count] of battles first..first+count-1: battle b's key does not depend on how many are asked for."""
    base = np.uint64(int.from_bytes(entropy(seed, role, 0)[:8], "little"))
    with np.errstate(over="ignore"):
        key = base + _GOLDEN * np.arange(first, first + count, dtype=np.uint64)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))
