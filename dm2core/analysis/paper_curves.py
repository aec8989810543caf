"""The paper's learning curves (resources/paper_curves) under our names of maps and conditions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dm2core.config import Config

WITH_PAPER = ("paper", "campaign")  # scales whose figures show the paper's curves
PAPER_FILES = {
    "core": "fig2_core.csv",
    "core_extra": "fig4_core_extra.csv",
    "bc_pretrain": "fig5_bc_pretrain.csv",
    "gail_only": "fig6_gail_only.csv",
    "demo_quality": "fig7_demo_quality.csv",
    "qmix_arch": "fig8_qmix_arch.csv",
    "state_action": "nb_state_action.csv",
}
PAPER_MAPS = {
    "5v6": "5m_vs_6m",
    "3sv4z": "3s_vs_4z",
    "3sv3z": "3s_vs_3z",
    "3sv5z": "3s_vs_5z",
    "8v9": "8m_vs_9m",
}


def figure_curves(config: Config, figure: str, folder: Path) -> pd.DataFrame | None:
    """The paper's curves of this figure under our conditions' names, at scales that show them."""
    if config.scale not in WITH_PAPER or figure not in PAPER_FILES:
        return None
    table = pd.read_csv(folder / PAPER_FILES[figure]).replace({"map": PAPER_MAPS})
    parts = []
    for panel in config.figures[figure]:
        shown: set[str] = set()
        for run, theirs in panel.curves.items():
            if theirs in shown:  # it is of no team of ours: once, under the first of several teams
                continue
            shown.add(theirs)
            chosen = table[(table["map"] == panel.map) & (table["condition"] == theirs)]
            parts.append(chosen.assign(condition=run)[["map", "condition", "env_steps", "win_rate"]])
    return pd.concat(parts, ignore_index=True)


def ablation_file(folder: Path, expert: str) -> Path | None:
    """The paper's Fig. 3 for these demonstrators: of 5M or 7M env steps on 5m_vs_6m, which win 0.31 and 0.48."""
    five, seven = "fig3_ablation_demo5m.csv", "fig3_ablation_demo7m.csv"
    names = {"ippo-s5000k": five, "ippo-q30": five, "ippo-s7000k": seven, "ippo-q50": seven}
    name = names.get(expert)
    return folder / name if name else None


def ablation_curves(path: Path) -> pd.DataFrame:
    """Its curves, under our names of the maps."""
    return pd.read_csv(path).replace({"map": PAPER_MAPS})
