"""Every finished cell under a results folder -> one tidy table, a row per evaluation."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd

from dm2core.analysis.grid import all_cells, unjudged_cells
from dm2core.analysis.scores import (
    card_greedy_win_rates,
    card_win_rates,
    check_digest,
    demos_sha256,
    read_json,
    read_metrics,
)
from dm2core.config import Config
from dm2core.errors import DataError

COLUMNS = ["map", "method", "demos", "team", "seed", "env_steps", "win_rate"]
DEMONSTRATORS = ["demonstrator_win_rate", "demonstrator_win_rate_greedy"]  # as they played, and greedy
CELL = ["map", "method", "demos", "seed"]
NOT_ALIKE = ("seed", "compute")  # what the runs of a condition may differ in
EVALUATION = ("env", "eval_seed", "eval_episodes", "eval_every", "env_steps")  # and those of a map not


def planned_runs(config: Config) -> pd.DataFrame:
    """Every cell of every figure [CELL, judged]; runs that only choose between settings are not judged."""
    apart = set(unjudged_cells(config))
    rows = [(*astuple(cell), cell not in apart) for cell in all_cells(config)]
    return pd.DataFrame(rows, columns=[*CELL, "judged"])


def check_planned(config: Config) -> None:
    """DataError if a planned cell is finished, but was made under another configuration."""
    sets: dict[tuple[str, str], str] = {}  # each is hashed once
    for cell in all_cells(config):
        if (Path(config.results) / "cells" / cell.path / "manifest.json").is_file():
            if (cell.map_name, cell.demos) not in sets:
                sets[cell.map_name, cell.demos] = demos_sha256(config, cell)
            check_digest(config, cell, sets[cell.map_name, cell.demos])


def judged_runs(runs: pd.DataFrame, planned: pd.DataFrame) -> pd.Series:
    """Which rows of `read_runs` are of runs that claims are judged by: those that are planned so."""
    judged = set(planned.loc[planned["judged"], CELL].itertuples(index=False, name=None))
    return pd.Series([row in judged for row in runs[CELL].itertuples(index=False, name=None)], runs.index)


def read_runs(results: Path) -> pd.DataFrame:
    """[COLUMNS, other eval metrics, both DEMONSTRATORS] of cells/*/*/*/seed*/ that have a manifest.

    `team` names the experts on the demonstrations' card, "" without demonstrations. DataError if there is no cell, if
    the seeds of a condition were made under different configurations or the runs of a map evaluated differently, or
    if evaluations are missing, twice there, or no numbers.
    """
    return _read(results, "eval/")


def read_training(results: Path) -> pd.DataFrame:
    """[COLUMNS, as-played of DEMONSTRATORS] of the battles that were learnt from, a row per iteration that has any.

    Actions are drawn there as the method explores. Errors as of `read_runs`.
    """
    table = _read(results, "train/", "win_rate").reindex(columns=[*COLUMNS, DEMONSTRATORS[0]])
    return table[table["win_rate"].notna()]


def _read(results: Path, prefix: str, begin: str = "") -> pd.DataFrame:
    """A column per metric of `prefix` whose name begins so."""
    parts = []
    made: dict[tuple[str, ...], str] = {}
    evaluated: dict[str, tuple[object, ...]] = {}
    for manifest in sorted((results / "cells").glob("*/*/*/seed*/manifest.json")):
        folder = manifest.parent
        map_name, method, demos, seed = folder.relative_to(results / "cells").parts
        name = "/".join((map_name, method, demos, seed))
        config = read_json(manifest, f"cell {name}").get("config") or {}
        like = json.dumps({k: v for k, v in config.items() if k not in NOT_ALIKE}, sort_keys=True)
        if made.setdefault((map_name, method, demos), like) != like:
            raise DataError(
                f"cell {name}: made under another configuration than the other seeds of its condition; rerun it"
            )
        by = tuple(config.get(key) for key in EVALUATION)
        if evaluated.setdefault(map_name, by) != by:
            raise DataError(
                f"cell {name}: evaluated otherwise than other runs on {map_name} ({', '.join(EVALUATION)}); rerun it"
            )
        rows = read_metrics(folder / "metrics.parquet", name)
        _check_metrics(rows, name, config.get("eval_every"))
        rows = rows[rows["key"].str.startswith(prefix + begin)]
        wide = rows.pivot(index="env_steps", columns="key", values="value").reset_index()
        wide.columns = [str(name).removeprefix(prefix) for name in wide.columns]
        team, *against = _demonstrators(results, map_name, demos)
        parts.append(
            wide.assign(
                map=map_name,
                method=method,
                demos=demos,
                team=team,
                seed=int(seed.removeprefix("seed")),
                **dict(zip(DEMONSTRATORS, against, strict=True)),
            )
        )
    if not parts:
        raise DataError(f"{results}/cells: no finished cell; run some first: snakemake --cores all")
    table = pd.concat(parts, ignore_index=True)
    return table[
        [name for name in COLUMNS if name in table] + [name for name in table if name not in COLUMNS]
    ]


def files_of_runs(results: Path) -> list[Path]:
    """What `read_runs` reads: metrics and manifests of finished cells, cards and manifests of demonstrations."""
    cells = sorted((results / "cells").glob("*/*/*/seed*/manifest.json"))
    sets = {results / "demos" / path.parents[3].name / path.parents[1].name for path in cells}
    cards = [folder / name for folder in sorted(sets) for name in ("card.json", "manifest.json")]
    return [
        *cells,
        *(path.with_name("metrics.parquet") for path in cells),
        *(c for c in cards if c.is_file()),
    ]


def _check_metrics(rows: pd.DataFrame, name: str, eval_every: int | None) -> None:
    """DataError unless every metric stands once, and evaluations from the start on as often as they were made."""
    twice = rows[rows.duplicated(["env_steps", "key"])]
    if not twice.empty:
        one = twice.iloc[0]
        raise DataError(f"cell {name}: {one['key']} stands twice at {one['env_steps']:,} env steps; rerun it")
    evaluations = rows[rows["key"].str.startswith("eval/")]
    if evaluations["value"].isna().any():
        one = evaluations[evaluations["value"].isna()].iloc[0]
        raise DataError(f"cell {name}: {one['key']} is no number at {one['env_steps']:,} env steps; rerun it")
    if eval_every is None or evaluations.empty:
        return
    # An evaluation follows the first iteration that ends at or after each multiple of eval_every.
    iteration = np.diff(np.unique(rows["env_steps"]), prepend=0).max()
    steps = np.unique(evaluations["env_steps"])
    longest = np.diff(steps).max(initial=0)
    if steps[0] > 0 or longest > eval_every + iteration:
        raise DataError(f"cell {name}: evaluations are missing from its metrics; rerun it")


def _demonstrators(results: Path, map_name: str, demos: str) -> tuple[str, float, float]:
    """Experts' seeds and mean win rates from the set's card, as played and greedy; its id and nan if it has none."""
    nothing = float("nan")
    if demos == "none":
        return "", nothing, nothing
    path = results / "demos" / map_name / demos / "card.json"
    if not path.is_file():
        return demos, nothing, nothing
    card = read_json(path, f"demonstrations {demos}")
    team = "+".join(str(expert["seed"]) for expert in card.get("teams", [])) or demos
    played, greedy = card_win_rates(card), card_greedy_win_rates(card)
    return team, sum(played) / len(played), sum(greedy) / len(greedy) if greedy else nothing
