"""QMIX's loss on whole episodes (PyMARL q_learner.py): double Q-learning of the mixed value.

    y_t = r_t + gamma (1 - terminated_t) Q_tot^-(s_{t+1}, argmax_a Q(o_{t+1}, a))
    loss = mean (Q_tot(s_t, a_t) - y_t)^2

over the steps that were played. Whether a battle that the time limit ended is terminated, is the replay's to say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as fn

from dm2core.nets import net_input
from dm2core.qmix.mixer import Mixer
from dm2core.qmix.net import QNet

NEVER = -9999999.0  # PyMARL's value of an action that is not available


@dataclass(frozen=True)
class EpisodeBatch:
    """E episodes, time-major, T steps long at most; row t = length is the final observation, later rows are zero."""

    obs: Tensor  # [T+1, E, N, O]
    avail_actions: Tensor  # [T+1, E, N, A] bool
    actions: Tensor  # [T, E, N] int64
    state: Tensor  # [T+1, E, S]
    rewards: Tensor  # [T, E]
    terminated: Tensor  # [T, E] bool: nothing counts after this step
    played: Tensor  # [T, E] bool: t < length

    @property
    def lengths(self) -> Tensor:
        """[E] steps of each episode."""
        return self.played.sum(0)

    def to(self, dtype: torch.dtype) -> EpisodeBatch:
        """The same in another precision."""
        return replace(
            self, obs=self.obs.to(dtype), state=self.state.to(dtype), rewards=self.rewards.to(dtype)
        )


def inputs(batch: EpisodeBatch) -> Tensor:
    """Network inputs [T+1, E * N, F]: observation, last action (none at t = 0), agent."""
    steps, episodes, n_agents, _ = batch.obs.shape
    n_actions = batch.avail_actions.shape[-1]
    last = torch.zeros(steps, episodes, n_agents, n_actions, dtype=batch.obs.dtype)
    last[1:] = fn.one_hot(batch.actions, n_actions) * batch.played[..., None, None]
    flat = (steps * episodes, n_agents)
    by_agent = [part.reshape(*flat, -1).transpose(0, 1) for part in (batch.obs, last)]
    return net_input(*by_agent).transpose(0, 1).reshape(steps, episodes * n_agents, -1)


def agent_values(net: QNet, x: Tensor, batch: EpisodeBatch) -> Tensor:
    """The agents' values [T+1, E, N, A] from the batch's `inputs` x; zero behind an episode's end.

    Their compiled twin is fused/qnet.py's.
    """
    steps, episodes, n_agents, _ = batch.obs.shape
    rows = (batch.lengths + 1).repeat_interleave(n_agents)
    return net.unroll(x, rows).view(steps, episodes, n_agents, -1)


def td_loss(
    q: Tensor, q_target: Tensor, mixer: Mixer, target_mixer: Mixer, batch: EpisodeBatch, gamma: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of values q, with q_target [T+1, E, N, A] those of the lagging copy; and what it was made of."""
    played = batch.played
    chosen = q[:-1].gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        best = q.masked_fill(~batch.avail_actions, NEVER)[1:].argmax(-1, keepdim=True)
        later = q_target.masked_fill(~batch.avail_actions, NEVER)[1:].gather(-1, best).squeeze(-1)
        following = target_mixer(later[played], batch.state[1:][played])
        targets = batch.rewards[played] + gamma * (following * ~batch.terminated[played])
    total = mixer(chosen[played], batch.state[:-1][played])
    error = total - targets
    return error.square().mean(), {
        "td_error_abs": error.detach().abs().mean(),
        "q_taken": total.detach().mean(),
        "target": targets.mean(),
    }
