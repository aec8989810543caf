"""Compiled loss and gradient of the discriminators: what `discriminator.backward` does in torch.

Zero rows (padding and dead agents) are one input, however many there are; the means keep their weights. The inputs of
the gradient penalty lie between an expert's row and a policy's: their first layer is interpolated too, not computed.
Shapes: N agents, m rows of a block, F observation padded, H hidden.
"""

from __future__ import annotations

import functools
import threading
from math import log1p, sqrt
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dm2core.compiler import KERNEL, njit
from dm2core.fused.body import copy_row, padded
from dm2core.fused.formula import Numbers, exp32, on_rows, sigmoid, tanh
from dm2core.fused.lanes import dot, prefetch
from dm2core.fused.tiles import accumulate, affine, product_address
from dm2core.memory import aligned_zeros
from dm2core.nets import DiscriminatorNet
from dm2core.pairs import Pairs

F32 = NDArray[np.float32]
BLOCK = 96  # pairs: a multiple of LANES, and of the tiles' rows
_ZERO, _ONE, _TWO, _TINY = np.float32(0.0), np.float32(1.0), np.float32(2.0), np.float32(1e-30)
_ROW, _AHEAD = np.int64(1), 12


class Weights(NamedTuple):
    """Weights of N agents as the products want them; `_back` are torch's own layout."""

    w1: F32  # [N, F, H]
    b1: F32  # [N, H]
    w1_back: F32  # [N, H, F]
    w2: F32  # [N, H, H]
    b2: F32  # [N, H]
    w2_back: F32  # [N, H, H]
    w3: F32  # [N, H]
    b3: F32  # [N]


class Sums(NamedTuple):
    """Gradients in the layout of the parameters."""

    g1: F32  # [N, H, F]
    s1: F32  # [N, H]
    g2: F32  # [N, H, H]
    s2: F32  # [N, H]
    g3: F32  # [N, H]
    s3: F32  # [N]


class Work(NamedTuple):
    """Buffers of one block of pairs; side 0 is the expert's, side 1 the policy's."""

    x: F32  # [2, BLOCK, F] rows that are not zero
    a: F32  # [2, BLOCK, H] their sums before the first tanh
    d: F32  # [2, BLOCK, H] and the gradients of those
    weight: F32  # [3, BLOCK] of the rows of both sides, of the pairs
    alpha: F32  # [BLOCK] the expert's share in a pair
    at: NDArray[np.int64]  # [2, BLOCK] where a pair's rows are among its side's; -1: that row is zero
    none: F32  # [BLOCK] zeros
    f: F32  # [BLOCK] logits
    p: F32  # [BLOCK] their sigmoids
    h1: F32  # [BLOCK, H], as all that follow
    h2: F32
    q1: F32  # df/d(layer 1 before tanh)
    q2: F32  # df/d(layer 2 before tanh)
    u1: F32  # df/dh1
    v: F32  # scratch
    d1: F32
    d2: F32
    extra: F32  # derivative of h1 that does not come through layer 2
    gram: F32  # [H, H] W1 W1^T
    outer: F32  # [H, H] the penalty's sum of q1 q1^T
    zero: F32  # [H]
    product: int  # address of the matrix product


def make_weights(net: DiscriminatorNet) -> Weights:
    """Padded copies of a network's weights."""
    w1 = fn.pad(net.fc1.weight.detach(), (0, -net.fc1.weight.shape[2] % 16))
    w2, w3 = net.fc2.weight.detach(), net.head.weight.detach()[:, 0]
    parts = [
        w1.transpose(1, 2),
        net.fc1.bias,
        w1,
        w2.transpose(1, 2),
        net.fc2.bias,
        w2,
        w3,
        net.head.bias[:, 0],
    ]
    return Weights(*(p.detach().contiguous().numpy() for p in parts))


@functools.lru_cache(maxsize=8)
def _work(obs_size: int, hidden: int, thread: int) -> Work:
    """Buffers, kept from step to step, one set for each thread; obs_size before padding."""
    sides = [
        aligned_zeros(2, BLOCK, padded(obs_size)),
        aligned_zeros(2, BLOCK, hidden),
        aligned_zeros(2, BLOCK, hidden),
    ]
    pairs = [aligned_zeros(3, BLOCK), aligned_zeros(BLOCK), np.zeros((2, BLOCK), np.int64)]
    pairs += [aligned_zeros(BLOCK) for _ in range(3)]
    layers = [aligned_zeros(BLOCK, hidden) for _ in range(9)]
    squares = [aligned_zeros(hidden, hidden), aligned_zeros(hidden, hidden)]
    return Work(*sides, *pairs, *layers, *squares, aligned_zeros(hidden), product_address())  # type: ignore[arg-type]


