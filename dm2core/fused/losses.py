"""Kernels of one agent's pass over listed rows: scores, and the gradients of PPO's two losses.

G grid slots of the padded batch, R network rows (rows.py), M listed entries; x [R, F], h [R, H].
"""

from __future__ import annotations

from math import log

import numpy as np

from dm2core.compiler import KERNEL, njit
from dm2core.fused.body import (
    BLOCK,
    above,
    above_back,
    add_rows,
    backward,
    backward_shared,
    below_back,
    copy,
    forward,
    pick_rows,
    recall_shared,
    remember_shared,
)
from dm2core.fused.formula import exp32
from dm2core.fused.lanes import dot

_ZERO, _ONE, _ROW = np.float32(0.0), np.float32(1.0), np.int64(1)


@njit(**KERNEL)
def _gather(row, start, m, x, h, k):  # type: ignore[no-untyped-def]
    """Rows row[start : start + m] of x and h into the block."""
    for i in range(m):
        copy(_ROW, (x[row[start + i]],), (), (k.x[i],))
        copy(_ROW, (h[row[start + i]],), (), (k.h[i],))


@njit(**KERNEL)
def _forward(agent, row, start, m, shared, x, h, w, k):  # type: ignore[no-untyped-def]
    """Forward pass of rows row[start : start + m]."""
    if not shared:
        _gather(row, start, m, x, h, k)
        forward(m, agent, w, k)
        return
    for i in range(m):
        copy(_ROW, (h[row[start + i]],), (), (k.h[i],))
    recall_shared(m, k)
    above(m, agent, w, k)


@njit(**KERNEL)
def softmax(avail, out, pi):  # type: ignore[no-untyped-def]
    """In place: out [K] becomes log pi over available actions (avail [A]), pi [K] pi; 0 elsewhere."""
    n_actions = avail.size
    top = np.float32(-3e38)
    for a in range(n_actions):
        if avail[a]:
            top = max(top, out[a])
    for a in range(out.size):
        pi[a] = exp32(out[a] - top)
    total = _ZERO
    for a in range(n_actions):
        if avail[a]:
            total += pi[a]
    shift, share = top + np.float32(log(total)), _ONE / total
    for a in range(out.size):
        some = a < n_actions and avail[a]
        out[a] = out[a] - shift if some else _ZERO
        pi[a] = pi[a] * share if some else _ZERO


@njit(**KERNEL)
def _split(slots, row, dead, padding, own, gone, rest):  # type: ignore[no-untyped-def]
    """Slots by their row's input: its own; that of the dead, which they share; padding's. Three lists, three counts."""
    n_own, n_gone, n_rest = 0, 0, 0
    for g in slots:
        r = row[g]
        if r == padding:
            rest[n_rest] = g
            n_rest += 1
        elif dead[r]:
            gone[n_gone] = g
            n_gone += 1
        else:
            own[n_own] = g
            n_own += 1
    return n_own, n_gone, n_rest


@njit(**KERNEL)
def score_actions(agent, row, x, h, avail, actions, w, k, log_probs):  # type: ignore[no-untyped-def]
    """log_probs [R] of the taken actions on the listed rows."""
    for start in range(0, row.size, BLOCK):
        m = min(BLOCK, row.size - start)
        _gather(row, start, m, x, h, k)
        forward(m, agent, w, k)
        for i in range(m):
            r = row[start + i]
            softmax(avail[r], k.out[i], k.d_out[i])
            log_probs[r] = k.out[i, actions[r]]


@njit(**KERNEL)
def score_values(agent, row, shared, x, h, w, k, values):  # type: ignore[no-untyped-def]
    """values [R] on the listed rows; shared: their inputs x are equal."""
    if row.size == 0:
        return
    if shared:
        remember_shared(agent, x[row[0]], w, k)
    for start in range(0, row.size, BLOCK):
        m = min(BLOCK, row.size - start)
        _forward(agent, row, start, m, shared, x, h, w, k)
        for i in range(m):
            values[row[start + i]] = k.out[i, 0]


