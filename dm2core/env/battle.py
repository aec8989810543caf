"""Game-loop dynamics of StarCraft II as far as SMAC's marine, stalker and zealot maps show them.

One source, compiled by numba or run as plain Python (NUMBA_DISABLE_JIT=1). Only + - * / sqrt and comparisons on
float64, and a counter-based random stream per battle, so a battle's trajectory depends on its key and its actions
alone: not on the machine, nor on the other battles. Every kernel a cached kernel calls is in this file, because
numba's cache does not look at other files.

A battle is a block of float64 `f[NF, U]` and one of int32 `m[NM, U]`; units 0..A-1 are the allies, A..U-1 the
enemies. Lengths are cells, times game loops. Facts and constants: units_and_maps.yaml (SC2GameData 4.10.1 liberty).

Choices where the engine is not public:
- units act one after the other, allies first, in the order of their numbers; damage counts at once, so instant
  weapons never waste a shot on a unit killed in the same loop, missiles may;
- the wind-up may run while the rest of the weapon period elapses (shots of a standing unit are one period apart);
- facing turns at the engine's rate and delays a shot, not a walk;
- a unit does not follow its target during backswing; a new order cuts backswing and wind-up short;
- movers push idle friends aside, steer round others in turns of 30 degrees, and wait where neither helps.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from dm2core.compiler import INLINE, KERNEL, njit

# Rows of a battle's float block. COOLDOWN: until the weapon is ready; AIM: time in reach and facing the target;
# SWING: rest of backswing; SECOND: until the second hit (0: none); QUIET: since damage; HELP: until it may call.
X, Y, HEALTH, SHIELD, COOLDOWN, AIM, SWING, SECOND, QUIET, HELP, FACE_X, FACE_Y = range(12)
GOAL_X, GOAL_Y, MISSILE_X, MISSILE_Y, ANCHOR_X, ANCHOR_Y = range(12, 18)
NF = 18
# Rows of the int block. TARGET: unit or -1; SECOND_AT, MISSILE_AT: victim of the hit or missile under way or -1;
# PROVOKED: the target was taken for its attack, not seen; STUCK: loops held up; SIDE: 1 or -1 while
# going round others to the left or right; LIST: scratch, the units near the one that walks.
ORDER, TARGET, SECOND_AT, MISSILE_AT, PROVOKED, STUCK, SIDE, LIST = range(8)
NM = 8
IDLE, MOVE, ATTACK, MARCH = range(4)  # orders; MARCH is the enemies' attack-move
# Rows of the unit table and of the pair tables.
HEALTH_MAX, SHIELD_MAX, ARMOR, SPEED, BODY = range(5)
PERIOD, DAMAGE_POINT, BACKSWING, MISSILE_SPEED, HIT_GAP = range(5, 10)
# Centre to centre: weapon reach, acquisition, collision; NEAR2: square of the distance to touch within one loop.
DAMAGE, REACH, SCAN, CONTACT, NEAR2 = range(5)
N_PAIRS = 5
# Entries of the rules vector.
N_ALLIES, X_LOW, X_HIGH, Y_LOW, Y_HIGH, RALLY_X, RALLY_Y, MOVE_AMOUNT = range(8)
REGEN_DELAY, REGEN, DAMAGE_MIN, DELAY_LOW, DELAY_HIGH, SLOP = range(8, 14)
TURN_COS, TURN_SIN, ARC_COS, LEASH, HELP_RADIUS, HELP_PERIOD = range(14, 20)

STUCK_LOOPS = 8  # a unit held up this long looks for another target; one env step
_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64 (Steele, Lea, Flood 2014)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_ONE = np.uint64(1)
# Eight turns: 30, 60, 90, 120 degrees to the chosen side, then to the other.
_TURN_COS = np.array([0.8660254037844386, 0.5, 0.0, -0.5] * 2)
_TURN_SIN = np.array(
    [0.5, 0.8660254037844386, 1.0, 0.8660254037844386, -0.5, -0.8660254037844386, -1.0, -0.8660254037844386]
)
# First of the turns whose bit is not set, 8 if all are.
_FIRST_FREE = np.array([next((k for k in range(8) if not bits >> k & 1), 8) for bits in range(256)])
_AWAY = 1e6  # where the dead are put: farther than any range, so tests of distance need not ask who lives
_ULP53 = 1.0 / 9007199254740992.0
_NEAR = 3.0  # marchers that run into one who has arrived this close to the goal have arrived too

# Nothing here allocates, so reference counting is off: counting the views of every loop took half of the time.

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@njit(**INLINE)
def _uniform(stream: U64) -> float:
    """Next number in [0, 1) of a battle's stream [2]: key, counter."""
    stream[1] += _ONE
    z = stream[0] + stream[1] * _GAMMA
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    z = z ^ (z >> _S31)
    return float(z >> _S11) * _ULP53


