"""QMIX's agent (qmix/net.py) compiled: whole episodes with their gradients through time, and one step of play.

The rows of a batch are its episodes' agents, the longest episodes first; step t has the first counts[t] of them. Steps
lie one behind the other in the tape, so what a step needs of the one before it is a slice.
Shapes: N agents, E episodes, R rows of all steps, M of the first one, F inputs padded, H hidden, K actions padded
(widths are multiples of PAD).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dm2core.compiler import KERNEL, njit
from dm2core.fused.body import F32, add_rows, copy, copy_row, gate, gate_back, padded, rectify, rectify_back
from dm2core.fused.draw import pick, uniform
from dm2core.fused.formula import on_rows
from dm2core.fused.tiles import accumulate, affine, product_address
from dm2core.memory import aligned_zeros
from dm2core.qmix.net import QNet

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


class Weights(NamedTuple):
    """A network's weights as the products want them; `_back` are those of the backward pass."""

    w1: F32  # [F, H]
    b1: F32  # [H]
    w2: F32  # [H, H] the additional layer; [0, H] without
    b2: F32
    w2_back: F32
    wx: F32  # [H, 3H] GRU, from the layer below: reset, update, new
    bx: F32  # [3H]
    wx_back: F32  # [3H, H]
    wh: F32  # [H, 3H] GRU, from the hidden state
    wh_back: F32  # [3H, H]
    bh_new: F32  # [H]; the other gates' biases are in bx
    w3: F32  # [H, K] head
    b3: F32  # [K]
    w3_back: F32  # [K, H]


class Tape(NamedTuple):
    """What the forward pass leaves to the backward pass, and that one's buffers."""

    x: F32  # [R, F]
    y1: F32  # [R, H] after the first ReLU
    y2: F32  # [R, H] after the second, where there is one
    gates: F32  # [R, 3H] reset, update, new
    new_h: F32  # [R, H] the hidden state's share in the new gate
    h: F32  # [R, H] after the step
    out: F32  # [R, K]
    none: F32  # [M, H] zeros: the hidden state before the first step
    d_out: F32  # [M, K]
    d_h: F32  # [M, H]
    d_gates: F32  # [M, 3H]
    d_new_h: F32  # [M, H]
    d1: F32  # [M, H]
    d2: F32  # [M, H]
    zero: F32  # [H] zeros
    product: int  # address of the matrix product


class Sums(NamedTuple):
    """Gradients of the weights, summed over rows: products d^T x and plain sums of d."""

    g1: F32  # [H, F]
    s1: F32  # [H]
    g2: F32  # [H, H]
    s2: F32  # [H]
    gx: F32  # [3H, H]
    sx: F32  # [3H]
    gh: F32  # [3H, H]
    sh_new: F32  # [H] of the new gate; those of the other gates equal sx
    g3: F32  # [K, H]
    s3: F32  # [K]


_times = on_rows(lambda d, factor: (d * factor,))


@njit(**KERNEL)
def _input(obs, last_action, agent, n_actions, x):  # type: ignore[no-untyped-def]
    """x = the network's input (nets.py: net_input): obs, last action (-1: none), agent, zeros up to F."""
    n_obs = obs.size
    copy_row(x[:n_obs], obs)
    for j in range(n_obs, x.size):
        x[j] = _ZERO
    if last_action >= 0:
        x[n_obs + last_action] = _ONE
    x[n_obs + n_actions + agent] = _ONE


@njit(**KERNEL)
def _step(start, m, h, w, k):  # type: ignore[no-untyped-def]
    """Outputs and next hidden states of the tape's rows start..start+m from their inputs and hidden states h."""
    end, both = start + m, 2 * h.shape[1]
    y, gates, new_h = k.y1[start:end], k.gates[start:end], k.new_h[start:end]
    affine(k.product, y, w.b1, k.x[start:end], w.w1)
    rectify(m, y)
    if w.w2.shape[0] > 0:
        affine(k.product, k.y2[start:end], w.b2, y, w.w2)
        y = k.y2[start:end]
        rectify(m, y)
    affine(k.product, gates, w.bx, y, w.wx)
    accumulate(k.product, gates[:, :both], h[:m], w.wh[:, :both])
    affine(k.product, new_h, w.bh_new, h[:m], w.wh[:, both:])
    gate(m, gates, new_h, h, k.h[start:end])
    affine(k.product, k.out[start:end], w.b3, k.h[start:end], w.w3)


