"""Wrong configurations by the thousand: every key misspelt, missing, and holding what it cannot hold."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, "no", "1e-3", "", "text", -1, 0, 10**30, 1.5, float("nan"), float("inf"), -float("inf"),
    [], [None], [[]], {}, {"x": 1}, {1: 2}, "\t", "\ud800"[:0], "ünï", b"bytes", ["3m", "3m"], {"3m": None},
)  # fmt: skip


def paths(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every key of the tree is."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*at, key)
            yield from paths(value, (*at, key))


def changed(tree: dict[str, Any], path: tuple[Any, ...], kind: str, value: Any = None) -> dict[str, Any]:
    """A copy in which one key is misspelt, dropped or holds `value`."""
    out = copy.deepcopy(tree)
    parent: Any = out
    for key in path[:-1]:
        parent = parent[key]
    if kind == "set":
        parent[path[-1]] = value
        return out
    old = parent.pop(path[-1])
    if kind == "misspell":
        parent[f"{path[-1]}x"] = old
    return out


def spoilt_text(text: bytes, draws: random.Random) -> bytes:
    """The file with a line doubled, cut, indented by a tab, or a byte that is no UTF-8."""
    lines = text.split(b"\n")
    at = draws.randrange(len(lines))
    kind = draws.randrange(6)
    if kind == 0:
        lines.insert(at, lines[at])
    elif kind == 1:
        lines[at] = lines[at][: draws.randrange(len(lines[at]) + 1)]
    elif kind == 2:
        lines[at] = b"\t" + lines[at]
    elif kind == 3:
        lines[at] += draws.choice(
            [b"\xff", b"[" * 2000, b": : ", b"!!python/object:os.system x", b"&a *a", b"{"]
        )
    elif kind == 4:
        del lines[at]
    else:
        lines[at] = lines[at].replace(b":", draws.choice([b"", b":: ", b": !!timestamp "]), 1)
    return b"\n".join(lines)
