"""Runs inside benchmarks/authors.py's child process: the authors' QMIX, which is PyMARL's, on recorded battles.

    python authors_qmix_child.py CHECKOUT RECORDING.npz

As in authors_child.py the game costs nothing. Settings are the paper's: one battle, one update. Prints JSON: CPU
seconds and env steps of battles with their updates.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from authors_child import Playback, stand_ins

EPISODES = 64


def main() -> None:
    """Time them."""
    checkout = Path(sys.argv[1])
    with np.load(sys.argv[2]) as file:
        recording = dict(file)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # their code, of an older torch
    env = Playback(recording)
    stand_ins(env)
    sys.path.insert(0, str(checkout / "src"))
    from components.episode_buffer import ReplayBuffer
    from components.transforms import OneHot
    from controllers.basic_controller import BasicMAC
    from learners.q_learner import QLearner
    from runners.episode_runner import EpisodeRunner

    settings: dict[str, Any] = {}
    for name in ("default.yaml", "algs/qmix.yaml"):
        settings |= yaml.safe_load((checkout / "src/config" / name).read_text())
    _, _, n_agents, obs_size = recording["obs"].shape
    n_actions = recording["avail"].shape[-1]
    args = SimpleNamespace(
        **settings
        | {
            "use_cuda": False, "device": "cpu", "n_agents": n_agents, "n_actions": n_actions, "env": "sc2",
            "env_args": {}, "evaluate": False, "batch_size_run": 1, "batch_size": 32,
            "state_shape": len(env.state), "algo_name": "qmix",
        }
    )  # fmt: skip
    scheme: dict[str, Any] = {
        "state": {"vshape": len(env.state)},
        "obs": {"vshape": obs_size, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (n_actions,), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }
    groups = {"agents": n_agents}
    preprocess = {"actions": ("actions_onehot", [OneHot(out_dim=n_actions)])}
    logger = SimpleNamespace(log_stat=lambda *_: None, console_logger=logging.getLogger())
    runner = EpisodeRunner(args, logger)
    buffer = ReplayBuffer(
        scheme, groups, args.buffer_size, env.episode_limit + 1, preprocess=preprocess, device="cpu"
    )
    mac = BasicMAC(buffer.scheme, groups, args)
    learner = QLearner(mac, buffer.scheme, logger, args)
    runner.setup(scheme=scheme, groups=groups, preprocess=preprocess, mac=mac)

    def battle(episode: int) -> None:
        buffer.insert_episode_batch(runner.run())
        if buffer.can_sample(args.batch_size):
            sample = buffer.sample(args.batch_size)
            learner.train(sample[:, : sample.max_t_filled()], runner.t_env, episode)

    sys.stdout = sys.stderr
    for episode in range(args.batch_size + 2):  # up to the first updates
        battle(episode)
    before, start = runner.t_env, time.process_time()
    for episode in range(EPISODES):
        battle(episode)
    spent = time.process_time() - start
    sys.stdout = sys.__stdout__
    print(json.dumps({"qmix_s": spent, "env_steps": runner.t_env - before}))


if __name__ == "__main__":
    main()
