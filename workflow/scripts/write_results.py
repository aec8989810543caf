"""The campaign's verdict and cells -> the computed blocks of README.md and docs/results.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dm2core.analysis.claims import load_claims
from dm2core.analysis.results_page import conditions_block, effort_block, replace_block, verdict_block
from dm2core.analysis.run_table import read_runs
from dm2core.analysis.scores import ResultsError
from dm2core.errors import EXIT_DATA, DataError


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--claims", type=Path, required=True)
    parser.add_argument("--readme", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        verdict = verdict_block(pd.read_csv(args.results / "verdict" / "verdict.csv"))
        blocks = {
            args.readme: {"verdict": verdict},
            args.page: {
                "verdict": verdict,
                "conditions": conditions_block(read_runs(args.results), load_claims(args.claims)),
                "effort": effort_block(args.results),
            },
        }
        for path, bodies in blocks.items():
            text = path.read_text(encoding="utf-8")
            for name, body in bodies.items():
                text = replace_block(text, name, body)
            path.write_text(text, encoding="utf-8")
    except (DataError, ResultsError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_DATA
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
