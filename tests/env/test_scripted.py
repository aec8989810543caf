"""The scripts do what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from dm2core.env.scripted import (
    ATTACK,
    focus_fire,
    kite,
    play,
    random_legal,
    shield_farm,
    smac_heuristic,
    stand,
    with_noise,
)
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys, stream

KEYS = battle_keys(1, "scripted", 0, 16)


def test_the_heuristic_attacks_the_nearest_at_any_distance_and_keeps_it_until_it_is_dead() -> None:
    env, policy = BattleSim("2s3z", 16), smac_heuristic()
    env.reset(KEYS)
    live, before, kept = np.arange(16), np.full((16, 5), -1), 0
    while live.size:
        unit = env.raw[live].astype(np.float64)
        actions = policy(env, live)
        chosen = actions - ATTACK
        for n, b in enumerate(live):
            for i in np.flatnonzero(env.alive[b]):
                enemy = unit[n, 5:]
                old = before[b, i]
                if old >= 0 and enemy[old, 2] > 0:
                    assert chosen[n, i] == old
                    kept += 1
                else:
                    gap = np.hypot(enemy[:, 0] - unit[n, i, 0], enemy[:, 1] - unit[n, i, 1])
                    assert chosen[n, i] == np.where(enemy[:, 2] > 0, gap, np.inf).argmin()
        before[live] = np.where(env.alive[live], chosen, before[live])
        step = env.step(actions, live)
        live = live[~(step.terminated | step.truncated)]
    assert kept > 1000


@pytest.mark.parametrize("name", ["3s_vs_3z", "3s_vs_4z", "3s_vs_5z"])
def test_farming_kills_nobody_and_is_paid_for_shields_that_grow(name: str) -> None:
    env = BattleSim(name, 16)
    result = play(env, shield_farm(), KEYS)
    assert result.truncated.all() and (env.raw[:, 3:, 2] > 0).all()
    assert (result.returns > 12).all() and (result.regrown > 3).all()


def test_a_won_battle_returns_twenty_and_twice_what_grew_back() -> None:
    """Every point that grows back is paid while growing and again when it is shot off."""
    result = play(BattleSim("3s_vs_3z", 16), shield_farm(0.3), KEYS)
    assert result.won.all()
    np.testing.assert_allclose(result.returns - 20, 2 * result.regrown, atol=0.01)
    assert (play(BattleSim("3m", 16), focus_fire, KEYS).regrown == 0).all()


def test_noise_of_zero_is_the_policy_and_of_one_is_none_of_it() -> None:
    env = BattleSim("3s_vs_3z", 16)
    clean = play(env, kite, KEYS)
    same = play(env, with_noise(kite, 0.0, stream(1, "test")), KEYS)
    np.testing.assert_array_equal(clean.returns, same.returns)
    other = play(env, with_noise(kite, 1.0, stream(1, "test")), KEYS)
    assert not other.won.any()
    again = play(env, with_noise(stand, 1.0, stream(1, "test")), KEYS)
    np.testing.assert_array_equal(other.returns, again.returns)


def test_standing_is_hit_and_earns_nothing() -> None:
    result = play(BattleSim("3m", 16), stand, KEYS)
    assert (result.returns == 0).all() and not result.won.any() and not result.truncated.any()
    assert play(BattleSim("3m", 16), random_legal(1), KEYS).returns.max() > 0
