"""figures/switchboard: what each difference between code and paper is worth, one flip at a time, and the controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dm2core.analysis.curve_figures import colours, label, write
from dm2core.analysis.figures import UNSTAMPED, Stamp

LAST = 0.2  # share of the budget that `final` averages over


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Per run: area under the win-rate curve as a share of the axis, and mean over the last fifth of the budget.

    Unflipped DM2 first, then the flips, then the controls, then what is not DM2.
    """
    rows = []
    place = {run: k for k, run in enumerate(_ordered(list(dict.fromkeys(scores["condition"]))))}
    scores = scores.sort_values("condition", key=lambda runs: runs.map(place), kind="stable")
    for key, run in scores.groupby(["map", "condition", "seed"], sort=False):
        run = run.sort_values("env_steps")
        steps, rate = run["env_steps"].to_numpy(dtype=float), run["win_rate"].to_numpy(dtype=float)
        area = float(np.trapezoid(rate, steps) / (steps[-1] - steps[0])) if len(steps) > 1 else float(rate[0])
        final = float(rate[steps >= (1 - LAST) * steps[-1]].mean())
        rows.append((*key, area, final))
    return pd.DataFrame(rows, columns=["map", "condition", "seed", "area", "final"])


def unflipped(runs: list[str]) -> str:
    """The condition that the others are compared with: the first plain DM2."""
    return next((run for run in runs if run.startswith("dm2@")), runs[0])


def _ordered(runs: list[str]) -> list[str]:
    first = unflipped(runs)
    return sorted(
        runs, key=lambda run: (run != first, not run.startswith("dm2+"), not run.startswith("dm2@"), run)
    )


def plot_switchboard(
    scores: pd.DataFrame, out: Path, *, note: str = "", stamp: Stamp = UNSTAMPED
) -> pd.DataFrame:
    """Draw switchboard.{pdf,png}: every run a dot, the mean a bar, against the first DM2 condition; data as CSV."""
    data = summary(scores)
    runs = list(dict.fromkeys(data["condition"]))
    baseline = unflipped(runs)
    colour = colours(runs)
    figure = Figure(figsize=(11.5, 1.6 + 0.42 * len(runs)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    at = {run: len(runs) - 1 - k for k, run in enumerate(runs)}
    for axes, column, title in (
        (panels[0], "area", "area under the win-rate curve (1: always wins)"),
        (panels[1], "final", "win rate over the last fifth of the budget"),
    ):
        for run in runs:
            values = data.loc[data["condition"] == run, column]
            axes.plot(values, [at[run]] * len(values), "o", color=colour[run], alpha=0.6, markersize=5)
            axes.plot([values.mean()] * 2, [at[run] - 0.3, at[run] + 0.3], color=colour[run], linewidth=2.4)
        axes.axvline(data.loc[data["condition"] == baseline, column].mean(), color="grey", linestyle="dashed")
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel(title)
        axes.grid(axis="x", alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(list(at.values()), [label(run) for run in at], fontsize="small")
    seeds = data.groupby("condition")["seed"].nunique()
    count = f"n = {seeds.max()}" if seeds.min() == seeds.max() else f"n = {seeds.min()} to {seeds.max()}"
    title = (
        f"dots: runs, {count}; bars: means; dashed: {label(baseline)} on {', '.join(data['map'].unique())}"
    )
    figure.suptitle("\n".join(filter(None, [note, title])), fontsize="medium")
    write(figure, data, out / "switchboard", stamp)
    return data
