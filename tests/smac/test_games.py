"""The pool of games: what it shows is the simulator's battle, and a game that fails costs its episode, nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dm2core.config import load_config
from dm2core.env import scripted
from dm2core.env.smac import pool
from dm2core.env.smac.pool import SEED_BITS, Pool
from dm2core.env.smac.settings import DEFAULTS, Smac
from dm2core.env.smac.vector import SmacEnv, take_counts
from dm2core.env.vector import BattleSim, make_env, map_spec
from dm2core.errors import ServiceError
from dm2core.nets import Actor
from dm2core.rng import battle_keys, stream
from dm2core.rollout import Rollout, collect
from tests.smac.conftest import needs_smac, others_warnings
from tests.smac.tree import ROOT, all_end, environment, game_pids, is_running, script

pytestmark = [pytest.mark.smac, needs_smac, others_warnings]


def settings(**changes: Any) -> Smac:
    quick = {"games": 2, "start_gap_s": 0.0, "start_limit_s": 60.0, "hang_limit_s": 20.0, "max_restarts": 5}
    return Smac(**(quick | changes))


def open_env(map_name: str, battles: int, **changes: Any) -> SmacEnv:
    env = make_env(map_name, battles, settings(**changes))
    assert isinstance(env, SmacEnv)
    return env


def pool_of(env: SmacEnv) -> Pool:
    return env._pool


def policy(map_name: str) -> Actor:
    """Nobody's: all available actions are equally likely."""
    spec = map_spec(map_name)
    return Actor(spec.n_agents, spec.obs_size + spec.n_actions + spec.n_agents, spec.n_actions, 16)


def play(map_name: str, battles: int, env: SmacEnv, seed: int = 1) -> Rollout:
    return collect(env, policy(map_name), None, battle_keys(seed, "test", 0, battles))


def check_whole(rollout: Rollout, limit: int) -> None:
    """Every episode ended as battles do: won, at the limit, or with no agent alive."""
    for b, length in enumerate(rollout.lengths.tolist()):
        assert length >= 1
        if rollout.truncated[b]:
            assert length == limit
        elif not rollout.won[b]:
            assert not rollout.alive[length, b].any()
        assert rollout.alive[length - 1, b].any()
        for rows in (rollout.obs, rollout.actions, rollout.alive, rollout.log_probs):
            assert not rows[length + 1 :, b].any()
        assert not rollout.rewards[length:, b].any()


@pytest.mark.parametrize("map_name", ["5m_vs_6m", "3s_vs_3z", "2s3z"])
def test_battles_of_the_pool_are_the_simulators_battles(map_name: str, tree: Path) -> None:
    from tests.smac.game_server import key_of

    env, sim = open_env(map_name, 2), BattleSim(map_name, 2)
    assert env.spec == sim.spec and list(tree.glob("started")) == []  # sizes need no game
    keys, act = battle_keys(5, "test", 0, 2), scripted.random_legal(5)
    for number in range(2):
        env.reset(keys)
        sim.reset(np.concatenate([key_of(int(key) & SEED_BITS, number) for key in keys]))
        live = np.arange(2)
        while live.size:
            for one, other in (
                (env.obs, sim.obs),
                (env.state(), sim.state()),
                (env.avail_actions, sim.avail_actions),
                (env.alive, sim.alive),
            ):
                assert np.abs(one[live].astype(float) - other[live]).max() <= 1e-6
            actions = act(sim, live)
            mine, theirs = env.step(actions, live), sim.step(actions, live)
            assert mine.discarded is not None and not mine.discarded.any()
            assert np.abs(mine.reward - theirs.reward).max() <= 1e-6
            for name in ("terminated", "truncated", "won", "dead_allies", "dead_enemies"):
                assert (getattr(mine, name) == getattr(theirs, name)).all(), name
            live = live[~(mine.terminated | mine.truncated)]


def test_games_start_one_after_the_other(tree: Path) -> None:
    env = open_env("3m", 3, games=3, start_gap_s=0.8)
    env.reset(battle_keys(1, "test", 0, 3))
    ticks = os.sysconf("SC_CLK_TCK")
    pids = [game.process.pid for game in pool_of(env).games if game is not None]
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    began = [int(field[19]) / ticks for field in fields]
    assert len(began) == 3 and min(np.diff(began)) >= 0.8 - 2 / ticks
    assert [os.getpgid(pid) for pid in pids] == pids  # Ctrl-C does not reach them


