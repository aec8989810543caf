"""Runs and claims -> one judged row per contrast. docs/statistics.md says what is computed and how far to trust it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dm2core.analysis.claims import Claim, Claims, Contrast, Level
from dm2core.analysis.run_table import CELL
from dm2core.analysis.stats import aggregates
from dm2core.analysis.stats.bootstrap import resample
from dm2core.analysis.stats.curve import area, early, final, steps_to
from dm2core.analysis.stats.intervals import RESAMPLES, Term, draws, estimate, expanded_tail, interval
from dm2core.analysis.stats.permutation import holm, permutation_p
from dm2core.analysis.stats.power import required_units, units
from dm2core.analysis.stats.sample import Sample
from dm2core.config import of_any_team
from dm2core.errors import DataError
from dm2core.methods import split_run
from dm2core.rng import stream

OUTCOMES = ("replicated", "direction only", "not replicated", "reversed", "inconclusive", "not tested")
KEYS = ["map", "method", "demos", "team", "seed"]
PAPER_RUNS = 5  # seeds of a published curve; the robustness row judges the first as many again
SIGNIFICANT = 0.05


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


def summarise(runs: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """One row per run [KEYS, auc, final, early, steps_to_0.2, steps_to_0.5, last, margin where teams were measured].

    `runs` holds a row per evaluation: KEYS, env_steps, win_rate and, optionally, demonstrator_win_rate. Runs that end
    before 99 % of their map's budget keep their row, with nan for every number over the budget.
    """
    _check(runs)
    rows = []
    for key, group in runs.groupby(KEYS, sort=True, dropna=False):
        ordered = group.sort_values("env_steps", kind="stable")
        x, y = ordered["env_steps"].to_numpy(float), ordered["win_rate"].to_numpy(float)
        budget = claims.budget_on(str(key[0])) or np.inf
        done = x[-1] >= 0.99 * budget
        end = final(x, y, budget) if done else np.nan
        against = ordered["demonstrator_win_rate"].iloc[0] if "demonstrator_win_rate" in ordered else np.nan
        numbers = {
            "auc": area(x, y, budget) if done else np.nan,
            "final": end,
            "early": early(x, y, budget) if done else np.nan,
            "margin": end - against,
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
    p: float = np.nan
    p_error: float = np.nan
    p_holm: float = np.nan
    runs_a: int = 0
    runs_b: int = 0
    teams_a: int = 0
    teams_b: int = 0
    runs_per_team: str = ""  # smallest..largest
    units: str = ""  # what `needed` counts
    needed: float = np.nan  # units per condition at which an inconclusive contrast would be decided
    more: float = np.nan
    flips: str = ""  # other readings of the same runs that give another outcome


@dataclass(frozen=True)
class _Arm:
    """Samples of one arm on one map, one per listed condition; a level has none."""

    samples: list[Sample]
    level: float = 0.0
    run_keys: list[set[tuple[object, object]]] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return float(np.mean([s.mean for s in self.samples])) if self.samples else self.level

    def values(self) -> aggregates.Floats:
        return np.concatenate([s.values for s in self.samples]) if self.samples else np.array([self.level])

    def weights(self, resamples: int, rng: np.random.Generator) -> aggregates.Floats:
        """Weights [R, runs] of the arm's runs; conditions count alike. Without resamples, of the runs themselves."""
        if not self.samples:
            return np.ones((max(resamples, 1), 1))
        drawn = [resample(s, resamples, rng) if resamples else s.weights for s in self.samples]
        return np.concatenate(drawn, axis=1) / len(self.samples)


def _arm(
    table: pd.DataFrame, map_name: str, arm: Sequence[str] | Level, metric: str, keep: set[object] | None
) -> _Arm | str:
    """The arm's samples, or why there are none."""
    if isinstance(arm, Level):
        return _Arm([], arm.level)
    samples, keys = [], []
    for run in arm:
        method, demos = split_run(run)
        listed = table["demos"] if demos != of_any_team(demos) else table["demos"].map(of_any_team)
        rows = table[(table["map"] == map_name) & (table["method"] == method) & (listed == demos)]
        if keep is not None:
            rows = rows[rows["seed"].isin(keep)]
        if rows.empty:
            return f"no run of {run} on {map_name}"
        begun, rows = rows, rows[rows["open"] == 0]
        if rows.empty:
            planned = len(begun) + begun.groupby("demos")["open"].first().sum()
            return f"{len(begun)} of {planned} planned runs of {run} on {map_name} are finished"
        if rows["final"].isna().any():
            short = int(rows["last"].min())
            return f"{run} on {map_name} ends at {short:,} env steps"
        if rows[metric].isna().any():
            return f"the demonstrators of {run} on {map_name} were not measured"
        samples.append(Sample.of(rows[metric].to_numpy(float), rows["team"].tolist(), rows["seed"].tolist()))
        keys.append(set(zip(rows["team"], rows["seed"], strict=True)))
    return _Arm(samples, run_keys=keys)


