"""The theory's machinery against closed forms and plain loops, and its statements at a small size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dm2core.analysis.theory_figure import page, plot
from dm2core.theory import bounds, equilibria, gail, miniatures, report, turns
from dm2core.theory.games import Game, corridor, decoupled, joint_actions, matrix_game, random_game
from dm2core.theory.occupancy import action_values, best_values, facing, joint_policy, visitation

RNG = np.random.default_rng(3)
TWO, THREE = random_game(RNG, 2, 4, 3, 0.2), random_game(RNG, 3, 3, 2, 0.2)


@pytest.mark.parametrize("game", [TWO, THREE, corridor(2, 5, 0.05)], ids=lambda game: game.name)
def test_visitation_is_the_discounted_sum_of_state_distributions(game: Game) -> None:
    pi = gail.random_policy(RNG, game)
    p = np.einsum("sj,sjt->st", joint_policy(game, pi), game.transition)
    state, total = game.start.copy(), np.zeros(game.n_states)
    for t in range(2000):
        total += (1 - game.gamma) * game.gamma**t * state
        state = state @ p
    np.testing.assert_allclose(visitation(game, pi), total, atol=1e-12)
    assert visitation(game, pi).min() >= game.visited() > 0


def test_joint_policy_multiplies_the_agents() -> None:
    pi = gail.random_policy(RNG, THREE)
    joint = joint_policy(THREE, pi)
    for j, (a, b, c) in enumerate(joint_actions(3, 2)):
        np.testing.assert_allclose(joint[:, j], pi[0, :, a] * pi[1, :, b] * pi[2, :, c])
    np.testing.assert_allclose(joint.sum(1), 1)


def test_what_one_agent_faces_gives_the_teams_value() -> None:
    """V of the facing process, weighted by the start, is the same for every agent, and its Q has V as mean."""
    pi = gail.random_policy(RNG, TWO)
    values = []
    for i in range(2):
        transition, reward = facing(TWO, pi, i)
        np.testing.assert_allclose(transition.sum(2), 1)
        values.append(TWO.start @ (pi[i] * action_values(transition, reward, pi[i], TWO.gamma)).sum(1))
    rho = visitation(TWO, pi)
    direct = (rho[:, None] * joint_policy(TWO, pi) * TWO.reward).sum() / (1 - TWO.gamma)
    np.testing.assert_allclose(values, direct)


def test_policy_gradient_direction_agrees_with_finite_differences() -> None:
    """The derivative of an agent's value along d pi is sum rho(s) d pi(a|s) Q(s, a) / (1 - gamma)."""
    pi, i = gail.random_policy(RNG, TWO), 1
    transition, reward = facing(TWO, pi, i)
    q = action_values(transition, reward, pi[i], TWO.gamma)
    d = RNG.standard_normal(pi[i].shape)
    d -= d.mean(1, keepdims=True)

    def value(own: np.ndarray) -> float:  # type: ignore[type-arg]
        return float(TWO.start @ (own * action_values(transition, reward, own, TWO.gamma)).sum(1))

    slope = (value(pi[i] + 1e-6 * d) - value(pi[i] - 1e-6 * d)) / 2e-6
    expected = (visitation(TWO, pi)[:, None] * d * q).sum() / (1 - TWO.gamma)
    assert slope == pytest.approx(expected, rel=1e-6)


def test_best_values_are_those_of_the_best_deterministic_policy() -> None:
    transition, reward = facing(TWO, gail.random_policy(RNG, TWO), 0)
    every = np.array(np.meshgrid(*[range(3)] * 4)).reshape(4, -1).T
    all_values = [
        (np.eye(3)[a] * action_values(transition, reward, np.eye(3)[a], TWO.gamma)).sum(1) for a in every
    ]
    np.testing.assert_allclose(best_values(transition, reward, TWO.gamma), np.max(all_values, axis=0))


def test_a_game_solved_by_hand() -> None:
    """One state, two agents, two actions, the expert plays 0: J = 1 + pq, L = L_eps = p + q."""
    game = matrix_game("by hand", np.eye(2), np.array([0, 0]))
    pi = np.array([[[0.3, 0.7]], [[0.8, 0.2]]])
    assert bounds.objective(game, pi) == pytest.approx(1 + 0.3 * 0.8)
    assert bounds.lower(game, pi) == pytest.approx(1.1)
    assert bounds.lower_eps(game, pi) == pytest.approx(1.1)
    agent = gail.imitation_reward(game, pi, 0, "neglog_agent")
    np.testing.assert_allclose(agent, [[np.log(1 + 1 / 0.3), 0]], atol=1e-5)
    printed = gail.imitation_reward(game, pi, 0, "printed")
    assert printed[0, 1] > printed[0, 0] == pytest.approx(np.log(1.3), abs=1e-5)
    logit = gail.imitation_reward(game, pi, 1, "logit")
    np.testing.assert_allclose(logit, [[-np.log(0.8), np.log(1e-6 / 0.2)]], atol=1e-4)


@pytest.mark.parametrize("game", [TWO, THREE], ids=lambda game: game.name)
def test_bounds_are_never_violated_and_the_expert_is_the_only_maximum(game: Game) -> None:
    rows = report.t1_t2_bounds(np.random.default_rng(0), game, 200)
    assert len(rows) == 7 and all(holds for *_, holds in rows)


