"""Many battles of one map side by side: the simulator as a `BattleEnv`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dm2core.env import battle, observe
from dm2core.env.listed import listed_actions, listed_battles
from dm2core.env.scenario import Scenario, UnitType, load_scenario, smac_units
from dm2core.env.smac.settings import Smac
from dm2core.env.smac.vector import SmacEnv
from dm2core.types import BattleEnv, EnvSpec, Step


def _unit_rows(units: tuple[UnitType, ...]) -> NDArray[np.float64]:
    """Rows of battle.py's unit table, [10, U]."""
    rows = []
    for u in units:
        body = [u.health, u.shield, u.armor, u.speed, u.separation_radius]
        weapon = [u.period, u.damage_point, u.backswing, u.missile_speed, u.hit_gap if u.hits == 2 else 0.0]
        rows.append(body + weapon)
    return np.ascontiguousarray(np.array(rows, dtype=np.float64).T)


def _pair_tables(units: tuple[UnitType, ...], min_scan_range: float) -> NDArray[np.float64]:
    """battle.py's tables [5, U, U], row unit against column unit: damage, weapon reach, acquisition, contact, near."""
    pairs = np.zeros((battle.N_PAIRS, len(units), len(units)))
    for i, a in enumerate(units):
        for j, b in enumerate(units):
            bodies = a.radius + b.radius
            contact = 0.999 * (a.separation_radius + b.separation_radius)  # units may touch
            pairs[:, i, j] = (
                a.damage_to(b),
                a.range + bodies,
                max(a.range, min_scan_range) + bodies,
                contact,
                0.0 if i == j else 1.0001 * (contact + a.speed) ** 2,
            )
    return pairs


def _rules(scenario: Scenario, move_amount: float) -> NDArray[np.float64]:
    """battle.py's rules vector."""
    c = scenario.constants
    rules = [scenario.n_agents, 0.0, scenario.size[0], *scenario.rows, *scenario.goal, move_amount]
    rules += [c.shield_regen_delay, c.shield_regen, c.damage_minimum, *c.random_delay, c.range_slop]
    rules += [*c.turn_cos_sin, c.arc_cos, c.leash_radius, c.help_radius, c.help_period]
    return np.array(rules, dtype=np.float64)


def _encoding(scenario: Scenario, options: observe.Options) -> tuple[observe.Encoding, NDArray[np.float64]]:
    """SMAC's encoding of a map, and its unit table [U, 4]."""
    kinds = list(dict.fromkeys(u.name for u in scenario.allies))
    present = {u.smac_type for u in scenario.enemies}
    enemy_kinds = next((order for order in smac_units()[1] if present <= set(order)), sorted(present))
    mixed = len(kinds) > 1 or len(present) > 1
    type_bits = max(len(kinds), len(enemy_kinds)) if mixed else 0
    shield_ally = any(u.race == "protoss" for u in scenario.allies)
    shield_enemy = any(u.race == "protoss" for u in scenario.enemies)
    max_reward = scenario.n_enemies * options.reward_death_value + options.reward_win
    max_reward = sum((u.health + u.shield for u in scenario.enemies), start=max_reward)
    if options.reward_scale and max_reward <= 0.0:
        raise ValueError(
            f"reward_win and reward_death_value make {max_reward:g} the most to be had on {scenario.name}, "
            "which rewards are divided by; it must be above 0"
        )
    encoding = observe.make_encoding(
        scenario.name,
        n_agents=scenario.n_agents,
        n_enemies=scenario.n_enemies,
        type_bits=type_bits,
        shield_ally=shield_ally,
        shield_enemy=shield_enemy,
        episode_limit=scenario.episode_limit,
        pathing=scenario.pathing(),
        max_reward=max_reward,
        options=options,
    )
    # SMAC numbers ally types in the order of their custom ids, enemy types in the order of the stock ids.
    types = [kinds.index(u.name) for u in scenario.allies]
    types += [enemy_kinds.index(u.smac_type) for u in scenario.enemies]
    units = scenario.allies + scenario.enemies
    # A unit without shields in a team that has some: its shield is 0, whatever it is divided by.
    shields = [u.smac_max_shield or 1.0 for u in units]
    rows = [(u.health, s, u.smac_max_cooldown, t) for u, s, t in zip(units, shields, types, strict=True)]
    return encoding, np.array(rows, dtype=np.float64)


