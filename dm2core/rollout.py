"""Environment and policy -> Rollout: every battle of the environment played once, from reset to its end.

Whole episodes, as the released runner collects them: battles end at different times, and the ones that have ended
cost nothing more. In the simulator battle b's trajectory depends only on its key and on the policy. The real game plays
as many at once as there are games, and a battle whose game failed is played again: every episode is a whole one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dm2core.env.smac.vector import SmacEnv
from dm2core.fused.act import FusedPlayers
from dm2core.memory import lazy_zeros
from dm2core.nets import Actor, Critic, Policy, net_input
from dm2core.policy import choose_actions, masked_log_softmax
from dm2core.types import BattleEnv, Grids


@dataclass
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


class TorchPlayers:
    """N actors, and critics if given, playing B battles; any precision. Its compiled twin is fused/act.py."""

    def __init__(self, actor: Policy, critic: Critic | None, env: BattleEnv, epsilon: float = 0.0) -> None:
        self.actor, self.critic, self.epsilon = actor, critic, epsilon
        dtype, shape = actor.head.weight.dtype, (env.spec.n_agents, env.num_battles, actor.hidden_size)
        self._h_actor, self._h_critic = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        self._last_action = torch.zeros(*shape[:2], env.spec.n_actions, dtype=dtype)

    @torch.no_grad()
    def act(
        self,
        t: int,
        env: BattleEnv,
        live: NDArray[np.int64],
        keys: NDArray[np.uint64],
        out: Grids,
        *,
        greedy: bool,
    ) -> None:
        """Fill row t of the grids for the listed battles: hidden states, actions, log-probabilities, values."""
        rows = torch.from_numpy(live)
        last_action, h_actor = self._last_action[:, rows], self._h_actor[:, rows]
        x = net_input(torch.from_numpy(env.obs[live]).transpose(0, 1).to(h_actor.dtype), last_action)
        logits, self._h_actor[:, rows] = self.actor(x, h_actor)
        log_pi = masked_log_softmax(logits, torch.from_numpy(env.avail_actions[live]).transpose(0, 1))
        actions = choose_actions(log_pi, keys[live], t, greedy=greedy, epsilon=self.epsilon)
        out.actions[t, live] = actions.T
        out.log_probs[t, live] = log_pi.gather(-1, actions.unsqueeze(-1)).squeeze(-1).T
        out.h_actor[t, live] = h_actor.transpose(0, 1)
        if self.critic is not None:
            h_critic = self._h_critic[:, rows]
            values, self._h_critic[:, rows] = self.critic(x, h_critic)
            out.values[t, live] = values.T
            out.h_critic[t, live] = h_critic.transpose(0, 1)
        self._last_action[:, rows] = fn.one_hot(actions, last_action.shape[-1]).to(last_action.dtype)


def _compiles(policy: Policy) -> bool:
    """Whether the kernels can hold a policy: float32 actors whose hidden size 16 divides."""
    return (
        isinstance(policy, Actor)
        and policy.head.weight.dtype == torch.float32
        and policy.hidden_size % 16 == 0
    )


def compute_for(policy: Policy) -> str:
    """The form that can play a given policy: compiled wherever it can be."""
    return "fused" if _compiles(policy) and os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0") else "torch"


def players_for(
    policy: Policy, critic: Critic | None, env: BattleEnv, compute: str, epsilon: float = 0.0
) -> TorchPlayers | FusedPlayers:
    """Who plays, in one of the two forms; only actors have a compiled one, and only without added noise.

    ValueError for a policy that the kernels cannot hold: they would write beyond their memory.
    """
    if compute == "torch" or epsilon:
        return TorchPlayers(policy, critic, env, epsilon)
    if not isinstance(policy, Actor) or not _compiles(policy):
        kind = f"{type(policy).__name__}, {policy.head.weight.dtype}, hidden size {policy.hidden_size}"
        raise ValueError(f"compute: fused plays float32 actors whose hidden size 16 divides, not {kind}")
    return FusedPlayers(policy, critic, env)


def collect(
    env: BattleEnv,
    actor: Policy,
    critic: Critic | None,
    keys: NDArray[np.uint64],
    *,
    greedy: bool = False,
    epsilon: float = 0.0,
    compute: str = "torch",
    poll: Callable[[], None] = lambda: None,
) -> Rollout:
    """Play all battles of `env` to their ends, battle b from `keys[b]` ([B] uint64).

    epsilon: share of actions drawn uniformly from the available ones.
    """
    spec, battles = env.spec, env.num_battles
    limit, n_agents = spec.episode_limit, spec.n_agents
    dtype = actor.head.weight.dtype
    shape = (limit + 1, battles, n_agents)
    critic_size = actor.hidden_size if critic is not None else 0

    def by_battle(size: int, dtype: torch.dtype) -> Tensor:
        """Zeros [L+1, B, N, size], battle by battle in memory: what lies behind a battle's end is never touched."""
        return lazy_zeros(battles, limit + 1, n_agents, size, dtype=dtype).transpose(0, 1)

    out = Rollout(
        obs=by_battle(spec.obs_size, torch.float32),
        avail_actions=torch.zeros(*shape, spec.n_actions, dtype=torch.bool),
        actions=torch.zeros(shape, dtype=torch.int64),
        alive=torch.zeros(shape, dtype=torch.bool),
        rewards=torch.zeros(limit, battles),
        log_probs=torch.zeros(shape, dtype=dtype),
        values=torch.zeros(shape, dtype=dtype),
        h_actor=by_battle(actor.hidden_size, dtype),
        h_critic=by_battle(critic_size, dtype),
        lengths=torch.zeros(battles, dtype=torch.int64),
        won=torch.zeros(battles, dtype=torch.bool),
        truncated=torch.zeros(battles, dtype=torch.bool),
    )
    grid = {name: tensor.numpy() for name, tensor in vars(out).items()}
    if isinstance(env, SmacEnv):
        env.wait_with(poll)
    waiting = np.arange(battles)
    while waiting.size:
        wave = waiting[: env.side_by_side]
        players = players_for(actor, critic, env, compute, epsilon)
        lost = _play(env, players, keys, wave, grid, greedy=greedy, poll=poll)
        waiting = np.concatenate([waiting[wave.size :], lost])
    return out


