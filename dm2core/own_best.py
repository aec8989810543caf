"""Self-imitation: the team's own best episodes take the place of demonstrations.

A heap of whole episodes ordered by discounted team return; when it is full, the worst gives way to the newest, whatever
that is worth (gail_learner.py, PriorityBatchStorage). Every agent keeps the same episodes, its own view of them.
"""

from __future__ import annotations

import heapq

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dm2core.env.vector import make_env
from dm2core.pairs import Episodes
from dm2core.recall import replay_battles
from dm2core.rollout import Rollout
from dm2core.types import EnvSpec


class OwnBest:
    """At most `capacity` episodes. Kept as observations in memory, saved as what they were played from."""

    def __init__(
        self,
        spec: EnvSpec,
        capacity: int,
        dtype: torch.dtype,
        *,
        terminal_row: bool,
        repeatable: bool = True,
    ) -> None:
        """Battles that are not `repeatable`, the real game's, are saved with their observations."""
        self.spec, self.terminal_row, self.repeatable = spec, terminal_row, repeatable
        slots, n_agents = spec.episode_limit + 1, spec.n_agents
        self._obs = torch.zeros(n_agents * capacity * slots + 1, spec.obs_size, dtype=dtype)
        self._view = self._obs[:-1].view(n_agents, capacity, slots, spec.obs_size)
        self._keys = np.zeros(capacity, dtype=np.uint64)
        self._actions = np.zeros((capacity, slots, n_agents), dtype=np.uint8)
        self._lengths = np.zeros(capacity, dtype=np.int64)
        self._returns = np.zeros(capacity)
        self._order = np.full(capacity, -1, dtype=np.int64)  # when it was pushed; -1: nothing there
        self._heap: list[tuple[float, int, int]] = []  # (return, order, place)
        self._pushed = 0

    def push(self, rollout: Rollout, keys: NDArray[np.uint64], gamma: float) -> None:
        """Add a rollout's episodes in the order of its battles."""
        discount = gamma ** torch.arange(len(rollout.rewards), dtype=torch.float64)
        returns = (discount @ rollout.rewards.double()).tolist()
        taken: dict[int, int] = {}  # place -> battle that ends up there
        for battle, value in enumerate(returns):
            full = len(self._heap) == len(self._order)
            place = heapq.heappop(self._heap)[2] if full else len(self._heap)
            heapq.heappush(self._heap, (value, self._pushed, place))
            self._returns[place], self._order[place] = value, self._pushed
            taken[place] = battle
            self._pushed += 1
        places, battles = np.array(list(taken)), np.array(list(taken.values()))
        self._keys[places] = keys[battles]
        self._actions[places] = rollout.actions[:, battles].permute(1, 0, 2).numpy()
        self._lengths[places] = rollout.lengths[battles].numpy()
        self._view[:, places] = rollout.obs[:, battles].permute(2, 1, 0, 3).to(self._obs.dtype)

    def episodes(self) -> Episodes:
        """What there is, as discriminators read it."""
        n_agents, capacity, slots, _ = self._view.shape
        start = np.arange(n_agents * capacity, dtype=np.int64).reshape(n_agents, capacity) * slots
        there = np.flatnonzero(self._order >= 0)
        length = np.tile(self._lengths[there] + int(self.terminal_row), (n_agents, 1))
        return Episodes(self._obs, start[:, there], length)

    def tensors(self) -> dict[str, Tensor]:
        """Copies of everything, observations only where the battles cannot be fought again."""
        there = np.flatnonzero(self._order >= 0)
        seen = {} if self.repeatable else {"obs": self._view[:, there].clone()}
        return seen | {
            "keys": torch.from_numpy(self._keys.view(np.int64).copy()),
            "actions": torch.from_numpy(self._actions.copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
            "returns": torch.from_numpy(self._returns.copy()),
            "order": torch.from_numpy(self._order.copy()),
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`: the battles are fought again for their observations, if they can be."""
        self._keys[:] = tensors["keys"].numpy().view(np.uint64)
        for name in ("actions", "lengths", "returns", "order"):
            getattr(self, f"_{name}")[:] = tensors[name].numpy()
        there = np.flatnonzero(self._order >= 0)
        self._heap = [(float(self._returns[k]), int(self._order[k]), int(k)) for k in there]
        heapq.heapify(self._heap)
        self._pushed = int(self._order.max(initial=-1)) + 1
        if not self.repeatable:
            self._view[:, there] = tensors["obs"]
            return
        env = make_env(self.spec.map_name, max(len(there), 1))
        played = replay_battles(env, self._keys[there], self._actions[there], self._lengths[there])
        self._view[:, there] = torch.from_numpy(played.obs).permute(2, 0, 1, 3).to(self._obs.dtype)
