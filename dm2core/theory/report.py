"""All tests T1-T10 as one tidy table; every row is a statement, a number, and whether the statement holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import sqrt

import numpy as np
import pandas as pd

from dm2core.theory import equilibria, gail, miniatures, order, turns
from dm2core.theory.games import Game, random_game, ring
from dm2core.theory.occupancy import visitation
from dm2core.theory.table import COLUMNS, Row

TURNS = 200  # of the figure, and of the rings, which take longer than random games
FEW_TURNS = 60
FULL = 6  # so many games make a full run; a smaller one leaves out the rings that take half a minute each
BETAS = (0.1, 0.5, 1.0, 3.0)
HARD = ring(2, 6, 0.02, 0.99), ring(3, 6, 0.02, 0.99)


def games(rng: np.random.Generator, count: int) -> list[Game]:
    """`count` random games of two and three agents in turn, and rings."""
    out = []
    for k in range(count):
        n_agents = 2 + k % 2
        sizes = int(rng.integers(3, 9)), int(rng.integers(2, 5 if n_agents == 2 else 4))
        made = random_game(rng, n_agents, *sizes, uniform=0.2)
        out.append(dataclasses.replace(made, name=f"{made.name} #{k + 1}"))
    return [*out, ring(2, 5, 0.05), ring(3, 4, 0.05), *(HARD if count >= FULL else ())]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion."""
    z, p = 1.959964, hits / n
    middle, half = (p + z * z / (2 * n)), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def t7_local() -> list[Row]:
    """What agents that see only their own part cannot know, and demonstrations that no joint policy has."""
    own, team = miniatures.xor()
    strip = miniatures.tiles(0)
    first, second = miniatures.at_a(strip, 0), miniatures.at_a(strip, 1)
    blind = "own observations suffice"
    rows: list[Row] = [
        ("T7", blind, "XOR", "distance of each agent's own distribution", own, "0", own == 0),
        ("T7", blind, "XOR", "distance of the team's distribution", team, "0", team == 0),
    ]
    for title, whose, teams in (
        ("Definition 1: compatible", "one team's", [first, first]),
        ("Definition 1: incompatible", "two teams' (each agent on A)", [first, second]),
    ):
        place = f"four tiles, {whose} demonstrations"
        exact = miniatures.incompatibility(strip, miniatures.shown(strip, teams))
        tiles = [miniatures.own_tiles(strip, pi)[i] for i, pi in enumerate(teams)]
        least = miniatures.residual(strip, tiles)
        for what, value in (
            ("distance of states and own actions", exact),
            ("least distance of own tiles", least),
        ):
            fits = value < 1e-9 if len({id(pi) for pi in teams}) == 1 else value > 1e-3
            rows.append(("T7", title, place, what, value, "0" if teams[0] is teams[1] else "> 0", fits))
    return rows


def t8_equilibrium(rng: np.random.Generator, game: Game) -> list[Row]:
    """Theorem 3 with the reward taken at the expert, as it is proved, and at another policy, as training has it."""
    game = dataclasses.replace(game, expert=equilibria.team_optimum(game))
    rows: list[Row] = []
    away = gail.random_policy(rng, game)
    for form, place, pi, what, sign in (
        ("neglog_agent", "Theorem 3", game.expert_policy(), "at the expert", 1),
        (
            "neglog_agent",
            "control: Theorem 3, imitation reward negated",
            game.expert_policy(),
            "at the expert",
            -1,
        ),
        ("neglog_agent", "practice: reward of the current policies", away, "at random policies", 1),
        ("logit", "practice: logit", away, "at random policies", 1),
        ("state_logit", "practice: states only", away, "at random policies", 1),
    ):
        rewards = equilibria.rewards_at(game, pi, form)  # type: ignore[arg-type]
        worst = max(equilibria.gap(game, 1.0, sign * beta, rewards) for beta in BETAS)
        said, expected = f"best deviation's gain, {form} {what}", "0" if sign > 0 else "> 0"
        rows.append(("T8", place, game.name, said, worst, expected, (worst < 1e-9) == (sign > 0)))
    return rows