def test_more_battles_than_games_are_played_in_turns(tree: Path) -> None:
    env = open_env("3m", 7)
    rollout = play("3m", 7, env)
    check_whole(rollout, 60)
    assert take_counts(env) == {"env_restarts": 0.0, "episodes_discarded": 0.0}
    assert len(game_pids(tree)) == 2  # and the games were started once


@pytest.mark.parametrize("noticed", [True, False])
def test_games_are_replaced_between_battles_before_they_end_by_themselves(
    noticed: bool, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tree, all={"last_loop": 1500})
    if noticed:
        monkeypatch.setattr(pool, "LAST_LOOP", 1500)
    env = open_env("3m", 16)
    rollout = play("3m", 16, env)
    check_whole(rollout, 60)
    counts = take_counts(env)
    assert len(game_pids(tree)) > 2
    assert (sum(counts.values()) == 0) is noticed  # unnoticed, the end costs a battle and counts as a failure


def test_a_map_that_is_not_the_simulators_is_told_once(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script(tree, all={"playable": 30})
    env = open_env("3m", 2)
    for seed in (1, 2):
        play("3m", 2, env, seed)
    said = capsys.readouterr().err
    assert said.count("time limit are 32, 32, 30, 32, 60, not 32, 32, 32, 32, 60;") == 1, said


def test_no_proxy_stands_between_a_worker_and_its_game(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost")
    open_env("3m", 1, games=1, max_restarts=0).reset(battle_keys(1, "test", 0, 1))


@pytest.mark.parametrize("fault", ["die", "garble", "refuse", "hang"])
def test_a_game_that_fails_costs_one_episode_which_is_played_again(fault: str, tree: Path) -> None:
    script(tree, **{"1": {"at": "step", "count": 9, "do": fault}})
    env = open_env("3m", 4, hang_limit_s=3.0)
    rollout = play("3m", 4, env)
    check_whole(rollout, 60)
    assert take_counts(env) == {"env_restarts": 1.0, "episodes_discarded": 1.0}
    assert take_counts(env) == {"env_restarts": 0.0, "episodes_discarded": 0.0}
    assert pool_of(env).episodes == 5
    assert len(game_pids(tree)) == 3


@pytest.mark.parametrize(
    ("fault", "discarded"),
    [
        ({"at": "observation", "count": 1, "do": "die"}, 0),  # at its first reset
        ({"at": "debug", "count": 1, "do": "die"}, 0),  # at its second
        ({"at": "observation", "count": 4, "do": "garble"}, 1),
        ({"at": "action", "count": 2, "do": "die"}, 1),
    ],
    ids=["first reset", "later reset", "observation", "action"],
)
def test_a_game_may_fail_anywhere(fault: dict[str, Any], discarded: int, tree: Path) -> None:
    script(tree, **{"1": fault})
    env = open_env("3m", 4)
    check_whole(play("3m", 4, env), 60)
    assert take_counts(env) == {"env_restarts": 1.0, "episodes_discarded": float(discarded)}


def test_a_dead_worker_or_game_is_noticed_within_a_second(tree: Path) -> None:
    env = open_env("3m", 2, games=2)
    for victim in ("worker", "game", "both"):
        env.reset(battle_keys(1, "test", 0, 2))
        games = [game for game in pool_of(env).games if game is not None]
        at = games[0].process.pid
        child = int(subprocess.run(["pgrep", "-P", str(at)], capture_output=True, check=True).stdout)
        for pid in {"worker": [at], "game": [child], "both": [child, at]}[victim]:
            os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        step = env.step(np.ones((2, 3), dtype=np.int64), np.arange(2))
        took = time.monotonic() - started
        print(f"{victim} killed: noticed after {took:.3f} s")
        assert took < 1.0
        assert step.discarded is not None and step.discarded.tolist() == [True, False]
        assert not (step.terminated | step.truncated | step.won)[0] and step.reward[0] == 0.0


def test_a_hung_game_is_killed_at_the_limit(tree: Path) -> None:
    script(tree, **{"1": {"at": "step", "count": 2, "do": "hang"}})
    env = open_env("3m", 1, games=1, hang_limit_s=2.0)
    env.reset(battle_keys(1, "test", 0, 1))
    stop, here = np.ones((1, 3), dtype=np.int64), np.zeros(1, dtype=np.int64)
    env.step(stop, here)
    started = time.monotonic()
    step = env.step(stop, here)
    assert step.discarded is not None and step.discarded[0]
    assert 2.0 <= time.monotonic() - started < 4.0
    assert all_end(game_pids(tree)[:1])


@pytest.mark.slow
def test_a_hung_game_is_noticed_within_a_minute_as_shipped(tree: Path) -> None:
    config = load_config(ROOT / "config" / "config.yaml", {"env": "smac"})
    assert config.games == DEFAULTS and DEFAULTS.hang_limit_s < 60.0
    script(tree, **{"1": {"at": "observation", "count": 5, "do": "hang"}})
    env = make_env("3m", 1, DEFAULTS.model_copy(update={"games": 1}))
    env.reset(battle_keys(1, "test", 0, 1))
    stop, here = np.ones((1, 3), dtype=np.int64), np.zeros(1, dtype=np.int64)
    while True:
        started = time.monotonic()
        step = env.step(stop, here)
        assert step.discarded is not None
        if step.discarded[0]:
            break
    took = time.monotonic() - started
    print(f"noticed after {took:.2f} s")
    assert took <= 60.0 and take_counts(env) == {"env_restarts": 1.0, "episodes_discarded": 1.0}


@pytest.mark.slow
def test_twenty_random_kills_lose_no_episode_silently(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    battles, kills = 90, 20
    env = open_env("3m", battles, games=3, max_restarts=1000)
    pool, draws, over = pool_of(env), stream(3, "test/kills"), threading.Event()
    done: list[int] = []
    killed_at: dict[int, float] = {}  # by process id
    asked_at: dict[int, float] = {}  # by number of the game
    delays: list[float] = []  # from death, or from the first order after it, to its notice
    tell, failed = pool.tell, pool._failed

    def telling(number: int, order: bytes) -> None:
        asked_at[number] = time.monotonic()
        tell(number, order)

    def failing(number: int, why: str) -> None:
        death = killed_at[pool.game(number).process.pid]
        delays.append(time.monotonic() - max(death, asked_at.get(number, 0.0)))
        failed(number, why)

    monkeypatch.setattr(pool, "tell", telling)
    monkeypatch.setattr(pool, "_failed", failing)

    def assassin() -> None:
        while len(done) < kills and not over.wait(draws.uniform(0.2, 2.5)):
            started = [game.process.pid for game in pool.games if game is not None and game.about is not None]
            victims = [pid for pid in started if pid not in done]
            if victims:
                done.append(victims[int(draws.integers(len(victims)))])
                killed_at[done[-1]] = time.monotonic()
                os.kill(done[-1], signal.SIGKILL)

    thread = threading.Thread(target=assassin)
    thread.start()
    total = {"env_restarts": 0.0, "episodes_discarded": 0.0}
    episodes = 0
    while len(done) < kills or episodes == 0:
        rollout = play("3m", battles, env, seed=episodes)
        check_whole(rollout, 60)
        episodes += battles
        for key, value in take_counts(env).items():
            total[key] += value
    over.set()
    thread.join()
    late = sum(
        game is not None and game.process.poll() is not None for game in pool.games
    )  # killed at the very end
    print(
        f"{episodes} episodes, {len(done)} workers killed, {total}, noticed after {max(delays):.3f} s at most"
    )
    assert len(delays) == kills - late and max(delays) < 1.0
    assert len(done) == kills and total["env_restarts"] == kills - late
    assert total["episodes_discarded"] <= total["env_restarts"]
    assert pool.episodes == episodes + total["episodes_discarded"]


def test_units_that_appear_late_do_not_change_the_rewards_scale(tree: Path) -> None:
    from tests.smac.game_server import key_of

    script(tree, all={"do": "late", "count": 2})
    env, sim = open_env("5m_vs_6m", 1, games=1), BattleSim("5m_vs_6m", 1)
    keys, act, here = battle_keys(5, "test", 0, 1), scripted.focus_fire, np.zeros(1, dtype=np.int64)
    for number in range(2):
        env.reset(keys)
        sim.reset(key_of(int(keys[0]) & SEED_BITS, number))
        rewards = []
        while True:
            actions = act(sim, here)
            mine, theirs = env.step(actions, here), sim.step(actions, here)
            rewards.append(mine.reward[0])
            assert abs(mine.reward[0] - theirs.reward[0]) <= 1e-6
            if (mine.terminated | mine.truncated)[0]:
                break
        assert sum(rewards) > 0


def test_a_battle_may_be_abandoned_even_the_first(tree: Path) -> None:
    from tests.smac.game_server import key_of

    env, sim = open_env("3m", 1, games=1), BattleSim("3m", 1)
    keys, here = battle_keys(5, "test", 0, 1), np.zeros(1, dtype=np.int64)
    act = scripted.focus_fire
    for number in range(3):
        env.reset(keys)
        sim.reset(key_of(int(keys[0]) & SEED_BITS, number))
        for _ in range(12):
            actions = act(sim, here)
            assert abs(env.step(actions, here).reward[0] - sim.step(actions, here).reward[0]) <= 1e-6
    assert len(game_pids(tree)) == 1


def test_six_failures_in_a_hundred_episodes_end_it_with_the_games_last_words(tree: Path) -> None:
    script(tree, all={"at": "step", "count": 3, "do": "die"})
    env = open_env("3m", 8)
    with pytest.raises(ServiceError) as caught:
        play("3m", 8, env)
    text = str(caught.value)
    assert "\n" not in text
    assert "3m failed 6 times within 100 episodes" in text and "about to die" in text


def test_a_game_that_cannot_start_says_why(tree: Path) -> None:
    script(tree, all={"at": "start"})
    with pytest.raises(ServiceError, match=r"failed 6 times .* game \d+: cannot start"):
        open_env("3m", 1, games=1).reset(battle_keys(1, "test", 0, 1))


def test_an_action_that_is_not_available_is_refused_before_it_is_sent(tree: Path) -> None:
    env = open_env("3m", 3)
    env.reset_battles(battle_keys(1, "test", 0, 2), np.arange(2))
    actions = np.ones((2, 3), dtype=np.int64)
    actions[1, 2] = 0
    with pytest.raises(ValueError, match="battle 1, agent 2: action 0 is not available"):
        env.step(actions, np.arange(2))
    with pytest.raises(ValueError, match="only 0 games are free"):
        env.reset_battles(battle_keys(1, "test", 0, 1), np.array([2]))


ORPHANS = """
import sys, time
import numpy as np
from dm2core.env.smac.settings import Smac
from dm2core.env.vector import make_env
from dm2core.rng import battle_keys
settings = Smac(games=2, start_gap_s=0.0, start_limit_s=60.0, hang_limit_s=60.0, max_restarts=5)
env = make_env("3m", 2, settings)
env.reset(battle_keys(1, "test", 0, 2))
print(*(game.process.pid for game in env._pool.games), flush=True)
while True:
    env.step(np.ones((2, 3), dtype=np.int64), np.arange(2))
    env.reset(battle_keys(1, "test", 0, 2))
"""


def test_nothing_outlives_a_killed_parent(tree: Path, tmp_path: Path) -> None:
    temporary = {**environment(tree), "TMPDIR": str(tmp_path)}
    for how in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
        parent = subprocess.Popen(
            [sys.executable, "-c", ORPHANS],
            env=temporary,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        games = game_pids(tree)[-2:]
        assert len(workers) == len(games) == 2 and all(map(is_running, workers + games))
        time.sleep(0.3)
        parent.send_signal(how)
        parent.wait(timeout=20)
        parent.stdout.close()
        assert all_end(workers + game_pids(tree))
    # The last one could tidy up, and swept away what the killed ones had left.
    assert list(tmp_path.glob("dm2-games-*")) == []


def test_games_leave_no_files_behind(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dm2core.env.smac.vector import close_games

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    script(tree, **{"1": {"at": "step", "count": 4, "do": "die"}})
    play("3m", 3, open_env("3m", 3))
    handles = len(os.listdir("/proc/self/fd"))
    play("3m", 3, open_env("3m", 3))
    assert len(os.listdir("/proc/self/fd")) == handles
    close_games()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert all_end(game_pids(tree))


def test_torch_and_the_games_packages_stay_on_their_sides(tree: Path) -> None:
    env = open_env("3m", 1, games=1)
    env.reset(battle_keys(1, "test", 0, 1))
    game = pool_of(env).games[0]
    assert game is not None and torch.__version__
    loaded = Path(f"/proc/{game.process.pid}/maps").read_text()
    assert "libtorch" not in loaded and "multiarray" in loaded
    alone = "import sys, dm2core.env.vector; sys.exit(bool({'smac', 'pysc2', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", alone], env=environment(tree), check=False).returncode == 0
