"""Tables take finished cells of one configuration and refuse everything else in one line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dm2core.analysis import grid
from dm2core.analysis.scores import ResultsError, card_win_rates, collect_demonstrators, collect_scores
from dm2core.config import Config, cell_config, load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def finished(tmp_path: Path) -> Config:
    """A results folder with every file the tables read."""
    config = load_config(ROOT / "config" / "config.yaml", {"scale": "smoke", "results": str(tmp_path)})
    for index, demos_id in enumerate(grid.demo_ids(config, "3m")):
        folder = tmp_path / "demos" / "3m" / demos_id
        folder.mkdir(parents=True)
        (folder / "demos.npz").write_bytes(demos_id.encode())
        (folder / "card.json").write_text(json.dumps(card(0.1 * index)))
    for cell in grid.cells(config):
        write_cell(config, cell)
    return config


def card(win_rate: float) -> dict[str, object]:
    return {"win_rate": win_rate}


def write_cell(config: Config, cell: grid.Cell) -> None:
    folder = Path(config.results) / "cells" / cell.path
    folder.mkdir(parents=True)
    sha = "" if cell.demos == "none" else hashlib.sha256(cell.demos.encode()).hexdigest()
    made = cell_config(
        config, map_name=cell.map_name, method=cell.method, seed=cell.seed, demos=cell.demos, demos_sha256=sha
    )
    (folder / "manifest.json").write_text(json.dumps({"digest": made.digest()}))
    rows = [(0, 0, "eval/win_rate", 0.0), (0, 0, "train/policy_loss", 3.0), (1_000, 1, "eval/win_rate", 0.25)]
    frame = pd.DataFrame(rows, columns=["env_steps", "iteration", "key", "value"])
    frame.to_parquet(folder / "metrics.parquet", index=False)


def test_table_holds_every_evaluation_of_every_cell(finished: Config) -> None:
    table = collect_scores(finished, "3m")
    assert len(table) == 5 * len(finished.seeds) * 2
    assert table.groupby("condition")["seed"].nunique().to_dict() == dict.fromkeys(
        ["ippo", *grid.VARIANTS], len(finished.seeds)
    )


def test_missing_cell_is_refused_by_name(finished: Config) -> None:
    cell = grid.cells(finished)[0]
    (Path(finished.results) / "cells" / cell.path / "manifest.json").unlink()
    with pytest.raises(ResultsError, match=rf"^cell {cell.path}: .* is missing; run: snakemake [^\n]*$"):
        collect_scores(finished, "3m")


def test_cell_of_another_configuration_is_refused(finished: Config) -> None:
    other = finished.model_copy(update={"eval_seed": 1})
    with pytest.raises(ResultsError, match=r"made under another configuration"):
        collect_scores(other, "3m")


def test_cell_trained_on_other_demonstrations_is_refused(finished: Config) -> None:
    demos = Path(finished.results) / "demos" / "3m" / grid.demo_ids(finished, "3m")[0] / "demos.npz"
    demos.write_bytes(b"drawn again")
    with pytest.raises(ResultsError, match=r"joint-concurrent/seed112358: made under another"):
        collect_scores(finished, "3m")


def test_damaged_metrics_are_refused(finished: Config) -> None:
    path = Path(finished.results) / "cells" / grid.cells(finished)[0].path / "metrics.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ResultsError, match="is damaged"):
        collect_scores(finished, "3m")


def test_cell_without_an_evaluation_is_refused(finished: Config) -> None:
    path = Path(finished.results) / "cells" / grid.cells(finished)[0].path / "metrics.parquet"
    frame = pd.read_parquet(path)
    frame[frame["key"] != "eval/win_rate"].to_parquet(path, index=False)
    with pytest.raises(ResultsError, match="not finished"):
        collect_scores(finished, "3m")


def test_a_card_may_not_say_what_its_players_win() -> None:
    """That of imported demonstrations does not."""
    assert np.isnan(card_win_rates({"win_rate": None})).all()
    assert card_win_rates({"win_rate": [0.25, 0.5]}) == [0.25, 0.5]


def test_demonstrators_come_from_the_cards(finished: Config) -> None:
    teams = collect_demonstrators(finished, "3m")
    assert dict(zip(teams["condition"], teams["win_rate"], strict=True)) == pytest.approx(
        dict(zip(grid.VARIANTS, [0.0, 0.1, 0.2, 0.3], strict=True))
    )


def test_tables_and_verdict_are_made_without_matplotlib() -> None:
    code = "import sys; from workflow.scripts import collect, judge; raise SystemExit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
