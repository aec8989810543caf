"""Runs and claims -> one judged row per contrast. docs/statistics.md says what is computed and how far to trust it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dm2core.analysis.arms import (
    Arm,
    estimate_of,
    iqm_of,
    judge_pairs,
    outcome_of,
    pairs_of,
    permuted,
    terms_of,
)
from dm2core.analysis.claims import Claim, Claims, Contrast
from dm2core.analysis.readings import Reading, readings
from dm2core.analysis.run_table import CELL
from dm2core.analysis.stats import aggregates
from dm2core.analysis.stats.curve import area, early, final, steps_to
from dm2core.analysis.stats.intervals import draws, expanded_tail, p_value
from dm2core.analysis.stats.permutation import holm
from dm2core.analysis.stats.power import required_units, units
from dm2core.config import of_any_team
from dm2core.errors import DataError
from dm2core.rng import stream

KEYS = ["map", "method", "demos", "team", "seed"]
SIGNIFICANT = 0.05
DRAWS = 100_000  # of the intervals of IQM and P(A > B), whose expanded tails are thin


def summarise(runs: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """One row per run [KEYS, auc, final, early, steps_to_0.2, steps_to_0.5, last, margins where teams were measured].

    `runs` holds a row per evaluation: KEYS, env_steps, win_rate and, optionally, demonstrator_win_rate and
    demonstrator_win_rate_greedy. Runs that end before 99 % of their map's budget keep their row, with nan for every
    number over the budget.
    """
    _check(runs)
    rows = []
    for key, group in runs.groupby(KEYS, sort=True, dropna=False):
        ordered = group.sort_values("env_steps", kind="stable")
        x, y = ordered["env_steps"].to_numpy(float), ordered["win_rate"].to_numpy(float)
        budget = claims.budget_on(str(key[0])) or np.inf
        done = x[-1] >= 0.99 * budget
        end = final(x, y, budget) if done else np.nan
        against, greedy = (
            ordered[name].iloc[0] if name in ordered else np.nan
            for name in ("demonstrator_win_rate", "demonstrator_win_rate_greedy")
        )
        numbers = {
            "auc": area(x, y, budget) if done else np.nan,
            "final": end,
            "early": early(x, y, budget) if done else np.nan,
            "margin": end - against,
            "margin_greedy": end - greedy,
            "steps_to_0.2": steps_to(x, y, 0.2),
            "steps_to_0.5": steps_to(x, y, 0.5),
            "last": x[-1],
        }
        rows.append(dict(zip(KEYS, key, strict=True)) | numbers)
    return pd.DataFrame(rows)


def _check(runs: pd.DataFrame) -> None:
    missing = [name for name in [*KEYS, "env_steps", "win_rate"] if name not in runs.columns]
    if missing:
        raise DataError(f"runs: no column {', '.join(missing)}; the table needs a row per evaluation")
    if runs.empty:
        raise DataError("runs: the table is empty; no cell is finished")
    win_rate = runs["win_rate"].to_numpy(float)
    if not ((win_rate >= 0.0) & (win_rate <= 1.0)).all():
        raise DataError("runs: a win rate outside 0..1, or not a number; the cell's metrics are damaged")
    twice = runs.duplicated([*KEYS, "env_steps"])
    if twice.any():
        row = runs[twice].iloc[0]
        raise DataError(f"runs: {_name(row)} has two evaluations at {row['env_steps']:,} env steps; keep one")


def _name(row: pd.Series) -> str:
    return f"{row['map']}/{row['method']}/{row['demos']}/seed{row['seed']}"


def open_runs(
    finished: pd.DataFrame, planned: pd.DataFrame, failed: pd.DataFrame
) -> dict[tuple[object, ...], int]:
    """Planned runs that are neither finished nor failed, by condition (map, method, demos), where there are any.

    All frames hold CELL. DataError for a run that stands as finished and as failed.
    """

    def cells(frame: pd.DataFrame) -> set[tuple[object, ...]]:
        return set(frame[CELL].itertuples(index=False, name=None))

    there, lost = cells(finished), cells(failed)
    both = there & lost
    if both:
        run = "{}/{}/{}/seed{}".format(*min(both, key=str))
        raise DataError(f"verdict: {run} stands as finished and as failed")
    return dict(Counter(cell[:3] for cell in cells(planned) - there - lost))


@dataclass(frozen=True)
class Row:
    """One judged contrast, or all contrasts of a claim together (`map` is then `all`)."""

    claim: str
    statement: str
    place: str
    map: str
    metric: str
    direction: str
    smallest_effect: float
    outcome: str
    source: str = ""  # who makes the claim, and where: claims.Source
    reason: str = ""  # why it was not tested
    paper: float = np.nan  # A - B on the published curves
    a: float = np.nan  # means
    b: float = np.nan
    difference: float = np.nan
    low: float = np.nan
    high: float = np.nan
    iqm_difference: float = np.nan
    iqm_low: float = np.nan
    iqm_high: float = np.nan
    improvement: float = np.nan  # P(a run of A beats a run of B)
    improvement_low: float = np.nan
    improvement_high: float = np.nan
    p: float = np.nan  # of the interval's model
    p_holm: float = np.nan
    p_permutation: float = np.nan  # as if runs of different teams were alike
    p_permutation_error: float = np.nan
    runs_a: int = 0
    runs_b: int = 0
    teams_a: int = 0  # expert teams, or groups of teams; the most that a condition of the arm has
    teams_b: int = 0
    runs_per_team: str = ""  # smallest..largest
    needed: float = np.nan  # teams or runs of each condition that would decide an inconclusive contrast
    more: str = ""  # how many that is beyond what was run, by arm
    flips: str = ""  # other readings of the same runs that give another outcome, as `Reading` writes them


def _quantiles(drawn: aggregates.Floats, tail: float) -> tuple[float, float]:
    """Both ends of an expanded percentile interval; everything where the tail is unknown."""
    if not np.isfinite(tail):
        return -np.inf, np.inf
    return float(np.quantile(drawn, tail)), float(np.quantile(drawn, 1.0 - tail))


def further(arms: Mapping[int, Sequence[Arm]], needed: int) -> str:
    """`8 teams in A, 6 runs in B`: what each arm's smallest sample lacks; one unit of each if neither lacks any."""
    fewest = {}
    for side, name in ((0, "A"), (1, "B")):
        samples = [s for arm in arms[side] for s in arm.samples]
        if samples:
            fewest[name] = min(samples, key=lambda s: units(s)[0])
    lacks = {name: needed - units(sample)[0] for name, sample in fewest.items()}
    if max(lacks.values()) < 1:
        lacks = dict.fromkeys(lacks, 1)
    parts = [
        (f"{count} {'team' if fewest[name].n_teams > 1 else 'run'}{'s' * (count > 1)}", name)
        for name, count in lacks.items()
        if count > 0
    ]
    if len({text for text, _ in parts}) == 1 and len(parts) == 2:
        return f"{parts[0][0]} in each"
    return ", ".join(f"{text} in {name}" for text, name in parts)


