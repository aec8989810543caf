"""Discriminators of all cells: the pairs of discriminator.py, listed on the device from each cell's own draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from dm2core.adam import Adam
from dm2core.config import Discriminator, Switches
from dm2core.discriminator import METRICS, backward
from dm2core.nets import DiscriminatorNet
from dm2core.pack.collect import Played
from dm2core.pairs import Episodes, Pairs


class Experts:
    """Demonstrations of D cells on the device; cells that were given the same set share its rows."""

    def __init__(self, sets: list[Episodes], device: torch.device) -> None:
        distinct = list({id(found): found for found in sets}.values())
        rows, at = [], {}
        first = 0
        for found in distinct:
            at[id(found)] = first
            rows.append(found.obs)
            first += len(found.obs)
        self.obs = torch.cat(rows).to(device)
        self.zero = first - 1  # the last set's zero row
        self.lengths = [torch.as_tensor(found.length) for found in sets]  # on the CPU, [N, K] each
        wide = max(found.start.shape[1] for found in sets)
        self.start = torch.cat([_wide(torch.as_tensor(s.start) + at[id(s)], wide) for s in sets]).to(device)
        self.length = torch.cat([_wide(length, wide) for length in self.lengths]).to(device)


def update_pack_discriminators(
    net: DiscriminatorNet,
    optimizer: Adam,
    experts: Experts,
    played: Played,
    cells: list[int],
    cfg: Discriminator,
    switches: Switches,
    *,
    generators: list[torch.Generator],
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """`cfg.steps` Adam steps of the discriminators of the listed cells [D]; the last step's metrics [D * N]."""
    device, dtype = played.obs.device, net.head.weight.dtype
    n_agents, slots = len(played.obs) // len(played.index), played.index.shape[1]
    which = torch.tensor(cells, device=device)
    agents = (which.unsqueeze(1) * n_agents + torch.arange(n_agents, device=device)).flatten()  # slices
    width = played.obs.shape[1]
    obs = fn.pad(played.obs.to(dtype).flatten(0, 1), (0, 0, 0, 1))  # row s * M + m, and a zero row
    lengths = (played.lengths[which] + int(switches.terminal_row)).repeat_interleave(n_agents, 0)
    index = played.index[which].repeat_interleave(n_agents, 0)  # [D * N, L+1, B]
    policy_lengths = (played.lengths + int(switches.terminal_row)).cpu()[cells]
    table: Any = None  # rows are listed on the device, so these have no table of starts
    sides = Episodes(experts.obs, table, table), Episodes(obs, table, table)
    metrics = torch.zeros(len(METRICS), len(agents), dtype=dtype, device=device)
    for _ in range(cfg.steps):
        poll()
        e, p, alpha = (
            x.to(device, non_blocking=True)
            for x in _draw(experts.lengths, policy_lengths, cfg.episodes_per_step, generators, dtype)
        )
        e_length, p_length = experts.length.gather(1, e), lengths.gather(1, p)
        longer = torch.maximum(e_length, p_length)
        ends = longer.cumsum(1)
        row = torch.arange(alpha.shape[1], device=device).expand(len(agents), -1).contiguous()
        pair = torch.searchsorted(ends, row, right=True).clamp(max=ends.shape[1] - 1)
        t = row - (ends - longer).gather(1, pair)
        e_rows = torch.where(
            t < e_length.gather(1, pair), experts.start.gather(1, e).gather(1, pair) + t, experts.zero
        )
        battle = p.gather(1, pair)
        place = index.flatten(1).gather(1, t.clamp(max=slots - 1) * index.shape[2] + battle)
        p_rows = torch.where(t < p_length.gather(1, pair), agents.unsqueeze(1) * width + place, len(obs) - 1)
        total, n_pairs = e.shape[1] * slots, ends[:, -1:]
        if switches.absorbing_padding:
            rest = (total - n_pairs) * (row == n_pairs)
            w = ((row < n_pairs) + rest).to(torch.float64).div(total).to(dtype)
            weights = [w, w, w]
        else:
            w_e, w_p = (
                (side.obs[r] != 0).any(-1).to(dtype) for side, r in zip(sides, (e_rows, p_rows), strict=True)
            )
            masks = (w_e, w_p, w_e * w_p)
            weights = [m / m.sum(-1, keepdim=True).clamp(min=1) for m in masks]
        e_listed: Any = e_rows
        p_listed: Any = p_rows
        pairs = Pairs(*sides, e_listed, p_listed, alpha, *weights)
        metrics = backward(net, pairs, cfg.gp_coef)
        optimizer.step()
    found = dict(zip(METRICS, metrics, strict=True))
    loss = found["bce_expert"] + found["bce_policy"] + cfg.gp_coef * found["gradient_penalty"]
    return {"loss": loss, **found}