def _pairs(
    table: pd.DataFrame, contrasts: Sequence[Contrast], metric: str, keep: set[object] | None = None
) -> list[tuple[_Arm, _Arm]] | str:
    pairs = []
    for contrast in contrasts:
        a = _arm(table, contrast.map, contrast.a, metric, keep)
        b = _arm(table, contrast.map, contrast.b, metric, keep)
        for arm in (a, b):
            if isinstance(arm, str):
                return arm
        assert isinstance(a, _Arm) and isinstance(b, _Arm)
        pairs.append((a, b))
    return pairs


def _terms(pairs: Sequence[tuple[_Arm, _Arm]]) -> list[Term]:
    """The contrast as a weighted sum: maps count alike, and conditions within an arm."""
    return [
        Term(sign / (len(arm.samples) * len(pairs)), sample)
        for a, b in pairs
        for sign, arm in ((1.0, a), (-1.0, b))
        for sample in arm.samples
    ]


def _estimate(pairs: Sequence[tuple[_Arm, _Arm]]) -> tuple[float, float]:
    """The contrast, and the part of it that levels make, which have no spread."""
    shift = -sum(b.level for _, b in pairs if not b.samples) / len(pairs)
    return estimate(_terms(pairs)) + shift, shift


def judge_pairs(
    pairs: Sequence[tuple[_Arm, _Arm]], claim: Claim, rng: np.random.Generator
) -> tuple[str, float, float, float]:
    """Outcome, difference A - B and its 95 % interval."""
    value, shift = _estimate(pairs)
    low, high = (bound + shift for bound in interval(_terms(pairs), rng))
    return _outcome(claim, value, low, high), value, low, high


def _outcome(claim: Claim, value: float, low: float, high: float) -> str:
    if claim.direction == "below":
        value, low, high = -value, -high, -low
    return outcome(value, low, high, claim.smallest_effect, equivalence=claim.direction == "equal")


def _iqm(
    pairs: Sequence[tuple[_Arm, _Arm]], resamples: int, rng: np.random.Generator
) -> tuple[aggregates.Floats, aggregates.Floats]:
    """IQM difference and probability of improvement [R], each the mean over maps."""
    differences, improvements = [], []
    for a, b in pairs:
        x, y = a.values(), b.values()
        wx, wy = a.weights(resamples, rng), b.weights(resamples, rng)
        differences.append(aggregates.iqm(x, wx) - aggregates.iqm(y, wy))
        improvements.append(aggregates.probability_of_improvement(x, y, wx, wy))
    return np.mean(differences, axis=0), np.mean(improvements, axis=0)


def _quantiles(drawn: aggregates.Floats, tail: float) -> tuple[float, float]:
    """Both ends of an expanded percentile interval; everything where the tail is unknown."""
    if not np.isfinite(tail):
        return -np.inf, np.inf
    return float(np.quantile(drawn, tail)), float(np.quantile(drawn, 1.0 - tail))


def _p_value(pairs: Sequence[tuple[_Arm, _Arm]], rng: np.random.Generator) -> tuple[float, float]:
    """Permutation p and its Monte Carlo error; nan against levels, where there is nothing to exchange."""
    if all(b.samples for _, b in pairs):
        result = permutation_p([(a.values(), b.values()) for a, b in pairs], rng)
        return result.p, result.error
    return np.nan, np.nan