@njit(**INLINE)
def _turn(f: F64, u: int, ux: float, uy: float, rules: F64) -> float:
    """Turn unit u towards the unit vector (ux, uy); the cosine that is left."""
    fx, fy = f[FACE_X, u], f[FACE_Y, u]
    cosine = fx * ux + fy * uy
    if cosine >= rules[TURN_COS]:
        f[FACE_X, u] = ux
        f[FACE_Y, u] = uy
        return 1.0
    c = rules[TURN_COS]
    s = -rules[TURN_SIN] if fx * uy - fy * ux < 0.0 else rules[TURN_SIN]
    gx, gy = c * fx - s * fy, s * fx + c * fy
    f[FACE_X, u] = gx
    f[FACE_Y, u] = gy
    return gx * ux + gy * uy


@njit(**KERNEL)
def _alert(f: F64, m: I32, u: int, attacker: int) -> None:
    """Enemy u, who has no target, turns on its attacker."""
    m[TARGET, u] = attacker
    m[PROVOKED, u] = 1
    m[ORDER, u] = MARCH
    f[ANCHOR_X, u] = f[X, u]
    f[ANCHOR_Y, u] = f[Y, u]
    f[AIM, u] = 0.0


@njit(**KERNEL)
def _answer(f: F64, m: I32, u: int, v: int, n_allies: int, rules: F64) -> None:
    """Enemy v, hit by u, turns on u if it has no target, and calls its friends."""
    if m[TARGET, v] < 0 and f[HEALTH, v] > 0.0:
        _alert(f, m, v, u)
    if f[HELP, v] <= 0.0:
        f[HELP, v] = rules[HELP_PERIOD]
        for e in range(n_allies, f.shape[1]):
            if m[TARGET, e] < 0 and f[HEALTH, e] > 0.0:
                dx, dy = f[X, e] - f[X, v], f[Y, e] - f[Y, v]
                if dx * dx + dy * dy <= rules[HELP_RADIUS] * rules[HELP_RADIUS]:
                    _alert(f, m, e, u)


@njit(**KERNEL)
def _hit(f: F64, m: I32, u: int, v: int, table: F64, pairs: F64, rules: F64) -> None:
    """One hit of u on v: shields without armor first, then life; enemies answer and call for help."""
    rest = pairs[DAMAGE, u, v] - f[SHIELD, v]
    f[QUIET, v] = 0.0
    if rest <= 0.0:
        f[SHIELD, v] = -rest
    else:
        f[SHIELD, v] = 0.0
        f[HEALTH, v] = max(0.0, f[HEALTH, v] - max(rest - table[ARMOR, v], rules[DAMAGE_MIN]))
    n_allies = int(rules[N_ALLIES])
    if v >= n_allies and f[HEALTH, u] > 0.0:
        _answer(f, m, u, v, n_allies, rules)
    if f[HEALTH, v] <= 0.0:
        f[X, v] = _AWAY
        f[Y, v] = _AWAY


