"""Masked categorical policies: log-probabilities, entropy, and sampling that does not depend on the batch."""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UNAVAILABLE = -1e10  # logit of an action that cannot be taken (on-policy distributions.py)


def masked_log_softmax(logits: Tensor, avail_actions: Tensor) -> Tensor:
    """log pi [.., A]; unavailable actions get about -1e10."""
    return torch.log_softmax(torch.where(avail_actions, logits, UNAVAILABLE), dim=-1)


def entropy(log_pi: Tensor) -> Tensor:
    """Entropy [..] of log pi [.., A]."""
    return -(log_pi.exp() * log_pi).sum(-1)


def choose_actions(log_pi: Tensor, keys: NDArray[np.uint64], t: int, *, greedy: bool) -> Tensor:
    """Actions [N, b] from log pi [N, b, A]: the mode, or a draw that only (battle key, t, agent) decide."""
    if greedy:
        return log_pi.argmax(-1)
    return torch.from_numpy(_draw(log_pi.exp().numpy(), keys, t))


@numba.njit(cache=True)
def _draw(pi, keys, t):  # type: ignore[no-untyped-def]
    """Inverse-CDF draw per agent and battle, its uniform number hashed (splitmix64) from key, step and agent."""
    n_agents, battles, n_actions = pi.shape
    actions = np.zeros((n_agents, battles), dtype=np.int64)
    for i in range(n_agents):
        for b in range(battles):
            z = keys[b] ^ np.uint64(0xD1B54A32D192ED03)
            z += np.uint64(0x9E3779B97F4A7C15) * np.uint64(t * n_agents + i + 1)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            total = 0.0
            for a in range(n_actions):
                total += pi[i, b, a]
            threshold = np.float64(z >> np.uint64(11)) / 9007199254740992.0 * total
            cumulative = 0.0
            for a in range(n_actions):
                if pi[i, b, a] > 0.0:
                    cumulative += pi[i, b, a]
                    actions[i, b] = a
                    if cumulative > threshold:
                        break
    return actions
