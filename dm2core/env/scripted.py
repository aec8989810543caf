"""Hand-written policies, to check the simulator with. Each maps (env, battles [b]) to legal actions [b, A].

They read what the game's API would report (`BattleSim.raw`), not the observation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dm2core.env.vector import BattleSim

I64 = NDArray[np.int64]
Policy = Callable[[BattleSim, I64], I64]
STOP, NORTH, SOUTH, EAST, WEST, ATTACK = 1, 2, 3, 4, 5, 6

# Of the kiting policy: a stalker's way in one step; fire when ready within this; cells to keep, and to come back from.
STRIDE, READY_LOOPS, HOLD, REJOIN = 1.47, 6.0, 6.0, 7.3
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@njit(cache=True)
def sample_legal(battles: I64, avail: NDArray[np.bool_], key: np.uint64, out: I64) -> None:
    """Uniform legal actions into out [b, A]; a pure function of key, battle and agent."""
    for n in range(battles.size):
        for i in range(avail.shape[1]):
            z = key + np.uint64(battles[n] * avail.shape[1] + i + 1) * _GAMMA
            z = (z ^ (z >> _S30)) * _MIX1
            z = (z ^ (z >> _S27)) * _MIX2
            z = z ^ (z >> _S31)
            count = 0
            for a in range(avail.shape[2]):
                if avail[battles[n], i, a]:
                    count += 1
            left = int(np.float64(z >> _S11) / 9007199254740992.0 * count)
            for a in range(avail.shape[2]):
                if avail[battles[n], i, a]:
                    if left == 0:
                        out[n, i] = a
                        break
                    left -= 1


@njit(cache=True)
def _toward(dx: float, dy: float, can: NDArray[np.bool_]) -> int:
    """Legal move along the longer of dx, dy, else along the other, else stop."""
    along_x = 4 if dx > 0.0 else 5
    along_y = 2 if dy > 0.0 else 3
    first, second = (along_x, along_y) if abs(dx) >= abs(dy) else (along_y, along_x)
    if can[first]:
        return first
    return second if can[second] else 1


@njit(cache=True)
def _escape(unit: NDArray[np.float32], i: int, n_agents: int, can: NDArray[np.bool_]) -> int:
    """Legal move that ends farthest from the enemies, the nearest above all, and not in a corner of the map."""
    best, best_score = 1, -1e18
    for k in range(4):
        if not can[2 + k]:
            continue
        x, y = np.float64(unit[i, 0]), np.float64(unit[i, 1])
        if k < 2:
            y += STRIDE if k == 0 else -STRIDE
        else:
            x += STRIDE if k == 2 else -STRIDE
        nearest, total, count = 1e18, 0.0, 0
        for j in range(n_agents, unit.shape[0]):
            if unit[j, 2] > 0.0:
                ex, ey = np.float64(unit[j, 0]) - x, np.float64(unit[j, 1]) - y
                d = sqrt(ex * ex + ey * ey)
                nearest = min(nearest, d)
                total += d
                count += 1
        wx, wy = (x - 16.0) / 16.0, (y - 16.0) / 16.0
        score = nearest + 0.2 * total / max(count, 1) - 3.0 * (wx * wx * wx * wx + wy * wy * wy * wy)
        if score > best_score:
            best, best_score = 2 + k, score
    return best


@njit(cache=True)
def _script(
    battles: I64, raw: NDArray[np.float32], avail: NDArray[np.bool_], kind: int, safe: float, out: I64
) -> None:
    """kind 0 attack the nearest, 1 the weakest in reach, 2 hide, 3 shoot and run from melee."""
    n_agents = avail.shape[1]
    for n in range(battles.size):
        unit = raw[battles[n]]
        for i in range(n_agents):
            can = avail[battles[n], i]
            out[n, i] = 0
            if can[0]:
                continue
            near, weak, near_d2, weak_hp, dx, dy = -1, -1, 1e18, 1e18, 0.0, 0.0
            for j in range(n_agents, unit.shape[0]):
                if unit[j, 2] <= 0.0:
                    continue
                ex = np.float64(unit[j, 0]) - np.float64(unit[i, 0])
                ey = np.float64(unit[j, 1]) - np.float64(unit[i, 1])
                d2 = ex * ex + ey * ey
                if d2 < near_d2:
                    near, near_d2, dx, dy = j, d2, ex, ey
                hp = np.float64(unit[j, 2]) + np.float64(unit[j, 3]) + 1e-3 * d2
                if can[6 + j - n_agents] and hp < weak_hp:
                    weak, weak_hp = j, hp
            pick = near if kind == 0 else weak
            if kind == 2:
                out[n, i] = _toward(-dx, -dy, can)
            elif kind == 3 and (weak < 0 or near_d2 <= safe * safe or unit[i, 4] >= READY_LOOPS):
                if near_d2 > HOLD * HOLD and (near_d2 > REJOIN * REJOIN or unit[i, 4] < READY_LOOPS):
                    out[n, i] = _toward(dx, dy, can)
                else:
                    out[n, i] = _escape(unit, i, n_agents, can)
            elif pick >= 0 and can[6 + pick - n_agents]:
                out[n, i] = 6 + pick - n_agents
            else:
                out[n, i] = _toward(dx, dy, can)


def _scripted(kind: int, safe: float = 0.0) -> Policy:
    def policy(env: BattleSim, battles: I64) -> I64:
        out = np.empty((battles.size, env.spec.n_agents), dtype=np.int64)
        _script(battles, env.raw, env.avail_actions, kind, safe, out)
        return out

    return policy


attack_nearest = _scripted(0)  # walk to the nearest enemy and attack it
focus_fire = _scripted(1)  # attack the weakest enemy on offer, walk to the nearest if there is none
hide = _scripted(2)  # walk away from the nearest enemy
kite = _scripted(3, safe=3.0)  # shoot at the weakest when ready and nobody is within 3 cells, else run


def random_legal(seed: int) -> Policy:
    """Uniform over the legal actions; every call draws anew, so one policy serves one run."""
    counter = [np.uint64(seed)]

    def policy(env: BattleSim, battles: I64) -> I64:
        out = np.empty((battles.size, env.spec.n_agents), dtype=np.int64)
        with np.errstate(over="ignore"):
            counter[0] = (counter[0] + _GAMMA) * _MIX1
            sample_legal(battles, env.avail_actions, counter[0], out)
        return out

    return policy


@dataclass(frozen=True)
class Played:
    """One episode per battle, arrays [B]."""

    returns: NDArray[np.float64]
    lengths: I64
    won: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


def play(env: BattleSim, policy: Policy, keys: NDArray[np.uint64]) -> Played:
    """Play every battle of `env` to its end from `keys` [B]."""
    env.reset(keys)
    count = env.num_battles
    out = Played(
        np.zeros(count), np.zeros(count, np.int64), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    )
    live = np.arange(count, dtype=np.int64)
    while live.size:
        step = env.step(policy(env, live), live)
        out.returns[live] += step.reward
        out.lengths[live] += 1
        out.won[live] = step.won
        out.truncated[live] = step.truncated
        live = live[~(step.terminated | step.truncated)]
    return out
