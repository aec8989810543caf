"""`make bench`: speeds on this machine, one core, as a table and as results/benchmarks/summary.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.learning import env_steps_per_s
from benchmarks.sim import sim_env_steps_per_s
from dm2core.config import load_config

MAP = "5m_vs_6m"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/summary.json"))
    parser.add_argument("--iterations", type=int, default=5)
    args = parser.parse_args()
    config = load_config("config/config.yaml", {"scale": "paper"})
    summary = {
        "sim_env_steps_per_s": sim_env_steps_per_s(MAP, battles=64),
        "dm2_env_steps_per_s": env_steps_per_s(config, MAP, "dm2", args.iterations),
        "ippo_env_steps_per_s": env_steps_per_s(config, MAP, "ippo", args.iterations),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(summary, indent=2) + "\n")
    meaning = {
        "sim_env_steps_per_s": "simulator, random legal actions, 64 battles",
        "dm2_env_steps_per_s": "DM2, authors' hyper-parameters, end to end",
        "ippo_env_steps_per_s": "IPPO, authors' hyper-parameters, end to end",
    }
    print(f"{MAP}, one core")
    for key, value in summary.items():
        print(f"{key:<24}{value:>12,.0f}  {meaning[key]}")


if __name__ == "__main__":
    main()
