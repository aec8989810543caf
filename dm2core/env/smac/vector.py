"""The real game as a `BattleEnv`: same observations, actions, reward and time as the simulator's `BattleSim`.

There are more battles than games: `side_by_side` of them can be under way at once, and `reset_battles` gives each of
the listed ones a game. A battle whose game fails is dropped: `Step.discarded` says so, and it must be played again.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dm2core.env.listed import listed_actions, listed_battles
from dm2core.env.observe import GAME_LOOPS, Encoding
from dm2core.env.smac import preflight
from dm2core.env.smac.link import Sizes
from dm2core.env.smac.pool import SEED_BITS, Pool
from dm2core.env.smac.settings import Smac
from dm2core.types import EnvSpec, Step

SLACK = 100  # game loops that a reset may take, and more
_pools: dict[tuple[str, Smac, bool], Pool] = {}  # games are shared by the environments of this process


class SmacEnv:
    """B battles of one map on the games of this process.

    A battle's key only seeds the game that is started for it; the game then draws on, so no battle can be repeated.
    """

    def __init__(
        self,
        encoding: Encoding,
        unit_table: NDArray[np.float64],
        num_battles: int,
        settings: Smac,
        *,
        own_games: bool = False,
    ) -> None:
        """ServiceError names what is missing of the game. No game is started before the first reset.

        `encoding` and `unit_table` are the simulator's. With `own_games` battles may stay under way while other
        environments of the process play: their games are not these.
        """
        spec = self.spec = encoding.spec
        self.encoding, self.unit_table = encoding, unit_table
        if num_battles < 1:
            raise ValueError(f"num_battles must be at least 1, got {num_battles}")
        preflight.require(spec.map_name)
        if (spec.map_name, settings, own_games) not in _pools and preflight.changed_maps([spec.map_name]):
            text = (
                f"the game's map {spec.map_name} is not SMAC's, byte for byte; results will not be comparable"
            )
            print(f"dm2: {text}", file=sys.stderr, flush=True)
        self.num_battles = num_battles
        self.side_by_side = min(settings.games, num_battles)
        n = spec.n_agents
        self.obs = np.zeros((num_battles, n, spec.obs_size), dtype=np.float32)
        self.avail_actions = np.zeros((num_battles, n, spec.n_actions), dtype=np.bool_)
        self.alive = np.zeros((num_battles, n), dtype=np.bool_)
        self._state = np.zeros((num_battles, spec.state_size), dtype=np.float32)
        self._at: dict[int, int] = {}  # game of each battle under way
        self.raw = np.zeros((num_battles, n + spec.n_enemies, 5), dtype=np.float32)  # as in BattleSim
        self._pool = _pool(spec, settings, own_games)

    def wait_with(self, poll: Callable[[], None]) -> None:
        """`poll` is called while games are waited for, and may raise."""
        self._pool.poll = poll

    def reset(self, keys: NDArray[np.uint64]) -> None:
        """Start all battles; only for as many as can be under way at once."""
        self._at.clear()
        self.reset_battles(keys, np.arange(self.num_battles))

    def reset_battles(self, keys: NDArray[np.uint64], battles: NDArray[np.int64]) -> None:
        """Give each listed battle ([b], distinct) a game in which it begins. A game that fails over it is replaced."""
        keys, battles = np.asarray(keys), listed_battles(battles)
        if keys.shape != battles.shape or keys.dtype != np.uint64:
            raise ValueError(f"keys must be uint64 of shape {battles.shape}, got {keys.dtype} {keys.shape}")
        for battle in battles.tolist():
            if not 0 <= battle < self.num_battles:
                raise ValueError(f"there is no battle {battle}, only 0..{self.num_battles - 1}")
            self._at.pop(battle, None)
        pool = self._pool
        busy = set(self._at.values())
        free = [number for number in range(len(pool.games)) if number not in busy]
        if len(free) < len(battles):
            raise ValueError(f"{len(battles)} battles to start, but only {len(free)} games are free")
        seeds = {n: int(key) & SEED_BITS for n, key in zip(free, keys, strict=False)}
        given = dict(zip(free, battles.tolist(), strict=False))
        waiting = list(given)
        pool.retire(waiting, GAME_LOOPS * self.spec.episode_limit + SLACK)
        while waiting:
            pool.start(waiting, [seeds[number] for number in waiting])
            failed = pool.gather(waiting)  # to start, or to answer what an abandoned battle had asked
            there = [number for number in waiting if number not in failed]
            for number in there:
                pool.tell(number, b"reset")
            failed |= pool.gather(there)
            waiting = list(failed)
        self._compare_ground()
        pool.episodes += len(given)
        for number, battle in given.items():
            self._at[battle] = number
            self._show(battle, number)

    def step(self, actions: NDArray[np.int64], battles: NDArray[np.int64]) -> Step:
        """Advance the battles listed in `battles` ([b], distinct, under way) by `actions` ([b, N])."""
        battles = listed_battles(battles)
        count, n = battles.size, self.spec.n_agents
        actions = listed_actions(actions, count, n)
        for k, battle in enumerate(battles.tolist()):
            if battle not in self._at:
                raise ValueError(f"battle {battle} is not under way; reset it first")
            for agent, action in enumerate(actions[k].tolist()):
                if not (0 <= action < self.spec.n_actions and self.avail_actions[battle, agent, action]):
                    raise ValueError(f"battle {battle}, agent {agent}: action {action} is not available")
        pool, numbers = self._pool, [self._at[battle] for battle in battles.tolist()]
        for number, row in zip(numbers, actions, strict=True):
            pool.game(number).block.actions[:] = row
            pool.tell(number, b"step")
        failed = pool.gather(numbers)
        reward = np.zeros(count)
        flags, dead = np.zeros((4, count), dtype=np.bool_), np.zeros((2, count), dtype=np.int32)
        for k, (battle, number) in enumerate(zip(battles.tolist(), numbers, strict=True)):
            if number in failed:
                flags[3, k] = True
                pool.discarded += 1
            else:
                block = pool.game(number).block
                reward[k], flags[:3, k], dead[:, k] = block.reward[0], block.flags[:3], block.flags[3:]
                self._show(battle, number)
            if flags[:2, k].any() or flags[3, k]:
                del self._at[battle]
        return Step(reward, flags[0], flags[1], flags[2], dead[0], dead[1], flags[3])

    def state(self) -> NDArray[np.float32]:
        """Global state [B, S], a view that the next call rewrites."""
        return self._state

    def _compare_ground(self) -> None:
        """Say once if the game's map is not what the simulator takes it for; only RMAPPO's critic reads that."""
        ours, theirs = self.encoding.ground[1:].tolist(), self._pool.ground
        if ours != theirs and not self._pool.ground_said:
            self._pool.ground_said = True
            game, simulator = (", ".join(f"{number:g}" for number in numbers) for numbers in (theirs, ours))
            print(
                f"dm2: StarCraft II on {self.spec.map_name}: width, depth, playable width and depth, and time limit "
                f"are {game}, not {simulator}; RMAPPO's critic sees the latter",
                file=sys.stderr,
                flush=True,
            )

    def _show(self, battle: int, number: int) -> None:
        block = self._pool.game(number).block
        self.obs[battle], self.avail_actions[battle] = block.obs, block.avail_actions
        self.alive[battle], self._state[battle] = block.alive, block.state
        self.raw[battle] = block.raw


def _pool(spec: EnvSpec, settings: Smac, own: bool) -> Pool:
    key = (spec.map_name, settings, own)
    if key not in _pools:
        sizes = Sizes(spec.n_agents, spec.n_enemies, spec.n_actions, spec.obs_size, spec.state_size)
        _pools[key] = Pool(spec.map_name, sizes, settings)
    return _pools[key]


def take_counts(env: object) -> dict[str, float]:
    """env_restarts and episodes_discarded of the environment's games since the last call; {} for the simulator.

    The games are shared: a call through one environment takes the counts of all that play on them.
    """
    return env._pool.take_counts() if isinstance(env, SmacEnv) else {}


def game_info() -> dict[str, str]:
    """What the games of this process said about themselves, and the packages before them; {} if none was started."""
    said = [pool.about for pool in _pools.values() if pool.about]
    return {**said[-1], **preflight.package_versions()} if said else {}


@atexit.register
def close_games() -> None:
    """Stop every game of this process."""
    while _pools:
        _pools.popitem()[1].close()
