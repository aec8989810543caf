"""Finished cells of one figure -> {name}.parquet, .csv and its demonstrators' win rates."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dm2core.analysis.curve_figures import collect_figure, collect_teams
from dm2core.analysis.scores import ResultsError
from dm2core.config import ConfigError, load_config


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--figure", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config)
        scores, teams = collect_figure(config, args.figure), collect_teams(config, args.figure)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except ResultsError as error:
        print(error, file=sys.stderr)
        return 65
    args.out.mkdir(parents=True, exist_ok=True)
    scores.to_parquet(args.out / f"{args.figure}.parquet", index=False)
    scores.to_csv(args.out / f"{args.figure}.csv", index=False, lineterminator="\n")
    teams.to_csv(args.out / f"{args.figure}_demonstrators.csv", index=False, lineterminator="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
