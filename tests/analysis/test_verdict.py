"""Simulated campaigns with known truth: true claims are replicated, false ones are not, unfinished conditions wait."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from dm2core.analysis.arms import OUTCOMES, Arm, outcome
from dm2core.analysis.claims import Claims, load_claims
from dm2core.analysis.export import marl_eval, write_tidy
from dm2core.analysis.grid import all_cells
from dm2core.analysis.run_table import CELL, DEMONSTRATORS, check_planned, read_runs, read_training
from dm2core.analysis.stats.sample import Sample
from dm2core.analysis.verdict import further, summarise, verdict
from dm2core.analysis.verdict_page import other_outcomes, page
from dm2core.config import cell_config, load_config
from dm2core.errors import EXIT_DATA, DataError
from dm2core.rng import stream
from workflow.scripts import judge, measure_coverage

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 1000
STEPS = np.arange(0, BUDGET + 1, 50)
SET = "ippo-s5000k_joint-concurrent"


def claim(**changes: object) -> Claims:
    contrast = {"map": "3m", "a": [f"dm2@{SET}"], "b": ["ippo"]}
    base = {"id": "x", "statement": "s", "place": "p", "metric": "final", "direction": "above"}
    fields = base | {"smallest_effect": 0.1, "contrasts": [contrast]} | changes
    theory = [{"id": "T1", "statement": "s", "place": "p"}]
    return Claims.model_validate(
        {"budget": BUDGET, "paper_budget": BUDGET, "claims": [fields], "theory": theory}
    )


def campaign(
    difference: float, *, n: int = 10, teams: int = 1, spread: float = 0.0, sd: float = 0.05
) -> pd.DataFrame:
    """DM2 ends at 0.5 + difference, IPPO at 0.5; `spread` is the sd between expert teams."""
    rng = stream(7, f"{difference}/{n}/{teams}/{spread}/{sd}")
    parts = []
    for method, demos, level, n_teams in (("dm2", SET, 0.5 + difference, teams), ("ippo", "none", 0.5, 1)):
        for team in range(n_teams):
            level_of_team = level + rng.normal(0, spread) if method == "dm2" else level
            for seed in range(n):
                top = np.clip(level_of_team + rng.normal(0, sd), 0, 1)
                rows = {"env_steps": STEPS, "win_rate": top * np.minimum(1, STEPS / 500)}
                name = f"t{team}" if method == "dm2" else ""
                parts.append(
                    pd.DataFrame(rows).assign(map="3m", method=method, demos=demos, team=name, seed=seed)
                )
    return pd.concat(parts, ignore_index=True).assign(demonstrator_win_rate=0.3)


def judged(runs: pd.DataFrame, **changes: object) -> pd.Series:
    return verdict(runs, claim(**changes)).iloc[0]


@pytest.mark.parametrize(
    ("effect", "low", "high", "word"),
    [
        (0.2, 0.05, 0.35, "replicated"),
        (0.06, 0.01, 0.11, "direction only"),
        (0.02, -0.05, 0.09, "not replicated"),
        (-0.2, -0.3, -0.1, "reversed"),
        (0.2, -0.1, 0.5, "inconclusive"),
    ],
)
def test_outcomes_of_hand_made_intervals(effect: float, low: float, high: float, word: str) -> None:
    assert outcome(effect, low, high, 0.1) == word


def test_outcomes_of_equivalence() -> None:
    assert outcome(0.02, -0.05, 0.09, 0.1, equivalence=True) == "replicated"
    assert outcome(-0.3, -0.4, -0.2, 0.1, equivalence=True) == "not replicated"
    assert outcome(0.1, -0.1, 0.3, 0.1, equivalence=True) == "inconclusive"


def test_true_claim_is_replicated_and_its_numbers_are_the_tables() -> None:
    runs = campaign(0.3)
    row = judged(runs)
    table = summarise(runs, claim()).groupby("method")["final"].mean()
    assert row["outcome"] == "replicated"
    assert row["difference"] == pytest.approx(table["dm2"] - table["ippo"])
    assert row["low"] < row["difference"] < row["high"]
    assert row["improvement"] == 1.0 and row["p_permutation"] == pytest.approx(2 / 184_756)
    assert row["p"] < 1e-6 and row["p_holm"] == row["p"]  # a family of one
    assert row["flips"] == ""


def test_false_claim_is_not_replicated() -> None:
    assert judged(campaign(0.0))["outcome"] == "not replicated"


def test_opposite_truth_is_reversed_and_below_turns_it_round() -> None:
    assert judged(campaign(-0.3))["outcome"] == "reversed"
    assert judged(campaign(-0.3), direction="below")["outcome"] == "replicated"


def test_few_wide_runs_are_inconclusive_and_name_how_many_more() -> None:
    row = judged(campaign(0.15, n=3, sd=0.2))
    assert row["outcome"] == "inconclusive"
    assert row["needed"] > 4 and row["more"] == f"{row['needed'] - 3:.0f} runs in each"


def test_teams_that_differ_make_a_difference_uncertain() -> None:
    runs = campaign(0.15, teams=3, spread=0.25)
    with_teams = judged(runs)
    ignored = judged(runs.assign(team="", seed=runs["seed"].astype(str) + runs["team"]))
    assert with_teams["high"] - with_teams["low"] > 2 * (ignored["high"] - ignored["low"])
    assert (with_teams["teams_a"], with_teams["teams_b"]) == (3, 0)
    assert with_teams["outcome"] == "inconclusive"
    teams = with_teams["needed"] - 3
    assert with_teams["more"] == f"{teams:.0f} teams in A, {max(with_teams['needed'] - 10, 1):.0f} runs in B"


def test_p_is_the_intervals_so_that_teams_that_differ_make_it_large() -> None:
    runs = campaign(0.3, n=5, teams=3, sd=0.02)
    runs["win_rate"] = runs["win_rate"].mask(runs["team"] == "t1", 0.7 * runs["win_rate"])
    row = judged(runs)
    assert row["p_permutation"] < 0.05 < row["p"]
    assert (row["low"] < 0 < row["high"]) == (row["p"] > 0.05)
    contrast = {"map": "3m", "a": [f"dm2@{SET}"], "b": {"level": 0.5}}
    against = judged(campaign(0.3, n=5), contrasts=[contrast])
    ends = summarise(campaign(0.3, n=5), claim()).query("method == 'dm2'")["final"]
    assert against["p"] == pytest.approx(ttest_1samp(ends, 0.5).pvalue) and np.isnan(against["p_permutation"])


def test_sets_of_several_first_teams_are_one_condition_and_each_is_planned_for_itself() -> None:
    pooled = campaign(0.3, n=3, teams=2, spread=0.2)
    apart = pooled.assign(demos=pooled["demos"].mask(pooled["team"] == "t1", f"{SET}-t2"))
    planned = apart[CELL].drop_duplicates().assign(judged=True)
    assert verdict(apart, claim(), planned=planned).equals(verdict(pooled, claim()))
    one = apart[apart["demos"] == f"{SET}-t2"]
    only = claim(contrasts=[{"map": "3m", "a": [f"dm2@{SET}-t2"], "b": ["ippo"]}])
    ends = one[one["env_steps"] > 0.9 * BUDGET].groupby("seed")["win_rate"].mean()
    assert verdict(apart, only).iloc[0]["a"] == pytest.approx(ends.mean())
    second = apart["demos"] == f"{SET}-t2"
    for left, done in ((apart[~(second & (apart["seed"] == 1))], 5), (apart[~second], 3)):
        part = verdict(left, claim(), planned=planned).iloc[0]
        assert part["outcome"] == "not tested"  # the first team's runs wait for the second's
        assert part["reason"] == f"{done} of 6 planned runs of dm2@{SET} on 3m are finished"
        assert verdict(left, only, planned=planned).iloc[0]["outcome"] == "not tested"


def test_margin_is_against_the_runs_own_demonstrators() -> None:
    contrast = {"map": "3m", "a": [f"dm2@{SET}"], "b": {"level": 0.0}}
    row = judged(campaign(0.1), metric="margin", contrasts=[contrast])
    assert row["outcome"] == "replicated"
    assert row["difference"] == pytest.approx(0.3, abs=0.05)


def other_readings(row: pd.Series) -> dict[str, str]:
    return {text.split(":")[0]: text.split(": ")[1].split(" ")[0] for text in other_outcomes(row)}


def test_margin_is_read_beside_the_demonstrators_greedy_play_too() -> None:
    contrast = {"map": "3m", "a": [f"dm2@{SET}"], "b": {"level": 0.0}}
    runs = campaign(0.1).assign(demonstrator_win_rate_greedy=0.8)
    row = judged(runs, metric="margin", contrasts=[contrast])
    assert row["outcome"] == "replicated" and row["difference"] == pytest.approx(0.3, abs=0.05)
    assert other_readings(row) == {"demonstrators' greedy play": "reversed"}
    number = float(row["flips"].split("reversed ")[1].split(" ")[0])
    assert number == pytest.approx(row["difference"] + 0.3 - 0.8, abs=1e-3)


def test_play_while_training_is_another_reading() -> None:
    runs, training = campaign(0.3), campaign(-0.3)
    row = verdict(runs, claim(), training=training).iloc[0]
    assert row["outcome"] == "replicated" and other_readings(row) == {"play while training": "reversed"}
    assert verdict(runs, claim(), training=runs).iloc[0]["flips"] == ""


def test_a_team_is_read_alone_where_an_arm_has_it_and_an_arm_without_it_stays_whole() -> None:
    runs = campaign(0.3, teams=2)
    bad = (runs["team"] == "t1") & (runs["method"] == "dm2")
    runs["win_rate"] = runs["win_rate"].mask(bad, 0.0)
    other = runs[(runs["team"] == "t0")].assign(method="gail_only", team="t0")
    both = pd.concat([runs, other])
    assert other_readings(judged(runs)) == {"team t0": "replicated", "team t1": "reversed"}
    contrast = {"map": "3m", "a": [f"dm2@{SET}"], "b": [f"gail_only@{SET}"]}
    assert (
        other_readings(judged(both, contrasts=[contrast]))["team t0"] == "not"
    )  # the same runs on either side


def test_maps_of_a_claim_count_alike_and_their_rows_are_a_family_of_their_own() -> None:
    """By hand, from the runs' ends: 10 and 10 on one map, 4 and 4 on the other, four terms of one half."""
    runs = pd.concat([campaign(0.2), campaign(0.1, n=4, sd=0.1).assign(map="8m")])
    contrasts = [{"map": name, "a": [f"dm2@{SET}"], "b": ["ippo"]} for name in ("3m", "8m")]
    both = claim(contrasts=contrasts)
    ends = summarise(runs, both).set_index(["map", "method"])["final"]
    a, b, c, d = (ends.loc[name, method] for name in ("3m", "8m") for method in ("dm2", "ippo"))
    table = verdict(runs, both).set_index("map")
    parts = [x.var(ddof=1) / len(x) / 4 for x in (a, b, c, d)]
    df = sum(parts) ** 2 / sum(v**2 / (len(x) - 1) for v, x in zip(parts, (a, b, c, d), strict=True))
    value, error = (a.mean() - b.mean() + c.mean() - d.mean()) / 2, sum(parts) ** 0.5
    reach = student.ppf(0.975, df) * error
    row = table.loc["all"]
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(
        (value, value - reach, value + reach)
    )
    assert row["p"] == pytest.approx(2 * student.sf(value / error, df))
    assert row["p_holm"] == row["p"]
    p = sorted(table.loc[["3m", "8m"], "p"])
    assert sorted(table.loc[["3m", "8m"], "p_holm"]) == pytest.approx([2 * p[0], max(2 * p[0], p[1])])
    alone = verdict(runs[runs["map"] == "3m"], both).set_index("map")
    assert alone.loc["8m", "outcome"] == "not tested" and np.isnan(alone.loc["8m", "p_holm"])
    assert alone.loc["3m", "p_holm"] == pytest.approx(
        2 * table.loc["3m", "p"]
    )  # of the family that is claimed


