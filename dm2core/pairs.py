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
    slots, battles, n_agents, obs_size = rollout.obs.shape
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
    return Episodes(obs, start, np.broadcast_to(length, (n_agents, battles)))


def draw_pairs(
    expert: Episodes,
    policy: Episodes,
    slots: int,
    cfg: Discriminator,
    switches: Switches,
    generator: torch.Generator,
) -> Pairs:
    """Draw episodes of both sides without replacement, agent by agent, and pair their rows."""
    n_agents, n_expert = expert.start.shape
    n_policy = policy.start.shape[1]
    size = min(cfg.episodes_per_step, n_expert, n_policy)
    picks = [
        (
            torch.randperm(n_expert, generator=generator)[:size],
            torch.randperm(n_policy, generator=generator)[:size],
        )
        for _ in range(n_agents)
    ]
    index = [paired_rows(expert, policy, i, e.numpy(), p.numpy()) for i, (e, p) in enumerate(picks)]
    longest = max(len(e) for e, _ in index) + 1
    alpha = torch.rand(n_agents, longest, generator=generator, dtype=expert.obs.dtype)
    return make_pairs(expert, policy, index, alpha, size * slots, switches)


def pair_slots(
    expert: Episodes, policy: Episodes, agent: int, e: NDArray[np.int64], p: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(pair k, slot t) of episode pairs (e[k], p[k]), each to the end of its longer side."""
    longer = np.maximum(expert.length[agent, e], policy.length[agent, p])
    pair = np.repeat(np.arange(len(e)), longer)
    return pair, np.arange(len(pair)) - np.repeat(np.cumsum(longer) - longer, longer)


def paired_rows(
    expert: Episodes, policy: Episodes, agent: int, e: NDArray[np.int64], p: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of both sides on the slots of `pair_slots`; compiled, which halves the time of `draw_pairs`."""
    e_length, p_length = expert.length[agent, e], policy.length[agent, p]
    count = int(np.maximum(e_length, p_length).sum())
    e_rows, p_rows = np.empty(count, np.int64), np.empty(count, np.int64)
    e_zero, p_zero = len(expert.obs) - 1, len(policy.obs) - 1
    _pair(expert.start[agent, e], policy.start[agent, p], e_length, p_length, e_zero, p_zero, e_rows, p_rows)
    return e_rows, p_rows


@njit(cache=True)
def _pair(e_start, p_start, e_length, p_length, e_zero, p_zero, e_rows, p_rows):  # type: ignore[no-untyped-def]
    """Write down what `paired_rows` returns; e_zero, p_zero: the rows that stand for padding."""
    n = 0
    for k in range(e_start.size):
        for t in range(max(e_length[k], p_length[k])):
            e_rows[n] = e_start[k] + t if t < e_length[k] else e_zero
            p_rows[n] = p_start[k] + t if t < p_length[k] else p_zero
            n += 1


def make_pairs(
    expert: Episodes,
    policy: Episodes,
    index: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    alpha: Tensor,
    total_slots: int,
    switches: Switches,
) -> Pairs:
    """List rows and weights; rows past an agent's own pairs are zero rows, the first of them weighted.

    alpha [N, R], R one more than the longest agent's pairs; total_slots: slots per agent with all padding counted.
    """
    n_agents, width = alpha.shape
    e_rows = np.full((n_agents, width), len(expert.obs) - 1)
    p_rows = np.full((n_agents, width), len(policy.obs) - 1)
    weight = np.zeros((n_agents, width))
    for i, (e, p) in enumerate(index):
        e_rows[i, : len(e)], p_rows[i, : len(p)] = e, p
        weight[i, : len(e)] = 1.0
        weight[i, len(e)] = total_slots - len(e)
    if switches.absorbing_padding:
        w = torch.from_numpy(weight / total_slots).to(alpha.dtype)
        return Pairs(expert, policy, e_rows, p_rows, alpha, w, w, w)
    # Only rows of living agents count.
    w_expert, w_policy = (
        torch.from_numpy(~side.empty[rows]).to(alpha.dtype)
        for side, rows in ((expert, e_rows), (policy, p_rows))
    )
    masks = (w_expert, w_policy, w_expert * w_policy)
    normed = [m / m.sum(-1, keepdim=True).clamp(min=1) for m in masks]
    return Pairs(expert, policy, e_rows, p_rows, alpha, *normed)
