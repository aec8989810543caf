"""Learning-curve figures from the configuration's panels: core, demo_quality and the others. Same input, same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dm2core.analysis.figures import (
    PAPER_TITLE,
    UNSTAMPED,
    Stamp,
    band_label,
    curves,
    finish_axes,
    map_panels,
    save,
)
from dm2core.analysis.output import write_csv
from dm2core.methods import split_method, split_run

NAMES = {
    "ippo": "IPPO",
    "dm2": "DM$^2$",
    "dm2_sil": "DM$^2$, own best episodes (SIL)",
    "gail_only": "imitation reward only",
    "dm2_state_action": "DM$^2$, state-action discriminator",
    "bc_ippo": "cloned, then IPPO",
    "bc_dm2": "cloned, then DM$^2$",
    "qmix": "QMIX",
    "qmix_fc3": "QMIX, one more layer",
    "rmappo": "RMAPPO",
}
# Okabe and Ito's palette; where a method stands more than once, its curves take shades instead.
COLOURS = {
    "ippo": "#000000",
    "dm2": "#0072B2",
    "dm2_sil": "#E69F00",
    "gail_only": "#D55E00",
    "dm2_state_action": "#D55E00",
    "bc_ippo": "#CC79A7",
    "bc_dm2": "#009E73",
    "qmix": "#009E73",
    "qmix_fc3": "#56B4E9",
    "rmappo": "#CC79A7",
}
SPARE = ("#56B4E9", "#999999", "#8C510A", "#F0E442")  # for a method whose colour a curve before it has
LAST = "#666666"  # when all others are taken
CROWDED = 5  # above so many curves a panel's single runs hide each other; the CSV has them
SHADES = {"dm2": "viridis", "gail_only": "autumn", "dm2_state_action": "autumn"}


def label(run: str, *, whole: bool = False) -> str:
    """A curve's name for people; `whole` with the variant of demonstrations that most curves have."""
    method, demos = split_run(run)
    base, changes = split_method(method)
    parts = [NAMES.get(base, base), *(f"{name} = {value}" for name, value in changes.items())]
    if demos != "none":
        parts.append((demos if whole else demos.replace("_joint-concurrent", "")).replace("_", ", "))
    return "; ".join(parts)


def colours(runs: list[str], panels: Sequence[Sequence[str]] = ()) -> dict[str, tuple[float, float, float]]:
    """One colour per run; `panels`, the runs of each, decides which shades of a method lie far apart."""
    bases = [split_method(split_run(run)[0])[0] for run in runs]
    out: dict[str, tuple[float, float, float]] = {}
    for base in dict.fromkeys(bases):
        same = [run for run, other in zip(runs, bases, strict=True) if other == base]
        shaded = same
        unchanged = [run for run in same if not split_method(split_run(run)[0])[1]]
        plain = same if len(same) == 1 else unchanged if base not in SHADES else []
        if len(plain) == 1:  # keeps the method's colour
            own = (COLOURS[base],) if base in COLOURS else ()
            free = (rgb for rgb in map(mpl.colors.to_rgb, (*own, *SPARE)) if rgb not in out.values())
            out[plain[0]] = next(free, mpl.colors.to_rgb(LAST))
            shaded = [run for run in same if run not in plain]
        shaded = _spread(shaded, panels)
        ends = (0.1, 0.85) if base in SHADES else (0.85, 0.1)  # far from the shades of DM2
        shades = mpl.colormaps[SHADES.get(base, "turbo")](np.linspace(*ends, len(shaded)))
        out.update(zip(shaded, map(mpl.colors.to_rgb, shades), strict=True))
    return {
        run: out[run]
        for base in dict.fromkeys(bases)
        for run, other in zip(runs, bases, strict=True)
        if other == base
    }


def _spread(runs: list[str], panels: Sequence[Sequence[str]]) -> list[str]:
    """The runs in an order in which those of one panel are far apart: each panel's by themselves over the whole."""

    def place(run: str) -> tuple[float, int]:
        number, together = next(
            ((k, [r for r in panel if r in runs]) for k, panel in enumerate(panels) if run in panel),
            (0, runs),
        )
        return (together.index(run) + 0.5) / len(together), -number

    return sorted(runs, key=place)