class BattleSim:
    """B battles of one map; implements `dm2core.types.BattleEnv`.

    After the last step of a battle its rows hold the terminal observation. A finished battle may be stepped on, as
    in SMAC; put it back with `reset_battles`. `raw` [B, U, 5] is what the game's API would report (observe.py).
    """

    def __init__(
        self, scenario: str | Scenario, num_battles: int, options: observe.Options | None = None
    ) -> None:
        """`scenario` is the name of a map, or a `Scenario`: of a file of your own (`load_scenario(name, maps_file)`),
        or a loaded one changed with `dataclasses.replace`."""
        if num_battles < 1:
            raise ValueError(f"num_battles must be at least 1, got {num_battles}")
        if isinstance(scenario, str):
            scenario = load_scenario(scenario)
        options = options or observe.Options()
        self.encoding, self._table = _encoding(scenario, options)
        self.spec = spec = self.encoding.spec
        self.num_battles = self.side_by_side = num_battles
        units = scenario.allies + scenario.enemies
        if scenario.start.shape != (len(units), 2):
            raise ValueError(
                f"start must have shape {(len(units), 2)}, one place a unit, got {scenario.start.shape}"
            )
        self._start = scenario.start
        self._units = _unit_rows(units)
        self._pairs = _pair_tables(units, scenario.constants.min_scan_range)
        self._rules = _rules(scenario, options.move_amount)
        self._floats = np.zeros((num_battles, battle.NF, len(units)))
        self._ints = np.zeros((num_battles, battle.NM, len(units)), dtype=np.int32)
        self._streams = np.zeros((num_battles, 2), dtype=np.uint64)
        self._steps = np.zeros(num_battles, dtype=np.int32)
        self._last_action = np.full((num_battles, spec.n_agents), -1, dtype=np.int64)
        self._before = np.zeros((num_battles, len(units), 5), dtype=np.float32)
        self.raw = np.zeros_like(self._before)
        self.obs = np.zeros((num_battles, spec.n_agents, spec.obs_size), dtype=np.float32)
        self.avail_actions = np.zeros((num_battles, spec.n_agents, spec.n_actions), dtype=np.bool_)
        self.alive = np.zeros((num_battles, spec.n_agents), dtype=np.bool_)
        self._state = np.zeros((num_battles, spec.state_size), dtype=np.float32)
        self._all = np.arange(num_battles, dtype=np.int64)

    def reset(self, keys: NDArray[np.uint64]) -> None:
        """Start battle b from random stream `keys[b]` ([B] uint64)."""
        self.reset_battles(keys, self._all)

    def reset_battles(self, keys: NDArray[np.uint64], battles: NDArray[np.int64]) -> None:
        """Start the listed battles ([b], distinct) anew, battles[n] from keys[n] ([b] uint64)."""
        keys, battles = np.asarray(keys), listed_battles(battles)
        if keys.shape != battles.shape or keys.dtype != np.uint64:
            raise ValueError(f"keys must be uint64 of shape {battles.shape}, got {keys.dtype} {keys.shape}")
        bad = battle.begin(
            battles, keys, self._floats, self._ints, self._streams, self._steps, self._last_action, self.raw,
            self._start, self._units,
        )  # fmt: skip
        if bad >= 0:
            raise self._no_battle(battles[bad])
        self._encode(battles)

    def step(self, actions: NDArray[np.int64], battles: NDArray[np.int64]) -> Step:
        """Advance the battles listed in `battles` ([b], distinct) by `actions` ([b, A])."""
        battles = listed_battles(battles)
        count = battles.size
        actions = listed_actions(actions, count, self.spec.n_agents)
        bad = self._advance(actions, battles, observe.GAME_LOOPS)
        if bad <= -2:
            raise self._no_battle(battles[-2 - bad])
        if bad >= 0:
            n, agent = divmod(bad, self.spec.n_agents)
            unborn = "" if self.avail_actions[battles[n], agent].any() else ", none is before the first reset"
            raise ValueError(
                f"battle {battles[n]}, agent {agent}: action {actions[n, agent]} is not available{unborn}"
            )
        reward = np.empty(count, dtype=np.float64)
        flags = np.empty((3, count), dtype=np.bool_)
        dead = np.empty((2, count), dtype=np.int32)
        encoding = self.encoding
        observe.judge(
            battles, self._before, self.raw, self._steps, encoding.sizes, encoding.ground, encoding.reward,
            reward, flags, dead,
        )  # fmt: skip
        self._encode(battles)
        return Step(reward, flags[0], flags[1], flags[2], dead[0], dead[1])

    def _advance(self, actions: NDArray[np.int64], battles: NDArray[np.int64], loops: int) -> int:
        return battle.advance(
            battles, actions, self.avail_actions, self._floats, self._ints, self._streams, self._steps,
            self._last_action, self._before, self.raw, self._units, self._pairs, self._rules, loops,
        )  # fmt: skip

    def _no_battle(self, number: np.int64) -> ValueError:
        return ValueError(f"there is no battle {number}, only 0..{self.num_battles - 1}")

    def _encode(self, battles: NDArray[np.int64]) -> None:
        e = self.encoding
        observe.encode(
            battles, self.raw, self._last_action, self._steps, self._table, e.sizes, e.ground, e.pathing, e.height,
            self.obs, self.avail_actions, self.alive,
        )  # fmt: skip

    @property
    def unit_table(self) -> NDArray[np.float64]:
        """[U, 4] what SMAC divides health, shield and cooldown by, and the number of the unit's type (observe.py)."""
        return self._table

    def state(self) -> NDArray[np.float32]:
        """Global state [B, S], a view that the next call rewrites."""
        if self.encoding.options.obs_instead_of_state:
            self._state[:] = self.obs.reshape(self.num_battles, -1)
            return self._state
        e = self.encoding
        observe.encode_state(
            self.raw, self._last_action, self._steps, self._table, e.sizes, e.ground, self._state
        )  # fmt: skip
        return self._state

    def save(self, battles: NDArray[np.int64] | None = None) -> dict[str, NDArray[np.generic]]:
        """Everything that decides the future of the listed battles ([b]), or of all, as copies [b, ...]."""
        battles = self._all if battles is None else self._listed(battles)
        return {name: getattr(self, name)[battles] for name in self._STATE}

    def restore(
        self, saved: dict[str, NDArray[np.generic]], battles: NDArray[np.int64] | None = None
    ) -> None:
        """Put a `save` of b battles into the listed ones ([b], distinct), or into all; any env of the same map and
        options will do. The same actions then give the same bits, wherever the battle lies."""
        battles = self._all if battles is None else self._listed(battles)
        for name in self._STATE:
            needed = (battles.size, *getattr(self, name).shape[1:])
            if saved[name].shape != needed:
                raise ValueError(f"{name} has shape {saved[name].shape}, these battles need {needed}")
        for name in self._STATE:
            getattr(self, name)[battles] = saved[name]
        self._encode(battles)

    def _listed(self, battles: NDArray[np.int64]) -> NDArray[np.int64]:
        battles = listed_battles(battles)
        for number in battles:
            if not 0 <= number < self.num_battles:
                raise self._no_battle(number)
        return battles

    _STATE = ("_floats", "_ints", "_streams", "_steps", "_last_action", "raw")


def map_spec(map_name: str) -> EnvSpec:
    """Sizes of a map's interface, the same in the simulator and in the game; starts neither."""
    return _encoding(load_scenario(map_name), observe.Options())[0].spec


def make_env(map_name: str, num_battles: int, smac: Smac | None = None) -> BattleEnv:
    """`num_battles` battles of one map: the embedded simulator, or with `smac` the real game."""
    if smac is None:
        return BattleSim(map_name, num_battles)
    return game_env(map_name, num_battles, smac)


def game_env(map_name: str, num_battles: int, smac: Smac, *, own_games: bool = False) -> SmacEnv:
    """The real game with the simulator's encoding beside it."""
    encoding, table = _encoding(load_scenario(map_name), observe.Options())
    return SmacEnv(encoding, table, num_battles, smac, own_games=own_games)