def judge(
    table: pd.DataFrame,
    claim: Claim,
    contrasts: Sequence[Contrast],
    paper: float,
    seed_order: Sequence[object],
) -> Row:
    """One row: `contrasts` is one of the claim's, or all of them. `table` is from `summarise`."""
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
        "paper": paper,
    }
    pairs = _pairs(table, contrasts, claim.metric)
    if isinstance(pairs, str):
        return Row(**base, outcome="not tested", reason=pairs)  # type: ignore[arg-type]
    word, value, low, high = judge_pairs(pairs, claim, rng)
    iqm, improvement = (float(v[0]) for v in _iqm(pairs, 0, rng))
    iqms, improvements = _iqm(pairs, RESAMPLES, rng)
    tail = expanded_tail(_terms(pairs), draws(_terms(pairs), RESAMPLES, rng))
    iqm_low, iqm_high = _quantiles(iqms, tail)
    improvement_low, improvement_high = _quantiles(improvements, tail)
    p, p_error = _p_value(pairs, rng)
    terms = _terms(pairs)
    arms = {side: [pair[side] for pair in pairs] for side in (0, 1)}
    per_team = [int(n) for t in terms for n in np.bincount(t.sample.teams)]
    needed = None
    if word == "inconclusive":
        needed = required_units(
            terms,
            claim.smallest_effect,
            equivalence=claim.direction == "equal",
            shift=value - estimate(terms),
        )
    fewest = min(units(t.sample)[0] for t in terms)
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
        p=p,
        p_error=p_error,
        runs_a=sum(len(s.values) for arm in arms[0] for s in arm.samples),
        runs_b=sum(len(s.values) for arm in arms[1] for s in arm.samples),
        teams_a=max((s.n_teams for arm in arms[0] for s in arm.samples), default=0),
        teams_b=max((s.n_teams for arm in arms[1] for s in arm.samples), default=0),
        runs_per_team=f"{min(per_team)}..{max(per_team)}",
        units="teams" if any(t.sample.n_teams > 1 for t in terms) else "runs",
        needed=np.nan if needed is None else needed,
        more=np.nan if needed is None else max(needed - fewest, 1),
        flips="; ".join(_flips(table, claim, contrasts, pairs, word, (iqm, iqm_low, iqm_high), seed_order)),
    )


def _flips(
    table: pd.DataFrame,
    claim: Claim,
    contrasts: Sequence[Contrast],
    pairs: Sequence[tuple[_Arm, _Arm]],
    word: str,
    iqm: tuple[float, float, float],
    seed_order: Sequence[object],
) -> Iterable[str]:
    """Robustness: the same rule on the IQM, on the other metric, on the paper's number of seeds, on each team."""
    rng = stream(0, f"verdict/flips/{claim.id}/{contrasts[0].map}/{len(contrasts)}")
    others: list[tuple[str, str]] = [("IQM", _outcome(claim, *iqm))]
    swap = {"auc": "final", "final": "auc"}.get(claim.metric)
    readings: list[tuple[str, str, set[object] | None]] = []
    if swap is not None:
        readings.append((swap, swap, None))
    if len(seed_order) > PAPER_RUNS:
        readings.append((f"first {PAPER_RUNS} seeds", claim.metric, set(seed_order[:PAPER_RUNS])))
    for label, metric, keep in readings:
        again = _pairs(table, contrasts, metric, keep)
        if not isinstance(again, str):
            others.append((label, judge_pairs(again, claim, rng)[0]))
    teams = sorted({str(team) for a, _ in pairs for keys in a.run_keys for team, _ in keys if team})
    for team in teams if len(teams) > 1 else []:
        part = table[(table["team"] == team) | (table["team"] == "")]
        again = _pairs(part, contrasts, claim.metric)
        if not isinstance(again, str):
            others.append((f"team {team}", judge_pairs(again, claim, rng)[0]))
    return [f"{label}: {other}" for label, other in others if other != word]


def verdict(
    runs: pd.DataFrame,
    claims: Claims,
    *,
    planned: pd.DataFrame | None = None,
    failed: pd.DataFrame | None = None,
    theory: pd.DataFrame | None = None,
    paper: dict[tuple[str, str], float] | None = None,
) -> pd.DataFrame:
    """Every claim judged, a row per contrast and one for a claim's contrasts together, then the theory's rows.

    `runs` as for `summarise`; `planned` and `failed` [CELL]; `theory` [test, statement, holds, ...]; `paper` maps
    (claim id, map) to the published A - B. A condition is judged once each of its planned runs is finished or failed.
    Deterministic. DataError if the runs are damaged.
    """
    table = summarise(runs, claims).assign(open=0)
    nothing = pd.DataFrame(columns=CELL)
    if planned is not None:
        waiting = open_runs(table, planned, nothing if failed is None else failed)
        conditions = table[CELL[:3]].itertuples(index=False, name=None)
        table["open"] = [waiting.get(condition, 0) for condition in conditions]
    order = list(dict.fromkeys((table if planned is None else planned)["seed"]))
    paper = paper or {}
    rows = []
    for claim in claims.claims:
        parts = [[contrast] for contrast in claim.contrasts]
        for part in [*parts, *([claim.contrasts] if len(parts) > 1 else [])]:
            published = float(np.mean([paper.get((claim.id, contrast.map), np.nan) for contrast in part]))
            rows.append(judge(table, claim, part, published, order))
    judged = pd.DataFrame([vars(row) for row in rows])
    # The family: every contrast for itself. A claim's joint row repeats their runs, so it is a family of its own.
    for joint in (False, True):
        tested = judged.index[judged["p"].notna() & ((judged["map"] == "all") == joint)]
        if len(tested):
            judged.loc[tested, "p_holm"] = holm(judged.loc[tested, "p"].tolist())
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
