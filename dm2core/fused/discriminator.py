"""Compiled loss and gradient of the discriminators: what `discriminator.backward` does in torch.

Both sides' zero rows (padding and dead agents) are one input each, however many there are; the means keep their
weights. Shapes: N agents, m rows of a block, F observation padded, H hidden.
"""

from __future__ import annotations

from math import log1p, sqrt
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dm2core.fused.body import add_rows, copy_row, padded
from dm2core.fused.tiles import FAST, KERNEL, accumulate, affine, exp32, product_address, sigmoid32, tanh32
from dm2core.nets import DiscriminatorNet
from dm2core.pairs import Pairs

F32 = NDArray[np.float32]
BLOCK = 96
_ZERO, _ONE, _TWO, _TINY = np.float32(0.0), np.float32(1.0), np.float32(2.0), np.float32(1e-30)
_ROW = np.int64(1)


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
    """Buffers of one block, [BLOCK, F] or [BLOCK, H]."""

    x: F32
    gradient: F32  # [BLOCK, F] df/dx, then its derivative
    h1: F32
    h2: F32
    q1: F32  # df/d(layer 1 before tanh)
    q2: F32  # df/d(layer 2 before tanh)
    u1: F32  # df/dh1
    v: F32  # scratch
    d1: F32
    d2: F32
    extra: F32  # derivative of h1 that does not come through layer 2
    zero: F32  # [max(F, H)]
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


def make_work(obs_size: int, hidden: int) -> Work:
    """Buffers; obs_size before padding."""
    size = padded(obs_size)
    wide = {name: np.zeros((BLOCK, size), np.float32) for name in ("x", "gradient")}
    names = ("h1", "h2", "q1", "q2", "u1", "v", "d1", "d2", "extra")
    narrow = {name: np.zeros((BLOCK, hidden), np.float32) for name in names}
    zero = np.zeros(max(size, hidden), np.float32)
    return Work(**wide, **narrow, zero=zero, product=product_address())


@njit(**FAST)
def _tanh(m, y):  # type: ignore[no-untyped-def]
    for i in range(m):
        for j in range(y.shape[1]):
            y[i, j] = tanh32(y[i, j])


@njit(**FAST)
def _hidden(m, agent, w, k):  # type: ignore[no-untyped-def]
    """k.h1 and k.h2 from k.x."""
    affine(k.product, k.h1[:m], w.b1[agent], k.x[:m], w.w1[agent])
    _tanh(m, k.h1)
    affine(k.product, k.h2[:m], w.b2[agent], k.h1[:m], w.w2[agent])
    _tanh(m, k.h2)


@njit(**FAST)
def _add_extra(m, d1, h1, extra):  # type: ignore[no-untyped-def]
    for i in range(m):
        for j in range(h1.shape[1]):
            d1[i, j] = (d1[i, j] + extra[i, j]) * (_ONE - h1[i, j] * h1[i, j])


@njit(**FAST)
def _below(m, agent, w, k, s):  # type: ignore[no-untyped-def]
    """Sums of both layers, from k.d2 (before tanh) and k.extra."""
    add_rows(m, s.s2[agent], k.d2)
    accumulate(k.product, s.g2[agent], k.d2[:m].T, k.h1[:m])
    affine(k.product, k.d1[:m], k.zero, k.d2[:m], w.w2_back[agent])
    _add_extra(m, k.d1, k.h1, k.extra)
    add_rows(m, s.s1[agent], k.d1)
    accumulate(k.product, s.g1[agent], k.d1[:m].T, k.x[:m])


