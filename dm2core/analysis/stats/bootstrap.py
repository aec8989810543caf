"""Resampled runs as weights. Expert teams and seeds are resampled apart: nested, or crossed where each met each."""

from __future__ import annotations

import numpy as np

from dm2core.analysis.stats.aggregates import Floats
from dm2core.analysis.stats.sample import Sample


def resample(sample: Sample, resamples: int, rng: np.random.Generator) -> Floats:
    """Weights [R, n] of `resamples` bootstrap samples of the runs.

    One team: runs are drawn. Nested: teams are drawn, then runs of each drawn team. Crossed: teams and seeds are
    drawn independently (the pigeonhole bootstrap, Owen 2007).
    """
    counts = np.bincount(sample.teams)
    n_teams, width = len(counts), int(counts.max())
    picked = rng.integers(n_teams, size=(resamples, n_teams))
    if sample.crossed:
        n_seeds = int(sample.seeds.max()) + 1
        at = np.empty((n_teams, n_seeds), dtype=np.int64)
        at[sample.teams, sample.seeds] = np.arange(len(sample.values))
        seeds = rng.integers(n_seeds, size=(resamples, 1, n_seeds))
        return _weights(at[picked[:, :, None], seeds], np.full(1, 1.0 / at.size), len(sample.values))
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    order = np.argsort(sample.teams, kind="stable")
    size = counts[picked][:, :, None]
    draw = (rng.random((resamples, n_teams, width)) * size).astype(np.int64)
    share = np.where(np.arange(width) < size, 1.0 / (n_teams * size), 0.0)
    return _weights(order[first[picked][:, :, None] + draw], share, len(sample.values))


def _weights(runs: np.ndarray, share: Floats, n: int) -> Floats:
    """Weights [R, n] from the drawn runs [R, teams, runs] and what each draw counts."""
    flat = runs + n * np.arange(len(runs))[:, None, None]
    total = np.bincount(flat.ravel(), np.broadcast_to(share, runs.shape).ravel(), minlength=n * len(runs))
    return total.astype(np.float64).reshape(len(runs), n)
