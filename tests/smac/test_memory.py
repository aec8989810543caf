"""What learners keep of battles that cannot be fought again, as the real game's cannot: saved whole, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dm2core.env import scripted
from dm2core.env.vector import BattleSim
from dm2core.nets import Actor
from dm2core.own_best import OwnBest
from dm2core.qmix.replay import Replay
from dm2core.records import checkpoint
from dm2core.rng import battle_keys
from dm2core.rollout import collect
from dm2core.types import BattleEnv


def fill(replay: Replay, episodes: int) -> None:
    env, here, act = BattleSim("3m", 1), np.zeros(1, dtype=np.int64), scripted.focus_fire
    for episode in range(episodes):
        keys = battle_keys(1, "test", episode, 1)
        env.reset(keys)
        place, over = replay.begin(keys[0]), False
        for t in range(env.spec.episode_limit + 1):
            replay.obs[place, t] = torch.from_numpy(env.obs[0])
            replay.avail_actions[place, t] = torch.from_numpy(env.avail_actions[0])
            replay.state[place, t] = torch.from_numpy(env.state()[0])
            if over:
                break
            actions = act(env, here)
            step = env.step(actions, here)
            replay.actions[place, t], replay.rewards[place, t] = (
                torch.from_numpy(actions[0]),
                float(step.reward[0]),
            )
            over = bool(step.terminated[0] or step.truncated[0])
        replay.end(place, t, bootstraps=bool(step.truncated[0]))


def test_a_replay_of_the_game_reads_back_without_fighting() -> None:
    spec = BattleSim("3m", 1).spec
    saved, read = (Replay(spec, 5, repeatable=False) for _ in range(2))
    fill(saved, 7)
    read.keys[:] = 99  # nothing is taken from the keys
    tensors = {key: value.clone() for key, value in saved.tensors().items()}
    tensors["keys"].zero_()
    read.load_tensors(tensors)
    places = np.array([4, 0, 2])
    one, other = saved.batch(places), read.batch(places)
    for name in vars(one):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert (
        tensors["obs"].shape[1] == int(saved.lengths.max()) + 1 < spec.episode_limit
    )  # only what was written


def test_a_replay_is_checked_and_saved_without_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The game's is gigabytes of observations, and the state is gone through after every iteration."""
    replay = Replay(BattleSim("3m", 1).spec, 5, repeatable=False)
    fill(replay, 5)
    replay.lengths[0] = replay.spec.episode_limit  # all rows are saved
    lies = {name: tensor.data_ptr() for name, tensor in replay.tensors().items() if name != "inserted"}
    grids = {name: getattr(replay, name) for name in lies if name != "keys"}
    assert lies == {name: grid.data_ptr() for name, grid in grids.items()} | {"keys": replay.keys.ctypes.data}
    given: dict[str, int] = {}

    def save(tensors: dict[str, Tensor], _: dict[str, str]) -> bytes:
        given.update({name: tensor.data_ptr() for name, tensor in tensors.items()})
        return b""

    monkeypatch.setattr(checkpoint, "save_safetensors", save)
    checkpoint.save_checkpoint(tmp_path, checkpoint.Progress("d", 1, 5, 0, "", 9), replay.tensors())
    assert given == given | lies


def test_own_best_episodes_of_the_game_read_back_without_fighting() -> None:
    env: BattleEnv = BattleSim("3m", 6)
    spec = env.spec
    actor = Actor(spec.n_agents, spec.obs_size + spec.n_actions + spec.n_agents, spec.n_actions, 16)
    keys = battle_keys(1, "test", 0, 6)
    rollout = collect(env, actor, None, keys)
    saved, read = (OwnBest(spec, 8, torch.float32, terminal_row=True, repeatable=False) for _ in range(2))
    saved.push(rollout, keys, 0.99)
    tensors = saved.tensors()
    tensors["keys"].zero_()
    read.load_tensors(tensors)
    one, other = saved.episodes(), read.episodes()
    assert torch.equal(one.obs, other.obs)
    assert (one.start == other.start).all() and (one.length == other.length).all()
