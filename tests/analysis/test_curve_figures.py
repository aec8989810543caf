"""Figures from the configuration's panels: what is drawn, beside the paper, and the same bytes twice."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from dm2core.analysis.curve_figures import CROWDED, colours, draw_panel, label, plot_curves
from dm2core.analysis.figures import curves, map_panels
from dm2core.analysis.grid import all_cells, cells_of, figure_cells, replayed_cell
from dm2core.analysis.paper_curves import figure_curves
from dm2core.analysis.switchboard import plot_switchboard, summary
from dm2core.config import FIGURES, Config, ConfigError, cell_config, load_config

ROOT = Path(__file__).resolve().parents[2]
RUNS = ["dm2@ippo-q50_joint-concurrent", "ippo", "qmix"]


def config(scale: str, **overrides: object) -> Config:
    return load_config(ROOT / "config" / "config.yaml", {"scale": scale, **overrides})


def scores(levels: dict[str, float]) -> pd.DataFrame:
    """Two seeds per run whose win rate rises linearly to a level."""
    rows = [
        ("3m", run, seed, step, level * step / 1000 + 0.01 * seed)
        for run, level in levels.items()
        for seed in (1, 2)
        for step in (0, 500, 1000)
    ]
    return pd.DataFrame(rows, columns=["map", "condition", "seed", "env_steps", "win_rate"])


def test_same_data_same_bytes_and_every_seed_in_the_csv(tmp_path: Path) -> None:
    data = scores(dict.fromkeys(RUNS, 0.5))
    teams = pd.DataFrame([("3m", RUNS[0], 0.4)], columns=["map", "condition", "win_rate"])
    for folder in ("a", "b"):
        plot_curves("core", data, teams, tmp_path / folder, note="a note")
    for suffix in ("pdf", "png", "csv"):
        assert (tmp_path / f"a/core.{suffix}").read_bytes() == (tmp_path / f"b/core.{suffix}").read_bytes()
    drawn = pd.read_csv(tmp_path / "a/core.csv")
    seeds = drawn[drawn["series"] == "seed"]
    assert len(seeds) == len(data)
    assert drawn.loc[drawn["series"] == "demonstrators", "win_rate"].tolist() == [0.4]


def test_the_papers_curves_stand_beside_ours_at_its_own_scale_only() -> None:
    folder = ROOT / "resources" / "paper_curves"
    assert figure_curves(config("quick"), "core", folder) is None
    for name in FIGURES:
        if name in ("switchboard", "methods", "tuning", "ablation_elsewhere"):
            assert figure_curves(config("paper"), name, folder) is None
            continue
        beside = figure_curves(config("paper"), name, folder)
        assert beside is not None
        for panel in config("paper").figures[name]:
            for run, theirs in panel.curves.items():
                found = beside[(beside["map"] == panel.map) & (beside["condition"] == run)]
                assert (len(found) >= 39) == bool(theirs), (name, panel.map, run)


def test_a_curve_of_the_paper_stands_under_the_first_of_several_teams() -> None:
    made = config("campaign")
    beside = figure_curves(made, "core", ROOT / "resources" / "paper_curves")
    assert beside is not None
    shown = {(m, run) for m, run in beside[["map", "condition"]].itertuples(index=False)}
    sets = [(panel.map, run) for panel in made.figures["core"] for run in panel.curves if "dm2@ippo" in run]
    assert len(sets) == 9 and {one for one in sets if one in shown} == {
        one for one in sets if "-t" not in one[1]
    }


def test_maps_stand_in_rows_of_their_own_where_one_row_would_not_hold_them() -> None:
    def rows(maps: list[str], theirs: list[str]) -> dict[str, list[int]]:
        figure, panels = map_panels(maps, theirs, width=5.0, height=4.0, rest=1.0)
        shown = [axes for axes in figure.axes if axes.get_visible()]
        assert shown == [axes for both in panels.values() for axes in both]
        return {
            name: [spec.rowspan.start for axes in both if (spec := axes.get_subplotspec()) is not None]
            for name, both in panels.items()
        }

    assert rows(["3m", "8m"], ["3m"]) == {"3m": [0, 0], "8m": [0]}
    assert rows(["3m", "8m"], ["3m", "8m"]) == {"3m": [0, 0], "8m": [1, 1]}
    assert rows(["3m", "8m", "2s3z"], ["3m", "2s3z"]) == {"3m": [0, 0], "8m": [1], "2s3z": [2, 2]}


def test_area_and_last_fifth() -> None:
    data = summary(scores({"ippo": 0.5}))
    assert data["area"].tolist() == pytest.approx([0.26, 0.27])
    assert data["final"].tolist() == pytest.approx([0.51, 0.52])


def test_switchboard_is_reproducible(tmp_path: Path) -> None:
    flipped, control = "dm2+value_clip=off@ippo-q50_joint-concurrent", "dm2@ippo-q50_joint-shuffled"
    data = scores({flipped: 0.7, RUNS[0]: 0.5, control: 0.1, "ippo": 0.4})
    for folder in ("a", "b"):
        drawn = plot_switchboard(data, tmp_path / folder)
    assert list(dict.fromkeys(drawn["condition"])) == [RUNS[0], flipped, control, "ippo"]
    assert (tmp_path / "a/switchboard.pdf").read_bytes() == (tmp_path / "b/switchboard.pdf").read_bytes()


def test_labels_and_colours_tell_runs_apart() -> None:
    runs = [
        "dm2@ippo-s1000k_joint-concurrent", "dm2@ippo-s2000k_joint-concurrent",
        "dm2+value_clip=off@ippo-q50_joint-concurrent", "dm2@random_joint-concurrent",
        "dm2@ippo-q50_joint-shuffled", "ippo", "rmappo",
    ]  # fmt: skip
    assert len({label(run) for run in runs}) == len(runs)
    assert len(set(colours(runs).values())) == len(runs)
    changed = [
        "ippo",
        "ippo+lr=0.1",
        "ippo+lr=0.2",
        "dm2@ippo-q30_joint-concurrent",
        "dm2@ippo-q50_joint-concurrent",
    ]
    assert colours(changed)["ippo"] == (0.0, 0.0, 0.0) and len(set(colours(changed).values())) == len(changed)
    first, second = ([f"dm2@ippo-q{q}_joint-concurrent" for q in qs] for qs in ((10, 20, 30), (40, 50, 60)))
    apart = colours(first + second, [first, second])
    assert list(apart) == first + second and len(set(apart.values())) == 6
    green = [apart[run][1] for run in (second[0], first[0], second[1], first[1], second[2], first[2])]
    assert green == sorted(green), "viridis gets greener: each panel's runs reach over all of it"
    assert label(first[0], whole=True) == "DM$^2$; ippo-q10, joint-concurrent"
    twice = ["bc_ippo@ippo-q30_joint-concurrent", "bc_ippo@ippo-q50_joint-concurrent"]
    assert len(set(colours(twice).values())) == 2


def test_every_figure_at_every_scale_has_cells_that_can_be_configured() -> None:
    for scale in ("smoke", "quick", "paper"):
        made = config(scale)
        assert set(made.figures) == set(FIGURES)
        for name in FIGURES:
            assert figure_cells(made, name)
        for cell in all_cells(made):
            cell_config(made, map_name=cell.map_name, method=cell.method, seed=cell.seed, demos=cell.demos)


def test_figures_choose_cells() -> None:
    made = config("smoke", seeds=[1])
    assert {cell.method for cell in cells_of(made, {"only_figure": "qmix_arch"})} == {"qmix", "qmix_fc3"}
    assert len(cells_of(made, {"only_figure": "all"})) == len(all_cells(made))
    with pytest.raises(ConfigError, match=r"only_figure: .*unknown figure 'quality'.*demo_quality"):
        cells_of(made, {"only_figure": "quality"})


def test_the_battle_drawn_is_a_planned_cells() -> None:
    for scale in ("smoke", "quick", "paper"):
        made = config(scale)
        for map_name in made.demo_ablation.maps:
            drawn = {replayed_cell(made, map_name, method) for method in ("ippo", "dm2")}
            assert drawn < set(all_cells(made))
    other = replayed_cell(config("smoke"), "8m", "dm2")  # figure core is about 3m
    assert other.demos == "ippo-q50_joint-concurrent"


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({"dm2": ""}, "dm2: demos: method dm2 learns from demonstrations"),
        ({"ippoo": ""}, "unknown method 'ippoo'; did you mean 'ippo'"),
        ({"ippo+clip=3": ""}, "method: ippo.clip=3: unknown setting 'clip'; did you mean 'clip_eps'"),
        ({"qmix+lr=0.1": ""}, "qmix does not read lr"),
        ({"dm2+imitation_coef=-1@ippo-q50_joint-concurrent": ""}, "imitation_coef: input should be greater"),
        ({"dm2@qmix-e10_indep-concurrent": ""}, "QMIX agents share one network"),
        ({"dm2@random_indep-nonconcurrent": ""}, "random play is of no team"),
        ({"dm2@ippo-x50_joint-concurrent": ""}, "is not a demonstration set"),
    ],
)
def test_a_curve_that_cannot_be_is_one_line(curves: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        config("smoke", figures={"core": [{"map": "3m", "curves": curves}]})
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("figures.core")  # no file is to blame: the overrides are of a test


def test_crowded_panels_leave_single_runs_to_the_csv() -> None:
    for count, lines in (
        (CROWDED, 3 * CROWDED),
        (CROWDED + 1, CROWDED + 1),
    ):  # a mean and two seeds, or the mean
        runs = [f"ippo+lr=0.{digit}" for digit in range(1, count + 1)]
        axes = Figure().subplots()
        draw_panel(axes, curves(scores(dict.fromkeys(runs, 0.5))), colours(runs))
        drawn = [line for line in axes.get_lines() if len(line.get_xdata())]
        assert len(drawn) == lines


def test_a_method_of_ones_own_has_a_label_and_a_colour() -> None:
    assert label("mine@ippo-q50_joint-concurrent") == "mine; ippo-q50"
    runs = ["ippo", *(f"mine{k}" for k in range(5))]
    assert len(colours(runs)) == len(runs) and len(set(colours(runs[:5]).values())) == 5
