"""What docs/simulator.md flips: each choice of the simulator, as a scenario with other data for the same kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dm2core.env.scenario import Scenario, UnitType

SEED = 1  # of every measured battle
CHOICE_NOISE = 0.1  # scripts without noise replay almost one battle, which any change turns over
FARM_SHARE = 0.3  # of the time limit; about the largest after which kiting still wins on all three maps
Flip = Callable[[Scenario], Scenario]
_GRID = 4096  # the engine's positions, steps per cell


@dataclass(frozen=True)
class Choice:
    """One choice, what it is flipped to, and what decides it in the real game."""

    name: str
    flipped: str
    decided_by: str
    flip: Flip


def _units(change: Callable[[UnitType], UnitType]) -> Flip:
    return lambda s: replace(
        s, allies=tuple(map(change, s.allies)), enemies=tuple(map(change, s.enemies))
    )  # fmt: skip


def _constants(**values: float | tuple[float, float]) -> Flip:
    return lambda s: replace(s, constants=replace(s.constants, **values))  # type: ignore[arg-type]


def _offsets(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Flip:
    """Change both teams' places [n, 2] relative to their first unit's, which stands on the spawn point."""

    def flip(s: Scenario) -> Scenario:
        start = s.start.copy()
        for team in (slice(0, s.n_agents), slice(s.n_agents, None)):
            middle = np.array([s.goal[0] if team.start == 0 else s.start[s.n_agents, 0], s.goal[1]])
            start[team] = middle + np.round(change(start[team] - middle) * _GRID) / _GRID
        return replace(s, start=start)

    return flip


def _ladder_stalker(unit: UnitType) -> UnitType:
    """Today's ladder values: 13 (+5 armored) every 1.87 game seconds."""
    if unit.name != "stalker":
        return unit
    return replace(unit, damage=13.0, bonus={"armored": 5.0}, period=1.87 * 16)


_OPEN = "nothing public"
CHOICES = (
    Choice(
        "start cluster, which of the equally near spots",
        "turned by 90 degrees",
        f"{_OPEN}; one look at the first observation of a real game would",
        _offsets(lambda o: o[:, ::-1]),
    ),
    Choice(
        "start cluster, which of the equally near spots",
        "left and right exchanged",
        f"{_OPEN}; the same",
        _offsets(lambda o: o * np.array([-1.0, 1.0])),
    ),
    Choice(
        "start cluster, how dense",
        "1.5 times as wide",
        "issue 91 of oxwhirl/smac says nearest free spots",
        _offsets(lambda o: 1.5 * o),
    ),
    Choice(
        "wind-up inside the weapon period",
        "wind-up after the period",
        f"{_OPEN}; the API's cooldown of a real game would",
        _units(lambda u: replace(u, period=u.period + u.damage_point)),
    ),
    Choice(
        "no step after the target during backswing",
        "follow at once",
        f"the length of backswing is data; its use: {_OPEN}",
        _units(lambda u: replace(u, backswing=0.0)),
    ),
    Choice(
        "collision radius = separation radius",
        "0.8 times that",
        "data (liberty); that this is the radius used is an inference",
        _units(lambda u: replace(u, separation_radius=0.8 * u.separation_radius)),
    ),
    Choice(
        "collision radius = separation radius",
        "1.1 times that",
        "the same",
        _units(lambda u: replace(u, separation_radius=1.1 * u.separation_radius)),
    ),
    Choice("notice from 5 cells, edge to edge", "from 4", "data (liberty)", _constants(min_scan_range=4.0)),
    Choice("notice from 5 cells, edge to edge", "from 6", "data (liberty)", _constants(min_scan_range=6.0)),
    Choice(
        "the attacked call friends within 4 cells",
        "nobody comes",
        "radius and period are data; that it applies here is an inference",
        _constants(help_radius=0.0),
    ),
    Choice(
        "each period varies by -1 to +2 loops",
        "always +0.5",
        "data (liberty)",
        _constants(random_delay=(0.5, 0.5)),
    ),
    Choice(
        "units turn 62.5 degrees a loop", "at once", "data (liberty)", _constants(turn_cos_sin=(-1.0, 0.0))
    ),
    Choice(
        "a shot may end one cell out of range", "not at all", "data (liberty)", _constants(range_slop=0.0)
    ),
    Choice(
        "stalkers shoot missiles",
        "hit at once",
        "data (liberty)",
        _units(lambda u: replace(u, missile_speed=0.0)),
    ),
    Choice(
        "weapons of the Liberty mod",
        "ladder stalker: 13 (+5) every 29.9 loops",
        "the maps name Liberty.SC2Mod as their only dependency",
        _units(_ladder_stalker),
    ),
)
