"""Masked categorical policies: log-probabilities, entropy, and sampling that does not depend on the batch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dm2core.fused.draw import draw

UNAVAILABLE = -1e10  # logit of an action that cannot be taken (on-policy distributions.py)


def masked_log_softmax(logits: Tensor, avail_actions: Tensor) -> Tensor:
    """log pi [.., A]; unavailable actions get about -1e10."""
    return torch.log_softmax(torch.where(avail_actions, logits, UNAVAILABLE), dim=-1)


def entropy(log_pi: Tensor) -> Tensor:
    """Entropy [..] of log pi [.., A]."""
    return -(log_pi.exp() * log_pi).sum(-1)


def choose_actions(
    log_pi: Tensor, keys: NDArray[np.uint64], t: int, *, greedy: bool, epsilon: float = 0.0
) -> Tensor:
    """Actions [N, b] from log pi [N, b, A]: the mode, or a draw that only (battle key, t, agent) decide.

    epsilon: the share of draws that are uniform over the available actions, for greedy play with noise.
    """
    if greedy and not epsilon:
        return log_pi.argmax(-1)
    chances = log_pi.exp()
    if greedy:
        chances = torch.zeros_like(log_pi).scatter_(-1, log_pi.argmax(-1, keepdim=True), 1.0)
    if epsilon:
        legal = (log_pi > UNAVAILABLE / 2).to(log_pi.dtype)
        chances = (1 - epsilon) * chances + epsilon * legal / legal.sum(-1, keepdim=True)
    actions = torch.empty(log_pi.shape[:2], dtype=torch.int64)
    with np.errstate(over="ignore"):  # the hash wraps; only plain Python would warn
        draw(chances.numpy(), keys, t, actions.numpy())
    return actions
