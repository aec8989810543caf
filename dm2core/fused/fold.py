"""Between the networks of nets.py and the folded weights of the kernels, in both directions; plain torch.

A layer norm's affine map followed by a linear one, W (g * x + c) + b, is (W diag g) x + (b + W c). From the gradient
sums G = sum d x^T and s = sum d of the folded layer follow those of its parts:
    dW = G diag g + s c^T,   db = s,   dg = column sums of W * G,   dc = W^T s.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as fn

from dm2core.fused.body import Folded, Sums, padded
from dm2core.nets import Actor, Critic, StackedLayerNorm, StackedLinear


@torch.no_grad()
def fold(net: Actor | Critic) -> Folded:
    """Folded copies of a network's weights, padded."""
    body, head = net.body, net.head
    w1, b1 = _folded(body.norm_in, body.fc1)
    w2, b2 = _folded(body.norm1, body.fc2)
    wx, bx = _folded(body.norm2, body.gru.input)
    w3, b3 = _folded(body.norm_out, head)
    size_in, size_out = padded(w1.shape[2]), padded(w3.shape[1])
    w1 = fn.pad(w1, (0, size_in - w1.shape[2]))
    w3 = fn.pad(w3, (0, 0, 0, size_out - w3.shape[1]))
    b3 = fn.pad(b3, (0, size_out - b3.shape[1]))
    wh, bh = body.gru.hidden.weight, body.gru.hidden.bias
    both = 2 * wh.shape[2]
    bx[:, :both] += bh[:, :both]
    parts = [_t(w1), b1, _t(w2), b2, w2, _t(wx), bx, wx, _t(wh), bh[:, both:], _t(w3), b3, w3]
    return Folded(*(p.contiguous().numpy() for p in parts))


@torch.no_grad()
def unfold(net: Actor | Critic, sums: Sums) -> None:
    """Write the gradients of a network's parameters from the sums of the kernels; frozen ones stay without."""
    s = SimpleNamespace(**{name: torch.from_numpy(a) for name, a in sums._asdict().items()})
    body, head = net.body, net.head
    _unfolded(body.norm_in, body.fc1, s.g1, s.s1)
    _unfolded(body.norm1, body.fc2, s.g2, s.s2)
    _unfolded(body.norm2, body.gru.input, s.gx, s.sx)
    hidden = body.gru.hidden
    hidden.weight.grad = s.gh.clone()
    hidden.bias.grad = torch.cat([s.sx[:, : 2 * s.gh.shape[2]], s.sh_new], dim=1)
    _unfolded(body.norm_out, head, s.g3, s.s3)


def _folded(norm: StackedLayerNorm, linear: StackedLinear) -> tuple[Tensor, Tensor]:
    weight = linear.weight * norm.weight.unsqueeze(1)
    return weight, torch.baddbmm(linear.bias.unsqueeze(-1), linear.weight, norm.bias.unsqueeze(-1)).squeeze(
        -1
    )


def _unfolded(norm: StackedLayerNorm, linear: StackedLinear, g: Tensor, s: Tensor) -> None:
    n_out, n_in = linear.weight.shape[1:]
    g, s = g[:, :n_out, :n_in], s[:, :n_out]
    if linear.weight.requires_grad:
        linear.weight.grad = torch.baddbmm(
            g * norm.weight.unsqueeze(1), s.unsqueeze(-1), norm.bias.unsqueeze(1)
        )
        linear.bias.grad = s.clone()
    norm.weight.grad = (linear.weight * g).sum(1)
    norm.bias.grad = torch.bmm(s.unsqueeze(1), linear.weight).squeeze(1)


def _t(weight: Tensor) -> Tensor:
    return weight.transpose(1, 2)
