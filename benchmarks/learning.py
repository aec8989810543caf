"""End-to-end training speed of one cell on one core: collect, update discriminators, update policies."""

from __future__ import annotations

import statistics
import time

import torch

from dm2core.config import Config, cell_config
from dm2core.demonstrations import of_rollout
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.rng import battle_keys
from dm2core.rollout import collect


def learner_for(config: Config, map_name: str, method: str) -> Dm2:
    """A cell's learner before its first iteration.

    DM2's demonstrations are 1000 episodes of an untrained team: the cost depends on their lengths, not on their skill.
    """
    cell = cell_config(
        config, map_name=map_name, method=method, seed=0, demos="none" if method == "ippo" else "benchmark"
    )
    demonstrations = None
    if method == "dm2":
        player = Dm2(cell_config(config, map_name=map_name, method="ippo", seed=0), make_env(map_name, 1))
        keys = battle_keys(1, "benchmark", 0, 1000)
        played = collect(make_env(map_name, 1000), player.policy, None, keys, compute=cell.compute)
        demonstrations = of_rollout(played, map_name)
    return Dm2(cell, make_env(map_name, cell.map_params.episodes_per_update), demonstrations)


def env_steps_per_s(config: Config, map_name: str, method: str, iterations: int) -> float:
    """Median over iterations of env steps per second of wall time, one torch thread."""
    torch.set_num_threads(1)
    learner = learner_for(config, map_name, method)
    learner.iterate()  # compiles and fills caches
    rates = []
    for _ in range(iterations):
        before, start = learner.env_steps, time.perf_counter()
        learner.iterate()
        rates.append((learner.env_steps - before) / (time.perf_counter() - start))
    return statistics.median(rates)
