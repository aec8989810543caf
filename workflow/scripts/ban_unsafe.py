"""Refuse code that runs what a data file says: unpickling, unsafe loaders, eval.

One file may unpickle, and nothing else that is banned: it decodes published demonstrations in a process of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

# Each pattern is written so that it does not match itself.
BANNED = {
    "unpickling": re.compile(r"^\s*(import|from)\s+(c?pickle|dill|cloudpickle|shelve|marshal)\b"),
    "allow_pickle": re.compile(r"allow_pickle\s*=\s*(?!False)\w"),
    "weights_only off": re.compile(r"weights_only\s*=\s*(?!True)\w"),
    "unsafe YAML": re.compile(
        r"yaml\.(load|load_all|unsafe_load|full_load)\((?!.*Loader=\w*(Safe|UniqueKey)\w*)"
    ),
    "evaluation of text": re.compile(r"(?<![\w.])(eval|exec)\("),
}
EXEMPT = {Path("dm2core/published/child.py"): "unpickling"}
WAIVER = "# unsafe on purpose:"  # tests that prove the refusal say so on the line


def offences(path: Path) -> list[str]:
    """Every banned line of one file, as `path:line: what`."""
    return [
        f"{path}:{number}: {what}: {line.strip()}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for what, pattern in BANNED.items()
        if pattern.search(line) and WAIVER not in line and EXEMPT.get(path) != what
    ]


def main(argv: Sequence[str] | None = None) -> int:
    roots = [Path(item) for item in (sys.argv[1:] if argv is None else argv)]
    files = sorted(path for root in roots if root.exists() for path in root.rglob("*.py"))
    found = [line for path in files for line in offences(path)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
