"""J, L and L_eps: what the proof of convergence climbs, and its two lower bounds (Theorem 1, Corollary 1)."""

from __future__ import annotations

import numpy as np

from dm2core.theory.games import Array, Game
from dm2core.theory.occupancy import visitation


def matching(game: Game, pi: Array) -> Array:
    """[K, S] probability that an agent takes the expert's action."""
    agents, states = np.arange(game.n_agents)[:, None], np.arange(game.n_states)
    out: Array = pi[agents, states, game.expert]
    return out


def objective(game: Game, pi: Array) -> float:
    """J = sum rho(s) [(K - 1) + P(all match)]; between K - 1 and K (Lemma 4), K at the expert alone (Lemma 5)."""
    return float(visitation(game, pi) @ (game.n_agents - 1 + matching(game, pi).prod(0)))


def lower(game: Game, pi: Array) -> float:
    """L = sum rho(s) sum_i P(a_i matches); J >= L by the union bound (Theorem 1)."""
    return float(visitation(game, pi) @ matching(game, pi).sum(0))


def lower_eps(game: Game, pi: Array) -> float:
    """L_eps = eps sum_s sum_i P(a_i matches) <= L, eps of Condition 1 (Corollary 1)."""
    return game.visited() * float(matching(game, pi).sum())
