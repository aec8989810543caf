"""Whole iterations on a toy environment: collection, learning, resuming, and DM2 reduced to IPPO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dm2core.config import CellConfig, Switches, cell_config, load_config
from dm2core.demonstrations import Demonstrations, of_rollout
from dm2core.dm2 import Dm2
from dm2core.methods import METHODS
from dm2core.nets import Actor
from dm2core.rng import battle_keys
from dm2core.rollout import collect, compute_for, players_for
from tests.learning.cases import AUTHORS, PAPER
from tests.learning.toy_env import ToyEnv

CONFIG = load_config(Path(__file__).parents[2] / "config" / "config.yaml", {"scale": "smoke"})


def cell(method: str, switches: Switches = AUTHORS, coef: float = 0.3) -> CellConfig:
    demos = "toy" if METHODS[method].needs_demos else "none"
    base = cell_config(CONFIG, map_name="3m", method=method, seed=5, demos=demos)
    params = base.map_params.model_copy(
        update={"imitation_coef": coef, "episodes_per_update": 32, "ppo_epochs": 4}
    )
    ppo = base.ppo.model_copy(update={"lr": 3e-3, "hidden_size": 16})
    return base.model_copy(update={"switches": switches, "map_params": params, "ppo": ppo})


def expert() -> Demonstrations:
    env = ToyEnv(20)
    return of_rollout(collect(env, Dm2(cell("ippo"), env).policy, None, battle_keys(9, "e", 0, 20)), "toy")


def learner(config: CellConfig) -> Dm2:
    demos = expert() if METHODS[config.method].needs_demos else None
    return Dm2(config, ToyEnv(config.map_params.episodes_per_update), demos)


def run(config: CellConfig, iterations: int) -> tuple[Dm2, list[dict[str, float]]]:
    made = learner(config)
    made.start()
    return made, [made.iterate() for _ in range(iterations)]


def weights(state: Dm2) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in state.policy.parameters()])


def test_collect_plays_every_battle_once_to_its_end() -> None:
    env = ToyEnv(40)
    state = Dm2(cell("ippo"), env)
    keys = battle_keys(1, "rollout", 0, 40)
    rollout = collect(env, state.policy, state.learners.critic, keys)
    expected = np.minimum(env.length(np.arange(40)), env.spec.episode_limit)
    assert rollout.lengths.tolist() == expected.tolist()
    assert rollout.env_steps == env.steps_taken
    t = torch.arange(env.spec.episode_limit + 1).unsqueeze(-1)
    assert not rollout.obs[t > rollout.lengths].any()
    assert rollout.obs[t <= rollout.lengths].sum(-1).eq(1).all()
    assert rollout.avail_actions[t <= rollout.lengths].any(-1).all()
    assert not rollout.rewards[(t >= rollout.lengths)[:-1]].any()
    assert torch.equal(rollout.truncated, rollout.lengths == env.spec.episode_limit)


def test_a_battle_is_the_same_whatever_is_played_beside_it() -> None:
    """Up to float rounding of the batched products, battle 7 does not see how many battles run."""
    state = Dm2(cell("ippo"), ToyEnv(1))
    keys = battle_keys(1, "rollout", 0, 40)
    whole = collect(ToyEnv(40), state.policy, state.learners.critic, keys)
    part = collect(ToyEnv(8), state.policy, state.learners.critic, keys[:8])
    assert torch.equal(whole.actions[:, :8], part.actions)
    torch.testing.assert_close(whole.h_critic[:, :8], part.h_critic)


LEAK_FREE = AUTHORS.model_copy(update={"t0_last_action_leak": False})


@pytest.mark.parametrize("switches", [LEAK_FREE, PAPER])
def test_ippo_learns_the_toy(switches: Switches) -> None:
    _, metrics = run(cell("ippo", switches), 60)
    assert metrics[0]["train/win_rate"] < 0.1
    assert max(m["train/win_rate"] for m in metrics[-10:]) > 0.5


def test_the_released_last_action_leak_spoils_the_first_action() -> None:
    """D04: at t = 0 the update sees the action it is to predict; play, which does not, learns nothing there."""
    _, metrics = run(cell("ippo", AUTHORS), 60)
    assert metrics[-1]["train/episode_return"] / metrics[-1]["train/episode_length"] > 0.7
    assert max(m["train/win_rate"] for m in metrics[-10:]) < 0.3


def test_dm2_with_coefficient_zero_is_ippo_bit_for_bit() -> None:
    config = cell("ippo")
    plain, _ = run(config, 4)
    zero, metrics = run(cell("dm2", coef=0.0), 4)
    assert "disc/loss" in metrics[0]
    assert torch.equal(weights(plain), weights(zero))


def test_kernels_refuse_a_policy_that_they_cannot_hold() -> None:
    env = ToyEnv(4)
    for actor in (Actor(2, 7, 3, 20), Actor(2, 7, 3, 16).double()):
        assert compute_for(actor) == "torch"
        with pytest.raises(ValueError, match="fused plays float32 actors whose hidden size 16 divides"):
            players_for(actor, None, env, "fused")


@pytest.mark.parametrize("switches", [AUTHORS, PAPER])
def test_explained_variance_is_of_the_rows_that_are_played(switches: Switches) -> None:
    """Of a constant critic 0, however many slots lie behind the ends of episodes."""
    state = learner(cell("ippo", switches))
    head = state.learners.critic.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(10.0)
    assert state.iterate()["train/explained_variance"] == pytest.approx(0.0, abs=1e-5)


def test_dm2_imitation_reward_moves_the_policy() -> None:
    plain, _ = run(cell("ippo"), 3)
    paid, metrics = run(cell("dm2"), 3)
    assert not torch.equal(weights(plain), weights(paid))
    assert all(np.isfinite(list(m.values())).all() for m in metrics)


@pytest.mark.parametrize("method", ["ippo", "dm2", "gail_only", "dm2_state_action", "bc_ippo", "bc_dm2"])
@pytest.mark.parametrize("switches", [AUTHORS, PAPER])
def test_resumed_state_continues_bit_for_bit(method: str, switches: Switches) -> None:
    config = cell(method, switches)
    straight, expected = run(config, 4)
    half, _ = run(config, 2)
    fresh = learner(config)
    fresh.load_tensors({k: v.clone() for k, v in half.tensors().items()})
    fresh.iteration, fresh.env_steps = half.iteration, half.env_steps
    resumed = [fresh.iterate() for _ in range(2)]
    assert resumed == expected[2:]
    for key, value in straight.tensors().items():
        assert torch.equal(value, fresh.tensors()[key]), key
