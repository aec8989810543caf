"""Estimates, resampling and tests against closed forms and hand-made tables."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from dm2core.analysis.arms import outcome
from dm2core.analysis.stats import aggregates, curve
from dm2core.analysis.stats.bootstrap import resample
from dm2core.analysis.stats.intervals import METHODS, Term, interval, p_value, variance
from dm2core.analysis.stats.permutation import Side, evenly, holm, permutation_p
from dm2core.analysis.stats.power import MOST, required_units
from dm2core.analysis.stats.sample import Sample
from dm2core.rng import stream


def rng(name: str = "x") -> np.random.Generator:
    return stream(1, f"test_stats/{name}")


def teams_by_seeds(table: np.ndarray) -> Sample:
    n_teams, n_seeds = table.shape
    return Sample.of(
        table.ravel(), np.repeat(np.arange(n_teams), n_seeds).tolist(), list(range(n_seeds)) * n_teams
    )


@pytest.mark.parametrize("n", [4, 8, 20])
def test_iqm_is_the_trimmed_mean(n: int) -> None:
    values = rng().random(n)
    got = aggregates.iqm(values, Sample.of(values).weights)[0]
    assert got == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-12)


def test_iqm_of_five_counts_the_edge_runs_in_part() -> None:
    values = np.array([0.0, 1.0, 2.0, 4.0, 9.0])
    got = aggregates.iqm(values, np.full((1, 5), 0.2))[0]
    assert got == pytest.approx((0.75 * 1 + 2 + 0.75 * 4) / 2.5)


def test_probability_of_improvement_counts_ties_as_half() -> None:
    a, b = np.array([1.0, 2.0]), np.array([1.0, 0.0])
    got = aggregates.probability_of_improvement(a, b, Sample.of(a).weights, Sample.of(b).weights)[0]
    assert got == pytest.approx(3.5 / 4)


def test_teams_count_alike_whatever_their_runs() -> None:
    sample = Sample.of([1.0, 1.0, 1.0, 3.0], teams=["p", "p", "p", "q"])
    assert sample.mean == pytest.approx(2.0)


@pytest.mark.parametrize("values", [[], [float("nan")]])
def test_samples_without_numbers_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        Sample.of(values)


def test_bootstrap_of_one_team_has_the_closed_form_variance() -> None:
    sample = Sample.of(rng().random(8))
    means = resample(sample, 200_000, rng()) @ sample.values
    assert means.var() == pytest.approx(sample.values.var() / 8, rel=0.02)


def test_bootstrap_of_nested_teams_has_the_closed_form_variance() -> None:
    sample = Sample.of(rng().random(9), teams=[0, 0, 0, 0, 1, 1, 1, 2, 2])
    assert not sample.crossed
    weights = resample(sample, 200_000, rng())
    assert weights.sum(axis=1) == pytest.approx(1.0)
    within = [sample.values[sample.teams == t].var() / (sample.teams == t).sum() for t in range(3)]
    expected = (sample.team_means().var() + np.mean(within)) / 3
    assert (weights @ sample.values).var() == pytest.approx(expected, rel=0.02)


def test_bootstrap_of_crossed_teams_draws_both_factors() -> None:
    rows, columns = np.array([0.0, 1.0, 5.0]), np.array([0.0, 2.0, 3.0, 9.0])
    sample = teams_by_seeds(rows[:, None] + columns)
    assert sample.crossed
    means = resample(sample, 200_000, rng()) @ sample.values
    assert means.var() == pytest.approx(rows.var() / 3 + columns.var() / 4, rel=0.02)


def test_crossed_variance_is_unbiased() -> None:
    generator, got = rng(), []
    for _ in range(4000):
        table = (
            generator.normal(0, 1.0, (4, 1)) + generator.normal(0, 0.7, 5) + generator.normal(0, 0.5, (4, 5))
        )
        got.append(teams_by_seeds(table).variance()[0])
    assert np.mean(got) == pytest.approx(1.0 / 4 + 0.49 / 5 + 0.25 / 20, rel=0.05)


def test_crossed_variance_by_hand() -> None:
    """Rows that are 2 apart, columns 1 apart, and no rest: MS_team 6 with df 1, MS_seed 2 with df 2, over 6 runs."""
    table = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    assert teams_by_seeds(table).variance() == pytest.approx(((6 + 2) / 6, 64 / (36 + 4 / 2)))


def test_the_floor_of_the_crossed_variance_keeps_the_designs_degrees_of_freedom() -> None:
    """Team and seed means alike: both mean squares are 0, the rest's is 1 with one degree of freedom."""
    assert teams_by_seeds(np.array([[0.0, 1.0], [1.0, 0.0]])).variance() == pytest.approx((1 / 4, 1.0))


