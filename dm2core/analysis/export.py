"""All runs for other tools: a tidy table, and the JSON that marl-eval reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from dm2core.analysis.output import write_csv, write_parquet

ENVIRONMENT = "smac_surrogate"


def write_tidy(runs: pd.DataFrame, folder: Path) -> None:
    """runs.parquet and runs.csv: a row per evaluation, the same values in both."""
    write_parquet(runs, folder / "runs.parquet")
    write_csv(runs, folder / "runs.csv", "%.17g")


def marl_eval(runs: pd.DataFrame, metrics: tuple[str, ...] = ("win_rate",)) -> dict[str, Any]:
    """environment -> map -> method@demos -> run -> step_k and absolute_metrics. Source: marl-eval's README.

    marl-eval needs runs of one length within a task: each is cut to the shortest run of its map. Its absolute metric
    is the best policy evaluated again; that is not run here, so absolute_metrics holds the best evaluation of the run,
    which is biased upwards.
    """
    tasks: dict[str, Any] = {}
    for map_name, on_map in runs.groupby("map", sort=True):
        by_run = on_map.sort_values("env_steps", kind="stable").groupby(["method", "demos", "team", "seed"])
        shortest = int(by_run.size().min())
        task: dict[str, Any] = {}
        for (method, demos, team, seed), rows in by_run:
            algorithm = method if demos == "none" else f"{method}@{demos}"
            name = f"seed_{seed}" if not team else f"team_{team}_seed_{seed}"
            steps: dict[str, Any] = {
                f"step_{index}": {"step_count": int(row["env_steps"])} | {m: [float(row[m])] for m in metrics}
                for index, (_, row) in enumerate(rows.head(shortest).iterrows())
            }
            steps["absolute_metrics"] = {m: [float(rows.head(shortest)[m].max())] for m in metrics}
            task.setdefault(str(algorithm), {})[name] = steps
        tasks[str(map_name)] = task
    return {ENVIRONMENT: tasks}
