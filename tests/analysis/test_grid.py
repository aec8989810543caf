"""Which cells the figure needs, and what their digests depend on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dm2core.analysis import grid
from dm2core.analysis.claims import load_claims
from dm2core.analysis.run_table import judged_runs, planned_runs
from dm2core.analysis.scores import condition
from dm2core.config import Config, ConfigError, cell_config, dump_config, load_config

ROOT = Path(__file__).resolve().parents[2]


def config(**overrides: object) -> Config:
    return load_config(ROOT / "config" / "config.yaml", {"scale": "smoke", **overrides})


def test_grid_is_five_conditions_per_map_and_seed() -> None:
    made = grid.cells(config(seeds=[1, 2, 3], demo_ablation={"maps": ["3m", "3s_vs_3z"]}))
    assert len(made) == len(set(made)) == 2 * 5 * 3
    assert {cell.demos for cell in made if cell.method == "ippo"} == {"none"}


def test_one_more_seed_changes_no_other_cells_digest() -> None:
    few, more = config(seeds=[1]), config(seeds=[1, 2])
    assert [grid.cell_digest(few, cell) for cell in grid.cells(few)] == [
        grid.cell_digest(more, cell) for cell in grid.cells(more) if cell.seed == 1
    ]


def test_digests_of_all_cells_differ() -> None:
    made = config(seeds=[1, 2])
    assert len({grid.cell_digest(made, cell) for cell in grid.cells(made)}) == 10


def test_expert_budget_reruns_dm2_but_not_ippo() -> None:
    before, after = config(), config(budget={"expert_env_steps": 4_000})
    for cell in grid.cells(before):
        same = grid.cell_digest(before, cell) == grid.cell_digest(after, cell)
        assert same == (cell.method == "ippo"), cell


def test_demo_settings_rerun_dm2_but_no_expert() -> None:
    before, after = config(), config(demos={"episodes": 33})
    assert grid.expert_digest(before, "3m", "ippo", 1) == grid.expert_digest(after, "3m", "ippo", 1)
    demos_id = grid.demo_ids(before, "3m")[0]
    assert grid.demos_digest(before, "3m", demos_id) != grid.demos_digest(after, "3m", demos_id)


def test_joint_sets_have_one_team_and_independent_ones_a_team_per_agent() -> None:
    made = config()
    teams = {name: grid.demonstrators(made, "3m", name) for name in grid.demo_ids(made, "3m")}
    assert [len(seeds) for seeds in teams.values()] == [1, 1, 3, 3]


def test_sets_of_later_teams_start_there_and_go_round() -> None:
    made = config(expert_seeds=[1, 2, 3, 4])
    assert grid.demonstrators(made, "3m", "ippo-q50_joint-concurrent-t2") == [2]
    assert grid.demonstrators(made, "3m", "ippo-q50_indep-concurrent-t3") == [3, 4, 1]
    first, second = "ippo-q50_joint-concurrent", "ippo-q50_joint-concurrent-t2"
    assert grid.demos_digest(made, "3m", first) != grid.demos_digest(made, "3m", second)
    for name in ("ippo-q50_joint-concurrent-t1", "ippo-q50_joint-concurrent-t0"):
        with pytest.raises(ConfigError, match="not a demonstration set"):
            grid.demonstrators(made, "3m", name)
    with pytest.raises(ConfigError, match=r"expert_seeds: .* needs 5, got 4"):
        grid.demonstrators(made, "3m", "ippo-q50_joint-concurrent-t5")


def test_the_ablation_can_start_from_a_later_team_on_one_map(tmp_path: Path) -> None:
    both = {"maps": ["3m", "3s_vs_3z"]}
    plain, made = config(demo_ablation=both), config(demo_ablation={**both, "first_team": {"3m": 2}})
    assert grid.demo_ids(made, "3m") == [f"{name}-t2" for name in grid.demo_ids(plain, "3m")]
    assert grid.demo_ids(made, "3s_vs_3z") == grid.demo_ids(plain, "3s_vs_3z")
    assert {cell.demos for cell in grid.cells(made) if cell.map_name == "3m"} == {
        "none",
        *grid.demo_ids(made, "3m"),
    }
    assert [condition("dm2", demos) for demos in grid.demo_ids(made, "3m")] == list(grid.VARIANTS)
    (tmp_path / "dumped.yaml").write_text(dump_config(made))
    assert load_config(tmp_path / "dumped.yaml") == made
    assert "first_team" not in dump_config(plain)  # as before there was such a key
    for teams, message in (({"5m_vs_6m": 2}, "first_team: unknown map"), ({"3m": 9}, "there are only")):
        with pytest.raises(ConfigError, match=message):
            config(demo_ablation={**both, "first_team": teams})


def test_a_map_can_have_expert_teams_of_its_own(tmp_path: Path) -> None:
    made = config(expert_seeds=[1, 2, 3, 4], budget={"maps": {"3m": {"expert_seeds": [1, 2, 4, 3]}}})
    assert grid.demonstrators(made, "3m", "ippo-q50_indep-concurrent-t2") == [2, 4, 3]
    assert grid.demonstrators(made, "3s_vs_3z", "ippo-q50_indep-concurrent-t2") == [2, 3, 4]
    (tmp_path / "dumped.yaml").write_text(dump_config(made))
    assert load_config(tmp_path / "dumped.yaml") == made
    assert dump_config(config()).count("expert_seeds") == 1  # as before there were such lists
    for seeds, message in (([1, 2, 4, 1], "3m.expert_seeds: .* holds a seed twice"), ([1, 2], "3m needs 3")):
        with pytest.raises(ConfigError, match=message):
            config(budget={"maps": {"3m": {"expert_seeds": seeds}}})


def test_unknown_filter_value_is_an_error_that_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"only_seed: no cell has 5; there are: 112358, 1285842"):
        grid.select(grid.cells(config()), {"only_seed": 5})


def test_filters_combine() -> None:
    chosen = grid.select(grid.cells(config()), {"only_method": "dm2", "only_seed": [112358]})
    assert {(cell.method, cell.seed) for cell in chosen} == {("dm2", 112358)}
    assert len(chosen) == 4
    apart = [cell for cell in grid.cells(config()) if (cell.method == "ippo") == (cell.seed == 112358)]
    with pytest.raises(ConfigError, match="only_method, only_seed: no cell has all of these"):
        grid.select(apart, {"only_method": "dm2", "only_seed": 112358})


def test_a_panel_with_seeds_of_its_own_has_its_own_runs() -> None:
    panels = {"tuning": [{"map": "3m", "curves": {"ippo+lr=0.001+clip_eps=0.1": ""}, "seeds": [11, 12]}]}
    made = load_config(ROOT / "config/config.yaml", {"scale": "smoke", "figures": panels})
    (first, second) = grid.unjudged_cells(made)
    assert (first.seed, second.seed) == (11, 12)
    cell = cell_config(made, map_name="3m", method=first.method, seed=11)
    assert (cell.ppo.lr, cell.map_params.clip_eps) == (0.001, 0.1)
    planned = planned_runs(made)
    runs = planned.drop(columns="judged")
    apart = runs[~judged_runs(runs, planned)]
    assert apart["seed"].tolist() == [11, 12] and len(runs) > len(apart)
    ours = cell_config(made, map_name="3m", method="ippo", seed=11)
    assert ours.digest() != cell.digest()
    with pytest.raises(ConfigError, match=r"figures.tuning: 3m: seed 112358 is also in seeds"):
        panels["tuning"][0]["seeds"] = [112358]
        load_config(ROOT / "config/config.yaml", {"scale": "smoke", "figures": panels})


def test_a_name_can_change_how_long_a_method_clones() -> None:
    cell = cell_config(
        config(), map_name="3m", method="bc_ippo+cloning.epochs=3", seed=4, demos="ippo-q50_joint-concurrent"
    )
    assert cell.cloning is not None and cell.cloning.epochs == 3
    with pytest.raises(
        ConfigError, match=r"method: ippo\+cloning.epochs=3: ippo does not read cloning.epochs"
    ):
        config().changed("ippo+cloning.epochs=3", "3m")


def test_packs_hold_cells_of_one_map_and_one_set_of_switches() -> None:
    made = config(packs={"cells": 4, "device": "cpu", "threads": 1})
    groups = grid.packs(made)
    assert all(0 < len(group) <= 4 for group in groups)
    assert len({cell for group in groups for cell in group}) == sum(map(len, groups))
    for group in groups:
        assert len({cell.map_name for cell in group}) == 1
        assert len({made.changed(cell.method, cell.map_name).switches for cell in group}) == 1
    everyone = grid.all_cells(made)
    assert {cell for group in groups for cell in group} == {
        cell for cell in everyone if grid.packed(made, cell.method)
    }
    assert grid.packs(config()) == []


def test_a_packed_cell_is_not_the_single_cell() -> None:
    """They agree to rounding only, so one must not stand in for the other."""
    single, together = config(), config(packs={"cells": 2, "device": "cpu", "threads": 1})
    for cell in grid.cells(single):
        assert grid.cell_digest(single, cell) != grid.cell_digest(together, cell)


def test_a_maps_own_budget_and_seeds_are_that_maps_alone() -> None:
    own = {"3m": {"env_steps": 500, "expert_env_steps": 700, "eval_every": 100, "seeds": 1}}
    made = config(budget={"maps": own}, seeds=[4, 5], demo_ablation={"maps": ["3m", "3s_vs_3z"]})
    assert {cell.seed for cell in grid.cells(made) if cell.map_name == "3m"} == {4}
    assert {cell.seed for cell in grid.cells(made) if cell.map_name == "3s_vs_3z"} == {4, 5}
    steps = {
        (name, expert): cell_config(made, map_name=name, method="ippo", seed=4, expert=expert).env_steps
        for name in ("3m", "3s_vs_3z")
        for expert in (False, True)
    }
    assert steps == {
        ("3m", False): 500,
        ("3m", True): 700,
        ("3s_vs_3z", False): 3_000,
        ("3s_vs_3z", True): 3_000,
    }
    assert cell_config(made, map_name="3m", method="ippo", seed=4).eval_every == 100


def test_a_figure_without_panels_plans_no_cells_and_cannot_be_asked_for() -> None:
    made = config(figures={"core": []})
    assert "core" not in grid.figure_names(made) and grid.all_cells(made)
    with pytest.raises(ConfigError, match="core has no panels"):
        grid.figure_cells(made, "core")


def test_every_map_that_the_campaign_plans_has_the_budget_of_its_claims() -> None:
    made = load_config(ROOT / "config" / "config.yaml", {"scale": "campaign"})
    claims = load_claims(ROOT / made.claims)
    for map_name in {cell.map_name for cell in grid.all_cells(made)}:
        assert claims.budget_on(map_name) == made.budget_on(map_name).env_steps
    assert not set(made.expert_seeds) & set(made.seeds)
