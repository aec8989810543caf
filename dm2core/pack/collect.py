"""Battles of all cells side by side: one forward pass per env step on the device, the simulator on the CPU's cores."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dm2core.nets import Actor, Critic
from dm2core.policy import masked_log_softmax
from dm2core.types import BattleEnv, Step


@dataclass
class Played:
    """C cells' battles. Rows are on the device, M of them per slice, one after the other as they were played."""

    obs: Tensor  # [S, M, O] float32
    avail_actions: Tensor  # [S, M, A] bool
    actions: Tensor  # [S, M] int64
    previous: Tensor  # [S, M] int64 action of the row before, -1 for none
    h_actor: Tensor  # [S, M, H] before the row
    h_critic: Tensor  # [S, M, H]
    first: int  # rows 0..first-1 are those of t = 0
    index: Tensor  # [C, L+1, B] int64 row of the slot; -1 where the battle is over
    rewards: Tensor  # [C, L, B] float32
    alive: Tensor  # [C, L+1, B, N] bool
    lengths: Tensor  # [C, B] int64
    won: Tensor  # [C, B] bool
    truncated: Tensor  # [C, B] bool


def pack_input(obs: Tensor, previous: Tensor, n_agents: int, n_actions: int, dtype: torch.dtype) -> Tensor:
    """nets.py: net_input for slices: obs [S, R, O], previous action [S, R] (-1: none) -> [S, R, F]."""
    slices, rows, _ = obs.shape
    last = fn.one_hot(previous + 1, n_actions + 1)[..., 1:].to(dtype)
    agent_id = torch.eye(n_agents, dtype=dtype, device=obs.device).repeat(slices // n_agents, 1)
    return torch.cat([obs.to(dtype), last, agent_id.unsqueeze(1).expand(-1, rows, -1)], dim=-1)


def uniforms(keys: Tensor, t: int, n_agents: int) -> Tensor:
    """fused/draw.py: uniform, for keys [...] (int64, the bits of uint64) and every agent: [..., N] float64."""
    agent = torch.arange(n_agents, device=keys.device)
    z = (keys ^ _signed(0xD1B54A32D192ED03)).unsqueeze(-1)
    z = z + _signed(0x9E3779B97F4A7C15) * (t * n_agents + agent + 1)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(z ^ _shifted(z, 31), 11).double() / 9007199254740992.0


def pick(log_pi: Tensor, u: Tensor) -> Tensor:
    """fused/draw.py: pick, for log pi [..., A] and u [...]: the first action whose cumulated probability passes u."""
    cumulative = log_pi.exp().double().cumsum(-1)
    total = cumulative[..., -1:]
    passed = (cumulative > u.unsqueeze(-1) * total) | (cumulative >= total)
    return passed.to(torch.uint8).argmax(-1)


@torch.no_grad()
def collect_pack(
    env: BattleEnv,
    actor: Actor,
    critic: Critic,
    keys: NDArray[np.uint64],
    *,
    threads: ThreadPoolExecutor | None = None,
    poll: Callable[[], None] = lambda: None,
) -> Played:
    """Play battles `keys` [C, B] to their ends; `env` holds C * B battles, cell c's from c * B on."""
    cells, battles = keys.shape
    spec, size, weight = env.spec, actor.hidden_size, actor.head.weight
    limit, n_agents, device, dtype = spec.episode_limit, spec.n_agents, weight.device, weight.dtype
    total = cells * battles
    flat_keys = keys.reshape(-1)
    env.reset(flat_keys)
    device_keys = torch.from_numpy(np.append(flat_keys, np.uint64(0)).view(np.int64)).to(device)
    # Row `total` of what the device remembers of battles is where padding goes.
    h_actor = torch.zeros(total + 1, n_agents, size, dtype=dtype, device=device)
    h_critic = torch.zeros_like(h_actor)
    previous = torch.full((total + 1, n_agents), -1, device=device)
    index = np.full((limit + 1, total), -1, dtype=np.int64)
    rewards = np.zeros((limit, total), dtype=np.float32)
    alive = np.zeros((limit + 1, total, n_agents), dtype=np.bool_)
    lengths = np.zeros(total, dtype=np.int64)
    won, truncated = np.zeros(total, dtype=np.bool_), np.zeros(total, dtype=np.bool_)
    kept: list[tuple[Tensor, ...]] = []

    def slices(x: Tensor) -> Tensor:
        """[C * m, N, ...] -> [S, m, ...]."""
        return x.unflatten(0, (cells, -1)).transpose(1, 2).flatten(0, 1)

    def by_battle(x: Tensor) -> Tensor:
        """[S, m, ...] -> [C * m, N, ...]."""
        return x.unflatten(0, (cells, n_agents)).transpose(1, 2).flatten(0, 1)

    live, running, offset = np.arange(total), np.ones(total, dtype=np.bool_), 0
    for t in range(limit + 1):
        poll()
        cell = live // battles
        counts = np.bincount(cell, minlength=cells)
        width = int(counts.max())
        place = np.arange(live.size) - (np.cumsum(counts) - counts)[cell]
        slot = cell * width + place
        padded = np.full(cells * width, total, dtype=np.int64)
        padded[slot] = live
        source = np.where(padded < total, padded, 0)
        index[t, live], alive[t, live] = offset + place, env.alive[live]
        at = _upload(padded, device)
        obs = slices(_upload(env.obs[source], device))
        avail = slices(_upload(env.avail_actions[source], device))
        before, ha, hc = slices(previous[at]), slices(h_actor[at]), slices(h_critic[at])
        x = pack_input(obs, before, n_agents, spec.n_actions, dtype)
        logits, ha_next = actor(x, ha)
        _, hc_next = critic(x, hc)
        u = slices(uniforms(device_keys[at], t, n_agents))
        actions = pick(masked_log_softmax(logits, avail), u)
        chosen = by_battle(actions)
        previous[at], h_actor[at], h_critic[at] = chosen, by_battle(ha_next), by_battle(hc_next)
        kept.append((obs, avail, actions, before, ha, hc))
        offset += width
        live, slot = live[running], slot[running]  # those that ended have now had their final row
        if live.size == 0:
            break
        step = _step(env, chosen.cpu().numpy()[slot], live, threads)
        rewards[t, live] = step.reward
        running = ~(step.terminated | step.truncated)
        ended = live[~running]
        lengths[ended], won[ended], truncated[ended] = t + 1, step.won[~running], step.truncated[~running]
    obs, avail, taken, before, ha, hc = (torch.cat(parts, dim=1) for parts in zip(*kept, strict=True))

    def grid(array: NDArray[np.generic]) -> Tensor:
        """[T, C * B, ...] -> [C, T, B, ...] on the device."""
        return torch.from_numpy(array).unflatten(1, (cells, battles)).transpose(0, 1).to(device).contiguous()

    def ends(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).view(cells, battles).to(device)

    return Played(
        obs, avail, taken, before, ha, hc, kept[0][0].shape[1], grid(index), grid(rewards), grid(alive),
        ends(lengths), ends(won), ends(truncated),
    )  # fmt: skip


def _step(
    env: BattleEnv, actions: NDArray[np.int64], live: NDArray[np.int64], threads: ThreadPoolExecutor | None
) -> Step:
    """One env step of the live battles, shared out among threads: the kernels let go of Python's lock."""
    if threads is None:
        return env.step(actions, live)
    count = threads._max_workers
    parts = list(threads.map(env.step, np.array_split(actions, count), np.array_split(live, count)))
    names = ("reward", "terminated", "truncated", "won", "dead_allies", "dead_enemies")
    return Step(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _upload(array: NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _signed(value: int) -> int:
    """The int64 with the bits of a uint64."""
    return value - (1 << 64) if value >> 63 else value


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
