"""QMIX's hyper-parameters; config/config.yaml holds PyMARL's values."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dm2core.strict import Strict
from dm2core.types import EnvSpec

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]


def replay_bytes(spec: EnvSpec, episodes: int) -> int:
    """Memory of a replay (replay.py) whose episodes all went on to the time limit."""
    n, steps = spec.n_agents, spec.episode_limit
    seen = 4 * (n * spec.obs_size + spec.state_size) + n * spec.n_actions
    return episodes * ((steps + 1) * seen + steps * (n + 4))


class Qmix(Strict):
    """PyMARL default.yaml and algs/qmix.yaml."""

    gamma: Fraction
    bootstrap_at_time_limit: (
        bool  # else an end by time is an end, as SMAC reports it (continuing_episode off)
    )
    lr: Positive
    optim_alpha: Fraction  # RMSprop
    optim_eps: Positive
    batch_episodes: Count
    replay_episodes: Count
    grad_norm_clip: Positive
    target_update_episodes: Count
    hidden_size: Count
    mixing_embed: Count
    hypernet_embed: Count
    epsilon_start: Fraction
    epsilon_finish: Fraction
    epsilon_anneal_env_steps: Count
