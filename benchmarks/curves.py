"""Do the compiled and the torch form learn alike? Learning curves of both, several seeds, and an exact test.

    python -m benchmarks.curves --map 3m --seeds 1 2 3 4 5

Both forms of a seed start from the same weights and battles and part by rounding. Compared are the means over all
evaluations of a run, of the greedy win rate and of the greedy return (which moves before the first battle is won): with
n runs of each, all (2n choose n) ways to split them give the exact two-sided p.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch

from dm2core.config import CellConfig, cell_config, load_config
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.evaluate import evaluate

WHAT = ("win_rate", "episode_return")


def curve(cell: CellConfig) -> list[list[float]]:
    """[win rate, return] of greedy play after every `eval_every` env steps."""
    env = make_env(cell.map_name, cell.map_params.episodes_per_update)
    learner, rates, due = Dm2(cell, env), [], cell.eval_every
    while learner.env_steps < cell.env_steps:
        learner.iterate()
        if learner.env_steps >= due:
            due = (learner.env_steps // cell.eval_every + 1) * cell.eval_every
            result = evaluate(
                learner.policy, cell.map_name, 64, cell.eval_seed, greedy=True, compute=cell.compute
            )
            rates.append([result[key] for key in WHAT])
    return rates


def exact_p(a: list[float], b: list[float]) -> float:
    """Two-sided permutation p of the difference of means."""
    pool, n = np.array(a + b), len(a)
    observed = abs(np.mean(a) - np.mean(b))
    picks = [list(c) for c in itertools.combinations(range(len(pool)), n)]
    means = np.array([pool[c].mean() for c in picks])
    others = (pool.sum() - n * means) / (len(pool) - n)
    return float((np.abs(means - others) >= observed - 1e-12).mean())


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--map", default="3m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--env-steps", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    curves: dict[str, list[list[list[float]]]] = {"fused": [], "torch": []}
    for seed in args.seeds:
        for compute, runs in curves.items():
            overrides = {
                "scale": "quick",
                "compute": compute,
                "budget": {"env_steps": args.env_steps, "eval_every": 10_000},
            }
            config = load_config("config/config.yaml", overrides)
            runs.append(curve(cell_config(config, map_name=args.map, method="ippo", seed=seed)))
            said = ", ".join(
                f"{key} {mean:.3f}" for key, mean in zip(WHAT, np.mean(runs[-1], axis=0), strict=True)
            )
            print(f"{args.map} seed {seed} {compute}: {said}", flush=True)
    found: dict[str, float] = {}
    for at, key in enumerate(WHAT):
        means = {
            compute: [float(np.mean(run, axis=0)[at]) for run in runs] for compute, runs in curves.items()
        }
        found[key] = exact_p(means["fused"], means["torch"])
        fused, plain = (f"{np.mean(v):.3f} +- {np.std(v, ddof=1):.3f}" for v in means.values())
        print(
            f"{args.map} {key}: fused {fused}, torch {plain}, {len(args.seeds)} runs each, p = {found[key]:.2f}"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    result = {"map": args.map, "env_steps": args.env_steps, "seeds": args.seeds, "curves": curves, "p": found}
    (args.out / f"curves_{args.map}.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
