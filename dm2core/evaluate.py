"""Win rate of a policy over a fixed set of battles: the same battles for every cell that names the same seed."""

from __future__ import annotations

from collections.abc import Callable

from dm2core.env.smac.settings import Smac
from dm2core.env.smac.vector import take_counts
from dm2core.env.vector import make_env
from dm2core.nets import Policy
from dm2core.rng import battle_keys
from dm2core.rollout import collect


def evaluate(
    policy: Policy,
    map_name: str,
    episodes: int,
    seed: int,
    *,
    greedy: bool,
    epsilon: float = 0.0,
    role: str = "evaluation",
    compute: str = "torch",
    poll: Callable[[], None] = lambda: None,
    smac: Smac | None = None,
) -> dict[str, float]:
    """Play battles 0..episodes-1 of (`seed`, `role`), with `smac` in the real game.

    Returns win_rate in [0, 1], mean episode_return and episode_length, timeout_rate in [0, 1]; from the real game also
    env_restarts and episodes_discarded.
    """
    env = make_env(map_name, episodes, smac)
    rollout = collect(
        env,
        policy,
        None,
        battle_keys(seed, role, 0, episodes),
        greedy=greedy,
        epsilon=epsilon,
        compute=compute,
        poll=poll,
    )
    return {
        "win_rate": float(rollout.won.double().mean()),
        "episode_return": float(rollout.episode_return.double().mean()),
        "episode_length": float(rollout.lengths.double().mean()),
        "timeout_rate": float(rollout.truncated.double().mean()),
        **take_counts(env),
    }
