"""T1 and T2: J, L and L_eps in their order, and nobody but the expert at their maximum."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dm2core.theory import bounds, gail
from dm2core.theory.games import Array, Game, deterministic, unreachable
from dm2core.theory.table import Row

TOLERANCE = 1e-10


def _extremes(game: Game, policies: Iterable[Array]) -> dict[str, float]:
    """The least of every difference over `policies`; J and L_eps at their largest but for the expert's."""
    least = dict.fromkeys(("J - (K - 1)", "K - J", "J - L", "L - L_eps", "L_eps"), np.inf)
    best = {"J": -np.inf, "L_eps": -np.inf}
    expert = game.expert_policy()
    for pi in policies:
        j, low, eps = bounds.objective(game, pi), bounds.lower(game, pi), bounds.lower_eps(game, pi)
        found = (j - game.n_agents + 1, game.n_agents - j, j - low, low - eps, eps)
        least = {name: min(least[name], value) for name, value in zip(least, found, strict=True)}
        if not np.array_equal(pi, expert):
            best = {"J": max(best["J"], j), "L_eps": max(best["L_eps"], eps)}
    return {
        **{f"least {name}": value for name, value in least.items()},
        "best J elsewhere, less K": best["J"] - game.n_agents,
        "best L_eps elsewhere, less eps S K": best["L_eps"] - _top(game),
        "J at the expert, less K": bounds.objective(game, expert) - game.n_agents,
        "L_eps at the expert, less eps S K": bounds.lower_eps(game, expert) - _top(game),
    }


def _top(game: Game) -> float:
    return game.visited() * game.n_states * game.n_agents


# quantity -> test, statement of the paper, what the value must be
STATED = {
    "least J - (K - 1)": ("T1", "Lemma 4", ">= 0"),
    "least K - J": ("T1", "Lemma 4", ">= 0"),
    "least J - L": ("T1", "Theorem 1", ">= 0"),
    "least L - L_eps": ("T1", "Corollary 1, with >=", ">= 0"),
    "least L_eps": ("T1", "Observation 1", ">= 0"),
    "L_eps at the expert, less eps S K": ("T1", "Observation 1", "0"),
    "J at the expert, less K": ("T2", "Lemma 5", "0"),
    "best J elsewhere, less K": ("T2", "Lemma 5", "< 0"),
    "best L_eps elsewhere, less eps S K": ("T2", "Lemma 7", "< 0"),
}


def _is(value: float, expected: str) -> bool:
    return {"0": abs(value) < TOLERANCE, ">= 0": value >= -TOLERANCE, "< 0": value < -TOLERANCE}[expected]


def random_policies(rng: np.random.Generator, game: Game, policies: int) -> list[Row]:
    """On random policies, every other one near the expert, where the bounds are tight."""
    tried = [gail.random_policy(rng, game) for _ in range(policies)]
    near = game.expert_policy()
    found = _extremes(game, (pi if k % 2 else 0.95 * near + 0.05 * pi for k, pi in enumerate(tried)))
    return [
        (test, statement, game.name, what, found[what], expected, _is(found[what], expected))
        for what, (test, statement, expected) in STATED.items()
    ]


def all_deterministic(game: Game) -> list[Row]:
    """On every deterministic joint policy, where each bound but uniqueness is attained: the constants are exact."""
    found, rows = _extremes(game, deterministic(game)), list[Row]()
    for what, (test, statement, expected) in STATED.items():
        attained = "0" if expected == ">= 0" else expected
        said = f"{what}, deterministic policies"
        rows.append((test, statement, game.name, said, found[what], attained, _is(found[what], attained)))
    strict = found["least L - L_eps"]
    said = "least L - L_eps, deterministic policies"
    rows.append(("T1", "Corollary 1 as printed, with >", game.name, said, strict, "> 0", strict > TOLERANCE))
    return rows


def without_condition_1() -> list[Row]:
    """Lemma 5 where a state is never visited: a policy that differs there alone is as good as the expert."""
    game = unreachable()
    other = game.expert_policy()
    other[:, 2] = [0.0, 1.0]
    value = bounds.objective(game, other) - game.n_agents
    what = "J of a policy that is not the expert, less K"
    return [("T2", "Lemma 5 without Condition 1", game.name, what, value, "< 0", _is(value, "< 0"))]