def plot_curves(
    figure_name: str,
    scores: pd.DataFrame,
    teams: pd.DataFrame,
    out: Path,
    *,
    note: str = "",
    paper: pd.DataFrame | None = None,
    beside: bool = False,
    stamp: Stamp = UNSTAMPED,
) -> pd.DataFrame:
    """Draw {figure}.{pdf,png} into `out`, write what they show to {figure}.csv, and return it.

    `beside`: the paper's curves in panels of their own, because their axis is another one.
    """
    data = curves(scores)
    if not teams.empty:
        lines = teams.assign(series="demonstrators", seed="", n=1, env_steps=0, sd=np.nan)
        data = pd.concat([data, lines], ignore_index=True)
    if paper is not None:
        data = pd.concat(
            [data, paper.assign(series="paper", seed="", n=np.nan, sd=np.nan)], ignore_index=True
        )
    runs = list(dict.fromkeys(scores["condition"]))
    maps = list(dict.fromkeys(scores["map"]))
    colour = colours(runs, [list(there) for there in scores.groupby("map", sort=False)["condition"].unique()])
    published = data["series"] == "paper"
    theirs = [name for name in maps if beside and name in set(data.loc[published, "map"])]
    figure, panels = map_panels(maps, theirs, width=5.0, height=4.2, rest=1.0 + 0.14 * len(runs))
    for map_name in maps:
        here = data["map"] == map_name
        axes = panels[map_name][0]
        draw_panel(axes, data[here & ~(published & beside)], colour)
        axes.set_title(map_name)
        for axes in panels[map_name][1:]:
            draw_panel(axes, data[here & published], colour, paper="solid")
            axes.set_title(f"{map_name}: {PAPER_TITLE}")
    if note:
        figure.suptitle(note, fontsize="medium")
    handles = _legend(data[~(published & beside)], colour)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    write(figure, data, out / figure_name, stamp)
    return data


def write(figure: Figure, data: pd.DataFrame, stem: Path, stamp: Stamp = UNSTAMPED) -> None:
    """PDF, PNG and CSV of one figure."""
    write_csv(data, stem.with_suffix(".csv"), "%.6g")
    save(figure, stem, stamp)


def draw_panel(
    axes: Axes,
    data: pd.DataFrame,
    colour: dict[str, tuple[float, float, float]],
    paper: Literal["dashdot", "solid"] = "dashdot",
) -> None:
    """One map's curves, their bands and the demonstrators' levels; `paper`: the style of the paper's curves."""
    crowded = len(colour) > CROWDED
    for run, shade in colour.items():
        rows = data[data["condition"] == run]
        seeds = rows[rows["series"] == "seed"] if not crowded else rows[:0]
        for _, seed in seeds.groupby("seed", sort=False):
            axes.plot(seed["env_steps"], seed["win_rate"], color=shade, linewidth=0.6, alpha=0.45)
        mean = rows[rows["series"] == "mean"]
        low, high = (mean["win_rate"] - mean["sd"]).clip(0, 1), (mean["win_rate"] + mean["sd"]).clip(0, 1)
        alpha = 0.06 if crowded else 0.12
        axes.fill_between(mean["env_steps"], low, high, color=shade, alpha=alpha, linewidth=0)
        axes.plot(mean["env_steps"], mean["win_rate"], color=shade, linewidth=2.2)
        for level in rows.loc[rows["series"] == "demonstrators", "win_rate"]:
            axes.axhline(level, color=shade, linewidth=1.0, linestyle="dashed")
        theirs = rows[rows["series"] == "paper"]
        axes.plot(theirs["env_steps"], theirs["win_rate"], color=shade, linewidth=1.0, linestyle=paper)
    finish_axes(axes, data["env_steps"].max())


def _legend(data: pd.DataFrame, colour: dict[str, tuple[float, float, float]]) -> list[Line2D | Patch]:
    whole = any(split_run(run)[1] != "none" and "_joint-concurrent" not in run for run in colour)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=shade, linewidth=2.2, label=label(run, whole=whole))
        for run, shade in colour.items()
    ]
    counts = data.loc[data["series"] == "mean", "n"].unique().astype(int).tolist()
    if len(colour) <= CROWDED:
        handles.append(Line2D([], [], color="grey", linewidth=0.6, label="thin: each seed"))
    handles.append(Patch(color="grey", alpha=0.25, linewidth=0, label=band_label(counts)))
    for series, style, text in (
        ("demonstrators", "dashed", "who demonstrated, as it played"),
        ("paper", "dashdot", "the paper's curve (StarCraft II)"),
    ):
        if (data["series"] == series).any():
            handles.append(Line2D([], [], color="grey", linewidth=1.0, linestyle=style, label=text))  # type: ignore[arg-type]
    return handles
