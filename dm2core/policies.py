"""A policy network from the tensors in a file; every size is read off the tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dm2core.nets import Policy, load_actor
from dm2core.qmix.net import load_qnet


def load_policy(tensors: Mapping[str, Tensor]) -> Policy:
    """The network that saved `tensors`; KeyError, ValueError or RuntimeError if there is none."""
    return load_qnet(tensors) if "agents" in tensors else load_actor(tensors)
