"""`dm2 status` shows what running cells report and counts what is finished."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dm2core.progress import CellProgress
from dm2core.status import line, running, show


def report(results: Path, name: str, env_steps: int) -> Path:
    folder = results / "state" / name
    folder.mkdir(parents=True)
    with CellProgress(name, 1000, 0, folder) as progress:
        progress.evaluated(0.25)
        progress.update(env_steps)
    return folder / "progress.json"


def test_running_and_finished_cells_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = report(tmp_path, "3m/ippo/none/seed1", 400)
    assert set(json.loads(path.read_text())) == {
        *("name", "env_steps", "total", "win_rate", "per_s", "left_s", "wall_s", "cpu_s")
    }
    for done in ("experts/3m/ippo/seed1/manifest.json", "cells/3m/ippo/none/seed2/manifest.json"):
        (tmp_path / done).parent.mkdir(parents=True)
        (tmp_path / done).touch()
    text = line(tmp_path)
    assert text.startswith(
        "done: 1 experts, 0 demonstration sets, 1 cells; running: 3m/ippo/none/seed1 40 %, win rate 0.25"
    )
    capsys.readouterr()
    show(tmp_path, watch=False)
    assert "400 of 1,000" in capsys.readouterr().out


def test_a_cell_that_went_silent_is_not_running(tmp_path: Path) -> None:
    path = report(tmp_path, "3m/ippo/none/seed1", 400)
    os.utime(path, (0, 0))
    assert line(tmp_path).endswith("running: none")
    assert len(running(tmp_path)) == 1


def test_a_report_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    with CellProgress("3m/ippo/none/seed1", 1000, 0, tmp_path / "missing") as progress:
        progress.update(10)
