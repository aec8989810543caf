"""The theory's machinery against closed forms and plain loops, and its statements at a small size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dm2core.analysis.theory_figure import page, plot
from dm2core.theory import bounds, equilibria, gail, miniatures, order, report, turns
from dm2core.theory.games import (
    Game,
    decoupled,
    deterministic,
    joint_actions,
    matrix_game,
    random_game,
    ring,
    unreachable,
)
from dm2core.theory.occupancy import action_values, best_policy, best_values, facing, joint_policy, visitation
from dm2core.theory.table import COLUMNS

RNG = np.random.default_rng(3)
TWO, THREE = random_game(RNG, 2, 4, 3, 0.2), random_game(RNG, 3, 3, 2, 0.2)


@pytest.mark.parametrize("game", [TWO, THREE, ring(2, 5, 0.05)], ids=lambda game: game.name)
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
    np.testing.assert_allclose(agent, [[np.log(1 + 1 / 0.3), 0]])
    at_expert = gail.imitation_reward(game, game.expert_policy(), 0, "neglog_agent")
    np.testing.assert_allclose(at_expert, [[np.log(2), 0]])
    printed = gail.imitation_reward(game, pi, 0, "printed")
    assert printed[0, 1] > printed[0, 0] == pytest.approx(np.log(1.3), abs=1e-5)
    logit = gail.imitation_reward(game, pi, 1, "logit")
    np.testing.assert_allclose(logit, [[-np.log(0.8), np.log(1e-6 / 0.2)]], atol=1e-4)


@pytest.mark.parametrize("game", [TWO, THREE], ids=lambda game: game.name)
def test_bounds_are_never_violated_and_the_expert_is_the_only_maximum(game: Game) -> None:
    rows = order.random_policies(np.random.default_rng(0), game, 200)
    assert len(rows) == len(order.STATED) and all(holds for *_, holds in rows)


@pytest.mark.parametrize(("n_agents", "n_states"), [(2, 3), (3, 2)])
def test_bounds_are_attained_by_deterministic_policies(n_agents: int, n_states: int) -> None:
    """Which a constant that is too small, a slack bound, would not be; and the strict form of Corollary 1 fails."""
    game = random_game(np.random.default_rng(5), n_agents, n_states, 2, 0.2)
    rows = order.all_deterministic(game)
    assert [holds for *_, holds in rows] == [True] * len(order.STATED) + [False]
    least = min(visitation(game, pi).min() for pi in deterministic(game))
    assert least >= game.visited() > 0.9 * least
    assert sum(1 for _ in deterministic(game)) == 2 ** (n_agents * n_states)


def test_a_state_that_nobody_visits_leaves_the_expert_undetermined() -> None:
    (row,) = order.without_condition_1()
    assert unreachable().visited() == 0 and row[4] == pytest.approx(0) and not row[-1]
    with pytest.raises(ValueError, match="Condition 1"):
        gail.imitation_reward(unreachable(), unreachable().expert_policy(), 0, "state_logit")


@pytest.mark.parametrize("game", [TWO, THREE, ring(2, 5, 0.05)], ids=lambda game: game.name)
def test_rewards_that_lead_to_the_expert_and_one_that_does_not(game: Game) -> None:
    start = gail.random_policy(np.random.default_rng(1), game)
    ends = {form: gail.learn(game, start, form, turns=40) for form in gail.FORMS}
    assert ends["neglog_agent"].matching[-1] > 0.999 and ends["logit"].matching[-1] > 0.999
    assert ends["printed"].matching[-1] < 0.01
    assert ends["state_logit"].distance[-1] < 0.1 and ends["state_logit"].matching[-1] < 0.95
    rising = np.diff(ends["neglog_agent"].bound)
    assert rising.min() > -1e-9


@pytest.mark.parametrize("game", [TWO, ring(2, 6, 0.02, 0.99)], ids=lambda game: game.name)
@pytest.mark.parametrize("update", ["gradient", "best response"])
def test_assumption_1_is_an_identity_and_lemma_6_an_equality(game: Game, update: gail.Update) -> None:
    """Nothing is paid off the expert's action, so the expected reward of a state rises with the match alone."""
    start = gail.random_policy(np.random.default_rng(2), game)
    done = gail.learn(game, start, "neglog_agent", turns=20, steps=2, update=update).updates
    assert done.improved > 1 and done.premises > 5 and done.refuted == 0 and done.loss_gap < 1e-12
    wrong = gail.learn(game, start, "printed", turns=20, steps=2, update=update).updates
    assert wrong.refuted > 0.5 * wrong.premises > 0


