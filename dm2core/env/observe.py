"""SMAC's encoding of observations, state, availability and reward (oxwhirl/smac, starcraft2.py, commit d6aab33f).

The simulator and the replay of recorded SMAC runs (golden.py) call the same kernels. Input is what the game's API
reports: raw float32 [B, U, 5] = x, y (cells), health, shield (points), weapon cooldown (loops); units 0..A-1 are the
agents, the rest the enemies; a unit is alive while its health is above 0, the other values of a dead one are stale.
Everything is computed in float64 from these float32 values and stored once, as SMAC does.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite, sqrt
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from dm2core.compiler import INLINE, KERNEL, njit
from dm2core.types import EnvSpec

# As in battle.py: nothing allocates, so reference counting is off.

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
BOOL = NDArray[np.bool_]
U8 = NDArray[np.uint8]

GAME_LOOPS = 8  # of an env step: SMAC's step_mul
SIGHT, SHOOT = 9.0, 6.0  # SMAC's constants for every unit type; sight is exclusive, shooting inclusive
# Columns of the unit table [U, 4].
HEALTH_MAX, SHIELD_SCALE, COOLDOWN_SCALE, TYPE = range(4)
# Entries of the size vector.
(N_AGENTS, N_ENEMIES, TYPE_BITS, SHIELD_ALLY, SHIELD_ENEMY, ALL_HEALTH, OWN_HEALTH, OBS_LAST_ACTION) = range(
    8
)
(OBS_PATHING, OBS_HEIGHT, OBS_TIME, STATE_LAST_ACTION, STATE_TIME) = range(8, 13)
# Entries of the ground vector: half and full order length, map size, playable extent, time limit.
MOVE, SIZE_X, SIZE_Y, EXTENT_X, EXTENT_Y, LIMIT = range(6)


@dataclass(frozen=True)
class Options:
    """SMAC's constructor arguments that change what it returns; the defaults are SMAC's own, and DM2's.

    As in SMAC, obs_all_health switches obs_own_health on, and reward_sparse leaves reward_scale in force.
    continuing_episode only adds "episode_limit" to SMAC's info at the time limit; `types.Step` tells that end apart
    from a battle's end with or without it.
    """

    move_amount: float = 2.0
    obs_all_health: bool = True
    obs_own_health: bool = True
    obs_last_action: bool = False
    obs_pathing_grid: bool = False
    obs_terrain_height: bool = False
    obs_timestep_number: bool = False
    obs_instead_of_state: bool = False
    state_last_action: bool = True
    state_timestep_number: bool = False
    reward_sparse: bool = False
    reward_only_positive: bool = True
    reward_death_value: float = 10.0
    reward_win: float = 200.0
    reward_defeat: float = 0.0
    reward_negative_scale: float = 0.5
    reward_scale: bool = True
    reward_scale_rate: float = 20.0
    continuing_episode: bool = False

    def __post_init__(self) -> None:
        """ValueError (one line) for what SMAC would take and answer with nonsense."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool" and not isinstance(value, bool | np.bool_):
                raise ValueError(f"{field.name} must be True or False, it is {value!r}")
            if field.type == "float" and (
                isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not isfinite(value)
            ):
                raise ValueError(f"{field.name} must be a finite number, it is {value!r}")
        for name in ("move_amount", "reward_scale_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, it is {getattr(self, name)!r}")


@dataclass(frozen=True)
class Encoding:
    """All that the kernels need to know about one map under one set of options."""

    spec: EnvSpec
    options: Options
    sizes: I64  # [13]
    ground: F64  # [6]
    reward: F64  # [8]
    pathing: U8  # [X, Y], 1 = walkable
    height: F64  # [X, Y], 0..1
    max_reward: float