def t9_converse(rng: np.random.Generator, count: int) -> list[Row]:
    """Every equilibrium of the mixed game is one of the task, says the text; Theorem 3 says the opposite direction."""
    rows: list[Row] = []
    place = "its converse, read into the text"
    for n_agents in (2, 3):
        for beta in BETAS:
            found = [equilibria.converse_fails(rng, n_agents, beta) for _ in range(count)]
            kept, failed = sum(a for a, _, _ in found), sum(bool(b) for _, b, _ in found)
            low, high = wilson(failed, count)
            where = f"{count} team matrix games K={n_agents}, beta {beta:g}"
            what = "share with the expert an equilibrium"
            rows.append(("T9", "Theorem 3", where, what, kept / count, "1", kept == count))
            what = f"share with a pure equilibrium that is none of the task's [{low:.3f}, {high:.3f}]"
            rows.append(("T9", place, where, what, failed / count, "0", failed == 0))
    _, mixed, task = equilibria.interior_converse(BETAS[0])
    where = f"choose the same, K=2, beta {BETAS[0]:g}"
    what = "best deviation's gain at the mixed game's interior point"
    rows.append(
        ("T9", "control: it is an equilibrium", where, f"{what}, mixed game", mixed, "0", mixed < 1e-12)
    )
    rows.append(("T9", place, where, f"{what}, task", task, "0", task < 1e-12))
    return rows


def counterexample(rng: np.random.Generator, beta: float) -> str:
    """A three-agent team game in which the mixed game has an equilibrium that is none of the task's, in words."""
    while True:
        _, spoilt, game = equilibria.converse_fails(rng, 3, beta)
        if spoilt:
            break
    pairs = zip(game.joint, game.reward[0], strict=True)
    team = ", ".join(f"{''.join(map(str, a))}: {r:.3f}" for a, r in pairs)
    expert, where = "".join(map(str, game.expert[:, 0])), "".join(map(str, min(spoilt)))
    said = f"at beta {beta:g} {where} is an equilibrium of the mixed game"
    return f"one state, team reward {team}; expert {expert}; {said}"


def t10_ablation(rng: np.random.Generator, count: int) -> list[Row]:
    """Joint demonstrations coordinate; independent ones do if the teams happen to have learnt the same convention."""
    drawn = [miniatures.two_conventions(rng) for _ in range(count)]
    rows: list[Row] = []
    for name in drawn[0]:
        value = float(np.mean([run[name] for run in drawn]))
        apart = name == "indep, of two conventions"
        holds, expected = (value < 0.01, "0") if apart else (value > 0.99, "1")
        what = f"joint success, {name}"
        rows.append(("T10", "co-training matters", "two conventions", what, value, expected, holds))
    title, game = "matching helps where it must", "climbing game"
    for matched, how, expected in ((0.0, "task alone", "< 0.5"), (5.0, "with matching", "> 0.95")):
        share = miniatures.climbing(rng, matched, 20 * count)
        holds = share > 0.95 if matched else share < 0.5
        rows.append(("control", title, game, f"reaches the best cell, {how}", share, expected, holds))
    return rows


def run(seed: int, count: int, poll: Callable[[str], None] = lambda _: None) -> pd.DataFrame:
    """Every test on `count` random games; `poll` hears what comes next."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    long = TURNS if count >= FULL else FEW_TURNS
    for game in games(rng, count):
        poll(game.name)
        rows += order.random_policies(rng, game, 100 * count)
        rows += turns.t3_t4_turns(rng, game, long if game.name.startswith("ring") else FEW_TURNS)
        rows += turns.t6_simultaneous(rng, game, FEW_TURNS)
        rows += t8_equilibrium(rng, game)
    poll("small worlds")
    for n_agents, n_states in ((2, 3), (3, 2)):
        rows += order.all_deterministic(random_game(rng, n_agents, n_states, 2, uniform=0.2))
    rows += order.without_condition_1() + turns.t5_decoupled(rng, FEW_TURNS) + t7_local()
    rows += t9_converse(rng, 120 * count) + t10_ablation(rng, count)
    counted = counterexample(rng, 0.1)
    poll("turns as best responses")
    rows += turns.t3_condition_2(rng, TURNS)
    for game in (ring(1, 6, 0.02, 0.99), *HARD):
        rows += turns.t3_best_responses(rng, game, 4 * count)
    rows += turns.t6_matrix_games(rng, count)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.attrs["counterexample"] = counted
    return table


def curves(seed: int) -> pd.DataFrame:
    """Matching and distance turn by turn on one random game, for the figure [form, turn, matching, distance]."""
    rng = np.random.default_rng(seed)
    game = random_game(rng, 2, 5, 3, uniform=0.2)
    start = gail.random_policy(rng, game)
    parts = []
    for form in gail.FORMS:
        trace = gail.learn(game, start, form, turns=TURNS)
        parts.append(
            pd.DataFrame(
                {
                    "form": form,
                    "turn": range(TURNS + 1),
                    "matching": trace.matching,
                    "distance": trace.distance,
                }
            )
        )
    assert np.isclose(visitation(game, start).sum(), 1)
    return pd.concat(parts, ignore_index=True)
