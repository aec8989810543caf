"""Runs of one condition on one map: values with two random factors, the expert team and the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dm2core.analysis.stats.aggregates import Floats


@dataclass(frozen=True)
class Sample:
    """`values` [n]; `teams` [n] and `seeds` [n] are codes from 0. Every team counts alike."""

    values: Floats
    teams: NDArray[np.int64]
    seeds: NDArray[np.int64]

    @classmethod
    def of(
        cls, values: Sequence[float] | Floats, teams: Sequence[object] = (), seeds: Sequence[object] = ()
    ) -> Sample:
        """Without teams there is one; without seeds every run has its own. ValueError if empty or not finite."""
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
            raise ValueError("a sample needs at least one run, and finite numbers only")
        codes = [
            np.unique([str(label) for label in labels], return_inverse=True)[1].astype(np.int64)
            if len(labels)
            else np.asarray(default, dtype=np.int64)
            for labels, default in ((teams, np.zeros(len(array))), (seeds, np.arange(len(array))))
        ]
        if any(len(code) != len(array) for code in codes):
            raise ValueError("values, teams and seeds must be of one length")
        return cls(array, *codes)

    @property
    def n_teams(self) -> int:
        return int(self.teams.max()) + 1

    @property
    def crossed(self) -> bool:
        """Several teams, and every team was learnt from with every seed exactly once, more than one of them."""
        n_seeds = int(self.seeds.max()) + 1
        cells = set(zip(self.teams.tolist(), self.seeds.tolist(), strict=True))
        return self.n_teams > 1 and n_seeds > 1 and len(cells) == len(self.values) == self.n_teams * n_seeds

    @property
    def weights(self) -> Floats:
        """Weights [1, n] of the estimate: equal between teams, and between the runs of a team."""
        counts = np.bincount(self.teams)
        return (1.0 / (self.n_teams * counts[self.teams]))[None]

    @property
    def mean(self) -> float:
        return float(self.weights[0] @ self.values)

    def team_means(self) -> Floats:
        sums = np.bincount(self.teams, self.values).astype(np.float64)
        return sums / np.bincount(self.teams)

    def table(self) -> Floats:
        """Values [teams, seeds] of a crossed sample."""
        table = np.empty((self.n_teams, int(self.seeds.max()) + 1))
        table[self.teams, self.seeds] = self.values
        return table

    def variance(self) -> tuple[float, float]:
        """Variance of the mean and its degrees of freedom; (nan, nan) of a single run.

        One team: s2 / n, n - 1: the interval then speaks of this team only. Several teams, seeds nested: variance
        of team means / teams. Crossed: the unbiased (MS_team + MS_seed - MS_rest) / runs of the two-way random
        model, not below MS_rest / runs.
        """
        if len(self.values) < 2:
            return float("nan"), float("nan")
        if self.n_teams == 1:
            return float(self.values.var(ddof=1)) / len(self.values), len(self.values) - 1
        if not self.crossed:
            means = self.team_means()
            return float(means.var(ddof=1)) / len(means), len(means) - 1
        table = self.table()
        n_teams, n_seeds = table.shape
        ms_team = n_seeds * table.mean(axis=1).var(ddof=1)
        ms_seed = n_teams * table.mean(axis=0).var(ddof=1)
        rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
        df_rest = (n_teams - 1) * (n_seeds - 1)
        ms_rest = float((rest**2).sum()) / df_rest
        total = max(ms_team + ms_seed - ms_rest, ms_rest)
        spread = ms_team**2 / (n_teams - 1) + ms_seed**2 / (n_seeds - 1) + ms_rest**2 / df_rest
        df = total**2 / spread if spread > 0 else df_rest
        return float(total) / table.size, max(float(df), 1.0)