@njit(**KERNEL)
def _values(counts, order, obs, actions, w, k, values):  # type: ignore[no-untyped-def]
    """values [T+1, E N, A] of rows `order` [M] of obs [T+1, E, N, O], actions [T, E, N]; the tape is kept."""
    n_agents, n_actions = obs.shape[2], values.shape[2]
    start, h = 0, k.none
    for t in range(counts.size):
        m = counts[t]
        for j in range(m):
            e, i = order[j] // n_agents, order[j] % n_agents
            last_action = actions[t - 1, e, i] if t > 0 else -1
            _input(obs[t, e, i], last_action, i, n_actions, k.x[start + j])
        _step(start, m, h, w, k)
        for j in range(m):
            copy_row(values[t, order[j]], k.out[start + j, :n_actions])
        h = k.h[start : start + m]
        start += m


@njit(**KERNEL)
def _gradients(counts, order, d_values, w, k, s):  # type: ignore[no-untyped-def]
    """Add to s the gradients of the rows of the last `_values`, from d_values [T+1, E N, A]; backwards in time."""
    n_actions, both, deep = d_values.shape[2], 2 * k.h.shape[1], w.w2.shape[0] > 0
    end = counts.sum()
    k.d_h[:] = _ZERO
    for t in range(counts.size - 1, -1, -1):
        m = counts[t]
        start = end - m
        for j in range(m):
            copy_row(k.d_out[j, :n_actions], d_values[t, order[j]])
        d, d_out, d_gates, d_new_h = k.d_h[:m], k.d_out[:m, :n_actions], k.d_gates[:m], k.d_new_h[:m]
        add_rows(m, s.s3, k.d_out)
        accumulate(k.product, s.g3[:n_actions], d_out.T, k.h[start:end])
        accumulate(k.product, d, d_out, w.w3_back[:n_actions])
        h = k.none if t == 0 else k.h[start - counts[t - 1] : start]
        gate_back(m, d, k.gates[start:end], k.new_h[start:end], h, d_gates, d_new_h)
        add_rows(m, s.sx, d_gates)
        add_rows(m, s.sh_new, d_new_h)
        if t > 0:
            accumulate(k.product, s.gh[:both], d_gates[:, :both].T, h[:m])
            accumulate(k.product, s.gh[both:], d_new_h.T, h[:m])
            _times(m, (d, k.gates[start:end, both // 2 : both]), (), (d,))
            accumulate(k.product, d, d_gates[:, :both], w.wh_back[:both])
            accumulate(k.product, d, d_new_h, w.wh_back[both:])
        y1, d1 = k.y1[start:end], k.d1[:m]
        if deep:
            y2, d2 = k.y2[start:end], k.d2[:m]
            accumulate(k.product, s.gx, d_gates.T, y2)
            affine(k.product, d2, k.zero, d_gates, w.wx_back)
            rectify_back(m, d2, y2)
            add_rows(m, s.s2, d2)
            accumulate(k.product, s.g2, d2.T, y1)
            affine(k.product, d1, k.zero, d2, w.w2_back)
        else:
            accumulate(k.product, s.gx, d_gates.T, y1)
            affine(k.product, d1, k.zero, d_gates, w.wx_back)
        rectify_back(m, d1, y1)
        add_rows(m, s.s1, d1)
        accumulate(k.product, s.g1, d1.T, k.x[start:end])
        end = start


@njit(**KERNEL)
def _act(obs, avail, key, t, epsilon, last, h, w, k, actions):  # type: ignore[no-untyped-def]
    """actions [N] in one battle: of the available ones the best, or, a share epsilon of the time, any."""
    n_agents, n_actions = avail.shape
    for i in range(n_agents):
        _input(obs[i], last[i], i, n_actions, k.x[i])
    _step(0, n_agents, h, w, k)
    copy(n_agents, (k.h,), (), (h,))
    for i in range(n_agents):
        best, legal = -1, 0
        for a in range(n_actions):
            if avail[i, a]:
                legal += 1
                if best < 0 or k.out[i, a] > k.out[i, best]:
                    best = a
        chances = k.d_out[i, :n_actions]
        for a in range(n_actions):
            chances[a] = epsilon / np.float32(legal) if avail[i, a] else _ZERO
        chances[best] += _ONE - epsilon
        actions[i] = best if epsilon == _ZERO else pick(chances, uniform(key, t, n_agents, i))
        last[i] = actions[i]


@torch.no_grad()
def _weights(net: QNet) -> Weights:
    """A network's weights, padded; of those that fit as they are, views."""
    w1, w3 = net.fc1.weight[0], net.head.weight[0]
    w1 = fn.pad(w1, (0, padded(net.size_in) - net.size_in))
    w3 = fn.pad(w3, (0, 0, 0, padded(net.n_actions) - net.n_actions))
    b3 = fn.pad(net.head.bias[0], (0, len(w3) - net.n_actions))
    wx, wh, bx_alone, bh = net.gru.all_weights[0]
    both = 2 * net.hidden_size
    bx = torch.cat([bx_alone[:both] + bh[:both], bx_alone[both:]])
    second = (
        [wx[:0], bx[:0], wx[:0]]
        if net.fc2 is None
        else [net.fc2.weight[0].T, net.fc2.bias[0], net.fc2.weight[0]]
    )
    parts = [w1.T, net.fc1.bias[0], *second, wx.T, bx, wx, wh.T, wh, bh[both:], w3.T, b3, w3]
    return Weights(*(part.detach().contiguous().numpy() for part in parts))


def _tape(rows: int, first: int, net: QNet) -> Tape:
    f, h, k = padded(net.size_in), net.hidden_size, padded(net.n_actions)

    def by_row(width: int) -> F32:
        return aligned_zeros(rows, width)

    def by_first(width: int) -> F32:
        return aligned_zeros(first, width)

    second = by_row(h) if net.fc2 is not None else aligned_zeros(0, h)
    return Tape(
        by_row(f), by_row(h), second, by_row(3 * h), by_row(h), by_row(h), by_row(k), by_first(h), by_first(k),
        by_first(h), by_first(3 * h), by_first(h), by_first(h), by_first(h), aligned_zeros(h), product_address(),
    )  # fmt: skip


class Episodes:
    """Values of whole episodes, and the gradients of those that were computed last."""

    def __init__(self, net: QNet, episodes: int, limit: int) -> None:
        """Room for `episodes` of at most `limit` steps."""
        first = episodes * net.n_agents
        self._tape = _tape(first * (limit + 1), first, net)

    def values(self, net: QNet, obs: Tensor, actions: Tensor, lengths: Tensor) -> Tensor:
        """QNet.unroll of obs [T+1, E, N, O], actions [T, E, N] -> [T+1, E, N, A]; episode e has lengths[e] + 1 rows."""
        steps, episodes, n_agents, _ = obs.shape
        rows = np.repeat(lengths.numpy() + 1, n_agents)
        self._order = np.argsort(-rows, kind="stable")
        self._counts = (rows > np.arange(rows.max())[:, None]).sum(1)
        out = torch.zeros(steps, episodes * n_agents, net.n_actions)
        self._weights = _weights(net)
        _values(
            self._counts, self._order, obs.numpy(), actions.numpy(), self._weights, self._tape, out.numpy()
        )
        return out.view(steps, episodes, n_agents, -1)

    def write_gradients(self, net: QNet, d_values: Tensor) -> None:
        """The gradients of a network's parameters, from those [T+1, E, N, A] of the values computed last, its own."""
        w = self._weights
        likes = (w.w1.T, w.b1, w.w2, w.b2, w.wx_back, w.bx, w.wh_back, w.bh_new, w.w3_back, w.b3)
        s = Sums(*(aligned_zeros(*like.shape) for like in likes))
        d = d_values.reshape(len(d_values), -1, net.n_actions)
        _gradients(self._counts, self._order, d.numpy(), w, self._tape, s)
        g1, s1, g2, s2, gx, sx, gh, sh_new, g3, s3 = (torch.from_numpy(part) for part in s)
        both = 2 * net.hidden_size
        g1, g3, s3 = g1[:, : net.size_in], g3[: net.n_actions], s3[: net.n_actions]  # without the padding
        net.fc1.weight.grad, net.fc1.bias.grad = g1[None].contiguous(), s1[None]
        if net.fc2 is not None:
            net.fc2.weight.grad, net.fc2.bias.grad = g2[None], s2[None]
        sh = torch.cat([sx[:both], sh_new])
        for p, gradient in zip(net.gru.all_weights[0], (gx, gh, sx, sh), strict=True):
            p.grad = gradient
        net.head.weight.grad, net.head.bias.grad = g3[None], s3[None]


class Player:
    """A team in one battle, from its first step to its last."""

    def __init__(self, net: QNet) -> None:
        self._weights, self._tape = _weights(net), _tape(net.n_agents, net.n_agents, net)
        self._h = aligned_zeros(net.n_agents, net.hidden_size)
        self._last = np.full(net.n_agents, -1, np.int64)

    def act(
        self, obs: F32, avail_actions: NDArray[np.bool_], keys: NDArray[np.uint64], t: int, epsilon: float
    ) -> NDArray[np.int64]:
        """As TorchPlayer.act."""
        actions = np.empty(len(obs), np.int64)
        _act(
            obs,
            avail_actions,
            keys[0],
            t,
            np.float32(epsilon),
            self._last,
            self._h,
            self._weights,
            self._tape,
            actions,
        )
        return actions
