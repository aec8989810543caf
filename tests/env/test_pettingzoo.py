"""The PettingZoo adapter: the project's own tests of PettingZoo, and what the adapter promises beyond them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import psutil
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from dm2core.env.pettingzoo import SmacParallelEnv, parallel_env
from dm2core.env.scripted import focus_fire, hide
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys

EVERYTHING: dict[str, Any] = {
    "obs_last_action": True, "obs_pathing_grid": True, "obs_terrain_height": True, "obs_timestep_number": True,
    "state_timestep_number": True, "reward_only_positive": False, "move_amount": 3.0,
}  # fmt: skip
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("3m", {}),
    ("2s3z", {"action_mask": "observation"}),
    ("5m_vs_6m", {"dead_agents": "stay"}),
    ("3s_vs_4z", {"action_mask": "observation", "dead_agents": "stay", **EVERYTHING}),
]


def random_play(env: SmacParallelEnv, seed: int, battles: int) -> None:
    """Legal actions to the end of each battle; the masks are checked on the way."""
    rng = np.random.default_rng(seed)
    for k in range(battles):
        seen, infos = env.reset(seed=seed if k == 0 else None)
        while env.agents:
            for agent in env.agents:
                mask = infos[agent]["action_mask"]
                legal = env.sim.avail_actions[0, env.possible_agents.index(agent)]
                assert mask.dtype == np.int8 and mask.shape == (env.action_space(agent).n,)
                assert mask.sum() > 0 and (mask == legal).all()
                assert env.observation_space(agent).contains(seen[agent])
            actions = {
                agent: int(rng.choice(np.flatnonzero(infos[agent]["action_mask"]))) for agent in env.agents
            }
            seen, _, _, _, infos = env.step(actions)
            assert not any(info["illegal_action"] for info in infos.values())


@pytest.mark.parametrize(("name", "choices"), VARIANTS)
def test_the_tests_of_pettingzoo_pass(name: str, choices: dict[str, Any]) -> None:
    parallel_api_test(parallel_env(name, **choices), num_cycles=1000)
    parallel_seed_test(lambda: parallel_env(name, **choices))


@pytest.mark.parametrize(("name", "choices"), VARIANTS)
def test_masks_observations_and_state_fit_their_spaces(name: str, choices: dict[str, Any]) -> None:
    env = parallel_env(name, **choices)
    random_play(env, 3, 3)
    env.reset(seed=1)
    assert env.state_space.contains(env.state())
    assert env.state().shape == (env.sim.spec.state_size,)


def test_the_mask_stands_in_the_observation_if_asked() -> None:
    env = parallel_env("3m", action_mask="observation")
    seen, infos = env.reset(seed=4)
    for agent in env.agents:
        assert set(seen[agent]) == {"observation", "action_mask"}
        np.testing.assert_array_equal(seen[agent]["action_mask"], infos[agent]["action_mask"])
    plain, _ = parallel_env("3m").reset(seed=4)
    np.testing.assert_array_equal(plain["agent_1"], seen["agent_1"]["observation"])


def test_what_was_returned_is_not_rewritten() -> None:
    env = parallel_env("3m")
    seen, infos = env.reset(seed=2)
    state = env.state()
    kept = [seen["agent_0"].copy(), infos["agent_0"]["action_mask"].copy(), state.copy()]
    for _ in range(8):
        env.step(dict.fromkeys(env.agents, 4))
    assert (env.state() != state).any()
    for now, then in zip([seen["agent_0"], infos["agent_0"]["action_mask"], state], kept, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("dead_agents", ["leave", "stay"])
def test_dead_agents_leave_or_stay(dead_agents: str) -> None:
    """Agents that stand still die one by one and the battle is lost."""
    env = parallel_env("5m_vs_6m", dead_agents=dead_agents)
    env.reset(seed=5)
    deaths = 0
    while env.agents:
        alive = {a: bool(env.sim.alive[0, i]) for i, a in enumerate(env.possible_agents)}
        acted = env.agents[:]
        _, rewards, terminated, truncated, infos = env.step({a: int(alive[a]) for a in acted})
        dead = [a for i, a in enumerate(env.possible_agents) if a in acted and not env.sim.alive[0, i]]
        deaths += len([a for a in dead if alive[a]])
        assert set(rewards) == set(terminated) == set(truncated) == set(infos) == set(acted)
        over = infos[acted[0]]["dead_allies"] == 5
        for agent in acted:
            assert terminated[agent] == (over or (dead_agents == "leave" and agent in dead))
            if agent in dead:
                assert infos[agent]["action_mask"].tolist() == [1] + [0] * 11
    assert deaths == 5 and not any(truncated.values())


def test_time_out_truncates_and_does_not_terminate() -> None:
    env, one = parallel_env("3m"), np.zeros(1, dtype=np.int64)
    env.reset(seed=1)
    steps = 0
    while env.agents:
        joint = hide(env.sim, one)[0]
        _, _, terminated, truncated, _ = env.step({a: int(joint[i]) for i, a in enumerate(env.agents)})
        steps += 1
    assert steps == 60 and all(truncated.values()) and not any(terminated.values())


def test_illegal_actions_stop_or_raise() -> None:
    env = parallel_env("3m")
    env.reset(seed=6)
    *_, infos = env.step({"agent_0": 7, "agent_1": 0, "agent_2": 2})  # no enemy in reach; no-op of the living
    assert [infos[agent]["illegal_action"] for agent in env.agents] == [True, True, False]
    other = parallel_env("3m")
    other.reset(seed=6)
    other.step({"agent_0": 1, "agent_1": 1, "agent_2": 2})
    np.testing.assert_array_equal(env.sim.raw, other.sim.raw)

    strict = parallel_env("3m", illegal_actions="raise")
    strict.reset(seed=6)
    before = strict.sim.save()
    for wrong in (7, 0, -1, 9):
        with pytest.raises(ValueError, match=f"battle 0, agent 1: action {wrong} is not available"):
            strict.step({"agent_0": 1, "agent_1": wrong, "agent_2": 2})
    for name, array in strict.sim.save().items():
        np.testing.assert_array_equal(array, before[name])


def test_actions_are_needed_of_all_agents_and_of_nobody_else() -> None:
    env = parallel_env("3m")
    with pytest.raises(ValueError, match="no battle is under way, call reset"):
        env.step({"agent_0": 1})
    env.reset(seed=1)
    with pytest.raises(ValueError, match="actions must be given for agent_0, agent_1, agent_2; got agent_0"):
        env.step({"agent_0": 1})


def test_a_step_of_nobody_is_nothing() -> None:
    env = parallel_env("3m")
    nothing: tuple[dict[str, Any], ...] = ({}, {}, {}, {}, {})
    assert env.step({}) == nothing
    random_play(env, 1, 1)
    before = env.sim.save()
    assert env.step({}) == nothing
    for name, array in env.sim.save().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("illegal", ["stop", "raise"])
@pytest.mark.parametrize("wrong", [1.0, 4.9, None, "1", np.array([1])])
def test_an_action_is_an_integer(wrong: Any, illegal: str) -> None:
    env = parallel_env("3m", illegal_actions=illegal)
    env.reset(seed=1)
    with pytest.raises(ValueError, match=r"agent_1: action .* is no integer"):
        env.step({"agent_0": 1, "agent_1": wrong, "agent_2": 1})
    env.step({"agent_0": np.int64(1), "agent_1": np.array(1), "agent_2": True})  # type: ignore[dict-item]


def test_seeds_are_not_negative() -> None:
    with pytest.raises(ValueError, match=r"seed: 1\.7 is no integer"):
        parallel_env("3m").reset(seed=1.7)  # type: ignore[arg-type]
    strict = parallel_env("3m", illegal_actions="raise")
    strict.reset(seed=1)
    with pytest.raises(ValueError, match=f"agent 0: action {2**70} is not available"):
        strict.step(dict.fromkeys(strict.agents, 2**70))
    with pytest.raises(ValueError, match="maps_file: a scenario is given"):
        parallel_env(strict.scenario, maps_file="none.yaml")
    with pytest.raises(ValueError, match="seed: -1 is negative"):
        parallel_env("3m").reset(seed=-1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"action_mask": "obs"}, "action_mask 'obs' is unknown; known: info, observation"),
        ({"dead_agents": "go"}, "dead_agents 'go' is unknown; known: leave, stay"),
        ({"illegal_actions": "ignore"}, "illegal_actions 'ignore' is unknown; known: stop, raise"),
        ({"render_mode": "human"}, "render_mode 'human' is unknown; known: None, rgb_array"),
        ({"obs_last_actions": True}, "option 'obs_last_actions' is unknown; known: move_amount, "),
    ],
)
def test_a_wrong_choice_is_named(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parallel_env("3m", **choice)


def test_a_won_battle_pays_twenty_and_is_the_simulators_own() -> None:
    """Focus fire wins some battles of 3m; the last of the team alive has been paid 20."""
    env, won = parallel_env("3m", dead_agents="stay"), 0
    for seed in range(12):
        env.reset(seed=seed)
        sim = BattleSim("3m", 1)
        sim.reset(battle_keys(seed, "pettingzoo", 0, 1))
        paid, one = 0.0, np.zeros(1, dtype=np.int64)
        while env.agents:
            joint = focus_fire(env.sim, one)[0]
            _, rewards, _, _, infos = env.step({a: int(joint[i]) for i, a in enumerate(env.agents)})
            assert len(set(rewards.values())) == 1
            assert sim.step(joint[None], one).reward[0] == rewards["agent_0"]
            paid += rewards["agent_0"]
        if infos["agent_0"]["battle_won"]:
            won += 1
            assert abs(paid - 20.0) < 1e-9
    assert won > 0


def test_a_seed_starts_its_sequence_of_battles() -> None:
    def start(env: SmacParallelEnv, seed: int | None) -> list[float]:
        env.reset(seed=seed)
        for _ in range(9):  # long enough for the random delays of the first shots to show
            env.step({a: 1 for a in env.agents})
        return [float(v) for v in env.sim.raw.ravel()]

    env = parallel_env("5m_vs_6m")
    first = [start(env, 3), start(env, None), start(env, None)]
    assert [start(env, 3), start(env, None), start(env, None)] == first
    assert first[0] != first[1] != first[2] and start(env, 4) != first[0]


def test_a_picture() -> None:
    env = parallel_env("3s_vs_3z", render_mode="rgb_array")
    env.reset(seed=1)
    first = env.render()
    assert first is not None and first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    for _ in range(6):
        env.step(dict.fromkeys(env.agents, 4))
    later = env.render()
    assert later is not None and later.shape == first.shape and (later != first).any()
    silent = parallel_env("3m")
    silent.reset(seed=1)
    assert silent.render() is None


def test_no_torch_is_needed() -> None:
    code = (
        "import sys; from dm2core.env.pettingzoo import parallel_env as make; e = make('3m', render_mode='rgb_array');"
        "e.reset(seed=1); e.step(dict.fromkeys(e.agents, 1)); e.render(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_resets_and_episodes_leak_no_memory() -> None:
    env = parallel_env("3m")
    random_play(env, 0, 40)
    before = psutil.Process().memory_info().rss
    random_play(env, 0, 200)
    for _ in range(2000):
        env.reset()
    assert psutil.Process().memory_info().rss - before < 2 * 2**20
