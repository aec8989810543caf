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

- J, L and L_eps are in order on random policies and on all deterministic ones of two games, where every bound is
  attained (T1). Corollary 1 holds with >=; with the printed > it fails where no agent matches anywhere, for then both
  sides are 0. The expert alone reaches the maximum (T2), but only if every state is visited (Condition 1).
- With small steps under discriminators that are renewed at every step, by turns, every game ends at the expert, with
  the agent's share in the logarithm (T3) and with the logit of states and actions (T4). With the reward as the appendix
  prints it (the expert's share in the logarithm) none does: there the reward is highest where the agent is least like
  the expert, and Assumption 1 fails. With the agent's share it cannot: all that is paid is paid for the expert's
  action.
- The proof's weak step is another. Lemma 6 raises a value that weighs states by visits; Assumption 1 speaks of a state
  in which the expected reward rose. Nothing says that it rises in every state, and it does not, on one ring even by
  small steps. That an improvement raises L_eps, which the appendix concludes from the two, holds in every game by small
  steps. By best responses it does not: on rings where all must step on together, three to four improvements in ten
  lower L_eps. There even a single agent does not always arrive, so Condition 2 is broken and Theorem 2 promises
  nothing; of two agents fewer arrive, of three fewer still.
- What is practised differs from what is proved. A discriminator of states alone reproduces the expert's states and not
  its actions, most plainly where actions do not move the state. All at once, every game ends at the expert by small
  steps, too (T6); in the two matrix games, which have one state, one agent's imitation reward does not depend on what
  the others do.
- The expert is an equilibrium of the mixed game, as Theorem 3 says, with the reward taken at the expert: there it is
  log 2 on the expert's actions, and 0 elsewhere by convention, for the discriminator has nothing to go by. The logit's
  gain of 0 at other policies rests on a nearly infinite penalty for leaving the expert's actions; it is no evidence
  about practice, where discriminators are smooth.
- The text reads the converse into Theorem 3 (that converged policies are equilibria of the task). That is false. For
  two agents it holds of pure equilibria (dm2core/theory/equilibria.py says why) and not of mixed ones; for three it
  fails for pure ones as well:

{example}

- Agents that see only their own part can each match their own demonstrations and still miss the team's (XOR). The
  paper's example of incompatible demonstrations, each of two agents shown itself on tile A, is incompatible by
  Definition 1, and even without its actions no joint policy comes near.
- In the ablation's miniature teams that learnt one convention teach it, from whichever team an agent's demonstrations
  are; of two conventions, agents end with one each. Concurrency has no place in it: an agent's own actions are
  distributed alike in both, and discriminators see nothing else.
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
        far = (failing["value"] - failing["expected"].str.strip("<>= ").astype(float)).abs()
        said = f"{failing['value'].iloc[int(far.argmax())]:.3g}" if len(failing) else ""
        lines.append(f"| {' | '.join(parts)} | {len(rows)} | {int(rows['holds'].sum())} | {said} |")
    share = table.loc[
        table["quantity"].str.startswith("share with a pure equilibrium"), ["game", "quantity", "value"]
    ]
    text = [
        f"  {game}: {value:.1%}, 95 % interval [{said.split('[')[1]}."
        for game, said, value in share.to_numpy().tolist()
    ]
    text.append(f"  One of them: {example}.")
    return PAGE.format(table="\n".join(lines), example="\n".join(text))


def _order(test: str) -> int:
    return int(test[1:]) if test[1:].isdigit() else 99
