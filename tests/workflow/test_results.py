"""What README.md and docs/results.md say was found is what the published cells give."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dm2core.analysis.claims import load_claims
from dm2core.analysis.grid import all_cells, cells_of, select
from dm2core.analysis.results_page import (
    conditions_block,
    effort_block,
    methods_block,
    replace_block,
    switchboard_block,
    verdict_block,
)
from dm2core.analysis.run_table import planned_runs, read_runs, read_training
from dm2core.config import load_config
from dm2core.demos import recall_demos
from dm2core.errors import EXIT_DATA, DataError
from dm2core.records.verify import verify
from workflow.scripts import judge, publish

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
CAMPAIGN = REFERENCE / "campaign"
QUICK = [REFERENCE / name for name in ("switchboard", "methods")]
(CONFIG,) = (CAMPAIGN / "config").glob("*.yaml")


def block(page: str, name: str) -> str:
    found = re.search(
        rf"<!-- {name}: begin -->\n(.*?)\n<!-- {name}: end -->", (ROOT / page).read_text(), re.DOTALL
    )
    assert found is not None
    return found[1]


def test_the_pages_say_what_the_published_cells_give() -> None:
    verdict = verdict_block(pd.read_csv(CAMPAIGN / "verdict" / "verdict.csv"))
    assert "**" in verdict
    assert block("README.md", "verdict") == block("docs/results.md", "verdict") == verdict
    rows = [line.split(" | ") for line in verdict.splitlines() if "**" in line and " | all | " not in line]
    for outcome in {row[5].strip("*") for row in rows}:
        told = [row for row in rows if row[5] == f"**{outcome}**"]
        agreed = [row for row in told if row[6].strip(" |") == ""]
        ours = sum("(ours)" in row[0] for row in told)
        aside = f", {ours} ours" if ours else ""
        assert f" {len(told)} {outcome} ({len(agreed)} by every reading{aside})" in verdict.splitlines()[0]
    claims = load_claims(ROOT / "claims" / "campaign.yaml")
    assert block("docs/results.md", "conditions") == conditions_block(
        read_runs(CAMPAIGN), read_training(CAMPAIGN), claims, planned_runs(load_config(CONFIG))
    )
    assert block("docs/results.md", "effort") == effort_block(CAMPAIGN)
    flips = pd.read_csv(REFERENCE / "figures" / "switchboard.csv")
    assert block("docs/deviations.md", "switchboard") == switchboard_block(flips)
    learnt = pd.read_csv(REFERENCE / "figures" / "methods.csv")
    assert block("docs/scales.md", "methods") == methods_block(learnt)


def test_the_published_verdict_is_the_judgement_of_the_published_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert load_config(CONFIG) == load_config(ROOT / "config" / "config.yaml", {"scale": "campaign"})
    parts = ["--config", str(CONFIG), "--claims", "claims/campaign.yaml", "--paper", "resources/paper_curves"]
    theory = str(CAMPAIGN / "theory" / "theory.csv")
    assert judge.main([*parts, "--theory", theory, "--out", str(tmp_path)]) == 0
    again, published = (pd.read_csv(at / "verdict.csv") for at in (tmp_path, CAMPAIGN / "verdict"))
    pd.testing.assert_frame_equal(again, published, rtol=1e-9)


def test_publishing_the_same_cells_again_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config", "claims", "results/reference"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(REFERENCE / "figures", tmp_path / "figures")
    shutil.copyfile(ROOT / ".gitignore", tmp_path / ".gitignore")  # what git does not take is left out
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in ("README.md", "docs/results.md", "docs/deviations.md", "docs/scales.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    text, stale = CONFIG.read_text(), [CONFIG.with_name(f"{name}.yaml") for name in ("other", "older")]
    stale = [tmp_path / path.relative_to(ROOT) for path in stale]
    stale[0].write_text(text.replace("eval_seed: 92814", "eval_seed: 92815"))
    stale[1].write_text(text.replace("eval_seed: 92814\n", ""))  # from before the key was there
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path not in stale}
    monkeypatch.chdir(tmp_path)
    names = sorted({path.stem for path in (REFERENCE / "figures").iterdir()})
    pages = ["--readme", "README.md", "--page", "docs/results.md", "--switches", "docs/deviations.md"]
    pages += [
        "--scales",
        "docs/scales.md",
        "--quick",
        "results/reference/switchboard",
        "results/reference/methods",
    ]
    assert publish.main(["--scale", "campaign", "--figures", *names, *pages]) == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert publish.main(["--scale", "campaign", "--figures", "theory", *pages]) == EXIT_DATA


def test_every_published_file_is_what_its_manifest_and_the_sums_say() -> None:
    for results, least in ((CAMPAIGN, 80), *((folder, 40) for folder in QUICK)):
        found = verify([results])
        assert found.checked > least and not found.damaged and not found.unlisted
    sums = [line.split() for line in (REFERENCE / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in sums} == {path.name for path in (REFERENCE / "figures").iterdir()}
    for sha256, name in sums:
        assert hashlib.sha256((REFERENCE / "figures" / name).read_bytes()).hexdigest() == sha256


def test_what_is_kept_of_the_stage_under_way_is_planned_there_and_nowhere_else() -> None:
    begun = REFERENCE / "begun"
    plan = yaml.safe_load((ROOT / "config" / "begun.yaml").read_text())
    only = {key: plan.pop(key) for key in list(plan) if key.startswith("only_")}
    stage = load_config(ROOT / "config" / "config.yaml", {"scale": "campaign", **plan})
    planned = {cell.path for cell in select(cells_of(stage, only), only)}
    assert planned and planned.isdisjoint(cell.path for cell in all_cells(load_config(CONFIG)))
    kept = [
        path.parent.relative_to(begun / "cells").as_posix() for path in begun.glob("cells/**/manifest.json")
    ]
    assert planned.issuperset(kept)
    # A stage that is only planned keeps nothing; of one that is said to be under way nothing may get lost.
    said = re.search(r"Stage\s+\w+\s+is\s+under\s+way", (ROOT / "docs" / "campaign.md").read_text())
    assert any(begun.rglob("manifest.json")) == begun.exists() == (said is not None)
    assert not begun.exists() or not verify([begun]).damaged


def test_published_battles_fought_again_on_this_machine_are_the_cards(tmp_path: Path) -> None:
    kept = sorted(REFERENCE.glob("*/demos/*/*/battles.npz"))
    assert kept
    shutil.copytree(kept[0].parent, tmp_path / "set", ignore=shutil.ignore_patterns("demos.npz"))
    assert recall_demos(tmp_path / "set")


def test_a_page_without_the_block_is_refused() -> None:
    assert replace_block("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb", "x", "new").split("\n")[2] == "new"
    with pytest.raises(DataError, match="no block <!-- x: begin -->"):
        replace_block("nothing", "x", "new")