@njit(**KERNEL)
def score(  # type: ignore[no-untyped-def]
    x, h_actor, h_critic, choice, dead, avail, actions, w_actor, k_actor, w_critic, k_critic, lists,
    log_probs, values,
):  # fmt: skip
    """log_probs and values [N, R] of all rows; log_probs only where there is a choice; lists [4, R] is scratch."""
    rows = lists[3]
    for r in range(rows.size):
        rows[r] = r
    for i in range(x.shape[0]):
        n = 0
        for r in rows:
            if choice[i, r]:
                lists[0, n] = r
                n += 1
        score_actions(i, lists[0, :n], x[i], h_actor[i], avail[i], actions[i], w_actor, k_actor, log_probs[i])
        own, gone, rest = lists[0], lists[1], lists[2]
        n_own, n_gone, n_rest = _split(rows, rows, dead[i], rows.size - 1, own, gone, rest)
        for listed, shared in ((own[:n_own], False), (gone[:n_gone], True), (rest[:n_rest], False)):
            score_values(i, listed, shared, x[i], h_critic[i], w_critic, k_critic, values[i])


@njit(**KERNEL)
def policy_gradient(  # type: ignore[no-untyped-def]
    agent, slot, row, x, h, avail, actions, old_log_probs, advantages, counted, share, entropy_coef, clip,
    w, k, s, listed, metrics,
):  # fmt: skip
    """Gradient of sum share * (-min(ratio A, clipped ratio A) - entropy_coef * entropy) over the slots [M] that count.

    row, counted [G]; listed [M] is scratch; metrics [4] float64 += loss without the bonus, entropy, approximate KL,
    clipped share.
    """
    low, high = _ONE - clip, _ONE + clip
    for start in range(0, slot.size, BLOCK):
        m = min(BLOCK, slot.size - start)
        for i in range(m):
            listed[i] = row[slot[start + i]]
        _gather(listed, 0, m, x, h, k)
        forward(m, agent, w, k)
        for i in range(m):
            g, r = slot[start + i], listed[i]
            out, d_out = k.out[i], k.d_out[i]
            softmax(avail[r], out, d_out)
            weight = share if counted[g] else _ZERO
            entropy = -dot(d_out, out)
            log_ratio = out[actions[r]] - old_log_probs[g]
            ratio = exp32(log_ratio)
            plain = ratio * advantages[g]
            clipped = min(max(ratio, low), high) * advantages[g]
            d_log_prob = -weight * plain if plain <= clipped else _ZERO
            bonus = entropy_coef * weight
            for a in range(out.size):
                d_out[a] = d_out[a] * (bonus * (out[a] + entropy) - d_log_prob)
            d_out[actions[r]] += d_log_prob
            metrics[0] -= weight * min(plain, clipped)
            metrics[1] += weight * entropy
            metrics[2] += weight * ((ratio - _ONE) - log_ratio)
            metrics[3] += weight if abs(ratio - _ONE) > clip else _ZERO
        backward(m, agent, w, k, s)


@njit(**KERNEL)
def policy_gradients(  # type: ignore[no-untyped-def]
    slots, row, x, h, choice, avail, actions, old_log_probs, advantages, counted, entropy_coef, clip,
    w, k, s, lists, metrics,
):  # fmt: skip
    """`policy_gradient` of every agent, a mean over the slots [M] that count; lists [2, M] is scratch."""
    moving = lists[0]
    for i in range(x.shape[0]):
        n, count, fixed = 0, 0, 0.0
        for g in slots:
            count += counted[i, g]
            if choice[i, row[g]]:
                moving[n] = g
                n += 1
            elif counted[i, g]:  # ratio 1, entropy 0, no gradient
                fixed += advantages[i, g]
        share = _ONE / np.float32(max(count, 1))
        metrics[i, 0] -= fixed * share
        policy_gradient(
            i, moving[:n], row, x[i], h[i], avail[i], actions[i], old_log_probs[i], advantages[i], counted[i], share,
            entropy_coef, clip, w, k, s, lists[1], metrics[i],
        )  # fmt: skip


