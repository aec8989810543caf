"""Properties of every battle beyond test_battle.py, over battles that hypothesis chooses.

What holds and what does not:
- Swapping north and south gives mirrored battles, facing at the start included, while no two units of a team meet: one
  that runs straight into another goes round it to the side that its number says.
- Agents under other labels fight the same battle while no two of a team meet and nobody dies, without random
  delays: those are drawn in the order of the numbers, and of two who could fire the last shot the first does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dm2core.env import battle
from dm2core.env.scenario import load_scenario
from dm2core.env.scripted import attack_nearest, focus_fire, play
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys
from tests.env.trajectory import rule

MAPS = ["3m", "5m_vs_6m", "3s_vs_3z", "2s3z"]
ONE = np.zeros(1, dtype=np.int64)
seeds = st.integers(0, 2**31)
quick = settings(max_examples=15, deadline=None, derandomize=True)


def played(name: str, seed: int, count: int, steps: int) -> tuple[BattleSim, NDArray[np.uint64]]:
    """A batch in the middle of its battles."""
    env, keys = BattleSim(name, count), battle_keys(seed, "properties", 0, count)
    env.reset(keys)
    everyone = np.arange(count, dtype=np.int64)
    for t in range(steps):
        env.step(rule(env, keys, t, everyone), everyone)
    return env, keys


@pytest.mark.parametrize("name", ["3s_vs_3z", "2s3z"])
def test_shields_grow_two_points_a_second_after_ten_seconds_without_damage(name: str) -> None:
    """Ten seconds are 20 env steps of 8 loops; a step then brings one point."""
    count = 12
    env, keys = BattleSim(name, count), battle_keys(2, "shields", 0, count)
    env.reset(keys)
    full = np.array([u.shield for u in load_scenario(name).allies + load_scenario(name).enemies])
    quiet, grown, everyone = np.zeros((count, full.size)), 0, np.arange(count)
    for t in range(100):
        before = env.raw.astype(np.float64)
        env.step(rule(env, keys, t, everyone), everyone)
        now = env.raw.astype(np.float64)
        gain = np.where(now[..., 2] > 0, now[..., 3] - before[..., 3], 0.0)
        hurt = (gain < 0) | (now[..., 2] < before[..., 2])
        quiet = np.where(hurt, 0, quiet + 1)
        grown += int((gain > 0).sum())
        assert (gain <= 1.0 + 1e-5).all() and (now[..., 3] <= full).all()
        assert (quiet[gain > 0] >= 19).all()  # the last hit may have been early in its step
        resting = (quiet > 21) & (now[..., 2] > 0) & (before[..., 3] <= full - 1)
        np.testing.assert_allclose(gain[resting], 1.0, atol=1e-5)
    assert grown > 0


@quick
@given(seed=seeds, name=st.sampled_from(["3m", "5m_vs_6m"]))
def test_marines_are_hurt_only_if_an_enemy_shot_within_reach(seed: int, name: str) -> None:
    """Reach is 5.75 from centre to centre, one more for a shot under way; both may have walked in the step."""
    env, keys = BattleSim(name, 4), battle_keys(seed, "reach", 0, 4)
    env.reset(keys)
    n, everyone = env.spec.n_agents, np.arange(4)
    for t in range(30):
        before = env.raw.astype(np.float64)
        env.step(rule(env, keys, t, everyone), everyone)
        now = env.raw.astype(np.float64)
        # The dead keep the place and cooldown of the step before; who died may have fired first.
        fired = (before[..., 2] > 0) & ((now[..., 4] > before[..., 4]) | (now[..., 2] <= 0))
        away = np.hypot(*(before[:, :, None, k] - before[:, None, :, k] for k in (0, 1)))
        foes = np.zeros(away.shape[1:], dtype=bool)
        foes[:n, n:] = foes[n:, :n] = True
        hit_by = foes & fired[:, None, :] & (away <= 5.75 + 1.0 + 2 * 8 * 2.25 / 16)
        hurt = now[..., 2] < before[..., 2]
        assert hit_by.any(-1)[hurt].all()


@quick
@given(seed=seeds, name=st.sampled_from(MAPS), steps=st.integers(0, 25), data=st.data())
def test_a_refused_action_changes_no_bit(seed: int, name: str, steps: int, data: st.DataObject) -> None:
    env, keys = played(name, seed, 3, steps)
    everyone = np.arange(3, dtype=np.int64)
    actions = rule(env, keys, steps, everyone)
    b, agent = data.draw(st.integers(0, 2)), data.draw(st.integers(0, env.spec.n_agents - 1))
    illegal = [-1, env.spec.n_actions, *np.flatnonzero(~env.avail_actions[b, agent]).tolist()]
    actions[b, agent] = data.draw(st.sampled_from(illegal))
    views = (env.obs, env.avail_actions, env.alive)
    before = [*env.save().values(), *(view.copy() for view in views)]
    with pytest.raises(
        ValueError, match=f"battle {b}, agent {agent}: action {actions[b, agent]} is not available"
    ):
        env.step(actions, everyone)
    for now, then in zip([*env.save().values(), *views], before, strict=True):
        np.testing.assert_array_equal(now, then)


@quick
@given(seed=seeds, name=st.sampled_from(MAPS), steps=st.integers(0, 25), data=st.data())
def test_saved_battles_go_on_in_any_slot(seed: int, name: str, steps: int, data: st.DataObject) -> None:
    env, keys = played(name, seed, 4, steps)
    picked = np.array(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True)))
    other = BattleSim(name, 7)
    other.reset(battle_keys(seed + 1, "others", 0, 7))
    slots = np.array(data.draw(st.permutations(range(7))))[: picked.size]
    rest = np.setdiff1d(np.arange(7), slots)
    untouched = [value[rest] for value in other.save().values()]
    other.restore(env.save(picked), slots)
    for _ in range(12):
        actions = rule(env, keys, steps, picked)
        mine, theirs = env.step(actions, picked), other.step(actions, slots)
        for field in dataclasses.fields(mine):
            np.testing.assert_array_equal(getattr(mine, field.name), getattr(theirs, field.name))
        for view in ("raw", "obs", "avail_actions", "alive"):
            np.testing.assert_array_equal(getattr(env, view)[picked], getattr(other, view)[slots])
        np.testing.assert_array_equal(env.state()[picked], other.state()[slots])
    for value, then in zip(other.save().values(), untouched, strict=True):
        np.testing.assert_array_equal(value[rest], then)


@quick
@given(seed=seeds, name=st.sampled_from(["3m", "8m"]))
def test_a_won_marine_battle_sums_to_twenty(seed: int, name: str) -> None:
    for policy in (focus_fire, attack_nearest):
        result = play(BattleSim(name, 8), policy, battle_keys(seed, "twenty", 0, 8))
        np.testing.assert_allclose(result.returns[result.won], 20.0, atol=1e-9)
        assert (result.returns[~result.won] < 20.0).all()


def spread(rows: NDArray[np.float64], order: Sequence[int] = (0, 1, 2)) -> BattleSim:
    """Two columns of three marines, a pair in each row, no two of a team near each other; no random delays.

    `order` says which row has agent 0, 1, 2.
    """
    base = load_scenario("3m")
    west, east = np.full(rows.size, 13.0), np.full(rows.size, 18.0)
    start = np.concatenate([np.column_stack([west, rows])[list(order)], np.column_stack([east, rows])])
    constants = dataclasses.replace(base.constants, random_delay=(0.0, 0.0))
    env = BattleSim(dataclasses.replace(base, start=start, constants=constants), 1)
    env.reset(np.zeros(1, dtype=np.uint64))
    return env


def alone(env: BattleSim) -> bool:
    """All units live, and no two of a team are near enough to touch."""
    x, y, health = (env.raw[0, :, k].astype(np.float64) for k in range(3))
    gap = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(x.size)
    return bool((health > 0).all() and min(gap[:3, :3].min(), gap[3:, 3:].min()) > 1.5)


def orders(env: BattleSim, plan: NDArray[np.int64]) -> NDArray[np.int64]:
    """The planned action of each agent where it is legal, else stop, or no-op of the dead."""
    legal = env.avail_actions[0, np.arange(plan.size), plan]
    return np.where(legal, plan, np.where(env.alive[0], 1, 0))[None]


SWAPPED = np.array([0, 1, 3, 2, 4, 5, 6, 7, 8])  # north and south change places
ROWS = st.integers(0, 2**31).map(
    lambda seed: np.array([11.5, 16.0, 20.5]) + np.random.default_rng(seed).uniform(-0.4, 0.4, 3)
)
PLANS = st.lists(
    st.lists(st.sampled_from([1, 2, 3, 6, 7, 8]), min_size=3, max_size=3), min_size=4, max_size=10
)


@quick
@given(rows=ROWS, plans=PLANS)
def test_battles_mirror_when_north_and_south_are_swapped(
    rows: NDArray[np.float64], plans: list[list[int]]
) -> None:
    one, other = spread(rows), spread(32.0 - rows)
    other._floats[0, battle.FACE_Y] *= -1.0  # units are made facing south
    for plan in map(np.array, plans):
        one.step(orders(one, plan), ONE)
        other.step(orders(other, SWAPPED[plan]), ONE)
        if not alone(one):
            break
        mirrored = other.raw[0].copy()
        mirrored[:, 1] = 32.0 - mirrored[:, 1]
        np.testing.assert_allclose(one.raw[0], mirrored, atol=1e-4)


@quick
@given(rows=ROWS, plans=PLANS, order=st.permutations(range(3)))
def test_agents_under_other_labels_fight_the_same_battle(
    rows: NDArray[np.float64], plans: list[list[int]], order: list[int]
) -> None:
    one, other = spread(rows), spread(rows, order)
    for plan in map(np.array, plans):
        one.step(orders(one, plan), ONE)
        other.step(orders(other, plan[order]), ONE)
        if not alone(one):
            break
        np.testing.assert_array_equal(one.raw[0, order], other.raw[0, :3])
        np.testing.assert_array_equal(one.raw[0, 3:], other.raw[0, 3:])


def test_the_battles_of_the_two_tests_above_are_battles() -> None:
    """Units stay apart and shoot for some steps."""
    env = spread(np.array([11.5, 16.0, 20.5]))
    for _ in range(4):
        env.step(orders(env, np.array([6, 7, 8])), ONE)
        assert alone(env)
    assert (env.raw[0, :, 2] < 45).all()