@njit(**INLINE)
def _inside(x: float, y: float, body: float, rules: F64) -> tuple[float, float]:
    """The nearest point at which a disc is within the walkable rectangle."""
    x = min(max(x, rules[X_LOW] + body), rules[X_HIGH] - body)
    y = min(max(y, rules[Y_LOW] + body), rules[Y_HIGH] - body)
    return x, y


@njit(**KERNEL)
def _blocker(f: F64, u: int, x: float, y: float, skip: int, pairs: F64) -> int:
    """First living unit that u, coming from where it is, would run into at (x, y); -1 if none."""
    for j in range(f.shape[1]):
        ex, ey = x - f[X, j], y - f[Y, j]
        contact = pairs[CONTACT, u, j]
        if ex * ex + ey * ey < contact * contact and j != u and j != skip:
            px, py = f[X, u] - f[X, j], f[Y, u] - f[Y, j]
            if ex * ex + ey * ey < px * px + py * py:  # not while getting away from it
                return j
    return -1


@njit(**INLINE)
def _near(f: F64, m: I32, u: int, pairs: F64) -> int:
    """List in m[LIST] the units so near that u could run into them within one loop; how many."""
    count = 0
    x, y = f[X, u], f[Y, u]
    for j in range(f.shape[1]):
        ex, ey = x - f[X, j], y - f[Y, j]
        m[LIST, count] = j
        count += int(ex * ex + ey * ey < pairs[NEAR2, u, j])
    return count


@njit(**INLINE)
def _first(f: F64, m: I32, u: int, x: float, y: float, count: int, pairs: F64) -> int:
    """First of the `count` listed units that u, coming from where it is, would run into at (x, y); -1 if none."""
    for k in range(count):
        j = m[LIST, k]
        ex, ey = x - f[X, j], y - f[Y, j]
        d2 = ex * ex + ey * ey
        if d2 < pairs[CONTACT, u, j] * pairs[CONTACT, u, j]:
            px, py = f[X, u] - f[X, j], f[Y, u] - f[Y, j]
            if d2 < px * px + py * py:  # not while getting away from it
                return j
    return -1


@njit(**INLINE)
def _barred(
    f: F64, m: I32, u: int, ux: float, uy: float, step: float, count: int, table: F64, pairs: F64, rules: F64
) -> int:
    """The turns away from (ux, uy) after which u would run into one of the `count` listed units, a bit each.

    All eight at once, though the first free one is wanted: the compiler makes one vector of them, and which it will
    be nobody could predict, the processor neither.
    """
    x, y, side = f[X, u], f[Y, u], float(m[SIDE, u])
    bits = 0
    for n in range(count):
        j = m[LIST, n]
        jx, jy = f[X, j], f[Y, j]
        px, py = x - jx, y - jy
        limit = min(pairs[CONTACT, u, j] * pairs[CONTACT, u, j], px * px + py * py)
        for k in range(8):
            s, c = _TURN_SIN[k] * side, _TURN_COS[k]
            nx, ny = _inside(
                x + (c * ux - s * uy) * step, y + (s * ux + c * uy) * step, table[BODY, u], rules
            )
            ex, ey = nx - jx, ny - jy
            bits |= (1 << k) if ex * ex + ey * ey < limit else 0
    return bits


@njit(**KERNEL)
def _pushed(f: F64, u: int, j: int, x: float, y: float, table: F64, pairs: F64, rules: F64) -> bool:
    """Push idle j out of the way of u going to (x, y), if there is room."""
    dx, dy = f[X, j] - x, f[Y, j] - y
    d = sqrt(dx * dx + dy * dy)
    if d < 1e-6:
        return False
    scale = pairs[CONTACT, u, j] * 1.000001 / d
    wx, wy = x + dx * scale, y + dy * scale
    jx, jy = _inside(wx, wy, table[BODY, j], rules)
    if jx != wx or jy != wy or _blocker(f, j, jx, jy, u, pairs) >= 0:
        return False
    f[X, j] = jx
    f[Y, j] = jy
    return True


