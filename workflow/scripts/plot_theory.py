"""Table of `dm2 theory` -> theory.pdf, .png, .csv, and docs/theory.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dm2core.analysis.figures import Stamp
from dm2core.analysis.output import write_text
from dm2core.analysis.theory_figure import page, plot
from dm2core.errors import DataError, guarded
from dm2core.records.manifest import Job


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--example", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="where to write the page")
    args = parser.parse_args(argv)
    used = [args.table, args.curves, args.example, args.table.with_name("theory.manifest.json")]
    try:
        job = Job("figure", "", used)
    except DataError as error:
        print(f"{error}; run: snakemake figures/theory.pdf", file=sys.stderr)
        return 65
    table = pd.read_csv(args.table)
    plot(table, pd.read_csv(args.curves), args.out, Stamp.of(job.made_from, job.reasons))
    job.finish(
        args.out / "theory.manifest.json", [args.out / f"theory.{end}" for end in ("pdf", "png", "csv")]
    )
    if args.page is not None:
        write_text(page(table, args.example.read_text(encoding="utf-8").strip()), args.page)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
