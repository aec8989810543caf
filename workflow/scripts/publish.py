"""Finished campaign -> what is published: figures and their sums, what is left out, the computed blocks of pages."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dm2core.analysis.claims import load_claims
from dm2core.analysis.results_page import (
    conditions_block,
    effort_block,
    methods_block,
    replace_block,
    switchboard_block,
    verdict_block,
)
from dm2core.analysis.run_table import planned_runs, read_runs, read_training
from dm2core.config import ConfigError, dump_config, load_config
from dm2core.errors import EXIT_DATA, EXIT_USAGE, DataError
from dm2core.records.manifest import hash_file
from dm2core.records.verify import leave_out

KINDS = ("csv", "pdf", "png")
OF_REPLAYS = ("gif", "png")
RUNS = ("cells", "demos", "experts")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", required=True, help="of config/scale, the campaign's")
    parser.add_argument("--figures", nargs="+", required=True, help="names, drawn into figures/")
    parser.add_argument("--readme", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument(
        "--quick", type=Path, nargs="+", required=True, help="results of the runs at scale quick"
    )
    parser.add_argument("--switches", type=Path, required=True, help="the page about the switches")
    parser.add_argument("--scales", type=Path, required=True, help="the page about the scales")
    args = parser.parse_args(argv)
    try:
        config = load_config(Path("config/config.yaml"), {"scale": args.scale})
        results = Path(config.results)
        _keep_figures(results.parent, args.figures)
        verdict = verdict_block(pd.read_csv(results / "verdict" / "verdict.csv"))
        runs, claims = read_runs(results), load_claims(Path(config.claims), config)
        blocks = {
            args.readme: {"verdict": verdict},
            args.page: {
                "verdict": verdict,
                "conditions": conditions_block(runs, read_training(results), claims, planned_runs(config)),
                "effort": effort_block(results),
            },
            args.switches: {"switchboard": switchboard_block(pd.read_csv("figures/switchboard.csv"))},
            args.scales: {"methods": methods_block(pd.read_csv("figures/methods.csv"))},
        }
        for path, bodies in blocks.items():
            text = path.read_text(encoding="utf-8")
            for name, body in bodies.items():
                text = replace_block(text, name, body)
            path.write_text(text, encoding="utf-8")
        plans = {results: config}
        for folder in args.quick:
            plans[folder] = load_config(
                Path("config/config.yaml"), {"scale": "quick", "results": str(folder)}
            )
        for folder, plan in plans.items():
            for path in (folder / "config").glob("*.yaml"):
                if path.read_text(encoding="utf-8") != dump_config(plan):  # an earlier one
                    path.unlink()
            leave_out(folder, _ignored(folder))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_DATA
    return 0


def _keep_figures(folder: Path, names: Sequence[str]) -> None:
    """Copies of the figures and their SHA-256 beside the results."""
    kinds = {name: OF_REPLAYS if name.startswith("replay_") else KINDS for name in sorted(names)}
    files = [Path("figures") / f"{name}.{kind}" for name in kinds for kind in kinds[name]]
    (folder / "figures").mkdir(exist_ok=True)
    for path in files:
        shutil.copyfile(path, folder / "figures" / path.name)
    sums = "".join(f"{hash_file(path)}  {path.name}\n" for path in files)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def _ignored(results: Path) -> set[Path]:
    """Files of runs that git does not take, so that a clone will not have them; none outside a repository."""
    files = [str(path) for kind in RUNS for path in (results / kind).rglob("*") if path.is_file()]
    asked = subprocess.run(
        ["git", "check-ignore", "--stdin", "-z"],
        input="\0".join(files),
        capture_output=True,
        text=True,
        check=False,
    )
    return {Path(name).resolve() for name in asked.stdout.split("\0") if name}


if __name__ == "__main__":
    raise SystemExit(main())
