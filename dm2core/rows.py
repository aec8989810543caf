"""The distinct network inputs behind the padded grid of a rollout.

The released code pads every episode with zeros to the limit and computes each padded slot. Those slots are one and
the same input, so here the networks see it once, and the losses, which live on the grid, read it as often as it
stands there. Exact up to rounding. Ledger ids: D05 absorbing padding, D30 terminal row, D04 last-action leak.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as fn

from dm2core.config import Switches
from dm2core.nets import net_input
from dm2core.rollout import Rollout


@dataclass
class Rows:
    """R distinct rows and, as row R, the padding row; grid slot (t, b) reads row index[t, b]."""

    x: Tensor  # [N, R+1, F] network input
    h_actor: Tensor  # [N, R+1, H]
    h_critic: Tensor  # [N, R+1, H]
    avail_actions: Tensor  # [N, R+1, A] bool; none on rows that are padding
    actions: Tensor  # [N, R+1] int64
    choice: Tensor  # [N, R+1] bool: the agent has more than one action, else the actor's gradient is zero
    dead_input: (
        Tensor  # [N, R+1] bool: the agent is dead and its last action was no-op: these rows of x are equal
    )
    index: Tensor  # [L+1, B] int64 into 0..R
    length: Tensor  # [B] rows of each episode that returns run over, at most L
    bootstrap: Tensor  # [B] bool: V after the last row counts
    inside: Tensor  # [L, B] bool: t < length
    alive: Tensor  # [L, B, N] bool

    @property
    def padding(self) -> int:
        """Number of the padding row."""
        return self.actions.shape[1] - 1

    @cached_property
    def x_normalized(self) -> Tensor:
        """[N, R+1, F'] x after the layer norm of the input without its affine map, zeros up to a multiple of 16."""
        n_agents, rows, size = self.x.shape
        out = self.x.new_zeros(n_agents, rows, size + -size % 16)
        for x, normalized in zip(self.x, out, strict=True):  # one agent at a time: a third of the memory
            normalized[:, :size] = fn.layer_norm(x, (size,))
        return out

    def keep_normalized(self) -> None:
        """Give up x for x_normalized, which is all that the compiled kernels read."""
        self.x = self.x_normalized.new_empty(0)


def training_rows(rollout: Rollout, switches: Switches, *, release: bool = False) -> Rows:
    """Gather the distinct inputs of a rollout under the given switches.

    With `release` the rollout gives up each of its large arrays as soon as it is gathered: both together are more
    than half of a cell's memory.
    """
    slots, _, n_agents, n_actions = rollout.avail_actions.shape
    limit = slots - 1
    dtype = rollout.values.dtype
    t = torch.arange(slots).unsqueeze(-1)
    length = rollout.lengths
    # The final observation of an episode that used up the limit is read for its value only, never trained on.
    real = (t < length) | ((t == length) & (torch.tensor(switches.terminal_row) | (length == limit)))
    # One slot later the released code still feeds the unexecuted action as the last action.
    echo = (t == length + 1) & switches.terminal_row & switches.absorbing_padding
    kept = real | echo
    t_kept, battle = kept.nonzero().unbind(1)
    at = t_kept * len(length) + battle
    index = torch.where(kept, kept.flatten().cumsum(0).view_as(kept) - 1, len(at))

    def gather(grid: Tensor) -> Tensor:
        """[L+1, B, N, ...] -> [N, R+1, ...], the padding row zero."""
        by_battle = grid.transpose(0, 1)  # as the rollout's large arrays lie in memory
        flat, first = (by_battle, battle * slots + t_kept) if by_battle.is_contiguous() else (grid, at)
        flat = flat.reshape(-1, *grid.shape[3:])
        out = torch.zeros(n_agents, len(at) + 1, *grid.shape[3:], dtype=grid.dtype)
        for i in range(n_agents):
            torch.index_select(flat, 0, first * n_agents + i, out=out[i, :-1])
        return out

    def take(name: str) -> Tensor:
        out = gather(getattr(rollout, name))
        if release:
            setattr(rollout, name, torch.empty(0))
        return out

    previous = torch.full_like(rollout.actions, -1)  # none; shifted by one below, so that none is all zeros
    previous[1:] = rollout.actions[:-1]
    if switches.t0_last_action_leak:
        previous[0] = rollout.actions[0]
    last_action = fn.one_hot(gather(previous + 1), n_actions + 1)[..., 1:].to(dtype)
    avail = gather(rollout.avail_actions)
    absorbing = torch.full_like(length, limit)
    rows = absorbing if switches.absorbing_padding else (length + int(switches.terminal_row)).clamp(max=limit)
    return Rows(
        x=net_input(take("obs").to(dtype), last_action),
        h_actor=take("h_actor"),
        h_critic=take("h_critic"),
        avail_actions=avail,
        actions=gather(rollout.actions),
        choice=avail.sum(-1) > 1,
        dead_input=avail[:, :, 0] & (last_action[:, :, 0] == 1),
        index=index,
        length=rows,
        bootstrap=torch.ones_like(rollout.truncated) if switches.absorbing_padding else rollout.truncated,
        inside=t[:-1] < rows,
        alive=rollout.alive[:-1],
    )