def test_the_variance_of_nested_teams_is_that_of_their_means() -> None:
    sample = Sample.of([0.0, 0.2, 0.4, 0.5, 0.9], teams=[0, 0, 0, 1, 2])
    assert sample.variance() == pytest.approx((np.var([0.2, 0.5, 0.9], ddof=1) / 3, 2))


def test_arms_that_are_the_same_but_for_rounding_have_a_p_of_one() -> None:
    for value in (1.0, 0.96875, 0.3):
        a = teams_by_seeds(np.full((3, 5), value))
        b = Sample.of([value] * 10)
        assert p_value([Term(1.0, a), Term(-1.0, b)]) == 1.0
    assert p_value([Term(1.0, a), Term(-1.0, Sample.of([0.9] * 5))]) == 0.0


def test_t_interval_is_welchs() -> None:
    a, b = rng("a").random(5), rng("b").random(9) * 2
    low, high = interval([Term(1.0, Sample.of(a)), Term(-1.0, Sample.of(b))], rng())
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_bca_and_percentile_agree_with_scipy() -> None:
    values = rng().beta(2, 8, 30)
    for method, name in (("bca", "BCa"), ("percentile", "percentile")):
        got = interval([Term(1.0, Sample.of(values))], rng(), method=method, resamples=50_000)
        reference = stats.bootstrap((values,), np.mean, method=name, n_resamples=50_000, rng=rng("scipy"))
        width = reference.confidence_interval.high - reference.confidence_interval.low
        assert got == pytest.approx(tuple(reference.confidence_interval), abs=0.03 * width)


@pytest.mark.parametrize("method", METHODS)
def test_intervals_are_deterministic_and_collapse_without_spread(method: str) -> None:
    terms = [Term(1.0, Sample.of(rng().random(6)))]
    assert interval(terms, rng(), method=method) == interval(terms, rng(), method=method)
    assert interval([Term(1.0, Sample.of([0.5, 0.5]))], rng(), method=method) == (0.5, 0.5)
    assert interval([Term(1.0, Sample.of([0.5]))], rng(), method=method) == (-np.inf, np.inf)


def test_several_teams_widen_the_interval() -> None:
    values = np.array([0.1, 0.12, 0.5, 0.52, 0.9, 0.92])
    teams = Sample.of(values, teams=[0, 0, 1, 1, 2, 2])
    assert variance([Term(1.0, teams)])[0] > 1.5 * variance([Term(1.0, Sample.of(values))])[0]


def even(a: np.ndarray, b: np.ndarray) -> tuple[Side, Side]:
    return evenly(a), evenly(b)


def test_permutation_p_of_known_tables() -> None:
    apart = [even(np.array([1.0, 2.0, 3.0]), np.array([7.0, 8.0, 9.0]))]
    assert permutation_p(apart, rng()).p == pytest.approx(2 / 20)
    assert permutation_p(apart * 2, rng()).p == pytest.approx(2 / 400)
    assert permutation_p([even(np.ones(3), np.ones(3))], rng()).p == 1.0
    five = permutation_p([even(np.arange(5.0), np.arange(5.0) + 10)], rng())
    assert (five.p, five.error) == (pytest.approx(2 / 252), 0.0)


