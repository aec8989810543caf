"""Cells of one map -> {map}.parquet, {map}.csv, {map}_demonstrators.csv."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dm2core.analysis.scores import ResultsError, collect_demonstrators, collect_scores
from dm2core.config import ConfigError, load_config


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--map", required=True, dest="map_name")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config)
        scores = collect_scores(config, args.map_name)
        teams = collect_demonstrators(config, args.map_name)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except ResultsError as error:
        print(error, file=sys.stderr)
        return 65
    args.out.mkdir(parents=True, exist_ok=True)
    scores.to_parquet(args.out / f"{args.map_name}.parquet", index=False)
    scores.to_csv(args.out / f"{args.map_name}.csv", index=False, lineterminator="\n")
    teams.to_csv(args.out / f"{args.map_name}_demonstrators.csv", index=False, lineterminator="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