def test_only_what_an_arm_lacks_is_asked_for() -> None:
    """Three teams of five runs beside five: with four in each there is one team to find, and no run."""
    arms = {
        0: [Arm([Sample.of(np.arange(15.0), [k // 5 for k in range(15)], [k % 5 for k in range(15)])])],
        1: [Arm([Sample.of(np.arange(5.0))])],
    }
    assert further(arms, 4) == "1 team in A"
    assert further(arms, 7) == "4 teams in A, 2 runs in B"
    assert further(arms, 3) == "1 team in A, 1 run in B"
    assert further({0: arms[1], 1: arms[1]}, 8) == "3 runs in each"


def test_teams_of_two_maps_are_no_reading_of_the_row_over_both() -> None:
    runs = campaign(0.3, teams=2)
    runs["win_rate"] = runs["win_rate"].mask((runs["team"] == "t1") & (runs["method"] == "dm2"), 0.0)
    contrasts = [{"map": name, "a": [f"dm2@{SET}"], "b": ["ippo"]} for name in ("3m", "8m")]
    rows = verdict(pd.concat([runs, runs.assign(map="8m")]), claim(contrasts=contrasts)).set_index("map")
    assert "team t1" in other_readings(rows.loc["3m"]) and "team t1" in other_readings(rows.loc["8m"])
    assert other_readings(rows.loc["all"]) == {}


def test_conditions_are_read_pair_by_pair() -> None:
    other = SET.replace("concurrent", "nonconcurrent")
    runs = campaign(0.3)
    mine, others = runs[runs["method"] == "dm2"], runs[runs["method"] == "ippo"]
    table = pd.concat(
        [
            mine,
            mine.assign(demos=other, win_rate=others["win_rate"].to_numpy()),
            others.assign(method="dm2", demos=SET.replace("joint", "indep")),
            others.assign(method="dm2", demos=other.replace("joint", "indep")),
        ]
    )
    contrast = {
        "map": "3m",
        "a": [f"dm2@{SET}", f"dm2@{other}"],
        "b": [f"dm2@{name.replace('joint', 'indep')}" for name in (SET, other)],
    }
    row = judged(table, contrasts=[contrast])
    assert row["outcome"] == "replicated"
    name = "joint-nonconcurrent beside indep-nonconcurrent"
    assert other_readings(row)[name] == "not"
    assert "joint-concurrent beside indep-concurrent" not in other_readings(row)


def test_unfinished_or_absent_runs_leave_a_claim_untested_with_the_reason() -> None:
    runs = campaign(0.3)
    assert "no run of ippo on 3m" in judged(runs[runs["method"] == "dm2"])["reason"]
    row = judged(runs[runs["env_steps"] <= 500])
    assert row["outcome"] == "not tested" and "ends at 500 env steps" in row["reason"]


def test_a_condition_is_judged_when_each_planned_run_is_finished_or_failed() -> None:
    runs = campaign(0.3)
    planned = runs[CELL].drop_duplicates().assign(judged=True)
    part = runs[~((runs["method"] == "ippo") & (runs["seed"] == 4))]
    row = verdict(part, claim(), planned=planned).iloc[0]
    assert (row["outcome"], row["reason"]) == (
        "not tested",
        "9 of 10 planned runs of ippo on 3m are finished",
    )
    failed = planned[(planned["method"] == "ippo") & (planned["seed"] == 4)]
    assert verdict(part, claim(), planned=planned, failed=failed).iloc[0]["runs_b"] == 9
    with pytest.raises(DataError, match="3m/ippo/none/seed4 stands as finished and as failed"):
        verdict(runs, claim(), planned=planned, failed=failed)
    row = verdict(runs[runs["method"] == "ippo"], claim(), planned=planned).iloc[0]
    assert (row["outcome"], row["reason"]) == ("not tested", f"no run of dm2@{SET} on 3m")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"map": "3s_vs_3z"}, ""),  # the paper's condition, on a map that is left for later
        ({"demos": f"{SET}-t2"}, ""),
        ({"demos": "ippo-q50_joint-concurrent"}, ": planned in no figure"),
        ({"judged": False}, ": its runs are on a panel's own seeds, which no claim is judged by"),
    ],
)
def test_a_condition_without_runs_says_whether_any_will_come(changes: dict[str, object], reason: str) -> None:
    runs = campaign(0.3, n=2)
    planned = runs[CELL].drop_duplicates().assign(judged=True)
    ours = planned["method"] == "dm2"
    planned = pd.concat([planned[~ours], planned[ours].assign(**changes)])
    row = verdict(runs[runs["method"] == "ippo"], claim(), planned=planned).iloc[0]
    assert (row["outcome"], row["reason"]) == ("not tested", f"no run of dm2@{SET} on 3m{reason}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda runs: runs.drop(columns="team"), "no column team"),
        (lambda runs: runs.iloc[:0], "empty"),
        (lambda runs: runs.assign(win_rate=1.5), "outside 0..1"),
        (lambda runs: pd.concat([runs, runs.iloc[:1]]), "two evaluations"),
    ],
)
def test_damaged_tables_are_refused(spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=message):
        verdict(spoil(campaign(0.1, n=2)), claim())


