"""Measure the simulator without DM2: recordings, scripted policies, shield farming, flipped choices -> four CSVs.

Needs no trained policy and no StarCraft II. The same battles and seed give the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dm2core.analysis.choices import CHOICE_NOISE, CHOICES, FARM_SHARE, SEED
from dm2core.env import scripted
from dm2core.env.golden import check_encoding
from dm2core.env.scenario import Scenario, known_maps, load_scenario
from dm2core.env.scripted import Policy, with_noise
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys, stream

KITED = ("3s_vs_3z", "3s_vs_4z", "3s_vs_5z")  # stalkers alone against zealots alone
NOISES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
SHARES = (0.0, 0.2, 0.3, 0.35, 0.4, 0.5, 0.75, 1.0)
# What the flipped choices are measured with: where neither always wins nor always loses.
PROBES = (
    ("5m_vs_6m", "focus_fire"),
    ("8m", "focus_fire"),
    ("2s3z", "smac_heuristic"),
    ("3s5z", "smac_heuristic"),
    ("3s_vs_4z", "kite"),
    ("3s_vs_5z", "kite"),
)

# A maker per script, because some remember: one policy serves one run.
SCRIPTS: dict[str, Callable[[], Policy]] = {
    "random": lambda: scripted.random_legal(SEED),
    "stand": lambda: scripted.stand,
    "attack_nearest": lambda: scripted.attack_nearest,
    "focus_fire": lambda: scripted.focus_fire,
    "smac_heuristic": scripted.smac_heuristic,
    "hide": lambda: scripted.hide,
    "kite": lambda: scripted.kite,
}
FARMS: dict[str, Callable[[], Policy]] = {
    "farm": scripted.shield_farm,
    "farm_then_kite": lambda: scripted.shield_farm(FARM_SHARE),
}


def summary(scenario: str | Scenario, policy: Policy, battles: int) -> dict[str, float]:
    """Play `battles` battles to their ends; rates, and mean, spread and extremes of return and length."""
    env = BattleSim(scenario, battles)
    played = scripted.play(env, policy, battle_keys(SEED, "simulator", 0, battles))
    r, n = played.returns, played.lengths
    return {
        "battles": battles,
        "win_rate": played.won.mean(),
        "timeout_rate": played.truncated.mean(),
        "above_20_rate": (r > 20.0 + 1e-6).mean(),
        "return_mean": r.mean(),
        "return_sd": r.std(ddof=1),
        "return_min": r.min(),
        "return_max": r.max(),
        "regrown_mean": played.regrown.mean(),
        "length_mean": n.mean(),
        "length_sd": n.std(ddof=1),
    }


def noisy(policy: Policy, share: float) -> Policy:
    """The policy with random actions; always the same ones."""
    return with_noise(policy, share, stream(SEED, "simulator/noise"))


def encoding(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What `dm2 check-encoding` finds in each recording."""
    rows = []
    for path in sorted(paths):
        found = check_encoding(path)
        errors = {"obs": found.obs, "state": found.state, "reward": found.reward}
        wrong = {"avail": found.avail, "visibility": found.visibility, "flags": found.flags}
        rows.append({"map": found.map_name, "frames": found.frames, **errors, **wrong})
    return rows


def scripts(battles: int) -> list[dict[str, Any]]:
    """Every script on every map; the farming ones where stalkers meet zealots."""
    return [
        {"map": name, "script": script, **summary(name, make(), battles)}
        for name in known_maps()
        for script, make in (SCRIPTS | (FARMS if name in KITED else {})).items()
    ]


def shields(battles: int) -> list[dict[str, Any]]:
    """Kiting with random actions in between, and farming for a share of the time limit before kiting."""
    rows = []
    for name in KITED:
        for share in NOISES:
            found = summary(name, noisy(scripted.kite, share), battles)
            rows.append({"map": name, "script": "noisy_kite", "share": share, **found})
        for share in SHARES:
            found = summary(name, scripted.shield_farm(share), battles)
            rows.append({"map": name, "script": "farm_then_kite", "share": share, **found})
    return rows


def choices(battles: int) -> list[dict[str, Any]]:
    """The probes as the simulator is (choice -1), and with each choice flipped."""
    rows = []
    for name, script in PROBES:
        scenario = load_scenario(name)
        variants = [(-1, scenario), *((k, choice.flip(scenario)) for k, choice in enumerate(CHOICES))]
        for k, variant in variants:
            found = summary(variant, noisy(SCRIPTS[script](), CHOICE_NOISE), battles)
            rows.append({"choice": k, "map": name, "script": script, **found})
    return rows


def motion() -> list[dict[str, Any]]:
    """Motion and shields, read off single battles: name, unit or map, value."""
    rows = []
    for name, unit in (("3m", "marine"), ("3s_vs_3z", "stalker"), ("2s3z", "zealot")):
        env = BattleSim(name, 1)
        env.reset(battle_keys(SEED, "simulator", 0, 1))
        mine = [u.name == unit for u in load_scenario(name).allies]
        before = env.raw[0, : len(mine), 1].copy()
        env.step(np.full((1, env.spec.n_agents), scripted.NORTH), np.zeros(1, dtype=np.int64))
        moved = (env.raw[0, : len(mine), 1] - before)[mine].astype(np.float64)
        rows.append({"quantity": "cells walked in one step", "of": unit, "value": moved.max()})
        rows.append({"quantity": "the same, behind a friend it touches", "of": unit, "value": moved.min()})
    env = BattleSim("5m_vs_6m", 1)
    env.reset(battle_keys(SEED, "simulator", 0, 1))
    step, full = 0, env.raw[0, :5, 2].copy()
    while (env.raw[0, :5, 2] == full).all():
        env.step(env.alive.astype(np.int64), np.zeros(1, dtype=np.int64))
        step += 1
    rows.append({"quantity": "step of the first hit on marines that stand", "of": "5m_vs_6m", "value": step})
    quiet, gains = shield_regrowth()
    rows.append({"quantity": "steps without damage before shields grow", "of": "zealot", "value": quiet})
    rows.append({"quantity": "shield points regrown in a step", "of": "zealot", "value": gains})
    return rows


def shield_regrowth() -> tuple[int, float]:
    """Farm a battle of 3s_vs_3z: steps from the last hit to the first regrowth, and points regrown in a step."""
    env, policy = BattleSim("3s_vs_3z", 1), scripted.shield_farm()
    env.reset(battle_keys(SEED, "simulator", 0, 1))
    only, shield = np.zeros(1, dtype=np.int64), []
    for _ in range(env.spec.episode_limit):
        env.step(policy(env, only), only)
        shield.append(env.raw[0, 3:, 3].astype(np.float64))
    change, waits = np.diff(np.array(shield), axis=0), []
    for column in change.T:
        events = [(t, x) for t, x in enumerate(column) if x != 0]
        waits += [t - s for (s, hit), (t, gain) in pairwise(events) if hit < 0 < gain]
    return int(np.median(waits)), float(np.median(change[change > 0]))


def write(rows: list[dict[str, Any]], path: Path) -> None:
    frame = pd.DataFrame(rows)
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--battles", type=int, default=1000, help="per script and map")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    tables = {
        "encoding": encoding(args.recordings),
        "motion": motion(),
        "scripted": scripts(args.battles),
        "shields": shields(args.battles // 2),
        "choices": choices(args.battles // 2),
    }
    for name, rows in tables.items():
        write(rows, args.out / f"{name}.csv")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
