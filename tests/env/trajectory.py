"""Trajectories under a fixed rule, and their hashes; `python -m tests.env.trajectory MAP STEPS BATTLES` prints one."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
from numpy.typing import NDArray

from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys
from dm2core.types import Step


def rule(env: BattleSim, keys: NDArray[np.uint64], t: int, battles: NDArray[np.int64]) -> NDArray[np.int64]:
    """Legal actions that depend on a battle's key, the step and the agent alone; enemies on offer are liked."""
    avail = env.avail_actions[battles]
    agents = np.arange(env.spec.n_agents, dtype=np.uint64)
    mixed = ((keys[battles, None] >> np.uint64(9)) ^ np.uint64(t * 2654435761)) + agents * np.uint64(40503)
    mixed = (mixed * np.uint64(6364136223846793005)) >> np.uint64(33)
    score = (mixed[..., None] >> np.arange(avail.shape[-1], dtype=np.uint64)) & np.uint64(7)
    liked = score.astype(np.int64) + 4 * (np.arange(avail.shape[-1]) >= 6)
    return np.where(avail, liked, -1).argmax(-1)


def run(
    env: BattleSim, keys: NDArray[np.uint64], steps: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], Step]]:
    """Up to `steps` steps of every battle from `keys`; finished battles are no longer stepped."""
    env.reset(keys)
    live, out = np.arange(env.num_battles, dtype=np.int64), []
    for t in range(steps):
        actions = rule(env, keys, t, live)
        step = env.step(actions, live)
        out.append((live, actions, step))
        live = live[~(step.terminated | step.truncated)]
        if not live.size:
            break
    return out


def digest(map_name: str, steps: int, battles: int) -> str:
    """Hash of all that `run` shows: unit data, observations, state, availability, rewards, ends."""
    env = BattleSim(map_name, battles)
    keys = battle_keys(7, "trajectory", 0, battles)
    seen = hashlib.sha256()
    env.reset(keys)
    live = np.arange(battles, dtype=np.int64)
    for t in range(steps):
        step = env.step(rule(env, keys, t, live), live)
        for part in (
            env.raw,
            env.obs,
            env.avail_actions,
            env.state(),
            step.reward,
            step.terminated,
            step.won,
        ):
            seen.update(np.ascontiguousarray(part).tobytes())
        live = live[~(step.terminated | step.truncated)]
        if not live.size:
            break
    return seen.hexdigest()[:16]


if __name__ == "__main__":
    print(digest(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
