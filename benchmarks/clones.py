"""How well does a clone play? Win rate after behaviour cloning alone, against passes over the demonstrations.

    python -m benchmarks.clones --demos results/reference/campaign/demos/5m_vs_6m/ippo-q30_joint-concurrent

The paper does not say how long it cloned; a perfect clone would win as often as its demonstrators,
whose win rate is on their card. Battles are those of the campaign's evaluations.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from dm2core.cloning import clone
from dm2core.config import cell_config, load_config
from dm2core.demonstrations import load_demos
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.evaluate import evaluate
from dm2core.torch_rng import torch_stream

BATTLES = 512


def main() -> None:
    """Clone, play, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demos", type=Path, required=True, help="a folder of demonstrations")
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12])
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config("config/config.yaml", {"scale": "campaign"})
    demos = load_demos(args.demos)
    print("epochs  loss per action (nats)  win rate, sampled  win rate, greedy")
    for epochs in args.epochs:
        found = []
        for seed in args.seeds:
            method = f"bc_ippo+cloning.epochs={epochs}"
            cell = cell_config(
                config, map_name=demos.map_name, method=method, seed=seed, demos=demos.demos_id
            )
            assert cell.cloning is not None
            actor = Dm2(cell, make_env(demos.map_name, 1), demos).policy
            losses = clone(actor, demos, cell.cloning, torch_stream(seed, "cloning"))
            wins = [
                evaluate(actor, demos.map_name, BATTLES, cell.eval_seed, greedy=greedy, compute=cell.compute)[
                    "win_rate"
                ]
                for greedy in (False, True)
            ]
            found.append([losses[-1], *wins])
        loss, sampled, greedy = np.mean(found, axis=0)
        print(f"{epochs:>6}  {loss:>22.3f}  {sampled:>17.3f}  {greedy:>16.3f}", flush=True)


if __name__ == "__main__":
    main()
