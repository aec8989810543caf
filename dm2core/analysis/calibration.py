"""IPPO on the simulator beside the paper's IPPO: finished cells -> one small table per map -> first crossings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dm2core.analysis.grid import Cell
from dm2core.analysis.scores import ResultsError, load_cell, read_metrics
from dm2core.config import Config

COLUMNS = ["map", "seed", "env_steps", "win_rate", "episode_return", "episode_length", "timeout_rate"]
SMOOTHING = 5  # evaluations; the paper's summary smooths with as many


PAPER_BUFFER = "ippo+episodes_per_update=1024"  # what the paper's Table 1 says for every map (D19)


def calibration_cells(config: Config, map_name: str, method: str = "ippo") -> list[Cell]:
    """The IPPO cells of one map, one per calibration seed."""
    return [Cell(map_name, method, "none", seed) for seed in config.calibration.seeds]


def collect(config: Config, map_name: str, *, method: str = "ippo", running: bool = False) -> pd.DataFrame:
    """Every evaluation of the map's IPPO cells [COLUMNS]; ResultsError unless all are finished, in `authors`.

    With `running`, a cell that has not finished is read as far as it is; the page says how far that was.
    """
    if config.profile != "authors" or config.switches:
        raise ResultsError(
            "calibration: compares with released code, so profile must be authors, without switches"
        )
    runs = []
    for cell in calibration_cells(config, map_name, method):
        log = Path(config.results) / "state" / "cells" / cell.path / "metrics.jsonl"
        if running and log.is_file():
            rows = _read_log(log)
        else:
            load_cell(config, cell)  # refuses cells of another configuration
            rows = read_metrics(Path(config.results) / "cells" / cell.path / "metrics.parquet", cell.path)
        rows = rows[rows["key"].isin([f"eval/{name}" for name in COLUMNS[3:]])]
        wide = rows.pivot(index="env_steps", columns="key", values="value").reset_index()
        runs.append(
            wide.rename(columns=lambda key: key.removeprefix("eval/")).assign(map=map_name, seed=cell.seed)
        )
    return pd.concat(runs, ignore_index=True)[COLUMNS].sort_values(["seed", "env_steps"], kind="stable")


def _read_log(path: Path) -> pd.DataFrame:
    """Metrics of a cell that still trains; its last line may be half written."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line)[1:] for line in lines]
    return pd.DataFrame(rows, columns=["env_steps", "key", "value"])


@dataclass(frozen=True)
class Curve:
    """Mean win rate over seeds, smoothed over five evaluations; crossings are None where it stays below."""

    seeds: int
    env_steps: int  # run by every seed
    first_02: int | None
    first_05: int | None
    final: float  # mean over the last tenth
    timeouts: float  # largest share of time-outs at any evaluation, mean over seeds
    return_max: float  # largest mean return at any evaluation


def curve(table: pd.DataFrame) -> Curve:
    """Summary of one map's table; evaluations are matched by their number, as seeds evaluate at unequal env steps."""
    table = table.assign(number=table.groupby("seed").cumcount())
    table = table[table["number"] < table.groupby("seed")["number"].max().min() + 1]
    mean = table.groupby("number")[["env_steps", "win_rate", "timeout_rate", "episode_return"]].mean()
    smooth = mean["win_rate"].rolling(SMOOTHING, center=True, min_periods=1).mean()
    last = int(mean["env_steps"].max())
    return Curve(
        seeds=int(table["seed"].nunique()),
        env_steps=last,
        first_02=_first(mean["env_steps"], smooth, 0.2),
        first_05=_first(mean["env_steps"], smooth, 0.5),
        final=float(mean.loc[mean["env_steps"] >= 0.9 * last, "win_rate"].mean()),
        timeouts=float(mean["timeout_rate"].max()),
        return_max=float(mean["episode_return"].max()),
    )


def _first(env_steps: pd.Series[float], win_rate: pd.Series[float], level: float) -> int | None:
    reached = env_steps[win_rate >= level]
    return None if reached.empty else int(reached.iloc[0])


def at(table: pd.DataFrame, env_steps: int) -> float | None:
    """Mean over seeds of the win rate at the last evaluation up to `env_steps`; None if a seed has not run so far."""
    if table.groupby("seed")["env_steps"].max().min() < 0.99 * env_steps:
        return None
    upto = table[table["env_steps"] <= 1.01 * env_steps]
    return float(upto.groupby("seed")["win_rate"].last().mean())