_tanh = on_rows(lambda x: (tanh(x),))
_sigmoid = on_rows(lambda x: (sigmoid(x),))
_slopes = on_rows(lambda u, h: (u * (1.0 - h * h),))  # from behind a tanh of value h to before it
_lerp = on_rows(lambda e, p, alpha: (p + alpha * (e - p),))
_add_times = on_rows(lambda to, d, share: (to + share * d,))


@on_rows
def _first_layer_back(d: Numbers, h: Numbers, extra: Numbers, s1: Numbers) -> tuple[Numbers, ...]:
    """d from behind the first tanh to before it, with what does not come through layer 2; s1 + its rows."""
    d = (d + extra) * (1.0 - h * h)
    return d, s1 + d


@on_rows
def _head_back(h2: Numbers, w3: Numbers, g3: Numbers, s2: Numbers, d: Numbers) -> tuple[Numbers, ...]:
    """From the gradient d of the logit: g3 and s2 with this row's shares, d2 and extra."""
    d2 = d * w3 * (1.0 - h2 * h2)
    return g3 + d * h2, s2 + d2, d2, d.zero


@on_rows
def _norm_back(q1: Numbers, v: Numbers, h1: Numbers, u1: Numbers, c: Numbers) -> tuple[Numbers, ...]:
    """c q1, the share of dL/dq1 = c v in dL/dh1, and dL/du1."""
    d = v * c
    return q1 * c, -2.0 * h1 * d * u1, d * (1.0 - h1 * h1)


@on_rows
def _top_back(v: Numbers, h2: Numbers, w3: Numbers, g3: Numbers, s2: Numbers) -> tuple[Numbers, ...]:
    """From v = dL/dq2: g3 and s2 with this row's shares, and d2 = dL/d(layer 2 before tanh)."""
    slope = 1.0 - h2 * h2
    d2 = -2.0 * h2 * v * w3 * slope
    return g3 + v * slope, s2 + d2, d2


@njit(**KERNEL)
def _hidden(m, agent, a, w, k):  # type: ignore[no-untyped-def]
    """k.h1 and k.h2 from the sums a [m, H] of the first layer."""
    _tanh(m, (a,), (), (k.h1,))
    affine(k.product, k.h2[:m], w.b2[agent], k.h1[:m], w.w2[agent])
    _tanh(m, (k.h2,), (), (k.h2,))


@njit(**KERNEL)
def _below(m, agent, w, k, s, d1):  # type: ignore[no-untyped-def]
    """From k.d2 (before tanh) and k.extra: the sums of layer 2, of the first bias, and d1 [m, H] (before tanh)."""
    accumulate(k.product, s.g2[agent], k.d2[:m].T, k.h1[:m])
    affine(k.product, d1[:m], k.zero, k.d2[:m], w.w2_back[agent])
    _first_layer_back(m, (d1, k.h1, k.extra, s.s1[agent]), (), (d1, s.s1[agent]))


@njit(**KERNEL)
def _entropy_rows(m, agent, a, w_expert, w_policy, report, w, k, s, d1, metrics):  # type: ignore[no-untyped-def]
    """Cross-entropies of m rows, sums a [m, H], weights [m] as expert's and as policy's; leaves d1 [m, H]."""
    _hidden(m, agent, a, w, k)
    w3, g3, s2 = w.w3[agent], s.g3[agent], s.s2[agent]
    for i in range(m):
        k.f[i] = w.b3[agent] + dot(k.h2[i], w3)
    _sigmoid(_ROW, (k.f,), (), (k.p,))
    for i in range(m):
        f, p = k.f[i], k.p[i]
        # log(1 + e^f), or a number that is finite where that is
        soft = max(f, _ZERO) + (np.float32(log1p(exp32(-abs(f)))) if report else _ZERO * f)
        metrics[0] += w_expert[i] * (soft - f)
        metrics[1] += w_policy[i] * soft
        metrics[3] += w_expert[i] if f > _ZERO else _ZERO
        metrics[4] += w_policy[i] if f < _ZERO else _ZERO
        d = w_expert[i] * (p - _ONE) + w_policy[i] * p
        s.s3[agent] += d
        _head_back(_ROW, (k.h2[i], w3, g3, s2), (d,), (g3, s2, k.d2[i], k.extra[i]))
    _below(m, agent, w, k, s, d1)


