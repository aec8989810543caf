"""Imitation by turns with optimal discriminators: the paper's Algorithm 2, exact (closed-form D, natural gradient).

With rho_i(s, a) = rho(s) pi_i(a|s) and the expert's rho_E likewise, the best discriminator gives the agent's share
D = rho_i / (rho_i + rho_E). Four rewards are made of it. Two of them are infinite where the expert never acts so: there
both visitations are smoothed by SMOOTH.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dm2core.theory.bounds import lower_eps, matching
from dm2core.theory.games import Array, Game
from dm2core.theory.occupancy import action_values, best_policy, expert_visitation, facing, visitation

Form = Literal["neglog_agent", "printed", "logit", "state_logit"]
FORMS: tuple[Form, ...] = ("neglog_agent", "logit", "printed", "state_logit")
Update = Literal["gradient", "best response"]
SMOOTH = 1e-6
LEAST = 1e-12  # of an action's probability
THERE = 1 - 1e-9  # mean probability of the expert's actions beyond which there is nothing left to learn


def imitation_reward(game: Game, pi: Array, agent: int, form: Form, rho: Array | None = None) -> Array:
    """r [S, A] of one agent under the optimal discriminator against the current joint policy, `rho` its visitation.

    neglog_agent is -log of the agent's share, which is 0 off the expert's actions; where neither acts so the share is
    0/0, and 0 is paid, its limit. ValueError: a state is never visited, so that there is no discriminator for it.
    """
    rho, rho_e = visitation(game, pi) if rho is None else rho, expert_visitation(game)
    if min(rho.min(), rho_e.min()) <= 0:
        raise ValueError(f"{game.name}: a state is never visited; Condition 1 is needed")
    if form == "state_logit":
        return np.repeat(np.log(rho_e / rho)[:, None], game.n_actions, axis=1)
    mine, theirs = rho[:, None] * pi[agent], rho_e[:, None] * game.expert_policy()[agent]
    if form == "neglog_agent":
        return np.log1p(np.divide(theirs, mine, out=np.zeros_like(theirs), where=theirs > 0))
    mine, theirs = mine + SMOOTH, theirs + SMOOTH
    if form == "logit":
        return np.log(theirs / mine)
    return np.log1p(mine / theirs)  # -log D with D the expert's share, as the appendix prints it


@dataclass
class Updates:
    """What the single updates did, each judged under the reward that it was made for."""

    improved: int = 0  # that raised the agent's value (Lemma 6)
    bound_fell: int = 0  # of those, after which L_eps was lower
    state_fell: int = 0  # of those, after which the agent matched less in some state
    premises: int = 0  # pairs of update and state in which the expected reward rose (Assumption 1's premise)
    refuted: int = 0  # of those, in which the match did not rise
    loss_gap: float = (
        0.0  # largest relative difference of the fall of the GAIL loss and the rise over visits (Lemma 6)
    )
    turns: int = 0  # turns that began away from the expert
    stuck: int = 0  # of those, within whose updates L_eps never rose above where it began (Corollary 2)


@dataclass(frozen=True)
class Trace:
    """What happened, turn by turn."""

    matching: list[float]  # mean over agents and states
    distance: list[float]  # total variation of rho to the expert's
    bound: list[float]  # L_eps
    updates: Updates
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
    update: Update = "gradient",
    simultaneous: bool = False,
) -> Trace:
    """Agents take turns (or, `simultaneous`, all move at once); a turn is `steps` updates of an agent's policy on

        matched * (imitation reward) + task * (team reward),

    both recomputed for every update. An update is a natural-gradient step pi_i <- pi_i exp(size (1 - gamma) Q_i) / Z,
    or the best response: the best policy against these rewards and the other agents as they are.
    """
    pi, rho, counted = start, visitation(game, start), Updates()
    out: dict[str, list[float]] = {"matching": [], "distance": [], "bound": []}

    def note() -> None:
        out["matching"].append(float(matching(game, pi).mean()))
        out["bound"].append(lower_eps(game, pi))
        out["distance"].append(0.5 * float(np.abs(rho - expert_visitation(game)).sum()))

    note()
    for turn in range(turns):
        movers = range(game.n_agents) if simultaneous else [turn % game.n_agents]
        began, rose = lower_eps(game, pi), False
        away = bool(matching(game, pi)[movers[0]].mean() < THERE)
        for _ in range(steps):
            moved = pi.copy()
            for i in movers:
                transition, team = facing(game, pi, i)
                reward = matched * imitation_reward(game, pi, i, form, rho) + task * team
                moved[i] = _updated(pi[i], transition, reward, game.gamma, update, size)
            moved_rho = visitation(game, moved)
            if not simultaneous:
                _judge(counted, game, movers[0], (pi, moved), (rho, moved_rho), transition, reward)
            pi, rho = moved, moved_rho
            rose = rose or lower_eps(game, pi) > began
        note()
        if not simultaneous and away:
            counted.turns += 1
            counted.stuck += not rose
    return Trace(**out, updates=counted, policy=pi)


def _updated(
    own: Array, transition: Array, reward: Array, gamma: float, update: Update, size: float
) -> Array:
    if update == "best response":
        new = best_policy(transition, reward, gamma)
    else:
        q = action_values(transition, reward, own, gamma)
        new = own * np.exp(size * (1 - gamma) * (q - q.max(1, keepdims=True)))
        new /= new.sum(1, keepdims=True)
    new = np.maximum(new, LEAST)
    return new / new.sum(1, keepdims=True)


def _judge(
    counted: Updates,
    game: Game,
    agent: int,
    teams: tuple[Array, Array],
    rhos: tuple[Array, Array],
    transition: Array,
    reward: Array,
) -> None:
    """Add one update of one agent, under a `reward` that stays, to what was counted.

    `teams` are the joint policies before and after it, `rhos` their visitations.
    """
    old, new = teams[0][agent], teams[1][agent]
    values = [
        float(game.start @ (own * action_values(transition, reward, own, game.gamma)).sum(1))
        for own in (old, new)
    ]  # the GAIL loss is the expert's value, which stays, less the agent's
    visits = [
        float(rho @ (own * reward).sum(1)) / (1 - game.gamma)
        for rho, own in zip(rhos, (old, new), strict=True)
    ]
    scale = 1 + max(abs(value) for value in values)
    gap = abs((values[1] - values[0]) - (visits[1] - visits[0])) / scale
    counted.loss_gap = max(counted.loss_gap, gap)
    expected = ((new - old) * reward).sum(1)
    match, match_after = (matching(game, team)[agent] for team in teams)
    premise = expected > 1e-12
    counted.premises += int(premise.sum())
    counted.refuted += int((premise & (match_after <= match)).sum())
    if values[1] - values[0] > 1e-11 * scale:
        counted.improved += 1
        counted.bound_fell += bool(match_after.sum() < match.sum() - 1e-12)
        counted.state_fell += bool((match_after < match - 1e-9).any())


def random_policy(rng: np.random.Generator, game: Game) -> Array:
    """pi [K, S, A] from a flat Dirichlet."""
    return rng.dirichlet(np.ones(game.n_actions), size=(game.n_agents, game.n_states))
