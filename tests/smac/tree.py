"""A folder that looks like an installed StarCraft II and holds the stand-in (game_server.py)."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dm2core.env.scenario import known_maps

ROOT = Path(__file__).resolve().parents[2]


def make_tree(folder: Path, build: int = 75689) -> Path:
    """`folder` as SC2PATH."""
    binary = folder / "Versions" / f"Base{build}" / "SC2_x64"
    binary.parent.mkdir(parents=True)
    python, server = shlex.quote(sys.executable), shlex.quote(str(ROOT / "tests" / "smac" / "game_server.py"))
    path = shlex.quote(str(ROOT))
    binary.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {python} {server} "$@"\n')
    binary.chmod(0o755)
    maps = folder / "Maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    for name in known_maps():
        (maps / f"{name}.SC2Map").write_bytes(b"a stand-in for " + name.encode())
    return folder


def script(folder: Path, **faults: dict[str, Any]) -> None:
    """What goes wrong (game_server.py), by number of the game started."""
    (folder / "faults.json").write_text(json.dumps(faults))


def game_pids(folder: Path) -> list[int]:
    """Process ids of all games ever started from the folder, in that order."""
    paths = sorted((folder / "started").glob("*"), key=lambda path: int(path.name))
    return [int(path.read_text()) for path in paths]


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def all_end(pids: Iterable[int], within: float = 2.0) -> bool:
    """Whether all processes are gone in time: the kernel kills a game when its worker ends, not before."""
    until, left = time.monotonic() + within, list(pids)
    while (left := [pid for pid in left if is_running(pid)]) and time.monotonic() < until:
        time.sleep(0.02)
    return not left


def environment(folder: Path) -> dict[str, str]:
    """The environment in which pysc2 finds the tree."""
    return {**os.environ, "SC2PATH": str(folder), "PYTHONPATH": str(ROOT)}
