"""What is running and what is done under a results folder: `dm2 status`, and the lines `make demo` prints meanwhile."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

FRESH_S = 120.0  # a cell that has not reported for this long is not shown as running
BETWEEN_LINES_S = 60.0


def running(results: Path) -> list[dict[str, Any]]:
    """Last report of every unfinished cell (progress.CellProgress.report), the newest cells first."""
    found = []
    for path in sorted(results.glob("state/**/progress.json")):
        try:
            report = json.loads(path.read_text())
            report["age_s"] = time.time() - path.stat().st_mtime
        except (OSError, ValueError):  # finished or being replaced this moment
            continue
        found.append(report)
    return found


def finished(results: Path) -> tuple[int, int, int]:
    """Finished experts, demonstration sets and cells."""
    patterns = ("experts/*/*/*/manifest.json", "demos/*/*/card.json", "cells/*/*/*/*/manifest.json")
    experts, demos, cells = (sum(1 for _ in results.glob(pattern)) for pattern in patterns)
    return experts, demos, cells


def table(results: Path) -> Table:
    """One row per unfinished cell."""
    experts, demos, cells = finished(results)
    view = Table(
        title=f"done: {experts} experts, {demos} demonstration sets, {cells} cells", title_justify="left"
    )
    for column in ("cell", "env steps", "win rate", "per s", "left"):
        view.add_column(column, justify="left" if column == "cell" else "right")
    for r in running(results):
        left = f"{r['left_s'] / 60:.0f} min" if r["age_s"] < FRESH_S else "stopped"
        steps = f"{r['env_steps']:,} of {r['total']:,}"
        view.add_row(r["name"], steps, f"{r['win_rate']:.2f}", f"{r['per_s']:,.0f}", left)
    return view


def show(results: Path, *, watch: bool) -> None:
    """Print once, or keep showing until interrupted: a live table on a terminal, a line a minute elsewhere."""
    console = Console()
    if not watch:
        console.print(table(results))
        return
    try:
        if console.is_terminal:
            with Live(table(results), console=console, refresh_per_second=1, transient=True) as live:
                while True:
                    time.sleep(2)
                    live.update(table(results))
        while True:
            time.sleep(BETWEEN_LINES_S)
            print(line(results), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        return


def line(results: Path) -> str:
    """Everything in one line."""
    experts, demos, cells = finished(results)
    now = [
        f"{r['name']} {100 * r['env_steps'] // r['total']} %, win rate {r['win_rate']:.2f}, "
        f"{r['left_s'] / 60:.0f} min left"
        for r in running(results)
        if r["age_s"] < FRESH_S
    ]
    return f"done: {experts} experts, {demos} demonstration sets, {cells} cells; running: {'; '.join(now) or 'none'}"
