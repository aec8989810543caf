"""All tests T1-T10 as one tidy table; every row is a statement, a number, and whether the statement holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import sqrt

import numpy as np
import pandas as pd

from dm2core.theory import bounds, equilibria, gail, miniatures
from dm2core.theory.games import Game, corridor, random_game
from dm2core.theory.occupancy import visitation
from dm2core.theory.turns import (
    COLUMNS,
    Row,
    t3_best_responses,
    t3_t4_turns,
    t5_decoupled,
    t6_matrix_games,
    t6_simultaneous,
)

TOLERANCE = 1e-10
TURNS = 200  # of the figure
BETAS = (0.1, 0.5, 1.0, 3.0)


def games(rng: np.random.Generator, count: int) -> list[Game]:
    """`count` random games of two and three agents in turn, and two rings."""
    out = []
    for k in range(count):
        n_agents = 2 + k % 2
        sizes = int(rng.integers(3, 9)), int(rng.integers(2, 5 if n_agents == 2 else 4))
        made = random_game(rng, n_agents, *sizes, uniform=0.2)
        out.append(dataclasses.replace(made, name=f"{made.name} #{k + 1}"))
    return [*out, corridor(2, 5, 0.05), corridor(3, 4, 0.05)]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion."""
    z, p = 1.959964, hits / n
    middle, half = (p + z * z / (2 * n)), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def t1_t2_bounds(rng: np.random.Generator, game: Game, policies: int) -> list[Row]:
    """Lemma 4, Theorem 1, Corollary 1 on random policies; Lemma 5 and 7: nobody but the expert reaches the maximum."""
    least = {"J - (K - 1)": np.inf, "K - J": np.inf, "J - L": np.inf, "L - L_eps": np.inf}
    best = best_bound = -np.inf
    for k in range(policies):
        pi = gail.random_policy(rng, game)
        if k % 2:  # near the expert, where the bounds are tight
            pi = 0.95 * game.expert_policy() + 0.05 * pi
        j, low, eps = bounds.objective(game, pi), bounds.lower(game, pi), bounds.lower_eps(game, pi)
        for name, value in (
            ("J - (K - 1)", j - game.n_agents + 1), ("K - J", game.n_agents - j), ("J - L", j - low),
            ("L - L_eps", low - eps),
        ):  # fmt: skip
            least[name] = min(least[name], value)
        best, best_bound = max(best, j), max(best_bound, eps)
    place = {"J - (K - 1)": "Lemma 4", "K - J": "Lemma 4", "J - L": "Theorem 1", "L - L_eps": "Corollary 1"}
    rows: list[Row] = [
        ("T1", place[name], game.name, f"least {name}", value, ">= 0", value >= -TOLERANCE)
        for name, value in least.items()
    ]
    top = bounds.objective(game, game.expert_policy())
    rows.append(
        (
            "T2",
            "Lemma 5",
            game.name,
            "J at the expert, less K",
            top - game.n_agents,
            "0",
            abs(top - game.n_agents) < 1e-9,
        )
    )
    rows.append(
        (
            "T2",
            "Lemma 5",
            game.name,
            "best J elsewhere, less K",
            best - game.n_agents,
            "< 0",
            best < game.n_agents,
        )
    )
    maximum = game.visited() * game.n_states * game.n_agents
    rows.append(
        (
            "T2",
            "Lemma 7",
            game.name,
            "best L_eps elsewhere, less its maximum",
            best_bound - maximum,
            "< 0",
            best_bound < maximum,
        )
    )
    return rows


def t7_local() -> list[Row]:
    """What agents that see only their own part cannot know."""
    own, team = miniatures.xor()
    strip = miniatures.tiles(0)
    rights, lefts = miniatures.tile_visits(strip, (1, 1)), miniatures.tile_visits(strip, (0, 0))
    one_team = miniatures.residual(strip, rights)
    two_teams = miniatures.residual(strip, [rights[0], lefts[1]])
    blind, place = "own observations suffice", "four tiles, {} demonstrations"
    rows: list[Row] = [
        ("T7", blind, "XOR", "distance of each agent's own distribution", own, "0", own == 0),
        ("T7", blind, "XOR", "distance of the team's distribution", team, "0", team == 0),
    ]
    for title, whose, left, fits in (
        ("Definition 1: compatible", "one team's", one_team, one_team < 1e-9),
        ("Definition 1: incompatible", "two teams'", two_teams, two_teams > 1e-3),
    ):
        expected = "0" if whose == "one team's" else "> 0"
        rows.append(("T7", title, place.format(whose), "least residual", left, expected, fits))
    return rows


