"""`dm2 explain` tells from files alone what a run is, how it went and what uses it; bad names get the nearest ones."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from dm2core.cli import main
from dm2core.config import Config, dump_config, load_config
from dm2core.inspection.explain import sparkline
from dm2core.inspection.find_run import find_run
from dm2core.records.manifest import Job
from dm2core.train import train_cell

from .conftest import ROOT
from .test_resume import Cells

NAME = "3m/dm2/ippo-q50_joint-concurrent/seed7"


@pytest.fixture(scope="session")
def results(
    config: Config, cells: Cells, demo_sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A results folder with one finished DM2 cell, its demonstrations, and a table that uses it."""
    root = tmp_path_factory.mktemp("explained") / "results"
    cell, demos = cells["dm2"]
    assert demos is not None
    shutil.copytree(demos, root / "demos" / "3m" / demos.name)
    folder = root / "cells" / NAME
    train_cell(cell, folder, root / "state" / "cells" / NAME, root / "demos" / "3m" / demos.name)
    (root / "tables").mkdir()
    Job("table", "", [folder / "metrics.parquet"]).finish(root / "tables" / "3m.manifest.json", [])
    return root


def explained(results: Path, name: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    options = ["--config", str(ROOT / "config" / "config.yaml"), "--set", "scale=smoke"]
    code = main(["explain", name, *options, "--set", f"results={results}"])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_one_page_says_what_a_finished_cell_is(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, page = explained(results, NAME, capsys)
    assert code == 0
    manifest = json.loads((results / "cells" / NAME / "manifest.json").read_text())
    for text in (
        "independent PPO on 3m, paid the task reward and its own discriminator's logit; seed 7",
        "env_steps 3,000 (10,000,000)", "discriminator.steps 2 (120)", "12 episodes per agent", "last 0.",
        "1 attempt", manifest["code"]["commit"], manifest["host"]["cpu"], manifest["digest"], "table: 3m",
        f"--forcerun {results}/cells/{NAME}/metrics.parquet",
    ):  # fmt: skip
        assert text in page, text
    by_path = explained(results, str(results / "cells" / NAME / "metrics.parquet"), capsys)[1]
    assert by_path == page


def test_an_absolute_path_is_the_relative_one(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that makes the run again has to name it as the configuration does."""
    monkeypatch.chdir(results.parent)
    code, page = explained(Path("results"), str(results / "cells" / NAME), capsys)
    assert code == 0 and f"--forcerun results/cells/{NAME}/metrics.parquet" in page


def test_unfinished_and_failed_cells_are_explained_as_far_as_they_are(
    config: Config, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "3m/ippo/none/seed7"
    state = tmp_path / "state" / "cells" / name
    state.mkdir(parents=True)
    rows = [[0, 0, "eval/win_rate", 0.0], [4, 900, "eval/win_rate", 1.0]]
    (state / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "[5, 9")
    (state / "attempts.json").write_text("[{}]")
    code, page = explained(tmp_path, name, capsys)
    assert code == 0 and "stopped" in page and "▁█" in page and "last 1.000" in page
    old = tmp_path / "cells" / name  # made anew; what it was before still lies there
    old.mkdir(parents=True)
    shutil.copy(results / "cells" / NAME / "metrics.parquet", old)
    assert explained(tmp_path, name, capsys) == (0, page)
    (state / "failure.json").write_text(json.dumps({"what": "value loss is nan", "iteration": 5}))
    assert "failed: iteration 5: value loss is nan" in explained(tmp_path, str(state), capsys)[1]


def test_a_damaged_manifest_is_said_and_the_rest_still_shown(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(results, tmp_path / "results")
    path = tmp_path / "results" / "cells" / NAME / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))
    code, page = explained(tmp_path / "results", NAME, capsys)
    assert code == 0 and "seal does not fit" in page.replace("\n", " ") and "win rate" in page


def test_a_run_of_a_folder_that_no_scale_has_is_made_again_under_its_own_configuration(
    config: Config,
    cells: Cells,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ours = config.model_copy(update={"results": str(tmp_path)})
    text = dump_config(ours)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "config").mkdir()
    own = tmp_path / "config" / f"{sha256[:12]}.yaml"
    own.write_text(text)
    cell, _ = cells["ippo"]
    folder = tmp_path / "cells/3m/ippo/none/seed7"
    train_cell(cell, folder, tmp_path / "state/cells/3m/ippo/none/seed7", None, config_sha256=sha256)
    options = ["--config", str(ROOT / "config" / "config.yaml")]
    assert main(["explain", str(folder), *options]) == 0
    assert f"--forcerun {folder}/metrics.parquet --configfile {own}" in capsys.readouterr().out
    (folder / "metrics.parquet").write_bytes(b"PAR1")
    assert main(["explain", str(folder), *options]) == 0
    assert "metrics.parquet is damaged" in capsys.readouterr().out


def test_a_bad_name_is_one_line_with_the_nearest(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = explained(results, NAME.replace("joint", "jiont"), capsys)
    assert code == 2 and len(line.splitlines()) == 1
    assert f"nearest: {NAME}" in line
    assert explained(results, "zzzz", capsys) == (
        2, "dm2: zzzz: no such run; dm2 status lists the cells\n"
    )  # fmt: skip


def test_a_published_run_is_found_by_its_name_after_those_that_are_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "provenance.md").read_text(encoding="utf-8")
    example = re.search(r"dm2 explain (\S+)", page)
    assert example is not None
    (tmp_path / "results").mkdir()  # a fresh clone
    (tmp_path / "config").symlink_to(ROOT / "config")
    (tmp_path / "results" / "reference").symlink_to(ROOT / "results" / "reference")
    monkeypatch.chdir(tmp_path)
    assert main(["explain", example[1]]) == 0
    page = capsys.readouterr().out
    folder = "results/reference/switchboard"
    assert re.search(rf"^results +{folder} *$", page, re.MULTILINE) and "finished" in page
    assert f"snakemake {folder}/cells/{example[1]}/metrics.parquet" in page
    quick = load_config("config/config.yaml")
    name = "5m_vs_6m/dm2/ippo-q30_joint-concurrent/seed112358"
    assert find_run(name, quick).results == Path("results/reference/campaign")
    (tmp_path / quick.results / "state" / "cells" / example[1]).mkdir(parents=True)
    assert find_run(example[1], quick).results == Path(quick.results)


def test_the_configuration_may_lie_elsewhere(
    config: Config, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(dump_config(config.model_copy(update={"results": str(results)})))
    assert main(["explain", NAME, "--config", str(path)]) == 0
    page = capsys.readouterr().out
    assert "used by" in page and f"--configfile {path}\n" in page


def test_a_curves_bars_go_from_0_to_1() -> None:
    assert sparkline((0.0, 0.5, 1.0)) == "▁▅█"
    assert len(sparkline(tuple(0.3 for _ in range(400)))) == 50