def make_encoding(
    map_name: str,
    *,
    n_agents: int,
    n_enemies: int,
    type_bits: int,
    shield_ally: bool,
    shield_enemy: bool,
    episode_limit: int,
    pathing: U8,
    max_reward: float,
    options: Options | None = None,
    extent: tuple[float, float] | None = None,
    height: F64 | None = None,
) -> Encoding:
    """Sizes of the vectors follow from the counts and the options; `extent` is the playable area, else the map."""
    opt = options or Options()
    n_actions = 6 + n_enemies
    move = 4 + 8 * opt.obs_pathing_grid + 9 * opt.obs_terrain_height
    enemy = 4 + opt.obs_all_health * (1 + shield_enemy) + type_bits
    ally = 4 + opt.obs_all_health * (1 + shield_ally) + type_bits + opt.obs_last_action * n_actions
    own_health = opt.obs_own_health or opt.obs_all_health
    own = own_health * (1 + shield_ally) + type_bits
    # SMAC counts the time step into the own features, where it stays 0, and appends it once more.
    obs = move + n_enemies * enemy + (n_agents - 1) * ally + own + 2 * opt.obs_timestep_number
    state = n_agents * (4 + shield_ally + type_bits) + n_enemies * (3 + shield_enemy + type_bits)
    state += opt.state_last_action * n_agents * n_actions + opt.state_timestep_number
    if opt.obs_instead_of_state:
        state = n_agents * obs
    sizes = [
        n_agents,
        n_enemies,
        type_bits,
        shield_ally,
        shield_enemy,
        opt.obs_all_health,
        own_health,
    ]
    sizes += [opt.obs_last_action, opt.obs_pathing_grid, opt.obs_terrain_height, opt.obs_timestep_number]
    sizes += [opt.state_last_action, opt.state_timestep_number]
    wide, deep = extent or (float(pathing.shape[0]), float(pathing.shape[1]))
    reward = [
        opt.reward_sparse,
        opt.reward_only_positive,
        opt.reward_death_value,
        opt.reward_win,
        opt.reward_defeat,
    ]
    reward += [opt.reward_negative_scale, max_reward / opt.reward_scale_rate if opt.reward_scale else 1.0]
    return Encoding(
        spec=EnvSpec(map_name, n_agents, n_enemies, n_actions, int(obs), int(state), episode_limit),
        options=opt,
        sizes=np.array(sizes, dtype=np.int64),
        ground=np.array([opt.move_amount, *pathing.shape, wide, deep, episode_limit], dtype=np.float64),
        reward=np.array(reward, dtype=np.float64),
        pathing=np.ascontiguousarray(pathing, dtype=np.uint8),
        height=np.zeros(pathing.shape) if height is None else np.ascontiguousarray(height, dtype=np.float64),
        max_reward=max_reward,
    )


@njit(**INLINE)
def _walkable(x: float, y: float, pathing: U8, ground: F64) -> bool:
    """SMAC's can_move test of one point; conversion to a cell truncates towards zero."""
    cx, cy = int(x), int(y)
    return 0 <= cx < ground[SIZE_X] and 0 <= cy < ground[SIZE_Y] and pathing[cx, cy] != 0


@njit(**INLINE)
def _surroundings(
    row: F32, at: int, x: float, y: float, sizes: I64, ground: F64, pathing: U8, height: F64
) -> int:
    """Optional pathing and terrain samples; a cell outside the map counts as 1."""
    far, near = int(2 * ground[MOVE]), int(ground[MOVE])
    cx, cy = int(x), int(y)
    for layer in range(2):
        if sizes[OBS_PATHING + layer] == 0:
            continue
        for k in range(8 + layer):
            ox, oy = 0, 0
            if k < 4:
                if k < 2:
                    oy = far if k == 0 else -far
                else:
                    ox = far if k == 2 else -far
            elif k < 8:
                ox = near if (k == 4 or k == 6) else -near
                oy = near if (k == 4 or k == 7) else -near
            px, py = cx + ox, cy + oy
            value = 1.0
            if 0 <= px < ground[SIZE_X] and 0 <= py < ground[SIZE_Y]:
                value = np.float64(pathing[px, py]) if layer == 0 else height[px, py]
            row[at] = value
            at += 1
    return at


@njit(**INLINE)
def _show(
    row: F32,
    at: int,
    near: bool,
    d: float,
    dx: float,
    dy: float,
    unit: F32,
    limits: F64,
    sizes: I64,
    shield: bool,
) -> int:
    """Write what is seen of one unit [5] into an agent's row from `at` on; where its last action goes."""
    row[at] = 1.0 if near else 0.0
    row[at + 1] = d
    row[at + 2] = dx
    row[at + 3] = dy
    at += 4
    if sizes[ALL_HEALTH] != 0:
        row[at] = np.float64(unit[2]) / limits[HEALTH_MAX]
        at += 1
        if shield:
            row[at] = np.float64(unit[3]) / limits[SHIELD_SCALE]
            at += 1
    if sizes[TYPE_BITS] > 0:
        row[at + int(limits[TYPE])] = 1.0
        at += int(sizes[TYPE_BITS])
    return at


