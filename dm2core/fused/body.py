"""Forward and backward pass of one recurrent network (nets.py: RecurrentBody and head) over one block of rows.

The affine maps of the layer norms are folded into the products that follow them (fold.py), so every layer here is
    y = relu(x W + b),   x' = (y - mean) / deviation
and the sums that the backward pass leaves are those of the folded weights.
Shapes: N agents, m rows of a block, F inputs padded, H hidden, K outputs padded (widths are multiples of PAD).
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dm2core.compiler import INLINE, KERNEL, njit
from dm2core.fused.formula import Numbers, on_rows, sigmoid, tanh
from dm2core.fused.lanes import LANES, dot, squares, total
from dm2core.fused.tiles import PAD, accumulate, affine, product_address
from dm2core.memory import aligned_zeros

F32 = NDArray[np.float32]
BLOCK = 96  # rows: 0.3 MB of activations, a multiple of the tiles' rows
_ZERO, _ONE, _EPS, _ROW = np.float32(0.0), np.float32(1.0), np.float32(1e-5), np.int64(1)


class Folded(NamedTuple):
    """Weights of N agents as the products want them; `_back` are those of the backward pass."""

    w1: F32  # [N, F, H]
    b1: F32  # [N, H]
    w2: F32  # [N, H, H]
    b2: F32  # [N, H]
    w2_back: F32  # [N, H, H]
    wx: F32  # [N, H, 3H] GRU, from the layer below: reset, update, new
    bx: F32  # [N, 3H]
    wx_back: F32  # [N, 3H, H]
    wh: F32  # [N, H, 3H] GRU, from the hidden state
    bh_new: F32  # [N, H]; the other gates' biases are in bx
    w3: F32  # [N, H, K] head
    b3: F32  # [N, K]
    w3_back: F32  # [N, K, H]


class Sums(NamedTuple):
    """Gradients of the folded weights, summed over rows: products d^T x and plain sums of d."""

    g1: F32  # [N, H, F]
    s1: F32  # [N, H]
    g2: F32  # [N, H, H]
    s2: F32  # [N, H]
    gx: F32  # [N, 3H, H]
    sx: F32  # [N, 3H]
    gh: F32  # [N, 3H, H]
    sh_new: F32  # [N, H] of the new gate; those of the other gates equal sx
    g3: F32  # [N, K, H]
    s3: F32  # [N, K]


class Work(NamedTuple):
    """Activations of one block; the caller fills x and h, and d_out before the backward pass."""

    x: F32  # [BLOCK, F] input, normalised
    h: F32  # [BLOCK, H] hidden state
    y1: F32  # [BLOCK, H] after the first ReLU
    x1: F32  # [BLOCK, H] normalised
    r1: F32  # [BLOCK] 1 / deviation
    y2: F32
    x2: F32
    r2: F32
    gates: F32  # [BLOCK, 3H] reset, update, new
    new_h: F32  # [BLOCK, H] the hidden state's share in the new gate
    h_next: F32  # [BLOCK, H]
    x3: F32
    r3: F32
    out: F32  # [BLOCK, K]
    d_out: F32  # [BLOCK, K]
    d_gates: F32  # [BLOCK, 3H] of the input's products
    d_new_h: F32  # [BLOCK, H] of the hidden state's product in the new gate
    d: F32  # [BLOCK, H]
    d1: F32  # [BLOCK, H]
    zero: F32  # [H] zeros
    shared: F32  # [3H] gates' sums of an input that many rows have in common
    n_out: int  # outputs before padding
    product: int  # address of the matrix product


def padded(size: int) -> int:
    """The next multiple of PAD."""
    return -(-size // PAD) * PAD


def make_work(size_in: int, hidden: int, n_out: int) -> Work:
    """Buffers for one block; size_in is the padded one."""
    out = padded(n_out)

    def block(width: int) -> F32:
        return aligned_zeros(BLOCK, width)

    def column() -> F32:
        return aligned_zeros(BLOCK)

    def layer() -> tuple[F32, F32, F32]:
        return block(hidden), block(hidden), column()

    return Work(
        block(size_in), block(hidden), *layer(), *layer(), block(3 * hidden), block(hidden), block(hidden),
        block(hidden), column(), block(out), block(out), block(3 * hidden), block(hidden), block(hidden),
        block(hidden), aligned_zeros(hidden), aligned_zeros(3 * hidden),
        n_out, product_address(),
    )  # fmt: skip


def make_sums(n_agents: int, size_in: int, hidden: int, out: int) -> Sums:
    """Zeroed sums."""
    shapes: list[Any] = [(hidden, size_in), (hidden,), (hidden, hidden), (hidden,), (3 * hidden, hidden)]
    shapes += [(3 * hidden,), (3 * hidden, hidden), (hidden,), (out, hidden), (out,)]
    return Sums(*(aligned_zeros(n_agents, *shape) for shape in shapes))


copy = on_rows(lambda x: (x,))
_add = on_rows(lambda total, x: (total + x,))
_scale = on_rows(lambda y, mean, scale: ((y - mean) * scale,))
_scale_back = on_rows(lambda d, x, mean, slope, scale: ((d - mean - x * slope) * scale,))
_positive = on_rows(lambda y: (y.at_least(0.0),))
_where_positive = on_rows(lambda d, y: (d.where_positive(y),))


@on_rows
def _gru(reset: Numbers, update: Numbers, new: Numbers, new_h: Numbers, h: Numbers) -> tuple[Numbers, ...]:
    """The GRU's gates and its next hidden state from the gates' sums."""
    r, z = sigmoid(reset), sigmoid(update)
    n = tanh(new + r * new_h)
    return r, z, n, n + z * (h - n)


@on_rows
def _gru_back(
    d: Numbers, r: Numbers, z: Numbers, n: Numbers, new_h: Numbers, h: Numbers
) -> tuple[Numbers, ...]:
    """From the gradient d of the next hidden state to those of the gates' sums, and of new_h."""
    d_n = d * (1.0 - z) * (1.0 - n * n)
    return d_n * new_h * r * (1.0 - r), d * (h - n) * z * (1.0 - z), d_n, d_n * r


