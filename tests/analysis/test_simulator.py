"""docs/simulator.md says what the committed tables say, the tables say what the simulator does, and IPPO runs join."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dm2core.analysis.calibration import at, calibration_cells, collect, curve
from dm2core.analysis.choices import CHOICES, Choice
from dm2core.analysis.scores import ResultsError
from dm2core.analysis.simulator_page import distance, page, wilson
from dm2core.config import cell_config, load_config
from dm2core.env.scenario import load_scenario
from dm2core.strict import parse_yaml
from workflow.scripts import measure_simulator as measure

ROOT = Path(__file__).resolve().parents[2]
TABLES, CURVES = ROOT / "results" / "reference" / "simulator", ROOT / "resources" / "paper_curves"
FACTS = parse_yaml((ROOT / "resources" / "smac_facts.yaml").read_text(encoding="utf-8"))


def ippo(name: str, per_seed: dict[int, list[float]], every: int = 50_000) -> pd.DataFrame:
    """A calibration table with the given win rates, seed by seed, from env step 0 on."""
    rows = [
        (name, seed, k * every, rate, 20 * rate, 50.0, 0.25)
        for seed, rates in per_seed.items()
        for k, rate in enumerate(rates)
    ]
    names = ["map", "seed", "env_steps", "win_rate", "episode_return", "episode_length", "timeout_rate"]
    return pd.DataFrame(rows, columns=names)


def test_the_page_is_what_the_committed_tables_give() -> None:
    written = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    assert page(TABLES, FACTS, CURVES) == written, "run: snakemake docs/simulator.md --cores 1"


@pytest.mark.parametrize(("name", "script"), [("8m", "smac_heuristic"), ("3s_vs_5z", "farm_then_kite")])
def test_the_tables_are_what_the_simulator_does(name: str, script: str) -> None:
    table = pd.read_csv(TABLES / "scripted.csv")
    row = table[(table["map"] == name) & (table["script"] == script)].iloc[0]
    make = (measure.SCRIPTS | measure.FARMS)[script]
    found = measure.summary(name, make(), int(row["battles"]))
    assert {key: float(f"{value:.6g}") for key, value in found.items()} == row[list(found)].to_dict()


def test_a_flipped_choice_is_what_its_table_says() -> None:
    table = pd.read_csv(TABLES / "choices.csv")
    assert set(table["choice"]) == {-1, *range(len(CHOICES))}
    row = table[(table["choice"] == 1) & (table["map"] == "8m")].iloc[0]
    flipped = CHOICES[1].flip(load_scenario("8m"))
    policy = measure.noisy(measure.SCRIPTS[row["script"]](), measure.CHOICE_NOISE)
    assert measure.summary(flipped, policy, int(row["battles"]))["win_rate"] == row["win_rate"]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: f"{choice.name}: {choice.flipped}")
def test_every_choice_changes_the_data_and_nothing_is_moved_off_its_spawn(choice: Choice) -> None:
    before = load_scenario("2s3z")
    after = choice.flip(before)
    parts = [getattr(after, name) != getattr(before, name) for name in ("allies", "enemies", "constants")]
    assert any(parts) or (after.start != before.start).any()
    for spawn in ((9.0, 16.0), (23.0, 16.0)):
        assert (after.start == spawn).all(-1).any()


def test_every_published_fact_has_a_source_and_a_script_that_is_measured() -> None:
    table = pd.read_csv(TABLES / "scripted.csv")
    for fact in FACTS["facts"]:
        assert fact["source"] in FACTS["sources"] and fact["low"] <= fact["high"]
        assert fact["column"] in table and fact["tests"] in ("rules", "same script", "other policy")
        assert fact["script"] == "any" or (fact["map"], fact["script"]) in set(
            zip(table["map"], table["script"], strict=True)
        )


def test_intervals_and_gaps() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 1000) == pytest.approx((0.0, 0.0038), abs=1e-4) and wilson(0.0, 1000)[0] == 0.0
    assert [distance(2.0, 3.0, ours) for ours in ((1.0, 1.5), (1.0, 2.5), (2.2, 9.0), (3.5, 4.0))] == [
        -0.5,
        0,
        0,
        0.5,
    ]


def test_first_crossings_are_those_of_the_smoothed_mean_over_seeds() -> None:
    rise = [0.0] * 10 + [0.4] * 10 + [0.8] * 21
    table = ippo("3s_vs_3z", {1: rise, 2: [0.0] * 41})
    found = curve(table)  # the mean is half of `rise`: 0.2 from evaluation 10 on, 0.4 from 20 on
    assert (found.seeds, found.env_steps, found.first_05) == (2, 2_000_000, None)
    assert found.first_02 == 12 * 50_000  # where all five evaluations are at 0.2
    assert found.final == pytest.approx(0.4) and found.timeouts == 0.25
    assert curve(ippo("3s_vs_3z", {1: rise})).first_05 == 19 * 50_000  # (3 x 0.4 + 2 x 0.8) / 5 = 0.56
    assert at(table, 500_000) == 0.2 and at(table, 2_000_000) == 0.4 and at(table, 3_000_000) is None


def test_a_seed_that_ran_shorter_shortens_the_comparison() -> None:
    table = ippo("3s_vs_3z", {1: [0.0] * 41, 2: [1.0] * 11})
    assert curve(table).env_steps == 500_000 and at(table, 1_000_000) is None


def test_finished_runs_appear_beside_the_papers(tmp_path: Path) -> None:
    shutil.copytree(TABLES, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("ippo_*.csv"):
        path.unlink()
    empty = page(tmp_path, FACTS, CURVES)
    assert empty.count(": not run yet; nothing can be said.") == 5 and "0 of 5 maps" in empty
    ippo("3s_vs_3z", {1: [0.0] * 28 + [1.0] * 41}).to_csv(tmp_path / "ippo_3s_vs_3z.csv", index=False)
    ippo("5m_vs_6m", {1: [0.0] * 41}).to_csv(tmp_path / "ippo_5m_vs_6m.csv", index=False)
    ippo("3s_vs_4z", {1: [0.9] * 41}).to_csv(tmp_path / "ippo_3s_vs_4z.csv", index=False)
    text = page(tmp_path, FACTS, CURVES)
    assert "3 of 5 maps" in text
    assert (
        "- 3s_vs_3z: ours reaches 0.5 in 0.50 times the paper's env steps: easier for IPPO than the game."
        in text
    )
    assert (
        "- 5m_vs_6m: ours has not reached 0.5 in 2.0M env steps, the paper's did after 9.30M: too few to say."
        in text
    )
    assert (
        "- 3s_vs_4z: ours reaches 0.5 after 0.00M, the paper's never does: easier for IPPO than the game."
        in text
    )
    assert "| 5m_vs_6m | ours | 1 | 2.0M | not reached: 2.0M env steps run |" in text
    assert "| 5m_vs_6m | ours | 0.00 | 0.00 | 0.00 | - |" in text


def test_calibration_takes_finished_cells_of_the_authors_profile_only(tmp_path: Path) -> None:
    config = load_config(ROOT / "config" / "config.yaml", {"scale": "smoke", "results": str(tmp_path)})
    with pytest.raises(ResultsError, match=r"manifest\.json is missing; run: snakemake"):
        collect(config, "3m")
    (cell,) = calibration_cells(config, "3m")
    folder = tmp_path / "cells" / cell.path
    folder.mkdir(parents=True)
    digest = cell_config(config, map_name="3m", method="ippo", seed=cell.seed).digest()
    (folder / "manifest.json").write_text(json.dumps({"digest": digest}))
    values = {"win_rate": 0.5, "episode_return": 12.0, "episode_length": 30.0, "timeout_rate": 0.1}
    rows = [(steps, 0, f"eval/{key}", value) for steps in (0, 900) for key, value in values.items()]
    rows.append((900, 0, "train/entropy", 1.0))
    frame = pd.DataFrame(rows, columns=["env_steps", "iteration", "key", "value"])
    frame.to_parquet(folder / "metrics.parquet", index=False)
    table = collect(config, "3m")
    assert table.to_dict("records") == [
        {"map": "3m", "seed": cell.seed, "env_steps": steps, **values} for steps in (0, 900)
    ]
    log = tmp_path / "state" / "cells" / cell.path / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    lines = [json.dumps([3, 400, f"eval/{key}", value / 2]) for key, value in values.items()]
    log.write_text("\n".join([*lines, "[4, 500, "]))
    running = collect(config, "3m", running=True)
    assert running[["env_steps", "win_rate"]].to_dict("records") == [{"env_steps": 400, "win_rate": 0.25}]
    assert collect(config, "3m").equals(table)
    for override in ({"profile": "paper"}, {"switches": {"terminal_row": False}}):
        other = load_config(
            ROOT / "config" / "config.yaml", {"scale": "smoke", "results": str(tmp_path), **override}
        )
        with pytest.raises(ResultsError, match="profile must be authors"):
            collect(other, "3m")
