"""The two arms of a contrast: their runs, the difference between them, and the outcome it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dm2core.analysis.claims import Claim, Contrast, Level
from dm2core.analysis.stats import aggregates
from dm2core.analysis.stats.bootstrap import resample
from dm2core.analysis.stats.intervals import Term, estimate, interval
from dm2core.analysis.stats.permutation import permutation_p
from dm2core.analysis.stats.sample import Sample
from dm2core.config import of_any_team
from dm2core.methods import split_run

OUTCOMES = ("replicated", "direction only", "not replicated", "reversed", "inconclusive", "not tested")


def outcome(
    effect: float, low: float, high: float, smallest_effect: float, *, equivalence: bool = False
) -> str:
    """One of OUTCOMES; the effect and its interval are counted in the claimed direction (claims/claims.yaml)."""
    within = -smallest_effect <= low and high <= smallest_effect
    if equivalence:
        if within:
            return "replicated"
        apart = (low > 0.0 or high < 0.0) and abs(effect) >= smallest_effect
        return "not replicated" if apart else "inconclusive"
    if within:
        return "not replicated"
    if low > 0.0:
        return "replicated" if effect >= smallest_effect else "direction only"
    return "reversed" if high < 0.0 else "inconclusive"


@dataclass(frozen=True)
class Arm:
    """Samples of one arm on one map, one per listed condition; a level has none."""

    samples: list[Sample]
    level: float = 0.0
    run_keys: list[set[tuple[object, object]]] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return float(np.mean([s.mean for s in self.samples])) if self.samples else self.level

    @property
    def teams(self) -> int:
        """The most expert teams that a condition has; 0 if none learnt from demonstrations."""
        return max((len({team for team, _ in keys if team}) for keys in self.run_keys), default=0)

    def values(self) -> aggregates.Floats:
        return np.concatenate([s.values for s in self.samples]) if self.samples else np.array([self.level])

    def weights(self, resamples: int, rng: np.random.Generator) -> aggregates.Floats:
        """Weights [R, runs] of the arm's runs; conditions count alike. Without resamples, of the runs themselves."""
        if not self.samples:
            return np.ones((max(resamples, 1), 1))
        drawn = [resample(s, resamples, rng) if resamples else s.weights for s in self.samples]
        return np.concatenate(drawn, axis=1) / len(self.samples)


def _arm(
    table: pd.DataFrame,
    map_name: str,
    arm: Sequence[str] | Level,
    metric: str,
    keep: set[object] | None,
    team: str | None,
    planned: pd.DataFrame | None,
) -> Arm | str:
    """The arm's samples, or why there are none. An arm without any run of `team` stays whole."""
    if isinstance(arm, Level):
        return Arm([], arm.level)
    samples, keys = [], []
    chosen = [(run, _rows(table, map_name, run)) for run in arm]
    if any((rows["team"] == team).any() for _, rows in chosen):
        theirs = [(run, rows[rows["team"] == team]) for run, rows in chosen]
        chosen = [(run, rows) for run, rows in theirs if not rows.empty]
    for run, rows in chosen:
        if keep is not None:
            rows = rows[rows["seed"].isin(keep)]
        if rows.empty:
            return f"no run of {run} on {map_name}{_why_none(planned, map_name, run)}"
        waiting = int(rows["open_of_any_team" if _any_team(run) else "open"].iloc[0])
        if waiting:
            return f"{len(rows)} of {len(rows) + waiting} planned runs of {run} on {map_name} are finished"
        if rows["final"].isna().any():
            short = int(rows.loc[rows["final"].isna(), "last"].min())
            return f"{run} on {map_name} ends at {short:,} env steps, or has no evaluation in the last tenth"
        if rows[metric].isna().any():
            return f"the demonstrators of {run} on {map_name} were not measured"
        samples.append(Sample.of(rows[metric].to_numpy(float), rows["team"].tolist(), rows["seed"].tolist()))
        keys.append(set(zip(rows["team"], rows["seed"], strict=True)))
    return Arm(samples, run_keys=keys)


