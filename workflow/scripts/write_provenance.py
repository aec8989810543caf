"""Verify results/ and figures/ and write what their manifests say as one page of HTML."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dm2core.analysis.html import to_html
from dm2core.analysis.output import write_text
from dm2core.analysis.provenance_page import page
from dm2core.config import ConfigError, load_config
from dm2core.errors import EXIT_DATA, EXIT_USAGE, DataError, guarded
from dm2core.records.verify import read_chain, verify


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--figures", type=Path, default=Path("figures"))
    parser.add_argument("--out", type=Path, required=True, help="the page, .html")
    args = parser.parse_args(argv)
    try:
        roots = [Path(load_config(args.config).results), args.figures]
        text = page(read_chain(roots), verify(roots), roots)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except DataError as error:
        print(error, file=sys.stderr)
        return EXIT_DATA
    write_text(to_html(text, "Provenance"), args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
