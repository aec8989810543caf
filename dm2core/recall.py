"""Episodes as what they were played from: a battle is a function of its key and the actions taken in it.

An episode of 70 steps of five agents is 350 bytes so, and 80 kB as observations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dm2core.types import BattleEnv


@dataclass(frozen=True)
class Replayed:
    """B battles fought again; rows t <= lengths[b] are the battle's, later ones are zero."""

    obs: NDArray[np.float32]  # [B, L+1, N, O]
    avail_actions: NDArray[np.bool_]  # [B, L+1, N, A]
    rewards: NDArray[np.float32]  # [B, L]
    states: NDArray[np.float32]  # [B, L+1, S]; S = 0 unless asked for
    won: NDArray[np.bool_]  # [B] on their last step


def replay_battles(
    env: BattleEnv,
    keys: NDArray[np.uint64],
    actions: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    *,
    states: bool = False,
) -> Replayed:
    """Fight battles again: keys [B], actions [B, >= L, N] of which the first lengths[b] steps count.

    `env` has B battles of the map they were fought on. ValueError from `env.step` if an action is not available there.
    """
    spec, battles = env.spec, len(keys)
    shape = (battles, spec.episode_limit + 1, spec.n_agents)
    out = Replayed(
        np.zeros((*shape, spec.obs_size), dtype=np.float32),
        np.zeros((*shape, spec.n_actions), dtype=np.bool_),
        np.zeros((battles, spec.episode_limit), dtype=np.float32),
        np.zeros((*shape[:2], spec.state_size * states), dtype=np.float32),
        np.zeros(battles, dtype=np.bool_),
    )
    if battles == 0:
        return out
    env.reset(keys)
    live = np.arange(battles)
    for t in range(int(lengths.max()) + 1):
        out.obs[live, t], out.avail_actions[live, t] = env.obs[live], env.avail_actions[live]
        if states:
            out.states[live, t] = env.state()[live]
        live = live[lengths[live] > t]
        if live.size:
            step = env.step(actions[live, t].astype(np.int64), live)
            out.rewards[live, t], out.won[live] = step.reward, step.won
    return out
