"""Random draws of actions that depend on (battle key, step, agent) alone; shared by both forms of the rollout."""

from __future__ import annotations

import numpy as np

from dm2core.compiler import KERNEL, njit


@njit(**KERNEL)
def uniform(key, t, n_agents, agent):  # type: ignore[no-untyped-def]
    """Number in [0, 1) hashed (SplitMix64) from a battle's key, the step and the agent."""
    z = key ^ np.uint64(0xD1B54A32D192ED03)
    z += np.uint64(0x9E3779B97F4A7C15) * np.uint64(t * n_agents + agent + 1)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) / 9007199254740992.0


@njit(**KERNEL)
def pick(pi, u):  # type: ignore[no-untyped-def]
    """Inverse-CDF draw from pi [A], which need not sum to 1 exactly; an action of probability 0 is never drawn."""
    total = 0.0
    for a in range(pi.size):
        total += pi[a]
    threshold, cumulative, action = u * total, 0.0, 0
    for a in range(pi.size):
        if pi[a] > 0.0:
            cumulative += pi[a]
            action = a
            if cumulative > threshold:
                break
    return action


@njit(**KERNEL)
def draw(pi, keys, t, actions):  # type: ignore[no-untyped-def]
    """Actions [N, b] of pi [N, b, A] for battles of keys [b]."""
    for i in range(pi.shape[0]):
        for b in range(pi.shape[1]):
            actions[i, b] = pick(pi[i, b], uniform(keys[b], t, pi.shape[0], i))
