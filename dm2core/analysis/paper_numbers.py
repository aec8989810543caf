"""The published A - B of each contrast, from the curves in resources/paper_curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dm2core.analysis.claims import Arm, Claims, Level, Metric
from dm2core.analysis.paper_curves import PAPER_MAPS
from dm2core.analysis.stats.curve import early
from dm2core.errors import DataError

SUMMARY = {"auc": "auc_0_10M", "final": "final_win_rate_last1M", "margin": "final_win_rate_last1M"}


def paper_differences(claims: Claims, folder: Path) -> dict[tuple[str, str], float]:
    """(claim id, map) -> A - B as published, where a contrast has `paper`. DataError if a curve is unknown."""
    summary = pd.read_csv(folder / "summary.csv")
    found = {}
    for claim in claims.claims:
        for contrast in claim.contrasts:
            if contrast.paper is None:
                continue
            paper, short = contrast.paper, _short(contrast.map)
            a, b = (
                _mean(arm, summary, folder, figure, short, claim.metric, claims.paper_budget)
                for arm, figure in ((paper.a, paper.figure), (paper.b, paper.figure_b or paper.figure))
            )
            found[claim.id, contrast.map] = a - b
    return found


def _short(map_name: str) -> str:
    """The paper's name of a map; its own name if the paper has none."""
    return next((short for short, name in PAPER_MAPS.items() if name == map_name), map_name)


def _mean(
    arm: Arm, summary: pd.DataFrame, folder: Path, figure: str, short: str, metric: Metric, budget: int
) -> float:
    if isinstance(arm, Level):
        return arm.level
    return float(np.mean([_number(summary, folder, figure, short, name, metric, budget) for name in arm]))


def _number(
    summary: pd.DataFrame, folder: Path, figure: str, short: str, name: str, metric: Metric, budget: int
) -> float:
    table = pd.read_csv(folder / f"{figure}.csv") if metric == "early" else summary
    rows = table[(table["figure"] == figure) & (table["map"] == short) & (table["condition"] == name)]
    if rows.empty:
        raise DataError(
            f"claims: the paper has no curve {name!r} of {short} in {figure}; see {folder}/summary.csv"
        )
    if metric == "early":
        return early(rows["env_steps"].to_numpy(float), rows["win_rate"].to_numpy(float), budget)
    return float(rows[SUMMARY[metric]].iloc[0])
