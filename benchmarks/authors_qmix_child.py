"""Runs inside benchmarks/authors.py's child process: the authors' QMIX, which is PyMARL's, on recorded battles.

    python authors_qmix_child.py CHECKOUT RECORDING.npz

As in authors_child.py the game costs nothing. Settings are the paper's: one battle, one update. Prints JSON: CPU
seconds and env steps of battles with their updates.
"""

from __future__ import annotations

import json
import sys
import time

from authors_child import LOGGER, arguments, begin, layout

EPISODES = 64


def main() -> None:
    """Time them."""
    recording, env = begin()
    from components.episode_buffer import ReplayBuffer
    from components.transforms import OneHot
    from controllers.basic_controller import BasicMAC
    from learners.q_learner import QLearner
    from runners.episode_runner import EpisodeRunner

    args = arguments(
        recording, ("default.yaml", "algs/qmix.yaml"), evaluate=False, batch_size_run=1, batch_size=32,
        state_shape=len(env.state), algo_name="qmix",
    )  # fmt: skip
    parts = layout(recording, env, OneHot)
    runner = EpisodeRunner(args, LOGGER)
    buffer = ReplayBuffer(
        parts["scheme"], parts["groups"], args.buffer_size, env.episode_limit + 1,
        preprocess=parts["preprocess"], device="cpu",
    )  # fmt: skip
    mac = BasicMAC(buffer.scheme, parts["groups"], args)
    learner = QLearner(mac, buffer.scheme, LOGGER, args)
    runner.setup(**parts, mac=mac)

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
