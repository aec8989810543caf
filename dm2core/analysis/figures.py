"""figures/demo_ablation: DM2 on four demonstration sets, and IPPO. Same input, same bytes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl

mpl.use("agg")

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dm2core.analysis.output import write_csv, write_picture
from dm2core.analysis.scores import CONDITIONS

# Okabe and Ito's palette, told apart under the common colour vision deficiencies. One colour per condition.
COLOURS = {
    "joint-concurrent": "#0072B2",
    "joint-nonconcurrent": "#56B4E9",
    "indep-concurrent": "#D55E00",
    "indep-nonconcurrent": "#E69F00",
    "ippo": "#000000",
}
LABELS = {
    "joint-concurrent": "DM$^2$, joint-concurrent: one team",
    "joint-nonconcurrent": "DM$^2$, joint-nonconcurrent: one team, different battles",
    "indep-concurrent": "DM$^2$, indep-concurrent: strangers",
    "indep-nonconcurrent": "DM$^2$, indep-nonconcurrent: a team per agent",
    "ippo": "IPPO: task reward only",
}
PAPER_NAMES = {
    "joint-concurrent": "dm2 (concur., joint)",
    "joint-nonconcurrent": "nonconcur., joint",
    "indep-concurrent": "concur., indep.",
    "indep-nonconcurrent": "nonconcur., indep.",
}
# What stands over a figure.
NOTES = {
    "smoke": "",  # its stamp says it
    "quick": "scale quick: reduced budgets on the embedded simulator",
    "paper": "",
    "campaign": "embedded simulator, at most the paper's env steps (docs/campaign.md)",
}
GAME_NOTES = {**NOTES, "quick": "scale quick: reduced budgets; StarCraft II", "paper": "StarCraft II"}
PAPER_TITLE = "the paper, StarCraft II"
MOST_IN_A_ROW = 3  # panels
NOT_FOR_PUBLICATION = "not for publication"


@dataclass(frozen=True)
class Stamp:
    """What a picture carries of its manifest: the hash of what it is made of, and why it must not be published."""

    made_from: str = ""
    reasons: tuple[str, ...] = ()

    @classmethod
    def of(cls, made_from: str, reasons: Iterable[str]) -> Stamp:
        return cls(made_from, tuple(reasons))


UNSTAMPED = Stamp()
CURVE_COLUMNS = ["map", "series", "condition", "seed", "n", "env_steps", "win_rate", "sd"]


def curves(scores: pd.DataFrame) -> pd.DataFrame:
    """What is drawn, as data: every seed as evaluated, and mean and sample SD across seeds.

    Seeds are evaluated at the end of the iteration that passes a mark, so their env steps differ a little.
    The mean is taken at the marks of the seed with the fewest steps, over the straight lines that join each
    seed's evaluations: it is exactly the mean of the thin lines on the page.
    """
    parts = []
    for key, group in scores.groupby(["map", "condition"], sort=False):
        map_name, name = map(str, key)
        runs = {seed: run.sort_values("env_steps") for seed, run in group.groupby("seed", sort=False)}
        for seed, run in runs.items():
            seed_rows = pd.DataFrame({"env_steps": run["env_steps"], "win_rate": run["win_rate"]})
            parts.append(
                seed_rows.assign(map=map_name, series="seed", condition=name, seed=seed, n=1, sd=np.nan)
            )
        shortest = min(runs.values(), key=lambda run: run["env_steps"].iloc[-1])
        first = max(run["env_steps"].iloc[0] for run in runs.values())
        marks = shortest["env_steps"].to_numpy(dtype=float)
        marks = marks[marks >= first]
        lines = np.stack([np.interp(marks, run["env_steps"], run["win_rate"]) for run in runs.values()])
        spread = lines.std(axis=0, ddof=1) if len(lines) > 1 else np.full(len(marks), np.nan)
        mean_rows = pd.DataFrame(
            {"env_steps": marks.astype(np.int64), "win_rate": lines.mean(axis=0), "sd": spread}
        )
        parts.append(mean_rows.assign(map=map_name, series="mean", condition=name, seed="", n=len(lines)))
    return pd.concat(parts, ignore_index=True)[CURVE_COLUMNS]


def demonstrator_lines(teams: pd.DataFrame) -> pd.DataFrame:
    """The two horizontal lines per map: the co-trained team, and strangers thrown together."""
    chosen = teams[teams["condition"].isin(["joint-concurrent", "indep-concurrent"])]
    lines = chosen.groupby(["map", "condition"], sort=False, as_index=False)["win_rate"].mean()
    return lines.assign(series="demonstrators", seed="", n=1, env_steps=0, sd=np.nan)[CURVE_COLUMNS]


def plot_demo_ablation(
    scores: pd.DataFrame,
    teams: pd.DataFrame,
    out: Path,
    *,
    note: str = "",
    paper: pd.DataFrame | None = None,
    beside: bool = False,
    stamp: Stamp = UNSTAMPED,
) -> pd.DataFrame:
    """Draw demo_ablation.{pdf,png} into `out`, write what they show to demo_ablation.csv, and return it.

    `beside`: the paper's curves in panels of their own, because their axis is another one.
    """
    data = pd.concat([curves(scores), demonstrator_lines(teams)], ignore_index=True)
    maps = list(dict.fromkeys(scores["map"]))
    theirs = [] if paper is None else [name for name in maps if name in set(paper["map"])]
    figure, panels = map_panels(maps, theirs if beside else [], width=5.2, height=5.2, rest=1.2)
    for map_name in maps:
        published = None if paper is None else paper[paper["map"] == map_name]
        _draw_panel(panels[map_name][0], data[data["map"] == map_name], None if beside else published)
        panels[map_name][0].set_title(map_name)
        for axes in panels[map_name][1:]:
            _draw_paper(axes, published)
            axes.set_title(f"{map_name}: {PAPER_TITLE}")
    if note:
        figure.suptitle(note, fontsize="medium")
    figure.legend(
        handles=_legend(data, None if beside else paper),
        loc="outside lower center",
        ncols=2,
        fontsize="small",
        frameon=False,
    )
    write_csv(data, out / "demo_ablation.csv", "%.6g")
    save(figure, out / "demo_ablation", stamp)
    return data


def map_panels(
    maps: list[str], theirs: list[str], *, width: float, height: float, rest: float
) -> tuple[Figure, dict[str, list[Axes]]]:
    """Each map's panel, and the paper's beside it for maps in `theirs`; a map a row where one row would not hold them.

    In inches: `width` and `height` of a panel, and `rest` for what stands above and below.
    """
    count = len(maps) + len(theirs)
    stacked = count > MOST_IN_A_ROW
    rows, columns = (len(maps), 2 if theirs else 1) if stacked else (1, count)
    size = max(8.4, width * columns), height * rows + rest
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for row in grid:
        row[0].set_ylabel("win rate of the greedy policies, fixed battles")
    panels, free = {}, iter(grid.flat)
    for map_name in maps:
        panels[map_name] = [next(free) for _ in range(1 + (map_name in theirs))]
        if stacked:
            for _ in range(columns - len(panels[map_name])):
                next(free).set_visible(False)
    return figure, panels


def _draw_paper(axes: Axes, paper: pd.DataFrame | None) -> None:
    assert paper is not None
    for name, theirs in PAPER_NAMES.items():
        rows = paper[paper["condition"] == theirs]
        axes.plot(rows["env_steps"], rows["win_rate"], color=COLOURS[name], linewidth=2.2)
    finish_axes(axes, paper["env_steps"].max())


def _draw_panel(axes: Axes, data: pd.DataFrame, paper: pd.DataFrame | None) -> None:
    for name in CONDITIONS:
        rows, colour = data[data["condition"] == name], COLOURS[name]
        for _, run in rows[rows["series"] == "seed"].groupby("seed", sort=False):
            axes.plot(run["env_steps"], run["win_rate"], color=colour, linewidth=0.6, alpha=0.45)
        mean = rows[rows["series"] == "mean"]
        low, high = mean["win_rate"] - mean["sd"], mean["win_rate"] + mean["sd"]
        axes.fill_between(
            mean["env_steps"], low.clip(0, 1), high.clip(0, 1), color=colour, alpha=0.12, linewidth=0
        )
        axes.plot(mean["env_steps"], mean["win_rate"], color=colour, linewidth=2.2)
        for level in rows.loc[rows["series"] == "demonstrators", "win_rate"]:
            axes.axhline(level, color=colour, linewidth=1.2, linestyle=_line_style(name))
        if paper is not None and name in PAPER_NAMES:
            theirs = paper[paper["condition"] == PAPER_NAMES[name]]
            axes.plot(
                theirs["env_steps"], theirs["win_rate"], color=colour, linewidth=1.0, linestyle="dashdot"
            )
    finish_axes(axes, data["env_steps"].max())


def finish_axes(axes: Axes, env_steps: float) -> None:
    """Win rate over env steps."""
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(0, max(env_steps, 1))
    axes.set_xlabel("env steps")
    axes.xaxis.set_major_formatter(thousands)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _line_style(name: str) -> Literal["dashed", "dotted"]:
    return "dashed" if name.startswith("joint") else "dotted"


def thousands(value: float, _position: float = 0) -> str:
    """Env steps on an axis: 250k, 1.5M."""
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value else "0"


def _legend(data: pd.DataFrame, paper: pd.DataFrame | None) -> list[Line2D | Patch]:
    means = data[data["series"] == "mean"]
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=COLOURS[name], linewidth=2.2, label=LABELS[name])
        for name in CONDITIONS
        if name in set(means["condition"])
    ]
    handles.append(Line2D([], [], color="grey", linewidth=0.6, label="thin: each seed"))
    handles.append(
        Patch(color="grey", alpha=0.25, linewidth=0, label=band_label(means["n"].unique().tolist()))
    )
    rates = data[data["series"] == "demonstrators"]
    who = {
        "joint-concurrent": "demonstrators, the co-trained team",
        "indep-concurrent": "demonstrators, the strangers",
    }
    for name, text in who.items():
        if name in set(rates["condition"]):
            style = _line_style(name)
            handles.append(Line2D([], [], color=COLOURS[name], linewidth=1.2, linestyle=style, label=text))
    if paper is not None:
        handles.append(
            Line2D(
                [],
                [],
                color="grey",
                linewidth=1.0,
                linestyle="dashdot",
                label="the paper's curve (StarCraft II)",
            )
        )
    return handles


def band_label(counts: Sequence[int]) -> str:
    """What bold line and band are; with one seed there is no band."""
    least, most = min(counts), max(counts)
    if most == 1:
        return "bold: n = 1 seed, so no band"
    seeds = f"n = {most}" if least == most else f"n = {least} to {most}"
    return f"bold: mean; band: mean ± 1 SD across {seeds} seeds"


def save(figure: Figure, stem: Path, stamp: Stamp = UNSTAMPED) -> None:
    """PDF and PNG without dates, versions or random ids: equal bytes from equal data. Both carry the stamp."""
    if stamp.reasons:
        _mark(figure, stamp.reasons)
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    about = f"dm2 made from {stamp.made_from}" if stamp.made_from else None
    pdf = {"Creator": None, "Producer": None, "CreationDate": None, "Keywords": about}
    png = {"Software": None} | ({"Source": about} if about else {})
    try:
        with mpl.rc_context({"svg.hashsalt": "dm2", "pdf.fonttype": 42}):
            write_picture(figure, stem.with_suffix(".pdf"), metadata=pdf)
            write_picture(figure, stem.with_suffix(".png"), dpi=160, metadata=png)
    finally:
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]
        else:
            os.environ["SOURCE_DATE_EPOCH"] = before


def _mark(figure: Figure, reasons: Sequence[str]) -> None:
    """Across the figure that it is not for publication, and above it why."""
    lines = [textwrap.fill(f"{NOT_FOR_PUBLICATION}: {reason}", 110) for reason in reasons]
    figure.suptitle("\n".join(filter(None, [figure.get_suptitle(), *lines])), fontsize="medium")
    figure.text(
        *(0.5, 0.5, NOT_FOR_PUBLICATION), rotation=25, fontsize=44, color="#D55E00", alpha=0.16,
        ha="center", va="center", in_layout=False,
    )  # fmt: skip
