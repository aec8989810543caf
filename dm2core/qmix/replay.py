"""The last episodes that were played, for drawing batches; saved as what they were played from (recall.py)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dm2core.env.vector import make_env
from dm2core.memory import lazy_zeros
from dm2core.qmix.loss import EpisodeBatch
from dm2core.recall import replay_battles
from dm2core.types import EnvSpec

CHUNK = 500  # battles fought again side by side


class Replay:
    """At most `capacity` episodes, the oldest replaced first. Arrays go by episode, so short ones cost little."""

    def __init__(self, spec: EnvSpec, capacity: int, *, repeatable: bool = True) -> None:
        """Battles that are not `repeatable`, the real game's, are saved with all that was seen."""
        self.repeatable = repeatable
        slots, n = spec.episode_limit + 1, spec.n_agents
        self.spec, self.capacity, self.inserted = spec, capacity, 0
        self.obs = lazy_zeros(capacity, slots, n, spec.obs_size, dtype=torch.float32)
        self.avail_actions = lazy_zeros(capacity, slots, n, spec.n_actions, dtype=torch.uint8)
        self.state = lazy_zeros(capacity, slots, spec.state_size, dtype=torch.float32)
        self.actions = torch.zeros(capacity, slots - 1, n, dtype=torch.uint8)
        self.rewards = torch.zeros(capacity, slots - 1)
        self.lengths = torch.zeros(capacity, dtype=torch.int64)
        self.bootstraps = torch.zeros(capacity, dtype=torch.bool)  # its last step, from the final observation
        self.keys = np.zeros(capacity, dtype=np.uint64)
        self.begun = False  # an episode that has not ended lies at the next place

    def __len__(self) -> int:
        return min(self.inserted, self.capacity)

    def begin(self, key: np.uint64) -> int:
        """Make room for an episode; its place, for the caller to write to row by row, `end` when it is over."""
        place = self.inserted % self.capacity
        # An episode that never came to its end, its game lost, may have been written to any row.
        rows = self.spec.episode_limit + 1 if self.begun else int(self.lengths[place]) + 1
        for grid in (self.obs, self.avail_actions, self.state, self.actions, self.rewards):
            grid[place, :rows] = 0
        self.keys[place], self.begun = key, True
        return place

    def end(self, place: int, length: int, *, bootstraps: bool) -> None:
        """The episode at `place` took `length` steps; its last is terminal unless it `bootstraps`."""
        self.lengths[place], self.bootstraps[place] = length, bootstraps
        self.inserted += 1
        self.begun = False

    def batch(self, places: NDArray[np.int64]) -> EpisodeBatch:
        """The episodes at `places` [E], cut to the longest of them."""
        chosen = torch.from_numpy(places)
        length = self.lengths[chosen]
        steps = int(length.max())
        t = torch.arange(steps).unsqueeze(-1)
        terminated = (t == length - 1) & ~self.bootstraps[chosen]

        def rows(grid: Tensor, count: int) -> Tensor:
            return grid[chosen, :count].transpose(0, 1)

        return EpisodeBatch(
            obs=rows(self.obs, steps + 1),
            avail_actions=rows(self.avail_actions, steps + 1).bool(),
            actions=rows(self.actions, steps).long(),
            state=rows(self.state, steps + 1),
            rewards=rows(self.rewards, steps),
            terminated=terminated,
            played=t < length,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything that `load_tensors` needs, as views that the next episode changes."""
        saved = {
            "keys": torch.from_numpy(self.keys.view(np.int64)),
            "actions": self.actions,
            "lengths": self.lengths,
            "bootstraps": self.bootstraps,
            "inserted": torch.tensor(self.inserted),
        }
        return saved if self.repeatable else saved | self._seen()

    def _seen(self) -> dict[str, Tensor]:
        """Views of what the episodes have written of the grids that `actions` alone cannot tell."""
        count, steps = len(self), int(self.lengths.max())
        return {
            "obs": self.obs[:count, : steps + 1],
            "avail_actions": self.avail_actions[:count, : steps + 1],
            "state": self.state[:count, : steps + 1],
            "rewards": self.rewards[:count, :steps],
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`, for a fresh replay: the battles are fought again, if they can be."""
        self.keys[:] = tensors["keys"].numpy().view(np.uint64)
        self.actions[:], self.lengths[:] = tensors["actions"], tensors["lengths"]
        self.bootstraps[:], self.inserted = tensors["bootstraps"], int(tensors["inserted"])
        if not self.repeatable:
            names = list(self._seen())
            for place in range(len(self)):
                self._put(place, {name: tensors[name][place] for name in names})
            return
        for first in range(0, len(self), CHUNK):
            there = slice(first, min(first + CHUNK, len(self)))
            count = there.stop - first
            env = make_env(self.spec.map_name, count)
            played = replay_battles(
                env, self.keys[there], self.actions[there].numpy(), self.lengths[there].numpy(), states=True
            )
            seen = {
                "obs": torch.from_numpy(played.obs),
                "avail_actions": torch.from_numpy(played.avail_actions),
                "state": torch.from_numpy(played.states),
                "rewards": torch.from_numpy(played.rewards),
            }
            for k in range(count):
                self._put(first + k, {name: grid[k] for name, grid in seen.items()})

    def _put(self, place: int, seen: dict[str, Tensor]) -> None:
        """What was seen in the episode at `place`; rows behind its end are not touched."""
        length = int(self.lengths[place])
        for name, values in seen.items():
            rows = length if name == "rewards" else length + 1
            getattr(self, name)[place, :rows] = values[:rows]
