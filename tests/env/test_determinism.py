"""A battle depends on its key and its actions, and on nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import psutil
import pytest

from dm2core.env.scenario import known_maps
from dm2core.env.scripted import play, random_legal
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys
from tests.env.long_run import play_and_hash
from tests.env.trajectory import digest, rule

# Change these only together with a deliberate change of the dynamics, and raise RESULTS_VERSION then.
HASHES = {
    "3m": "04cfd315e1c162f0",
    "5m_vs_6m": "adf797cd0f24f168",
    "3s_vs_3z": "f9f4df6b10830f3a",
    "3s_vs_4z": "e6f58fd2ec58d020",
    "2s3z": "56f78cc9f90ef4d3",
    "3s5z": "7ad30db0260ed43d",
}
# The same of 20,000 random env steps (long_run.py).
LONG_HASHES = {"5m_vs_6m": "58afd1a77f1f8737", "3s_vs_4z": "3cb7b83656390b99", "2s3z": "72681a5e0b40a5a2"}
MILLION = 1_000_000


@pytest.mark.parametrize("name", HASHES)
def test_trajectories_are_the_recorded_ones(name: str) -> None:
    assert digest(name, 300, 4) == HASHES[name] == digest(name, 300, 4)


@pytest.mark.parametrize("name", ["5m_vs_6m", "2s3z"])
def test_a_battle_does_not_notice_the_others(name: str) -> None:
    """Battle b is bit for bit the same alone, among 7 or 64, and when the battles are stepped in parts, any order."""
    keys, steps = battle_keys(5, "alone", 0, 64), 40
    rng = np.random.default_rng(0)
    histories = {}
    for count, parts in ((64, 1), (7, 1), (1, 1), (7, 3)):
        env, rows = BattleSim(name, count), []
        env.reset(keys[:count])
        for t in range(steps):
            order = rng.permutation(count)
            reward = np.zeros(count)
            for part in np.array_split(order, parts):
                reward[part] = env.step(rule(env, keys, t, part), part).reward
            rows.append((env.raw[0].copy(), env.obs[0].copy(), env.state()[0].copy(), reward[0]))
            last = (env.raw[:7].copy(), reward[:7])
        histories[count, parts] = (rows, last)
    reference, reference_last = histories[64, 1]
    for (count, _), (rows, last) in histories.items():
        for mine, theirs in zip(rows, reference, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
        for a, b in zip(last, reference_last, strict=True):
            np.testing.assert_array_equal(a[:count], b[:count])


def test_save_and_restore() -> None:
    env, keys, everyone = BattleSim("2s3z", 5), battle_keys(6, "save", 0, 5), np.arange(5)

    def play_on(env: BattleSim) -> list[np.ndarray]:
        out = []
        for t in range(12, 30):
            step = env.step(rule(env, keys, t, everyone), everyone)
            out += [env.raw.copy(), env.obs.copy(), env.avail_actions.copy(), env.state().copy(), step.reward]
        return out

    env.reset(keys)
    for t in range(12):
        env.step(rule(env, keys, t, everyone), everyone)
    saved = env.save()
    first = play_on(env)
    for target in (env, BattleSim("2s3z", 5)):
        target.restore(saved)
        for a, b in zip(play_on(target), first, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="shape"):
        BattleSim("3m", 5).restore(saved)


@pytest.mark.parametrize("name", ["5m_vs_6m", "2s3z"])
def test_plain_python_plays_the_same_battle(name: str) -> None:
    """The same source without the compiler gives the same bits."""
    command = [sys.executable, "-m", "tests.env.trajectory", name, "16", "2"]
    plain = subprocess.run(
        command, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True
    )
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.strip() == digest(name, 16, 2)


def test_other_keys_give_other_battles() -> None:
    env = BattleSim("5m_vs_6m", 2)
    env.reset(battle_keys(8, "keys", 0, 2))
    for _ in range(12):
        env.step(env.alive.astype(np.int64), np.arange(2))
    assert (env.raw[0] != env.raw[1]).any()


def test_finished_battles_start_again_in_place() -> None:
    env, keys = BattleSim("3m", 3), battle_keys(9, "again", 0, 3)
    env.reset(keys)
    first = env.obs.copy()
    for _ in range(10):
        env.step(env.alive.astype(np.int64), np.arange(3))
    other = env.obs[[0, 2]].copy()
    env.reset_battles(keys[1:2], np.array([1]))
    np.testing.assert_array_equal(env.obs[1], first[1])
    np.testing.assert_array_equal(env.obs[[0, 2]], other)


def fresh(env_steps: int, battles: int, names: list[str], **environment: str) -> dict[str, str]:
    """Hashes of random play from a process of its own."""
    command = [sys.executable, "-m", "tests.env.long_run", str(env_steps), str(battles), *names]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.parametrize("battles", [1, 7, 64])
def test_random_play_has_the_recorded_hash_for_any_number_of_battles(battles: int) -> None:
    assert {name: play_and_hash(name, 20_000, battles) for name in LONG_HASHES} == LONG_HASHES


def test_random_play_has_the_recorded_hash_on_a_generic_cpu() -> None:
    assert fresh(20_000, 64, list(LONG_HASHES), NUMBA_CPU_NAME="generic") == LONG_HASHES


@pytest.mark.slow
def test_a_million_env_steps_of_every_map_have_one_hash() -> None:
    """Run twice, on a generic CPU target, and with 1, 7 or 64 battles side by side. Prints the hashes."""
    names = known_maps()
    first = fresh(MILLION, 64, names)
    print(first)
    assert fresh(MILLION, 64, names) == first
    assert fresh(MILLION, 64, names, NUMBA_CPU_NAME="generic") == first
    assert fresh(MILLION, 7, names) == fresh(MILLION, 1, names) == first


def test_resets_and_random_episodes_leak_no_memory() -> None:
    env, policy = BattleSim("3m", 4), random_legal(0)

    def episodes(count: int) -> None:
        for k in range(count):
            play(env, policy, battle_keys(k, "leak", 0, 4))
            BattleSim("5m_vs_6m", 4).reset(battle_keys(k, "leak", 4, 4))

    episodes(200)
    before = psutil.Process().memory_info().rss
    episodes(2000)
    assert psutil.Process().memory_info().rss - before < 2 * 2**20
