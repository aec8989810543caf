"""Finished cells of one figure -> {name}.parquet, .csv and its demonstrators' win rates."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dm2core.analysis.curve_figures import collect_figure, collect_teams
from dm2core.analysis.grid import figure_cells
from dm2core.analysis.output import write_csv, write_parquet
from dm2core.analysis.scores import ResultsError, files_of
from dm2core.config import ConfigError, load_config
from dm2core.errors import DataError, guarded
from dm2core.manifest import Job, hash_file


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--figure", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config)
        used = files_of(config, figure_cells(config, args.figure))
        job = Job(
            "table", hash_file(args.config), [args.config, *used], seeds=config.seeds, scale=config.scale
        )
        scores, teams = collect_figure(config, args.figure), collect_teams(config, args.figure)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (ResultsError, DataError) as error:
        print(error, file=sys.stderr)
        return 65
    for reason in job.reasons:
        print(f"not for publication: {reason}", file=sys.stderr)
    made = [args.out / f"{args.figure}{end}" for end in (".parquet", ".csv", "_demonstrators.csv")]
    write_parquet(scores, made[0])
    write_csv(scores, made[1])
    write_csv(teams, made[2])
    job.finish(args.out / f"{args.figure}.manifest.json", made)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
