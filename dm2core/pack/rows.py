"""Distinct network inputs of all cells behind their padded grids: rows.py for slices, on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as fn

from dm2core.config import Switches
from dm2core.pack.collect import Played, pack_input


@dataclass
class PackRows:
    """R+1 rows per slice, the last the padding row; slot (t, b) of cell c reads row index[c, t, b].

    Every row but the last stands in at most one slot; some rows stand in none.
    """

    x: Tensor  # [S, R+1, F]
    h_actor: Tensor  # [S, R+1, H]
    h_critic: Tensor  # [S, R+1, H]
    avail_actions: Tensor  # [S, R+1, A] bool
    actions: Tensor  # [S, R+1] int64
    choice: Tensor  # [S, R+1] bool: more than one action
    index: Tensor  # [C, L+1, B] int64
    length: Tensor  # [C, B] rows that returns run over
    bootstrap: Tensor  # [C, B] bool
    inside: Tensor  # [C, L, B] bool
    alive: Tensor  # [C, L, B, N] bool

    @property
    def padding(self) -> int:
        return self.x.shape[1] - 1


def pack_rows(played: Played, switches: Switches, dtype: torch.dtype) -> PackRows:
    """Rows under the given switches; see rows.py: training_rows, whose comments hold here."""
    cells, slots, battles = played.index.shape
    slices, rows, n_actions = played.avail_actions.shape
    n_agents, limit, device = slices // cells, slots - 1, played.obs.device
    t = torch.arange(slots, device=device).view(1, -1, 1)
    length = played.lengths.unsqueeze(1)
    final = (t == length) & (switches.terminal_row | (length == limit))
    echoes = battles if switches.terminal_row and switches.absorbing_padding else 0
    padding = rows + echoes
    index = torch.where((t < length) | final, played.index, padding)
    previous = played.previous.clone()
    if switches.t0_last_action_leak:
        previous[:, : played.first] = played.actions[:, : played.first]
    tail = torch.full((slices, echoes + 1), -1, device=device)  # previous actions of echoes and of padding
    if echoes:
        battle = torch.arange(battles, device=device)
        index = torch.where(t == length + 1, rows + battle, index)
        last = played.index.gather(1, length).expand(-1, n_agents, -1).reshape(slices, battles)
        tail[:, :-1] = played.actions.gather(1, last)

    def extend(x: Tensor) -> Tensor:
        """Zero rows for echoes and padding."""
        return fn.pad(x, (0, 0, 0, echoes + 1))

    avail = extend(played.avail_actions)
    absorbing = torch.full_like(played.lengths, limit)
    ends = (
        absorbing
        if switches.absorbing_padding
        else (played.lengths + int(switches.terminal_row)).clamp(max=limit)
    )
    every = torch.ones_like(played.truncated)
    return PackRows(
        x=pack_input(extend(played.obs), torch.cat([previous, tail], 1), n_agents, n_actions, dtype),
        h_actor=extend(played.h_actor),
        h_critic=extend(played.h_critic),
        avail_actions=avail,
        actions=fn.pad(played.actions, (0, echoes + 1)),
        choice=avail.sum(-1) > 1,
        index=index,
        length=ends,
        bootstrap=every if switches.absorbing_padding else played.truncated,
        inside=t[:, :-1] < ends.unsqueeze(1),
        alive=played.alive[:, :-1],
    )
