"""Runs inside benchmarks/authors.py's child process: the authors' own runner and learner on recorded battles.

    python authors_child.py CHECKOUT RECORDING.npz mixed|env

The game costs nothing: an environment that plays recorded observations back. Their classes do the rest, unchanged.
Prints JSON: CPU seconds of the rollout and of the update, and the env steps of one iteration.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import types
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml


class Playback:
    """Recorded battles in SMAC's interface; actions are ignored."""

    def __init__(self, recording: Any) -> None:
        self.obs, self.avail, self.reward = (recording[name] for name in ("obs", "avail", "reward"))
        self.lengths, self.n = recording["lengths"], -1
        self.episode_limit = self.obs.shape[1] - 1
        self.state = np.zeros(int(recording["state_size"]), np.float32)

    def reset(self) -> None:
        self.n, self.t = (self.n + 1) % len(self.lengths), 0

    def get_state(self) -> Any:
        return self.state

    def get_obs(self) -> Any:
        return list(self.obs[self.n, self.t])

    def get_avail_actions(self) -> Any:
        return self.avail[self.n, self.t].tolist()

    def step(self, _: Any) -> tuple[float, bool, dict[str, Any]]:
        reward = float(self.reward[self.n, self.t])
        self.t += 1
        return reward, bool(self.t == self.lengths[self.n]), {}


def stand_ins(env: Playback) -> None:
    """Modules their files import and this measurement never uses."""
    for name in ("smac", "smac.env", "h5py", "stable_baselines3", "stable_baselines3.common"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["smac.env"].MultiAgentEnv = object  # type: ignore[attr-defined]
    sys.modules["smac.env"].StarCraft2Env = lambda **_: env  # type: ignore[attr-defined]
    running = types.ModuleType("stable_baselines3.common.running_mean_std")
    running.RunningMeanStd = lambda shape=(): None  # type: ignore[attr-defined]
    sys.modules[running.__name__] = running


def begin() -> tuple[dict[str, Any], Playback]:
    """The recording that the command line names, and it played back; from here on their modules can be imported."""
    with np.load(sys.argv[2]) as file:
        recording = dict(file)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # their code, of an older torch
    env = Playback(recording)
    stand_ins(env)
    sys.path.insert(0, str(Path(sys.argv[1]) / "src"))
    return recording, env


def arguments(recording: dict[str, Any], files: tuple[str, ...], **others: Any) -> SimpleNamespace:
    """Their `args`: their configuration files, later ones over earlier ones, and what their main.py and we add."""
    settings: dict[str, Any] = {}
    for name in files:
        settings |= yaml.safe_load((Path(sys.argv[1]) / "src/config" / name).read_text())
    ours = {"use_cuda": False, "device": "cpu", "env": "sc2", "env_args": {}}
    sizes = {"n_agents": recording["obs"].shape[2], "n_actions": recording["avail"].shape[-1]}
    return SimpleNamespace(**settings | ours | sizes | others)


def layout(
    recording: dict[str, Any], env: Playback, one_hot: Any, **others: Any
) -> dict[str, dict[str, Any]]:
    """Scheme, groups and preprocess of their episode batches; `others` are more entries of the scheme."""
    n_actions = recording["avail"].shape[-1]
    scheme = {
        "state": {"vshape": len(env.state)},
        "obs": {"vshape": recording["obs"].shape[-1], "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (n_actions,), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }
    preprocess = {"actions": ("actions_onehot", [one_hot(out_dim=n_actions)])}
    groups = {"agents": recording["obs"].shape[2]}
    return {"scheme": scheme | others, "groups": groups, "preprocess": preprocess}


LOGGER = SimpleNamespace(log_stat=lambda *_: None, console_logger=logging.getLogger())


def main() -> None:
    """Time them."""
    rew_type = sys.argv[3]
    recording, env = begin()
    from components.episode_buffer import ReplayBuffer
    from components.transforms import OneHot
    from controllers.dcntrl_controller import DcntrlMAC
    from learners.gail_learner import BatchStorage
    from learners.ippo_learner import IPPOLearner
    from runners.ippo_episode_runner import IPPOEpisodeRunner

    episodes = len(recording["obs"])
    imitates = rew_type == "mixed"
    args = arguments(
        recording, ("default.yaml", "algs/ippo.yaml", "default_ippo_5v6.yaml"), episode_limit=env.episode_limit,
        rew_type=rew_type, update_gail=imitates, buffer_size=episodes, batch_size=episodes - 1,
        gail_data_paths=["none"], gail_sil=imitates,
    )  # fmt: skip
    hidden = {"vshape": (args.rnn_hidden_dim,), "group": "agents"}
    parts = layout(recording, env, OneHot, rnn_states_actors=hidden, rnn_states_critics=hidden)
    runner = IPPOEpisodeRunner(args, LOGGER)
    buffer = ReplayBuffer(
        parts["scheme"],
        parts["groups"],
        1,
        env.episode_limit + 1,
        preprocess=parts["preprocess"],
        device="cpu",
    )
    mac = DcntrlMAC(buffer.scheme, parts["groups"], args)
    learner = IPPOLearner(mac, buffer.scheme, LOGGER, args)
    runner.setup(**parts, mac=mac, ippo_learner=learner)
    learner.gail_sil = args.gail_sil = (
        False  # built without a file; the demonstrations are the recorded battles
    )
    for i, gail in enumerate(learner.gails or []):
        gail.expert_storage = BatchStorage(args)
        for k in range(len(recording["expert_obs"])):
            gail.expert_storage.store_ep(torch.from_numpy(recording["expert_obs"][k : k + 1, :, i]), None)
    sys.stdout = sys.stderr
    with torch.no_grad():  # as their run_ippo.py
        runner.run()  # what happens once only is not timed
        start = time.process_time()
        batches = [runner.run() for _ in range(episodes)]
    rollout_s = time.process_time() - start
    for batch in batches:
        learner.insert_episode_batch(batch)
    start = time.process_time()
    learner.train(0)
    update_s = time.process_time() - start
    sys.stdout = sys.__stdout__
    env_steps = int(recording["lengths"].sum())
    print(json.dumps({"rollout_s": rollout_s, "update_s": update_s, "env_steps": env_steps}))


if __name__ == "__main__":
    main()
