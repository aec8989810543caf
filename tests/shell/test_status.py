"""`dm2 status` tells planned, running, stopped, failed and finished cells apart, from files alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dm2core.analysis.grid import Cell, expert_digest, made_digest
from dm2core.cli import main
from dm2core.config import Config, load_config
from dm2core.inspection.status import Status, _time, line
from dm2core.records.lock import cell_lock
from dm2core.records.progress import CellProgress
from dm2core.records.standing import standing

ROOT = Path(__file__).parents[2]
IPPO = "3m/ippo/none/seed112358"
SPOILT = "3m/ippo/none/seed1285842"


def report(results: Path, name: str, env_steps: int, kind: str = "cells") -> Path:
    folder = results / "state" / kind / name
    folder.mkdir(parents=True, exist_ok=True)
    with CellProgress(name, 1000, 0, folder) as progress:
        progress.evaluated(0.25)
        progress.update(env_steps)
    return folder / "progress.json"


def log(results: Path, name: str, text: str) -> None:
    path = results / "logs" / "train_cell" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def smoke(results: Path) -> Config:
    return load_config(ROOT / "config" / "config.yaml", {"scale": "smoke", "results": str(results)})


def test_a_report_says_what_onlookers_need(tmp_path: Path) -> None:
    path = report(tmp_path, IPPO, 400)
    assert set(json.loads(path.read_text())) == {
        *("name", "env_steps", "total", "win_rate", "per_s", "left_s", "wall_s", "cpu_s")
    }
    (tmp_path / "experts/3m/ippo/seed1").mkdir(parents=True)
    (tmp_path / "experts/3m/ippo/seed1/manifest.json").write_text("{}")
    assert line(tmp_path).startswith(
        f"done: 1 experts, 0 demonstration sets, 0 cells; running: {IPPO} 40 %, win rate 0.25"
    )


def test_before_the_first_evaluation_there_is_no_win_rate(tmp_path: Path) -> None:
    """And no NaN, which is no JSON."""
    folder = tmp_path / "state" / "cells" / IPPO
    folder.mkdir(parents=True)
    CellProgress(IPPO, 1000, 0, folder).update(10)
    assert json.loads((folder / "progress.json").read_text())["win_rate"] is None
    assert f"running: {IPPO} 1 %, win rate -" in line(tmp_path)
    CellProgress(IPPO, 1000, 10, folder, win_rate=0.5).update(20)  # resumed
    assert f"running: {IPPO} 2 %, win rate 0.50" in line(tmp_path)


def test_a_cell_that_went_silent_is_not_running(tmp_path: Path) -> None:
    os.utime(report(tmp_path, IPPO, 400), (0, 0))
    assert line(tmp_path).endswith("running: none")
    assert standing(tmp_path, IPPO).state == "stopped"


def test_what_other_experts_are_behind_is_outdated(tmp_path: Path) -> None:
    config, demos = smoke(tmp_path), "ippo-q50_joint-concurrent"
    cell, name = Cell("3m", "dm2", demos, 112358), "3m/ippo/seed1"
    card = {"map": "3m", "demos_id": demos, "sha256": "0" * 64}

    def found(team: str) -> tuple[str, bool, str]:
        for path, about in (
            (f"experts/{name}/manifest.json", {"digest": team}),
            (f"demos/3m/{demos}/card.json", card | {"teams": [{"digest": team}]}),
        ):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(json.dumps(about))
        manifest = tmp_path / "cells" / cell.path / "manifest.json"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps({"digest": made_digest(config, cell)}))
        status = Status(config, ["demo_ablation"])
        return status.experts[name].state, status.sets["3m", demos], status.cells[cell].state

    assert found(expert_digest(config, "3m", "ippo", 1)) == ("finished", True, "finished")
    assert found("of a longer budget") == ("outdated", False, "outdated")


def test_a_held_lock_is_a_running_cell_however_silent_and_a_free_one_is_not(tmp_path: Path) -> None:
    path = report(tmp_path, IPPO, 400)
    os.utime(path, (0, 0))
    with cell_lock(path.parent):
        assert standing(tmp_path, IPPO).state == "running"
    path = report(tmp_path, IPPO, 500)  # a moment ago, but its process is gone
    assert standing(tmp_path, IPPO).state == "stopped"


@pytest.mark.parametrize(
    ("said", "state", "why"),
    [
        ("dm2: stopped by SIGTERM; everything up to the last iteration is saved, run again\n", "stopped", ""),
        ("dm2: x: in use by process 3 on a; wait for it, or stop it and run again\n", "stopped", ""),
        ("3m: 400 of 1,000 env steps\n", "stopped", ""),
        ("dm2: demos.npz: its SHA-256 is not the card's\n\n", "failed", "demos.npz: its SHA-256 is not the card's"),
        ("Traceback (most recent call last):\n  x\nMemoryError\n", "failed", "MemoryError"),
    ],
)  # fmt: skip
def test_stopped_and_failed_cells_are_told_apart_by_their_last_words(
    tmp_path: Path, said: str, state: str, why: str
) -> None:
    os.utime(report(tmp_path, IPPO, 400), (0, 0))
    log(tmp_path, IPPO, said)
    found = standing(tmp_path, IPPO)
    assert (found.state, found.why) == (state, why)


def test_a_narrow_terminal_still_names_every_condition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    options = ["--config", str(ROOT / "config" / "config.yaml"), "--set", "scale=campaign"]
    for seed in (112358, 119527):
        report(tmp_path, f"5m_vs_6m/ippo/none/seed{seed}", 400)
    assert main(["status", *options, "--set", f"results={tmp_path}", "--figure", "all"]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    rows = [
        [part.strip() for part in row.split("│")[1:-1]] for row in page.splitlines() if row.count("│") == 6
    ]
    assert ["5m_vs_6m", "ippo", "", "0 of 5", "2 running 40 %"] in rows
    sets = "".join(row[2] for row in rows)
    assert "ippo-q30_indep-nonconcurrent-t4" in sets and "3s_vs_3z" in {row[0] for row in rows}


def test_the_grid_shows_every_planned_cell_and_its_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    config = smoke(tmp_path)
    failed = "3m/dm2/ippo-q50_joint-concurrent/seed112358"
    state = tmp_path / "state" / "cells" / failed
    state.mkdir(parents=True)
    (state / "failure.json").write_text(json.dumps({"what": "actor loss of agent 1 is nan", "iteration": 3}))
    report(tmp_path, "3m/dm2/ippo-q50_indep-concurrent/seed1285842", 400)
    old = tmp_path / "cells" / IPPO
    old.mkdir(parents=True)
    (old / "manifest.json").write_text(json.dumps({"digest": "of another configuration"}))
    spoilt = tmp_path / "cells" / SPOILT / "manifest.json"
    spoilt.parent.mkdir(parents=True)
    spoilt.write_text('{"digest"')
    states = {cell.path: s.state for cell, s in Status(config, ["demo_ablation"]).cells.items()}
    assert len(states) == 10
    assert states.pop(failed) == states.pop(SPOILT) == "failed" and states.pop(IPPO) == "outdated"
    assert states.pop("3m/dm2/ippo-q50_indep-concurrent/seed1285842") == "running"
    assert set(states.values()) == {"waiting"}
    options = ["--config", str(ROOT / "config" / "config.yaml"), "--set", "scale=smoke"]
    assert main(["status", *options, "--set", f"results={tmp_path}"]) == 0
    page = capsys.readouterr().out
    assert "cells 0 of 10, 1 running, 2 failed, 1 outdated, 6 waiting" in page
    assert f"failed: {SPOILT}: {spoilt} is damaged; delete it" in " ".join(page.split())
    assert f"failed: {failed}: iteration 3: actor loss of agent 1 is nan" in page
    assert "running 40 %" in page and "at this speed" in page
    assert main(["status", *options, "--set", f"results={tmp_path}", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cells"]) == 10


def test_the_time_left_is_that_of_planned_cells_and_of_what_runs(tmp_path: Path) -> None:
    """Not of cells that somebody once began and no figure plans."""
    config = smoke(tmp_path)
    left = str(Status(config, ["demo_ablation"])._summary())
    assert "env steps/s" not in left
    report(tmp_path, "3m/ippo/none/seed99", 500)  # unplanned, and silent
    os.utime(tmp_path / "state/cells/3m/ippo/none/seed99/progress.json", (0, 0))
    path = report(tmp_path, "3m/ippo/none/seed98", 400)  # unplanned, and running
    known = json.loads(path.read_text()) | {"per_s": 1.0}
    path.write_text(json.dumps(known))
    status = Status(config, ["demo_ablation"])
    seconds = len(status.planned) * config.budget.env_steps + 600  # seed98 has 1,000 in all
    assert f"all cells in about {_time(seconds)}" in str(status._summary())


def test_a_finished_cell_of_this_configuration_is_done(tmp_path: Path) -> None:
    from dm2core.config import cell_config

    config = smoke(tmp_path)
    cell = cell_config(config, map_name="3m", method="ippo", seed=112358)
    folder = tmp_path / "cells" / IPPO
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"digest": cell.digest()}))
    states = [s.state for c, s in Status(config, ["demo_ablation"]).cells.items() if c.path == IPPO]
    assert states == ["finished"]


def test_status_needs_neither_torch_nor_snakemake_nor_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, snakemake=None, pandas=None)\n"
        "from dm2core.cli import main; raise SystemExit(main(sys.argv[1:]))"
    )
    config = str(ROOT / "config" / "config.yaml")
    command = [sys.executable, "-c", code, "status", "--config", config, "--set", f"results={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cells 0 of 15" in done.stdout


def test_a_report_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    with CellProgress(IPPO, 1000, 0, tmp_path / "missing") as progress:
        progress.update(10)
