"""Finished cells of the demonstration ablation on one map, or of one figure -> a table, parquet and CSV.

{map or figure}.parquet and .csv hold every evaluation, {map or figure}_demonstrators.csv the demonstrators' win rates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dm2core.analysis.grid import cells, figure_cells
from dm2core.analysis.output import write_csv, write_parquet
from dm2core.analysis.scores import (
    collect_demonstrators,
    collect_figure,
    collect_scores,
    collect_teams,
    files_of,
)
from dm2core.config import ConfigError, load_config
from dm2core.errors import DataError, guarded
from dm2core.records.manifest import Job, hash_file


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--map", dest="map_name")
    what.add_argument("--figure")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config)
        chosen = (
            figure_cells(config, args.figure)
            if args.figure
            else [cell for cell in cells(config) if cell.map_name == args.map_name]
        )
        used = files_of(config, chosen)
        job = Job(
            "table", hash_file(args.config), [args.config, *used], seeds=config.seeds, scale=config.scale
        )
        if args.figure:
            scores, teams = collect_figure(config, args.figure), collect_teams(config, args.figure)
        else:
            scores = collect_scores(config, args.map_name)
            teams = collect_demonstrators(config, args.map_name)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except DataError as error:
        print(error, file=sys.stderr)
        return 65
    for reason in job.reasons:
        print(f"not for publication: {reason}", file=sys.stderr)
    name = args.figure or args.map_name
    made = [args.out / f"{name}{end}" for end in (".parquet", ".csv", "_demonstrators.csv")]
    write_parquet(scores, made[0])
    write_csv(scores, made[1])
    write_csv(teams, made[2])
    job.finish(args.out / f"{name}.manifest.json", made)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
