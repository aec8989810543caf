"""Mean, interquartile mean and probability of improvement as functions of weighted runs.

Weights are what a bootstrap resample is: one row of weights per resample, each row summing to 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean(values: Floats, weights: Floats) -> Floats:
    """Weighted means [R] of `values` [n] under `weights` [R, n]."""
    return weights @ values


def iqm(values: Floats, weights: Floats) -> Floats:
    """Interquartile means [R] of `values` [n] under `weights` [R, n]: the mean of the middle half of the weight.

    Source: Agarwal et al. 2021. A run on the edge of the middle half counts in part, so that the value does not
    jump with n; with equal weights and n divisible by 4 it is `scipy.stats.trim_mean(values, 0.25)`.
    """
    order = np.argsort(values, kind="stable")
    upper = np.cumsum(weights[:, order], axis=1)
    lower = upper - weights[:, order]
    inside = np.clip(np.minimum(upper, 0.75) - np.maximum(lower, 0.25), 0.0, None)
    return (inside @ values[order]) / inside.sum(axis=1)


def probability_of_improvement(a: Floats, b: Floats, weights_a: Floats, weights_b: Floats) -> Floats:
    """P(A > B) + P(A = B) / 2 [R] of random runs of A [n] and B [m]. Source: Agarwal et al. 2021."""
    wins = (np.sign(a[:, None] - b[None, :]) + 1.0) / 2.0
    result: Floats = np.einsum("rj,rj->r", weights_a @ wins, weights_b)
    return result
