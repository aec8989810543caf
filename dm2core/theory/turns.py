"""T3-T6: what learning by turns, or all at once, arrives at under each form of the reward."""

from __future__ import annotations

import numpy as np

from dm2core.theory import gail
from dm2core.theory.games import Game, decoupled, matrix_game, ring
from dm2core.theory.miniatures import CLIMBING, PENALTY
from dm2core.theory.table import Row

REACHED = 0.999  # mean probability of the expert's actions that counts as the expert
NEAR = 0.05  # total variation to the expert's visitation that counts as its own
STARTS = 3  # of small steps: random policies to begin with
STATES_ONLY = 3  # states alone teach slowly: so many times the turns
ALONE = 60  # updates of one agent by itself within which L_eps must have risen (Corollary 2: finitely many)


def t3_t4_turns(rng: np.random.Generator, game: Game, turns: int) -> list[Row]:
    """Theorem 2 by turns of small steps under four rewards, and the steps of its proof on the way."""
    starts = [gail.random_policy(rng, game) for _ in range(STARTS)]
    traces = [gail.learn(game, start, "neglog_agent", turns=turns) for start in starts]
    end, what = min(trace.matching[-1] for trace in traces), f"least matching of {STARTS} starts after turns"
    rows: list[Row] = [("T3", "Theorem 2", game.name, f"{what}, neglog_agent", end, "1", end > REACHED)]
    rows += _proof(game, [trace.updates for trace in traces], "")
    rows += _corollary_2(game, [trace.updates for trace in traces], "", "turns of 20 updates")
    for form, place in (("logit", "Theorem 2, with the logit"), ("printed", "appendix A as printed")):
        trace = gail.learn(game, starts[0], form, turns=turns)  # type: ignore[arg-type]
        end = trace.matching[-1]
        rows.append(("T4", place, game.name, f"matching after turns, {form}", end, "1", end > REACHED))
        if form == "printed":
            rows.append(_assumption_1("T4", "Assumption 1 as printed", game, [trace.updates]))
    return rows + _states_only(gail.learn(game, starts[0], "state_logit", turns=STATES_ONLY * turns), game)


def t3_condition_2(rng: np.random.Generator, turns: int) -> list[Row]:
    """Condition 2, that a single agent learns to imitate, by small steps on the rings."""
    rows: list[Row] = []
    for game in (ring(1, 5, 0.05), ring(1, 6, 0.02, 0.99)):
        starts = [gail.random_policy(rng, game) for _ in range(STARTS)]
        end = min(gail.learn(game, start, "neglog_agent", turns=turns).matching[-1] for start in starts)
        what = f"least matching of {STARTS} starts after turns, one agent"
        rows.append(("T3", "Condition 2", game.name, what, end, "1", end > REACHED))
    return rows


def t3_best_responses(rng: np.random.Generator, game: Game, starts: int) -> list[Row]:
    """The same where an update is the best response to the agent's optimal discriminator, one a turn.

    On a ring a single agent that learns so does not always arrive, so that Condition 2 does not hold and Theorem 2
    promises nothing. That an improvement raises L_eps is claimed without it.
    """
    first = [gail.random_policy(rng, game) for _ in range(starts)]
    traces = [
        gail.learn(game, start, "neglog_agent", turns=60, steps=1, update="best response") for start in first
    ]
    share = sum(trace.matching[-1] > REACHED for trace in traces) / starts
    what, by = f"share of {starts} starts that end at the expert", ", by best responses"
    if game.n_agents == 1:
        return [("T3", f"Condition 2{by}", game.name, what, share, "1", share == 1)]
    alone = [
        gail.learn(game, start, "neglog_agent", turns=1, steps=ALONE, update="best response").updates
        for start in first
    ]
    return [
        ("T3", f"Theorem 2 without Condition 2{by}", game.name, what, share, "1", share == 1),
        *_proof(game, [trace.updates for trace in traces], by),
        *_corollary_2(
            game, alone, f" without Condition 2{by}", f"starts from which one agent makes {ALONE} updates"
        ),
    ]


def _assumption_1(test: str, statement: str, game: Game, updates: list[gail.Updates]) -> Row:
    share = sum(found.refuted for found in updates) / max(sum(found.premises for found in updates), 1)
    what = "share of states whose expected reward an update raised and whose match it did not"
    return test, statement, game.name, what, share, "0", share == 0


def _proof(game: Game, updates: list[gail.Updates], by: str) -> list[Row]:
    """Lemma 6, Assumption 1, and what the proof makes of the two: that an update which improves raises L_eps."""
    improved = max(sum(found.improved for found in updates), 1)
    fell = sum(found.bound_fell for found in updates) / improved
    lost = sum(found.state_fell for found in updates) / improved
    gap = max(found.loss_gap for found in updates)
    where = "share of updates that improve and"
    made, every = f"an improvement raises L_eps{by}", f"an improvement raises the match in every state{by}"
    return [
        ("T3", f"Lemma 6{by}", game.name, "largest gap of loss and reward, relative", gap, "0", gap < 1e-8),
        _assumption_1("T3", f"Assumption 1{by}", game, updates),
        ("T3", made, game.name, f"{where} lower L_eps", fell, "0", fell == 0),
        ("T3", every, game.name, f"{where} match less in some state", lost, "0", lost == 0),
    ]


def _corollary_2(game: Game, updates: list[gail.Updates], by: str, of: str) -> list[Row]:
    share = sum(found.stuck for found in updates) / max(sum(found.turns for found in updates), 1)
    what = f"share of {of} within which L_eps does not rise"
    return [("T3", f"Corollary 2{by}", game.name, what, share, "0", share == 0)]


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
            reached += end > REACHED
        share = reached / (20 * starts)
        what = "share of starts that end at the expert, task + 5 x imitation"
        rows.append(("T6", "practice: all at once", name, what, share, "1", share == 1))
    return rows
