"""`dm2 status`: every cell of the grid and how it stands; and the lines that `make demo` prints meanwhile."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dm2core.analysis.grid import (
    Cell,
    demonstrators,
    figure_cells,
    made_digest,
    of_other_teams,
    parse_demos_id,
    team_digests,
)
from dm2core.config import Config, ConfigError
from dm2core.records.standing import Standing, begun, standing

BETWEEN_LINES_S = 60.0
WIDEST = 10_000
STYLES = {"finished": "green", "running": "bold cyan", "failed": "bold red", "stopped": "yellow",
          "outdated": "magenta", "waiting": "dim"}  # fmt: skip


class Status:
    """How all cells of some figures stand at this moment, and others that have begun."""

    def __init__(self, config: Config, figures: Sequence[str]) -> None:
        """ConfigError if there is no such figure."""
        results = Path(config.results)
        planned = dict.fromkeys(cell for figure in figures for cell in figure_cells(config, figure))
        names = {cell.path for cell in planned}
        others = [cell for name in begun(results) if name not in names and (cell := _cell(name)) is not None]
        self.config, self.planned = config, planned
        self.cells = {cell: standing(results, cell.path, digest=_digest(config, cell)) for cell in planned}
        self.cells |= {cell: standing(results, cell.path) for cell in others}
        needed: dict[str, str | None] = {
            name: digest for cell in planned for name, digest in _experts(config, cell)
        }
        needed |= {name: None for name in begun(results, "experts") if name not in needed}
        self.experts = {name: standing(results, name, kind="experts", digest=d) for name, d in needed.items()}
        sets = {(cell.map_name, cell.demos): cell in planned for cell in self.cells if cell.demos != "none"}
        self.sets = {
            key: (results / "demos" / Path(*key) / "card.json").is_file()
            and not (counts and of_other_teams(config, *key))
            for key, counts in sets.items()
        }

    @property
    def all(self) -> list[Standing]:
        return [*self.experts.values(), *self.cells.values()]

    def json(self) -> dict[str, Any]:
        """For other programs."""

        def listed(items: dict[Any, Standing]) -> list[dict[str, Any]]:
            return [{"name": s.name, "state": s.state, "why": s.why, **s.report} for s in items.values()]

        return {
            "cells": listed(self.cells),
            "experts": listed(self.experts),
            "demonstrations": [{"name": "/".join(key), "finished": done} for key, done in self.sets.items()],
        }

    def view(self, width: int) -> Group:
        """The page, for a terminal of so many columns."""
        running = [s for s in self.all if s.state == "running"]
        failed = [s for s in self.all if s.state in ("failed", "outdated")]
        parts: list[Table | Text] = [self._summary(), self._grid(width)]
        if running:
            parts.append(_running(running))
        parts += [
            Text(f"{s.state}: {s.name}: {s.why}", STYLES[s.state], no_wrap=False) for s in failed if s.why
        ]
        return Group(*parts)

    def _summary(self) -> Text:
        counts = Counter(s.state for s in self.cells.values())
        experts = sum(s.state == "finished" for s in self.experts.values())
        text = Text(f"experts {experts} of {len(self.experts)}, ")
        text.append(f"demonstration sets {sum(self.sets.values())} of {len(self.sets)}, ")
        text.append(f"cells {counts['finished']} of {len(self.cells)}")
        for state in ("running", "stopped", "failed", "outdated", "waiting"):
            if counts[state]:
                text.append(f", {counts[state]} {state}", STYLES[state])
        speed = sum(s.report.get("per_s", 0.0) for s in self.cells.values() if s.state == "running")
        left = sum(
            s.report.get("total", self.config.budget_on(cell.map_name).env_steps) * (1 - s.share)
            for cell, s in self.cells.items()
            if s.state == "running" or (s.state != "finished" and cell in self.planned)
        )
        if speed:
            text.append(f"\n{speed:,.0f} env steps/s; all cells in about {_time(left / speed)} at this speed")
        return text

    def _grid(self, width: int) -> Table:
        """A column per seed; where that is too wide, how many are done and what the others are."""
        rows: dict[tuple[str, str, str], dict[int, Standing]] = {}
        for cell, s in self.cells.items():
            rows.setdefault((cell.map_name, cell.method, cell.demos), {})[cell.seed] = s
        seeds = sorted({cell.seed for cell in self.cells})
        full = _conditions(*map(str, seeds))
        for key, by_seed in rows.items():
            full.add_row(*_named(key), *(_mark(by_seed[seed]) if seed in by_seed else "" for seed in seeds))
        if Console(width=WIDEST).measure(full).maximum <= width:
            return full
        brief = _conditions("done", "others")
        for key, by_seed in rows.items():
            done = sum(s.state == "finished" for s in by_seed.values())
            marks = Counter(
                _mark(s).plain for s in by_seed.values() if s.state not in ("finished", "waiting")
            )
            others = ", ".join(f"{count} {mark}" if count > 1 else mark for mark, count in marks.items())
            brief.add_row(*_named(key), f"{done} of {len(by_seed)}", others)
        return brief


def _conditions(*columns: str) -> Table:
    """A table of conditions with more columns. Long names are folded, for their ends tell them apart."""
    view = Table()
    for name in ("map", "method", "demonstrations"):
        view.add_column(name, overflow="fold", min_width=len(name))
    for name in columns:
        view.add_column(name, no_wrap=True)
    return view


def _named(key: tuple[str, str, str]) -> tuple[str, str, str]:
    return (*key[:2], "" if key[2] == "none" else key[2])


def _mark(s: Standing) -> Text:
    share = f" {100 * s.share:.0f} %" if s.state in ("running", "stopped", "failed") and s.report else ""
    return Text({"finished": "done", "waiting": "·"}.get(s.state, s.state) + share, STYLES[s.state])


def _running(listed: list[Standing]) -> Table:
    view = Table(title="running", title_justify="left")
    for column in ("cell", "env steps", "win rate", "per s", "left"):
        view.add_column(column, justify="left" if column == "cell" else "right")
    for s in listed:
        if not s.report:
            view.add_row(s.name, "begins", "", "", "")
            continue
        r = s.report
        steps = f"{r['env_steps']:,} of {r['total']:,}"
        view.add_row(r["name"], steps, _rate(r), f"{r['per_s']:,.0f}", _time(r["left_s"]))
    return view


def _rate(report: dict[str, Any]) -> str:
    """The last evaluation's win rate; a dash before the first."""
    return "-" if report["win_rate"] is None else f"{report['win_rate']:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"


