"""Finished IPPO cells of one map -> one small CSV, every evaluation of every seed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dm2core.analysis.calibration import collect
from dm2core.config import ConfigError, load_config
from dm2core.errors import DataError


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--map", required=True, dest="map_name")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--method", default="ippo", help="or ippo+episodes_per_update=1024")
    parser.add_argument(
        "--running", action="store_true", help="take cells that still train as far as they are"
    )
    args = parser.parse_args(argv)
    try:
        table = collect(load_config(args.config), args.map_name, method=args.method, running=args.running)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except DataError as error:
        print(error, file=sys.stderr)
        return 65
    table.to_csv(args.out, index=False, float_format="%.6g", lineterminator="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