@njit(**KERNEL)
def _norms_back(m, weight, coef, k):  # type: ignore[no-untyped-def]
    """sum weight (|g| - 1)^2 of input gradients g = q1 W1, from v = q1 gram, since |g|^2 = q1 . v.

    With c_n the factor that turns g_n into the derivative of coef times the sum: k.d1 = c q1, k.extra = the share of
    dL/dq1 = c v in dL/dh1, and v becomes dL/du1.
    """
    loss = 0.0
    for i in range(m):
        q, v = k.q1[i], k.v[i]
        norm = np.float32(sqrt(max(dot(q, v), _ZERO) + _TINY))
        loss += weight[i] * (norm - _ONE) * (norm - _ONE)
        c = coef * _TWO * weight[i] * (norm - _ONE) / norm
        _norm_back(_ROW, (q, v, k.h1[i], k.u1[i]), (c,), (k.d1[i], k.extra[i], v))
    return loss


@njit(**KERNEL)
def _penalty_rows(m, agent, a, weight, coef, w, k, s, metrics):  # type: ignore[no-untyped-def]
    """Gradient penalty of m rows, sums a [m, H], weights [m]: backpropagation through nets.py's `input_gradient`.

    The input gradient g = q1 W1 enters by |g|, by c g W1^T = c q1 gram and by the sum of q1^T (c g) =
    (sum of q1^T (c q1)) W1, so it is never computed. Leaves k.d1.
    """
    _hidden(m, agent, a, w, k)
    w3, g3, s2 = w.w3[agent], s.g3[agent], s.s2[agent]
    _slopes(m, (w3, k.h2), (), (k.q2,))
    affine(k.product, k.u1[:m], k.zero, k.q2[:m], w.w2_back[agent])
    _slopes(m, (k.u1, k.h1), (), (k.q1,))
    affine(k.product, k.v[:m], k.zero, k.q1[:m], k.gram)
    metrics[2] += _norms_back(m, weight, coef, k)
    accumulate(k.product, k.outer, k.d1[:m].T, k.q1[:m])
    accumulate(k.product, s.g2[agent], k.q2[:m].T, k.v[:m])
    affine(k.product, k.d1[:m], k.zero, k.v[:m], w.w2[agent])
    _top_back(m, (k.d1, k.h2, w3, g3, s2), (), (g3, s2, k.d2))
    _below(m, agent, w, k, s, k.d1)


@njit(**KERNEL)
def _put(side, m, n, row, weight, k):  # type: ignore[no-untyped-def]
    """Row n of a side, of pair m."""
    copy_row(k.x[side, n], row)
    k.weight[side, n] = weight
    k.at[side, m] = n


@njit(**KERNEL)
def _mix(m, bias, k):  # type: ignore[no-untyped-def]
    """k.v = the first layer's sums of m interpolated inputs: those of their ends, interpolated."""
    for i in range(m):
        e = k.a[0, k.at[0, i]] if k.at[0, i] >= 0 else bias
        p = k.a[1, k.at[1, i]] if k.at[1, i] >= 0 else bias
        _lerp(_ROW, (e, p), (k.alpha[i],), (k.v[i],))


@njit(**KERNEL)
def _share(m, k):  # type: ignore[no-untyped-def]
    """The transpose of `_mix`: k.d1 of the interpolated inputs goes to the gradients of their ends."""
    for i in range(m):
        d, alpha = k.d1[i], k.alpha[i]
        if k.at[0, i] >= 0:
            e = k.d[0, k.at[0, i]]
            _add_times(_ROW, (e, d), (alpha,), (e,))
        if k.at[1, i] >= 0:
            p = k.d[1, k.at[1, i]]
            _add_times(_ROW, (p, d), (_ONE - alpha,), (p,))


@njit(**KERNEL)
def _pairs(m, n_e, n_p, agent, coef, report, w, k, s, metrics):  # type: ignore[no-untyped-def]
    """Gradients of m pairs that hold n_e and n_p rows which are not zero."""
    for side in range(2):
        n = n_p if side else n_e
        if n == 0:
            continue
        affine(k.product, k.a[side, :n], w.b1[agent], k.x[side, :n], w.w1[agent])
        w_expert, w_policy = (k.none, k.weight[1]) if side else (k.weight[0], k.none)
        _entropy_rows(n, agent, k.a[side], w_expert, w_policy, report, w, k, s, k.d[side], metrics)
    _mix(m, w.b1[agent], k)
    _penalty_rows(m, agent, k.v, k.weight[2], coef, w, k, s, metrics)
    _share(m, k)
    for side in range(2):
        n = n_p if side else n_e
        if n > 0:
            accumulate(k.product, s.g1[agent], k.d[side, :n].T, k.x[side, :n])