def test_same_runs_same_verdict_in_any_order() -> None:
    runs = campaign(0.1)
    first = verdict(runs, claim())
    pd.testing.assert_frame_equal(first, verdict(runs.sample(frac=1.0, random_state=1), claim()))


def test_theory_rows_are_judged_by_their_tests() -> None:
    theory = pd.DataFrame({"test": ["T1", "T1"], "statement": ["b", "b"], "holds": [True, False]})
    row = verdict(campaign(0.1, n=3), claim(), theory=theory).iloc[-1]
    assert (row["outcome"], row["reason"]) == ("not replicated", "fails in 1 of 2 rows")
    assert verdict(campaign(0.1, n=3), claim(), theory=theory[:1]).iloc[-1]["outcome"] == "replicated"


def test_type_one_error_of_the_decision() -> None:
    words = [judged(campaign(0.0, n=5, sd=0.2 + 1e-6 * k))["outcome"] for k in range(40)]
    assert words.count("replicated") + words.count("reversed") <= 6  # 5 % of 40 is 2


def test_exports_hold_every_run(tmp_path: Path) -> None:
    runs = campaign(0.1, n=3)
    write_tidy(runs, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "runs.parquet"), runs, check_dtype=False)
    csv = pd.read_csv(tmp_path / "runs.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(csv, runs, check_dtype=False)
    task = marl_eval(runs)["smac_surrogate"]["3m"]
    assert set(task) == {f"dm2@{SET}", "ippo"}
    run = task["ippo"]["seed_2"]
    assert list(run) == [*(f"step_{i}" for i in range(len(STEPS))), "absolute_metrics"]
    assert run["step_3"] == {"step_count": 150, "win_rate": [run["step_3"]["win_rate"][0]]}
    assert run["absolute_metrics"]["win_rate"][0] == max(run[f"step_{i}"]["win_rate"][0] for i in range(21))
    json.dumps(task)


def test_marl_eval_runs_are_of_one_length() -> None:
    runs = campaign(0.1, n=2)
    short = runs[~((runs["method"] == "ippo") & (runs["seed"] == 0) & (runs["env_steps"] > 700))]
    made = [run for runs in marl_eval(short)["smac_surrogate"]["3m"].values() for run in runs.values()]
    assert {len(run) for run in made} == {15 + 1}
    assert {run["step_14"]["step_count"] for run in made} == {700}


def test_marl_eval_runs_are_read_at_the_same_env_steps() -> None:
    seldom, often = (
        pd.DataFrame({"env_steps": steps, "win_rate": np.array(steps) / 1000})
        for steps in ([0, 300, 610, 900], [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000])
    )
    runs = pd.concat([part.assign(seed=seed) for seed, part in enumerate((seldom, often))])
    task = marl_eval(runs.assign(map="3m", method="ippo", demos="none", team=""))["smac_surrogate"]["3m"][
        "ippo"
    ]
    for seed, values in (("seed_0", [0.0, 0.3, 0.3, 0.9]), ("seed_1", [0.0, 0.3, 0.6, 0.9])):
        assert [task[seed][f"step_{k}"]["win_rate"] for k in range(4)] == [[v] for v in values]
        assert [task[seed][f"step_{k}"]["step_count"] for k in range(4)] == [0, 300, 600, 900]
        assert task[seed]["absolute_metrics"]["win_rate"] == [0.9]


def write_cells(results: Path, runs: pd.DataFrame) -> None:
    for (map_name, method, demos, seed), rows in runs.groupby(CELL):
        folder = results / "cells" / map_name / method / demos / f"seed{seed}"
        folder.mkdir(parents=True)
        about = {"digest": "", "config": {"keep_checkpoints": False, "seed": 0}, "outputs": {}}
        (folder / "manifest.json").write_text(json.dumps(about | {"env_steps": 1, "iterations": 1}))
        frame = rows[["env_steps", "win_rate"]].rename(columns={"win_rate": "value"})
        frame.assign(key="eval/win_rate").to_parquet(folder / "metrics.parquet")
    card = results / "demos" / "3m" / SET / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"teams": [{"seed": 1, "win_rate_greedy": 0.75}], "win_rate": 0.25}))


