"""Replay of recorded SMAC runs: do our encoder's outputs equal those of SMAC's own class?

A recording (tests/data/golden_smac/README.md) holds the unit data that SMAC saw and everything it returned. All
sizes, constants and options come from the file, so a recording of a map that is not in our data replays too. It
tests the encoding, never the dynamics.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dm2core.env import observe
from dm2core.env.scenario import known_maps, load_scenario, smac_units
from dm2core.errors import EXIT_DATA, NO_NPZ

TOLERANCE = 1e-6

# SMAC's other constructor arguments; nothing that is recorded depends on them.
_WITHOUT_EFFECT = {
    "map_name", "step_mul", "difficulty", "game_version", "seed", "replay_dir", "replay_prefix", "window_size_x",
    "window_size_y", "heuristic_ai", "heuristic_rest", "debug",
}  # fmt: skip


class TraceError(ValueError):
    """The file is damaged or is not a recording; the message is one line."""


class Arrays(dict[str, NDArray[Any]]):
    """The arrays of one file by name."""

    def __missing__(self, name: str) -> NDArray[Any]:
        raise TraceError(f"array {name!r} is missing")


@dataclasses.dataclass(frozen=True)
class Report:
    """What one recording showed: largest absolute errors, and how many entries differed."""

    path: str
    map_name: str
    frames: int
    obs: float
    state: float
    reward: float
    avail: int
    visibility: int
    flags: int  # terminated, battle_won, episode_limit, dead counts

    @property
    def exact(self) -> bool:
        """Within 1e-6 everywhere, and not one mismatch."""
        errors = max(self.obs, self.state, self.reward)
        return errors <= TOLERANCE and not (self.avail or self.visibility or self.flags)

    def line(self) -> str:
        return (
            f"{self.path}: {self.map_name}, {self.frames} frames, largest error obs {self.obs:.3g} "
            f"state {self.state:.3g} reward {self.reward:.3g}, mismatches avail {self.avail} "
            f"visibility {self.visibility} flags {self.flags}: {'exact' if self.exact else 'DIFFERS'}"
        )


def _load(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Arrays({name: file[name] for name in file.files})
    except NO_NPZ as e:
        raise TraceError(f"{path}: not a readable recording ({' '.join(str(e).split())})") from e


def _options(data: Arrays) -> observe.Options:
    """SMAC's constructor arguments from the file's opt_* entries; what is missing keeps SMAC's default."""
    types = {field.name: field.type for field in dataclasses.fields(observe.Options)}
    given: dict[str, Any] = {}
    for entry in data:
        name = entry.removeprefix("opt_")
        if name == entry or name in _WITHOUT_EFFECT:
            continue
        if name not in types:
            raise TraceError(f"{entry} is no option of SMAC; known are {', '.join(types)}")
        if data[entry].size != 1 or data[entry].dtype.kind not in "biuf":
            raise TraceError(f"{entry} must be one number, it is {data[entry].dtype} {data[entry].shape}")
        value = float(data[entry].item())
        if types[name] == "bool" and value not in (0.0, 1.0):
            raise TraceError(f"{entry} must be 0 or 1, it is {value:g}")
        if not math.isfinite(value):
            raise TraceError(f"{entry} must be finite, it is {value}")
        given[name] = bool(value) if types[name] == "bool" else value
    return observe.Options(**given)


def _map_name(data: Arrays) -> str:
    """The known map with these sizes, else a name made of them."""
    sizes = tuple(int(data[key]) for key in ("n_agents", "n_enemies", "episode_limit"))
    race = "protoss" if int(data["shield_bits_ally"]) else "terran"
    for name in known_maps():
        s = load_scenario(name)
        if (s.n_agents, s.n_enemies, s.episode_limit) == sizes and s.allies[0].race == race:
            return name
    return "unknown map {}_vs_{}".format(*sizes)


