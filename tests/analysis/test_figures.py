"""The figure shows what the table holds: every seed, their mean, their spread; the same bytes each time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from dm2core.analysis.figures import COLOURS, band_label, curves, plot_demo_ablation
from dm2core.analysis.paper_curves import ablation_curves, ablation_file
from dm2core.analysis.scores import CONDITIONS

ROOT = Path(__file__).resolve().parents[2]


def scores(maps: int = 1, seeds: int = 3, jitter: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (f"map{m}", name, seed, 1_000 * k + jitter * seed * (k > 0), float(rng.random()))
        for m in range(maps)
        for name in CONDITIONS
        for seed in range(seeds)
        for k in range(4)
    ]
    return pd.DataFrame(rows, columns=["map", "condition", "seed", "env_steps", "win_rate"])


def teams(maps: int = 1) -> pd.DataFrame:
    rows = [(f"map{m}", name, 0.5) for m in range(maps) for name in CONDITIONS if name != "ippo"]
    return pd.DataFrame(rows, columns=["map", "condition", "win_rate"])


def test_mean_and_band_are_mean_and_sample_sd_over_seeds() -> None:
    table = scores()
    drawn = curves(table)
    mean = drawn[(drawn["series"] == "mean") & (drawn["condition"] == "ippo")].set_index("env_steps")
    exact = table[table["condition"] == "ippo"].groupby("env_steps")["win_rate"].agg(["mean", "std"])
    np.testing.assert_allclose(mean["win_rate"], exact["mean"])
    np.testing.assert_allclose(mean["sd"], exact["std"])
    assert set(mean["n"]) == {3}


def test_seeds_are_drawn_as_evaluated() -> None:
    table = scores(jitter=7)
    drawn = curves(table)
    seeds = drawn[drawn["series"] == "seed"]
    assert sorted(seeds["win_rate"]) == sorted(table["win_rate"])
    assert sorted(seeds["env_steps"]) == sorted(table["env_steps"])


def test_mean_of_seeds_evaluated_at_different_steps_is_the_mean_of_their_lines() -> None:
    rows = [
        ("m", "ippo", 1, 0, 0.0),
        ("m", "ippo", 1, 100, 1.0),
        ("m", "ippo", 2, 0, 0.0),
        ("m", "ippo", 2, 200, 1.0),
    ]
    drawn = curves(pd.DataFrame(rows, columns=["map", "condition", "seed", "env_steps", "win_rate"]))
    mean = drawn[drawn["series"] == "mean"]
    assert list(mean["env_steps"]) == [0, 100]
    assert list(mean["win_rate"]) == [0.0, 0.75]


@pytest.mark.parametrize(("maps", "seeds"), [(1, 1), (1, 3), (2, 5)])
def test_figure_draws_any_number_of_maps_and_seeds(tmp_path: Path, maps: int, seeds: int) -> None:
    data = plot_demo_ablation(scores(maps, seeds), teams(maps), tmp_path)
    written = pd.read_csv(tmp_path / "demo_ablation.csv")
    assert len(written) == len(data)
    lines = written.groupby("series").size()
    assert lines["seed"] == maps * 5 * seeds * 4
    assert lines["demonstrators"] == maps * 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".png", ".csv"}


def test_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        plot_demo_ablation(scores(), teams(), tmp_path / name, note="note")
        files = sorted((tmp_path / name).iterdir())
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]


def test_band_says_what_it_is() -> None:
    assert band_label([3]) == "bold: mean; band: mean ± 1 SD across n = 3 seeds"
    assert "no band" in band_label([1])


def test_every_condition_has_a_colour_of_its_own() -> None:
    assert set(COLOURS) == set(CONDITIONS)
    assert len(set(COLOURS.values())) == len(CONDITIONS)


def test_paper_curves_exist_for_the_papers_demonstrators_only(tmp_path: Path) -> None:
    folder = ROOT / "resources" / "paper_curves"
    path = ablation_file(folder, "ippo-s5000k")
    assert path is not None
    theirs = ablation_curves(path)
    assert set(theirs["map"]) == {"5m_vs_6m"} and len(theirs) == 4 * 41
    assert ablation_file(folder, "ippo-q30") == path  # what they win, 0.31, instead of how long they trained
    assert ablation_file(folder, "ippo-q90") is None
    table = scores().assign(map="5m_vs_6m")
    plot_demo_ablation(table, teams().assign(map="5m_vs_6m"), tmp_path, paper=theirs)


def test_the_papers_curves_may_have_a_panel_of_their_own(tmp_path: Path) -> None:
    path = ablation_file(ROOT / "resources" / "paper_curves", "ippo-q30")
    assert path is not None
    table, team = scores().assign(map="5m_vs_6m"), teams().assign(map="5m_vs_6m")
    plot_demo_ablation(table, team, tmp_path / "one", paper=ablation_curves(path))
    plot_demo_ablation(table, team, tmp_path / "two", paper=ablation_curves(path), beside=True)
    widths = [
        matplotlib.image.imread(tmp_path / name / "demo_ablation.png").shape[1] for name in ("one", "two")
    ]
    assert widths[1] > 1.2 * widths[0]
