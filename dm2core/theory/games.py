"""Finite Markov games with a deterministic expert."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Game:
    """K agents, all with A actions; joint action j stands for `joint[j]`. A game is equal to itself alone."""

    name: str
    transition: Array  # [S, J, S]
    start: Array  # [S] distribution of the first state
    gamma: float
    reward: Array  # [S, J] the team's
    expert: Ints  # [K, S] the expert's actions
    joint: Ints  # [J, K]

    @property
    def n_agents(self) -> int:
        return len(self.expert)

    @property
    def n_states(self) -> int:
        return len(self.start)

    @property
    def n_actions(self) -> int:
        return int(self.joint.max()) + 1

    def visited(self) -> float:
        """A lower bound on rho(s) under every policy (the paper's Condition 1): epsilon."""
        least = self.transition.min(axis=(0, 1))
        return float(((1 - self.gamma) * self.start + self.gamma * least).min())

    def expert_policy(self) -> Array:
        """The expert as pi [K, S, A] of zeros and ones."""
        return np.eye(self.n_actions)[self.expert]


def joint_actions(n_agents: int, n_actions: int) -> Ints:
    """[J, K] all joint actions, the last agent's action changing fastest."""
    return np.array(list(itertools.product(range(n_actions), repeat=n_agents)))


def random_game(
    rng: np.random.Generator, n_agents: int, n_states: int, n_actions: int, uniform: float, gamma: float = 0.9
) -> Game:
    """Dirichlet transitions mixed with a share of the uniform distribution, so that every state is visited."""
    joint = joint_actions(n_agents, n_actions)
    transition = rng.dirichlet(np.full(n_states, 0.3), size=(n_states, len(joint)))
    transition = (1 - uniform) * transition + uniform / n_states
    reward = rng.random((n_states, len(joint)))
    expert = rng.integers(n_actions, size=(n_agents, n_states))
    name = f"random K={n_agents} S={n_states} A={n_actions}"
    return Game(name, transition, rng.dirichlet(np.ones(n_states)), gamma, reward, expert, joint)


def ring(n_agents: int, n_states: int, uniform: float, gamma: float = 0.95) -> Game:
    """One step on round the ring if all agents choose 1, else one step back: nearly periodic, hard to explore."""
    joint = joint_actions(n_agents, 2)
    transition = np.zeros((n_states, len(joint), n_states))
    for s in range(n_states):
        for j, actions in enumerate(joint):
            transition[s, j, (s + (1 if actions.all() else -1)) % n_states] = 1
    transition = (1 - uniform) * transition + uniform / n_states
    start = np.zeros(n_states)
    start[0] = 1
    reward = np.repeat((np.arange(n_states) == n_states - 1).astype(float)[:, None], len(joint), axis=1)
    expert = np.ones((n_agents, n_states), dtype=np.int64)
    return Game(f"ring K={n_agents} S={n_states}", transition, start, gamma, reward, expert, joint)


def decoupled(rng: np.random.Generator, n_agents: int, n_states: int, n_actions: int) -> Game:
    """Actions do not move the state: rho is the same for every policy."""
    game = random_game(rng, n_agents, n_states, n_actions, 0.3)
    transition = np.repeat(game.transition[:, :1], len(game.joint), axis=1)
    return Game("decoupled", transition, game.start, game.gamma, game.reward, game.expert, game.joint)


def unreachable() -> Game:
    """Two agents, three states, the last of which no policy ever visits: Condition 1 does not hold."""
    joint = joint_actions(2, 2)
    transition = np.zeros((3, 4, 3))
    transition[:, :, :2] = 0.5
    expert = np.zeros((2, 3), dtype=np.int64)
    return Game(
        "one state out of reach", transition, np.array([1.0, 0.0, 0.0]), 0.9, np.zeros((3, 4)), expert, joint
    )


def deterministic(game: Game) -> Iterator[Array]:
    """Every deterministic joint policy [K, S, A]; there are A^(K S) of them."""
    for actions in itertools.product(range(game.n_actions), repeat=game.n_agents * game.n_states):
        yield np.eye(game.n_actions)[np.reshape(actions, (game.n_agents, game.n_states))]


def matrix_game(name: str, reward: Array, expert: Ints, gamma: float = 0.0) -> Game:
    """One state; reward [A, A, ...] per joint action, expert [K]."""
    joint = joint_actions(reward.ndim, reward.shape[0])
    flat = reward[tuple(joint.T)][None]
    return Game(name, np.ones((1, len(joint), 1)), np.ones(1), gamma, flat, expert[:, None], joint)
