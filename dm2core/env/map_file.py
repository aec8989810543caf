"""The format of a file of unit types and maps: what may stand in it, and that what stands in it can be played.

The shipped units_and_maps.yaml and a user's own file have the same sections `units`, `terrains` and `maps`.
docs/env.md explains every key; the models below are the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dm2core.strict import ConfigError, Strict, read_yaml, unknown, validated

Name = Annotated[str, Field(pattern=r"^[0-9A-Za-z_]+$")]  # map names are file names and Snakemake wildcards
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Attribute = Literal[
    "light", "armored", "biological", "mechanical", "robotic", "psionic", "massive", "structure", "hover",
    "heroic", "summoned",
]  # fmt: skip
Range = Annotated[list[int], Field(min_length=2, max_length=2)]
Place = Annotated[list[NotNegative], Field(min_length=2, max_length=2)]


class UnitRow(Strict):
    """One unit type. Lengths are cells, times game seconds of 16 game loops."""

    race: Literal["terran", "protoss", "zerg"]
    smac_type: Count
    health: Positive
    shield: NotNegative = 0.0
    armor: NotNegative = 0.0
    attributes: list[Attribute] = Field(default_factory=list)
    damage: NotNegative
    bonus: dict[Attribute, NotNegative] = Field(default_factory=dict)
    hits: Literal[1, 2] = 1
    hit_gap: NotNegative = 0.0
    period: Positive
    damage_point: NotNegative = 0.0
    backswing: NotNegative = 0.0
    range: NotNegative
    missile_speed: NotNegative = 0.0
    speed: NotNegative
    radius: Positive
    separation_radius: Positive
    smac_max_cooldown: Positive = 15.0  # SMAC's own value for types it does not know
    smac_max_shield: NotNegative | None = None

    @model_validator(mode="after")
    def _weapon_and_shield(self) -> UnitRow:
        if self.hits == 2 and (self.missile_speed > 0 or not 0 < self.hit_gap < self.period):
            raise ConfigError("hits: 2 needs missile_speed 0 and a hit_gap between 0 and the period")
        if self.shield > 0 and self.race != "protoss":
            raise ConfigError(
                f"shield: {self.shield:g} on a {self.race} unit; only protoss units have shields"
            )
        if self.smac_max_shield is not None and self.smac_max_shield < self.shield:
            raise ConfigError(f"smac_max_shield: {self.smac_max_shield:g} is below shield; leave it out")
        return self


class MapRow(Strict):
    """One map; `size`, `ally_spawn` and `enemy_spawn` default to the shipped maps' geometry."""

    allies: Annotated[dict[str, Count], Field(min_length=1)]
    enemies: Annotated[dict[str, Count], Field(min_length=1)]
    limit: Count
    terrain: str
    size: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    ally_spawn: Place | None = None
    enemy_spawn: Place | None = None


class MapFile(Strict):
    """A user's file."""

    units: dict[Name, UnitRow] = Field(default_factory=dict)
    terrains: dict[Name, Range] = Field(default_factory=dict)
    maps: Annotated[dict[Name, MapRow], Field(min_length=1)]

    @field_validator("terrains")
    @classmethod
    def _rows(cls, terrains: dict[str, list[int]]) -> dict[str, list[int]]:
        for name, (first, last) in terrains.items():
            if not 0 <= first < last:
                raise ConfigError(
                    f"terrains.{name}: [{first}, {last}] is no range of rows; give [first, last)"
                )
        return terrains


def read_map_file(path: Path, shipped: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections `units`, `terrains`, `maps` of a user's file as plain data; ConfigError is one line.

    `shipped` are the same sections of the shipped file: its names can be used, but not defined anew.
    """
    file = validated(MapFile, read_yaml(path), str(path))
    units, terrains = [*shipped["units"], *file.units], [*shipped["terrains"], *file.terrains]
    for section in ("units", "terrains", "maps"):
        for name in getattr(file, section):
            if name in shipped[section]:
                raise ConfigError(
                    f"{path}: {section}.{name}: this name is taken by a shipped one; choose another"
                )
    types = {row["smac_type"]: name for name, row in shipped["units"].items()}
    for name, unit in file.units.items():
        if types.setdefault(unit.smac_type, name) != name:
            raise ConfigError(
                f"{path}: units.{name}.smac_type: {unit.smac_type} is {types[unit.smac_type]}'s; every unit type "
                "needs its own"
            )
    for name, row in file.maps.items():
        for side in ("allies", "enemies"):
            _known(f"{path}: maps.{name}.{side}", "unit", getattr(row, side), units)
        _known(f"{path}: maps.{name}.terrain", "terrain", [row.terrain], terrains)
    data = file.model_dump()
    for unit in data["units"].values():
        if unit["smac_max_shield"] is None:
            unit["smac_max_shield"] = unit["shield"]
    for row in data["maps"].values():
        for key in ("size", "ally_spawn", "enemy_spawn"):
            if row[key] is None:
                del row[key]
    return data


def _known(where: str, kind: str, names: Iterable[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: {unknown(kind, name, known)}")
