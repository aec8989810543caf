"""Generalised advantage estimation and value targets: pure functions of rewards, values and the episode's shape."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    rewards: Tensor, values: Tensor, rows: Tensor, bootstrap: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets (Schulman et al. 2016, Eq. 16).

        delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lambda A_{t+1},   target_t = A_t + V_t

    rewards [L, B, N], values [L+1, B, N]; battle b has rows t < rows[b] ([B], at most L). After its last row
    V_{rows[b]} counts only where bootstrap[b] ([B] bool); later rows are exactly zero in both results [L, B, N].
    """
    limit = rewards.shape[0]
    advantages = torch.zeros_like(rewards)
    carry = torch.zeros_like(rewards[0])
    for t in range(limit - 1, -1, -1):
        inside = (t < rows).unsqueeze(-1)
        next_value = torch.where(((t + 1 < rows) | bootstrap).unsqueeze(-1), values[t + 1], 0.0)
        delta = rewards[t] + gamma * next_value - values[t]
        carry = torch.where(inside, delta + gamma * gae_lambda * carry, 0.0)
        advantages[t] = carry
    inside = torch.arange(limit, device=rows.device).unsqueeze(-1) < rows
    return advantages, torch.where(inside.unsqueeze(-1), advantages + values[:-1], 0.0)


def explained_variance(advantages: Tensor, targets: Tensor) -> float:
    """1 - Var(target - V) / Var(target): 1 is a perfect critic, 0 a constant one; any shapes, target - V = A."""
    return float(1 - advantages.var() / targets.var().clamp(min=1e-12))


class ValueNorm:
    """Running mean and spread of value targets per agent, debiased (on-policy valuenorm.py, beta 0.99999)."""

    BETA = 0.99999
    EPS = 1e-5

    def __init__(self, n_agents: int, dtype: torch.dtype) -> None:
        self.mean = torch.zeros(n_agents, dtype=dtype)
        self.mean_sq = torch.zeros(n_agents, dtype=dtype)
        self.debias = torch.zeros(n_agents, dtype=dtype)

    def update(self, targets: Tensor) -> None:
        """Take in value targets [N, R]."""
        self.take(targets.mean(-1), targets.square().mean(-1))

    def take(self, mean: Tensor, mean_sq: Tensor) -> None:
        """Take in the targets' means [N] and mean squares [N]."""
        self.mean = self.BETA * self.mean + (1 - self.BETA) * mean
        self.mean_sq = self.BETA * self.mean_sq + (1 - self.BETA) * mean_sq
        self.debias = self.BETA * self.debias + (1 - self.BETA)

    def _moments(self) -> tuple[Tensor, Tensor]:
        debias = self.debias.clamp(min=self.EPS)
        mean = self.mean / debias
        return mean, (self.mean_sq / debias - mean.square()).clamp(min=1e-2).sqrt()

    def normalize(self, targets: Tensor) -> Tensor:
        """[N, ...] -> [N, ...] in units of the running spread."""
        mean, std = (m.view(-1, *[1] * (targets.dim() - 1)) for m in self._moments())
        return (targets - mean) / std

    def denormalize(self, values: Tensor) -> Tensor:
        """Inverse of `normalize`."""
        mean, std = (m.view(-1, *[1] * (values.dim() - 1)) for m in self._moments())
        return values * std + mean