@njit(**KERNEL)
def copy_row(to, row):  # type: ignore[no-untyped-def]
    """to [n] = row [n] of any n; an assignment of arrays would allocate."""
    n = row.size
    whole = n - n % LANES
    copy(_ROW, (row[:whole],), (), (to[:whole],))
    if n > LANES:  # the rest, with a part of what is already there
        copy(_ROW, (row[n - LANES : n],), (), (to[n - LANES : n],))
        return
    for j in range(whole, n):
        to[j] = row[j]


@njit(**KERNEL)
def _normalize(m, y, x, r):  # type: ignore[no-untyped-def]
    """x = (y - mean) / deviation of each of m rows, r = 1 / deviation (layer norm with epsilon 1e-5)."""
    share = _ONE / np.float32(y.shape[1])
    for i in range(m):
        mean = total(y[i]) * share
        r[i] = _ONE / np.float32(sqrt(squares(y[i], mean) * share + _EPS))
        _scale(_ROW, (y[i],), (mean, r[i]), (x[i],))


@njit(**KERNEL)
def _normalize_back(m, d, x, r):  # type: ignore[no-untyped-def]
    """In place: gradient of the normalised rows -> of the rows before normalisation."""
    share = _ONE / np.float32(d.shape[1])
    for i in range(m):
        mean, slope = total(d[i]) * share, dot(d[i], x[i]) * share
        _scale_back(_ROW, (d[i], x[i]), (mean, slope, r[i]), (d[i],))


@njit(**KERNEL)
def add_rows(m, s, d):  # type: ignore[no-untyped-def]
    """s [n] += the sum of the first m rows of d [., n]."""
    _add(m, (s, d), (), (s,))


@njit(**KERNEL)
def rectify(m, y):  # type: ignore[no-untyped-def]
    """In place: the first m rows of y after the ReLU."""
    _positive(m, (y,), (), (y,))