def judge(
    table: pd.DataFrame,
    training: pd.DataFrame | None,
    claim: Claim,
    contrasts: Sequence[Contrast],
    paper: float,
    seed_order: Sequence[object],
    planned: pd.DataFrame | None,
) -> Row:
    """One row: `contrasts` is one of the claim's, or all of them. `table` and `training` are from `summarise`."""
    name = contrasts[0].map if len(contrasts) == 1 else "all"
    rng = stream(0, f"verdict/{claim.id}/{name}")
    base = {
        "claim": claim.id,
        "statement": claim.statement,
        "place": claim.place,
        "map": name,
        "metric": claim.metric,
        "direction": claim.direction,
        "smallest_effect": claim.smallest_effect,
        "source": claim.source,
        "paper": paper,
    }
    pairs = pairs_of(table, contrasts, claim.metric, planned=planned)
    if isinstance(pairs, str):
        return Row(**base, outcome="not tested", reason=pairs)  # type: ignore[arg-type]
    word, value, low, high = judge_pairs(pairs, claim, rng)
    iqm, improvement = (float(v[0]) for v in iqm_of(pairs, 0, rng))
    iqms, improvements = iqm_of(pairs, DRAWS, rng)
    tail = expanded_tail(terms_of(pairs), draws(terms_of(pairs), DRAWS, rng))
    iqm_low, iqm_high = _quantiles(iqms, tail)
    improvement_low, improvement_high = _quantiles(improvements, tail)
    p_permutation, p_permutation_error = permuted(pairs, rng)
    terms = terms_of(pairs)
    _, shift = estimate_of(pairs)
    arms = {side: [pair[side] for pair in pairs] for side in (0, 1)}
    per_team = [int(n) for t in terms for n in np.bincount(t.sample.teams)]
    needed = None
    if word == "inconclusive":
        needed = required_units(
            terms,
            claim.smallest_effect,
            equivalence=claim.direction == "equal",
            shift=shift,
        )
    rng = stream(0, f"verdict/flips/{claim.id}/{contrasts[0].map}/{len(contrasts)}")
    others = [
        Reading("IQM", outcome_of(claim, iqm, iqm_low, iqm_high), iqm, iqm_low, iqm_high),
        *readings(table, training, claim, contrasts, seed_order, rng),
    ]
    return Row(
        **base,  # type: ignore[arg-type]
        outcome=word,
        a=float(np.mean([arm.mean for arm in arms[0]])),
        b=float(np.mean([arm.mean for arm in arms[1]])),
        difference=value,
        low=low,
        high=high,
        iqm_difference=iqm,
        iqm_low=iqm_low,
        iqm_high=iqm_high,
        improvement=improvement,
        improvement_low=improvement_low,
        improvement_high=improvement_high,
        p=p_value(terms, shift),
        p_permutation=p_permutation,
        p_permutation_error=p_permutation_error,
        runs_a=sum(len(s.values) for arm in arms[0] for s in arm.samples),
        runs_b=sum(len(s.values) for arm in arms[1] for s in arm.samples),
        teams_a=max(arm.teams for arm in arms[0]),
        teams_b=max(arm.teams for arm in arms[1]),
        runs_per_team=f"{min(per_team)}..{max(per_team)}",
        needed=np.nan if needed is None else needed,
        more="" if needed is None else further(arms, needed),
        flips="; ".join(str(reading) for reading in others if reading.outcome != word),
    )


