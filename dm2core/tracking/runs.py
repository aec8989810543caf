"""What MLflow is to be told of each finished cell, read from its files alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from dm2core.analysis.grid import all_cells, figure_cells, figure_names
from dm2core.analysis.scores import ResultsError, read_json, read_metrics
from dm2core.config import Config
from dm2core.errors import DataError

EXPERTS = "experts"  # the experiment of the expert teams
Point = tuple[str, float, int, int]  # key, value, time in ms since 1970, env steps


@dataclass(frozen=True)
class Run:
    """One finished cell or expert in one experiment."""

    experiment: str  # the figure, or `experts`
    name: str  # map/method/demonstrations/seed, an expert's map/method/seed
    folder: Path
    digest: str  # SHA-256 of its manifest, which holds the hashes of its files
    manifest: dict[str, Any] = field(repr=False)
    card: Path | None  # of the demonstrations

    def params(self) -> dict[str, str]:
        """The resolved configuration, flattened: `ppo.lr`."""
        return dict(_flat(self.manifest["config"]))

    def tags(self) -> dict[str, str]:
        """What one groups and filters by; `condition` is a curve of a figure."""
        config, attempts = self.manifest["config"], self.manifest["attempts"]
        names = {"map": "map_name", "method": "method", "demos": "demos", "seed": "seed", "env": "env"}
        out = {tag: str(config[key]) for tag, key in names.items()}
        out |= {
            "condition": condition(self.name),
            "attempts": str(len(attempts)),
            "commit": str(self.manifest["code"]["commit"]),
        }
        if "slurm_job_id" in attempts[-1]:
            out["slurm_job_id"] = str(attempts[-1]["slurm_job_id"])
        return out

    def times(self) -> tuple[int, int]:
        """First start and end, ms since 1970."""
        attempts = self.manifest["attempts"]
        end = milliseconds(attempts[-1]["started"]) + round(1000 * self.manifest["last_attempt"]["wall_s"])
        return milliseconds(attempts[0]["started"]), end

    def points(self) -> list[Point]:
        """Every metric, as it was; times are spread over the run by env steps, so they are the same every time.

        Evaluations are there twice, the second time at the step when they were due (`due`).
        """
        rows = read_metrics(self.folder / "metrics.parquet", self.name)
        config = self.manifest["config"]
        both = pd.concat([rows, due(rows, config["eval_every"], config["env_steps"])])
        return place(both, *self.times())

    def curve(self) -> pd.DataFrame:
        """[env_steps, win_rate] of the evaluations."""
        rows = read_metrics(self.folder / "metrics.parquet", self.name)
        rows = rows[rows["key"] == "eval/win_rate"].sort_values("env_steps")
        return rows.rename(columns={"value": "win_rate"})[["env_steps", "win_rate"]]

    def files(self) -> list[Path]:
        """What is kept with the run: manifest, policy, the demonstrations' card, and the replay that shows this run."""
        names = [self.folder / name for name in ("manifest.json", "policy.safetensors")]
        if self.card is not None:
            names += [self.card, self.card.with_suffix(".md")]
        replay = Path("figures") / f"replay_{self.manifest['config']['map_name']}.gif"
        if self.digest in _made_from(replay):
            names.append(replay)
        return [path for path in names if path.is_file()]


def condition(name: str) -> str:
    """The curve of a figure that a cell is of, with the settings that the curve's name changes."""
    _, method, *demos, _ = name.split("/")
    return f"{method}@{demos[0]}" if demos and demos != ["none"] else method


def due(rows: pd.DataFrame, eval_every: int, env_steps: int) -> pd.DataFrame:
    """Rows eval/* as eval_due/*, at the multiple of `eval_every` that made them due, the last ones at the budget.

    Runs pass it a few battles earlier or later, and MLflow takes a mean over runs of equal steps alone.
    """
    rows = rows[rows["key"].str.startswith("eval/")]
    steps = (rows["env_steps"] // eval_every * eval_every).where(rows["env_steps"] < env_steps, env_steps)
    return rows.assign(key=rows["key"].str.replace("eval/", "eval_due/", n=1), env_steps=steps)


def place(rows: pd.DataFrame, start: int, end: int) -> list[Point]:
    """Points of metric rows [env_steps, key, value] between two times."""
    last = max(int(rows["env_steps"].max()), 1)
    return [
        (str(key), float(value), start + (end - start) * int(steps) // last, int(steps))
        for steps, key, value in rows[["env_steps", "key", "value"]].itertuples(index=False)
    ]


def finished_runs(config: Config, figures: list[str]) -> Iterator[Run]:
    """Finished cells of the figures, an experiment each, then their experts. DataError names a damaged file."""
    results = Path(config.results)
    seen: set[Path] = set()
    for figure in figures:
        for cell in figure_cells(config, figure):
            folder = results / "cells" / cell.path
            card = results / "demos" / cell.map_name / cell.demos / "card.json"
            if (folder / "manifest.json").is_file():
                yield _run(figure, cell.path, folder, card if cell.demos != "none" else None)
                if cell.demos != "none" and card.is_file():
                    seen.add(card)
    maps = {path.parents[1].name for path in seen}
    for manifest in sorted(results.glob("experts/*/*/seed*/manifest.json")):
        if manifest.parents[2].name in maps:
            folder = manifest.parent
            yield _run(EXPERTS, folder.relative_to(results / "experts").as_posix(), folder, None)


def figures_of(config: Config) -> dict[str, str]:
    """Cell path -> the first figure that shows it."""
    names = figure_names(config)
    out: dict[str, str] = {}
    for name in names:
        for cell in figure_cells(config, name):
            out.setdefault(cell.path, name)
    assert len(out) == len(all_cells(config))
    return out


def _run(experiment: str, name: str, folder: Path, card: Path | None) -> Run:
    path = folder / "manifest.json"
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest = read_json(path, name)
    except OSError as error:
        raise DataError(str(error)) from None
    needed = ("config", "attempts", "code", "last_attempt")
    if missing := [key for key in needed if not manifest.get(key)]:
        raise DataError(f"{path}: has no {missing[0]}; delete it and run snakemake")
    return Run(experiment, name, folder, digest, manifest, card if card and card.is_file() else None)


def read_card(path: Path) -> dict[str, Any]:
    """A demonstration set's card; DataError if it is damaged."""
    return dict(read_json(path, f"demonstrations {path.parent.name}"))


def _made_from(path: Path) -> set[str]:
    """SHA-256 of what a replay's manifest names, and of what its recordings' name; none without one."""
    manifest = path.with_suffix(".manifest.json")
    try:
        inputs = read_json(manifest, path.name)["inputs"]
        recordings = [manifest.parent / name for name in inputs if name.endswith(".manifest.json")]
        below = [read_json(recording, path.name)["inputs"] for recording in recordings]
        return {sha256 for named in (inputs, *below) for sha256 in named.values()}
    except (OSError, ResultsError, KeyError, AttributeError):
        return set()


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        elif item is not None:
            yield f"{prefix}{key}", str(item)


def milliseconds(text: str) -> int:
    """A manifest's time as ms since 1970."""
    return round(1000 * datetime.fromisoformat(text).timestamp())
