"""Exact visitations and values of a joint policy, and what a single agent faces while the others stand still."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dm2core.theory.games import Array, Game


def joint_policy(game: Game, pi: Array) -> Array:
    """[S, J] probability of each joint action: agents act independently."""
    out = np.ones((game.n_states, len(game.joint)))
    for i in range(game.n_agents):
        out *= pi[i][:, game.joint[:, i]]
    return out


def visitation(game: Game, pi: Array) -> Array:
    """rho [S] = (1 - gamma) (I - gamma P_pi^T)^-1 mu, the normalised discounted visitation."""
    p = np.einsum("sj,sjt->st", joint_policy(game, pi), game.transition)
    out: Array = np.linalg.solve(np.eye(game.n_states) - game.gamma * p.T, (1 - game.gamma) * game.start)
    return out


@lru_cache(maxsize=1)  # of the game at hand: every reward of every update asks for it
def expert_visitation(game: Game) -> Array:
    """rho [S] of the expert."""
    return visitation(game, game.expert_policy())


def facing(game: Game, pi: Array, agent: int) -> tuple[Array, Array]:
    """Transition [S, A, S] and team reward [S, A] that one agent faces, the others fixed."""
    others = np.ones((game.n_states, len(game.joint)))
    for k in range(game.n_agents):
        if k != agent:
            others *= pi[k][:, game.joint[:, k]]
    mine = np.eye(game.n_actions)[game.joint[:, agent]]  # [J, A]
    transition = np.einsum("sj,ja,sjt->sat", others, mine, game.transition)
    reward = np.einsum("sj,ja,sj->sa", others, mine, game.reward)
    return transition, reward


def action_values(transition: Array, reward: Array, own: Array, gamma: float) -> Array:
    """Q [S, A] of a policy `own` [S, A] in the process one agent faces."""
    p, r = np.einsum("sa,sat->st", own, transition), (own * reward).sum(1)
    value = np.linalg.solve(np.eye(len(r)) - gamma * p, r)
    out: Array = reward + gamma * transition @ value
    return out


def best_policy(transition: Array, reward: Array, gamma: float) -> Array:
    """[S, A] zeros and ones: the best policy there, by policy iteration."""
    own = np.eye(reward.shape[1])[reward.argmax(1)]
    while True:
        q = action_values(transition, reward, own, gamma)
        value = (own * q).sum(1)
        better = q.argmax(1)
        keep = q[np.arange(len(q)), better] <= value + 1e-12 * (1 + np.abs(value))
        if keep.all():
            return own
        own = np.where(keep[:, None], own, np.eye(reward.shape[1])[better])


def best_values(transition: Array, reward: Array, gamma: float) -> Array:
    """V [S] of the best policy there."""
    own = best_policy(transition, reward, gamma)
    out: Array = (own * action_values(transition, reward, own, gamma)).sum(1)
    return out
