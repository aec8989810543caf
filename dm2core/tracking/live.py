"""Running cells, followed from outside: their logs are read, the cells know nothing of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pandas as pd

from dm2core.config import Config
from dm2core.records.progress import read_attempts
from dm2core.tracking.deliver import Store, deliver_all
from dm2core.tracking.runs import Point, figures_of, finished_runs, milliseconds, place


def follow(store: Store, config: Config, figures: list[str], every_s: float) -> None:
    """Deliver what running cells have written, and what they end with, again and again until interrupted."""
    results, followed = Path(config.results), set[str]()
    try:
        while True:
            followed = follow_once(store, config, figures, results, followed)
            time.sleep(every_s)
    except KeyboardInterrupt:
        return


def follow_once(
    store: Store, config: Config, figures: list[str], results: Path, followed: set[str]
) -> set[str]:
    """One look; the cells that run now. Of those followed before, the ones that are finished are delivered whole."""
    now = set(running(results))
    if ended := {name for name in followed - now if (results / "cells" / name / "manifest.json").is_file()}:
        deliver_all(store, (run for run in finished_runs(config, figures) if run.name in ended))
    for name in sorted(now):
        digest, points = written(results / "state" / "cells" / name)
        if points:
            count = store.live(name, figures_of(config).get(name, "other"), digest, points)
            print(f"{name}: {count} points", flush=True)
    return now


def running(results: Path) -> list[str]:
    """Names of the cells that have begun and are not finished."""
    state = results / "state" / "cells"
    names = [path.parent.relative_to(state).as_posix() for path in sorted(state.glob("**/metrics.jsonl"))]
    return [name for name in names if not (results / "cells" / name / "manifest.json").is_file()]


def written(state: Path) -> tuple[str, list[Point]]:
    """Digest and points of a cell's log; a line that is being written is left for the next time.

    A cell that was killed writes the lines of its lost iteration once more, the same ones, so their number is enough
    to know which were delivered. Times count env steps from the log's beginning, one millisecond each.
    """
    try:
        lines = (state / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        digest, attempts = read_attempts(state)
        began = milliseconds(attempts[0]["started"])
    except (OSError, ValueError, TypeError, LookupError):  # finished, or begun this moment
        return "", []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    if not rows:
        return digest, []
    table = pd.DataFrame(rows, columns=["iteration", "env_steps", "key", "value"])
    return digest, place(table, began, began + int(table["env_steps"].max()))
