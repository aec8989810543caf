"""Finished cells -> one tidy table per map. Missing cells, or cells of another configuration, are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dm2core.analysis.grid import VARIANTS, Cell, cells, curve_cells, demo_ids, packed
from dm2core.config import Config, cell_config, of_any_team
from dm2core.errors import DataError
from dm2core.methods import split_run
from dm2core.records.verify import left_out

WIN_RATE = "eval/win_rate"  # greedy policies on the same battles for every cell
SCORE_COLUMNS = ["map", "condition", "method", "demos", "seed", "env_steps", "win_rate"]


class ResultsError(DataError):
    """Results that cannot be used together; the message is one line that says what to run."""


def condition(method: str, demos: str) -> str:
    """Short name of a condition: `ippo`, or the variant of the demonstration set, of whichever teams."""
    return method if demos == "none" else of_any_team(demos).split("_", 1)[1]


CONDITIONS = (*VARIANTS, "ippo")


def collect_scores(config: Config, map_name: str) -> pd.DataFrame:
    """Every evaluation of every cell of one map, as it was: nothing is smoothed, dropped or interpolated."""
    runs = [load_cell(config, cell) for cell in cells(config) if cell.map_name == map_name]
    if not runs:
        raise ResultsError(
            f"{map_name}: not a map of the figure; there are: {', '.join(config.demo_ablation.maps)}"
        )
    return pd.concat(runs, ignore_index=True)[SCORE_COLUMNS]


def files_of(config: Config, chosen: Iterable[Cell]) -> list[Path]:
    """What a table of these cells is made of: metrics and manifests, cards and manifests of the demonstrations."""
    results, chosen = Path(config.results), list(chosen)
    names = ("metrics.parquet", "manifest.json")
    cards = dict.fromkeys((cell.map_name, cell.demos) for cell in chosen if cell.demos != "none")
    sets = [results / "demos" / map_name / demos for map_name, demos in cards]
    return [
        *(results / "cells" / cell.path / name for cell in chosen for name in names),
        *(folder / "card.json" for folder in sets),
        *(
            folder / "manifest.json" for folder in sets if (folder / "manifest.json").is_file()
        ),  # else an old set
    ]


def load_cell(config: Config, cell: Cell) -> pd.DataFrame:
    """One cell's win rates, if its manifest carries the digest that this configuration asks for."""
    check_digest(config, cell, demos_sha256(config, cell))
    rows = read_metrics(Path(config.results) / "cells" / cell.path / "metrics.parquet", cell.path)
    rows = rows.loc[rows["key"] == WIN_RATE, ["env_steps", "value"]].rename(columns={"value": "win_rate"})
    if rows.empty:
        raise ResultsError(f"cell {cell.path}: no {WIN_RATE} in its metrics; the cell was not finished")
    return rows.sort_values("env_steps", kind="stable").assign(
        map=cell.map_name,
        condition=condition(cell.method, cell.demos),
        method=cell.method,
        demos=cell.demos,
        seed=cell.seed,
    )


def check_digest(config: Config, cell: Cell, demos: str) -> None:
    """ResultsError unless a finished cell's manifest carries the digest that this configuration asks for.

    `demos`: the hash of its demonstrations, as `demos_sha256` gives it.
    """
    folder = Path(config.results) / "cells" / cell.path
    manifest = read_json(folder / "manifest.json", f"cell {cell.path}")
    expected = cell_config(
        config,
        map_name=cell.map_name,
        method=cell.method,
        seed=cell.seed,
        demos=cell.demos,
        demos_sha256=demos,
        packed=packed(config, cell.method),
    ).digest()
    if manifest.get("digest") != expected:
        raise ResultsError(
            f"cell {cell.path}: made under another configuration, digest {str(manifest.get('digest'))[:12]} "
            f"instead of {expected[:12]}; rerun it: snakemake --forcerun {folder.as_posix()}/metrics.parquet"
        )


def demos_sha256(config: Config, cell: Cell) -> str:
    """Hash of the demonstration file as it lies there now; a cell trained on another one is refused.

    Of a file that a restored copy was left without, the hash that its list says (`verify.leave_out`).
    """
    if cell.demos == "none":
        return ""
    path = Path(config.results) / "demos" / cell.map_name / cell.demos / "demos.npz"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        listed = left_out([Path(config.results)]).get(path.resolve())
        if listed is not None:
            return listed
        raise ResultsError(
            f"cell {cell.path}: its demonstrations are missing: {path}; run: snakemake {path}"
        ) from None


def collect_demonstrators(config: Config, map_name: str) -> pd.DataFrame:
    """Measured win rate of whoever played each demonstration set, from the sets' cards: a row per team."""
    rows = []
    for demos in demo_ids(config, map_name):
        card = read_json(
            Path(config.results) / "demos" / map_name / demos / "card.json", f"demonstrations {demos}"
        )
        for team, win_rate in enumerate(card_win_rates(card)):
            rows.append((map_name, condition("dm2", demos), demos, team, win_rate))
    return pd.DataFrame(rows, columns=["map", "condition", "demos", "team", "win_rate"])


def collect_figure(config: Config, figure: str) -> pd.DataFrame:
    """Every evaluation of every cell of a figure, a row each; `condition` is the curve's run as configured."""
    parts = []
    for panel in config.figures[figure]:
        for run in panel.curves:
            for cell in curve_cells(config, panel, run):
                parts.append(load_cell(config, cell).assign(condition=run))
    columns = ["map", "condition", "method", "demos", "seed", "env_steps", "win_rate"]
    return pd.concat(parts, ignore_index=True)[columns].drop_duplicates()


def collect_teams(config: Config, figure: str) -> pd.DataFrame:
    """Measured win rate of whoever played each demonstration set [map, condition, win_rate], mean over teams."""
    rows = []
    for panel in config.figures[figure]:
        for run in panel.curves:
            demos = split_run(run)[1]
            if demos != "none":
                card = Path(config.results) / "demos" / panel.map / demos / "card.json"
                rates = card_win_rates(read_json(card, f"demonstrations {demos}"))
                rows.append((panel.map, run, sum(rates) / len(rates)))
    return pd.DataFrame(rows, columns=["map", "condition", "win_rate"])


def card_win_rates(card: dict[str, Any]) -> list[float]:
    """Win rates on a card: one team's, or one per team where every agent has a team of its own; nan where it says none,
    as that of imported demonstrations.
    """
    value = card["win_rate"]
    rates = value if isinstance(value, list) else [value]
    return [float("nan") if rate is None else float(rate) for rate in rates]


def card_greedy_win_rates(card: dict[str, Any]) -> list[float]:
    """The same of greedy play; empty on a card that does not say."""
    played = [card["strangers"]] if card.get("strangers") else card.get("teams", [])
    rates = [who.get("win_rate_greedy") for who in played]
    return [] if None in rates else [float(rate) for rate in rates]


def read_metrics(path: Path, name: str) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=["env_steps", "key", "value"])
    except FileNotFoundError:
        raise ResultsError(f"cell {name}: {path} is missing; run: snakemake {path}") from None
    except (OSError, ValueError, KeyError) as error:
        raise ResultsError(
            f"cell {name}: {path} is damaged ({type(error).__name__}); delete it and run snakemake"
        ) from None


def read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"{name}: {path} is missing; run: snakemake {path}") from None
    except (OSError, ValueError):
        raise ResultsError(f"{name}: {path} is damaged; delete it and run snakemake") from None
    if not isinstance(data, dict):
        raise ResultsError(f"{name}: {path} is damaged; delete it and run snakemake")
    return data
