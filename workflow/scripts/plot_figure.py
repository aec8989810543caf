"""Table of one figure -> {name}.pdf, .png, .csv."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dm2core.analysis.curve_figures import plot_curves
from dm2core.analysis.figures import GAME_NOTES, NOTES, Stamp
from dm2core.analysis.paper_curves import PAPER_FILES, WITH_PAPER, figure_curves
from dm2core.analysis.switchboard import plot_switchboard
from dm2core.config import ConfigError, load_config
from dm2core.errors import DataError, guarded
from dm2core.records.manifest import Job, hash_file

PAPER = Path(__file__).resolve().parents[2] / "resources" / "paper_curves"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--figure", required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    used = [
        args.tables / f"{args.figure}{end}" for end in (".parquet", "_demonstrators.csv", ".manifest.json")
    ]
    published = PAPER / PAPER_FILES.get(args.figure, "")
    used += [args.config, *([published] if config.scale in WITH_PAPER and published.is_file() else [])]
    try:
        job = Job("figure", hash_file(args.config), used, seeds=config.seeds)
        scores = pd.read_parquet(args.tables / f"{args.figure}.parquet")
        teams = pd.read_csv(args.tables / f"{args.figure}_demonstrators.csv")
    except DataError as error:
        print(f"{error}; run: snakemake", file=sys.stderr)
        return 65
    note = (GAME_NOTES if config.env == "smac" else NOTES)[config.scale]
    stamp = Stamp.of(job.made_from, job.reasons)
    if args.figure == "switchboard":
        plot_switchboard(scores, args.out, note=note, stamp=stamp)
    else:
        theirs, beside = figure_curves(config, args.figure, PAPER), config.scale == "campaign"
        plot_curves(args.figure, scores, teams, args.out, note=note, paper=theirs, beside=beside, stamp=stamp)
    made = [args.out / f"{args.figure}.{end}" for end in ("pdf", "png", "csv")]
    job.finish(args.out / f"{args.figure}.manifest.json", made)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
