"""95 % intervals of a contrast: a weighted sum of means of independent samples. docs/statistics.md compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dm2core.analysis.stats.aggregates import Floats
from dm2core.analysis.stats.bootstrap import resample
from dm2core.analysis.stats.sample import Sample

METHODS = ("percentile", "bca", "studentised", "expanded", "t")
RESAMPLES = 10_000
ROUNDING = 1e-12  # what sums of equal win rates leave of a difference or a standard deviation of 0


@dataclass(frozen=True)
class Term:
    """`weight` times the mean of `sample`; the terms of a contrast are independent strata."""

    weight: float
    sample: Sample


def estimate(terms: Sequence[Term]) -> float:
    return sum(term.weight * term.sample.mean for term in terms)


def variance(terms: Sequence[Term]) -> tuple[float, float]:
    """Variance of the contrast and Welch and Satterthwaite's degrees of freedom; nan where a sample is one run."""
    parts = [(term.weight**2 * v, df) for term in terms for v, df in [term.sample.variance()]]
    total = sum(v for v, _ in parts)
    spread = sum(v**2 / df for v, df in parts)
    return total, total**2 / spread if spread > 0 else min(df for _, df in parts)


def draws(terms: Sequence[Term], resamples: int, rng: np.random.Generator) -> Floats:
    """The contrast [R] in every resample."""
    return sum(
        (term.weight * (resample(term.sample, resamples, rng) @ term.sample.values) for term in terms),
        start=np.zeros(resamples),
    )


def interval(
    terms: Sequence[Term],
    rng: np.random.Generator,
    *,
    method: str = "t",
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Interval of the contrast at `level`; (-inf, inf) where a sample is a single run.

    percentile   quantiles of the resampled contrast
    bca          bias-corrected and accelerated (Efron 1987)
    studentised  quantiles of the resampled t; one team per sample only (ValueError otherwise)
    expanded     percentile at the levels that widen it to the unbiased variance and to t (Hesterberg 2015)
    t            estimate -+ t times the standard error of the design; needs no resampling
    """
    tail = (1.0 - level) / 2.0
    value = estimate(terms)
    v, df = variance(terms)
    if not np.isfinite(v):
        return -np.inf, np.inf
    if v < ROUNDING**2:
        return value, value
    reach = float(stats.t.ppf(1.0 - tail, df))
    if method == "t":
        return value - reach * v**0.5, value + reach * v**0.5
    if method == "studentised":
        return _studentised(terms, rng, tail, resamples)
    drawn = draws(terms, resamples, rng)
    if method == "percentile":
        tails = np.array([tail, 1.0 - tail])
    elif method == "expanded":
        outer = expanded_tail(terms, drawn, level)
        tails = np.array([outer, 1.0 - outer])
    elif method == "bca":
        tails = _bca_tails(terms, drawn, value, tail)
    else:
        raise ValueError(f"interval: {method!r} is not one of {', '.join(METHODS)}")
    low, high = np.quantile(drawn, tails)
    return float(low), float(high)


def p_value(terms: Sequence[Term], shift: float = 0.0) -> float:
    """Two-sided p of the contrast plus `shift`: one minus the level at which its t interval just reaches 0.

    nan where a sample is a single run; where nothing varies, 1 for a contrast of 0 and 0 for any other.
    """
    value = estimate(terms) + shift
    v, df = variance(terms)
    if not np.isfinite(v):
        return float("nan")
    if v < ROUNDING**2:
        return float(abs(value) < ROUNDING)
    return float(2.0 * stats.t.sf(abs(value) / v**0.5, df))


def expanded_tail(terms: Sequence[Term], drawn: Floats, level: float = 0.95) -> float:
    """Lower quantile level at which the resampled contrasts `drawn` [R] reach as far as the t interval.

    nan where a sample is a single run, (1 - level) / 2 where nothing varies.
    """
    v, df = variance(terms)
    if not np.isfinite(v):
        return float("nan")
    tail = (1.0 - level) / 2.0
    if v < ROUNDING**2 or drawn.var() < ROUNDING**2:
        return tail
    reach = float(stats.t.ppf(1.0 - tail, df))
    return float(stats.norm.cdf(-reach * (v / drawn.var()) ** 0.5))


def _bca_tails(terms: Sequence[Term], drawn: Floats, value: float, tail: float) -> Floats:
    below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2.0
    bias = stats.norm.ppf(np.clip(below, 1e-6, 1.0 - 1e-6))
    influence = np.concatenate([term.weight * _influence(term.sample) for term in terms])
    acceleration = (influence**3).sum() / (6.0 * (influence**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([tail, 1.0 - tail])
    tails: Floats = stats.norm.cdf(bias + z / (1.0 - acceleration * z))
    return tails


def _influence(sample: Sample) -> Floats:
    """What each independent unit (team, or run where there is one team) adds to the mean, centred."""
    units = sample.team_means() if sample.n_teams > 1 else sample.values
    return (units - units.mean()) / len(units)


def _studentised(
    terms: Sequence[Term], rng: np.random.Generator, tail: float, resamples: int
) -> tuple[float, float]:
    if any(term.sample.n_teams > 1 for term in terms):
        raise ValueError("interval: studentised is for one team per sample")
    value, (v, _) = estimate(terms), variance(terms)
    shift, square = np.zeros(resamples), np.zeros(resamples)
    for term in terms:
        x, weights = term.sample.values, resample(term.sample, resamples, rng)
        means = weights @ x
        shift += term.weight * means
        square += term.weight**2 * np.clip(weights @ x**2 - means**2, 0.0, None) / (len(x) - 1)
    usable = square > 1e-12 * v
    low, high = np.quantile((shift - value)[usable] / square[usable] ** 0.5, [tail, 1.0 - tail])
    return value - float(high) * v**0.5, value - float(low) * v**0.5
