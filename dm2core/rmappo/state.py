"""The value's input: on-policy's agent-specific global state (StarCraft2_Env.py, get_state_agent).

An agent's row holds, in this order, the other agents, the enemies, the agent's own moves, the agent, its number:

    other agent: seen, distance, dx, dy, cooldown, health, [shield], x, y, [type], last action
    enemy:       can be shot, distance, dx, dy, seen, health, [shield], [type], x, y
    moves:       4, which of them are possible
    the agent:   1, 0, 0, 0, health, [shield], x, y, [type], last action
    number:      one-hot

Not masked by sight. Distances are divided by the sight range; x, y are from the map's centre, divided by the playable
extent; a dead unit's numbers are 0, and a dead agent's row holds its number alone (death masking). Defaults as
train_smac.py sets them: use_state_agent, use_mustalive and add_center_xy on, all others off.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from dm2core.compiler import KERNEL, njit
from dm2core.env.observe import (
    BOOL,
    COOLDOWN_SCALE,
    EXTENT_X,
    EXTENT_Y,
    F32,
    F64,
    HEALTH_MAX,
    I64,
    N_AGENTS,
    N_ENEMIES,
    SHIELD_ALLY,
    SHIELD_ENEMY,
    SHIELD_SCALE,
    SHOOT,
    SIGHT,
    SIZE_X,
    SIZE_Y,
    TYPE,
    TYPE_BITS,
)
from dm2core.env.smac.vector import SmacEnv
from dm2core.env.vector import BattleSim


class AgentState:
    """Agent-specific states of an environment's battles."""

    def __init__(self, env: BattleSim | SmacEnv) -> None:
        self._env = env
        spec, sizes = env.spec, env.encoding.sizes
        types = int(sizes[TYPE_BITS])
        ally = 8 + int(sizes[SHIELD_ALLY]) + types + spec.n_actions
        enemy = 8 + int(sizes[SHIELD_ENEMY]) + types
        self.size = (spec.n_agents - 1) * ally + spec.n_enemies * enemy + 4 + ally - 1 + spec.n_agents
        self._rows = np.zeros((spec.n_agents, env.num_battles, self.size), dtype=np.float32)

    def rows(self, last_action: NDArray[np.int64]) -> NDArray[np.float32]:
        """[N, B, S] of the battles as they stand; the next call rewrites it. last_action [B, N], -1 for none."""
        e = self._env.encoding
        _encode(
            self._env.raw,
            last_action,
            self._env.avail_actions,
            self._env.unit_table,
            e.sizes,
            e.ground,
            self._rows,
        )
        return self._rows


@njit(**KERNEL)
def _encode(raw: F32, last_action: I64, avail: BOOL, table: F64, sizes: I64, ground: F64, rows: F32) -> None:
    """Rewrite rows [N, B, S] from raw [B, U, 5]."""
    n_agents, n_enemies, types = int(sizes[N_AGENTS]), int(sizes[N_ENEMIES]), int(sizes[TYPE_BITS])
    for i in range(n_agents):
        for b in range(raw.shape[0]):
            row, units = rows[i, b], raw[b]
            row[:] = 0.0
            row[row.size - n_agents + i] = 1.0
            if units[i, 2] <= 0.0:
                continue
            at = 0
            for k in range(n_agents + n_enemies):
                # The other agents come first, the agent itself last.
                ally = k < n_agents - 1
                own = k == n_agents + n_enemies - 1
                u = i if own else (k if k < i else k + 1)
                if own:
                    for move in range(4):
                        row[at + move] = 1.0 if avail[b, i, 2 + move] else 0.0
                    at += 4
                mine = ally or own
                shield = sizes[SHIELD_ALLY if mine else SHIELD_ENEMY] != 0
                width = (7 if own else 8) + (1 if shield else 0) + types + (6 + n_enemies if mine else 0)
                if units[u, 2] > 0.0:
                    dx = np.float64(units[u, 0]) - np.float64(units[i, 0])
                    dy = np.float64(units[u, 1]) - np.float64(units[i, 1])
                    d = sqrt(dx * dx + dy * dy)
                    row[at] = 1.0 if (d < SIGHT if mine else d <= SHOOT) else 0.0
                    row[at + 1] = d / SIGHT
                    row[at + 2] = dx / SIGHT
                    row[at + 3] = dy / SIGHT
                    j = at + 4
                    if ally:
                        row[j] = np.float64(units[u, 4]) / table[u, COOLDOWN_SCALE]
                        j += 1
                    elif not own:
                        row[j] = 1.0 if d < SIGHT else 0.0
                        j += 1
                    row[j] = np.float64(units[u, 2]) / table[u, HEALTH_MAX]
                    j += 1
                    if shield:
                        row[j] = np.float64(units[u, 3]) / table[u, SHIELD_SCALE]
                        j += 1
                    # The type stands after the place of an agent, but before that of an enemy.
                    centre = j if mine else j + types
                    kind = j + 2 if mine else j
                    row[centre] = (np.float64(units[u, 0]) - ground[SIZE_X] / 2.0) / ground[EXTENT_X]
                    row[centre + 1] = (np.float64(units[u, 1]) - ground[SIZE_Y] / 2.0) / ground[EXTENT_Y]
                    if types > 0:
                        row[kind + int(table[u, TYPE])] = 1.0
                    if mine and last_action[b, u] >= 0:
                        row[j + 2 + types + last_action[b, u]] = 1.0
                at += width
