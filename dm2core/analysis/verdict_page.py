"""The table of verdicts as a page of Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dm2core.analysis.claims import file_sha256
from dm2core.analysis.transfer_table import NOT_RUN

REACH = (
    "A surrogate simulator tests the mechanism and the ordering of the methods, not StarCraft II's numbers: "
    "`replicated` means found again in an independently built setting."
)
GAME_REACH = "Cells were trained and evaluated in StarCraft II itself, through SMAC."
RULE = (
    "Outcomes follow the rules in claims/claims.yaml. Intervals are nominal 95 %; docs/statistics.md gives their "
    "measured coverage. p is the interval's: below 0.05 where that leaves out 0; corrected by Holm over all contrasts, "
    "tested or not, and those of several maps over each other. The permutation p counts runs as if teams were alike."
)


def page(
    judged: pd.DataFrame,
    claims: Path,
    counts: dict[str, int],
    reasons: Sequence[str] = (),
    *,
    reach: str = REACH,
    transfers: str = f"{NOT_RUN}.",
) -> str:
    """Markdown of `verdict.verdict`'s table, judged by the file `claims`; `counts` has planned, finished and failed
    runs, `reasons` speak against publishing it.

    `transfers`: policies in simulator and game (transfer_table.py).
    """
    register = ", ".join(f"{count} {name}" for name, count in counts.items())
    parts = [
        "# Verdict",
        *(f"Not for publication: {reason}." for reason in reasons),
        reach,
        f"Runs: {register}. Claims: {claims.name}, SHA-256 `{file_sha256(claims)}`.",
        RULE,
        _table(
            [
                "claim",
                "map",
                "statement",
                "paper",
                "here [95 %]",
                "runs (teams)",
                "P(A > B)",
                "p (Holm)",
                "permutation p",
                "outcome",
            ],
            [_claim_row(row) for _, row in judged[judged["metric"] != "theory"].iterrows()],
        ),
        "## How firm",
        "Inconclusive contrasts with the number of further teams or runs that would decide them at this spread, "
        "and every reading of the same runs under which the outcome would be another one.",
        _table(
            ["claim", "map", "IQM difference [95 %]", "more needed", "other readings"], _firm_rows(judged)
        ),
        "## Simulator and StarCraft II",
        "Win rates of the same policies in both, 95 % intervals by Wilson; `dm2 evaluate --env`, docs/starcraft.md.",
        transfers,
        "## Theory",
        "Numbers: docs/theory.md. Rows of best responses, of every state, of practice, without a condition and "
        "controls are ours; the paper states the others.",
        _table(
            ["test", "place", "statement", "outcome", "note"],
            [
                [row["claim"], row["place"], row["statement"], row["outcome"], _text(row["reason"])]
                for _, row in judged[judged["metric"] == "theory"].iterrows()
            ],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _claim_row(row: pd.Series) -> list[str]:
    tested = row["outcome"] != "not tested"
    outcome = f"**{row['outcome']}**" if tested else f"not tested: {row['reason']}"
    teams = f" ({row['teams_a']:.0f}, {row['teams_b']:.0f})" if tested else ""
    return [
        row["claim"],
        row["map"],
        f"{row['statement']} ({row['place']}; {row['metric']}, {row['direction']}, {row['smallest_effect']:g})",
        _signed(row["paper"]),
        f"{_signed(row['difference'])} [{_signed(row['low'])}, {_signed(row['high'])}]" if tested else "",
        f"{row['runs_a']:.0f}, {row['runs_b']:.0f}{teams}" if tested else "",
        _improvement(row) if tested else "",
        f"{row['p']:.3g} ({row['p_holm']:.3g})" if tested and math.isfinite(row["p"]) else "",
        f"{row['p_permutation']:.3g}" if tested and math.isfinite(row["p_permutation"]) else "",
        outcome,
    ]


def _improvement(row: pd.Series) -> str:
    return f"{row['improvement']:.2f} [{row['improvement_low']:.2f}, {row['improvement_high']:.2f}]"


def _firm_rows(judged: pd.DataFrame) -> list[list[str]]:
    rows = []
    for _, row in judged[(judged["metric"] != "theory") & (judged["outcome"] != "not tested")].iterrows():
        more = _text(row["more"])
        if row["outcome"] == "inconclusive" and not more:
            more = "more than 1,000, or unknown with one run"
        iqm = f"{_signed(row['iqm_difference'])} [{_signed(row['iqm_low'])}, {_signed(row['iqm_high'])}]"
        rows.append([row["claim"], row["map"], iqm, more, "; ".join(other_outcomes(row))])
    return rows


def other_outcomes(row: pd.Series) -> list[str]:
    """`reading: outcome ...` of every reading of a judged row's runs that gives another outcome."""
    flips = [text for text in _text(row["flips"]).split("; ") if text]
    if row["after_holm"] != row["outcome"]:
        flips.append(f"Holm's p: {row['after_holm']}")
    return flips


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return "Nothing yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
