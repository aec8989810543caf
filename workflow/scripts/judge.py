"""Finished cells and claims.yaml -> verdict.csv, .md, .html, runs.parquet, runs.csv, marl_eval.json, the manifest."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dm2core.analysis.claims import load_claims
from dm2core.analysis.export import marl_eval, write_tidy
from dm2core.analysis.html import to_html
from dm2core.analysis.output import write_csv, write_text
from dm2core.analysis.paper_numbers import paper_differences
from dm2core.analysis.run_table import (
    CELL,
    check_planned,
    files_of_runs,
    judged_runs,
    planned_runs,
    read_runs,
    read_training,
)
from dm2core.analysis.transfer_table import transfers
from dm2core.analysis.verdict import verdict
from dm2core.analysis.verdict_page import GAME_REACH, REACH, page
from dm2core.config import ConfigError, load_config
from dm2core.errors import EXIT_DATA, EXIT_USAGE, DataError, guarded
from dm2core.records.manifest import Job, hash_file


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--claims", type=Path, required=True)
    parser.add_argument("--paper", type=Path, required=True, help="resources/paper_curves")
    parser.add_argument(
        "--theory", type=Path, help="theory.csv; a file that does not exist leaves it untested"
    )
    parser.add_argument(
        "--transfer", type=Path, default=Path("results/transfer"), help="of dm2 evaluate --env"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config)
        claims = load_claims(args.claims, config)
        results = Path(config.results)
        used = _inputs(args, results)
        job = Job("verdict", hash_file(args.config), used, seeds=config.seeds, scale=config.scale)
        transferred = transfers(args.transfer)
        check_planned(config)
        planned = planned_runs(config)
        made = read_runs(results)
        runs, training = (table[judged_runs(table, planned)] for table in (made, read_training(results)))
        if runs.empty:
            raise DataError(
                f"{results}/cells: no finished cell that a figure plans; see snakemake -n, or plan these in `figures`"
            )
        failed = _table(results / "failed.csv", CELL)
        theory = _table(args.theory, ["test", "statement", "holds"]) if args.theory else None
        judged = verdict(
            runs,
            claims,
            training=training,
            planned=planned,
            failed=failed,
            theory=theory,
            paper=paper_differences(claims, args.paper),
        )
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except DataError as error:
        print(error, file=sys.stderr)
        return EXIT_DATA
    write_tidy(runs, args.out)
    # Beyond nine digits processors of two makers differ, and what is rounded further for people may with them.
    numbers = judged.select_dtypes("float").columns
    judged[numbers] = judged[numbers].map(lambda value: float(f"{value:.9g}"))
    write_csv(judged, args.out / "verdict.csv")
    finished = runs[CELL].drop_duplicates()
    counted = planned[planned["judged"]]
    waiting = len(counted.merge(finished, on=CELL, how="left", indicator=True).query("_merge == 'left_only'"))
    unplanned = len(made[CELL].drop_duplicates()) - len(made[CELL].merge(planned[CELL]).drop_duplicates())
    counts = {
        "finished": len(finished),
        "failed": 0 if failed is None else len(failed),
        "planned and not finished": waiting - (0 if failed is None else len(failed)),
    }
    if unplanned:
        counts["finished but in no figure's plan, left out"] = unplanned
    reach = GAME_REACH if config.env == "smac" else REACH
    text = page(judged, args.claims, counts, job.reasons, reach=reach, transfers=transferred)
    write_text(text, args.out / "verdict.md")
    write_text(to_html(text, "Verdict"), args.out / "verdict.html")
    write_text(json.dumps(marl_eval(runs), indent=1) + "\n", args.out / "marl_eval.json")
    job.finish(args.out / "verdict.manifest.json", [args.out / name for name in MADE])
    return 0


MADE = ("verdict.csv", "verdict.md", "verdict.html", "runs.parquet", "runs.csv", "marl_eval.json")


def _inputs(args: argparse.Namespace, results: Path) -> list[Path]:
    optional = [results / "failed.csv"]
    if args.theory is not None:
        optional += [args.theory, args.theory.with_name("theory.manifest.json")]
    published = [*sorted(args.paper.glob("*.csv")), *sorted(args.transfer.glob("*.json"))]
    there = [path for path in optional if path.is_file()]
    return [args.config, args.claims, *published, *there, *files_of_runs(results)]


def _table(path: Path, columns: list[str]) -> pd.DataFrame | None:
    """A CSV with these columns; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # empty, or lines of different lengths
        raise DataError(
            f"{path}: is no CSV ({' '.join(str(error).split())}); it needs {', '.join(columns)}"
        ) from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; it needs {', '.join(columns)}")
    return table


if __name__ == "__main__":
    raise SystemExit(guarded(main))
