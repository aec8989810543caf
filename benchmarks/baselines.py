"""Training speed of the baselines that are not independent PPO, one core, per CPU second."""

from __future__ import annotations

import statistics
import time

import torch

from dm2core.config import Config, cell_config
from dm2core.learner import Learner
from dm2core.learners import open_learner
from dm2core.qmix.learner import EPISODES

WARM, TURN = 8, 8  # iterations of QMIX: first updates, and those of a turn


def cpu_rate(learner: Learner, iterations: int) -> float:
    """Env steps per CPU second of the next iterations."""
    before, start = learner.env_steps, time.process_time()
    for _ in range(iterations):
        learner.iterate()
    return (learner.env_steps - before) / (time.process_time() - start)


def _learner(config: Config, map_name: str, method: str) -> Learner:
    torch.set_num_threads(1)
    return open_learner(cell_config(config, map_name=map_name, method=method, seed=0), None)


def warm_qmix(config: Config, map_name: str) -> Learner:
    """A learner of QMIX whose updates have begun."""
    learner = _learner(config, map_name, "qmix")
    cpu_rate(learner, WARM)
    assert learner.iteration * EPISODES > config.qmix.batch_episodes
    return learner


def compare_forms(config: Config, map_name: str, turns: int) -> tuple[float, float, float]:
    """QMIX's env steps per CPU second compiled and in torch, and their ratio: medians over turns."""
    forms = [warm_qmix(config.model_copy(update={"compute": form}), map_name) for form in ("fused", "torch")]
    rates = [[cpu_rate(learner, TURN) for learner in forms] for _ in range(turns)]
    compiled, torch_form = (statistics.median(column) for column in zip(*rates, strict=True))
    return compiled, torch_form, statistics.median(a / b for a, b in rates)


def rmappo_env_steps_per_s(config: Config, map_name: str, iterations: int) -> float:
    """Median over iterations, the first left out."""
    learner = _learner(config, map_name, "rmappo")
    cpu_rate(learner, 1)
    return statistics.median(cpu_rate(learner, 1) for _ in range(iterations))
