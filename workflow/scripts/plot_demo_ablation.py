"""Tables -> demo_ablation.pdf, .png, .csv."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dm2core.analysis.figures import GAME_NOTES, NOTES, Stamp, plot_demo_ablation
from dm2core.analysis.paper_curves import WITH_PAPER, ablation_curves, ablation_file
from dm2core.config import ConfigError, load_config
from dm2core.errors import DataError, guarded
from dm2core.records.manifest import Job, hash_file

PAPER = Path(__file__).resolve().parents[2] / "resources" / "paper_curves"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    maps, expert = config.demo_ablation.maps, config.demo_ablation.expert
    ends = (".parquet", "_demonstrators.csv", ".manifest.json")
    used = [args.tables / f"{name}{end}" for name in maps for end in ends]
    published = ablation_file(PAPER, expert) if config.scale in WITH_PAPER else None
    used += [args.config, *([published] if published else [])]
    try:
        job = Job("figure", hash_file(args.config), used, seeds=config.seeds)
        scores = pd.concat([pd.read_parquet(args.tables / f"{name}.parquet") for name in maps])
        teams = pd.concat([pd.read_csv(args.tables / f"{name}_demonstrators.csv") for name in maps])
    except DataError as error:
        print(f"{error}; run: snakemake", file=sys.stderr)
        return 65
    theirs, beside = ablation_curves(published) if published else None, config.scale == "campaign"
    note = (GAME_NOTES if config.env == "smac" else NOTES)[config.scale]
    stamp = Stamp.of(job.made_from, job.reasons)
    plot_demo_ablation(scores, teams, args.out, note=note, paper=theirs, beside=beside, stamp=stamp)
    made = [args.out / f"demo_ablation.{end}" for end in ("pdf", "png", "csv")]
    job.finish(args.out / "demo_ablation.manifest.json", made)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