def test_cells_on_disk_become_the_table(tmp_path: Path) -> None:
    runs = campaign(0.1, n=2)
    write_cells(tmp_path, runs)
    table = read_runs(tmp_path)
    assert len(table) == len(runs)
    assert table.groupby("method")["team"].first().to_dict() == {"dm2": "1", "ippo": ""}
    played, greedy = (table.loc[table["method"] == "dm2", name].unique().tolist() for name in DEMONSTRATORS)
    assert (played, greedy) == ([0.25], [0.75])
    assert read_training(tmp_path).empty
    path = tmp_path / "cells" / "3m" / "dm2" / SET / "seed1" / "metrics.parquet"
    more = pd.DataFrame({"env_steps": [10, 20], "value": [0.125, np.nan], "key": "train/win_rate"})
    pd.concat([pd.read_parquet(path), more]).to_parquet(path)
    training = read_training(tmp_path)
    assert training[["seed", "env_steps", "win_rate", "demonstrator_win_rate"]].to_numpy().tolist() == [
        [1, 10, 0.125, 0.25]
    ]
    assert len(read_runs(tmp_path)) == len(runs)
    with pytest.raises(DataError, match="no finished cell"):
        read_runs(tmp_path / "nothing")


def test_seeds_of_different_configurations_are_refused(tmp_path: Path) -> None:
    write_cells(tmp_path, campaign(0.1, n=2))
    for seed in (0, 1):
        manifest = tmp_path / "cells" / "3m" / "ippo" / "none" / f"seed{seed}" / "manifest.json"
        manifest.write_text(json.dumps({"config": {"seed": seed, "compute": str(seed), "lr": 0.1}}))
    assert len(read_runs(tmp_path)) == 4 * len(STEPS)
    manifest.write_text(json.dumps({"config": {"seed": seed, "lr": 0.2}}))
    with pytest.raises(DataError, match="3m/ippo/none/seed1: made under another configuration"):
        read_runs(tmp_path)