@njit(**KERNEL)
def _detour(
    f: F64,
    m: I32,
    u: int,
    j: int,
    count: int,
    ux: float,
    uy: float,
    d: float,
    table: F64,
    pairs: F64,
    rules: F64,
) -> None:
    """One loop of walking along (ux, uy) to a goal d away where j, of the `count` listed units, is in the way."""
    x, y = f[X, u], f[Y, u]
    step = min(table[SPEED, u], d)
    body = table[BODY, u]
    n_allies = int(rules[N_ALLIES])
    nx, ny = _inside(x + ux * step, y + uy * step, body, rules)
    if m[ORDER, j] == IDLE and (u < n_allies) == (j < n_allies):
        if m[ORDER, u] == MARCH and m[TARGET, u] < 0 and d < _NEAR:
            m[ORDER, u] = IDLE  # the place is taken by one who has arrived
            return
        if _pushed(f, u, j, nx, ny, table, pairs, rules):
            j = _first(f, m, u, nx, ny, count, pairs)
    if j < 0:
        m[SIDE, u] = 0
    else:
        # Steer: the smallest turn that is free, on the side chosen when the way was first barred.
        if m[SIDE, u] == 0:
            cross = ux * (f[Y, j] - y) - uy * (f[X, j] - x)
            m[SIDE, u] = -1 if cross > 0.0 or (cross == 0.0 and (u & 1) == 1) else 1
        k = _FIRST_FREE[_barred(f, m, u, ux, uy, step, count, table, pairs, rules)]
        if k == 8:
            m[STUCK, u] += 1
            return
        s, c = _TURN_SIN[k] * m[SIDE, u], _TURN_COS[k]
        nx, ny = _inside(x + (c * ux - s * uy) * step, y + (s * ux + c * uy) * step, body, rules)
        if k >= 4:
            m[SIDE, u] = -m[SIDE, u]
    f[X, u] = nx
    f[Y, u] = ny
    m[STUCK, u] = 0


@njit(**INLINE)
def _walk(f: F64, m: I32, u: int, gx: float, gy: float, table: F64, pairs: F64, rules: F64) -> None:
    """One loop of walking towards (gx, gy)."""
    x, y = f[X, u], f[Y, u]
    dx, dy = gx - x, gy - y
    d = sqrt(dx * dx + dy * dy)
    if d < 1e-9:
        return
    ux, uy = dx / d, dy / d
    _turn(f, u, ux, uy, rules)
    step = min(table[SPEED, u], d)
    nx, ny = _inside(x + ux * step, y + uy * step, table[BODY, u], rules)
    count = _near(f, m, u, pairs)
    j = _first(f, m, u, nx, ny, count, pairs)
    if j >= 0:
        _detour(f, m, u, j, count, ux, uy, d, table, pairs, rules)
        return
    m[SIDE, u] = 0
    m[STUCK, u] = 0
    f[X, u] = nx
    f[Y, u] = ny


