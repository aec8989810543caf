"""Speed of the simulator alone: env steps (joint actions) of one thread, random legal actions."""

from __future__ import annotations

import statistics
import time

import numpy as np

from dm2core.env.scripted import sample_legal
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys

_KEYS = 1 << 16  # more than any run here uses


class Player:
    """`battles` battles played by random legal actions; a finished battle starts again at once."""

    def __init__(self, map_name: str, battles: int) -> None:
        self.env = BattleSim(map_name, battles)
        self._keys = battle_keys(0, "benchmark", 0, _KEYS)
        self._rows = np.arange(battles, dtype=np.int64)
        self._actions = np.empty((battles, self.env.spec.n_agents), dtype=np.int64)
        self._round, self._started = 0, battles
        self.env.reset(self._keys[:battles])
        self._play(200)  # compiles, and spreads the battles over their lengths

    def _play(self, rounds: int) -> None:
        env, rows, actions = self.env, self._rows, self._actions
        for k in range(self._round, self._round + rounds):
            sample_legal(rows, env.avail_actions, np.uint64(k * 0x9E3779B9), actions)
            step = env.step(actions, rows)
            ended = rows[step.terminated | step.truncated]
            if ended.size:
                first = self._started % (_KEYS - rows.size)
                env.reset_battles(self._keys[first : first + ended.size], ended)
                self._started += ended.size
        self._round += rounds

    def measure(self, seconds: float = 0.5) -> dict[str, float]:
        """Play for about `seconds`: env steps, CPU and wall seconds. Sampling, observations and resets are included."""
        before, wall, cpu = self._round, time.perf_counter(), time.process_time()
        rounds = max(1, 1280 // self.env.num_battles)
        while (spent := time.process_time() - cpu) < seconds:
            self._play(rounds)
        steps = (self._round - before) * self.env.num_battles
        return {"env_steps": steps, "cpu_s": spent, "wall_s": time.perf_counter() - wall}


def per_cpu_second(took: list[dict[str, float]]) -> float:
    """Median of env steps per CPU second."""
    return statistics.median(one["env_steps"] / one["cpu_s"] for one in took)


def sim_env_steps_per_s(map_name: str = "5m_vs_6m", battles: int = 64, repetitions: int = 7) -> float:
    """Env steps per CPU second of one thread, median."""
    player = Player(map_name, battles)
    return per_cpu_second([player.measure() for _ in range(repetitions)])
