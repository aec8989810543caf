"""Environment and policy -> Rollout: every battle of the environment played once, from reset to its end.

Whole episodes, as the released runner collects them: battles end at different times, and the ones that have ended
cost nothing more. Battle b's trajectory depends only on its key and on the policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dm2core.nets import Actor, Critic, net_input
from dm2core.policy import choose_actions, masked_log_softmax
from dm2core.types import BattleEnv


@dataclass(frozen=True)
class Rollout:
    """B episodes of at most L steps, time-major. Battle b has executed steps t < lengths[b] = T.

    Row t = T holds the final observation with an action that was sampled but never executed (released runner);
    every row t > T is zero.
    """

    obs: Tensor  # [L+1, B, N, O] float32
    avail_actions: Tensor  # [L+1, B, N, A] bool
    actions: Tensor  # [L+1, B, N] int64
    alive: Tensor  # [L+1, B, N] bool, before acting
    rewards: Tensor  # [L, B] float32, SMAC's team reward
    log_probs: Tensor  # [L+1, B, N] of the actions, as played
    values: Tensor  # [L+1, B, N] as played; zero without a critic
    h_actor: Tensor  # [L+1, B, N, H] hidden state before step t
    h_critic: Tensor  # [L+1, B, N, H]; H = 0 without a critic
    lengths: Tensor  # [B] int64
    won: Tensor  # [B] bool
    truncated: Tensor  # [B] bool, ended by the time limit

    @property
    def env_steps(self) -> int:
        return int(self.lengths.sum())

    @property
    def episode_return(self) -> Tensor:
        """[B] undiscounted sum of the task reward."""
        return self.rewards.sum(0)


@torch.no_grad()
def collect(
    env: BattleEnv,
    actor: Actor,
    critic: Critic | None,
    keys: NDArray[np.uint64],
    *,
    greedy: bool = False,
    poll: Callable[[], None] = lambda: None,
) -> Rollout:
    """Play all battles of `env` to their ends, battle b from `keys[b]` ([B] uint64)."""
    spec, battles = env.spec, env.num_battles
    limit, n_agents = spec.episode_limit, spec.n_agents
    dtype = actor.head.weight.dtype
    shape = (limit + 1, battles, n_agents)
    critic_size = actor.hidden_size if critic is not None else 0
    out = Rollout(
        obs=torch.zeros(*shape, spec.obs_size),
        avail_actions=torch.zeros(*shape, spec.n_actions, dtype=torch.bool),
        actions=torch.zeros(shape, dtype=torch.int64),
        alive=torch.zeros(shape, dtype=torch.bool),
        rewards=torch.zeros(limit, battles),
        log_probs=torch.zeros(shape, dtype=dtype),
        values=torch.zeros(shape, dtype=dtype),
        h_actor=torch.zeros(*shape, actor.hidden_size, dtype=dtype),
        h_critic=torch.zeros(*shape, critic_size, dtype=dtype),
        lengths=torch.zeros(battles, dtype=torch.int64),
        won=torch.zeros(battles, dtype=torch.bool),
        truncated=torch.zeros(battles, dtype=torch.bool),
    )
    env.reset(keys)
    live = np.arange(battles)  # battles that still act
    running = np.ones(battles, dtype=np.bool_)  # of those in `live`: not yet ended
    last_action = torch.zeros(n_agents, battles, spec.n_actions, dtype=dtype)
    h_actor = torch.zeros(n_agents, battles, actor.hidden_size, dtype=dtype)
    h_critic = torch.zeros(n_agents, battles, critic_size, dtype=dtype)
    for t in range(limit + 1):
        poll()
        rows = torch.from_numpy(live)
        obs = torch.from_numpy(env.obs[live])
        avail = torch.from_numpy(env.avail_actions[live])
        x = net_input(obs.transpose(0, 1).to(dtype), last_action)
        logits, h_actor_next = actor(x, h_actor)
        log_pi = masked_log_softmax(logits, avail.transpose(0, 1))
        actions = choose_actions(log_pi, keys[live], t, greedy=greedy)
        out.obs[t, rows] = obs
        out.avail_actions[t, rows] = avail
        out.alive[t, rows] = torch.from_numpy(env.alive[live])
        out.actions[t, rows] = actions.T
        out.log_probs[t, rows] = log_pi.gather(-1, actions.unsqueeze(-1)).squeeze(-1).T
        out.h_actor[t, rows] = h_actor.transpose(0, 1)
        h_actor = h_actor_next
        if critic is not None:
            values, h_critic_next = critic(x, h_critic)
            out.values[t, rows] = values.T
            out.h_critic[t, rows] = h_critic.transpose(0, 1)
            h_critic = h_critic_next
        if not running.all():  # those that ended have now had their final row
            keep = np.flatnonzero(running)
            index = torch.from_numpy(keep)
            live, actions = live[keep], actions[:, index]
            h_actor, h_critic = h_actor[:, index], h_critic[:, index]
            if live.size == 0:
                break
        step = env.step(np.ascontiguousarray(actions.T.numpy()), live)
        rows = torch.from_numpy(live)
        out.rewards[t, rows] = torch.from_numpy(step.reward).float()
        running = ~(step.terminated | step.truncated)
        ended = torch.from_numpy(live[~running])
        out.lengths[ended] = t + 1
        out.won[ended] = torch.from_numpy(step.won[~running])
        out.truncated[ended] = torch.from_numpy(step.truncated[~running])
        last_action = fn.one_hot(actions, spec.n_actions).to(dtype)
    return out
