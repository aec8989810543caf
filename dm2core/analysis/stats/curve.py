"""A win-rate curve as numbers, each over a fixed budget of env steps."""

from __future__ import annotations

import numpy as np

from dm2core.analysis.stats.aggregates import Floats

SMOOTHING = 5  # evaluations; the paper's summary smooths with as many


def area(env_steps: Floats, win_rate: Floats, budget: float) -> float:
    """Area under the curve from 0 to `budget`, divided by `budget`: the mean win rate (trapezoids, flat ends)."""
    inside = (env_steps > 0) & (env_steps < budget)
    x = np.concatenate([[0.0], env_steps[inside], [budget]])
    return float(np.trapezoid(np.interp(x, env_steps, win_rate), x)) / budget


def final(env_steps: Floats, win_rate: Floats, budget: float) -> float:
    """Mean of the evaluations in the last tenth of the budget, as the paper's summary; nan if there is none."""
    chosen = win_rate[(env_steps >= 0.9 * budget) & (env_steps <= 1.01 * budget)]
    return float(chosen.mean()) if len(chosen) else float("nan")


def early(env_steps: Floats, win_rate: Floats, budget: float) -> float:
    """Mean win rate over the first tenth of the budget."""
    return area(env_steps, win_rate, 0.1 * budget)


def steps_to(env_steps: Floats, win_rate: Floats, level: float) -> float:
    """Env steps of the first evaluation where the mean of the five around it reaches `level`; nan if none does."""
    half = SMOOTHING // 2
    total = np.concatenate([[0.0], np.cumsum(win_rate)])
    low = np.clip(np.arange(len(win_rate)) - half, 0, None)
    high = np.clip(np.arange(len(win_rate)) + half + 1, None, len(win_rate))
    reached = (total[high] - total[low]) / (high - low) >= level - 1e-12
    return float(env_steps[np.argmax(reached)]) if reached.any() else float("nan")