def _play(
    env: BattleEnv,
    players: TorchPlayers | FusedPlayers,
    keys: NDArray[np.uint64],
    battles: NDArray[np.int64],
    grid: dict[str, NDArray[Any]],
    *,
    greedy: bool,
    poll: Callable[[], None],
) -> NDArray[np.int64]:
    """Play the listed battles side by side to their ends; those that must be played again, their rows zero."""
    grids = Grids(*(grid[name] for name in Grids._fields))
    if battles.size == env.num_battles:
        env.reset(keys)
    else:
        env.reset_battles(keys[battles], battles)
    live = battles  # battles that still act
    running = np.ones(live.size, dtype=np.bool_)  # of those in `live`: not yet ended
    discarded: list[NDArray[np.int64]] = []
    for t in range(env.spec.episode_limit + 1):
        poll()
        grid["obs"][t, live] = env.obs[live]
        grid["avail_actions"][t, live] = env.avail_actions[live]
        grid["alive"][t, live] = env.alive[live]
        players.act(t, env, live, keys, grids, greedy=greedy)
        live = live[running]  # those that ended have now had their final row
        if live.size == 0:
            break
        step = env.step(grids.actions[t, live], live)
        grid["rewards"][t, live] = step.reward
        running = ~(step.terminated | step.truncated)
        ended = live[~running]
        grid["lengths"][ended] = t + 1
        grid["won"][ended] = step.won[~running]
        grid["truncated"][ended] = step.truncated[~running]
        if step.discarded is not None and step.discarded.any():
            discarded.append(live[step.discarded])
            live, running = live[~step.discarded], running[~step.discarded]
            if live.size == 0:
                break
    if not discarded:
        return battles[:0]
    again = np.concatenate(discarded)
    for array in grid.values():
        if array.ndim > 1:  # [T, B, ...]; what goes by battle alone was not written
            array[:, again] = 0
    return again
