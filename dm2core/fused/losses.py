"""Kernels of one agent's pass over listed rows: scores, and the gradients of PPO's two losses.

G grid slots of the padded batch, R network rows (rows.py), M listed entries; x [R, F], h [R, H].
"""

from __future__ import annotations

from math import log

import numpy as np

from dm2core.compiler import njit
from dm2core.fused.body import (
    BLOCK,
    above,
    above_back,
    add_rows,
    backward,
    backward_shared,
    below_back,
    copy_row,
    forward,
    recall_shared,
    remember_shared,
)
from dm2core.fused.cache import KERNEL
from dm2core.fused.lanes import dot
from dm2core.fused.tiles import exp32

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@njit(**KERNEL)
def _gather(row, start, m, x, h, k):  # type: ignore[no-untyped-def]
    """Rows row[start : start + m] of x and h into the block."""
    for i in range(m):
        copy_row(k.x[i], x[row[start + i]])
        copy_row(k.h[i], h[row[start + i]])


@njit(**KERNEL)
def _forward(agent, row, start, m, shared, x, h, w, k):  # type: ignore[no-untyped-def]
    """Forward pass of rows row[start : start + m]."""
    if not shared:
        _gather(row, start, m, x, h, k)
        forward(m, agent, w, k)
        return
    for i in range(m):
        copy_row(k.h[i], h[row[start + i]])
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
    if shared:
        remember_shared(agent, x[row[0]], w, k)
    for start in range(0, row.size, BLOCK):
        m = min(BLOCK, row.size - start)
        _forward(agent, row, start, m, shared, x, h, w, k)
        for i in range(m):
            values[row[start + i]] = k.out[i, 0]


@njit(**KERNEL)
def policy_gradient(  # type: ignore[no-untyped-def]
    agent,
    slot,
    row,
    x,
    h,
    avail,
    actions,
    old_log_probs,
    advantages,
    weight,
    entropy_coef,
    clip,
    w,
    k,
    s,
    metrics,
):
    """Gradient of sum weight * (-min(ratio A, clipped ratio A) - entropy_coef * entropy) over the listed slots.

    slot [M] on rows row [M]; weight [G]; metrics [4] float64 += loss without the bonus,
    entropy, approximate KL, clipped share.
    """
    low, high = _ONE - clip, _ONE + clip
    for start in range(0, slot.size, BLOCK):
        m = min(BLOCK, slot.size - start)
        _gather(row, start, m, x, h, k)
        forward(m, agent, w, k)
        for i in range(m):
            g, r = slot[start + i], row[start + i]
            out, d_out = k.out[i], k.d_out[i]
            softmax(avail[r], out, d_out)
            entropy = -dot(d_out, out)
            log_ratio = out[actions[r]] - old_log_probs[g]
            ratio = exp32(log_ratio)
            plain = ratio * advantages[g]
            clipped = min(max(ratio, low), high) * advantages[g]
            d_log_prob = -weight[g] * plain if plain <= clipped else _ZERO
            bonus = entropy_coef * weight[g]
            for a in range(out.size):
                d_out[a] = d_out[a] * (bonus * (out[a] + entropy) - d_log_prob)
            d_out[actions[r]] += d_log_prob
            metrics[0] -= weight[g] * min(plain, clipped)
            metrics[1] += weight[g] * entropy
            metrics[2] += weight[g] * ((ratio - _ONE) - log_ratio)
            metrics[3] += weight[g] if abs(ratio - _ONE) > clip else _ZERO
        backward(m, agent, w, k, s)


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
    agent, slot, row, shared, x, h, old, targets, scale, delta, one_sided, clip, w, k, s, d_gates
):
    """Gradient of scale * sum of value losses over the slots [M] on rows [M]; returns the plain sum.

    A single row may stand for all slots: it is computed once, its gradient summed over them. shared: all rows have
    the same input x, and what lies below the gates is computed once; d_gates [3H] is scratch.
    """
    k.d_out[:] = _ZERO
    d_gates[:] = _ZERO
    total = 0.0
    if shared:
        remember_shared(agent, x[row[0]], w, k)
    for start in range(0, row.size, BLOCK):
        m = min(BLOCK, row.size - start)
        _forward(agent, row, start, m, shared, x, h, w, k)
        for i in range(m):
            gradient = 0.0
            for n in range(start + i, start + i + 1 if row.size > 1 else slot.size):
                g = slot[n]
                loss, slope = _value_gradient(k.out[i, 0], old[g], targets[g], delta, one_sided, clip)
                total += loss
                gradient += slope
            k.d_out[i, 0] = np.float32(scale * gradient)
        above_back(m, agent, w, k, s)
        if shared:
            add_rows(m, d_gates, k.d_gates)
        else:
            below_back(m, agent, w, k, s)
    if shared:
        backward_shared(agent, x[row[0]], d_gates, w, k, s)
    return total