def test_runs_of_a_map_that_were_evaluated_otherwise_are_refused(tmp_path: Path) -> None:
    write_cells(tmp_path, campaign(0.1, n=1))
    cells = tmp_path / "cells" / "3m"
    for method, demos, episodes in (("ippo", "none", 32), ("dm2", SET, 16)):
        config = {"seed": 0, "lr": method, "eval_episodes": episodes}
        (cells / method / demos / "seed0" / "manifest.json").write_text(json.dumps({"config": config}))
    with pytest.raises(DataError, match=r"3m/ippo/none/seed0: evaluated otherwise than other runs on 3m"):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: pd.concat([t, t.iloc[3:4]]), "eval/win_rate stands twice at 150 env steps"),
        (lambda t: t.assign(value=t["value"].mask(t["env_steps"] == 150)), "is no number at 150 env steps"),
        (lambda t: t.iloc[2:], "evaluations are missing"),
        (lambda t: t[(t["env_steps"] == 0) | (t["env_steps"] == BUDGET)], "evaluations are missing"),
    ],
)
def test_metrics_that_lack_evaluations_are_refused(tmp_path: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    write_cells(tmp_path, campaign(0.1, n=1))
    folder = tmp_path / "cells" / "3m" / "ippo" / "none" / "seed0"
    (folder / "manifest.json").write_text(json.dumps({"config": {"seed": 0, "eval_every": 50}}))
    manifest = tmp_path / "cells" / "3m" / "dm2" / SET / "seed0" / "manifest.json"
    manifest.write_text(json.dumps({"config": {"seed": 0, "eval_every": 50}}))
    whole = pd.read_parquet(folder / "metrics.parquet")
    iterations = whole.assign(key="train/policy_loss")
    pd.concat([whole, iterations]).to_parquet(folder / "metrics.parquet")
    assert len(read_runs(tmp_path)) == 2 * len(STEPS)
    pd.concat([spoil(whole), iterations]).to_parquet(folder / "metrics.parquet")
    with pytest.raises(DataError, match=f"3m/ippo/none/seed0: .*{message}"):
        read_runs(tmp_path)


def test_judge_writes_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    write_cells(results, campaign(0.1, n=1).assign(seed=112358))
    config = tmp_path / "config.yaml"
    text = (ROOT / "config" / "config.yaml").read_text(encoding="utf-8")
    config.write_text(text.replace("results: results ", f"results: {results} "), encoding="utf-8")
    ippo = results / "cells" / "3m" / "ippo" / "none" / "seed112358" / "manifest.json"
    made = cell_config(load_config(config), map_name="3m", method="ippo", seed=112358)
    ippo.write_text(json.dumps(json.loads(ippo.read_text()) | {"digest": made.digest()}))
    claims = ROOT / "claims" / "claims.yaml"
    args = [
        "--config",
        str(config),
        "--claims",
        str(claims),
        "--paper",
        str(ROOT / "resources" / "paper_curves"),
    ]
    assert judge.main([*args, "--out", str(out), "--transfer", str(tmp_path / "none")]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {*judge.MADE, "verdict.manifest.json"}
    text = (out / "verdict.md").read_text(encoding="utf-8")
    assert hashlib.sha256(claims.read_bytes()).hexdigest() in text
    assert "not run: no StarCraft here" in text
    assert "Runs: 1 finished, " in text and ", 1 finished but in no figure's plan, left out." in text
    assert pd.read_csv(out / "runs.csv")["method"].unique().tolist() == ["ippo"]
    rows = pd.read_csv(out / "verdict.csv")
    assert set(rows["claim"]) == {item.id for c in [load_claims(claims)] for item in [*c.claims, *c.theory]}
    assert set(rows["outcome"]) == {"not tested"}
    shutil.rmtree(ippo.parent)
    assert judge.main([*args, "--out", str(out), "--transfer", str(tmp_path / "none")]) == EXIT_DATA
    assert "no finished cell that a figure plans" in capsys.readouterr().err


def test_planned_cells_of_another_configuration_are_refused(tmp_path: Path) -> None:
    config = load_config(ROOT / "config" / "config.yaml", {"results": str(tmp_path)})
    check_planned(config)  # none is finished
    cell = next(cell for cell in all_cells(config) if cell.demos == "none")
    manifest = tmp_path / "cells" / cell.path / "manifest.json"
    manifest.parent.mkdir(parents=True)
    made = cell_config(config, map_name=cell.map_name, method=cell.method, seed=cell.seed, demos="none")
    manifest.write_text(json.dumps({"digest": made.digest()}))
    check_planned(config)
    manifest.write_text(json.dumps({"digest": "0" * 64}))
    with pytest.raises(DataError, match=f"{cell.path}: made under another configuration"):
        check_planned(config)


def test_page_shows_outcome_and_further_runs() -> None:
    table = verdict(campaign(0.15, n=3, sd=0.2), claim(), paper={("x", "3m"): 0.25})
    file = ROOT / "claims" / "campaign.yaml"
    text = page(table, file, {"planned": 6, "finished": 6, "failed": 0})
    assert "6 planned, 6 finished, 0 failed" in text
    assert f"campaign.yaml, SHA-256 `{hashlib.sha256(file.read_bytes()).hexdigest()}`" in text
    assert "**inconclusive**" in text and "+0.250" in text
    assert table.iloc[0]["more"] and f"| {table.iloc[0]['more']} |" in text
    assert set(table["outcome"]) <= set(OUTCOMES)


def test_measured_part_of_the_page_is_rewritten_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        f"before\n{measure_coverage.BEGIN}\nold\n{measure_coverage.END}\nafter\n", encoding="utf-8"
    )
    assert measure_coverage.main(["--trials", "2", "--page", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| normal, 5 and 5 |" in text
