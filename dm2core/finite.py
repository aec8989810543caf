"""What is not finite ends the cell in the iteration where it arises, and the error says what and whose it is."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class NotFinite(FloatingPointError):
    """`quantity` is not finite for `agents` (empty where it belongs to no single agent)."""

    def __init__(self, quantity: str, agents: list[int], value: float) -> None:
        whose = f" of agent{'s' * (len(agents) > 1)} {', '.join(map(str, agents))}" if agents else ""
        super().__init__(f"{quantity}{whose} is {value}")
        self.quantity, self.agents = quantity, agents


def require_finite(quantity: str, values: Tensor, *, agent_axis: int | None = 0) -> None:
    """NotFinite unless every value is finite; `agent_axis`: where the agents lie, None if they share the values."""
    # A twentieth of the time on obs; the sum of finite values may overflow.
    if math.isfinite(values.detach().sum()):
        return
    bad = ~torch.isfinite(values)
    if not bool(bad.any()):
        return
    agents: list[int] = []
    if agent_axis is not None and values.dim():
        agents = (
            bad.movedim(agent_axis, 0).reshape(values.shape[agent_axis], -1).any(1).nonzero()[:, 0].tolist()
        )
    raise NotFinite(quantity, agents, float(values[bad][0]))


def require_all_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """NotFinite names the first tensor by name, `what` before it, that holds a value that is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            require_finite(f"{what} {name}", tensor, agent_axis=None)