@pytest.mark.parametrize("game", [TWO, THREE, corridor(2, 5, 0.05)], ids=lambda game: game.name)
def test_rewards_that_lead_to_the_expert_and_one_that_does_not(game: Game) -> None:
    start = gail.random_policy(np.random.default_rng(1), game)
    ends = {form: gail.learn(game, start, form, turns=40) for form in gail.FORMS}
    assert ends["neglog_agent"].matching[-1] > 0.999 and ends["logit"].matching[-1] > 0.999
    assert ends["printed"].matching[-1] < 0.01
    assert ends["state_logit"].distance[-1] < 0.1 and ends["state_logit"].matching[-1] < 0.95
    rising = np.diff(ends["neglog_agent"].bound)
    assert rising.min() > -1e-9


def test_best_responses_by_turns_may_never_reach_the_expert() -> None:
    """Each turn raises the agent's imitation value, and still the bound falls and the expert is missed."""
    game = corridor(2, 6, 0.02, 0.99)
    assert game.visited() > 0  # Condition 1
    ends = [
        gail.learn(
            game, gail.random_policy(np.random.default_rng(seed), game), "neglog_agent",
            turns=40, steps=1, size=turns.BEST_RESPONSE,
        )
        for seed in range(6)
    ]  # fmt: skip
    missed = [end for end in ends if end.matching[-1] < 0.9]
    assert missed and all(end.improved >= 35 and end.bound_fell > 5 for end in missed)
    small = gail.learn(game, gail.random_policy(np.random.default_rng(0), game), "neglog_agent", turns=100)
    assert small.matching[-1] > 0.99 and small.bound_fell == 0


def test_states_that_actions_do_not_move_teach_nothing() -> None:
    game = decoupled(np.random.default_rng(2), 2, 4, 3)
    start = gail.random_policy(np.random.default_rng(3), game)
    trace = gail.learn(game, start, "state_logit", turns=10)
    assert trace.distance[0] < 1e-12
    np.testing.assert_allclose(trace.matching, trace.matching[0])


def test_expert_is_an_equilibrium_of_the_mixed_game_but_not_the_other_way_round() -> None:
    game = dataclasses.replace(TWO, expert=equilibria.team_optimum(TWO))
    rewards = equilibria.rewards_at(game, game.expert_policy(), "neglog_agent")
    assert all(equilibria.gap(game, 1.0, beta, rewards) < 1e-9 for beta in (0.0, 0.3, 4.0))
    spoilt = dataclasses.replace(game, expert=1 - np.minimum(game.expert, 1))
    assert equilibria.gap(spoilt, 1.0, 0.0, rewards) > 0
    rng = np.random.default_rng(4)
    found = {
        k: [equilibria.converse_fails(rng, k, beta) for beta in (0.1, 0.3) for _ in range(150)]
        for k in (2, 3)
    }
    assert all(kept for runs in found.values() for kept, _, _ in runs)
    assert not any(bad for _, bad, _ in found[2])
    assert 0.01 < np.mean([bool(bad) for _, bad, _ in found[3]]) < 0.12


def test_pure_equilibria_of_known_games() -> None:
    stag = np.array([[4.0, 0.0], [3.0, 2.0]])
    assert equilibria.pure_equilibria(np.stack([stag, stag.T])) == {(0, 0), (1, 1)}
    pennies = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert equilibria.pure_equilibria(np.stack([pennies, -pennies])) == set()


def test_own_views_do_not_determine_the_team() -> None:
    assert miniatures.xor() == (0.0, 0.5)
    strip = miniatures.tiles(0)
    rights, lefts = (miniatures.tile_visits(strip, (a, a)) for a in (1, 0))
    assert miniatures.residual(strip, rights) == pytest.approx(0, abs=1e-9)
    assert miniatures.residual(strip, [rights[0], lefts[1]]) > 0.5


def test_the_ablation_in_miniature_and_a_game_where_matching_must_help() -> None:
    success = miniatures.two_conventions(np.random.default_rng(5))
    assert success["joint-concurrent"] > 0.99 > 0.01 > success["indep-concurrent"]
    rng = np.random.default_rng(6)
    assert miniatures.climbing(rng, 0.0, 30) < 0.6 < miniatures.climbing(rng, 5.0, 30)


def test_wilson_interval() -> None:
    assert report.wilson(0, 100) == pytest.approx((0, 0.0370), abs=1e-4)
    assert report.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_figure_and_page_come_out_of_the_table(tmp_path: Path) -> None:
    table, lines = report.run(1, 2), report.curves(1)
    assert list(table.columns) == report.COLUMNS
    assert set(table["test"]) == {*(f"T{k}" for k in range(1, 11)), "control"}
    holds = table.groupby("statement")["holds"].all()
    assert holds[["Theorem 1", "Theorem 2", "Theorem 3", "Corollary 1", "Lemma 4", "Lemma 5"]].all()
    assert not holds["appendix A as printed"]
    for folder in ("a", "b"):
        plot(table, lines, tmp_path / folder)
    assert (tmp_path / "a/theory.pdf").read_bytes() == (tmp_path / "b/theory.pdf").read_bytes()
    assert len(pd.read_csv(tmp_path / "a/theory.csv")) == len(table)
    assert "| T1 | Theorem 1 | least J - L | 4 | 4 |  |" in page(table, "a game")
