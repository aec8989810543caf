"""A BattleEnv small enough to know by heart: agents are paid for taking the action their observation names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dm2core.types import EnvSpec, Step


class ToyEnv:
    """Battle b lasts 2 + (key mod (limit - 1)) steps, at most the limit; action 0 is never available while alive.

    The observation is a one-hot of the paying action, drawn from (key, t, agent); all must agree to win.
    """

    def __init__(self, num_battles: int, n_agents: int = 2, n_actions: int = 4, limit: int = 6) -> None:
        self.spec = EnvSpec("toy", n_agents, 1, n_actions, n_actions, 1, limit)
        self.num_battles = self.side_by_side = num_battles
        self.obs = np.zeros((num_battles, n_agents, n_actions), dtype=np.float32)
        self.avail_actions = np.zeros((num_battles, n_agents, n_actions), dtype=np.bool_)
        self.alive = np.ones((num_battles, n_agents), dtype=np.bool_)
        self.steps_taken = 0

    def reset(self, keys: NDArray[np.uint64]) -> None:
        self.keys = keys.copy()
        self.t = np.zeros(self.num_battles, dtype=np.int64)
        self.hits = np.zeros(self.num_battles, dtype=np.int64)
        self.avail_actions[:] = True
        self.avail_actions[..., 0] = False
        self._observe(np.arange(self.num_battles))

    def _target(self, battles: NDArray[np.int64]) -> NDArray[np.int64]:
        agents = np.arange(self.spec.n_agents, dtype=np.uint64)
        mixed = (
            (self.keys[battles, None] >> np.uint64(7))
            + agents * np.uint64(5)
            + self.t[battles, None].astype(np.uint64)
        )
        return (1 + mixed % np.uint64(self.spec.n_actions - 1)).astype(np.int64)

    def _observe(self, battles: NDArray[np.int64]) -> None:
        self.obs[battles] = np.eye(self.spec.n_actions, dtype=np.float32)[self._target(battles)]

    def length(self, battles: NDArray[np.int64]) -> NDArray[np.int64]:
        return (2 + self.keys[battles] % np.uint64(self.spec.episode_limit - 1)).astype(np.int64)

    def step(self, actions: NDArray[np.int64], battles: NDArray[np.int64]) -> Step:
        assert not (actions == 0).any()
        self.steps_taken += len(battles)
        right = (actions == self._target(battles)).mean(-1)
        self.hits[battles] += right == 1
        self.t[battles] += 1
        self._observe(battles)
        ended = self.t[battles] >= self.length(battles)
        truncated = self.t[battles] >= self.spec.episode_limit
        won = ended & (self.hits[battles] == self.t[battles])
        zero = np.zeros(len(battles), dtype=np.int32)
        return Step(right.astype(np.float64), ended & ~truncated, truncated, won & ~truncated, zero, zero)

    def state(self) -> NDArray[np.float32]:
        return np.zeros((self.num_battles, 1), dtype=np.float32)