@njit(**KERNEL)
def encode(
    battles: I64,
    raw: F32,
    last_action: I64,
    steps: NDArray[np.int32],
    table: F64,
    sizes: I64,
    ground: F64,
    pathing: U8,
    height: F64,
    obs: F32,
    avail: BOOL,
    alive: BOOL,
) -> None:
    """Rewrite obs [B, A, O], avail [B, A, K], alive [B, A] of the listed battles.

    last_action [B, A] is -1 before the first step; steps [B] are env steps since reset; table [U, 4].
    """
    n_agents, n_enemies, type_bits = int(sizes[N_AGENTS]), int(sizes[N_ENEMIES]), int(sizes[TYPE_BITS])
    n_units = n_agents + n_enemies
    half = ground[MOVE] / 2.0
    last = sizes[OBS_LAST_ACTION] != 0
    shield_ally, shield_enemy = sizes[SHIELD_ALLY] != 0, sizes[SHIELD_ENEMY] != 0
    # An agent's row: moves and surroundings, the enemies, the other agents, itself.
    enemies_at = 4 + 8 * int(sizes[OBS_PATHING]) + 9 * int(sizes[OBS_HEIGHT])
    ally_width = enemy_width = 4 + type_bits
    if sizes[ALL_HEALTH] != 0:
        ally_width += 2 if shield_ally else 1
        enemy_width += 2 if shield_enemy else 1
    if last:
        ally_width += 6 + n_enemies
    allies_at = enemies_at + n_enemies * enemy_width
    own_at = allies_at + (n_agents - 1) * ally_width
    for n in range(battles.size):
        b = battles[n]
        unit = raw[b]
        for i in range(n_agents):
            row, can = obs[b, i], avail[b, i]
            row[:] = 0.0
            can[:] = False
            alive[b, i] = unit[i, 2] > 0.0
            if sizes[OBS_TIME] != 0:
                row[row.size - 1] = steps[b] / ground[LIMIT]
            if not alive[b, i]:
                can[0] = True
                continue
            x, y = np.float64(unit[i, 0]), np.float64(unit[i, 1])
            can[1] = True
            can[2] = _walkable(x, y + half, pathing, ground)
            can[3] = _walkable(x, y - half, pathing, ground)
            can[4] = _walkable(x + half, y, pathing, ground)
            can[5] = _walkable(x - half, y, pathing, ground)
            for k in range(4):
                row[k] = 1.0 if can[2 + k] else 0.0
            if enemies_at > 4:
                _surroundings(row, 4, x, y, sizes, ground, pathing, height)
            at = own_at
            if sizes[OWN_HEALTH] != 0:
                row[at] = np.float64(unit[i, 2]) / table[i, HEALTH_MAX]
                at += 1
                if shield_ally:
                    row[at] = np.float64(unit[i, 3]) / table[i, SHIELD_SCALE]
                    at += 1
            if type_bits > 0:
                row[at + int(table[i, TYPE])] = 1.0
            for j in range(n_agents, n_units):
                if unit[j, 2] > 0.0:
                    dx, dy = np.float64(unit[j, 0]) - x, np.float64(unit[j, 1]) - y
                    d = sqrt(dx * dx + dy * dy)
                    if d < SIGHT:
                        near = d <= SHOOT
                        can[6 + j - n_agents] = near
                        at = enemies_at + (j - n_agents) * enemy_width
                        _show(
                            row,
                            at,
                            near,
                            d / SIGHT,
                            dx / SIGHT,
                            dy / SIGHT,
                            unit[j],
                            table[j],
                            sizes,
                            shield_enemy,
                        )
            # Each pair of agents once: the distance is the same both ways, the offset changes its sign.
            for j in range(i):
                if unit[j, 2] > 0.0:
                    dx, dy = np.float64(unit[j, 0]) - x, np.float64(unit[j, 1]) - y
                    d = sqrt(dx * dx + dy * dy)
                    if d < SIGHT:
                        d, dx, dy = d / SIGHT, dx / SIGHT, dy / SIGHT
                        at = allies_at + j * ally_width
                        at = _show(row, at, True, d, dx, dy, unit[j], table[j], sizes, shield_ally)
                        if last and last_action[b, j] >= 0:
                            row[at + last_action[b, j]] = 1.0
                        other, at = obs[b, j], allies_at + (i - 1) * ally_width
                        at = _show(
                            other, at, True, d, 0.0 - dx, 0.0 - dy, unit[i], table[i], sizes, shield_ally
                        )
                        if last and last_action[b, i] >= 0:
                            other[at + last_action[b, i]] = 1.0