def _unit_rows(data: Arrays, name: str, frame: int, base: int, type_bits: int) -> NDArray[np.float64]:
    """Unit table [U, 4] of one episode, from the unit data of its first frame.

    SMAC's constants depend on the unit type. Stock ids name it; the maps' own ally types have custom ids, so there
    the body (health and shield) names it, or else the place among the types of a map we know. Unknown ones get
    SMAC's fallback: cooldown scale 15, the unit's own shield.
    """
    known, orders = smac_units()
    by_id = {unit.smac_type: unit for unit in known}
    by_body = {(unit.health, unit.shield): unit for unit in known}
    allies = load_scenario(name).allies if name in known_maps() else ()
    by_slot = dict(enumerate(by_id[kind] for kind in dict.fromkeys(unit.smac_type for unit in allies)))
    present = {int(kind) for kind in np.unique(data["enemy_type"])}
    order = next((order for order in orders if present <= set(order)), sorted(present))
    rows = []
    for side in ("ally", "enemy"):
        for j, kind in enumerate(data[f"{side}_type"][frame].tolist()):
            health = float(data[f"{side}_health_max"][frame, j])
            shield = float(data[f"{side}_shield_max"][frame, j])
            slot = kind - base if side == "ally" else order.index(kind)
            unit = by_id.get(kind) or by_body.get((health, shield))
            if unit is None and side == "ally":
                unit = by_slot.get(slot)
            if type_bits and not 0 <= slot < type_bits:
                raise ValueError(f"unit type {kind} has no place among {type_bits} type bits")
            scale = unit.shield_scale if unit else shield
            rows.append((health, scale or 1.0, unit.cooldown_scale if unit else 15.0, slot))
    return np.array(rows, dtype=np.float64)


def _largest(mine: NDArray[np.generic], theirs: NDArray[np.generic]) -> float:
    if mine.shape != theirs.shape:
        return float("inf")
    # With a time step in it SMAC's observation is float64, ours float32.
    with np.errstate(all="ignore"):
        difference = np.abs(mine.astype(np.float64) - theirs.astype(mine.dtype).astype(np.float64))
    difference[np.isnan(difference)] = np.inf
    return float(difference.max(initial=0.0))