def test_permutation_p_agrees_with_scipy_at_unequal_sizes() -> None:
    a, b = rng("a").random(4), rng("b").random(6) + 0.2
    reference = stats.permutation_test((a, b), lambda x, y: abs(x.mean() - y.mean()), alternative="greater")
    assert permutation_p([even(a, b)], rng()).p == pytest.approx(reference.pvalue)


def test_permutation_p_counts_runs_by_their_weights() -> None:
    """Every order of six runs, by hand: three of one condition and one of another count alike as conditions."""
    values = np.array([0.9, 0.1, 0.3, 0.8, 0.2, 0.05])
    weights = np.array([1 / 6, 1 / 6, 1 / 6, 1 / 2, -1 / 2, -1 / 2])
    every = np.array(list(permutations(values))) @ weights
    expected = np.mean(np.abs(every) >= abs(values @ weights) - 1e-9)
    drawn = permutation_p([((values[:4], weights[:4]), (values[4:], -weights[4:]))], rng())
    assert 0.05 < expected < 0.95 and drawn.p == pytest.approx(expected, abs=6 * drawn.error)
    plain = permutation_p([even(values[:4], values[4:])], rng()).p
    assert abs(plain - expected) > 12 * drawn.error


def test_ten_against_ten_is_exact_and_more_is_monte_carlo() -> None:
    a, b = np.arange(10.0), np.arange(10.0) + 100
    assert permutation_p([even(a, b)], rng()).p == pytest.approx(2 / 184_756)
    a, b = rng("a").random(12), rng("b").random(12)
    drawn = permutation_p([even(a, b)], rng())
    welch = stats.ttest_ind(a, b).pvalue  # at these sizes within 0.02 of the permutation's
    assert drawn.error > 0
    assert drawn.p == pytest.approx(welch, abs=0.02)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_curve_numbers_of_a_ramp() -> None:
    x = np.linspace(0, 100, 101)
    y = x / 100
    assert curve.area(x, y, 100) == pytest.approx(0.5)
    assert curve.area(x, y, 50.5) == pytest.approx(0.2525)
    assert curve.early(x, y, 100) == pytest.approx(0.05)
    assert curve.final(x, y, 100) == pytest.approx(0.95)
    assert curve.steps_to(x, y, 0.5) == 50
    assert np.isnan(curve.steps_to(x, y, 1.5))


@pytest.mark.parametrize("equivalence", [False, True])
@pytest.mark.parametrize("difference", [0.02, -0.06, 0.09, 0.12, -0.2, 0.5])
def test_required_runs_are_the_fewest_with_which_the_rule_decides(
    difference: float, equivalence: bool
) -> None:
    a = np.array([0.5, 0.7, 0.6, 0.4])
    b = np.array([0.45, 0.55, 0.65, 0.35])
    b += a.mean() - b.mean() - difference
    terms = [Term(1.0, Sample.of(a)), Term(-1.0, Sample.of(b))]

    def decided(runs: int) -> bool:
        variances = [v / runs for v in (a.var(ddof=1), b.var(ddof=1))]
        df = sum(variances) ** 2 / sum(v**2 / (runs - 1) for v in variances)
        half = float(stats.t.ppf(0.975, df)) * sum(variances) ** 0.5
        found = outcome(difference, difference - half, difference + half, 0.1, equivalence=equivalence)
        return found != "inconclusive"

    n = required_units(terms, 0.1, equivalence=equivalence)
    assert n == next((runs for runs in range(2, MOST + 1) if decided(runs)), None)


def test_intervals_cover_at_five_runs_where_percentiles_do_not() -> None:
    generator, hits = rng(), {"t": 0, "percentile": 0}
    for _ in range(400):
        terms = [Term(sign, Sample.of(generator.normal(0.5, 0.1, 5))) for sign in (1.0, -1.0)]
        for method in hits:
            low, high = interval(terms, generator, method=method, resamples=1000)
            hits[method] += low <= 0 <= high
    assert hits["t"] / 400 > 0.92 > hits["percentile"] / 400
