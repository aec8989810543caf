"""Blocks of the pages that are computed from published runs: verdict, conditions, cost, switchboard, methods."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from dm2core.analysis.arms import OUTCOMES
from dm2core.analysis.claims import Claims
from dm2core.analysis.run_table import DEMONSTRATORS, judged_runs
from dm2core.analysis.stats.intervals import Term, interval
from dm2core.analysis.stats.sample import Sample
from dm2core.analysis.switchboard import unflipped
from dm2core.analysis.verdict import summarise
from dm2core.analysis.verdict_page import other_outcomes
from dm2core.errors import DataError
from dm2core.records.manifest import CellManifest, read_manifest

LEARNT = 0.8  # win rate of one evaluation
SOURCES = {  # of claims that the paper's text does not make
    "figures": "of the paper's figures alone",
    "notebook": "of its notebook",
    "ours": "ours: not the paper's, or on a map where it has no number",
}


def verdict_block(judged: pd.DataFrame) -> str:
    """How many claims came out how, a row per claim and map that was tested, and the names of those that were not."""
    claims = judged[judged["metric"] != "theory"]
    tested = claims[claims["outcome"] != "not tested"]
    rows = [
        [
            f"{row['claim']}{f' ({source})' if (source := _source(row)) != 'text' else ''}: {row['statement']}",
            row["map"],
            _signed(row["paper"]),
            f"{_signed(row['difference'])} [{_signed(row['low'])}, {_signed(row['high'])}]",
            _runs(row),
            f"**{row['outcome']}**",
            "; ".join(text.split(":")[0] for text in other_outcomes(row)),
        ]
        for _, row in tested.iterrows()
    ]
    left = [
        f"{row['claim']} ({row['map']})"
        for _, row in claims[claims["outcome"] == "not tested"].iterrows()
        if row["map"] != "all"
    ]
    text = _table(
        ["claim", "map", "paper", "here [95 %]", "runs (teams)", "outcome", "another outcome by"], rows
    )
    return f"{_tally(claims)}\n\n{text}" + (f"\n\nNot tested yet: {', '.join(left)}." if left else "")


def _tally(claims: pd.DataFrame) -> str:
    """Outcomes counted by claim and map; rows over all maps repeat those."""
    single = claims[claims["map"] != "all"]
    parts = []
    for outcome in OUTCOMES:
        rows = single[single["outcome"] == outcome]
        firm = [] if outcome == "not tested" else [not other_outcomes(row) for _, row in rows.iterrows()]
        ours = sum(_source(row) == "ours" for _, row in rows.iterrows())
        notes = ([f"{sum(firm)} by every reading"] if firm else []) + ([f"{ours} ours"] if ours else [])
        if len(rows):
            parts.append(f"{len(rows)} {outcome}" + (f" ({', '.join(notes)})" if notes else ""))
    sources = [_source(row) for _, row in single.iterrows()]
    asides = [f"{sources.count(source)} {text}" for source, text in SOURCES.items() if source in sources]
    aside = f" ({', '.join(asides)})" if asides else ""
    return f"Of {len(single)} claims, counted by map{aside}: {', '.join(parts)}."


def _source(row: pd.Series) -> str:
    """claims.Source; "ours" also where the paper has no number on this map."""
    return "ours" if row["map"] != "all" and not math.isfinite(row["paper"]) else str(row["source"])


def _runs(row: pd.Series) -> str:
    runs = f"{row['runs_a']:.0f} and {row['runs_b']:.0f}" if row["runs_b"] else f"{row['runs_a']:.0f}"
    teams = [f"{row[name]:.0f}" for name in ("teams_a", "teams_b") if row[name]]
    return f"{runs} ({' and '.join(teams)})" if teams else runs


def conditions_block(
    runs: pd.DataFrame, training: pd.DataFrame, claims: Claims, planned: pd.DataFrame
) -> str:
    """Every condition that was run: area under the curve, end, and env steps to one half, each with its spread.

    `runs` are evaluations, `training` the battles that were learnt from.
    """
    rows, key = [], ["map", "method", "demos", "judged"]
    wanted = planned.groupby(key).size()

    def summary(table: pd.DataFrame) -> pd.DataFrame:
        parts = table.assign(judged=judged_runs(table, planned)).groupby("judged")
        return pd.concat([summarise(part, claims).assign(judged=judged) for judged, part in parts])

    means = summary(training).groupby(key)[["auc", "final"]].mean()
    learnt = {row[:-2]: row[-2:] for row in means.reset_index().itertuples(index=False, name=None)}
    for (map_name, method, demos, judged), group in summary(runs).groupby(key, sort=True):
        reached = group["steps_to_0.5"].dropna()
        against = runs[(runs["method"] == method) & (runs["demos"] == demos) & (runs["map"] == map_name)]
        played, greedy = (against[name].iloc[0] for name in DEMONSTRATORS)
        expected = wanted.get((map_name, method, demos, judged), 0)
        rows.append(
            [
                str(map_name),
                f"{method}{'' if judged else ' (tuning)' if expected else ' (unplanned)'}",
                "" if demos == "none" else str(demos),
                f"{played:.2f} ({greedy:.2f})" if math.isfinite(played) else "",
                f"{len(group)}{f' of {expected}' if len(group) < expected else ''}",
                *(f"{group[name].mean():.3f} ± {group[name].std(ddof=1):.3f}" for name in ("auc", "final")),
                f"{', '.join(f'{value:.2f}' for value in sorted(group['final']))}",
                ", ".join(f"{value:.3f}" for value in learnt.get((map_name, method, demos, judged), ())),
                f"{reached.median():,.0f} ({len(reached)} of {len(group)})" if len(reached) else "none",
            ]
        )
    head = [
        "map",
        "method",
        "demonstrations",
        "demonstrators win (greedy)",
        "runs",
        "auc",
        "final",
        "each run's final",
        "while training: auc, final",
    ]
    return _table([*head, "median env steps to 0.5"], rows)


def effort_block(results: Path) -> str:
    """CPU time by kind of cell, from the manifests."""
    parts = []
    for kind in ("experts", "cells"):
        for path in sorted((results / kind).rglob("manifest.json")):
            found = read_manifest(path)
            if isinstance(found, CellManifest):
                method = found.config["method"] + (" (expert team)" if kind == "experts" else "")
                made = (found.cpu_s or 0.0, found.wall_s or 0.0, found.peak_memory_mb or 0)
                parts.append((found.config["map_name"], method, found.env_steps, *made))
    table = pd.DataFrame(parts, columns=["map", "method", "env_steps", "cpu_s", "wall_s", "mb"])
    rows = [
        [
            str(map_name),
            str(method),
            str(len(group)),
            f"{group['env_steps'].sum() / 1e6:.1f}M",
            f"{group['cpu_s'].sum() / 3600:.2f}",
            f"{group['cpu_s'].median():.0f}",
            f"{group['mb'].max():.0f}",
        ]
        for (map_name, method), group in table.groupby(["map", "method"], sort=True)
    ]
    total = [str(len(table)), f"{table['env_steps'].sum() / 1e6:.1f}M", f"{table['cpu_s'].sum() / 3600:.2f}"]
    rows.append(["all", "", *total, "", f"{table['mb'].max():.0f}"])
    head = ["map", "method", "runs", "env steps", "core hours", "CPU seconds of a run (median)", "peak MB"]
    return _table(head, rows)


def switchboard_block(summary: pd.DataFrame) -> str:
    """A row per condition of `switchboard.summary`: area and end, and the area's difference from unflipped DM2."""
    against = unflipped(list(dict.fromkeys(summary["condition"])))
    base = summary.loc[summary["condition"] == against]
    rows = []
    for run, group in summary.groupby("condition", sort=False):
        row = [f"`{run}`", str(len(group))]
        row += [f"{group[name].mean():.3f} ± {group[name].std(ddof=1):.3f}" for name in ("area", "final")]
        difference = ""
        if run != against:
            terms = [
                Term(sign, Sample.of(part["area"].to_numpy())) for sign, part in ((1.0, group), (-1.0, base))
            ]
            low, high = interval(terms, np.random.default_rng(0))  # t: draws nothing
            value = group["area"].mean() - base["area"].mean()
            difference = f"{_signed(value)} [{_signed(low)}, {_signed(high)}]"
        rows.append([*row, difference])
    return _table(["condition", "runs", "area", "last fifth", "area beside unflipped DM2 [95 %]"], rows)


def methods_block(drawn: pd.DataFrame) -> str:
    """A row per condition of figures/methods.csv: when each run first won `LEARNT` of its battles, and how it ended."""
    rows = []
    for run, group in drawn[drawn["series"] == "seed"].groupby("condition", sort=False):
        first, last = [], []
        for _, one in group.sort_values("env_steps").groupby("seed", sort=False):
            reached = one.loc[one["win_rate"] >= LEARNT, "env_steps"]
            first.append(f"{reached.iloc[0]:,.0f}" if len(reached) else "never")
            last.append(f"{one['win_rate'].iloc[-1]:.2f}")
        learnt = len(first) - first.count("never")
        rows.append([f"`{run}`", f"{learnt} of {len(first)}", "; ".join(first), "; ".join(last)])
    return _table(
        [
            "condition",
            f"runs that won {LEARNT} of an evaluation",
            "first at env steps, by seed",
            "at the end, by seed",
        ],
        rows,
    )


def replace_block(text: str, name: str, body: str) -> str:
    """The page with what stands between a block's two marks replaced; DataError if it has no such block."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, mark, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not mark or not closed:
        raise DataError(f"no block {begin} ... {end}; put both marks where it belongs")
    return f"{head}{begin}\n{body}\n{end}{tail}"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