def _cell(name: str) -> Cell | None:
    """The cell of a path; None for a folder that is no cell's."""
    parts = name.split("/")
    seed = parts[-1].removeprefix("seed")
    return Cell(parts[0], parts[1], parts[2], int(seed)) if len(parts) == 4 and seed.isdigit() else None


def _digest(config: Config, cell: Cell) -> str | None:
    """What the cell's manifest must carry; "" where none can, None where its demonstrations are not there to say it."""
    if cell.demos != "none" and of_other_teams(config, cell.map_name, cell.demos):
        return ""
    try:
        return made_digest(config, cell)
    except (ConfigError, OSError, ValueError, KeyError):
        return None


def _experts(config: Config, cell: Cell) -> list[tuple[str, str]]:
    """The teams behind a cell's demonstrations, and what each one's manifest must carry."""
    if cell.demos == "none":
        return []
    method, seeds = parse_demos_id(cell.demos).expert, demonstrators(config, cell.map_name, cell.demos)
    names = [f"{cell.map_name}/{method}/seed{seed}" for seed in seeds]
    return list(zip(names, team_digests(config, cell.map_name, cell.demos), strict=True))


def show(config: Config, figures: Sequence[str], *, watch: bool, lines: bool = False) -> None:
    """Print once, or keep showing until interrupted: a live page on a terminal, a line a minute elsewhere.

    `lines` has lines on a terminal, too: beside other output, which a live page would write over.
    """
    console = Console()
    if not watch:
        console.print(Status(config, figures).view(console.width))
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a live page gives the cursor back
    try:
        if console.is_terminal and not lines:
            with Live(Status(config, figures).view(console.width), console=console, transient=True) as live:
                while True:
                    time.sleep(2)
                    live.update(Status(config, figures).view(console.width))
        while True:
            time.sleep(BETWEEN_LINES_S)
            print(line(Path(config.results)), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def line(results: Path) -> str:
    """Everything in one line."""
    listed = {kind: [standing(results, name, kind=kind) for name in begun(results, kind)]
              for kind in ("experts", "cells")}  # fmt: skip
    done = {kind: sum(s.state == "finished" for s in items) for kind, items in listed.items()}
    sets = len(list(results.glob("demos/*/*/card.json")))
    now = [
        f"{s.report['name']} {100 * s.share:.0f} %, win rate {_rate(s.report)}, "
        f"{_time(s.report['left_s'])} left"
        for items in listed.values()
        for s in items
        if s.state == "running" and s.report
    ]
    failed = [s.name for items in listed.values() for s in items if s.state == "failed"]
    return (
        f"done: {done['experts']} experts, {sets} demonstration sets, {done['cells']} cells; "
        f"running: {'; '.join(now) or 'none'}" + (f"; failed: {', '.join(failed)}" if failed else "")
    )
