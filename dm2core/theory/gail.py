"""Imitation by turns with optimal discriminators: the paper's Algorithm 2, exact (closed-form D, natural gradient).

With rho_i(s, a) = rho(s) pi_i(a|s) and the expert's rho_E likewise, the best discriminator gives the agent's share
D = rho_i / (rho_i + rho_E). Four rewards are made of it; rho_E is smoothed by SMOOTH so that all are finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dm2core.theory.bounds import lower_eps, matching
from dm2core.theory.games import Array, Game
from dm2core.theory.occupancy import action_values, facing, visitation

Form = Literal["neglog_agent", "printed", "logit", "state_logit"]
FORMS: tuple[Form, ...] = ("neglog_agent", "logit", "printed", "state_logit")
SMOOTH = 1e-6


def imitation_reward(game: Game, pi: Array, agent: int, form: Form) -> Array:
    """r [S, A] of one agent under the optimal discriminator against the current joint policy."""
    rho, rho_e = visitation(game, pi), visitation(game, game.expert_policy())
    if form == "state_logit":
        return np.repeat(np.log(rho_e / rho)[:, None], game.n_actions, axis=1)
    mine = rho[:, None] * pi[agent] + SMOOTH
    theirs = rho_e[:, None] * game.expert_policy()[agent] + SMOOTH
    if form == "logit":
        return np.log(theirs / mine)
    if form == "printed":  # -log D with D the expert's share, as the appendix prints it
        return np.log1p(mine / theirs)
    return np.log1p(theirs / mine)  # -log D with D the agent's share


@dataclass(frozen=True)
class Trace:
    """What happened, turn by turn."""

    matching: list[float]  # mean over agents and states
    least: list[float]  # the least over agents and states
    bound: list[float]  # L_eps
    distance: list[float]  # total variation of rho to the expert's
    improved: int  # turns in which the agent's imitation value rose
    bound_fell: int  # of those, turns after which L_eps was lower
    state_fell: int  # of those, turns after which the agent matched less in some state
    policy: Array


def learn(
    game: Game,
    start: Array,
    form: Form,
    *,
    turns: int = 60,
    steps: int = 20,
    size: float = 1.0,
    task: float = 0.0,
    matched: float = 1.0,
    simultaneous: bool = False,
) -> Trace:
    """Agents take turns (or, `simultaneous`, all move at once); in a turn an agent makes `steps` natural-gradient steps

        pi_i <- pi_i exp(size Q_i) / Z

    on matched * (imitation reward) + task * (team reward), both recomputed at every step.
    """
    pi = start.copy()
    rho_e = visitation(game, game.expert_policy())
    out: dict[str, list[float]] = {"matching": [], "least": [], "bound": [], "distance": []}
    improved = bound_fell = state_fell = 0

    def note() -> None:
        m = matching(game, pi)
        out["matching"].append(float(m.mean()))
        out["least"].append(float(m.min()))
        out["bound"].append(lower_eps(game, pi))
        out["distance"].append(0.5 * float(np.abs(visitation(game, pi) - rho_e).sum()))

    note()
    for turn in range(turns):
        movers = range(game.n_agents) if simultaneous else [turn % game.n_agents]
        before, m_before = lower_eps(game, pi), matching(game, pi)
        rose = True
        for _ in range(steps):
            moved = {}
            for i in movers:
                transition, team = facing(game, pi, i)
                reward = matched * imitation_reward(game, pi, i, form) + task * team
                q = action_values(transition, reward, pi[i], game.gamma)
                new = pi[i] * np.exp(size * (1 - game.gamma) * (q - q.max(1, keepdims=True)))
                moved[i] = np.maximum(new / new.sum(1, keepdims=True), 1e-12)
                rose = rose and float((moved[i] * q).sum() - (pi[i] * q).sum()) > 0
            for i, own in moved.items():
                pi[i] = own / own.sum(1, keepdims=True)
        note()
        if rose and not simultaneous:
            improved += 1
            bound_fell += lower_eps(game, pi) < before - 1e-12
            mover = turn % game.n_agents
            state_fell += bool((matching(game, pi)[mover] < m_before[mover] - 1e-9).any())
    return Trace(**out, improved=improved, bound_fell=bound_fell, state_fell=state_fell, policy=pi)


def random_policy(rng: np.random.Generator, game: Game) -> Array:
    """pi [K, S, A] from a flat Dirichlet."""
    return rng.dirichlet(np.ones(game.n_actions), size=(game.n_agents, game.n_states))
