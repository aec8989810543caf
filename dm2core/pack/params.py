"""Cells' saved tensors (dm2.py: Dm2.tensors) to those of one stacked learner, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def stack(cells: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """One set of tensors with the cells' agents end to end; ValueError if the cells do not fit each other."""
    first = cells[0]
    if any(cell.keys() != first.keys() for cell in cells):
        raise ValueError("cells of one pack must have the same networks and all be fresh, or none")
    out = {}
    for key, value in first.items():
        if value.dim() == 0:  # the optimiser's count of steps, one for all
            if any(bool(cell[key] != value) for cell in cells):
                raise ValueError(f"cells of one pack must have made as many steps: {key} differs")
            out[key] = value.clone().to(device)
        else:
            out[key] = torch.cat([cell[key] for cell in cells]).to(device)
    return out


def unstack(tensors: Mapping[str, Tensor], cell: int, n_agents: int) -> dict[str, Tensor]:
    """What `Dm2.tensors` of one cell would give, on the CPU."""
    part = slice(cell * n_agents, (cell + 1) * n_agents)
    return {key: (v if v.dim() == 0 else v[part]).cpu().clone() for key, v in tensors.items()}
