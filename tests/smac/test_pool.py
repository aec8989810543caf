"""What a pool leaves to its workers and to other pools, without any game."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from dm2core.env.smac import pool
from dm2core.env.smac.link import Sizes
from dm2core.env.smac.settings import DEFAULTS

SIZES = Sizes(3, 3, 9, 30, 48)


def test_folders_of_living_pools_stay_and_those_of_dead_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the process ids of two machines, or two containers, say nothing of each other."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living = pool.Pool("3m", SIZES, DEFAULTS)
    (half_made := tmp_path / "dm2-games-new").mkdir()
    (dead := tmp_path / "dm2-games-dead").mkdir()
    (dead / "lock").touch()
    (dead / "log").write_text("its last words")
    handles = len(os.listdir("/proc/self/fd"))
    pool.Pool("3m", SIZES, DEFAULTS).close()
    assert len(os.listdir("/proc/self/fd")) == handles
    assert living._folder.is_dir() and half_made.is_dir() and not dead.exists()
    living.close()
    assert not living._folder.exists()


def test_workers_reach_their_game_past_any_proxy_in_the_folder_that_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SC2PATH", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("NO_PROXY", "localhost,.site")
    monkeypatch.delenv("no_proxy", raising=False)
    given = pool._environment(tmp_path)
    assert (given["NO_PROXY"], given["no_proxy"]) == ("localhost,.site,127.0.0.1", "127.0.0.1")
    assert (given["SC2PATH"], given["TMPDIR"]) == ("/home/somebody/StarCraftII", str(tmp_path))


def test_a_worker_of_an_installed_package_does_not_put_its_neighbours_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it there is pysc2's enum34, which would stand in for Python's enum."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert pool._environment(tmp_path)["PYTHONPATH"] == str(pool._ROOT)
    monkeypatch.setattr(pool, "_ROOT", tmp_path)
    assert "PYTHONPATH" not in pool._environment(tmp_path)