def verdict(
    runs: pd.DataFrame,
    claims: Claims,
    *,
    training: pd.DataFrame | None = None,
    planned: pd.DataFrame | None = None,
    failed: pd.DataFrame | None = None,
    theory: pd.DataFrame | None = None,
    paper: dict[tuple[str, str], float] | None = None,
) -> pd.DataFrame:
    """Every claim judged, a row per contrast and one for a claim's contrasts together, then the theory's rows.

    `runs` as for `summarise`; `training` likewise, of the battles that were learnt from; `planned` as of
    `planned_runs`; `failed` [CELL]; `theory` [test, statement, holds, ...]; `paper` maps (claim id, map) to the
    published A - B. A condition is judged once each of its planned runs that are judged is finished or failed.
    Deterministic. DataError if the runs are damaged.
    """
    table = summarise(runs, claims)
    nothing = pd.DataFrame(columns=CELL)
    counted = None if planned is None else planned[planned["judged"]]
    waiting = {} if counted is None else open_runs(table, counted, nothing if failed is None else failed)

    pooled = Counter[tuple[object, ...]]()
    for (*where, demos), count in waiting.items():
        pooled[*where, of_any_team(str(demos))] += count

    def with_open(numbers: pd.DataFrame) -> pd.DataFrame:
        sets = list(numbers[CELL[:3]].itertuples(index=False, name=None))
        return numbers.assign(
            open=[waiting.get(one, 0) for one in sets],
            open_of_any_team=[pooled[*one[:2], of_any_team(str(one[2]))] for one in sets],
        )

    table = with_open(table)
    learnt = None if training is None or training.empty else with_open(summarise(training, claims))
    order = list(dict.fromkeys((table if counted is None else counted)["seed"]))
    paper = paper or {}
    rows = []
    for claim in claims.claims:
        parts = [[contrast] for contrast in claim.contrasts]
        for part in [*parts, *([claim.contrasts] if len(parts) > 1 else [])]:
            published = float(np.mean([paper.get((claim.id, contrast.map), np.nan) for contrast in part]))
            rows.append(judge(table, learnt, claim, part, published, order, planned))
    judged = pd.DataFrame([vars(row) for row in rows])
    # The family: every contrast for itself, those to come as if they found nothing, so that a corrected p only falls
    # while runs are added. A claim's joint row repeats its contrasts' runs, so these rows are a family of their own.
    for joint in (False, True):
        family = judged.index[(judged["map"] == "all") == joint]
        corrected = pd.Series(holm(judged.loc[family, "p"].fillna(1.0).tolist()), family)
        judged.loc[family, "p_holm"] = corrected.where(judged.loc[family, "p"].notna())
    directed = judged["outcome"].isin(["replicated", "direction only", "reversed"]) & (
        judged["direction"] != "equal"
    )
    judged["after_holm"] = judged["outcome"].mask(directed & (judged["p_holm"] > SIGNIFICANT), "inconclusive")
    return pd.concat([judged, _theory_rows(claims, theory)], ignore_index=True)


def _theory_rows(claims: Claims, theory: pd.DataFrame | None) -> pd.DataFrame:
    """One row per statement of theory.csv: replicated if all its rows hold."""
    rows = []
    for claim in claims.theory:
        found = theory[theory["test"] == claim.id] if theory is not None else pd.DataFrame()
        base = {"claim": claim.id, "place": claim.place, "map": "theory", "metric": "theory"}
        if found.empty:
            word, reason = "not tested", "no row in theory.csv"
            rows.append(base | {"statement": claim.statement, "outcome": word, "reason": reason})
            continue
        for statement, part in found.groupby("statement", sort=False):
            holds = part["holds"].astype(str).str.lower().isin(["true", "1", "yes"])
            reason = "" if holds.all() else f"fails in {int((~holds).sum())} of {len(part)} rows"
            word = "replicated" if holds.all() else "not replicated"
            rows.append(base | {"statement": str(statement), "outcome": word, "reason": reason})
    return pd.DataFrame(rows, columns=["claim", "statement", "place", "map", "metric", "outcome", "reason"])