def _why_none(planned: pd.DataFrame | None, map_name: str, run: str) -> str:
    """What keeps a condition without runs for good, as the end of a sentence; "" if runs are only to be made."""
    if planned is None:
        return ""
    if _of_run(planned, run).empty:
        return ": planned in no figure"
    there = _rows(planned, map_name, run)
    if there.empty or there["judged"].any():
        return ""
    return ": its runs are on a panel's own seeds, which no claim is judged by"


def _rows(table: pd.DataFrame, map_name: str, run: str) -> pd.DataFrame:
    return _of_run(table[table["map"] == map_name], run)


def _of_run(table: pd.DataFrame, run: str) -> pd.DataFrame:
    """One condition's rows, of all maps."""
    method, demos = split_run(run)
    listed = table["demos"].map(of_any_team) if _any_team(run) else table["demos"]
    return table[(table["method"] == method) & (listed == demos)]


def _any_team(run: str) -> bool:
    """Whether the run stands for demonstrations of all teams, not of the one that it names."""
    demos = split_run(run)[1]
    return demos == of_any_team(demos)


def pairs_of(
    table: pd.DataFrame,
    contrasts: Sequence[Contrast],
    metric: str,
    keep: set[object] | None = None,
    team: str | None = None,
    planned: pd.DataFrame | None = None,
) -> list[tuple[Arm, Arm]] | str:
    """Both arms of each contrast, or why there are none; with seeds to `keep`, or of one expert team alone.

    `planned` [map, method, demos, judged] tells a condition that is still to come from one that no figure plans.
    """
    pairs = []
    for contrast in contrasts:
        a = _arm(table, contrast.map, contrast.a, metric, keep, team, planned)
        b = _arm(table, contrast.map, contrast.b, metric, keep, team, planned)
        for arm in (a, b):
            if isinstance(arm, str):
                return arm
        assert isinstance(a, Arm) and isinstance(b, Arm)
        pairs.append((a, b))
    return pairs


def terms_of(pairs: Sequence[tuple[Arm, Arm]]) -> list[Term]:
    """The contrast as a weighted sum: maps count alike, and conditions within an arm."""
    return [
        Term(sign / (len(arm.samples) * len(pairs)), sample)
        for a, b in pairs
        for sign, arm in ((1.0, a), (-1.0, b))
        for sample in arm.samples
    ]


def estimate_of(pairs: Sequence[tuple[Arm, Arm]]) -> tuple[float, float]:
    """The contrast, and the part of it that levels make, which have no spread."""
    shift = -sum(b.level for _, b in pairs if not b.samples) / len(pairs)
    return estimate(terms_of(pairs)) + shift, shift


def judge_pairs(
    pairs: Sequence[tuple[Arm, Arm]], claim: Claim, rng: np.random.Generator
) -> tuple[str, float, float, float]:
    """Outcome, difference A - B and its 95 % interval."""
    value, shift = estimate_of(pairs)
    low, high = (bound + shift for bound in interval(terms_of(pairs), rng))
    return outcome_of(claim, value, low, high), value, low, high


def outcome_of(claim: Claim, value: float, low: float, high: float) -> str:
    if claim.direction == "below":
        value, low, high = -value, -high, -low
    return outcome(value, low, high, claim.smallest_effect, equivalence=claim.direction == "equal")


def iqm_of(
    pairs: Sequence[tuple[Arm, Arm]], resamples: int, rng: np.random.Generator
) -> tuple[aggregates.Floats, aggregates.Floats]:
    """IQM difference and probability of improvement [R], each the mean over maps."""
    differences, improvements = [], []
    for a, b in pairs:
        x, y = a.values(), b.values()
        wx, wy = a.weights(resamples, rng), b.weights(resamples, rng)
        differences.append(aggregates.iqm(x, wx) - aggregates.iqm(y, wy))
        improvements.append(aggregates.probability_of_improvement(x, y, wx, wy))
    return np.mean(differences, axis=0), np.mean(improvements, axis=0)


def permuted(pairs: Sequence[tuple[Arm, Arm]], rng: np.random.Generator) -> tuple[float, float]:
    """Permutation p and its Monte Carlo error; nan against levels, where there is nothing to exchange."""
    if all(b.samples for _, b in pairs):
        sides = [[(arm.values(), arm.weights(0, rng)[0]) for arm in pair] for pair in pairs]
        result = permutation_p([(a, b) for a, b in sides], rng)
        return result.p, result.error
    return np.nan, np.nan