@njit(**FAST)
def _entropy_rows(m, agent, w_expert, w_policy, w, k, s, metrics):  # type: ignore[no-untyped-def]
    """Cross-entropies of the m rows in k.x, weights [m] as expert's and as policy's."""
    _hidden(m, agent, w, k)
    w3, g3 = w.w3[agent], s.g3[agent]
    for i in range(m):
        f = w.b3[agent]
        for j in range(w3.size):
            f += k.h2[i, j] * w3[j]
        soft = max(f, _ZERO) + np.float32(log1p(exp32(-abs(f))))  # log(1 + e^f)
        metrics[0] += w_expert[i] * (soft - f)
        metrics[1] += w_policy[i] * soft
        metrics[3] += w_expert[i] if f > _ZERO else _ZERO
        metrics[4] += w_policy[i] if f < _ZERO else _ZERO
        p = sigmoid32(f)
        d = w_expert[i] * (p - _ONE) + w_policy[i] * p
        s.s3[agent] += d
        for j in range(w3.size):
            h = k.h2[i, j]
            g3[j] += d * h
            k.d2[i, j] = d * w3[j] * (_ONE - h * h)
            k.extra[i, j] = _ZERO
    _below(m, agent, w, k, s)


@njit(**FAST)
def _first_slopes(m, w3, k):  # type: ignore[no-untyped-def]
    for i in range(m):
        for j in range(w3.size):
            k.q2[i, j] = w3[j] * (_ONE - k.h2[i, j] * k.h2[i, j])


@njit(**FAST)
def _second_slopes(m, q1, u1, h1):  # type: ignore[no-untyped-def]
    for i in range(m):
        for j in range(h1.shape[1]):
            q1[i, j] = u1[i, j] * (_ONE - h1[i, j] * h1[i, j])


@njit(**FAST)
def _norm_rows(m, weight, coef, g):  # type: ignore[no-untyped-def]
    """sum weight (|g| - 1)^2; g becomes the derivative of coef times it."""
    total = 0.0
    for i in range(m):
        square = _TINY
        for j in range(g.shape[1]):
            square += g[i, j] * g[i, j]
        norm = np.float32(sqrt(square))
        total += weight[i] * (norm - _ONE) * (norm - _ONE)
        scale = coef * _TWO * weight[i] * (norm - _ONE) / norm
        for j in range(g.shape[1]):
            g[i, j] *= scale
    return total


@njit(**FAST)
def _slopes_back(m, v, h1, u1, extra):  # type: ignore[no-untyped-def]
    """From v = dL/dq1: extra = its share in dL/dh1, v becomes dL/du1."""
    for i in range(m):
        for j in range(h1.shape[1]):
            h = h1[i, j]
            extra[i, j] = -_TWO * h * v[i, j] * u1[i, j]
            v[i, j] = v[i, j] * (_ONE - h * h)


@njit(**FAST)
def _top_back(m, v, h2, d2, w3, g3):  # type: ignore[no-untyped-def]
    """From v = dL/dq2: sums of the head, and d2 = dL/d(layer 2 before tanh)."""
    for i in range(m):
        for j in range(w3.size):
            h = h2[i, j]
            slope = _ONE - h * h
            g3[j] += v[i, j] * slope
            d2[i, j] = -_TWO * h * v[i, j] * w3[j] * slope


@njit(**FAST)
def _penalty_rows(m, agent, weight, coef, w, k, s, metrics):  # type: ignore[no-untyped-def]
    """Gradient penalty of the m rows in k.x, weights [m]: backpropagation through nets.py's `input_gradient`."""
    _hidden(m, agent, w, k)
    _first_slopes(m, w.w3[agent], k)
    affine(k.product, k.u1[:m], k.zero, k.q2[:m], w.w2_back[agent])
    _second_slopes(m, k.q1, k.u1, k.h1)
    affine(k.product, k.gradient[:m], k.zero, k.q1[:m], w.w1_back[agent])
    metrics[2] += _norm_rows(m, weight, coef, k.gradient)
    accumulate(k.product, s.g1[agent], k.q1[:m].T, k.gradient[:m])
    affine(k.product, k.v[:m], k.zero, k.gradient[:m], w.w1[agent])
    _slopes_back(m, k.v, k.h1, k.u1, k.extra)
    accumulate(k.product, s.g2[agent], k.q2[:m].T, k.v[:m])
    affine(k.product, k.d1[:m], k.zero, k.v[:m], w.w2[agent])
    _top_back(m, k.d1, k.h2, k.d2, w.w3[agent], s.g3[agent])
    _below(m, agent, w, k, s)