def check_encoding(path: str | Path) -> Report:
    """Encode every frame of a recording and compare; TraceError if the file cannot be used."""
    path = Path(path)
    data = _load(path)
    try:
        return _check(str(path), data)
    except TraceError as error:
        raise TraceError(f"{path}: not a recording of this format ({error})") from error
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        raise TraceError(
            f"{path}: not a recording of this format ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error


def _check(path: str, data: Arrays) -> Report:
    n_agents, n_enemies = int(data["n_agents"]), int(data["n_enemies"])
    type_bits, options, name = int(data["unit_type_bits"]), _options(data), _map_name(data)
    fields = ("x", "y", "health", "shield", "cooldown")
    sides = [np.stack([data[f"{side}_{key}"] for key in fields], axis=-1) for side in ("ally", "enemy")]
    raw = np.ascontiguousarray(np.concatenate(sides, axis=1), dtype=np.float32)
    frames = len(raw)
    size = data["inst_pathing_grid"].shape[1:]
    height = np.zeros((len(data["inst_pathing_grid"]), *size))
    if options.obs_terrain_height:
        height = data["inst_terrain_height"].astype(np.float64)
    if len(size) != 2 or height.shape[1:] != size:
        raise TraceError(f"pathing grids of size {size} and terrain heights of size {height.shape[1:]}")
    if raw.shape != (frames, n_agents + n_enemies, 5) or frames == 0:
        raise ValueError(f"unit data of shape {raw.shape} for {n_agents} agents and {n_enemies} enemies")
    t = data["t"].astype(np.int32)
    first = t == 0
    if t.shape != (frames,) or not first[0] or (t[1:][~first[1:]] != t[:-1][~first[1:]] + 1).any():
        raise ValueError("the step numbers t do not count up from 0 within each episode")
    before = np.concatenate([raw[:1], raw[:-1]])
    last_action = np.where(first[:, None], -1, data["action"]).astype(np.int64)
    if last_action.shape != (frames, n_agents) or last_action.max(initial=-1) >= 6 + n_enemies:
        raise ValueError("actions out of range")

    obs_error = state_error = reward_error = 0.0
    avail_wrong = seen_wrong = flags_wrong = 0
    starts = np.flatnonzero(first)
    for first_row, last_row in zip(starts, [*starts[1:], frames], strict=True):
        start, stop = int(first_row), int(last_row)
        k = int(data["instance"][start])
        span = slice(start, stop)
        encoding = observe.make_encoding(
            name,
            n_agents=n_agents,
            n_enemies=n_enemies,
            type_bits=type_bits,
            shield_ally=bool(data["shield_bits_ally"]),
            shield_enemy=bool(data["shield_bits_enemy"]),
            episode_limit=int(data["episode_limit"]),
            pathing=np.ascontiguousarray(data["inst_pathing_grid"][k] != 0, dtype=np.uint8),
            height=height[k],
            max_reward=float(data["inst_max_reward"][k]),
            options=options,
            extent=(float(data["inst_max_distance_x"][k]), float(data["inst_max_distance_y"][k])),
        )
        table = _unit_rows(data, name, start, int(data["inst_min_ally_type"][k]), type_bits)
        e, spec, count = encoding, encoding.spec, stop - start
        units, acts, steps = raw[span], last_action[span], t[span]
        rows = np.arange(count, dtype=np.int64)
        obs = np.zeros((count, n_agents, spec.obs_size), dtype=np.float32)
        avail = np.zeros((count, n_agents, spec.n_actions), dtype=np.bool_)
        alive = np.zeros((count, n_agents), dtype=np.bool_)
        observe.encode(
            rows, units, acts, steps, table, e.sizes, e.ground, e.pathing, e.height, obs, avail, alive
        )
        state = obs.reshape(count, -1)
        if not options.obs_instead_of_state:
            state = np.zeros((count, spec.state_size), dtype=np.float32)
            observe.encode_state(units, acts, steps, table, e.sizes, e.ground, state)
        seen = np.zeros((count, n_agents, n_agents + n_enemies), dtype=np.bool_)
        observe.visibility(units, n_agents, seen)
        reward, flags = np.zeros(count), np.zeros((3, count), dtype=np.bool_)
        dead = np.zeros((2, count), dtype=np.int32)
        observe.judge(rows, before[span], units, steps, e.sizes, e.ground, e.reward, reward, flags, dead)
        reward[0], flags[:, 0] = 0.0, False  # after a reset nothing has been returned yet
        limit = flags[1] & options.continuing_episode
        obs_error = max(obs_error, _largest(obs, data["obs"][span]))
        state_error = max(state_error, _largest(state, data["state"][span]))
        reward_error = max(reward_error, _largest(reward, data["reward"][span]))
        avail_wrong += int((avail != data["avail"][span].astype(np.bool_)).sum())
        seen_wrong += int((seen != data["visibility"][span]).sum())
        ours = (flags[0] | flags[1], flags[2], limit, dead[0], dead[1])
        names = ("terminated", "battle_won", "info_episode_limit", "dead_allies", "dead_enemies")
        flags_wrong += sum(
            int((mine != data[key][span]).sum()) for mine, key in zip(ours, names, strict=True)
        )
    return Report(
        path, name, frames, obs_error, state_error, reward_error, avail_wrong, seen_wrong, flags_wrong
    )  # fmt: skip


def main(paths: Sequence[str | Path]) -> int:
    """One line per file; 0 if all are exact, 1 if one differs, 65 if one cannot be read."""
    status = 0
    for path in paths:
        try:
            report = check_encoding(path)
        except TraceError as error:
            print(error, file=sys.stderr)
            status = EXIT_DATA
            continue
        print(report.line())
        if not report.exact and status == 0:
            status = 1
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
