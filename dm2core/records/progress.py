"""What a person sees of a running cell: a bar or a line now and then, and a report for `dm2 status`."""

from __future__ import annotations

import json
import os
import sys
import time
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


class CellProgress:
    """Shows cell, env steps, win rate, speed and time left on standard error; keeps them in folder/progress.json."""

    def __init__(self, name: str, total: int, start: int, folder: Path) -> None:
        self.path = folder / "progress.json"
        self.name, self.total, self.start = name, total, start
        self.began = self.last = time.monotonic()
        self.win_rate = float("nan")
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        if sys.stderr.isatty():
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
        """For onlookers only: a full disk here must not stop a cell."""
        report = {
            "name": self.name,
            "env_steps": env_steps,
            "total": self.total,
            "win_rate": self.win_rate,
            "per_s": round(speed, 1),
            "left_s": round(left, 1),
            "wall_s": round(time.monotonic() - self.began, 1),
            "cpu_s": round(time.process_time(), 1),
        }
        part = self.path.with_suffix(".part")
        try:
            part.write_text(json.dumps(report))
            os.replace(part, self.path)
        except OSError:
            part.unlink(missing_ok=True)
