"""How a cell stands, from its files alone: neither torch nor Snakemake nor the machine it runs on is asked."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dm2core.records.progress import read_progress

FRESH_S = 120.0  # where a lock cannot be looked at, a cell that has not reported for so long does not run
State = Literal["finished", "outdated", "running", "stopped", "failed", "waiting"]
# The last words of a cell that did not fail: it goes on when it is started again.
_STOPPED = re.compile(r"stopped by SIG|in use by|was lost, |dm2: stopped|waiting for")


@dataclass(frozen=True)
class Standing:
    """One cell or expert team. `name` is its path under results/cells or results/experts."""

    name: str
    state: State
    folder: Path  # of its results
    state_folder: Path  # of what an unfinished cell needs
    why: str = ""  # it failed, or is outdated
    report: dict[str, Any] = field(default_factory=dict)  # progress.CellProgress.report, with age_s

    @property
    def share(self) -> float:
        """Of its env steps that are done, as far as reported."""
        return min(self.report["env_steps"] / self.report["total"], 1.0) if self.report else 0.0


def standing(results: Path, name: str, *, kind: str = "cells", digest: str | None = None) -> Standing:
    """`kind` is cells or experts; a finished one of another `digest` than the configuration's is outdated."""
    folder, state_folder = results / kind / name, results / "state" / kind / name
    about = _json(folder / "manifest.json")
    if about is not None:
        if digest is not None and about.get("digest") != digest:
            why = "made under another configuration; Snakemake will run it again"
            return Standing(name, "outdated", folder, state_folder, why)
        return Standing(name, "finished", folder, state_folder)
    report = read_progress(state_folder) or {}
    if report:
        report["age_s"] = _age_s(state_folder / "progress.json")
    if _runs(state_folder, report):
        return Standing(name, "running", folder, state_folder, report=report)
    why = _failure(results, kind, name, state_folder)
    if why:
        return Standing(name, "failed", folder, state_folder, why, report)
    if (folder / "manifest.json").exists():
        why = f"{folder / 'manifest.json'} is damaged; delete it and run snakemake"
        return Standing(name, "failed", folder, state_folder, why, report)
    begun = (state_folder / "attempts.json").is_file() or bool(report)
    return Standing(name, "stopped" if begun else "waiting", folder, state_folder, report=report)


def begun(results: Path, kind: str = "cells") -> list[str]:
    """Names of all cells that have a result or a state, whatever is configured."""
    return sorted(set(_with(results / kind, "manifest.json")) | set(_with(results / "state" / kind, None)))


def _with(root: Path, name: str | None) -> Iterator[str]:
    for folder in root.glob("**/seed*"):
        if folder.is_dir() and (name is None or (folder / name).is_file()):
            yield folder.relative_to(root).as_posix()


def _runs(folder: Path, report: dict[str, Any]) -> bool:
    """The cell's lock says so; where it lies on another machine, or cannot be looked at, its last report does."""
    fresh = bool(report) and report["age_s"] < FRESH_S
    try:
        found, holder = os.stat(folder / "lock"), (folder / "lock").read_text(errors="replace")
        locks = Path("/proc/locks").read_text(encoding="utf-8")
    except OSError:
        return fresh
    if re.search(rf":{found.st_ino} ", locks):
        return True
    here = holder.endswith(f" on {socket.gethostname()}")
    return fresh and not here


def _failure(results: Path, kind: str, name: str, state_folder: Path) -> str:
    """Why it failed; "" if nothing says that it did. What was stopped goes on, and has not failed."""
    report = _json(state_folder / "failure.json")
    if report is not None:
        where = f"iteration {report['iteration']}: " if "iteration" in report else ""
        return where + str(report.get("what") or report.get("error") or "see failure.json")
    rule = {"cells": "train_cell", "experts": "train_expert"}[kind]
    try:
        said = (results / "logs" / rule / f"{name}.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    if _STOPPED.search(last):
        return ""
    return last.removeprefix("dm2: ") if last.startswith("dm2: ") or "Traceback (most recent" in said else ""


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