@njit(**KERNEL)
def rectify_back(m, d, y):  # type: ignore[no-untyped-def]
    """In place: gradient behind the ReLU, of value y, -> before it."""
    _where_positive(m, (d, y), (), (d,))


@njit(**INLINE)
def _three(gates):  # type: ignore[no-untyped-def]
    """Reset, update and new of gates [m, 3H]."""
    size = gates.shape[1] // 3
    return gates[:, :size], gates[:, size : 2 * size], gates[:, 2 * size :]


@njit(**KERNEL)
def gate(m, gates, new_h, h, h_next):  # type: ignore[no-untyped-def]
    """The GRU's elementwise part; gates hold sums before and values after."""
    reset, update, new = _three(gates)
    _gru(m, (reset, update, new, new_h, h), (), (reset, update, new, h_next))


@njit(**KERNEL)
def gate_back(m, d, gates, new_h, h, d_gates, d_new_h):  # type: ignore[no-untyped-def]
    """From the gradient d of the next hidden state to those of the gates' sums, and of new_h."""
    reset, update, new = _three(gates)
    d_reset, d_update, d_new = _three(d_gates)
    _gru_back(m, (d, reset, update, new, new_h, h), (), (d_reset, d_update, d_new, d_new_h))


@njit(**KERNEL)
def below(m, agent, w, k):  # type: ignore[no-untyped-def]
    """From k.x to the input's share of the gates' sums, k.gates, of rows 0..m-1."""
    affine(k.product, k.y1[:m], w.b1[agent], k.x[:m], w.w1[agent])
    rectify(m, k.y1)
    _normalize(m, k.y1, k.x1, k.r1)
    affine(k.product, k.y2[:m], w.b2[agent], k.x1[:m], w.w2[agent])
    rectify(m, k.y2)
    _normalize(m, k.y2, k.x2, k.r2)
    affine(k.product, k.gates[:m], w.bx[agent], k.x2[:m], w.wx[agent])


@njit(**KERNEL)
def _at_rest(m, h):  # type: ignore[no-untyped-def]
    """Whether the first m rows of h are zero, as all are at an episode's start: their products are too."""
    for i in range(m):
        for j in range(h.shape[1]):
            if h[i, j] != _ZERO:
                return False
    return True


@njit(**KERNEL)
def above(m, agent, w, k):  # type: ignore[no-untyped-def]
    """From k.gates and k.h to the outputs k.out and the next hidden state k.h_next."""
    both = 2 * k.h.shape[1]  # reset and update add both shares; the new gate keeps the hidden state's apart
    if _at_rest(m, k.h):
        copy(m, (w.bh_new[agent],), (), (k.new_h,))
    else:
        accumulate(k.product, k.gates[:m, :both], k.h[:m], w.wh[agent, :, :both])
        affine(k.product, k.new_h[:m], w.bh_new[agent], k.h[:m], w.wh[agent, :, both:])
    gate(m, k.gates, k.new_h, k.h, k.h_next)
    _normalize(m, k.h_next, k.x3, k.r3)
    affine(k.product, k.out[:m], w.b3[agent], k.x3[:m], w.w3[agent])


@njit(**KERNEL)
def forward(m, agent, w, k):  # type: ignore[no-untyped-def]
    """k.out and k.h_next from k.x and k.h."""
    below(m, agent, w, k)
    above(m, agent, w, k)


