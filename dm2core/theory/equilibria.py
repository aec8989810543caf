"""Nash equilibria of the mixed game alpha R_T + beta R_I (Theorem 3), and of R_T alone (the converse)."""

from __future__ import annotations

import itertools

import numpy as np

from dm2core.theory.gail import Form, imitation_reward
from dm2core.theory.games import Array, Game, Ints, matrix_game
from dm2core.theory.occupancy import action_values, best_values, facing


def team_optimum(game: Game) -> Ints:
    """[K, S] a deterministic joint policy of highest team value: an equilibrium of R_T, as all are paid alike."""
    value = best_values(game.transition, game.reward, game.gamma)
    q = game.reward + game.gamma * game.transition @ value
    return game.joint[q.argmax(1)].T.copy()


def gap(game: Game, alpha: float, beta: float, rewards: list[Array]) -> float:
    """How much value, from the start, the best deviator from the expert gains under alpha R_T + beta R_I.

    `rewards` [K] of [S, A] are the imitation rewards. 0 at an equilibrium.
    """
    pi = game.expert_policy()
    worst = 0.0
    for i in range(game.n_agents):
        transition, team = facing(game, pi, i)
        reward = alpha * team + beta * rewards[i]
        own = (pi[i] * action_values(transition, reward, pi[i], game.gamma)).sum(1)
        worst = max(worst, float(game.start @ (best_values(transition, reward, game.gamma) - own)))
    return worst


def rewards_at(game: Game, pi: Array, form: Form) -> list[Array]:
    """Every agent's imitation reward under discriminators that are optimal against `pi`."""
    return [imitation_reward(game, pi, i, form) for i in range(game.n_agents)]


def pure_equilibria(reward: Array) -> set[tuple[int, ...]]:
    """Joint actions of a matrix game [K, A, ..., A] from which no agent gains by deviating alone."""
    n_agents, n_actions = len(reward), reward.shape[1]
    found = set()
    for joint in itertools.product(range(n_actions), repeat=n_agents):
        stable = True
        for i in range(n_agents):
            line = list(joint)
            paid = []
            for a in range(n_actions):
                line[i] = a
                paid.append(reward[(i, *line)])
            stable = stable and paid[joint[i]] >= max(paid) - 1e-12
        if stable:
            found.add(joint)
    return found


def converse_fails(
    rng: np.random.Generator, n_agents: int, beta: float
) -> tuple[bool, set[tuple[int, ...]], Game]:
    """One random team matrix game of two actions, its expert one of its pure equilibria.

    Returns: the expert is an equilibrium of R_T + beta R_I (Theorem 3); the pure equilibria of the mixed game that
    are none of R_T (the text reads into the theorem that there are none); the game. R_I is the optimal discriminator's
    reward at the expert: log 2 for the expert's action and 0 otherwise.

    With two agents there are none. Where both leave the expert's actions, R_I pays either for going
    back; who still does not loses R_T by it. Where one alone leaves them, R_T must be higher there than at the expert
    by beta log 2, or that agent would go back; but the expert is an equilibrium of R_T.
    """
    team = rng.random((2,) * n_agents)
    of_task = pure_equilibria(np.stack([team] * n_agents))
    expert = sorted(of_task)[rng.integers(len(of_task))]
    game = matrix_game(f"team matrix game K={n_agents}", team, np.array(expert))
    of_mixed = pure_equilibria(np.stack([team + paid for paid in _imitation(team, expert, beta)]))
    return expert in of_mixed, of_mixed - of_task, game


def _imitation(team: Array, expert: tuple[int, ...], beta: float) -> list[Array]:
    """[K] of beta R_I at the expert, each shaped to be added to the team's reward."""
    out = []
    for i in range(team.ndim):
        shape = [1] * team.ndim
        shape[i] = len(team)
        out.append(beta * np.log(2) * np.eye(len(team))[expert[i]].reshape(shape))
    return out


def interior_converse(beta: float) -> tuple[float, float, float]:
    """Two agents are paid 1 for choosing the same of two actions; the expert is both choosing the first.

    Returns: p, with which both choose the first action in the mixed game's interior equilibrium; what the best
    deviation from it gains in the mixed game (0: it is an equilibrium), and in the task.
    """
    team, p = np.eye(2), (1 - beta * np.log(2)) / 2
    own = np.array([p, 1 - p])
    paid = team + _imitation(team, (0, 0), beta)[0]
    return p, float((paid @ own).max() - own @ paid @ own), float((team @ own).max() - own @ team @ own)
