"""Running cells, followed from outside: their logs are read, the cells know nothing of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pandas as pd

from dm2core.config import Config
from dm2core.records.progress import read_attempts
from dm2core.tracking.deliver import Store
from dm2core.tracking.runs import Point, figures_of, milliseconds, place


def follow(store: Store, config: Config, every_s: float) -> None:
    """Deliver what running cells have written, again and again until interrupted."""
    try:
        while True:
            for name in running(Path(config.results)):
                points = written(Path(config.results) / "state" / "cells" / name)
                if points:
                    count = store.live(name, figures_of(config).get(name, "other"), points)
                    print(f"{name}: {count} points", flush=True)
            time.sleep(every_s)
    except KeyboardInterrupt:
        return


def running(results: Path) -> list[str]:
    """Names of the cells that have begun and are not finished."""
    state = results / "state" / "cells"
    names = [path.parent.relative_to(state).as_posix() for path in sorted(state.glob("**/metrics.jsonl"))]
    return [name for name in names if not (results / "cells" / name / "manifest.json").is_file()]


def written(state: Path) -> list[Point]:
    """Points of a cell's log; a line that is being written is left for the next time.

    A cell that was killed writes the lines of its lost iteration once more, the same ones, so their number is enough
    to know which were delivered. Times count env steps from the log's beginning, one millisecond each.
    """
    try:
        lines = (state / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        began = milliseconds(read_attempts(state)[1][0]["started"])
    except (OSError, ValueError, TypeError, LookupError):  # finished, or begun this moment
        return []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    if not rows:
        return []
    table = pd.DataFrame(rows, columns=["iteration", "env_steps", "key", "value"])
    return place(table, began, began + int(table["env_steps"].max()))
