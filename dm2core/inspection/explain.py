"""`dm2 explain`: one page about one run, from its files: what it is, how it went, where it comes from, what uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dm2core.analysis.grid import Cell, figure_cells, figure_names, made_digest
from dm2core.analysis.scores import read_metrics
from dm2core.config import Config, ConfigError, cell_config, load_config
from dm2core.errors import DataError
from dm2core.inspection.find_run import Found, find_run
from dm2core.methods import METHODS, split_method
from dm2core.records.manifest import CellManifest, read_manifest
from dm2core.records.standing import Standing, standing
from dm2core.records.verify import read_chain

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 50  # of the curve
Metrics = list[tuple[int, str, float]]  # env_steps, key, value
REWARDS = {
    "task": "the task reward",
    "mixed": "the task reward and its own discriminator's logit",
    "imitation": "its own discriminator's logit alone",
}
FAMILIES = {"ppo": "independent PPO", "qmix": "QMIX", "rmappo": "recurrent MAPPO"}


def explain(text: str, config: Config, config_file: Path) -> None:
    """Print the page; ConfigError names the nearest runs if there is none of that name."""
    found = find_run(text, config)
    s = standing(found.results, found.name, kind=found.kind)
    manifest, fault = _manifest(s)
    option, config = _configuration_of(found, manifest, config, config_file)
    rows, damage = _metrics(s)
    fault = fault or damage
    page = Table.grid(padding=(0, 2))
    page.add_column(style="bold", no_wrap=True)
    page.add_column()
    for head, body in _rows(found, s, manifest, rows, config, config_file):
        page.add_row(head, body)
    if fault:
        page.add_row("damaged", Text(fault, "bold red"))
    console = Console()
    console.print(page, highlight=False)
    for head, command in zip(("run again", ""), _commands(found, s, option), strict=False):
        line = Text.assemble((f"{head:16}", "bold"), command)
        console.print(line, soft_wrap=True)  # to be copied: never folded


def _manifest(s: Standing) -> tuple[CellManifest | None, str]:
    """The finished cell's manifest, or what is wrong with it."""
    path = s.folder / "manifest.json"
    if not path.is_file():
        return None, ""
    try:
        found = read_manifest(path)
    except DataError as error:
        return None, str(error)
    return (found, "") if isinstance(found, CellManifest) else (None, f"{path}: not a cell's manifest")


def _rows(
    found: Found,
    s: Standing,
    manifest: CellManifest | None,
    rows: Metrics,
    config: Config,
    config_file: Path,
) -> Iterator[tuple[str, str | Text]]:
    parts = found.name.split("/")
    map_name, method, demos = parts[0], parts[1], parts[2] if found.kind == "cells" else "none"
    seed = int(parts[-1].removeprefix("seed"))
    yield "run", Text(found.name, "bold")
    yield "results", found.results.as_posix()
    yield "", _what(method, map_name, demos, seed, expert=found.kind == "experts")
    yield "state", _state(s)
    try:
        ours = manifest.config if manifest is not None else None
        cell = (map_name, method, demos, seed)
        lines = list(_differences(ours, config, config_file, cell, expert=found.kind == "experts"))
    except ConfigError as error:
        lines = [f"cannot be told: {error}"]
    scale = " at the paper's scale" if _has_scales(config_file) else ""
    protocol = f"{config_file}{scale}, whose values stand in brackets:"
    yield "differs from", "\n".join([protocol, *lines])
    if demos != "none":
        yield "demonstrations", _card(found.results / "demos" / map_name / demos / "card.json")
    yield from _curve(rows)
    if manifest is not None:
        yield from _effort(manifest)
        yield from _provenance(manifest)
    yield from _used_by(found, s, config)


def _what(method: str, map_name: str, demos: str, seed: int, *, expert: bool) -> str:
    base, changes = split_method(method)
    kind = METHODS.get(base)
    if kind is None:
        return f"method {base} on {map_name}"
    what = f"{FAMILIES[kind.family]} on {map_name}, paid {REWARDS[kind.reward]}; seed {seed}"
    if kind.cloned:
        what = f"behaviour cloning, then {what}"
    if changes:
        what += f"; changed: {', '.join(f'{k} = {v}' for k, v in changes.items())}"
    if expert:
        return f"expert team: {what}; its checkpoints demonstrate"
    return f"{what}; learns from {demos if demos != 'none' else 'no demonstrations'}"


def _state(s: Standing) -> str:
    at = ""
    if s.report:
        r = s.report
        at = f", {r['env_steps']:,} of {r['total']:,} env steps, last report {r['age_s'] / 60:.0f} min ago"
        if s.state == "running":
            at += f", {r['left_s'] / 60:.0f} min left"
    return s.state + at + (f": {s.why}" if s.why else "")


