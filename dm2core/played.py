"""Whole battles of a team, from which demonstrations are taken, and their file: a small part of the observations.

battles.npz holds what the battles were played from, their keys and every agent's actions; the simulator fights them
again (`dm2 recall-demos`). So demonstrations can be kept where neither their experts nor their observations are.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dm2core.demonstrations import AgentDemos, read_arrays
from dm2core.env.vector import make_env
from dm2core.errors import DataError
from dm2core.recall import replay_battles

BATTLES = 250  # fought side by side
FIELDS = {"agents": "int64", "first": "int64", "keys": "uint64", "lengths": "int64", "actions": "uint8"}


@dataclass(frozen=True)
class Played:
    """K battles of N agents, seen by A of them; an episode of T steps has T+1 rows, the last its final observation."""

    agents: tuple[int, ...]  # whose demonstrations these battles are
    first: int  # number of the first battle
    keys: NDArray[np.uint64]  # [K]
    obs: list[NDArray[np.float32]]  # per episode [T+1, A, O], of these agents alone
    actions: list[NDArray[np.int64]]  # per episode [T+1, N]
    won: NDArray[np.bool_]  # [K]
    episode_return: NDArray[np.float32]  # [K]

    def view(self, agent: int) -> AgentDemos:
        """What one agent saw and did."""
        place = self.agents.index(agent)
        return AgentDemos(
            obs=np.concatenate([o[:, place] for o in self.obs]),
            actions=np.concatenate([a[:, agent] for a in self.actions]),
            lengths=np.array([len(o) - 1 for o in self.obs], dtype=np.int64),
            won=self.won,
            episode_return=self.episode_return,
            battle=np.arange(self.first, self.first + len(self.obs)),
        )


def episode_returns(rewards: NDArray[np.float32]) -> NDArray[np.float32]:
    """[B] sums of task rewards [L, B], in double precision: neither the block nor the processor shows in them."""
    total: NDArray[np.float64] = np.ascontiguousarray(rewards, dtype=np.float64).sum(0)
    return total.astype(np.float32)


def views(plays: Sequence[Played]) -> list[AgentDemos]:
    """Every agent's demonstrations, agent 0 first."""
    found = {agent: played.view(agent) for played in plays for agent in played.agents}
    return [found[agent] for agent in sorted(found)]


def pack_battles(plays: Sequence[Played]) -> bytes:
    """The bytes of battles.npz."""
    arrays: dict[str, Any] = {}
    for i, played in enumerate(plays):
        arrays |= {
            f"play{i}/agents": np.array(played.agents, dtype=np.int64),
            f"play{i}/first": np.array(played.first, dtype=np.int64),
            f"play{i}/keys": played.keys,
            f"play{i}/lengths": np.array([len(a) - 1 for a in played.actions], dtype=np.int64),
            f"play{i}/actions": np.concatenate(played.actions).astype(np.uint8),
        }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def fight_again(file: Path, map_name: str) -> list[Played]:
    """The battles of a file of `pack_battles`, with what was seen and earned in them.

    DataError if the file is none, or its actions are not possible in this simulator's battles of that map.
    """
    arrays = read_arrays(file)
    plays = []
    for i in range(sum(name.endswith("/keys") for name in arrays)):
        try:
            found = {name: arrays[f"play{i}/{name}"] for name in FIELDS}
        except KeyError as error:
            raise DataError(f"{file}: not a file of battles (no {error.args[0]})") from None
        if any(found[name].dtype != kind for name, kind in FIELDS.items()):
            raise DataError(f"{file}: has arrays of a wrong type; they must be {FIELDS}")
        try:
            plays.append(_fight(map_name, **found))
        except (ValueError, IndexError):
            raise DataError(
                f"{file}: its battles cannot be fought on {map_name} by this version of the simulator"
            ) from None
    if not plays:
        raise DataError(f"{file}: holds no battles")
    return plays


def _fight(
    map_name: str,
    agents: NDArray[np.int64],
    first: NDArray[np.int64],
    keys: NDArray[np.uint64],
    lengths: NDArray[np.int64],
    actions: NDArray[np.uint8],
) -> Played:
    """ValueError or IndexError if the arrays do not fit each other, the map or the battles."""
    env = make_env(map_name, min(BATTLES, len(keys)))
    spec, ends = env.spec, np.cumsum(lengths + 1)
    if lengths.min() < 1 or lengths.max() > spec.episode_limit or actions.shape != (ends[-1], spec.n_agents):
        raise ValueError("lengths")
    rows = np.split(actions, ends[:-1])
    obs: list[NDArray[np.float32]] = []
    won, returns = [], []
    for at in range(0, len(keys), BATTLES):
        block = slice(at, at + BATTLES)
        taken = np.zeros((len(keys[block]), spec.episode_limit + 1, spec.n_agents), dtype=np.uint8)
        for b, steps in enumerate(rows[block]):
            taken[b, : len(steps)] = steps
        if len(taken) != env.num_battles:
            env = make_env(map_name, len(taken))
        fought = replay_battles(env, keys[block], taken, lengths[block])
        obs += [fought.obs[b, : steps + 1][:, agents] for b, steps in enumerate(lengths[block].tolist())]
        won.append(fought.won)
        returns.append(episode_returns(fought.rewards.T))
    return Played(
        agents=tuple(agents.tolist()),
        first=int(first),
        keys=keys,
        obs=obs,
        actions=[steps.astype(np.int64) for steps in rows],
        won=np.concatenate(won),
        episode_return=np.concatenate(returns),
    )
