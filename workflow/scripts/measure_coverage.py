"""Simulated runs with known truth -> docs/statistics.md's tables: coverage of intervals, errors of the decision."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dm2core.analysis.arms import OUTCOMES, outcome
from dm2core.analysis.stats.intervals import METHODS, Term, interval
from dm2core.analysis.stats.permutation import evenly, permutation_p
from dm2core.analysis.stats.sample import Sample
from dm2core.rng import stream

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
RUNS = (3, 5, 10, 20)
TEAMS = ((3, 5), (3, 10), (5, 5), (10, 5))  # expert teams, seeds with each
RESAMPLES = 2_000
Conditions = list[tuple[float, tuple[int, ...]]]
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]

# Final win rates of runs as they come: alike, a lucky half (3s_vs_4z), near the ceiling (3s_vs_3z).
SHAPES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: rng.normal(0.5, 0.12, n), 0.5),
    "bimodal": (lambda rng, n: np.where(rng.random(n) < 0.5, 0.2, 0.8) + rng.normal(0, 0.05, n), 0.5),
    "near ceiling": (lambda rng, n: rng.beta(9.0, 1.0, n), 0.9),
}


def two_arms(draw: Draw, rng: np.random.Generator, n: int) -> list[Term]:
    return [Term(1.0, Sample.of(draw(rng, n))), Term(-1.0, Sample.of(draw(rng, n)))]


def coverage(trials: int) -> str:
    """Share of intervals of a difference that hold the true 0: one team each, a row per shape and n."""
    lines = [f"| runs | {' | '.join(METHODS)} |", f"| --- |{' --- |' * len(METHODS)}"]
    for name, (draw, _) in SHAPES.items():
        for n in RUNS:
            rng = stream(0, f"coverage/{name}", n)
            hits = dict.fromkeys(METHODS, 0)
            for _ in range(trials):
                terms = two_arms(draw, rng, n)
                for method in METHODS:
                    low, high = interval(terms, rng, method=method, resamples=RESAMPLES)
                    hits[method] += low <= 0.0 <= high
            row = " | ".join(f"{100 * hits[m] / trials:.1f}" for m in METHODS)
            lines.append(f"| {name}, {n} and {n} | {row} |")
    return "\n".join(lines)


def team_runs(rng: np.random.Generator, teams: int, seeds: int) -> Sample:
    """Runs around 0.5: sd 0.10 between teams and 0.10 within."""
    effect = np.repeat(rng.normal(0.0, 0.10, teams), seeds)
    return Sample.of(
        0.5 + effect + rng.normal(0.0, 0.10, teams * seeds),
        teams=np.repeat(np.arange(teams), seeds).tolist(),
        seeds=np.tile(np.arange(seeds), teams).tolist(),
    )


def team_coverage(trials: int) -> str:
    """The same where one arm has several teams; `ignored` treats its runs as independent."""
    methods = ("percentile", "expanded", "t")
    lines = [
        f"| teams x seeds | {' | '.join(methods)} | t, teams ignored |",
        "| --- | --- | --- | --- | --- |",
    ]
    for teams, seeds in TEAMS:
        rng = stream(0, f"team_coverage/{teams}", seeds)
        hits = dict.fromkeys((*methods, "ignored"), 0)
        for _ in range(trials):
            a, b = team_runs(rng, teams, seeds), Sample.of(rng.normal(0.5, 0.10, seeds))
            for method in hits:
                sample = Sample.of(a.values) if method == "ignored" else a
                low, high = interval(
                    [Term(1.0, sample), Term(-1.0, b)],
                    rng,
                    method="t" if method == "ignored" else method,
                    resamples=RESAMPLES,
                )
                hits[method] += low <= 0.0 <= high
        row = " | ".join(f"{100 * hit / trials:.1f}" for hit in hits.values())
        lines.append(f"| {teams} x {seeds} | {row} |")
    return "\n".join(lines)


def alike_coverage(trials: int) -> str:
    """The chosen interval where teams do not differ, so that the crossed variance often stands at its floor."""
    lines = ["| teams x seeds | beside a condition without | against a level |", "| --- | --- | --- |"]
    for teams, seeds in TEAMS[:2]:
        rng = stream(0, f"alike/{teams}", seeds)
        hits = [0, 0]
        for _ in range(trials):
            names, numbers = np.repeat(np.arange(teams), seeds), np.tile(np.arange(seeds), teams)
            a = Sample.of(rng.normal(0.0, 0.10, teams * seeds), names.tolist(), numbers.tolist())
            b = Sample.of(rng.normal(0.0, 0.10, seeds))
            for k, terms in enumerate(([Term(1.0, a), Term(-1.0, b)], [Term(1.0, a)])):
                low, high = interval(terms, rng)
                hits[k] += low <= 0.0 <= high
        lines.append(f"| {teams} x {seeds} | {' | '.join(f'{100 * hit / trials:.1f}' for hit in hits)} |")
    return "\n".join(lines)


# Pairs of arms that the verdict has and `SHAPES` has not, with the means of both.
UNLIKE: dict[str, tuple[Draw, float, Draw, float]] = {
    "one run in five learns, beside normal (mean 0.8, sd 0.16)": (
        lambda rng, n: (rng.random(n) < 0.2).astype(float),
        0.2,
        lambda rng, n: rng.normal(0.8, 0.16, n),
        0.8,
    ),
    "all near 0.97, beside one run in five that wins nothing": (
        lambda rng, n: rng.normal(0.97, 0.02, n),
        0.97,
        lambda rng, n: np.where(rng.random(n) < 0.2, 0.0, rng.normal(0.97, 0.02, n)),
        0.776,
    ),
}


def unlike_coverage(trials: int) -> str:
    """The chosen interval where the arms differ in shape: a row per pair and n."""
    lines = ["| arms, runs | t |", "| --- | --- |"]
    for name, (first, a, second, b) in UNLIKE.items():
        for n in (5, 10):
            rng = stream(0, f"unlike/{name}", n)
            hits = 0
            for _ in range(trials):
                terms = [Term(1.0, Sample.of(first(rng, n))), Term(-1.0, Sample.of(second(rng, n)))]
                low, high = interval(terms, rng)
                hits += low <= a - b <= high
            lines.append(f"| {name}, {n} and {n} | {100 * hits / trials:.1f} |")
    return "\n".join(lines)


def shared_coverage(trials: int) -> str:
    """The chosen interval where conditions are of single teams, or share one: of a mean over all teams there could be,
    and over the teams that there are.
    """
    designs: dict[str, tuple[Conditions, Conditions]] = {  # a condition's weight, and its teams
        "3 teams, beside one other": ([(1.0, (0, 1, 2))], [(1.0, (3,))]),
        "3 teams, beside the first of them": ([(1.0, (0, 1, 2))], [(1.0, (0,))]),
        "3 teams and the first of them again, beside two conditions without": (
            [(0.5, (0, 1, 2)), (0.5, (0,))],
            [(0.5, ()), (0.5, ())],
        ),
        "3 teams and the first of them again, beside two conditions of one other": (
            [(0.5, (0, 1, 2)), (0.5, (0,))],
            [(0.5, (3,)), (0.5, (3,))],
        ),
    }
    lines = ["| conditions, 5 seeds with each team | of all teams | of these teams |", "| --- | --- | --- |"]
    for name, (first, second) in designs.items():
        rng = stream(0, f"shared/{name}", 5)
        hits = [0, 0]
        for _ in range(trials):
            effect = rng.normal(0.0, 0.10, 4)
            terms, truth = [], 0.0
            for sign, arm in ((1.0, first), (-1.0, second)):
                for weight, teams in arm:
                    shift = effect[list(teams)] if teams else np.zeros(1)
                    values = np.repeat(shift, 5) + rng.normal(0.0, 0.10, 5 * len(shift))
                    names = np.repeat(np.arange(len(shift)), 5).tolist()
                    terms.append(Term(sign * weight, Sample.of(values, names, list(range(5)) * len(shift))))
                    truth += sign * weight * float(shift.mean())
            low, high = interval(terms, rng)
            hits[0] += low <= 0.0 <= high
            hits[1] += low <= truth <= high
        lines.append(f"| {name} | {' | '.join(f'{100 * hit / trials:.1f}' for hit in hits)} |")
    return "\n".join(lines)


def decisions(trials: int) -> str:
    """Outcomes of a `difference` with smallest effect 0.10, normal runs of sd 0.12, by true effect and n."""
    names = [name for name in OUTCOMES if name != "not tested"]
    lines = [
        f"| true effect, runs | {' | '.join(names)} | permutation p <= 0.05 |",
        f"| --- |{' --- |' * (len(names) + 1)}",
    ]
    for effect in (-0.2, 0.0, 0.05, 0.2):
        for n in RUNS[1:]:
            rng = stream(0, f"decisions/{effect}", n)
            counts, small = dict.fromkeys(names, 0), 0
            for _ in range(trials):
                a, b = rng.normal(0.5 + effect, 0.12, n), rng.normal(0.5, 0.12, n)
                low, high = interval([Term(1.0, Sample.of(a)), Term(-1.0, Sample.of(b))], rng)
                counts[outcome(float(a.mean() - b.mean()), low, high, 0.10)] += 1
                small += n <= 10 and permutation_p([(evenly(a), evenly(b))], rng).p <= 0.05
            row = " | ".join(f"{100 * count / trials:.1f}" for count in counts.values())
            share = f"{100 * small / trials:.1f}" if n <= 10 else "-"
            lines.append(f"| {effect:+.2f}, {n} and {n} | {row} | {share} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--page", type=Path, required=True, help="the page whose measured part is rewritten")
    args = parser.parse_args(argv)
    error = 100 * (0.05 * 0.95 / args.trials) ** 0.5
    text = f"""{args.trials:,} simulated experiments a row, per cent.
Monte Carlo standard error at 95 %: {error:.1f} points.

Coverage of nominal 95 % intervals of a difference, one expert team:

{coverage(args.trials)}

The same, several expert teams against one condition without (sd 0.10 between teams, 0.10 between seeds):

{team_coverage(args.trials)}

The t interval where teams do not differ (sd 0.10 between runs):

{alike_coverage(args.trials)}

The t interval where the two arms are unlike each other, one expert team:

{unlike_coverage(args.trials)}

The t interval where an arm has a single team, or a team stands in several conditions (sd as before), as a statement
about all teams that there could be, and about those that there are:

{shared_coverage(args.trials)}

Outcomes of the rule `above`, smallest effect 0.10, sd 0.12 between runs:

{decisions(args.trials)}"""
    page = args.page.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    args.page.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
