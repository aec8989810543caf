"""`env: smac` in the configuration, in a cell's identity and in the plan; needs neither the game nor its packages."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dm2core.analysis.grid import cell_digest, cells, demos_digest
from dm2core.config import Config, ConfigError, cell_config, dump_config, load_config
from dm2core.env.smac.preflight import SMAC_COMMIT
from tests.workflow.conftest import ROOT, snakemake

FILE = ROOT / "config" / "config.yaml"


def config(**overrides: Any) -> Config:
    return load_config(FILE, overrides)


def digest(one: Config, **changes: Any) -> str:
    return cell_config(one, map_name="3m", method="ippo", seed=1, **changes).digest()


def test_the_game_alone_asks_for_the_papers_scale_and_a_folder_of_its_own() -> None:
    game, paper = config(env="smac"), config(scale="paper")
    assert (game.scale, game.results) == ("paper", "results/smac")
    same = {"env": "embedded", "results": paper.results}
    assert game.model_copy(update=same) == paper


def test_the_command_line_can_still_choose_a_scale_and_a_folder() -> None:
    smoke = config(env="smac", scale="smoke", results="here")
    assert (smoke.scale, smoke.results, smoke.budget) == ("smoke", "here", config(scale="smoke").budget)
    assert load_config(FILE).scale == "quick"


def test_a_resolved_configuration_reads_back_as_it_was(tmp_path: Path) -> None:
    game = config(env="smac")
    (tmp_path / "resolved.yaml").write_text(dump_config(game), encoding="utf-8")
    assert load_config(tmp_path / "resolved.yaml") == game


def test_the_simulators_cells_keep_the_digests_they_had_before_there_was_a_game() -> None:
    cell = cell_config(config(scale="paper"), map_name="3m", method="ippo", seed=1)
    later = (
        "map_sha256",
        "cloning",
        "own_episodes",
        "qmix",
        "rmappo",
        "smac",
    )  # fields a digest leaves out if empty
    first = {key: value for key, value in cell.model_dump().items() if key not in later}
    assert cell.digest() == hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()


def test_the_game_is_part_of_identity_and_how_it_is_run_is_not() -> None:
    simulator, game = config(scale="paper"), config(env="smac")
    more = config(env="smac", smac={"games": 2, "hang_limit_s": 5.0})
    assert digest(simulator) != digest(game) == digest(more)
    for cell in cells(game)[:1]:
        assert cell_digest(simulator, cell) != cell_digest(game, cell) == cell_digest(more, cell)
    shown = "random_joint-concurrent"
    assert demos_digest(simulator, "3m", shown) != demos_digest(game, "3m", shown)


def test_qmix_fights_one_battle_at_a_time_and_has_one_game() -> None:
    game = config(env="smac")
    for method, games in (("ippo", 8), ("rmappo", 8), ("qmix", 1), ("qmix_fc3", 1)):
        cell = cell_config(game, map_name="3m", method=method, seed=1)
        assert cell.smac == game.smac.model_copy(update={"games": games}), method
    assert cell_config(config(scale="paper"), map_name="3m", method="qmix", seed=1).smac is None


def test_packs_fight_in_the_simulator_only() -> None:
    with pytest.raises(ConfigError, match=r"packs.cells: .* set packs.cells=0"):
        config(env="smac", packs={"cells": 4})


def test_the_game_is_planned_at_the_papers_scale(tmp_path: Path) -> None:
    plain = snakemake(tmp_path, "-n", "--config", "env=smac")
    named = snakemake(tmp_path, "-n", "--config", "env=smac", "scale=paper")
    assert (
        plain.plan
        == named.plan
        == {
            "train_expert": 5,
            "sample_demos": 4,
            "train_cell": 25,
            "collect_scores": 1,
            "plot_demo_ablation": 1,
        }
    ), plain.text
    assert "results/smac/cells/5m_vs_6m/dm2/" in plain.text
    assert "results/paper" not in plain.text


def test_the_report_shows_no_battles_of_the_simulator_as_the_games(tmp_path: Path) -> None:
    shown = snakemake(tmp_path, "-n", "report_parts", "--config", "env=smac").plan
    assert {"plot_demo_ablation", "verdict", "write_provenance"} <= set(shown)
    assert not {"record_battle", "replay_pair", "animate_battle"} & set(shown)
    caption = (ROOT / "workflow" / "report" / "replay.rst").read_text()
    assert caption.startswith("The same battle of the embedded simulator")


def locked(file: str) -> dict[str, str]:
    rows = (line.split("==") for line in (ROOT / file).read_text().splitlines() if not line.startswith("#"))
    return dict(rows)


def test_no_default_installation_brings_the_games_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        assert not text.startswith(("pysc2", "smac", "protobuf", "s2clientprotocol")), text
    extra = project["optional-dependencies"]["smac"]
    assert {"pysc2==4.0.0", "protobuf<3.21"} < set(extra)
    for file in ("requirements.txt", "environment.yml"):
        for name in ("pysc2", "smac", "s2clientprotocol", "pygame"):
            assert not re.search(rf"^[^#]*\b{name}\b", (ROOT / file).read_text(), re.MULTILINE), (file, name)
    assert int(locked("requirements.txt")["protobuf"].split(".")[0]) >= 5  # not held back for pysc2


def test_the_games_lock_is_the_default_one_but_for_what_pysc2_needs() -> None:
    default, game = locked("requirements.txt"), locked("requirements-smac.txt")
    assert {name for name in default if game.get(name) != default[name]} == {
        "protobuf",
        "opentelemetry-proto",
    }
    assert game["protobuf"].startswith("3.20.") and game["pysc2"] == "4.0.0"
    assert {"s2clientprotocol", "websocket-client"} <= set(game) - set(default)
    assert "smac" not in game  # the package index's is another project
    assert "-r requirements-smac.txt" in (ROOT / "environment-smac.yml").read_text()


def test_one_commit_of_smac_is_named_everywhere() -> None:
    commit = re.compile(r"\b[0-9a-f]{40}\b")
    for file in ("pyproject.toml", "Makefile", "tools/install_starcraft.sh", "docs/starcraft.md"):
        assert set(commit.findall((ROOT / file).read_text())) == {SMAC_COMMIT}, file


def test_every_proof_that_the_page_names_is_a_test() -> None:
    page = (ROOT / "docs" / "starcraft.md").read_text()
    names = set(re.findall(r"\b(test_\w+)\b(?!\.py)", page))
    there = "".join(path.read_text() for path in (ROOT / "tests" / "smac").glob("test_*.py"))
    assert len(names) >= 10
    assert {name for name in names if f"def {name}(" not in there} == set()