@njit(**KERNEL)
def _zeros(agent, rest_e, rest_p, rest, coef, report, w, k, s, metrics):  # type: ignore[no-untyped-def]
    """The input of zeros, once, with the weights of all that have it: the expert's, the policy's, the pairs'."""
    k.weight[0, 0], k.weight[1, 0], k.weight[2, 0] = rest_e, rest_p, rest
    copy_row(k.v[0], w.b1[agent])
    _entropy_rows(_ROW, agent, k.v, k.weight[0], k.weight[1], report, w, k, s, k.d1, metrics)
    _penalty_rows(_ROW, agent, k.v, k.weight[2], coef, w, k, s, metrics)


@njit(**KERNEL)
def gradient(  # type: ignore[no-untyped-def]
    agent, e_rows, p_rows, e_obs, p_obs, e_empty, p_empty, alpha, w_e, w_p, w_g, coef, report,
    w, k, s, metrics,
):  # fmt: skip
    """Add one agent's gradients to s, its loss terms to metrics [5]; see `backward` for `report`.

    Pairs n of rows e_rows[n], p_rows[n] [M] into e_obs, p_obs [., O], of which the empty ones are zero.
    """
    affine(k.product, k.gram, k.zero, w.w1_back[agent], w.w1[agent])
    k.outer[:] = _ZERO
    rest_e, rest_p, rest = _ZERO, _ZERO, _ZERO
    m, n_e, n_p = 0, 0, 0
    for n in range(e_rows.size):
        e, p = e_rows[n], p_rows[n]
        ahead = min(n + _AHEAD, e_rows.size - 1)
        prefetch(e_obs[e_rows[ahead]])
        prefetch(p_obs[p_rows[ahead]])
        k.at[0, m], k.at[1, m] = -1, -1
        if e_empty[e]:
            rest_e += w_e[n]
        else:
            _put(0, m, n_e, e_obs[e], w_e[n], k)
            n_e += 1
        if p_empty[p]:
            rest_p += w_p[n]
        else:
            _put(1, m, n_p, p_obs[p], w_p[n], k)
            n_p += 1
        if e_empty[e] and p_empty[p]:
            rest += w_g[n]
        else:
            k.weight[2, m], k.alpha[m] = w_g[n], alpha[n]
            m += 1
        if m == BLOCK:
            _pairs(m, n_e, n_p, agent, coef, report, w, k, s, metrics)
            m, n_e, n_p = 0, 0, 0
    if m > 0:
        _pairs(m, n_e, n_p, agent, coef, report, w, k, s, metrics)
    _zeros(agent, rest_e, rest_p, rest, coef, report, w, k, s, metrics)
    accumulate(k.product, s.g1[agent], k.outer, w.w1_back[agent])


@njit(**KERNEL)
def gradients(  # type: ignore[no-untyped-def]
    e_rows, p_rows, e_obs, p_obs, e_empty, p_empty, alpha, w_e, w_p, w_g, coef, report, w, k, s, metrics
):  # fmt: skip
    """`gradient` of every agent; arrays by agent first."""
    for i in range(e_rows.shape[0]):
        gradient(
            i, e_rows[i], p_rows[i], e_obs, p_obs, e_empty, p_empty, alpha[i], w_e[i], w_p[i], w_g[i], coef, report,
            w, k, s, metrics[i],
        )  # fmt: skip


def backward(net: DiscriminatorNet, pairs: Pairs, gp_coef: float, report: bool = True) -> Tensor:
    """Write the gradients of every agent's loss; `discriminator.METRICS` [5, N].

    Without `report` the cross-entropies are not computed, only numbers that are finite where they are.
    """
    n_agents, hidden, obs_size = net.fc1.weight.shape
    w, k = make_weights(net), _work(obs_size, hidden, threading.get_ident())
    shapes = [(hidden, padded(obs_size)), (hidden,), (hidden, hidden), (hidden,), (hidden,), ()]
    s = Sums(*(aligned_zeros(n_agents, *shape) for shape in shapes))
    metrics = np.zeros((n_agents, 5))
    weights = [t.numpy() for t in (pairs.alpha, pairs.w_expert, pairs.w_policy, pairs.w_penalty)]
    gradients(
        pairs.expert_rows, pairs.policy_rows, pairs.expert.obs.numpy(), pairs.policy.obs.numpy(),
        pairs.expert.empty, pairs.policy.empty, *weights, np.float32(gp_coef), report, w, k, s, metrics,
    )  # fmt: skip
    g1, s1, g2, s2, g3, s3 = (torch.from_numpy(a) for a in s)
    for layer, weight, bias in (
        (net.fc1, g1[:, :, :obs_size].contiguous(), s1),
        (net.fc2, g2, s2),
        (net.head, g3.unsqueeze(1), s3.unsqueeze(1)),
    ):
        layer.weight.grad, layer.bias.grad = weight, bias
    return torch.from_numpy(metrics.T.copy())