@njit(**INLINE)
def _engage(f: F64, m: I32, u: int, v: int, stream: U64, table: F64, pairs: F64, rules: F64) -> bool:
    """One loop of attacking v: face it, wind up, fire; or True if u must walk to get into reach."""
    dx, dy = f[X, v] - f[X, u], f[Y, v] - f[Y, u]
    d2 = dx * dx + dy * dy
    reach = pairs[REACH, u, v]
    windup = table[DAMAGE_POINT, u]
    if f[AIM, u] > 0.0 and windup > 0.0 and f[COOLDOWN, u] <= windup:
        reach += rules[SLOP]
    if d2 > reach * reach:
        f[AIM, u] = 0.0
        return f[SWING, u] <= 0.0
    m[STUCK, u] = 0
    d = sqrt(d2)
    if d > 0.0 and _turn(f, u, dx / d, dy / d, rules) < rules[ARC_COS]:
        f[AIM, u] = 0.0
        return False
    if f[COOLDOWN, u] > 0.0 or f[AIM, u] < windup:
        f[AIM, u] += 1.0
        return False
    low, high = rules[DELAY_LOW], rules[DELAY_HIGH]
    f[COOLDOWN, u] += table[PERIOD, u] + (low + (high - low) * _uniform(stream))
    f[SWING, u] = table[BACKSWING, u]
    f[AIM, u] += 1.0
    if table[MISSILE_SPEED, u] > 0.0:
        m[MISSILE_AT, u] = v
        f[MISSILE_X, u] = f[X, u]
        f[MISSILE_Y, u] = f[Y, u]
        return False
    _hit(f, m, u, v, table, pairs, rules)
    if table[HIT_GAP, u] > 0.0:
        m[SECOND_AT, u] = v
        f[SECOND, u] = table[HIT_GAP, u]
    return False


@njit(**INLINE)
def _look(f: F64, m: I32, u: int, pairs: F64, rules: F64) -> tuple[int, bool]:
    """Best ally that enemy u notices, and whether it is in weapon reach: in reach, then attacking u, then nearest."""
    best, best_score, ready = -1, 1e9, False
    for a in range(int(rules[N_ALLIES])):
        dx, dy = f[X, a] - f[X, u], f[Y, a] - f[Y, u]
        d2 = dx * dx + dy * dy
        if d2 > pairs[SCAN, u, a] * pairs[SCAN, u, a]:
            continue
        near = d2 <= pairs[REACH, u, a] * pairs[REACH, u, a]
        score = d2 if near else d2 + 1e6
        threat = pairs[REACH, a, u]
        score += 0.0 if (m[ORDER, a] == ATTACK) & (m[TARGET, a] == u) & (d2 <= threat * threat) else 1e4
        if score < best_score:
            best, best_score, ready = a, score, near
    return best, ready


@njit(**INLINE)
def _choose(f: F64, m: I32, u: int, pairs: F64, rules: F64) -> None:
    """Target of enemy u: keep one in reach, else take one in reach, else keep chasing, else the nearest seen."""
    v = m[TARGET, u]
    chased = v >= 0 and f[HEALTH, v] > 0.0
    d2 = 0.0
    if chased:
        dx, dy = f[X, v] - f[X, u], f[Y, v] - f[Y, u]
        d2 = dx * dx + dy * dy
        if d2 <= pairs[REACH, u, v] * pairs[REACH, u, v] or f[SWING, u] > 0.0:
            return
    best, ready = _look(f, m, u, pairs, rules)
    if chased and not ready:
        if d2 <= pairs[SCAN, u, v] * pairs[SCAN, u, v]:
            if m[STUCK, u] < STUCK_LOOPS:
                return
            m[STUCK, u] = 0
        elif best < 0 and m[PROVOKED, u] == 1:
            ax, ay = f[X, v] - f[ANCHOR_X, u], f[Y, v] - f[ANCHOR_Y, u]
            if ax * ax + ay * ay <= rules[LEASH] * rules[LEASH]:
                return
    if best != v:
        f[AIM, u] = 0.0
        f[SWING, u] = 0.0
        m[TARGET, u] = best
        m[PROVOKED, u] = 0
        m[ORDER, u] = MARCH


