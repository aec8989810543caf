"""Battles that go on from iteration to iteration, and what a stretch of them leaves in the buffer.

As in on-policy's smac_runner.py: B battles side by side, a fixed number of steps per iteration; a battle that ends
starts anew at once. Rows R = N * B hold agent i of battle b at i * B + b, for one network plays all agents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dm2core.env.smac.vector import SmacEnv
from dm2core.env.vector import BattleSim
from dm2core.nets import Actor, Critic, net_input
from dm2core.policy import choose_actions, masked_log_softmax
from dm2core.rmappo.state import AgentState
from dm2core.rng import battle_keys

_RUNNING = ("h_actor", "h_critic", "last_action", "returns", "lengths", "started")


@dataclass(frozen=True)
class Buffer:
    """T steps of R rows, time-major; F inputs of the actor, S of the critic, A actions, H hidden."""

    x: Tensor  # [T, R, F]
    state: Tensor  # [T, R, S]
    avail_actions: Tensor  # [T, R, A] bool
    actions: Tensor  # [T, R] int64
    log_probs: Tensor  # [T, R] as played
    values: Tensor  # [T+1, R] outputs of the critic as played; the last row only bootstraps
    rewards: Tensor  # [T, R] the team's reward
    keep: Tensor  # [T+1, R] bool: the battle did not start at this step, the hidden state goes on
    alive: Tensor  # [T, R] bool, before acting
    played: Tensor  # [T, R] bool: not of a battle that the real game lost
    h_actor: Tensor  # [T, R, H] before the step; zero where a battle starts
    h_critic: Tensor  # [T, R, H]


@dataclass
class Ended:
    """What the battles that ended had come to."""

    returns: list[float]
    lengths: list[int]
    wins: list[bool]


class Battles:
    """The running battles of a learner; `tensors` is all that their future depends on."""

    def __init__(self, env: BattleSim | SmacEnv, seed: int, hidden_size: int, dtype: torch.dtype) -> None:
        self.env, self.seed = env, seed
        self.agent_state = AgentState(env)
        n_agents, battles = env.spec.n_agents, env.num_battles
        self.h_actor = torch.zeros(1, n_agents * battles, hidden_size, dtype=dtype)
        self.h_critic = torch.zeros_like(self.h_actor)
        self.last_action = torch.full((battles, n_agents), -1)
        self.returns = torch.zeros(battles, dtype=torch.float64)  # so far, of the battle under way
        self.lengths = torch.zeros(battles, dtype=torch.int64)
        self.started = torch.tensor(battles)
        env.reset(battle_keys(seed, "rollout", 0, battles))

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the simulator's state, and of what the players remember. The real game cannot be copied."""
        if isinstance(self.env, SmacEnv):
            return {"started": self.started.clone()}
        saved = {f"env/{key}": torch.from_numpy(_signed(value)) for key, value in self.env.save().items()}
        return saved | {key: getattr(self, key).clone() for key in _RUNNING}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; KeyError if one is missing. In the real game new battles have begun instead."""
        if isinstance(self.env, SmacEnv):
            self.started = tensors["started"].clone()
            return
        now = self.env.save()
        self.env.restore({key: tensors[f"env/{key}"].numpy().view(now[key].dtype) for key in now})
        for key in _RUNNING:
            setattr(self, key, tensors[key].clone())

    @torch.no_grad()
    def collect(
        self, actor: Actor, critic: Critic, steps: int, iteration: int, poll: Callable[[], None]
    ) -> tuple[Buffer, Ended]:
        """Play `steps` steps; actions are drawn from (seed, iteration, step, battle, agent)."""
        env, spec, battles = self.env, self.env.spec, self.env.num_battles
        rows, dtype, size = spec.n_agents * battles, self.h_actor.dtype, self.h_actor.shape[-1]
        size_in = spec.obs_size + spec.n_actions + spec.n_agents
        out = Buffer(
            x=torch.empty(steps, rows, size_in, dtype=dtype),
            state=torch.empty(steps, rows, self.agent_state.size, dtype=dtype),
            avail_actions=torch.empty(steps, rows, spec.n_actions, dtype=torch.bool),
            actions=torch.empty(steps, rows, dtype=torch.int64),
            log_probs=torch.empty(steps, rows, dtype=dtype),
            values=torch.empty(steps + 1, rows, dtype=dtype),
            rewards=torch.empty(steps, rows, dtype=dtype),
            keep=torch.empty(steps + 1, rows, dtype=torch.bool),
            alive=torch.empty(steps, rows, dtype=torch.bool),
            played=torch.ones(steps, rows, dtype=torch.bool),
            h_actor=torch.empty(steps, rows, size, dtype=dtype),
            h_critic=torch.empty(steps, rows, size, dtype=dtype),
        )
        ended = Ended([], [], [])
        keys = battle_keys(self.seed, "play", iteration * battles, battles)
        everyone = np.arange(battles)
        if isinstance(env, SmacEnv):
            env.wait_with(poll)
        for t in range(steps):
            poll()
            out.x[t] = self._input(dtype).flatten(0, 1)
            out.state[t] = self._state(dtype)
            out.avail_actions[t] = _rows(torch.from_numpy(env.avail_actions))
            out.alive[t] = _rows(torch.from_numpy(env.alive))
            out.keep[t] = (self.lengths > 0).repeat(spec.n_agents)
            out.h_actor[t], out.h_critic[t] = self.h_actor[0], self.h_critic[0]
            logits, self.h_actor = actor(out.x[t : t + 1], self.h_actor)
            values, self.h_critic = critic(out.state[t : t + 1], self.h_critic)
            log_pi = masked_log_softmax(logits[0], out.avail_actions[t])
            actions = choose_actions(log_pi.view(spec.n_agents, battles, -1), keys, t, greedy=False)
            out.actions[t] = actions.flatten()
            out.log_probs[t] = log_pi.gather(-1, out.actions[t].unsqueeze(-1)).squeeze(-1)
            out.values[t] = values[0]
            step = env.step(actions.T.contiguous().numpy(), everyone)
            reward = torch.from_numpy(step.reward)
            out.rewards[t] = reward.to(dtype).repeat(spec.n_agents)
            self.last_action = actions.T.contiguous()
            self.returns += reward
            self.lengths += 1
            over = np.flatnonzero(step.terminated | step.truncated)
            if over.size:
                ended.wins += step.won[over].tolist()
                ended.returns += self.returns[over].tolist()
                ended.lengths += self.lengths[over].tolist()
                self._restart(torch.from_numpy(over))
            if step.discarded is not None and step.discarded.any():
                lost = np.flatnonzero(step.discarded)
                self._forget(out, t, lost)
                self._restart(torch.from_numpy(lost))
        out.values[steps] = critic(self._state(dtype).unsqueeze(0), self.h_critic)[0][0]
        out.keep[steps] = (self.lengths > 0).repeat(spec.n_agents)
        return out, ended

    def _forget(self, out: Buffer, t: int, lost: NDArray[np.int64]) -> None:
        """The listed battles' games failed at step t: none of their steps in this buffer counts."""
        battles, n_agents = self.last_action.shape
        for b in lost.tolist():
            first = max(0, t + 1 - int(self.lengths[b]))
            for mask in (out.alive, out.played):
                mask[first : t + 1].view(-1, n_agents, battles)[:, :, b] = False

    def _restart(self, over: Tensor) -> None:
        """The listed battles have ended: start the next ones in their places."""
        battles, n_agents = self.last_action.shape
        for h in (self.h_actor, self.h_critic):
            h.view(n_agents, battles, -1)[:, over] = 0.0
        self.last_action[over] = -1
        self.returns[over], self.lengths[over] = 0.0, 0
        self.env.reset_battles(battle_keys(self.seed, "rollout", int(self.started), len(over)), over.numpy())
        self.started = self.started + len(over)

    def _input(self, dtype: torch.dtype) -> Tensor:
        n_actions = self.env.spec.n_actions
        last_action = fn.one_hot(self.last_action.T + 1, n_actions + 1)[..., 1:].to(dtype)
        return net_input(torch.from_numpy(self.env.obs).transpose(0, 1).to(dtype), last_action)

    def _state(self, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(self.agent_state.rows(self.last_action.numpy())).to(dtype).flatten(0, 1)


def _rows(grid: Tensor) -> Tensor:
    """[B, N, ...] -> [N * B, ...]."""
    return grid.transpose(0, 1).flatten(0, 1)


def _signed(array: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """The same bytes; unsigned 64-bit numbers as signed ones, which every tensor file format has."""
    return array.view(np.int64) if array.dtype == np.uint64 else array
