"""Against the authors' released code, given a checkout: their rollout and their update on the battles we recorded.

The game is free of charge for them (benchmarks/authors_child.py); our figures pay for the simulator.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dm2core.config import Config, cell_config
from dm2core.demonstrations import of_rollout
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.rng import battle_keys
from dm2core.rollout import Rollout, collect


def compare(config: Config, map_name: str, checkout: Path, repeats: int) -> dict[str, float]:
    """Ratios of env steps per CPU second, ours over theirs, one thread each, medians; and theirs."""
    torch.set_num_threads(1)
    ippo = cell_config(config, map_name=map_name, method="ippo", seed=0)
    battles = ippo.map_params.episodes_per_update
    player = Dm2(ippo, make_env(map_name, 1))
    rollout = collect(make_env(map_name, battles), player.policy, None, battle_keys(0, "peer", 0, battles))
    shown = collect(make_env(map_name, 1000), player.policy, None, battle_keys(1, "peer", 0, 1000))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.npz"
        _record(rollout, shown, make_env(map_name, 1).spec.state_size, path)
        theirs = {kind: _child(checkout, path, kind, repeats) for kind in ("mixed", "env")}
    ours = {
        "mixed": _ours(Dm2(cell_config(config, map_name=map_name, method="dm2", seed=0, demos="shown"),
                           make_env(map_name, battles), of_rollout(shown, map_name)), repeats),
        "env": _ours(Dm2(ippo, make_env(map_name, battles)), repeats),
    }  # fmt: skip
    their_rollout = [theirs["env"]["env_steps"] / s for s in theirs["env"]["rollout_s"]]
    their_update = [theirs["mixed"]["env_steps"] / s for s in theirs["mixed"]["update_s"]]
    whole = {
        kind: statistics.median(
            run["env_steps"] / (a + b) for a, b in zip(run["rollout_s"], run["update_s"], strict=True)
        )
        for kind, run in theirs.items()
    }
    our_rollout, our_update, our_whole = (
        {kind: statistics.median(rates[part] for rates in runs) for kind, runs in ours.items()}
        for part in ("rollout", "update", "whole")
    )
    return {
        "authors_rollout_env_steps_per_s": statistics.median(their_rollout),
        "authors_dm2_env_steps_per_s": whole["mixed"],
        "authors_ippo_env_steps_per_s": whole["env"],
        "rollout_vs_authors": our_rollout["env"] / statistics.median(their_rollout),
        "update_vs_authors": our_update["mixed"] / statistics.median(their_update),
        "dm2_vs_authors": our_whole["mixed"] / whole["mixed"],
        "ippo_vs_authors": our_whole["env"] / whole["env"],
    }


def _record(rollout: Rollout, shown: Rollout, state_size: int, path: Path) -> None:
    np.savez(
        path,
        obs=rollout.obs.transpose(0, 1).numpy(),
        avail=rollout.avail_actions.transpose(0, 1).numpy().astype(np.int32),
        reward=rollout.rewards.T.numpy(),
        lengths=rollout.lengths.numpy(),
        expert_obs=shown.obs.transpose(0, 1).numpy(),
        state_size=state_size,
    )


def _child(checkout: Path, recording: Path, kind: str, repeats: int) -> dict[str, list[float]]:
    child = Path(__file__).with_name("authors_child.py")
    command = [sys.executable, str(child), str(checkout), str(recording), kind, str(repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def _ours(learner: Dm2, repeats: int) -> list[dict[str, float]]:
    """Env steps per CPU second of the rollout alone, of everything else, and of both."""
    learner.iterate()  # compiles and fills caches
    out = []
    for _ in range(repeats):
        keys = battle_keys(2, "peer", learner.iteration * learner.env.num_battles, learner.env.num_battles)
        start = time.process_time()
        played = collect(
            learner.env, learner.policy, learner.learners.critic, keys, compute=learner.cell.compute
        )
        rollout_s = time.process_time() - start
        before, start = learner.env_steps, time.process_time()
        learner.iterate()
        whole_s, steps = time.process_time() - start, learner.env_steps - before
        per_step = rollout_s / played.env_steps
        out.append(
            {"rollout": 1 / per_step, "whole": steps / whole_s, "update": 1 / (whole_s / steps - per_step)}
        )
    return out
