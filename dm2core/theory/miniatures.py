"""Small worlds with a known answer: what marginals cannot say (T7), the ablation (T10), where matching must help."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from dm2core.theory.gail import learn
from dm2core.theory.games import Array, Game, joint_actions, matrix_game
from dm2core.theory.occupancy import visitation


def xor() -> tuple[float, float]:
    """Two agents see nothing; the expert team flips one coin and both play its side, or the other (XOR) side.

    Independent fair coins match each agent's own distribution exactly. Total variation of each agent's actions, and of
    the team's joint actions, to the expert's.
    """
    expert = np.array([[0.0, 0.5], [0.5, 0.0]])
    team = np.full((2, 2), 0.25)
    own = max(0.5 * np.abs(team.sum(axis) - expert.sum(axis)).sum() for axis in (0, 1))
    return float(own), float(0.5 * np.abs(team - expert).sum())


def tiles(start: int) -> Game:
    """Two agents on a strip of four tiles step left or right; they cannot stand on one tile: such a move fails.

    A state is the pair of tiles. `start` numbers the first pair.
    """
    pairs = [(p, q) for p in range(4) for q in range(4) if p != q]
    joint = joint_actions(2, 2)
    transition = np.zeros((len(pairs), len(joint), len(pairs)))
    for s, (p, q) in enumerate(pairs):
        for j, (a, b) in enumerate(joint):
            after = (int(np.clip(p + 2 * a - 1, 0, 3)), int(np.clip(q + 2 * b - 1, 0, 3)))
            transition[s, j, pairs.index(after) if after[0] != after[1] else s] = 1
    first = np.zeros(len(pairs))
    first[start] = 1
    zero = np.zeros((len(pairs), len(joint)))
    return Game("four tiles", transition, first, 0.9, zero, np.zeros((2, len(pairs)), dtype=np.int64), joint)


def at_a(game: Game, agent: int) -> Array:
    """pi [2, S, 2]: a team whose `agent` comes to tile 0, the paper's "A", and stays, the other agent beside it.

    From the first pair, agent 0 on A and agent 1 beside it, both step left for ever; or they change places first.
    """
    pi = np.zeros((2, game.n_states, 2))
    pi[:, :, 0] = 1
    if agent == 1:
        pi[0, int(game.start.argmax())] = [0, 1]
    return pi


def own_tiles(game: Game, pi: Array) -> list[Array]:
    """[agent] -> visitation [4] of the tiles."""
    rho = visitation(game, pi)
    pairs = [(p, q) for p in range(4) for q in range(4) if p != q]
    return [np.array([sum(rho[s] for s, pair in enumerate(pairs) if pair[i] == tile) for tile in range(4)])
            for i in range(2)]  # fmt: skip


def shown(game: Game, teams: list[Array]) -> Array:
    """[K, S, A] visitation of states and own actions that agent i is shown: that of `teams[i]`, a joint policy."""
    return np.stack([visitation(game, team)[:, None] * team[i] for i, team in enumerate(teams)])


def incompatibility(game: Game, wanted: Array) -> float:
    """Largest total variation, over agents, to what they are shown [K, S, A]: 0 if that is compatible (Definition 1).

    Of the only joint policy that could fit: where a state is visited, the shown actions give pi(a|s) of each agent, and
    elsewhere nothing depends on it. All agents of a policy visit the same states, so they must be shown the same.
    """
    states = wanted.sum(2, keepdims=True)
    uniform = np.full_like(wanted, 1 / game.n_actions)
    pi = np.divide(wanted, states, out=uniform, where=states > 0)
    got = shown(game, [pi] * game.n_agents)
    return float(0.5 * np.abs(got - wanted).sum((1, 2)).max())


def residual(game: Game, wanted: list[Array]) -> float:
    """The least sum of the agents' total variations to the wanted tile visitations, over all joint policies.

    A linear programme over visitations of state and joint action; joint policies may even be correlated, and actions
    are not asked for. So more than 0 says that agents cannot even be where they are shown; 0 does not say that what
    they are shown is compatible (Definition 1).
    """
    s, j = game.n_states, len(game.joint)
    pairs = [(p, q) for p in range(4) for q in range(4) if p != q]
    flow = np.zeros((s, s * j + 8))
    for state in range(s):
        for k in range(j):
            flow[state, state * j + k] += 1
            flow[:, state * j + k] -= game.gamma * game.transition[state, k]
    upper, bound = [], []
    for i in range(2):
        for tile in range(4):
            row = np.zeros(s * j + 8)
            for state, pair in enumerate(pairs):
                if pair[i] == tile:
                    row[state * j : state * j + j] = 1
            for sign in (1, -1):
                line = sign * row
                line[s * j + 4 * i + tile] = -1
                upper.append(line)
                bound.append(sign * wanted[i][tile])
    cost = np.r_[np.zeros(s * j), np.full(8, 0.5)]
    found = linprog(
        cost, np.array(upper), np.array(bound), flow, (1 - game.gamma) * game.start, bounds=(0, None)
    )
    return float(found.fun)


def two_conventions(rng: np.random.Generator) -> dict[str, float]:
    """The ablation in miniature: two agents, two equally good conventions; joint success after learning.

    The team is paid 1 if both choose the same; a team that learns it plays one of the two. A joint set shows both
    agents one team; an independent one shows them two teams, whose conventions may be the same or not. Concurrent or
    not changes which episodes of a team an agent sees, not how its actions are distributed: it has no place here.
    """
    reward = np.array([[1.0, 0.0], [0.0, 1.0]])
    sets = {"joint": (0, 0), "indep, of one convention": (1, 1), "indep, of two conventions": (0, 1)}
    start = rng.dirichlet(np.ones(2), size=(2, 1))
    out = {}
    for variant, expert in sets.items():
        game = matrix_game(variant, reward, np.array(expert))
        pi = learn(game, start, "logit", turns=20, steps=5, task=1.0, matched=2.0).policy
        out[variant] = float((pi[0, 0] * pi[1, 0]).sum())
    return out


CLIMBING = np.array([[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]])  # Claus and Boutilier 1998
PENALTY = np.array([[10.0, 0.0, -100.0], [0.0, 2.0, 0.0], [-100.0, 0.0, 10.0]])  # the same, penalty -100


def climbing(rng: np.random.Generator, matched: float, games: int) -> float:
    """Share of random starts from which agents that move at once reach the best cell (11) of the climbing game.

    Demonstrations show it; `matched` weighs the imitation reward beside the task's.
    """
    game = matrix_game("climbing", CLIMBING, np.array([0, 0]))
    wins = 0
    for _ in range(games):
        start = rng.dirichlet(np.ones(3), size=(2, 1))
        pi = learn(
            game, start, "logit", turns=40, steps=5, size=0.05, task=1.0, matched=matched, simultaneous=True
        ).policy
        wins += bool(pi[0, 0, 0] > 0.5 and pi[1, 0, 0] > 0.5)
    return wins / games
