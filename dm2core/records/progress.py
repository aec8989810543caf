"""What a person sees of a running cell: a bar or a line now and then, and a report for `dm2 status`."""

from __future__ import annotations

import json
import os
import sys
import time
from math import isnan
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0


def read_progress(folder: Path) -> dict[str, Any] | None:
    """The last report of the cell whose state this is; None before the first, and when it cannot be read."""
    try:
        report = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # finished, or being replaced this moment
        return None
    return report if isinstance(report, dict) else None


def read_attempts(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Digest of the cell whose state this is, "" where an earlier version did not say, and its attempts so far.

    OSError or one of ValueError, TypeError, KeyError where there are none, or they are damaged.
    """
    found = json.loads((folder / "attempts.json").read_text(encoding="utf-8"))
    return (found["digest"], found["attempts"]) if isinstance(found, dict) else ("", found)


def take_effort(folder: Path) -> dict[str, float]:
    """What the process before this one had last reported to have spent, `wall_s` and `cpu_s`; the second time nothing.

    The rest of the report stays, for onlookers.
    """
    last = read_progress(folder) or {}
    taken = {key: last.pop(key) for key in ("wall_s", "cpu_s") if key in last}
    if taken:
        _replace(folder / "progress.json", last)
    return {key: float(value) for key, value in taken.items() if isinstance(value, int | float)}


def _replace(path: Path, report: dict[str, Any]) -> None:
    """For onlookers only: a full disk here must not stop a cell."""
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(report))
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)


class CellProgress:
    """Shows cell, env steps, win rate, speed and time left on standard error; keeps them in folder/progress.json."""

    def __init__(
        self,
        name: str,
        total: int,
        start: int,
        folder: Path,
        win_rate: float = float("nan"),
        *,
        bar: bool = True,
    ) -> None:
        """`win_rate`: of the last evaluation so far; without `bar`, lines on a terminal, too."""
        self.path = folder / "progress.json"
        self.name, self.total, self.start = name, total, start
        self.began = self.last = time.monotonic()
        self.win_rate = win_rate
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        if bar and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task(name, total=total, completed=start)

    def __enter__(self) -> CellProgress:
        if self.bar is not None:
            self.bar.start()
        elif self.start:
            print(f"{self.name}: resuming at {self.start:,} env steps", file=sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def evaluated(self, win_rate: float) -> None:
        self.win_rate = win_rate

    def update(self, env_steps: int) -> None:
        now = time.monotonic()
        speed = (env_steps - self.start) / max(now - self.began, 1e-9)
        left = max(self.total - env_steps, 0) / max(speed, 1e-9)
        self._report(env_steps, speed, left)
        win_rate = f"win rate {self.win_rate:.2f}"
        text = f"{self.name}: {env_steps:,} of {self.total:,} env steps, {win_rate}, {speed:,.0f}/s"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=env_steps, description=text)
        elif now - self.last > SECONDS_BETWEEN_LINES or env_steps >= self.total:
            self.last = now
            print(f"{text}, {left / 60:.0f} min left", file=sys.stderr, flush=True)

    def _report(self, env_steps: int, speed: float, left: float) -> None:
        report = {
            "name": self.name,
            "env_steps": env_steps,
            "total": self.total,
            "win_rate": None if isnan(self.win_rate) else self.win_rate,
            "per_s": round(speed, 1),
            "left_s": round(left, 1),
            "wall_s": round(time.monotonic() - self.began, 1),
            "cpu_s": round(time.process_time(), 1),
        }
        _replace(self.path, report)
