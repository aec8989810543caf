"""Streams of rng.py for torch."""

from __future__ import annotations

import torch

from dm2core.rng import entropy


def torch_stream(seed: int, role: str, index: int = 0) -> torch.Generator:
    """CPU torch generator for one address."""
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(entropy(seed, role, index)[:8], "little") >> 1)
    return generator
