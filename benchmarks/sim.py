"""Speed of the simulator alone: env steps (joint actions) per CPU second of one thread."""

from __future__ import annotations

import time

import numpy as np

from dm2core.env.scripted import sample_legal
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys


def sim_env_steps_per_s(map_name: str = "5m_vs_6m", battles: int = 64, seconds: float = 3.0) -> float:
    """Random legal actions, their sampling included; finished battles start again at once. Compiling is not timed."""
    env = BattleSim(map_name, battles)
    env.reset(battle_keys(0, "benchmark", 0, battles))
    rows = np.arange(battles, dtype=np.int64)
    actions = np.empty((battles, env.spec.n_agents), dtype=np.int64)

    def run(rounds: int, first: int) -> None:
        for k in range(first, first + rounds):
            sample_legal(rows, env.avail_actions, np.uint64(k * 0x9E3779B9), actions)
            step = env.step(actions, rows)
            ended = rows[step.terminated | step.truncated]
            if ended.size:
                env.reset_battles(battle_keys(k, "benchmark", 0, ended.size), ended)

    run(200, 0)  # compiles, and spreads the battles over their lengths
    done, start = 200, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        run(20, done)
        done += 20
    return (done - 200) * battles / spent