@njit(**KERNEL)
def _side(agent, rows, weight, expert, obs, empty, coef, w, k, s, metrics, column):  # type: ignore[no-untyped-def]
    """Cross-entropies of one side's rows that are not zero; returns the weight of those that are."""
    rest, m, nothing = _ZERO, 0, column[2]
    for n in range(rows.size + 1):
        if n < rows.size:
            if empty[rows[n]]:
                rest += weight[n]
                continue
            copy_row(k.x[m], obs[rows[n]])
            column[0, m] = weight[n]
            m += 1
        if m == BLOCK or n == rows.size:
            if expert:
                _entropy_rows(m, agent, column[0], nothing, w, k, s, metrics)
            else:
                _entropy_rows(m, agent, nothing, column[0], w, k, s, metrics)
            m = 0
    return rest


@njit(**KERNEL)
def gradient(  # type: ignore[no-untyped-def]
    agent,
    e_rows,
    p_rows,
    e_obs,
    p_obs,
    e_empty,
    p_empty,
    alpha,
    w_e,
    w_p,
    w_g,
    coef,
    w,
    k,
    s,
    metrics,
    column,
):
    """Add one agent's gradients to s, its loss terms to metrics [5]; column [3, BLOCK] is scratch, its last row zero.

    Pairs n of rows e_rows[n], p_rows[n] [M] into e_obs, p_obs [., O], of which the empty ones are zero.
    """
    k.x[:] = _ZERO
    rest_e = _side(agent, e_rows, w_e, True, e_obs, e_empty, coef, w, k, s, metrics, column)
    rest_p = _side(agent, p_rows, w_p, False, p_obs, p_empty, coef, w, k, s, metrics, column)
    k.x[:] = _ZERO
    column[0, 0] = rest_e
    column[1, 0] = rest_p
    _entropy_rows(_ROW, agent, column[0], column[1], w, k, s, metrics)
    rest, m = _ZERO, 0
    for n in range(e_rows.size + 1):
        if n < e_rows.size:
            if e_empty[e_rows[n]] and p_empty[p_rows[n]]:
                rest += w_g[n]
                continue
            e, p, a = e_obs[e_rows[n]], p_obs[p_rows[n]], alpha[n]
            for j in range(e.size):
                k.x[m, j] = p[j] + a * (e[j] - p[j])
            column[0, m] = w_g[n]
            m += 1
        else:
            k.x[m] = _ZERO
            column[0, m] = rest
            m += 1
        if m == BLOCK or n == e_rows.size:
            _penalty_rows(m, agent, column[0], coef, w, k, s, metrics)
            m = 0


def backward(net: DiscriminatorNet, pairs: Pairs, gp_coef: float) -> Tensor:
    """Write the gradients of every agent's loss; `discriminator.METRICS` [5, N]."""
    n_agents, hidden, obs_size = net.fc1.weight.shape
    w, k = make_weights(net), make_work(obs_size, hidden)
    shapes = [(hidden, padded(obs_size)), (hidden,), (hidden, hidden), (hidden,), (hidden,), ()]
    s = Sums(*(np.zeros((n_agents, *shape), np.float32) for shape in shapes))
    metrics, column = np.zeros((n_agents, 5)), np.zeros((3, BLOCK), np.float32)
    weights = [t.numpy() for t in (pairs.alpha, pairs.w_expert, pairs.w_policy, pairs.w_penalty)]
    for i in range(n_agents):
        gradient(
            i, pairs.expert_rows[i], pairs.policy_rows[i], pairs.expert.obs.numpy(), pairs.policy.obs.numpy(),
            pairs.expert.empty, pairs.policy.empty, *(a[i] for a in weights), np.float32(gp_coef),
            w, k, s, metrics[i], column,
        )  # fmt: skip
    g1, s1, g2, s2, g3, s3 = (torch.from_numpy(a) for a in s)
    for layer, weight, bias in (
        (net.fc1, g1[:, :, :obs_size].contiguous(), s1),
        (net.fc2, g2, s2),
        (net.head, g3.unsqueeze(1), s3.unsqueeze(1)),
    ):
        layer.weight.grad, layer.bias.grad = weight, bias
    return torch.from_numpy(metrics.T.copy())
