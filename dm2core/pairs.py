"""What the discriminators compare: rows of whole episodes of both sides, paired slot by slot.

Agent by agent, 64 expert and 64 policy episodes are drawn and their time slots paired in order (gail_learner.py lines
60-110). Slots where both sides are padding are one zero row with a weight (D05).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dm2core.compiler import njit
from dm2core.config import Discriminator, Switches
from dm2core.rollout import Rollout


@dataclass(frozen=True)
class Episodes:
    """Observation rows of K episodes per agent, end to end; the last row is zero and stands for padding."""

    obs: Tensor  # [R+1, O]
    start: NDArray[np.int64]  # [N, K] first row of episode k of agent i
    length: NDArray[np.int64]  # [N, K] rows

    @cached_property
    def empty(self) -> NDArray[np.bool_]:
        """[R+1] rows that are all zero: padding, and agents that are dead (SMAC's observation of nothing)."""
        return np.asarray(~self.obs.numpy().any(axis=1))  # six times as fast as torch's all

    def slots(self, agent: int, episode: NDArray[np.int64], t: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of slots (episode, t); the zero row past an episode's end."""
        rows = self.start[agent, episode] + t
        return np.where(t < self.length[agent, episode], rows, len(self.obs) - 1)


@dataclass(frozen=True)
class Pairs:
    """What one step sees: paired rows per agent, and each row's weight in the three means (weights sum to 1)."""

    expert: Episodes
    policy: Episodes
    expert_rows: NDArray[np.int64]  # [N, R] into expert.obs
    policy_rows: NDArray[np.int64]  # [N, R] into policy.obs
    alpha: Tensor  # [N, R]
    w_expert: Tensor  # [N, R]
    w_policy: Tensor  # [N, R]
    w_penalty: Tensor  # [N, R]


def policy_episodes(
    rollout: Rollout, dtype: torch.dtype, *, terminal_row: bool, actions: bool = False
) -> Episodes:
    """The rollout's episodes as the discriminator reads them: rows t < T, and t = T with the terminal row (D30).

    With `actions` the action's number is one more column (gail_learner.py line 150).
    """
    slots, _, n_agents, obs_size = rollout.obs.shape
    length = rollout.lengths.numpy() + int(terminal_row)
    seen = torch.from_numpy(np.arange(slots) < length[:, None])  # [B, L+1]
    rows = int(seen.sum())
    obs = torch.zeros(n_agents * rows + 1, obs_size + int(actions), dtype=dtype)
    flat, at = rollout.obs.transpose(0, 1).reshape(-1, obs_size), seen.flatten().nonzero().squeeze(1)
    for i, own in enumerate(obs[:-1].view(n_agents, rows, obs.shape[1])):
        own[:, :obs_size] = flat.index_select(0, at * n_agents + i)
        if actions:
            own[:, obs_size] = rollout.actions[:, :, i].T[seen]
    first = np.cumsum(length) - length
    start = first + rows * np.arange(n_agents)[:, None]
    return Episodes(obs, start, np.tile(length, (n_agents, 1)))


def draw_pairs(
    expert: Episodes,
    policy: Episodes,
    slots: int,
    cfg: Discriminator,
    switches: Switches,
    generator: torch.Generator,
) -> Pairs:
    """Draw episodes of both sides without replacement, agent by agent, and pair their rows.

    A side that has fewer than `cfg.episodes_per_step` sets the number for both.
    """
    n_agents, n_expert = expert.start.shape
    n_policy = policy.start.shape[1]
    size = min(cfg.episodes_per_step, n_expert, n_policy)
    e, p = np.empty((n_agents, size), np.int64), np.empty((n_agents, size), np.int64)
    for i in range(n_agents):
        e[i] = torch.randperm(n_expert, generator=generator)[:size].numpy()
        p[i] = torch.randperm(n_policy, generator=generator)[:size].numpy()
    width = int(_longer(expert, policy, e, p).sum(1).max()) + 1
    alpha = torch.rand(n_agents, width, generator=generator, dtype=expert.obs.dtype)
    return make_pairs(expert, policy, e, p, alpha, size * slots, switches)


def _longer(
    expert: Episodes, policy: Episodes, e: NDArray[np.int64], p: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[N, K] slots of the pairs of episodes (e[i, k], p[i, k]): as many as the longer side has rows."""
    sides = (np.take_along_axis(side.length, k, 1) for side, k in ((expert, e), (policy, p)))
    return np.maximum(*sides)


def pair_slots(
    expert: Episodes, policy: Episodes, e: NDArray[np.int64], p: NDArray[np.int64], agent: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(pair k, slot t) of agent's pairs, in order: each to the end of its longer side."""
    longer = _longer(expert, policy, e, p)[agent]
    pair = np.repeat(np.arange(len(longer)), longer)
    return pair, np.arange(len(pair)) - np.repeat(np.cumsum(longer) - longer, longer)


@njit(cache=True)
def _pair(e, p, e_start, p_start, e_length, p_length, e_zero, p_zero, total_slots, e_rows, p_rows, weight):  # type: ignore[no-untyped-def]
    """Rows of the slots of every agent's pairs, and their shares of all slots; e_zero, p_zero: rows of padding."""
    for i in range(e.shape[0]):
        n = 0
        for k in range(e.shape[1]):
            e_first, e_count = e_start[i, e[i, k]], e_length[i, e[i, k]]
            p_first, p_count = p_start[i, p[i, k]], p_length[i, p[i, k]]
            if n + max(e_count, p_count) >= e_rows.shape[1]:
                raise ValueError("more slots than random numbers for them")
            for t in range(max(e_count, p_count)):
                e_rows[i, n] = e_first + t if t < e_count else e_zero
                p_rows[i, n] = p_first + t if t < p_count else p_zero
                weight[i, n] = 1 / total_slots
                n += 1
        weight[i, n] = (total_slots - n) / total_slots
        e_rows[i, n:], p_rows[i, n:], weight[i, n + 1 :] = e_zero, p_zero, 0


def make_pairs(
    expert: Episodes,
    policy: Episodes,
    e: NDArray[np.int64],
    p: NDArray[np.int64],
    alpha: Tensor,
    total_slots: int,
    switches: Switches,
) -> Pairs:
    """Rows and weights of the pairs of episodes (e[i, k], p[i, k]) [N, K]; behind them zero rows, the first weighted.

    alpha [N, R], R at least one more than the slots of any agent's pairs; total_slots: slots per agent, all padding
    counted.
    """
    e_rows, p_rows = np.empty(alpha.shape, np.int64), np.empty(alpha.shape, np.int64)
    w = torch.empty_like(alpha)
    e_zero, p_zero = len(expert.obs) - 1, len(policy.obs) - 1
    _pair(
        e, p, expert.start, policy.start, expert.length, policy.length, e_zero, p_zero, total_slots, e_rows, p_rows,
        w.numpy(),
    )  # fmt: skip
    if switches.absorbing_padding:
        return Pairs(expert, policy, e_rows, p_rows, alpha, w, w, w)
    # Only rows of living agents count.
    w_expert, w_policy = (
        torch.from_numpy(~side.empty[rows]).to(alpha.dtype)
        for side, rows in ((expert, e_rows), (policy, p_rows))
    )
    masks = (w_expert, w_policy, w_expert * w_policy)
    normed = [m / m.sum(-1, keepdim=True).clamp(min=1) for m in masks]
    return Pairs(expert, policy, e_rows, p_rows, alpha, *normed)
