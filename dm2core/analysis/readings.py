"""Other readings of the same runs: the same rule on other numbers of theirs, or on a part of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dm2core.analysis.arms import Arm, judge_pairs, pairs_of
from dm2core.analysis.claims import Claim, Contrast, Level
from dm2core.methods import split_run

PAPER_RUNS = 5  # seeds of a published curve; one reading takes the first as many
Pairs = list[tuple[Arm, Arm]]


@dataclass(frozen=True)
class Reading:
    """What the rule says of it: outcome, difference A - B and its 95 % interval."""

    name: str
    outcome: str
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name}: {self.outcome} {self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def readings(
    table: pd.DataFrame,
    training: pd.DataFrame | None,
    claim: Claim,
    contrasts: Sequence[Contrast],
    seed_order: Sequence[object],
    rng: np.random.Generator,
) -> Iterator[Reading]:
    """Each that these runs can give. `table` is from `summarise`, `training` likewise, of the battles learnt from."""
    for name, pairs in _readings(table, training, claim, contrasts, seed_order):
        if not isinstance(pairs, str):
            yield Reading(name, *judge_pairs(pairs, claim, rng))


def _readings(
    table: pd.DataFrame,
    training: pd.DataFrame | None,
    claim: Claim,
    contrasts: Sequence[Contrast],
    seed_order: Sequence[object],
) -> Iterator[tuple[str, Pairs | str]]:
    swap = {"auc": "final", "final": "auc"}.get(claim.metric)
    if swap is not None:
        yield swap, pairs_of(table, contrasts, swap)
    if claim.metric == "margin":
        yield "demonstrators' greedy play", pairs_of(table, contrasts, "margin_greedy")
    if training is not None:
        yield "play while training", pairs_of(training, contrasts, claim.metric)
    if len(seed_order) > PAPER_RUNS:
        first = set(seed_order[:PAPER_RUNS])
        yield f"first {PAPER_RUNS} seeds", pairs_of(table, contrasts, claim.metric, first)
    for team in _teams(table, contrasts, claim.metric) if len(contrasts) == 1 else []:
        yield f"team {team}", pairs_of(table, contrasts, claim.metric, team=team)
    for name, part in _conditions(contrasts):
        yield name, pairs_of(table, part, claim.metric)


def _teams(table: pd.DataFrame, contrasts: Sequence[Contrast], metric: str) -> list[str]:
    """Expert teams of the first arm, if there are several. Teams of one seed on two maps have nothing in common."""
    pairs = pairs_of(table, contrasts, metric)
    if isinstance(pairs, str):
        return []
    teams = sorted({str(team) for a, _ in pairs for keys in a.run_keys for team, _ in keys if team})
    return teams if len(teams) > 1 else []


def _conditions(contrasts: Sequence[Contrast]) -> Iterator[tuple[str, list[Contrast]]]:
    """The k-th condition of each first arm beside the k-th of its second, where the arms list several and as many."""
    sides = [(c.a, c.b) for c in contrasts if not isinstance(c.b, Level)]
    counts = {len(side) for pair in sides for side in pair}
    if len(sides) < len(contrasts) or len(counts) != 1 or counts == {1}:
        return
    for k in range(counts.pop()):
        part = [
            c.model_copy(update={"a": [a[k]], "b": [b[k]]})
            for c, (a, b) in zip(contrasts, sides, strict=True)
        ]
        yield f"{_short(sides[0][0][k])} beside {_short(sides[0][1][k])}", part


def _short(run: str) -> str:
    """The variant of the demonstrations, which is what arms of several conditions differ in."""
    method, demos = split_run(run)
    return demos.split("_", 1)[-1] if "_" in demos else method
