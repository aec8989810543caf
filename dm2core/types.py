"""The data that flows between modules. Letters: T time, B battles, N agents, E enemies, O obs, S state, A actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EnvSpec:
    """Sizes of one map's interface, of what SMAC returns; `get_env_info()` reports fewer under two options (env.md)."""

    map_name: str
    n_agents: int
    n_enemies: int
    n_actions: int
    obs_size: int
    state_size: int
    episode_limit: int  # env steps; a battle that reaches it is truncated


@dataclass(frozen=True)
class Step:
    """What one env step returned for the b battles that were stepped."""

    reward: NDArray[np.float64]  # [b] SMAC's shaped team reward, scaled so that a won battle sums to about 20
    terminated: NDArray[np.bool_]  # [b] won, lost or drawn on this step
    truncated: NDArray[np.bool_]  # [b] the time limit ended the battle (never together with terminated)
    won: NDArray[np.bool_]  # [b] the last enemy died on this step, at least one ally is alive
    dead_allies: NDArray[np.int32]  # [b]
    dead_enemies: NDArray[np.int32]  # [b]
    # [b] the real game failed: nothing of the battle counts, it must be played again. None: it cannot happen.
    discarded: NDArray[np.bool_] | None = None


class Grids(NamedTuple):
    """What players write while they play; row t is step t of every battle (rollout.py: Rollout)."""

    actions: NDArray[np.int64]  # [L+1, B, N]
    log_probs: NDArray[np.floating]  # [L+1, B, N]
    values: NDArray[np.floating]  # [L+1, B, N]
    h_actor: NDArray[np.floating]  # [L+1, B, N, H]
    h_critic: NDArray[np.floating]  # [L+1, B, N, H]


class BattleEnv(Protocol):
    """B battles of one map side by side. The arrays below are live views, rewritten by `reset` and `step`."""

    spec: EnvSpec
    num_battles: int
    side_by_side: int  # how many of them can be under way at once; the simulator: all
    obs: NDArray[np.float32]  # [B, N, O]
    avail_actions: NDArray[np.bool_]  # [B, N, A]
    alive: NDArray[np.bool_]  # [B, N]

    def reset(self, keys: NDArray[np.uint64]) -> None:
        """Start battle b from random stream `keys[b]` ([B] uint64, from `rng.battle_keys`)."""

    def reset_battles(self, keys: NDArray[np.uint64], battles: NDArray[np.int64]) -> None:
        """Start the listed battles ([b], at most `side_by_side`), battles[n] from keys[n] ([b] uint64)."""

    def step(self, actions: NDArray[np.int64], battles: NDArray[np.int64]) -> Step:
        """Advance the battles listed in `battles` ([b], distinct) by `actions` ([b, N]); others stand still.

        Raises ValueError naming battle, agent and action if an action is not available.
        """

    def state(self) -> NDArray[np.float32]:
        """Global state [B, S]."""
