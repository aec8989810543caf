"""From what a person types to a run: a path to it or into it, or its name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dm2core.analysis.grid import all_cells
from dm2core.config import Config, ConfigError
from dm2core.records.standing import begun

KINDS = ("cells", "experts")


@dataclass(frozen=True)
class Found:
    """A cell or expert team; `results` is the folder of the whole run it belongs to."""

    results: Path
    kind: str  # cells or experts
    name: str


def find_run(text: str, config: Config) -> Found:
    """The run of a path or name; ConfigError, one line with the nearest names, if it is nobody's.

    Of a name: the runs that are here come before the published ones, and these before what is only planned.
    """
    path = Path(text)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())  # configurations name their results from here
    if path.exists() or any(part in KINDS for part in path.parts):
        found = _of_path(path)
        if found is not None:
            return found
    name = text.strip("/").removeprefix("cells/")
    configured, published = Path(config.results), sorted(Path("results/reference").glob("*"))
    known: dict[str, list[Found]] = {}
    for root in dict.fromkeys([configured, *sorted(Path("results").glob("*")), *published]):
        for kind in KINDS:
            for own in begun(root, kind):
                shown = own if kind == "cells" else f"experts/{own}"
                known.setdefault(shown, []).append(Found(root, kind, own))
    here = [found for found in known.get(name, []) if found.results not in {*published} - {configured}]
    for cell in all_cells(config):
        known.setdefault(cell.path, [Found(configured, "cells", cell.path)])
    finished = [found for found in here if (found.results / found.kind / found.name).is_dir()]
    there = finished or here or known.get(name, [])
    if len(there) > 1:
        paths = ", ".join((found.results / found.kind / found.name).as_posix() for found in there)
        raise ConfigError(f"{text}: is in several result folders; give one: {paths}")
    if not there:
        raise ConfigError(f"{text}: no such run; {_nearest(name, known)}")
    return there[0]


def _of_path(path: Path) -> Found | None:
    """The run a path leads to, or into: results/cells/..., results/state/cells/..."""
    folder = path if path.is_dir() or path.suffix == "" else path.parent
    parts = folder.parts
    for kind in KINDS:
        if kind not in parts:
            continue
        at = len(parts) - 1 - parts[::-1].index(kind)
        name = "/".join(parts[at + 1 :])
        root = Path(*parts[:at]) if at else Path()
        results = root.parent if root.name == "state" else root
        if Path(name).name.startswith("seed"):
            there = [results / kind / name, results / "state" / kind / name]
            return Found(results, kind, name) if any(one.is_dir() for one in there) else None
    return None


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    return f"nearest: {', '.join(near)}" if near else "dm2 status lists the cells"
