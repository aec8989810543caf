"""The updates against what the core can do: executed multiply-adds per second, over those of a large matrix product."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from dm2core.config import CellConfig, Config, cell_config
from dm2core.demonstrations import of_rollout
from dm2core.discriminator import BACKENDS
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.pairs import Pairs, draw_pairs, policy_episodes
from dm2core.ppo import Batch, make_batch, minibatch_step
from dm2core.rng import battle_keys
from dm2core.rollout import collect
from dm2core.rows import Rows, training_rows


def best_rate(work: Callable[[], object], flop: float, repeats: int = 7) -> float:
    """FLOP per CPU second, best of several: the machine may be shared."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return flop / min(times)


def product_peak() -> float:
    """FLOP per CPU second of one thread: the best of numpy's and torch's product of two 1,024 x 1,024 matrices."""
    a = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    t = torch.from_numpy(a)
    return max(best_rate(work, 2 * 1024**3) for work in (lambda: a @ a, lambda: t @ t))


def update_share_of_peak(config: Config, map_name: str) -> dict[str, float]:
    """Shares of the peak that one PPO step and one discriminator step reach, and the peak in GFLOP/s."""
    cell = cell_config(config, map_name=map_name, method="dm2", seed=0, demos="benchmark")
    env = make_env(map_name, cell.map_params.episodes_per_update)
    ippo = Dm2(cell_config(config, map_name=map_name, method="ippo", seed=0), env).learners
    keys = battle_keys(0, "benchmark", 0, env.num_battles)
    rollout = collect(env, ippo.actor, ippo.critic, keys, compute=cell.compute)
    state = Dm2(cell, env, of_rollout(rollout, map_name))
    rows = training_rows(rollout, cell.switches)
    rewards = rollout.rewards.unsqueeze(-1).expand(-1, -1, env.spec.n_agents)
    batch = make_batch(state.learners, rows, rewards, cell.ppo, cell.switches)
    clip = cell.map_params.clip_eps
    switches = cell.switches.model_copy(update={"value_clip": "off"})  # else some rows have no backward pass

    def ppo() -> object:
        return minibatch_step(state.learners, rows, batch, batch.trained, cell.ppo, switches, clip)

    assert cell.discriminator is not None
    assert state.disc is not None
    episodes = policy_episodes(rollout, torch.float32, terminal_row=cell.switches.terminal_row)
    g = torch.Generator().manual_seed(0)
    slots = env.spec.episode_limit + 1
    pairs = draw_pairs(episodes, episodes, slots, cell.discriminator, cell.switches, g)
    disc, step = state.disc, BACKENDS[cell.compute]
    peak = product_peak()
    return {
        "ppo": best_rate(ppo, _ppo_flop(rows, batch, cell)) / peak,
        "discriminator": best_rate(lambda: step(disc, pairs, 10.0), _disc_flop(pairs, cell)) / peak,
        "peak_gflops": peak / 1e9,
    }


def _ppo_flop(rows: Rows, batch: Batch, cell: CellConfig) -> float:
    """Multiply-adds of the products that one step needs, times two; padding of widths is not counted."""
    H, F, A = cell.ppo.hidden_size, rows.x.shape[2], rows.avail_actions.shape[2]
    below, above = (
        F * H + H * H + 3 * H * H,
        3 * H * H,
    )  # forward; backward: as much, and the inputs' gradients
    total = 0.0
    row = batch.row[batch.trained]
    for i in range(rows.x.shape[0]):
        acting = int(rows.choice[i][row].sum())
        real = row[row != rows.padding]
        dead = int(rows.dead_input[i][real].sum())
        total += acting * (2 * (below + above + A * H) + 4 * H * H + A * H)
        total += (len(real) - dead) * (2 * (below + above + H) + 4 * H * H + H)
        total += dead * (2 * above + 3 * H)
    return 2 * total


def _disc_flop(pairs: Pairs, cell: CellConfig) -> float:
    assert cell.discriminator is not None
    H, O = cell.discriminator.hidden_size, pairs.expert.obs.shape[1]  # noqa: E741
    single, double = 2 * (O * H + H * H) + H * H, (2 * O + 2 * H + H) * H + (2 * O + 4 * H) * H
    e, p = ~pairs.expert.empty[pairs.expert_rows], ~pairs.policy.empty[pairs.policy_rows]
    return 2.0 * float((e.sum() + p.sum()) * single + (e | p).sum() * double)


_CHILD = """
import json, sys
from benchmarks.learning import env_steps_per_s
from benchmarks.update import peak_memory_mb
from dm2core.config import load_config
config = load_config("config/config.yaml", {"scale": "paper"})
rate = env_steps_per_s(config, sys.argv[1], sys.argv[2], int(sys.argv[3]))
print(json.dumps([rate, peak_memory_mb()]))
"""


def peak_memory_mb() -> float:
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cells_side_by_side(map_name: str, method: str, count: int, iterations: int) -> list[tuple[float, float]]:
    """(env steps per second, peak memory in MB) of each of `count` cells run at the same time."""
    command = [sys.executable, "-c", _CHILD, map_name, method, str(iterations)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [tuple(json.loads(process.communicate()[0])) for process in running]


def two_cells_speedup(map_name: str, iterations: int, repeats: int = 3) -> float:
    """Env steps per second of two cells at once over those of one, median of alternating runs."""
    ratios = []
    for _ in range(repeats):
        one = cells_side_by_side(map_name, "dm2", 1, iterations)[0][0]
        ratios.append(sum(rate for rate, _ in cells_side_by_side(map_name, "dm2", 2, iterations)) / one)
    return statistics.median(ratios)
