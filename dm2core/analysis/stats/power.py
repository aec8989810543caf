"""How many units per sample would decide a contrast, if estimate and spread stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from dm2core.analysis.stats.intervals import Term, estimate
from dm2core.analysis.stats.sample import Sample

MOST = 1_000


def units(sample: Sample) -> tuple[int, float]:
    """Independent units of a sample and the variance of one: teams where there are several, else runs."""
    count = sample.n_teams if sample.n_teams > 1 else len(sample.values)
    return count, sample.variance()[0] * count


def required_units(
    terms: Sequence[Term], smallest_effect: float, *, equivalence: bool = False, shift: float = 0.0
) -> int | None:
    """Units per sample at which the rule of `arms.outcome` would decide; None beyond MOST.

    Source: the t interval, solved for n. An estimate d is decided when the half-width is below |d|, so that the
    interval leaves 0, or below smallest_effect - |d|, so that it fits within +-smallest_effect. For equivalence leaving
    0 counts only where |d| is no smaller than smallest_effect. `shift` is added to the estimate.
    """
    size = abs(estimate(terms) + shift)
    within = smallest_effect - size
    needed = within if equivalence and within > 0.0 else max(size, within)
    spread = [(term.weight**2) * units(term.sample)[1] for term in terms]
    total = sum(spread)
    if not np.isfinite(total) or needed <= 0.0:
        return None
    for n in range(2, MOST + 1):
        df = (n - 1) * total**2 / sum(v**2 for v in spread) if total > 0 else n - 1
        if float(stats.t.ppf(0.975, df)) * (total / n) ** 0.5 <= needed:
            return n
    return None
