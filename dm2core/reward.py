"""Imitation reward from discriminator logits, and its mix with the task reward.

Algorithm 1, lines 10-11. The printed reward, -log D with D the probability of the expert, is highest where a state
is least like the expert's; the released code pays the logit (gail_learner.py line 155).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as fn


def imitation_reward(logits: Tensor, form: Literal["logit", "neglog_agent"], judged: Tensor) -> Tensor:
    """Reward of logits f (high = expert), any shape: f itself, or -log P(agent) = softplus(f); 0 where not `judged`.

    log s(f) - log(1 - s(f)) = f, so the logit needs no sigmoid and stays finite where the released code overflows.
    """
    return torch.where(judged, logits if form == "logit" else fn.softplus(logits), 0.0)


def mix(
    task_reward: Tensor, imitation: Tensor, coef: float, form: Literal["task", "mixed", "imitation"] = "mixed"
) -> Tensor:
    """What an agent is paid [L, B, N]: r, r + c r_i, or r_i alone (without c: released code, rew_type gail).

    The team's task reward r [L, B] is shared, the imitation reward r_i [L, B, N] is each agent's own.
    """
    if form == "imitation":
        return imitation
    task = task_reward.unsqueeze(-1).to(imitation.dtype)
    return task + coef * imitation if form == "mixed" else task.expand_as(imitation)