@njit(**KERNEL)
def above_back(m, agent, w, k, s):  # type: ignore[no-untyped-def]
    """From k.d_out to k.d_gates, adding to the sums of the head and of the hidden state's weights.

    Columns of k.d_out past k.n_out are zero.
    """
    n_out = k.n_out
    both = 2 * k.h.shape[1]
    add_rows(m, s.s3[agent], k.d_out)
    accumulate(k.product, s.g3[agent, :n_out], k.d_out[:m, :n_out].T, k.x3[:m])
    affine(k.product, k.d[:m], k.zero, k.d_out[:m, :n_out], w.w3_back[agent, :n_out])
    _normalize_back(m, k.d, k.x3, k.r3)
    gate_back(m, k.d, k.gates, k.new_h, k.h, k.d_gates, k.d_new_h)
    add_rows(m, s.sx[agent], k.d_gates)
    add_rows(m, s.sh_new[agent], k.d_new_h)
    if not _at_rest(m, k.h):
        accumulate(k.product, s.gh[agent, :both], k.d_gates[:m, :both].T, k.h[:m])
        accumulate(k.product, s.gh[agent, both:], k.d_new_h[:m].T, k.h[:m])


@njit(**KERNEL)
def below_back(m, agent, w, k, s):  # type: ignore[no-untyped-def]
    """From k.d_gates to the sums of everything below the gates (but s.sx, which `above_back` adds to)."""
    accumulate(k.product, s.gx[agent], k.d_gates[:m].T, k.x2[:m])
    affine(k.product, k.d[:m], k.zero, k.d_gates[:m], w.wx_back[agent])
    _normalize_back(m, k.d, k.x2, k.r2)
    rectify_back(m, k.d, k.y2)
    add_rows(m, s.s2[agent], k.d)
    accumulate(k.product, s.g2[agent], k.d[:m].T, k.x1[:m])
    affine(k.product, k.d1[:m], k.zero, k.d[:m], w.w2_back[agent])
    _normalize_back(m, k.d1, k.x1, k.r1)
    rectify_back(m, k.d1, k.y1)
    add_rows(m, s.s1[agent], k.d1)
    accumulate(k.product, s.g1[agent], k.d1[:m].T, k.x[:m])


@njit(**KERNEL)
def _pick(array, listed, m):  # type: ignore[no-untyped-def]
    """array[:m] = array[listed[:m]], in place; listed is ascending."""
    for j in range(m):
        if listed[j] != j:
            copy(_ROW, (array[listed[j]],), (), (array[j],))


@njit(**KERNEL)
def pick_rows(listed, m, shared, k):  # type: ignore[no-untyped-def]
    """Move the m listed rows of a block, after its forward pass, to its front: the backward pass is theirs alone.

    listed is ascending. Those left out have no gradient, and a sum's chain without its zeros has the same bits
    (tiles.py). shared: what lies below the gates is not moved.
    """
    for array in (k.h, k.gates, k.new_h, k.x3, k.d_out):
        _pick(array, listed, m)
    for j in range(m):
        k.r3[j] = k.r3[listed[j]]
    if shared:
        return
    for array in (k.x, k.y1, k.x1, k.y2, k.x2):
        _pick(array, listed, m)
    for j in range(m):
        k.r1[j], k.r2[j] = k.r1[listed[j]], k.r2[listed[j]]


@njit(**KERNEL)
def backward(m, agent, w, k, s):  # type: ignore[no-untyped-def]
    """Add the gradients of rows 0..m-1 to the sums s, from k.d_out."""
    above_back(m, agent, w, k, s)
    below_back(m, agent, w, k, s)


@njit(**KERNEL)
def remember_shared(agent, x, w, k):  # type: ignore[no-untyped-def]
    """The gates' sums of one input x [F] that many rows have in common, for `recall_shared`."""
    copy_row(k.x[0], x)
    below(_ROW, agent, w, k)
    copy_row(k.shared, k.gates[0])


@njit(**KERNEL)
def recall_shared(m, k):  # type: ignore[no-untyped-def]
    """Instead of `below` for rows that share their input."""
    copy(m, (k.shared,), (), (k.gates,))


@njit(**KERNEL)
def backward_shared(agent, x, d_gates, w, k, s):  # type: ignore[no-untyped-def]
    """Instead of `below_back`, once, for all rows that share the input x [F]; d_gates [3H] is their sum."""
    copy_row(k.x[0], x)
    below(_ROW, agent, w, k)
    copy_row(k.d_gates[0], d_gates)
    below_back(_ROW, agent, w, k, s)
