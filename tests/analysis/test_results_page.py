"""What the pages say about the verdict as a whole."""

from __future__ import annotations

import pandas as pd

from dm2core.analysis.results_page import verdict_block


def row(claim: str, outcome: str, source: str, **other: object) -> dict[str, object]:
    numbers = {
        "paper": 0.1,
        "difference": 0.2,
        "low": 0.1,
        "high": 0.3,
        "runs_a": 5,
        "runs_b": 5,
        "teams_a": 1,
    }
    return {
        **numbers,
        **{
            "claim": claim,
            "outcome": outcome,
            "source": source,
            "after_holm": outcome,
            "statement": "So it is.",
        },
        **{"map": "3m", "metric": "auc", "flips": "", "teams_b": 0},
        **other,
    }


def test_claims_are_counted_by_outcome_and_by_who_makes_them() -> None:
    judged = pd.DataFrame(
        [
            row("i", "replicated", "text"),
            row("i", "replicated", "text", map="8m", after_holm="inconclusive"),
            row("i", "replicated", "text", map="all"),
            row("ii", "not replicated", "figures"),
            row("iii", "inconclusive", "ours"),
            row(
                "iv", "inconclusive", "text", paper=float("nan"), flips="final: replicated +0.2 [+0.1, +0.3]"
            ),
            row("v", "not tested", "notebook"),
            row("T1", "replicated", "", metric="theory"),
        ]
    )
    text = verdict_block(judged)
    assert text.startswith(
        "Of 6 claims, counted by map (1 of the paper's figures alone, 1 of its notebook, 2 ours: not the paper's, "
        "or on a map where it has no number): 2 replicated (1 by every reading), 1 not replicated (1 by every "
        "reading), 2 inconclusive (1 by every reading, 2 ours), 1 not tested."
    )
    assert (
        "| i: So it is. | 8m | +0.100 | +0.200 [+0.100, +0.300] | 5 and 5 (1) | **replicated** | Holm's p |"
        in text
    )
    assert "| ii (figures): So it is. | 3m |" in text and "| iv (ours): So it is. | 3m |  |" in text
    assert text.endswith("Not tested yet: v (3m).") and "T1" not in text
