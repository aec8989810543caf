"""T3-T6: what learning by turns, or all at once, arrives at under each form of the reward."""

from __future__ import annotations

import numpy as np

from dm2core.theory import gail
from dm2core.theory.games import Game, decoupled, matrix_game
from dm2core.theory.miniatures import CLIMBING, PENALTY

COLUMNS = ["test", "statement", "game", "quantity", "value", "expected", "holds"]
Row = tuple[str, str, str, str, float, str, bool]
REACHED = 0.999  # mean probability of the expert's actions that counts as the expert
NEAR = 0.05  # total variation to the expert's visitation that counts as its own
STATES_ONLY = 3  # states alone teach slowly: so many times the turns
BEST_RESPONSE = 1e4  # a natural-gradient step of this size is the best response to the discriminator


def t3_t4_turns(rng: np.random.Generator, game: Game, turns: int) -> list[Row]:
    """Theorem 2 by turns under four rewards; Assumption 1 and Corollary 2 on the way."""
    rows: list[Row] = []
    start = gail.random_policy(rng, game)
    for form in gail.FORMS:
        if form == "state_logit":
            rows += _states_only(gail.learn(game, start, form, turns=STATES_ONLY * turns), game)
            continue
        trace = gail.learn(game, start, form, turns=turns)
        end = trace.matching[-1]
        test = "T3" if form == "neglog_agent" else "T4"
        place = "appendix A as printed" if form == "printed" else "Theorem 2"
        rows.append((test, place, game.name, f"matching after turns, {form}", end, "1", end > REACHED))
        if form == "neglog_agent":
            rows += _monotone(game, trace.improved, trace.bound_fell, trace.state_fell, "")
    return rows


def t3_best_responses(rng: np.random.Generator, game: Game, starts: int) -> list[Row]:
    """Theorem 2 where a turn is one large step: the best response to the agent's optimal discriminator.

    Such a turn raises the agent's imitation value in every state; nothing keeps it from matching less where the old
    policy rarely went (the discriminator saw nothing of it), so agents may go round for ever.
    """
    reached = improved = bound_fell = state_fell = 0
    for _ in range(starts):
        start = gail.random_policy(rng, game)
        trace = gail.learn(game, start, "neglog_agent", turns=60, steps=1, size=BEST_RESPONSE)
        reached += trace.matching[-1] > REACHED
        improved, bound_fell = improved + trace.improved, bound_fell + trace.bound_fell
        state_fell += trace.state_fell
    by, share = ", by best responses", reached / starts
    what = f"share of {starts} starts that end at the expert"
    head: Row = ("T3", f"Theorem 2{by}", game.name, what, share, "1", share == 1)
    return [head, *_monotone(game, improved, bound_fell, state_fell, by)]


def _monotone(game: Game, improved: int, bound_fell: int, state_fell: int, by: str) -> list[Row]:
    rows: list[Row] = []
    for place, what, count in (
        ("Corollary 2", "share of improving turns in which L_eps fell", bound_fell),
        ("Assumption 1", "share of improving turns that match less in some state", state_fell),
    ):
        share = count / max(improved, 1)
        rows.append(("T3", place + by, game.name, what, share, "0", share == 0))
    return rows


def _states_only(trace: gail.Trace, game: Game) -> list[Row]:
    same, far = trace.matching[-1], trace.distance[-1]
    about = ("T5", "practice: states only", game.name)
    return [
        (*about, "matching after turns", same, "1", same > REACHED),
        (*about, "distance of rho after turns", far, "0", far < NEAR),
    ]


def t5_decoupled(rng: np.random.Generator, turns: int) -> list[Row]:
    """A game whose states say nothing about actions."""
    game = decoupled(rng, 2, 4, 3)
    return _states_only(gail.learn(game, gail.random_policy(rng, game), "state_logit", turns=turns), game)


def t6_simultaneous(rng: np.random.Generator, game: Game, turns: int) -> list[Row]:
    """What practice does: all agents move at once."""
    trace = gail.learn(game, gail.random_policy(rng, game), "logit", turns=turns, simultaneous=True)
    end = trace.matching[-1]
    return [
        ("T6", "practice: all at once", game.name, "matching after turns, logit", end, "1", end > REACHED)
    ]


def t6_matrix_games(rng: np.random.Generator, starts: int) -> list[Row]:
    """All at once on two games that are hard to learn from the task's reward alone, with that reward beside."""
    rows: list[Row] = []
    for name, team in (("climbing game", CLIMBING), ("penalty game", PENALTY)):
        game, reached = matrix_game(name, team, np.array([0, 0])), 0
        for _ in range(20 * starts):
            end = gail.learn(
                game, gail.random_policy(rng, game), "logit", turns=40, steps=5, size=0.05, task=1.0, matched=5.0,
                simultaneous=True,
            ).matching[-1]  # fmt: skip
            reached += end > 0.9
        share = reached / (20 * starts)
        what = "share of starts that end at the expert, task + 5 x imitation"
        rows.append(("T6", "practice: all at once", name, what, share, "1", share == 1))
    return rows