@njit(**KERNEL)
def encode_state(
    raw: F32, last_action: I64, steps: NDArray[np.int32], table: F64, sizes: I64, ground: F64, state: F32
) -> None:
    """Rewrite state [B, S] of all battles; not masked by sight."""
    n_agents, n_enemies, type_bits = int(sizes[N_AGENTS]), int(sizes[N_ENEMIES]), int(sizes[TYPE_BITS])
    for b in range(raw.shape[0]):
        row = state[b]
        row[:] = 0.0
        at = 0
        for u in range(n_agents + n_enemies):
            ally = u < n_agents
            shield = sizes[SHIELD_ALLY if ally else SHIELD_ENEMY] != 0
            width = (4 if ally else 3) + (1 if shield else 0) + type_bits
            if raw[b, u, 2] > 0.0:
                k = at
                row[k] = np.float64(raw[b, u, 2]) / table[u, HEALTH_MAX]
                if ally:
                    k += 1
                    row[k] = np.float64(raw[b, u, 4]) / table[u, COOLDOWN_SCALE]
                # The centre is half the map, the divisor the playable extent.
                row[k + 1] = (np.float64(raw[b, u, 0]) - ground[SIZE_X] / 2.0) / ground[EXTENT_X]
                row[k + 2] = (np.float64(raw[b, u, 1]) - ground[SIZE_Y] / 2.0) / ground[EXTENT_Y]
                k += 3
                if shield:
                    row[k] = np.float64(raw[b, u, 3]) / table[u, SHIELD_SCALE]
                    k += 1
                if type_bits > 0:
                    row[k + int(table[u, TYPE])] = 1.0
            at += width
        if sizes[STATE_LAST_ACTION] != 0:
            for i in range(n_agents):
                if last_action[b, i] >= 0:
                    row[at + last_action[b, i]] = 1.0
                at += 6 + n_enemies
        if sizes[STATE_TIME] != 0:
            row[at] = steps[b] / ground[LIMIT]


@njit(**KERNEL)
def judge(
    battles: I64,
    before: F32,
    raw: F32,
    steps: NDArray[np.int32],
    sizes: I64,
    ground: F64,
    rule: F64,
    reward: F64,
    flags: BOOL,
    dead: NDArray[np.int32],
) -> None:
    """Reward and end of the step from before [B, U, 5] to raw [B, U, 5], for the listed battles.

    reward [b]; flags [3, b] = terminated, truncated, won; dead [2, b] = dead agents, dead enemies. With
    reward_only_positive SMAC takes the absolute value of the team's total, so shields that grow back are paid too.
    A battle that is stepped on after its end stays terminated; it is won, and pays its win or defeat, only once.
    """
    n_agents = int(sizes[N_AGENTS])
    n_units = n_agents + int(sizes[N_ENEMIES])
    sparse, positive, death, win, defeat, negative, scale = rule
    for n in range(battles.size):
        b = battles[n]
        lost_ally, lost_enemy, deaths = 0.0, 0.0, 0.0
        allies_before, enemies_before = 0, 0
        dead[0, n] = 0
        dead[1, n] = 0
        for u in range(n_units):
            ally = u < n_agents
            gone = raw[b, u, 2] <= 0.0
            if gone:
                dead[0 if ally else 1, n] += 1
            if before[b, u, 2] <= 0.0:
                continue
            had = np.float64(before[b, u, 2]) + np.float64(before[b, u, 3])
            if ally:
                allies_before += 1
                if gone:
                    deaths -= 0.0 if positive != 0.0 else death * negative
                    lost_ally += had * negative
                else:
                    lost_ally += negative * (had - np.float64(raw[b, u, 2]) - np.float64(raw[b, u, 3]))
            else:
                enemies_before += 1
                if gone:
                    deaths += death
                    lost_enemy += had
                else:
                    lost_enemy += had - np.float64(raw[b, u, 2]) - np.float64(raw[b, u, 3])
        total = 0.0
        if sparse == 0.0:
            total = abs(lost_enemy + deaths) if positive != 0.0 else lost_enemy + deaths - lost_ally
        no_ally, no_enemy = dead[0, n] == n_agents, dead[1, n] == n_units - n_agents
        flags[0, n] = no_ally or no_enemy
        flags[1, n] = not flags[0, n] and steps[b] >= ground[LIMIT]
        flags[2, n] = no_enemy and not no_ally and enemies_before > 0
        if flags[2, n]:
            total = 1.0 if sparse != 0.0 else total + win
        elif no_ally and not no_enemy and allies_before > 0:
            total = -1.0 if sparse != 0.0 else total + defeat
        reward[n] = total / scale


@njit(**KERNEL)
def visibility(raw: F32, n_agents: int, seen: BOOL) -> None:
    """Rewrite seen [B, A, U]: agent i sees unit j, both alive, nearer than the sight range, not itself."""
    for b in range(raw.shape[0]):
        for i in range(n_agents):
            for j in range(raw.shape[1]):
                dx = np.float64(raw[b, j, 0]) - np.float64(raw[b, i, 0])
                dy = np.float64(raw[b, j, 1]) - np.float64(raw[b, i, 1])
                near = sqrt(dx * dx + dy * dy) < SIGHT
                seen[b, i, j] = near and j != i and raw[b, i, 2] > 0.0 and raw[b, j, 2] > 0.0
