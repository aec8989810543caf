"""figures/theory and docs/theory.md from the table that `dm2 theory` writes."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dm2core.analysis.curve_figures import write
from dm2core.analysis.figures import UNSTAMPED, Stamp

FORMS = {
    "neglog_agent": ("#0072B2", r"$-\log P$(agent)"),
    "logit": ("#009E73", "logit, as in the code"),
    "printed": ("#D55E00", r"$-\log P$(expert), as printed"),
    "state_logit": ("#CC79A7", "logit of states only"),
}
PAGE = """# The theory, on small games

Written by `snakemake figures/theory.pdf --cores 1`. The paper's lemmas, theorems and corollaries as numbers on small
tabular Markov games: visitations, values and discriminators are exact (dm2core/theory). "Holds" counts the numbers on
which the statement is true; a row that is not all true shows the number farthest from what is expected.

{table}

What follows from it:

- J, L and L_eps were never out of order, and no policy that was tried but the expert reached the maximum (T1, T2).
- By turns, with the agent's share in the logarithm or with the logit of states and actions, every game ended at the
  expert. With the reward as the appendix prints it (the expert's share in the logarithm) none did: there D = P(expert),
  and the reward is highest where the agent is least like the expert.
- With many small steps under discriminators that are renewed at every step, Assumption 1 and Corollary 2 hold in every
  game. With one large step a turn they do not: on a ring where all must step on together, the best response to the
  agent's optimal discriminator raises its imitation value every time, yet agents match less in some state, L_eps falls,
  and most starts go round without end instead of reaching the expert. What fails is Assumption 1: a value weighted by
  visits says nothing of a state that is rarely visited.
- What is practised differs from what is proved. A discriminator of states alone reproduces the expert's states and
  not its actions, most plainly where actions do not move the state.
- The logit's gain of 0 in T8 rests on a nearly infinite penalty for leaving the expert's actions; it is no evidence
  about practice, where discriminators are smooth.
- The expert is an equilibrium of the mixed game, as Theorem 3 says, with the reward taken at the expert. The text reads
  the converse into it (that converged policies are equilibria of the task); with three agents that is false:

{example}

- Agents that see only their own part can each match their own demonstrations and still miss the team's (XOR), and
  demonstrations from two teams may leave a residual that no joint policy removes (four tiles).
- In the ablation's miniature the difference between concurrent and non-concurrent sets is zero by construction: an
  agent's own actions are distributed alike in both, and discriminators see nothing else.
"""


def plot(table: pd.DataFrame, curves: pd.DataFrame, out: Path, stamp: Stamp = UNSTAMPED) -> None:
    """theory.pdf, .png, .csv into `out`."""
    figure = Figure(figsize=(12.5, 6.2), layout="constrained")
    grid = figure.subplot_mosaic([["matching", "holds"], ["distance", "holds"]], width_ratios=[1, 1.1])
    for column in ("matching", "distance"):
        axes = grid[column]
        for form, (colour, name) in FORMS.items():
            rows = curves[curves["form"] == form]
            axes.plot(rows["turn"], rows[column], color=colour, linewidth=2, label=name)
        axes.set_ylabel(column)
        axes.set_ylim(-0.02, 1.02 if column == "matching" else None)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    grid["matching"].legend(fontsize="small", frameon=False)
    grid["distance"].set_xlabel("turn")
    shares = table.groupby(["test", "statement"], sort=False)["holds"].agg(["mean", "size"])
    order = [_order(test) for test in shares.index.get_level_values("test").tolist()]
    shares = shares.iloc[np.argsort(order, kind="stable")][::-1]
    names = ["  ".join(key) for key in shares.index.to_flat_index().tolist()]
    axes = grid["holds"]
    colours = mpl.colormaps["RdYlBu"](0.15 + 0.7 * shares["mean"].to_numpy())
    axes.barh(range(len(shares)), shares["mean"], color=colours)
    axes.set_yticks(range(len(shares)), names, fontsize="small")
    for k, (mean, size) in enumerate(shares.to_numpy().tolist()):
        axes.text(
            max(mean, 0.0) + 0.01, k, f"{round(mean * size)}/{int(size)}", va="center", fontsize="small"
        )
    axes.set_xlim(0, 1.12)
    axes.set_xlabel("share of numbers on which the statement holds")
    axes.spines[["top", "right"]].set_visible(False)
    write(figure, table, out / "theory", stamp)


def page(table: pd.DataFrame, example: str) -> str:
    """docs/theory.md; `example`: a game on which the converse of Theorem 3 fails."""
    lines = ["| test | statement | quantity | games | holds | worst |", "|---|---|---|---:|---:|---:|"]
    what = table["quantity"].str.replace(r" \[.*\]", "", regex=True)
    kinds = table["test"] + "|" + table["statement"] + "|" + what
    for kind in sorted(kinds.unique().tolist(), key=lambda kind: _order(kind.split("|")[0])):
        rows, parts = table[kinds == kind], kind.split("|")
        failing = rows[~rows["holds"]]
        far = (failing["value"] - failing["expected"].astype(float)).abs()
        said = f"{failing['value'].iloc[int(far.argmax())]:.3g}" if len(failing) else ""
        lines.append(f"| {' | '.join(parts)} | {len(rows)} | {int(rows['holds'].sum())} | {said} |")
    share = table.loc[
        table["quantity"].str.startswith("share with an equilibrium"), ["game", "quantity", "value"]
    ]
    text = [
        f"  {game}: {value:.1%}, 95 % interval [{said.split('[')[1]}."
        for game, said, value in share.to_numpy().tolist()
    ]
    text.append(f"  One of them: {example}.")
    return PAGE.format(table="\n".join(lines), example="\n".join(text))


def _order(test: str) -> int:
    return int(test[1:]) if test[1:].isdigit() else 99
