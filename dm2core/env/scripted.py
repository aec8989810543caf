"""Hand-written policies, to check the simulator with. Each maps (env, battles [b]) to legal actions [b, A].

They read what the game's API would report (`BattleSim.raw`), not the observation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from dm2core.compiler import njit
from dm2core.env.observe import SIZE_X, SIZE_Y
from dm2core.env.vector import BattleSim

I64 = NDArray[np.int64]
Policy = Callable[[BattleSim, I64], I64]
STOP, NORTH, SOUTH, EAST, WEST, ATTACK = 1, 2, 3, 4, 5, 6

# Of the kiting policy: a stalker's way in one step; fire when ready within this; cells to keep, and to come back from.
STRIDE, READY_LOOPS, HOLD, REJOIN = 1.47, 6.0, 6.0, 7.3
SAFE = 3.0  # the kiting policy runs when an enemy is nearer
NEAREST, WEAKEST, HIDE, KITE, STRIP, RUN = range(6)  # kinds of script
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
                count += int(avail[battles[n], i, a])
            left = int(np.float64(z >> _S11) / 9007199254740992.0 * count)
            action, passed = 0, 0
            for a in range(avail.shape[2]):  # without branches, which nobody could predict
                passed += int(avail[battles[n], i, a])
                action += int(passed <= left)
            out[n, i] = action


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
def _escape(
    unit: NDArray[np.float32], i: int, n_agents: int, can: NDArray[np.bool_], mid_x: float, mid_y: float
) -> int:
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
        wx, wy = (x - mid_x) / mid_x, (y - mid_y) / mid_y
        score = nearest + 0.2 * total / max(count, 1) - 3.0 * (wx * wx * wx * wx + wy * wy * wy * wy)
        if score > best_score:
            best, best_score = 2 + k, score
    return best


@njit(cache=True)
def _script(
    battles: I64,
    raw: NDArray[np.float32],
    avail: NDArray[np.bool_],
    mid_x: float,
    mid_y: float,
    kind: int,
    safe: float,
    out: I64,
) -> None:
    """NEAREST: attack the nearest. WEAKEST: attack the weakest on offer. HIDE: walk away from the nearest.
    KITE: shoot at the weakest and keep away. STRIP: the same, shooting at shields only. RUN: keep away from all."""
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
                if kind == STRIP:
                    hp = (
                        -np.float64(unit[j, 3]) if unit[j, 3] > 0.0 else np.float64(1e18)
                    )  # the fullest first
                if can[ATTACK + j - n_agents] and hp < weak_hp:
                    weak, weak_hp = j, hp
            pick = near if kind == NEAREST else weak
            if kind == HIDE:
                out[n, i] = _toward(-dx, -dy, can)
            elif kind == RUN:
                out[n, i] = _escape(unit, i, n_agents, can, mid_x, mid_y)
            elif kind >= KITE and (weak < 0 or near_d2 <= safe * safe or unit[i, 4] >= READY_LOOPS):
                if near_d2 > HOLD * HOLD and (near_d2 > REJOIN * REJOIN or unit[i, 4] < READY_LOOPS):
                    out[n, i] = _toward(dx, dy, can)
                else:
                    out[n, i] = _escape(unit, i, n_agents, can, mid_x, mid_y)
            elif pick >= 0 and can[ATTACK + pick - n_agents]:
                out[n, i] = ATTACK + pick - n_agents
            else:
                out[n, i] = _toward(dx, dy, can)


def _act(env: BattleSim, battles: I64, kind: int) -> I64:
    out = np.empty((battles.size, env.spec.n_agents), dtype=np.int64)
    mid_x, mid_y = env.encoding.ground[SIZE_X] / 2.0, env.encoding.ground[SIZE_Y] / 2.0
    _script(battles, env.raw, env.avail_actions, mid_x, mid_y, kind, SAFE, out)
    return out


def attack_nearest(env: BattleSim, battles: I64) -> I64:
    """Walk to the nearest enemy and attack it."""
    return _act(env, battles, NEAREST)


def focus_fire(env: BattleSim, battles: I64) -> I64:
    """Attack the weakest enemy on offer; walk to the nearest if there is none."""
    return _act(env, battles, WEAKEST)


def hide(env: BattleSim, battles: I64) -> I64:
    """Walk away from the nearest enemy."""
    return _act(env, battles, HIDE)


def kite(env: BattleSim, battles: I64) -> I64:
    """Shoot at the weakest when ready and nobody is near, else keep away; for stalkers against zealots."""
    return _act(env, battles, KITE)


def stand(env: BattleSim, battles: I64) -> I64:
    """Stop and never fire."""
    return env.alive[battles].astype(np.int64)


def smac_heuristic() -> Policy:
    """SMAC's own `heuristic_ai`: each agent orders an attack on the enemy that is nearest when it chooses, and keeps it
    until it is dead. The order goes out at any distance, so it is marked as available here. Remembers: one per run.
    """
    targets = np.empty((0, 0), dtype=np.int64)  # [B, A]

    def policy(env: BattleSim, battles: I64) -> I64:
        nonlocal targets
        count = env.spec.n_agents
        if targets.shape != (env.num_battles, count):
            targets = np.full((env.num_battles, count), -1, dtype=np.int64)
        unit = env.raw[battles].astype(np.float64)
        ally, enemy = unit[:, :count], unit[:, count:]
        fallen = enemy[:, :, 2] <= 0
        dx, dy = (enemy[:, None, :, k] - ally[:, :, None, k] for k in (0, 1))
        nearest = np.where(fallen[:, None], np.inf, dx * dx + dy * dy).argmin(-1)
        old = targets[battles]
        lost = (old < 0) | np.take_along_axis(fallen, np.maximum(old, 0), axis=1)
        targets[battles] = np.where(lost, nearest, old)
        actions = np.where(env.alive[battles], ATTACK + targets[battles], 0)
        env.avail_actions[battles[:, None], np.arange(count), actions] = True
        return actions

    return policy


def shield_farm(share: float = 1.0) -> Policy:
    """Break every shield and spare the life below, run until all have grown back, and again: paid both ways, because
    SMAC takes the absolute value of the damage. After `share` of the time limit it kites to win. For stalkers against
    zealots. Remembers: one per run.
    """
    resting = np.empty(0, dtype=np.bool_)  # [B]
    steps = np.empty(0, dtype=np.int64)  # [B]
    full = np.empty(0, dtype=np.float32)  # [E]

    def policy(env: BattleSim, battles: I64) -> I64:
        nonlocal resting, steps, full
        enemy = env.raw[battles, env.spec.n_agents :]
        living, shield = enemy[:, :, 2] > 0, enemy[:, :, 3]
        if resting.shape != (env.num_battles,):
            resting = np.zeros(env.num_battles, dtype=np.bool_)
            steps = np.zeros(env.num_battles, dtype=np.int64)
            full = shield.max(0)  # nobody has been hit yet
        broken = (shield <= 0) | ~living
        whole = (shield >= full) | ~living
        resting[battles] = np.where(resting[battles], ~whole.all(-1), broken.all(-1))
        steps[battles] += 1
        out = _act(env, battles, KITE)
        for chosen, kind in ((~resting[battles], STRIP), (resting[battles], RUN)):
            rows = chosen & (steps[battles] <= share * env.spec.episode_limit)
            out[rows] = _act(env, battles[rows], kind)
        return out

    return policy


def with_noise(policy: Policy, share: float, rng: np.random.Generator) -> Policy:
    """`policy`, but each agent takes a uniform legal action with probability `share`, as epsilon-greedy play does."""
    uniform = random_legal(int(rng.integers(2**63)))

    def mixed(env: BattleSim, battles: I64) -> I64:
        noisy = rng.random((battles.size, env.spec.n_agents)) < share
        return np.where(noisy, uniform(env, battles), policy(env, battles))

    return mixed


def random_legal(seed: int) -> Policy:
    """Uniform over the legal actions; every call draws anew, so one policy serves one run."""
    counter = [np.uint64(seed & (2**64 - 1))]

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
    regrown: NDArray[np.float64]  # part of the return that was paid while the enemies' shields grew back


def play(env: BattleSim, policy: Policy, keys: NDArray[np.uint64]) -> Played:
    """Play every battle of `env` to its end from `keys` [B]."""
    env.reset(keys)
    count = env.num_battles
    out = Played(
        returns=np.zeros(count),
        lengths=np.zeros(count, np.int64),
        won=np.zeros(count, np.bool_),
        truncated=np.zeros(count, np.bool_),
        regrown=np.zeros(count),
    )
    live = np.arange(count, dtype=np.int64)
    before = _enemy_points(env, live)
    while live.size:
        step = env.step(policy(env, live), live)
        after = _enemy_points(env, live)
        out.returns[live] += step.reward
        out.regrown[live] += np.where(after > before, step.reward, 0.0)
        out.lengths[live] += 1
        out.won[live] = step.won
        out.truncated[live] = step.truncated
        going = ~(step.terminated | step.truncated)
        live, before = live[going], after[going]
    return out


def _enemy_points(env: BattleSim, battles: I64) -> NDArray[np.float64]:
    """Health and shields of the living enemies, summed per battle [b]."""
    enemy = env.raw[battles, env.spec.n_agents :].astype(np.float64)
    points: NDArray[np.float64] = np.where(enemy[:, :, 2] > 0, enemy[:, :, 2] + enemy[:, :, 3], 0.0).sum(-1)
    return points