def t8_equilibrium(rng: np.random.Generator, game: Game) -> list[Row]:
    """Theorem 3 with the reward taken at the expert, as it is proved, and at another policy, as training has it."""
    game = dataclasses.replace(game, expert=equilibria.team_optimum(game))
    rows: list[Row] = []
    away = gail.random_policy(rng, game)
    for form, place, pi, what in (
        ("neglog_agent", "Theorem 3", game.expert_policy(), "at the expert"),
        ("neglog_agent", "practice: reward of the current policies", away, "at random policies"),
        ("logit", "practice: logit", away, "at random policies"),
        ("state_logit", "practice: states only", away, "at random policies"),
    ):
        rewards = equilibria.rewards_at(game, pi, form)  # type: ignore[arg-type]
        worst = max(equilibria.gap(game, 1.0, beta, rewards) for beta in BETAS)
        rows.append(
            ("T8", place, game.name, f"best deviation's gain, {form} {what}", worst, "0", worst < 1e-9)
        )
    return rows


def t9_converse(rng: np.random.Generator, count: int) -> list[Row]:
    """Every equilibrium of the mixed game is one of the task, says the text; Theorem 3 says the opposite direction."""
    rows: list[Row] = []
    for n_agents in (2, 3):
        for beta in BETAS:
            found = [equilibria.converse_fails(rng, n_agents, beta) for _ in range(count)]
            kept, failed = sum(a for a, _, _ in found), sum(bool(b) for _, b, _ in found)
            low, high = wilson(failed, count)
            where = f"{count} team matrix games K={n_agents}, beta {beta:g}"
            what = "share with the expert an equilibrium"
            rows.append(("T9", "Theorem 3", where, what, kept / count, "1", kept == count))
            what = f"share with an equilibrium that is none of the task's [{low:.3f}, {high:.3f}]"
            place = "its converse, read into the text"
            rows.append(("T9", place, where, what, failed / count, "0", failed == 0))
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
    """Joint demonstrations coordinate, independent ones do not; concurrency changes nothing."""
    runs = [miniatures.two_conventions(rng) for _ in range(count)]
    mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    rows: list[Row] = []
    for name, value in mean.items():
        joint = name.startswith("joint")
        holds = value > 0.99 if joint else value < 0.01
        what = f"joint success, {name}"
        rows.append(
            ("T10", "co-training matters", "two conventions", what, value, "1" if joint else "0", holds)
        )
    alone, helped = miniatures.climbing(rng, 0.0, 20 * count), miniatures.climbing(rng, 5.0, 20 * count)
    rows.append(
        (
            "control",
            "matching helps where it must",
            "climbing game",
            "reaches the best cell, task alone",
            alone,
            "< 0.5",
            alone < 0.5,
        )
    )
    rows.append(
        (
            "control",
            "matching helps where it must",
            "climbing game",
            "reaches the best cell, with matching",
            helped,
            "> 0.95",
            helped > 0.95,
        )
    )
    return rows


def run(seed: int, count: int, poll: Callable[[str], None] = lambda _: None) -> pd.DataFrame:
    """Every test on `count` random games; `poll` hears what comes next."""
    rng = np.random.default_rng(seed)
    chosen = games(rng, count)
    rows: list[Row] = []
    for game in chosen:
        poll(game.name)
        rows += t1_t2_bounds(rng, game, 100 * count)
        rows += t3_t4_turns(rng, game, 60)
        rows += t6_simultaneous(rng, game, 60)
        rows += t8_equilibrium(rng, game)
    poll("small worlds")
    rows += t5_decoupled(rng, 60) + t7_local() + t9_converse(rng, 120 * count) + t10_ablation(rng, count)
    counted = counterexample(rng, 0.1)
    poll("turns as best responses")
    for game in (corridor(2, 6, 0.02, 0.99), corridor(3, 6, 0.02, 0.99)):
        rows += t3_best_responses(rng, game, count)
    rows += t6_matrix_games(rng, count)
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