@njit(**INLINE)
def _effects(f: F64, m: I32, u: int, table: F64, pairs: F64, rules: F64) -> None:
    """One loop of u's missile: fly, hit."""
    v = m[MISSILE_AT, u]
    if f[HEALTH, v] <= 0.0:
        m[MISSILE_AT, u] = -1
        return
    dx, dy = f[X, v] - f[MISSILE_X, u], f[Y, v] - f[MISSILE_Y, u]
    d = sqrt(dx * dx + dy * dy)
    speed = table[MISSILE_SPEED, u]
    if d <= speed:
        m[MISSILE_AT, u] = -1
        _hit(f, m, u, v, table, pairs, rules)
    else:
        f[MISSILE_X, u] += dx / d * speed
        f[MISSILE_Y, u] += dy / d * speed


@njit(**INLINE)
def _loop(f: F64, m: I32, stream: U64, table: F64, pairs: F64, rules: F64) -> None:
    """One game loop of one battle."""
    n_allies = int(rules[N_ALLIES])
    for u in range(f.shape[1]):
        if m[MISSILE_AT, u] >= 0:
            _effects(f, m, u, table, pairs, rules)
        if f[HEALTH, u] <= 0.0:
            continue
        f[COOLDOWN, u] -= 1.0 if f[COOLDOWN, u] > 0.0 else 0.0
        f[SWING, u] -= 1.0
        if f[SHIELD, u] < table[SHIELD_MAX, u]:
            f[QUIET, u] += 1.0
            if f[QUIET, u] >= rules[REGEN_DELAY]:
                f[SHIELD, u] = min(f[SHIELD, u] + rules[REGEN], table[SHIELD_MAX, u])
        if m[SECOND_AT, u] >= 0:
            f[SECOND, u] -= 1.0
            if f[SECOND, u] <= 0.0:
                v = m[SECOND_AT, u]
                m[SECOND_AT, u] = -1
                if f[HEALTH, v] > 0.0:
                    _hit(f, m, u, v, table, pairs, rules)
        v = -1
        if u >= n_allies:
            f[HELP, u] -= 1.0
            _choose(f, m, u, pairs, rules)
            v = m[TARGET, u]
        elif m[ORDER, u] == ATTACK:
            v = m[TARGET, u]
            if f[HEALTH, v] <= 0.0:
                m[ORDER, u] = IDLE
                continue
        order = m[ORDER, u]
        if v >= 0:
            if not _engage(f, m, u, v, stream, table, pairs, rules):
                continue
            gx, gy = f[X, v], f[Y, v]
        elif order == MOVE:
            gx, gy = f[GOAL_X, u], f[GOAL_Y, u]
        elif order == MARCH:
            gx, gy = rules[RALLY_X], rules[RALLY_Y]
            if f[X, u] == gx and f[Y, u] == gy:
                m[ORDER, u] = IDLE
                continue
        else:
            continue
        _walk(f, m, u, gx, gy, table, pairs, rules)


@njit(**INLINE)
def _order(f: F64, m: I32, u: int, action: int, rules: F64) -> None:
    """Give ally u SMAC's order 1 stop, 2 north, 3 south, 4 east, 5 west, 6 + j attack enemy j."""
    if action >= 6:
        target = int(rules[N_ALLIES]) + action - 6
        if m[ORDER, u] == ATTACK and m[TARGET, u] == target:
            return  # the same order again changes nothing
        m[ORDER, u] = ATTACK
        m[TARGET, u] = target
    else:
        m[ORDER, u] = IDLE
        m[TARGET, u] = -1
        if action >= 2:
            m[ORDER, u] = MOVE
            amount = rules[MOVE_AMOUNT]
            if action == 3 or action == 5:
                amount = -amount
            f[GOAL_X, u] = f[X, u] + (amount if action >= 4 else 0.0)
            f[GOAL_Y, u] = f[Y, u] + (0.0 if action >= 4 else amount)
    f[AIM, u] = 0.0
    f[SWING, u] = 0.0


