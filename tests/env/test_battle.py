"""What must hold in every battle, whatever is done in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dm2core.env import battle
from dm2core.env.observe import Options
from dm2core.env.scenario import load_scenario
from dm2core.env.scripted import attack_nearest, focus_fire, hide, kite, play, random_legal
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys
from tests.env.trajectory import rule, run

MAPS = ["3m", "5m_vs_6m", "3s_vs_3z", "3s_vs_4z", "2s3z"]


@pytest.mark.parametrize("name", MAPS)
def test_units_keep_to_the_rules(name: str) -> None:
    """Walkable ground, no overlap, life never rises, shields never above full, no walk beyond the speed."""
    scenario = load_scenario(name)
    env = BattleSim(name, 24)
    keys = battle_keys(3, "rules", 0, 24)
    units = scenario.allies + scenario.enemies
    body = np.array([u.separation_radius for u in units])
    stride = np.array([8 * u.speed for u in units])
    apart = 0.99 * (body[:, None] + body[None, :])
    env.reset(keys)
    live = np.arange(24)
    for t in range(scenario.episode_limit):
        before = env.raw.astype(np.float64)
        actions = rule(env, keys, t, live)
        step = env.step(actions, live)
        now = env.raw.astype(np.float64)
        alive = now[..., 2] > 0
        x, y = now[..., 0], now[..., 1]
        assert ((x >= body - 1e-5) & (x <= 32 - body + 1e-5))[alive].all()
        assert ((y >= scenario.rows[0] + body - 1e-5) & (y <= scenario.rows[1] - body + 1e-5))[alive].all()
        gap = np.hypot(x[:, :, None] - x[:, None, :], y[:, :, None] - y[:, None, :])
        pair = alive[:, :, None] & alive[:, None, :] & ~np.eye(len(units), dtype=bool)
        assert (gap >= apart)[pair].all()
        assert (now[..., 2] <= before[..., 2]).all()
        assert (now[..., 3] <= before[..., 3] + 1.0).all() and (
            now[..., 3] <= [u.shield for u in units]
        ).all()
        moved = np.hypot(
            *(now[live, : env.spec.n_agents, k] - before[live, : env.spec.n_agents, k] for k in (0, 1))
        )
        ordered = (actions >= 2) & (actions <= 5)
        assert (moved <= stride[: env.spec.n_agents] + 1e-5)[ordered].all()
        live = live[~(step.terminated | step.truncated)]
        if not live.size:
            break


def test_the_turns_tried_at_once_are_barred_where_each_alone_would_be() -> None:
    """Bit k of `_barred` against the same turn tried alone, in crowds of touching and overlapping units."""
    env, rng = BattleSim("3s5z", 1), np.random.default_rng(0)
    env.reset(battle_keys(0, "turns", 0, 1))
    f, m, units, pairs, rules = env._floats[0], env._ints[0], env._units, env._pairs, env._rules
    degrees = np.radians([30.0, 60.0, 90.0, 120.0, -30.0, -60.0, -90.0, -120.0])
    np.testing.assert_allclose(battle._TURN_COS, np.cos(degrees), atol=1e-15)
    np.testing.assert_allclose(battle._TURN_SIN, np.sin(degrees), atol=1e-15)
    barred = np.zeros(9, dtype=np.int64)
    for _ in range(1000):
        f[[battle.X, battle.Y]] = 14.0 + rng.random((2, f.shape[1])) * rng.choice([3.0, 4.0, 6.0])
        u, angle, side = int(rng.integers(f.shape[1])), rng.random() * 2 * np.pi, int(rng.choice([-1, 1]))
        ux, uy, step = float(np.cos(angle)), float(np.sin(angle)), float(units[battle.SPEED, u])
        m[battle.SIDE, u] = side
        count = battle._near(f, m, u, pairs)
        bits = battle._barred(f, m, u, ux, uy, step, count, units, pairs, rules)
        alone = 0
        for k in range(8):
            c, s = battle._TURN_COS[k], battle._TURN_SIN[k] * side
            x = f[battle.X, u] + (c * ux - s * uy) * step
            y = f[battle.Y, u] + (s * ux + c * uy) * step
            alone |= (battle._first(f, m, u, x, y, count, pairs) >= 0) << k
        assert bits == alone
        free = [k for k in range(8) if not bits >> k & 1]
        assert battle._FIRST_FREE[bits] == (free[0] if free else 8)
        barred[8 - len(free)] += 1
    assert (barred[:9] > 0).all()


def test_marines_lose_six_points_a_shot_and_nothing_without_one() -> None:
    env = BattleSim("5m_vs_6m", 16)
    keys = battle_keys(4, "shots", 0, 16)
    env.reset(keys)
    live = np.arange(16)
    for t in range(40):
        before = env.raw[live].astype(np.float64)
        step = env.step(rule(env, keys, t, live), live)
        now = env.raw[live].astype(np.float64)
        fired = (
            now[..., 4] > before[..., 4]
        )  # a cooldown only rises when the weapon fires; at most once a step
        for victims, shooters in ((slice(0, 5), slice(5, 11)), (slice(5, 11), slice(0, 5))):
            lost = (before[:, victims, 2] - now[:, victims, 2]).sum(-1)
            died = ((before[:, victims, 2] > 0) & (now[:, victims, 2] <= 0)).sum(-1)
            shots = fired[:, shooters].sum(-1)
            gone = ((before[:, shooters, 2] > 0) & (now[:, shooters, 2] <= 0)).sum(
                -1
            )  # may have fired before
            assert (lost <= 6 * (shots + gone)).all()
            assert (lost >= 6 * shots - 3 * died).all()  # 45 is seven and a half hits
        live = live[~(step.terminated | step.truncated)]
        if not live.size:
            break


@pytest.mark.parametrize("name", ["5m_vs_6m", "2s3z"])
def test_agents_told_to_stop_hurt_nobody(name: str) -> None:
    env = BattleSim(name, 4)
    result = play(env, lambda env, battles: env.alive[battles].astype(np.int64), battle_keys(1, "stop", 0, 4))
    assert (result.returns == 0).all() and not result.won.any() and not result.truncated.any()


def test_standing_marines_fall_as_fast_as_the_arithmetic_says() -> None:
    """Six marines close 14 - 5.75 cells at 1.125 a step, then need 225 points at 6 per 14.27 loops each, and change."""
    env, everyone = BattleSim("5m_vs_6m", 16), np.arange(16)
    env.reset(battle_keys(1, "stand", 0, 16))
    hurt = np.zeros((16, 30), dtype=bool)
    for t in range(30):
        env.step(env.alive.astype(np.int64), everyone)
        hurt[:, t] = (env.raw[:, :5, 2] < 45).any(-1)
    assert set(hurt.argmax(-1) + 1) <= {6, 7, 8}  # enemies in front are nearer than 14
    fallen = play(
        BattleSim("5m_vs_6m", 16), lambda env, b: env.alive[b].astype(np.int64), battle_keys(1, "s", 0, 16)
    )
    assert 18 <= fallen.lengths.mean() <= 25


def test_hiding_costs_nothing_and_times_out() -> None:
    result = play(BattleSim("3m", 4), hide, battle_keys(1, "hide", 0, 4))
    assert (result.returns == 0).all() and result.truncated.all() and (result.lengths == 60).all()


def test_a_won_marine_battle_sums_to_twenty() -> None:
    result = play(BattleSim("3m", 64), focus_fire, battle_keys(1, "won", 0, 64))
    assert result.won.any()
    np.testing.assert_allclose(result.returns[result.won], 20.0, atol=1e-6)


@pytest.mark.parametrize("name", ["3s_vs_3z", "3s_vs_4z", "3s_vs_5z"])
def test_stalkers_that_kite_beat_zealots_and_standing_ones_do_not(name: str) -> None:
    keys = battle_keys(1, "kite", 0, 16)
    kiting, standing = play(BattleSim(name, 16), kite, keys), play(BattleSim(name, 16), attack_nearest, keys)
    assert kiting.won.all() and not standing.won.any()
    assert (kiting.returns >= 20.0 - 1e-6).all()  # regrown shields are paid for again


@pytest.mark.parametrize("name", MAPS)
def test_random_play_does_not_win(name: str) -> None:
    assert play(BattleSim(name, 128), random_legal(1), battle_keys(1, "random", 0, 128)).won.mean() < 0.02


@pytest.mark.parametrize(("name", "period"), [("3m", 13.773), ("3s_vs_3z", 19.2), ("2s3z", 23.04)])
def test_weapon_period(name: str, period: float) -> None:
    """Loops between attacks of enemy 0 on a target that does not die: data period, and -1 to +2 loops of delay."""
    env, everyone = BattleSim(name, 32), np.arange(32)
    env.reset(battle_keys(2, "period", 0, 32))
    env._floats[:, battle.HEALTH, : env.spec.n_agents] = 1e9
    stand, shooter = np.ones((32, env.spec.n_agents), dtype=np.int64), env.spec.n_agents
    before, shots = np.zeros(32), []
    for _ in range(600):
        env._advance(stand, everyone, 1)
        now = env._floats[:, battle.COOLDOWN, shooter].copy()
        shots.append(now > before)
        before = now
    gaps = np.concatenate([np.diff(np.flatnonzero(column)) for column in np.array(shots).T])
    assert gaps.size > 300 and gaps.min() >= period - 2 and gaps.max() <= period + 3
    assert abs(gaps.mean() - (period + 0.5)) < 0.15


def test_an_unavailable_action_is_refused_by_name() -> None:
    env = BattleSim("3m", 3)
    env.reset(battle_keys(1, "refuse", 0, 3))
    actions = np.ones((2, 3), dtype=np.int64)
    actions[1, 2] = 7
    before = env.raw.copy()
    with pytest.raises(ValueError, match="battle 2, agent 2: action 7 is not available"):
        env.step(actions, np.array([0, 2]))
    for wrong in (0, -1, 9):
        actions[1, 2] = wrong
        with pytest.raises(ValueError, match=f"battle 2, agent 2: action {wrong} is not available"):
            env.step(actions, np.array([0, 2]))
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f"no battle {wrong}, only 0..2"):
            env.step(actions[:1], np.array([wrong]))
        with pytest.raises(ValueError, match=f"no battle {wrong}, only 0..2"):
            env.reset_battles(battle_keys(1, "refuse", 0, 1), np.array([wrong]))
    np.testing.assert_array_equal(env.raw, before)


def test_a_step_before_the_first_reset_says_so() -> None:
    with pytest.raises(ValueError, match="action 1 is not available, none is before the first reset"):
        BattleSim("3m", 2).step(np.ones((2, 3), np.int64), np.arange(2))


def test_the_terminal_observation_stays() -> None:
    env = BattleSim("3m", 8)
    keys = battle_keys(1, "terminal", 0, 8)
    steps = run(env, keys, 60)
    assert steps[-1][2].terminated.any() or steps[-1][2].truncated.any()
    live = steps[-1][0]
    dead = env.raw[live][:, :3, 2] <= 0
    np.testing.assert_array_equal(env.alive[live], ~dead)
    assert (env.obs[live][dead] == 0).all() and env.avail_actions[live][dead][:, 0].all()
    ended = np.concatenate([s.terminated | s.truncated for _, _, s in steps])
    assert ended.sum() == 8 and not any((s.terminated & s.truncated).any() for _, _, s in steps)


@pytest.mark.parametrize(
    ("battles", "message"),
    [
        (np.ones(3, dtype=bool), "battles must be integers, got bool"),
        ([0.0, 1.0, 2.7], "battles must be integers, got float64"),
        ([0, 2, 0], r"battles must be distinct, got \[0, 2, 0\]"),
        ([[0, 1, 2]], "battles must be a list of numbers"),
        ([0, 1, 3], "there is no battle 3"),
    ],
)
def test_battles_are_named_by_their_numbers(battles: Any, message: str) -> None:
    env = BattleSim("3m", 3)
    env.reset(battle_keys(1, "x", 0, 3))
    before = env.save()
    actions = np.ones((3, 3), dtype=np.int64)
    for call in (
        lambda: env.step(actions, battles),
        lambda: env.reset_battles(battle_keys(1, "x", 0, 3), battles),
        lambda: env.save(battles),
        lambda: env.restore(before, battles),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="actions must be integers, got float64"):
        env.step(actions + 0.9, [0, 1, 2])
    with pytest.raises(ValueError, match="keys must be uint64 of shape"):
        env.reset([1, 2, 3])
    assert all((env.save()[name] == before[name]).all() for name in before)
    env.step(actions.tolist(), [2, 0, 1])  # lists are as good as arrays


def test_a_state_is_rewritten_by_the_next_call_alone_whatever_it_is_made_of() -> None:
    for options in (Options(), Options(obs_instead_of_state=True)):
        env = BattleSim("3m", 1, options)
        env.reset(battle_keys(1, "x", 0, 1))
        first = env.state()
        kept = first.copy()
        env.step([[4, 1, 2]], [0])
        assert (first == kept).all() and (env.state() != kept).any()


def test_rewards_that_nothing_can_be_divided_by_are_refused() -> None:
    with pytest.raises(ValueError, match="make 0 the most to be had on 3m"):
        BattleSim("3m", 1, Options(reward_win=-165.0))
    BattleSim("3m", 1, Options(reward_win=-165.0, reward_scale=False))
