"""Measured tables and published facts -> docs/simulator.md."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dm2core.analysis.simulator_page import page
from dm2core.strict import parse_yaml


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, required=True, help="folder of measure_simulator.py's tables")
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True, help="folder of the paper's curves")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    facts = parse_yaml(args.facts.read_text(encoding="utf-8"))
    args.out.write_text(page(args.tables, facts, args.curves), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
