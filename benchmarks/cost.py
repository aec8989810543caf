"""How the cost of an env step grows: with agents, with battles per iteration, with cells side by side.

CPU seconds of this process per million env steps of DM2 and IPPO; `results/benchmarks/cost.{csv,png}`.
"""

from __future__ import annotations

import csv
import statistics
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.learning import learner_for
from benchmarks.update import cells_side_by_side
from dm2core.config import Config, load_config
from dm2core.env.scenario import load_scenario

MAPS = ("3m", "5m_vs_6m", "8m_vs_9m")
BATTLES = (32, 128, 512)
CELLS = (1, 2)
METHODS = {"dm2": ("#D55E00", "DM2"), "ippo": ("#0072B2", "IPPO")}
Row = tuple[str, float, str, float]  # against, how many, method, CPU seconds per million env steps


def cpu_per_million(config: Config, map_name: str, method: str, iterations: int) -> float:
    """Median over iterations, one torch thread."""
    torch.set_num_threads(1)
    learner = learner_for(config, map_name, method)
    learner.iterate()  # compiles and fills caches
    costs = []
    for _ in range(iterations):
        before, start = learner.env_steps, time.process_time()
        learner.iterate()
        costs.append((time.process_time() - start) / (learner.env_steps - before))
    return 1e6 * statistics.median(costs)


def measure(map_name: str, iterations: int) -> list[Row]:
    """A row per point of the chart."""
    paper = load_config("config/config.yaml", {"scale": "paper"})
    rows: list[Row] = []
    for method in METHODS:
        for name in MAPS:
            agents = load_scenario(name).n_agents
            rows.append(("agents", agents, method, cpu_per_million(paper, name, method, iterations)))
        for battles in BATTLES:
            changed = {"scale": "paper", "maps": {map_name: {"episodes_per_update": battles}}}
            config = load_config("config/config.yaml", changed)
            rows.append(("battles", battles, method, cpu_per_million(config, map_name, method, iterations)))
        for count in CELLS:
            rates = [rate for rate, _ in cells_side_by_side(map_name, method, count, iterations)]
            rows.append(("cells", count, method, 1e6 / sum(rates)))
    return rows


def write(rows: list[Row], map_name: str, out: Path) -> None:
    """cost.csv and cost.png into `out`."""
    with open(out / "cost.csv", "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(("against", "count", "method", "seconds_per_million_env_steps"))
        table.writerows((a, n, m, f"{c:.1f}") for a, n, m, c in rows)
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    titles = {
        "agents": f"agents ({', '.join(MAPS)})",
        "battles": f"battles per iteration ({map_name})",
        "cells": f"cells side by side ({map_name}; wall time for all)",
    }
    for axes, (against, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for method, (colour, name) in METHODS.items():
            points = [(n, c) for a, n, m, c in rows if a == against and m == method]
            axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=name)
        axes.set(xlabel=title, ylim=(0, None))
        axes.set_xticks(sorted({n for a, n, _, _ in rows if a == against}))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("seconds per million env steps")
    figure.axes[0].legend(frameon=False)
    figure.savefig(out / "cost.png", dpi=120)
