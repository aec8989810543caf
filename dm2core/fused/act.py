"""One step of play of N agents in many battles, compiled: what `TorchPlayers` of rollout.py does in torch."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from dm2core.compiler import KERNEL, njit
from dm2core.fused.body import (
    BLOCK,
    above,
    copy,
    forward,
    make_work,
    padded,
    recall_shared,
    remember_shared,
)
from dm2core.fused.draw import pick, uniform
from dm2core.fused.fold import fold
from dm2core.fused.lanes import squares, total
from dm2core.fused.losses import softmax
from dm2core.memory import aligned_zeros
from dm2core.nets import Actor, Critic
from dm2core.types import BattleEnv, Grids

_ONE, _EPS, _ROW = np.float32(1.0), np.float32(1e-5), np.int64(1)


@njit(**KERNEL)
def _input(obs, last_action, n_actions, agent, size, x):  # type: ignore[no-untyped-def]
    """x = the normalised network input (nets.py: net_input) of `size` numbers: obs, last action (-1: none), agent."""
    n_obs = obs.size
    ones = np.float32(1.0 if last_action < 0 else 2.0)
    zeros = np.float32(size - n_obs) - ones
    share = _ONE / np.float32(size)
    mean = (total(obs) + ones) * share
    spread = squares(obs, mean) + ones * (_ONE - mean) * (_ONE - mean) + zeros * mean * mean
    scale = _ONE / np.float32(sqrt(spread * share + _EPS))
    for j in range(n_obs):
        x[j] = (obs[j] - mean) * scale
    for j in range(n_obs, size):
        x[j] = -mean * scale
    if last_action >= 0:
        x[n_obs + last_action] = (_ONE - mean) * scale
    x[n_obs + n_actions + agent] = (_ONE - mean) * scale


@njit(**KERNEL)
def _values(t, agent, live, n, last_action, h, obs, n_actions, size, shared, w, k, values):  # type: ignore[no-untyped-def]
    """values[t, b, agent] and the next hidden states h[b, agent] of the n battles live; shared: one input for all."""
    if shared:
        _input(obs[live[0], agent], last_action[live[0], agent], n_actions, agent, size, k.x[0])
        remember_shared(agent, k.x[0], w, k)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        for i in range(m):
            b = live[start + i]
            copy(_ROW, (h[b, agent],), (), (k.h[i],))
            if not shared:
                _input(obs[b, agent], last_action[b, agent], n_actions, agent, size, k.x[i])
        if shared:
            recall_shared(m, k)
            above(m, agent, w, k)
        else:
            forward(m, agent, w, k)
        for i in range(m):
            b = live[start + i]
            values[t, b, agent] = k.out[i, 0]
            copy(_ROW, (k.h_next[i],), (), (h[b, agent],))


@njit(**KERNEL)
def _actions(  # type: ignore[no-untyped-def]
    t, agent, live, n, last_action, h, obs, avail, keys, size, greedy, w, k, actions, log_probs
):
    """actions[t, b, agent], their log_probs and the next hidden states h[b, agent] of the n battles live."""
    n_agents, n_actions = avail.shape[1], avail.shape[2]
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        for i in range(m):
            b = live[start + i]
            copy(_ROW, (h[b, agent],), (), (k.h[i],))
            _input(obs[b, agent], last_action[b, agent], n_actions, agent, size, k.x[i])
        forward(m, agent, w, k)
        for i in range(m):
            b = live[start + i]
            copy(_ROW, (k.h_next[i],), (), (h[b, agent],))
            out, pi = k.out[i], k.d_out[i]
            softmax(avail[b, agent], out, pi)
            action = -1
            if greedy:
                for a in range(n_actions):
                    if avail[b, agent, a] and (action < 0 or out[a] > out[action]):
                        action = a
            else:
                action = pick(pi[:n_actions], uniform(keys[b], t, n_agents, agent))
            actions[t, b, agent] = action
            log_probs[t, b, agent] = out[action]


@njit(**KERNEL)
def _sort(live, agent, alive, last_action, acting, waiting, dead):  # type: ignore[no-untyped-def]
    """Split live battles by what the agent is: alive; dead with no-op as last action; dead just now. Their counts."""
    n_acting, n_waiting, n_dead = 0, 0, 0
    for n in range(live.size):
        b = live[n]
        if alive[b, agent]:
            acting[n_acting] = b
            n_acting += 1
        if not alive[b, agent] and last_action[b, agent] == 0:
            dead[n_dead] = b
            n_dead += 1
        else:
            waiting[n_waiting] = b
            n_waiting += 1
    return n_acting, n_waiting, n_dead


@njit(**KERNEL)
def _keep(live, h, out):  # type: ignore[no-untyped-def]
    """Hidden states of the listed battles to out [B, N, H]."""
    for b in live:
        copy(h.shape[1], (h[b],), (), (out[b],))


@njit(**KERNEL)
def _play(  # type: ignore[no-untyped-def]
    t, live, alive, obs, avail, keys, size, greedy, last, h_actor, h_critic, w_actor, k_actor, judged, w_critic,
    k_critic, lists, out,
):  # fmt: skip
    """Row t of the grids for the listed battles, agent by agent; judged: with a critic. lists [3, B] is scratch."""
    n_actions = avail.shape[2]
    _keep(live, h_actor, out.h_actor[t])
    if judged:
        _keep(live, h_critic, out.h_critic[t])
    acting, waiting, dead = lists[0], lists[1], lists[2]
    for i in range(avail.shape[1]):
        n_acting, n_waiting, n_dead = _sort(live, i, alive, last, acting, waiting, dead)
        _actions(
            t, i, acting, n_acting, last, h_actor, obs, avail, keys, size, greedy, w_actor, k_actor, out.actions,
            out.log_probs,
        )  # fmt: skip
        if judged:
            for battles, n, shared in ((waiting, n_waiting, False), (dead, n_dead, True)):
                if n > 0:
                    _values(
                        t, i, battles, n, last, h_critic, obs, n_actions, size, shared, w_critic, k_critic,
                        out.values,
                    )  # fmt: skip
    for b in live:
        for i in range(avail.shape[1]):
            last[b, i] = out.actions[t, b, i]


class FusedPlayers:
    """N actors, and critics if given, playing B battles; float32."""

    def __init__(self, actor: Actor, critic: Critic | None, env: BattleEnv) -> None:
        n_agents, n_actions, hidden = actor.head.weight.shape
        self._size = actor.body.fc1.weight.shape[2]
        shape = (env.num_battles, n_agents, hidden)
        self._actor, self._k_actor = fold(actor), make_work(padded(self._size), hidden, n_actions)
        self._judged = critic is not None
        self._critic, self._k_critic = self._actor, self._k_actor  # not read without a critic
        if critic is not None:
            self._critic, self._k_critic = fold(critic), make_work(padded(self._size), hidden, 1)
        self._h_actor, self._h_critic = aligned_zeros(*shape), aligned_zeros(*shape)
        self._last_action = np.full((env.num_battles, n_agents), -1, np.int64)
        self._lists = np.zeros((3, env.num_battles), np.int64)

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
        if not self._judged:
            out = out._replace(h_critic=out.h_actor)  # not read; of one kind, lest it be compiled twice
        _play(
            t, live, env.alive, env.obs, env.avail_actions, keys, self._size, greedy, self._last_action,
            self._h_actor, self._h_critic, self._actor, self._k_actor, self._judged, self._critic, self._k_critic,
            self._lists, out,
        )  # fmt: skip
