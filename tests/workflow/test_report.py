"""`make report`'s page, made by the real command line and opened in a real browser where one is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dm2core.errors import EXIT_USAGE
from workflow.scripts import animate_battle

from .conftest import ROOT, SMOKE, snakemake
from .test_run import SEED

CATEGORIES = ("Demonstration ablation", "Verdict", "Theory", "Battles", "Provenance")


@pytest.fixture(scope="session")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(finished, folder)
    outcome = snakemake(folder, "report_parts", "--cores", "2", *SMOKE, *SEED)
    assert outcome.code == 0, outcome.text[-6000:]
    assert set(outcome.plan) == {
        *("record_battle", "replay_pair", "theory", "plot_theory", "verdict", "report_parts"),
        *("animate_battle", "write_provenance"),
    }
    path = folder / "report.html"
    outcome = snakemake(folder, "report_parts", *SMOKE, *SEED, "--report", str(path))
    assert outcome.code == 0, outcome.text[-6000:]
    return path


@pytest.mark.slow
def test_the_page_holds_every_category_and_asks_for_nothing_elsewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = (
        "demo_ablation.png", "report/replay_3m.png", "theory.csv", "verdict.html", "verdict.csv", "provenance.html"
    )  # fmt: skip
    assert all(name in text for name in (*CATEGORIES, *names))
    kinds = re.findall(r"data:(image/png|image/gif|application/pdf|text/csv|text/html);", text)
    assert Counter(kinds) == {**{"image/png": 4, "application/pdf": 2, "text/csv": 3, "text/html": 2}}
    with (
        Image.open(page.parent / "figures" / "replay_3m.gif") as gif,
        Image.open(page.parent / "results" / "smoke" / "report" / "replay_3m.png") as animation,
    ):
        assert animation.n_frames == gif.n_frames > 20 and animation.size == gif.size
        for k in (0, gif.n_frames // 2, gif.n_frames - 1):
            gif.seek(k), animation.seek(k)
            shown = [np.asarray(image.convert("RGB")).astype(int) for image in (gif, animation)]
            assert np.abs(shown[0] - shown[1]).mean() < 1
    assert not re.search(r"<(?:script|img)[^>]*\ssrc=[\"']?https?:|<link[^>]*href=[\"']?https?:", text)


@pytest.mark.slow
def test_provenance_lists_every_result_and_a_damaged_file_in_red(page: Path) -> None:
    root = page.parent
    made = (root / "results" / "smoke" / "report" / "provenance.html").read_text(encoding="utf-8")
    for path in (root / "results" / "smoke").glob("cells/3m/*/*/seed112358/manifest.json"):
        assert path.parent.relative_to(root).as_posix() in made
        assert json.loads(path.read_bytes())["digest"][:12] in made
    assert "each is what its manifest says" in made and "nothing is learned" in made
    target = root / "results" / "smoke" / "tables" / "3m.csv"
    target.write_bytes(target.read_bytes() + b"\n")
    outcome = snakemake(root, "report_parts", "--cores", "1", *SMOKE, *SEED, "--forcerun", "write_provenance")
    assert outcome.code == 0, outcome.text[-6000:]
    made = (root / "results" / "smoke" / "report" / "provenance.html").read_text(encoding="utf-8")
    assert 'class="warning">Not for publication: 1 of' in made and "results/smoke/tables/3m.csv" in made


@pytest.mark.slow
def test_a_browser_without_a_network_shows_the_menu(page: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}"]
    done = subprocess.run(
        [browser, *options, *offline, page.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    menu = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    assert all(f">{name}<" in menu or name in re.sub(r"<[^>]+>", " ", menu) for name in CATEGORIES)


@pytest.mark.parametrize("name", ["README.md", "results/reference/figures/core.png", "nowhere.gif"])
def test_what_is_no_gif_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "battle.png"
    assert animate_battle.main(["--gif", str(ROOT / name), "--out", str(out)]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and name in said and not out.exists()
