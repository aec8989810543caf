"""Permutation test of a difference of weighted means within strata, and Holm's correction over a family of tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, prod

import numpy as np

from dm2core.analysis.stats.aggregates import Floats

EXACT_LIMIT = 1_000_000  # arrangements; 10 against 10 runs have 184,756
DRAWS = 100_000

Side = tuple[Floats, Floats]  # values and weights of the runs


@dataclass(frozen=True)
class PValue:
    """Two-sided p; `error` is its Monte Carlo standard error, 0 if every arrangement was counted."""

    p: float
    error: float


def evenly(values: Floats) -> Side:
    """Runs that count alike."""
    return values, np.full(len(values), 1.0 / len(values))


def permutation_p(strata: Sequence[tuple[Side, Side]], rng: np.random.Generator) -> PValue:
    """Null: within each stratum every run could have come from either side, and from any condition of it.

    The statistic is the absolute sum over strata of the difference of weighted means; a side is values [n] and
    weights [n] that add up to 1. Exact while weights are equal, the arrangements of each stratum and of all together
    are at most EXACT_LIMIT and a stratum holds at most 20 runs; otherwise DRAWS random ones, p = (hits + 1) /
    (DRAWS + 1).
    """
    arrangements = prod(comb(len(a) + len(b), len(a)) for (a, _), (b, _) in strata)
    observed = abs(sum(float(a @ wa - b @ wb) for (a, wa), (b, wb) in strata))
    slack = 1e-9 * max(1.0, observed)
    alike = all(np.allclose(weights, 1.0 / len(weights)) for pair in strata for _, weights in pair)
    if alike and arrangements <= EXACT_LIMIT and all(len(a) + len(b) <= 20 for (a, _), (b, _) in strata):
        total = np.zeros(1)
        for (a, _), (b, _) in strata:
            total = (total[:, None] + _all_differences(a, b)[None, :]).ravel()
        return PValue(float(np.mean(np.abs(total) >= observed - slack)), 0.0)
    drawn = np.zeros(DRAWS)
    for sides in strata:
        drawn += _random_differences(*sides, rng)
    p = (int((np.abs(drawn) >= observed - slack).sum()) + 1) / (DRAWS + 1)
    return PValue(p, (p * (1.0 - p) / DRAWS) ** 0.5)


def _all_differences(a: Floats, b: Floats) -> Floats:
    """mean(a) - mean(b) of every way to deal the runs into sides of these sizes; sums of all subsets by doubling."""
    pool = np.concatenate([a, b])
    sums, sizes = np.zeros(1), np.zeros(1, dtype=np.int64)
    for value in pool:
        sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
    side = sums[sizes == len(a)]
    return side / len(a) - (pool.sum() - side) / len(b)


def _random_differences(a: Side, b: Side, rng: np.random.Generator) -> Floats:
    pool, weights = np.concatenate([a[0], b[0]]), np.concatenate([a[1], -b[1]])
    parts = []
    for count in [10_000] * (DRAWS // 10_000):
        parts.append(rng.permuted(np.broadcast_to(pool, (count, len(pool))), axis=1) @ weights)
    return np.concatenate(parts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p, in the given order: the k-th smallest of m times m - k + 1, made monotone, at most 1."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
