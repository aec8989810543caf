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

from benchmarks.baselines import TURN, cpu_rate, warm_qmix
from dm2core.config import Config, cell_config
from dm2core.demonstrations import of_rollout
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.rng import battle_keys
from dm2core.rollout import Rollout, collect


def compare(config: Config, map_name: str, checkout: Path, turns: int) -> dict[str, float]:
    """Ratios of env steps per CPU second, ours over theirs, one thread each; and theirs. Medians over turns.

    A core's speed drifts by a tenth within minutes where neighbours share the chip. So theirs and ours take turns, and
    only what was measured within one turn is divided.
    """
    torch.set_num_threads(1)
    ippo = cell_config(config, map_name=map_name, method="ippo", seed=0)
    battles = ippo.map_params.episodes_per_update
    player = Dm2(ippo, make_env(map_name, 1))
    rollout = collect(make_env(map_name, battles), player.policy, None, battle_keys(0, "peer", 0, battles))
    shown = collect(make_env(map_name, 1000), player.policy, None, battle_keys(1, "peer", 0, 1000))
    dm2 = cell_config(config, map_name=map_name, method="dm2", seed=0, demos="shown")
    ours = {
        "mixed": Dm2(dm2, make_env(map_name, battles), of_rollout(shown, map_name)),
        "env": Dm2(ippo, make_env(map_name, battles)),
    }
    for learner in ours.values():
        learner.iterate()  # compiles and fills caches
    qmix = warm_qmix(config, map_name)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.npz"
        _record(rollout, shown, make_env(map_name, 1).spec.state_size, path)
        for _ in range(turns):
            for kind, learner in ours.items():
                for key, value in _turn(kind, _child(checkout, path, kind), _ours(learner)).items():
                    found.setdefault(key, []).append(value)
            theirs, rate = _child(checkout, path), cpu_rate(qmix, TURN)
            found.setdefault("authors_qmix_env_steps_per_s", []).append(
                theirs["env_steps"] / theirs["qmix_s"]
            )
            found.setdefault("qmix_vs_authors", []).append(rate * theirs["qmix_s"] / theirs["env_steps"])
    return {key: statistics.median(values) for key, values in found.items()}


def _turn(kind: str, theirs: dict[str, float], ours: dict[str, float]) -> dict[str, float]:
    name = {"mixed": "dm2", "env": "ippo"}[kind]
    whole = theirs["env_steps"] / (theirs["rollout_s"] + theirs["update_s"])
    found = {f"authors_{name}_env_steps_per_s": whole, f"{name}_vs_authors": ours["whole"] / whole}
    if kind == "mixed":
        return found | {"update_vs_authors": ours["update"] * theirs["update_s"] / theirs["env_steps"]}
    played = theirs["env_steps"] / theirs["rollout_s"]
    return found | {
        "authors_rollout_env_steps_per_s": played,
        "rollout_vs_authors": ours["rollout"] / played,
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


def _child(checkout: Path, recording: Path, kind: str = "") -> dict[str, float]:
    """Their env steps of one iteration, and CPU seconds of its parts; without a kind QMIX's."""
    child = Path(__file__).with_name("authors_child.py" if kind else "authors_qmix_child.py")
    command = [sys.executable, str(child), str(checkout), str(recording), kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _ours(learner: Dm2, iterations: int = 5) -> dict[str, float]:
    """Env steps per CPU second of the rollout alone, of everything else, and of both; medians."""
    runs = []
    for _ in range(iterations):
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
        runs.append(
            {"rollout": 1 / per_step, "whole": steps / whole_s, "update": 1 / (whole_s / steps - per_step)}
        )
    return {part: statistics.median(run[part] for run in runs) for part in runs[0]}