@njit(**INLINE)
def _publish(f: F64, row: NDArray[np.float32]) -> None:
    """What the game's API would report, float32 [U, 5]: x, y, health, shield, cooldown. The dead keep stale values."""
    for u in range(f.shape[1]):
        if f[HEALTH, u] > 0.0:
            row[u, 0] = f[X, u]
            row[u, 1] = f[Y, u]
            row[u, 2] = f[HEALTH, u]
            row[u, 3] = f[SHIELD, u]
            row[u, 4] = max(f[COOLDOWN, u], 0.0)
        else:
            row[u, 2] = 0.0


@njit(**KERNEL)
def begin(
    battles: I64,
    keys: U64,
    floats: F64,
    ints: I32,
    streams: U64,
    steps: I32,
    last_action: I64,
    raw: NDArray[np.float32],
    start: F64,
    table: F64,
) -> int:
    """Put the listed battles at their start: battle b = battles[n] plays from keys[n].

    Returns -1, or the first n for which there is no battle battles[n]; nothing has changed then.
    """
    for n in range(battles.size):
        if battles[n] < 0 or battles[n] >= steps.size:
            return n
    for n in range(battles.size):
        b = battles[n]
        f, m = floats[b], ints[b]
        streams[b, 0] = keys[n]
        streams[b, 1] = 0
        steps[b] = 0
        last_action[b] = -1
        f[:] = 0.0
        m[:] = -1
        for u in range(f.shape[1]):
            f[X, u] = start[u, 0]
            f[Y, u] = start[u, 1]
            f[HEALTH, u] = table[HEALTH_MAX, u]
            f[SHIELD, u] = table[SHIELD_MAX, u]
            f[FACE_Y, u] = -1.0  # the engine's default facing of a created unit, 270 degrees
            m[ORDER, u] = MARCH
            m[PROVOKED, u] = 0
            m[STUCK, u] = 0
            m[SIDE, u] = 0
        _publish(f, raw[b])
    return -1


@njit(**INLINE)
def _first_illegal(battles: I64, actions: I64, avail: NDArray[np.bool_]) -> int:
    """Flat index into actions ([b, A]) of the first one that is not available; -1 if all are, -2 - n if there is no
    battle battles[n]."""
    for n in range(actions.shape[0]):
        if battles[n] < 0 or battles[n] >= avail.shape[0]:
            return -2 - n
        for i in range(actions.shape[1]):
            a = actions[n, i]
            if a < 0 or a >= avail.shape[2] or not avail[battles[n], i, a]:
                return n * int(actions.shape[1]) + i
    return -1


@njit(**KERNEL)
def advance(
    battles: I64,
    actions: I64,
    avail: NDArray[np.bool_],
    floats: F64,
    ints: I32,
    streams: U64,
    steps: I32,
    last_action: I64,
    before: NDArray[np.float32],
    raw: NDArray[np.float32],
    table: F64,
    pairs: F64,
    rules: F64,
    loops: int,
) -> int:
    """One env step, `loops` game loops, of the listed battles ([b]) under `actions` ([b, A]).

    Rewrites their `raw` [B, U, 5] and keeps health and shield from there in `before`, counts `steps` [B], notes
    `last_action` [B, A]. Returns -1, or what `_first_illegal` found; nothing has changed then.
    """
    bad = _first_illegal(battles, actions, avail)
    if bad != -1:
        return bad
    n_allies = int(rules[N_ALLIES])
    for n in range(battles.size):
        b = battles[n]
        f, m = floats[b], ints[b]
        for u in range(f.shape[1]):
            before[b, u, 2] = raw[b, u, 2]
            before[b, u, 3] = raw[b, u, 3]
        steps[b] += 1
        for u in range(n_allies):
            last_action[b, u] = actions[n, u]
            if f[HEALTH, u] > 0.0:
                _order(f, m, u, actions[n, u], rules)
        for _ in range(loops):
            _loop(f, m, streams[b], table, pairs, rules)
        _publish(f, raw[b])
    return -1


if not hasattr(advance, "py_func"):  # not compiled: here the random stream's overflow would warn
    advance = np.errstate(over="ignore")(advance)
