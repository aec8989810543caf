"""Hashes of long random play; `python -m tests.env.long_run STEPS BATTLES MAP...` prints one line per map.

STREAMS endless sequences of episodes, each with its own keys and its own actions, are played BATTLES at a time. Every
stream is hashed by itself and the hashes are joined in order, so BATTLES must change nothing.
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys

STREAMS = 64
EPISODES = 4096  # keys of a stream; they come round again if it plays more
CHUNK = 64  # steps that are hashed at once
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@njit
def _draw(keys: NDArray[np.uint64], t: int, avail: NDArray[np.bool_], out: NDArray[np.int64]) -> None:
    """Uniform legal actions [b, A] that depend on a stream's key, the step and the agent alone."""
    for b in range(avail.shape[0]):
        for i in range(avail.shape[1]):
            z = keys[b] + np.uint64(t * avail.shape[1] + i) * _GAMMA
            z = (z ^ (z >> np.uint64(30))) * _MIX
            left = (z >> np.uint64(32)) % np.uint64(avail[b, i].sum())
            for a in range(avail.shape[2]):
                if avail[b, i, a]:
                    if left == np.uint64(0):
                        out[b, i] = a
                        break
                    left -= np.uint64(1)


def play_and_hash(map_name: str, env_steps: int, battles: int) -> str:
    """Hash of `env_steps` env steps, all streams together, rounded up to whole chunks."""
    rounds = -(-env_steps // (STREAMS * CHUNK)) * CHUNK
    keys = battle_keys(11, "long run", 0, STREAMS * EPISODES).reshape(STREAMS, EPISODES)
    parts = []
    for first in range(0, STREAMS, battles):
        parts += _streams(map_name, keys[first : first + battles], rounds)
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _streams(map_name: str, keys: NDArray[np.uint64], rounds: int) -> list[bytes]:
    """Hash of each stream [b] of keys [b, EPISODES] over `rounds` steps."""
    count = len(keys)
    env, rows, episode = BattleSim(map_name, count), np.arange(count), np.zeros(count, dtype=np.int64)
    actions, seen = np.zeros((count, env.spec.n_agents), dtype=np.int64), [hashlib.sha256() for _ in rows]
    env.reset(keys[:, 0].copy())
    live = (env.raw, env.obs, env.avail_actions, env.alive)
    kept = [np.zeros((count, CHUNK, *part.shape[1:]), part.dtype) for part in live]
    result = np.zeros((count, CHUNK, 6))
    for t in range(rounds):
        _draw(keys[:, 0], t, env.avail_actions, actions)
        step = env.step(actions, rows)
        k = t % CHUNK
        for box, part in zip(kept, live, strict=True):
            box[:, k] = part
        result[:, k, 0], result[:, k, 1], result[:, k, 2] = step.reward, step.terminated, step.truncated
        result[:, k, 3], result[:, k, 4], result[:, k, 5] = step.won, step.dead_allies, step.dead_enemies
        if k == CHUNK - 1:
            for b in range(count):
                for box in (*kept, result):
                    seen[b].update(box[b].tobytes())
        ended = rows[step.terminated | step.truncated]
        if ended.size:
            episode[ended] += 1
            env.reset_battles(keys[ended, episode[ended] % EPISODES], ended)
    return [one.digest() for one in seen]


if __name__ == "__main__":
    for name in sys.argv[3:]:
        print(name, play_and_hash(name, int(sys.argv[1]), int(sys.argv[2])), flush=True)
