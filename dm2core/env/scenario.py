"""Maps and unit types as data: the shipped units_and_maps.yaml, and files of the user's own beside it.

Needs neither numba nor torch.

Lengths are map cells, times game loops (16 a game second), speeds cells per loop.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from dm2core.env.map_file import read_map_file
from dm2core.strict import ConfigError

DATA_FILE = Path(__file__).with_name("units_and_maps.yaml")
_HALF_SQRT3 = 0.8660254037844386
_COS30 = (1.0, _HALF_SQRT3, 0.5, 0.0, -0.5, -_HALF_SQRT3, -1.0, -_HALF_SQRT3, -0.5, 0.0, 0.5, _HALF_SQRT3)
_TOUCHING = 1e-6  # discs that overlap by less than this count as touching


@dataclass(frozen=True)
class UnitType:
    """One row of the unit table."""

    name: str
    race: str
    smac_type: int
    health: float
    shield: float
    armor: float
    attributes: tuple[str, ...]
    damage: float
    bonus: dict[str, float]  # attribute -> extra damage
    hits: int
    hit_gap: float  # loops between the hits of one attack
    period: float  # loops
    damage_point: float  # loops
    backswing: float  # loops
    range: float
    missile_speed: float  # cells per loop, 0 = instant
    speed: float  # cells per loop
    radius: float
    separation_radius: float
    smac_max_cooldown: float
    smac_max_shield: float

    def damage_to(self, other: UnitType) -> float:
        """Damage of one hit before armor."""
        return self.damage + sum(extra for name, extra in self.bonus.items() if name in other.attributes)


@dataclass(frozen=True)
class Constants:
    """Numbers of the engine that all units share; loops and cells."""

    shield_regen_delay: float
    shield_regen: float
    damage_minimum: float
    random_delay: tuple[float, float]
    range_slop: float
    turn_cos_sin: tuple[float, float]
    arc_cos: float
    min_scan_range: float
    leash_radius: float
    help_radius: float
    help_period: float


@dataclass(frozen=True)
class Scenario:
    """One map, ready to be played. Agents are in SMAC's order (type, x, y), enemies in the order of creation."""

    name: str
    allies: tuple[UnitType, ...]
    enemies: tuple[UnitType, ...]
    episode_limit: int  # env steps
    size: tuple[int, int]  # cells
    rows: tuple[int, int]  # walkable y: first, last (exclusive); all x
    start: NDArray[np.float64]  # [A + M, 2] x, y
    goal: tuple[float, float]  # where the enemies' attack-move order leads
    constants: Constants

    @property
    def n_agents(self) -> int:
        return len(self.allies)

    @property
    def n_enemies(self) -> int:
        return len(self.enemies)

    def pathing(self) -> NDArray[np.uint8]:
        """[X, Y], 1 = walkable."""
        grid = np.zeros(self.size, dtype=np.uint8)
        grid[:, self.rows[0] : self.rows[1]] = 1
        return grid

    def sha256(self) -> str:
        """Hash (hex) of every number of the map and of the units on it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["start"] = self.start.tolist()
        return hashlib.sha256(
            json.dumps(fields, default=dataclasses.asdict, sort_keys=True).encode()
        ).hexdigest()


@cache
def _shipped() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(DATA_FILE.read_text(encoding="utf-8"))
    return data


_own: dict[str, dict[str, Any]] = {"units": {}, "terrains": {}, "maps": {}}  # what add_maps has read


def _data() -> dict[str, Any]:
    return _shipped() | {section: _shipped()[section] | rows for section, rows in _own.items()}


def known_maps() -> list[str]:
    """Names of all maps: the shipped ones, then those of `add_maps`."""
    return list(_data()["maps"])


def add_maps(path: str | Path) -> list[str]:
    """Make the maps and unit types of a user's file known to this process; the names of its maps.

    Shipped names cannot be redefined; a name of an earlier file, or of this one read before, is replaced, but not if
    that changes another file's map. ConfigError (one line: file, key, what is expected) if the file cannot be used;
    nothing has changed then.
    """
    new = read_map_file(Path(path), _shipped())
    others = {name: user_map_sha256(name) for name in _own["maps"] if name not in new["maps"]}
    before = {section: dict(rows) for section, rows in _own.items()}
    for section, rows in new.items():
        _own[section].update(rows)
    _forget()
    try:
        for name in new["maps"]:
            _check_start(_load(name), f"{path}: maps.{name}")
            _check_weapons(_load(name), str(path))
        for name, sha256 in others.items():
            if user_map_sha256(name) != sha256:
                raise ConfigError(
                    f"{path}: a unit or terrain of {name}, another file's map, is another here: rename"
                )
    except ConfigError:
        _own.update(before)
        _forget()
        raise
    return list(new["maps"])


def user_map_sha256(name: str) -> str:
    """Hash of a map that `add_maps` has read; empty for a shipped one, which `RESULTS_VERSION` stands for."""
    return _load(name).sha256() if name in _own["maps"] else ""


def _forget() -> None:
    unit_types.cache_clear()
    _load.cache_clear()


def _check_start(scenario: Scenario, where: str) -> None:
    """ConfigError unless every unit starts on walkable ground and no two of them overlap."""
    units, (width, depth) = scenario.allies + scenario.enemies, scenario.size
    low, high = scenario.rows
    if high > depth:
        raise ConfigError(
            f"{where}.terrain: rows [{low}, {high}) reach beyond a map of {width} x {depth} cells"
        )
    body = np.array([unit.separation_radius for unit in units])
    x, y = scenario.start.T
    outside = (x < body) | (x > width - body) | (y < low + body) | (y > high - body)
    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    near = apart < 0.99 * (body[:, None] + body) - np.eye(len(units)) * 1e9
    for u in np.flatnonzero(outside | near.any(1)):
        side = "ally_spawn" if u < scenario.n_agents else "enemy_spawn"
        fault = "off the walkable ground" if outside[u] else "inside another unit"
        raise ConfigError(f"{where}.{side}: a {units[u].name} would start at {x[u]:.2f}, {y[u]:.2f}, {fault}")


def _check_weapons(scenario: Scenario, where: str) -> None:
    """ConfigError if a shot or second hit can still be under way when the next attack takes its place (battle.py).

    From one attack to the next it is more than the period, at its shortest, less a loop.
    """
    c, rate = scenario.constants, float(_data()["constants"]["loops_per_second"])
    for one, other in ((scenario.allies, scenario.enemies), (scenario.enemies, scenario.allies)):
        for a, b in itertools.product(
            dict.fromkeys(unit.name for unit in one), dict.fromkeys(u.name for u in other)
        ):
            shooter, target = unit_types()[a], unit_types()[b]
            loops = shooter.period + c.random_delay[0] - 1
            way = shooter.range + shooter.radius + target.radius + c.range_slop
            gain = (shooter.missile_speed - target.speed) * loops  # on a target that runs
            if shooter.missile_speed > 0 and gain < way:
                raise ConfigError(
                    f"{where}: units.{a}.missile_speed: too slow for a period: a missile at a {b} that runs flies "
                    f"{max(gain, 0.0):.2f} of {way:.2f} cells before the next shot takes its place"
                )
            if shooter.hits == 2 and shooter.hit_gap > loops:
                raise ConfigError(
                    f"{where}: units.{a}.hit_gap: too long for the period: the next attack, which takes the second "
                    f"hit's place, comes after {max(loops, 0) / rate:.3f} s at the earliest"
                )


@cache
def unit_types() -> dict[str, UnitType]:
    """The unit table, times converted from seconds to loops."""
    rate = float(_data()["constants"]["loops_per_second"])
    table = {}
    for name, row in _data()["units"].items():
        fields = {
            key: float(value) if isinstance(value, int | float) else value for key, value in row.items()
        }
        for key in ("hit_gap", "period", "damage_point", "backswing"):
            fields[key] *= rate
        for key in ("missile_speed", "speed"):
            fields[key] /= rate
        fields["attributes"] = tuple(row["attributes"])
        table[name] = UnitType(name=name, **{**fields, "smac_type": row["smac_type"], "hits": row["hits"]})
    return table


@dataclass(frozen=True)
class SmacUnit:
    """How SMAC scales a unit type in its vectors."""

    smac_type: int
    health: float
    shield: float
    cooldown_scale: float
    shield_scale: float


def smac_units() -> tuple[list[SmacUnit], list[list[int]]]:
    """All types that SMAC's encoding knows, also those the simulator lacks, and its enemy type orders."""
    rows = [
        (u.smac_type, u.health, u.shield, u.smac_max_cooldown, u.smac_max_shield)
        for u in unit_types().values()
    ]
    rows += [tuple(row) for row in _data()["smac_only"].values()]
    return [SmacUnit(*row) for row in rows], _data()["smac_enemy_orders"]


