"""All runs for other tools: a tidy table, and the JSON that marl-eval reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dm2core.analysis.output import write_csv, write_parquet

ENVIRONMENT = "smac_surrogate"


def write_tidy(runs: pd.DataFrame, folder: Path) -> None:
    """runs.parquet and runs.csv: a row per evaluation, the same values in both."""
    write_parquet(runs, folder / "runs.parquet")
    write_csv(runs, folder / "runs.csv", "%.17g")


def marl_eval(runs: pd.DataFrame, metrics: tuple[str, ...] = ("win_rate",)) -> dict[str, Any]:
    """environment -> map -> method@demos -> run -> step_k and absolute_metrics. Source: marl-eval's README.

    marl-eval needs runs of one length within a task and takes steps of equal number for the same: each run is read at
    evenly spaced env steps up to the end of its map's shortest, as many as the run with the fewest evaluations has by
    then, where it has the value of its latest evaluation. Its absolute metric is the best policy evaluated again; that
    is not run here, so absolute_metrics holds the best evaluation of the run, which is biased upwards.
    """
    tasks: dict[str, Any] = {}
    for map_name, on_map in runs.groupby("map", sort=True):
        by_run = on_map.sort_values("env_steps", kind="stable").groupby(["method", "demos", "team", "seed"])
        end = by_run["env_steps"].max().min()
        count = on_map[on_map["env_steps"] <= end].groupby(["method", "demos", "team", "seed"]).size().min()
        grid = np.linspace(0, end, count).round().astype(np.int64)
        task: dict[str, Any] = {}
        for (method, demos, team, seed), rows in by_run:
            algorithm = method if demos == "none" else f"{method}@{demos}"
            name = f"seed_{seed}" if not team else f"team_{team}_seed_{seed}"
            latest = np.searchsorted(rows["env_steps"].to_numpy(), grid, side="right") - 1
            read = rows.iloc[np.maximum(latest, 0)]
            steps: dict[str, Any] = {
                f"step_{index}": {"step_count": int(at)} | {m: [float(row[m])] for m in metrics}
                for index, (at, (_, row)) in enumerate(zip(grid, read.iterrows(), strict=True))
            }
            made = rows[rows["env_steps"] <= end]
            steps["absolute_metrics"] = {m: [float(made[m].max())] for m in metrics}
            task.setdefault(str(algorithm), {})[name] = steps
        tasks[str(map_name)] = task
    return {ENVIRONMENT: tasks}