@njit(**KERNEL)
def _huber(error, delta, one_sided):  # type: ignore[no-untyped-def]
    """Loss and its derivative with respect to the error (ppo.py: _huber)."""
    if abs(error) <= delta:
        return np.float32(0.5) * error * error, error
    if error > delta:
        return delta * (error - np.float32(0.5) * delta), delta
    if one_sided and error < -delta:  # NaN goes on to the last line
        return _ZERO, _ZERO
    return delta * (-error - np.float32(0.5) * delta), -delta


@njit(**KERNEL)
def _value_gradient(value, old, target, delta, one_sided, clip):  # type: ignore[no-untyped-def]
    """Value loss and its derivative with respect to the value; clip < 0: no clipping."""
    loss, slope = _huber(target - value, delta, one_sided)
    if clip >= _ZERO:
        moved = min(max(value - old, -clip), clip)
        other, other_slope = _huber(target - (old + moved), delta, one_sided)
        inside = abs(value - old) <= clip
        if other > loss or other != other:  # NaN counts as the larger, as in torch.max
            return other, -other_slope if inside else _ZERO
        if other == loss and not inside:
            return loss, np.float32(-0.5) * slope
    return loss, -slope


@njit(**KERNEL)
def value_gradient(  # type: ignore[no-untyped-def]
    agent,
    slot,
    row,
    single,
    shared,
    x,
    h,
    old,
    targets,
    scale,
    delta,
    one_sided,
    clip,
    w,
    k,
    s,
    d_gates,
    listed,
):
    """Gradient of scale * sum of value losses over the slots [M]; returns the plain sum.

    single: one row stands for all slots; it is computed once, its gradient summed over them. shared: all rows have
    the same input x, and what lies below the gates is computed once. Values that have moved further than the clip
    towards their targets have no gradient and no backward pass. row [G]; d_gates [3H] and listed [M] are scratch.
    """
    if slot.size == 0:
        return 0.0
    k.d_out[:] = _ZERO
    d_gates[:] = _ZERO
    total = 0.0
    if shared:
        remember_shared(agent, x[row[slot[0]]], w, k)
    rows = 1 if single else slot.size
    for start in range(0, rows, BLOCK):
        m = min(BLOCK, rows - start)
        for i in range(m):
            listed[i] = row[slot[start + i]]
        _forward(agent, listed, 0, m, shared, x, h, w, k)
        moving = 0
        for i in range(m):
            gradient = 0.0
            for n in range(start + i, slot.size if single else start + i + 1):
                g = slot[n]
                loss, slope = _value_gradient(k.out[i, 0], old[g], targets[g], delta, one_sided, clip)
                total += loss
                gradient += slope
            k.d_out[i, 0] = np.float32(scale * gradient)
            if k.d_out[i, 0] != _ZERO:  # NaN is
                listed[moving] = i
                moving += 1
        if moving == 0:
            continue
        if moving < m:
            pick_rows(listed, moving, shared, k)
        above_back(moving, agent, w, k, s)
        if shared:
            add_rows(moving, d_gates, k.d_gates)
        else:
            below_back(moving, agent, w, k, s)
    if shared:
        backward_shared(agent, x[row[slot[0]]], d_gates, w, k, s)
    return total


@njit(**KERNEL)
def value_gradients(  # type: ignore[no-untyped-def]
    slots, row, x, h, dead, old, targets, scale, delta, one_sided, clip, w, k, s, d_gates, lists, totals
):
    """`value_gradient` of every agent over the slots [M]; totals [N]; lists [4, M] is scratch."""
    own, gone, rest = lists[0], lists[1], lists[2]
    for i in range(x.shape[0]):
        n_own, n_gone, n_rest = _split(slots, row, dead[i], dead.shape[1] - 1, own, gone, rest)
        for slot, single, shared in (
            (own[:n_own], False, False),
            (gone[:n_gone], False, True),
            (rest[:n_rest], True, False),
        ):
            totals[i] += value_gradient(
                i, slot, row, single, shared, x[i], h[i], old[i], targets[i], scale, delta, one_sided, clip,
                w, k, s, d_gates, lists[3],
            )  # fmt: skip