def _constants() -> Constants:
    row = _data()["constants"]
    rate = float(row["loops_per_second"])
    return Constants(
        shield_regen_delay=row["shield_regen_delay"] * rate,
        shield_regen=row["shield_regen_per_second"] / rate,
        damage_minimum=row["damage_minimum"],
        random_delay=(row["random_delay"][0] * rate, row["random_delay"][1] * rate),
        range_slop=row["range_slop"],
        turn_cos_sin=(row["turn_cos_sin"][0], row["turn_cos_sin"][1]),
        arc_cos=row["arc_cos"],
        min_scan_range=row["min_scan_range"],
        leash_radius=row["leash_radius"],
        help_radius=row["help_radius"],
        help_period=row["help_period"] * rate,
    )


def _nearest_free(
    direction: tuple[float, float], radius: float, placed: list[tuple[float, float, float]]
) -> float:
    """Smallest distance from the origin along `direction` at which a disc touches no placed disc (x, y, radius)."""
    spans = []
    for x, y, other in placed:
        along = direction[0] * x + direction[1] * y
        gap2 = along * along - (x * x + y * y) + (radius + other - _TOUCHING) ** 2
        if gap2 > 0:
            spans.append((along - gap2**0.5, along + gap2**0.5))
    distance = 0.0
    for first, last in sorted(spans):
        if first < distance + _TOUCHING and last > distance:
            distance = last
    return distance


