"""Animated battles -> one page of HTML that holds them."""

from __future__ import annotations

import argparse
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from dm2core.analysis.html import to_html
from dm2core.errors import guarded
from dm2core.files import write_atomic


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replays", type=Path, nargs="+", required=True, help="replay_{map}.gif")
    parser.add_argument("--out", type=Path, required=True, help="the page, .html")
    args = parser.parse_args(argv)
    parts = [
        "# Battles",
        "The same start twice: IPPO on the left, DM2 on joint, concurrent demonstrations on the right.",
    ]
    for path in args.replays:
        name = path.stem.removeprefix("replay_")
        picture = b64encode(path.read_bytes()).decode()
        parts += [f"## {name}", f"![the battle on {name}](data:image/gif;base64,{picture})"]
    write_atomic(args.out, to_html("\n\n".join(parts), "Battles").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