def _differences(
    made_with: dict[str, Any] | None,
    config: Config,
    config_file: Path,
    cell: tuple[str, str, str, int],
    *,
    expert: bool,
) -> Iterator[str]:
    """Settings that are not the shipped protocol's, `name value (the protocol's)`; of an unfinished run the planned."""
    map_name, method, demos, seed = cell
    common: dict[str, Any] = {"map_name": map_name, "seed": seed, "demos": demos, "expert": expert}
    protocol = load_config(config_file, {"scale": "paper"})
    default = cell_config(protocol, method=split_method(method)[0], **common)
    if made_with is None:
        made_with = cell_config(config, method=method, **common).model_dump()
    ours, theirs = dict(_flat(made_with)), dict(_flat(default.model_dump()))
    skip = {"demos_sha256", "seed", "results_version", "map_sha256"}
    changed = [key for key in ours if ours[key] != theirs.get(key, "none") and key not in skip]
    for key in changed:
        yield f"{key} {_number(ours[key])} ({_number(theirs.get(key, 'none'))})"
    if not changed:
        yield "nothing"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        elif item is not None:
            yield f"{prefix}{key}", item


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _card(path: Path) -> str:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        rates = card["win_rate"] if isinstance(card["win_rate"], list) else [card["win_rate"]]
        teams = [f"seed {team['seed']} at {team['env_steps']:,} env steps" for team in card["teams"]]
        return (
            f"{card['demos_id']}, {card['episodes_per_agent']} episodes per agent; its players win "
            f"{', '.join('an unknown share' if rate is None else f'{rate:.2f}' for rate in rates)}\n"
            f"teams: {', '.join(teams) or 'unknown'}; "
            f"SHA-256 {card['sha256'][:16]}; {path.with_name('card.md')}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path}: not there, or damaged"


def _curve(rows: Metrics) -> Iterator[tuple[str, str]]:
    curve = sorted((steps, value) for steps, key, value in rows if key == "eval/win_rate")
    if not curve:
        yield "win rate", "no evaluation yet"
        return
    steps, rates = zip(*curve, strict=True)
    fifth = [rate for at, rate in curve if at >= 0.8 * steps[-1]]
    last = sum(fifth) / len(fifth)
    yield "win rate", f"{sparkline(rates)}  0 to {steps[-1]:,} env steps, {len(rates)} evaluations, greedy"
    yield "", f"last {rates[-1]:.3f}, mean of the last fifth {last:.3f}, best {max(rates):.3f}"
    others = {key: value for _, key, value in sorted(rows) if key.startswith("eval/")}
    more = [f"{k.removeprefix('eval/')} {v:.3g}" for k, v in others.items() if k != "eval/win_rate"]
    if more:
        yield "", f"last evaluation: {', '.join(more)}"


def sparkline(rates: tuple[float, ...]) -> str:
    """Win rates as bars from 0 to 1, at most WIDTH of them, each the mean of its share."""
    count = min(len(rates), WIDTH)
    shares = [rates[k * len(rates) // count : (k + 1) * len(rates) // count] for k in range(count)]
    return "".join(BARS[min(int(sum(share) / len(share) * len(BARS)), len(BARS) - 1)] for share in shares)


def _metrics(s: Standing) -> tuple[Metrics, str]:
    """Those of a finished cell and what is wrong with its file, or of an unfinished one as far as it is."""
    path = s.folder / "metrics.parquet"
    if path.is_file() and (s.folder / "manifest.json").is_file():  # else it is what the cell was before
        try:
            return list(read_metrics(path, s.name).itertuples(index=False, name=None)), ""
        except DataError as error:
            return [], str(error)
    try:
        lines = (s.state_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
    except (OSError, ValueError):
        return [], ""
    return [(int(row[1]), str(row[2]), float(row[3])) for row in rows], ""


def _effort(m: CellManifest) -> Iterator[tuple[str, str]]:
    attempts = len(m.attempts)
    wall = m.wall_s if m.wall_s is not None else m.last_attempt.get("wall_s", 0.0)
    cpu = f", {_duration(m.cpu_s)} of CPU" if m.cpu_s is not None else ""
    speed = m.last_attempt.get("env_steps_per_s")
    said = f"{_duration(wall)}{cpu}, peak {m.peak_memory_mb} MiB, {attempts} attempt{'s' * (attempts != 1)}"
    yield "effort", said + (f", {speed:,.0f} env steps/s" if speed else "")
    for number, one in enumerate(m.attempts if attempts > 1 else (), start=1):
        spent = f", {_duration(one.wall_s)}" if one.wall_s is not None else ""
        job = f", Slurm job {one.slurm_job_id}" if one.slurm_job_id else ""
        again = f", requeued {one.slurm_restart_count} times" if one.slurm_restart_count else ""
        yield "", f"attempt {number}: {one.started}{spent}{job}{again}"
    if m.ended is not None:
        yield "when", f"{m.started} to {m.ended}"
    elif m.attempts:
        yield "when", f"from {m.attempts[0].started}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _provenance(m: CellManifest) -> Iterator[tuple[str, str | Text]]:
    if m.code is not None:
        yield "code", f"commit {m.code.commit}, dm2core {m.code.dm2core_sha256[:16]}"
        if m.code.dirty:
            yield "", Text("with changes that were not committed: not for publication", "bold red")
    if m.host is not None:
        yield "machine", f"{m.host.cpu}, {m.host.cores} cores, {m.host.system}"
    if m.packages is not None:
        listed = ", ".join(f"{name} {number}" for name, number in list(m.packages.items())[:6])
        yield "packages", f"{listed}; requirements.txt {(m.lock_sha256 or 'not recorded')[:16]}"
    if m.game:
        yield "game", ", ".join(f"{name} {value}" for name, value in m.game.items())
    yield "numerics", ", ".join(f"{name} {value}" for name, value in m.numerics.items() if value)
    yield "digest", m.digest
    yield "files", "\n".join(f"{sha256[:16]}  {name}" for name, sha256 in m.outputs.items())


def _used_by(found: Found, s: Standing, config: Config) -> Iterator[tuple[str, str]]:
    roots = [root for root in (found.results, Path("figures")) if root.is_dir()]
    chain = read_chain(roots)
    made = {path for file in s.folder.glob("*") for path in chain.made_with(file.resolve())}
    made -= {file.resolve() for file in s.folder.glob("*")}
    manifests = {path for path in made if path in chain.manifests}
    names: dict[str, list[str]] = {}
    for path in sorted(manifests):
        kind = chain.manifests[path].kind
        name = path.name.removesuffix(".manifest.json") if path.name != "manifest.json" else path.parent.name
        names.setdefault(kind, []).append(name)
    cells = len(names.pop("cell", []))
    listed = [f"{kind}: {', '.join(dict.fromkeys(several))}" for kind, several in names.items()]
    if cells:
        listed.append(f"{cells} cells")
    yield "used by", "; ".join(listed) or "nothing that is finished"
    if found.kind == "cells":
        figures = [
            name
            for name in figure_names(config)
            if any(cell.path == found.name for cell in figure_cells(config, name))
        ]
        yield "belongs to", ", ".join(f"figures/{name}" for name in figures) or "no configured figure"


def _commands(found: Found, s: Standing, option: str) -> list[str]:
    """What makes the run again; before it, its demonstrations, where battles are kept in place of them.

    Where neither is kept, the line says so: Snakemake trains their experts again, and samples.
    """
    target = (found.results / found.kind / found.name / "metrics.parquet").as_posix()
    force = f" --forcerun {target}" if s.state == "finished" else ""
    out = [f"snakemake {target} --cores 1{force}{option}"]
    if found.kind == "cells":
        map_name, _, demos, _ = found.name.split("/")
        folder = found.results / "demos" / map_name / demos
        if (folder / "battles.npz").is_file() and not (folder / "demos.npz").is_file():
            out.insert(0, f"dm2 recall-demos {folder}")
        elif demos != "none" and not (folder / "demos.npz").is_file():
            out[0] += (
                "  # trains the demonstrators again, too: neither their demonstrations nor their battles are kept"
            )
    return out


def _has_scales(config_file: Path) -> bool:
    return (config_file.parent / "scale").is_dir()


def _configuration_of(
    found: Found, manifest: CellManifest | None, config: Config, config_file: Path
) -> tuple[str, Config]:
    """What a run belongs to: Snakemake's option that names the configuration, and the configuration.

    That of the scale whose results these are, if it still plans this very run; else one that the results folder keeps
    and that plans it; else the one given.
    """
    if not _has_scales(config_file):  # somebody's own, or the resolved one of a run
        return f" --configfile {config_file}", config
    default = load_config(config_file)
    fitting: list[tuple[str, Config]] = []
    if Path(default.results) == found.results:
        fitting.append(("", default))
    for path in sorted((config_file.parent / "scale").glob("*.yaml")):
        scaled = load_config(config_file, {"scale": path.stem})
        if path.stem != default.scale and Path(scaled.results) == found.results:
            fitting.append((f" --configfile {path}", scaled))
    for path in sorted((found.results / "config").glob("*.yaml")):
        with suppress(ConfigError):
            fitting.append((f" --configfile {path}", load_config(path)))
    if manifest is not None:
        fitting.sort(key=lambda pair: _planned_digest(found, pair[1]) != manifest.digest)
    return fitting[0] if fitting else ("", config)


def _planned_digest(found: Found, config: Config) -> str:
    """What a configuration would have in the run's manifest; "" where it cannot be told."""
    parts = found.name.split("/")
    seed = int(parts[-1].removeprefix("seed"))
    try:
        if found.kind == "cells":
            return made_digest(config, Cell(parts[0], parts[1], parts[2], seed))
        return cell_config(config, map_name=parts[0], method=parts[1], seed=seed, expert=True).digest()
    except (ConfigError, OSError, ValueError, KeyError):
        return ""