def test_best_responses_may_lower_the_bound_and_never_reach_the_expert() -> None:
    """On a ring, where a single agent that learns so does not always arrive either; by small steps all do."""
    found = {
        name: value
        for k in (1, 2)
        for _, name, _, _, value, *_ in turns.t3_best_responses(
            np.random.default_rng(0), ring(k, 6, 0.02, 0.99), 12
        )
    }
    assert found["Theorem 2 without Condition 2, by best responses"] < 0.75
    assert 0.5 < found["Condition 2, by best responses"] < 1
    assert found["an improvement raises L_eps, by best responses"] > 0.1
    game = ring(2, 6, 0.02, 0.99)
    small = gail.learn(game, gail.random_policy(np.random.default_rng(0), game), "neglog_agent", turns=150)
    assert small.matching[-1] > turns.REACHED and small.updates.bound_fell == small.updates.stuck == 0


def test_best_policy_leaves_nothing_to_gain() -> None:
    transition, reward = facing(TWO, gail.random_policy(RNG, TWO), 1)
    own = best_policy(transition, reward, TWO.gamma)
    q = action_values(transition, reward, own, TWO.gamma)
    np.testing.assert_allclose((own * q).sum(1), q.max(1))


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
    assert equilibria.gap(game, 0.0, -1.0, rewards) > 0.1
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
    p, mixed, task = equilibria.interior_converse(0.1)
    assert p == pytest.approx(0.5 - 0.05 * np.log(2)) and mixed == pytest.approx(0)
    assert task == pytest.approx(1 - p - (p * p + (1 - p) ** 2))


def test_pure_equilibria_of_known_games() -> None:
    stag = np.array([[4.0, 0.0], [3.0, 2.0]])
    assert equilibria.pure_equilibria(np.stack([stag, stag.T])) == {(0, 0), (1, 1)}
    pennies = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert equilibria.pure_equilibria(np.stack([pennies, -pennies])) == set()


def test_own_views_do_not_determine_the_team() -> None:
    assert miniatures.xor() == (0.0, 0.5)
    strip = miniatures.tiles(0)
    first, second = miniatures.at_a(strip, 0), miniatures.at_a(strip, 1)
    for teams, apart in (([first, first], 0.0), ([second, second], 0.0), ([first, second], 0.9)):
        assert miniatures.incompatibility(strip, miniatures.shown(strip, teams)) == pytest.approx(
            apart, abs=1e-9
        )
        tiles = [miniatures.own_tiles(strip, pi)[i] for i, pi in enumerate(teams)]
        assert miniatures.residual(strip, tiles) == pytest.approx(apart, abs=1e-9)


def test_compatible_demonstrations_are_those_of_one_joint_policy() -> None:
    one, other = (gail.random_policy(np.random.default_rng(seed), TWO) for seed in (7, 8))
    assert miniatures.incompatibility(TWO, miniatures.shown(TWO, [one, one])) < 1e-12
    assert miniatures.incompatibility(TWO, miniatures.shown(TWO, [one, other])) > 1e-3


def test_the_ablation_in_miniature_and_a_game_where_matching_must_help() -> None:
    success = miniatures.two_conventions(np.random.default_rng(5))
    assert min(success["joint"], success["indep, of one convention"]) > 0.99
    assert success["indep, of two conventions"] < 0.01
    rng = np.random.default_rng(6)
    assert miniatures.climbing(rng, 0.0, 30) < 0.6 < miniatures.climbing(rng, 5.0, 30)


def test_wilson_interval() -> None:
    assert report.wilson(0, 100) == pytest.approx((0, 0.0370), abs=1e-4)
    assert report.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_figure_and_page_come_out_of_the_table(tmp_path: Path) -> None:
    table, lines = report.run(1, 2), report.curves(1)
    assert list(table.columns) == COLUMNS
    assert set(table["test"]) == {*(f"T{k}" for k in range(1, 11)), "control"}
    holds = table.groupby("statement")["holds"].all()
    assert holds[
        ["Theorem 1", "Theorem 2", "Theorem 3", "Corollary 1, with >=", "Lemma 4", "Lemma 5", "Lemma 6"]
    ].all()
    assert not holds["appendix A as printed"]
    for folder in ("a", "b"):
        plot(table, lines, tmp_path / folder)
    assert (tmp_path / "a/theory.pdf").read_bytes() == (tmp_path / "b/theory.pdf").read_bytes()
    assert len(pd.read_csv(tmp_path / "a/theory.csv")) == len(table)
    assert "| T1 | Theorem 1 | least J - L | 4 | 4 |  |" in page(table, "a game")