@torch.no_grad()
def pack_logits(net: DiscriminatorNet, played: Played, cells: list[int], switches: Switches) -> Tensor:
    """f of the listed cells' agents on their own observations [D, L, B, N]; discriminator.py: policy_logits."""
    n_cells, slots, battles = played.index.shape
    n_agents = len(played.obs) // n_cells
    which = torch.tensor(cells, device=played.obs.device)
    obs = played.obs.unflatten(0, (n_cells, n_agents))[which].flatten(0, 1).to(net.head.weight.dtype)
    f = net(fn.pad(obs, (0, 0, 0, 1)))  # [D * N, M + 1], the last f(0)
    real = _real(played, cells, switches)
    place = torch.where(real, played.index[which], obs.shape[1]).flatten(1)
    grid = f.gather(1, place.repeat_interleave(n_agents, 0)).view(-1, n_agents, slots, battles)
    grid = grid.permute(0, 2, 3, 1)
    return torch.where(pack_judged(played, cells, switches), grid[:, :-1], 0.0)


def pack_judged(played: Played, cells: list[int], switches: Switches) -> Tensor:
    """Slots [D, L, B, N] that have an imitation reward; discriminator.py: judged."""
    living = _real(played, cells, switches).unsqueeze(-1) & played.alive[cells]
    return (living | switches.absorbing_padding)[:, :-1]


def _real(played: Played, cells: list[int], switches: Switches) -> Tensor:
    """Slots [D, L + 1, B] with an observation that is not padding."""
    t = torch.arange(played.index.shape[1], device=played.obs.device).view(1, -1, 1)
    return t < played.lengths[cells].unsqueeze(1) + int(switches.terminal_row)


def _draw(
    expert: list[Tensor],
    policy: Tensor,
    per_step: int,
    generators: list[torch.Generator],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Episodes of both sides [D * N, K] and mixing weights [D * N, R], drawn as pairs.py: draw_pairs draws them."""
    picks_e, picks_p, alphas = [], [], []
    for lengths, own, generator in zip(expert, policy, generators, strict=True):
        n_agents, n_expert = lengths.shape
        size = min(per_step, n_expert, len(own))
        pairs = [
            (
                torch.randperm(n_expert, generator=generator)[:size],
                torch.randperm(len(own), generator=generator)[:size],
            )
            for _ in range(n_agents)
        ]
        e, p = (torch.stack(side) for side in zip(*pairs, strict=True))
        longest = int(torch.maximum(lengths.gather(1, e), own[p]).sum(1).max()) + 1
        picks_e.append(e)
        picks_p.append(p)
        alphas.append(torch.rand(n_agents, longest, generator=generator, dtype=dtype))
    width = max(alpha.shape[1] for alpha in alphas)
    return torch.cat(picks_e), torch.cat(picks_p), torch.cat([_wide(alpha, width) for alpha in alphas])


def _wide(x: Tensor, width: int) -> Tensor:
    """Zeros behind the last axis up to `width`."""
    return fn.pad(x, (0, width - x.shape[-1]))