def cluster(types: tuple[UnitType, ...]) -> NDArray[np.float64]:
    """Offsets [n, 2] of units made at one point: each takes the nearest free spot (maintainers, smac issue 91)."""
    directions = [(_COS30[k], _COS30[(k + 9) % 12]) for k in _data()["geometry"]["spot_directions"]]
    placed: list[tuple[float, float, float]] = []
    for unit in types:
        spots = [(_nearest_free(way, unit.separation_radius, placed), way) for way in directions]
        distance, way = min(spots, key=lambda spot: round(spot[0], 4))  # the first of equally near ones
        placed.append((distance * way[0], distance * way[1], unit.separation_radius))
    return np.array([(x, y) for x, y, _ in placed])


def load_scenario(name: str, maps_file: str | Path | None = None) -> Scenario:
    """The map called `name`; ValueError (one line) names the nearest known one.

    `maps_file` is read first, as by `add_maps`.
    """
    if maps_file is not None:
        add_maps(maps_file)
    return _load(name)


@cache
def _load(name: str) -> Scenario:
    data = _data()
    if name not in data["maps"]:
        near = difflib.get_close_matches(name, data["maps"], n=1, cutoff=0.0)
        raise ValueError(
            f"map {name!r} is unknown; did you mean {near[0]!r}? known: {', '.join(data['maps'])}"
        )
    row, table = data["maps"][name], unit_types()
    geometry = data["geometry"] | {
        key: row[key] for key in ("size", "ally_spawn", "enemy_spawn") if key in row
    }
    teams = [
        tuple(table[kind] for kind, n in row[side].items() for _ in range(n))
        for side in ("allies", "enemies")
    ]
    grid = geometry["position_grid"]
    spots = [np.round(cluster(team) * grid) / grid for team in teams]
    spots[0] += np.array(geometry["ally_spawn"], dtype=np.float64)
    spots[1] += np.array(geometry["enemy_spawn"], dtype=np.float64)
    kinds = list(row["allies"])
    # SMAC numbers the maps' own ally types in order of creation: stalker before zealot.
    order = sorted(range(len(teams[0])), key=lambda i: (kinds.index(teams[0][i].name), *spots[0][i]))
    start = np.concatenate([spots[0][order], spots[1]])
    start.flags.writeable = False  # the scenario is cached and shared
    return Scenario(
        name=name,
        allies=tuple(teams[0][i] for i in order),
        enemies=teams[1],
        episode_limit=row["limit"],
        size=(geometry["size"][0], geometry["size"][1]),
        rows=tuple(data["terrains"][row["terrain"]]),
        start=start,
        goal=(float(geometry["ally_spawn"][0]), float(geometry["ally_spawn"][1])),
        constants=_constants(),
    )
