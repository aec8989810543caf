"""Which cells the figures need, where their files lie, and the digest that decides reruns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dm2core import RESULTS_VERSION
from dm2core.config import Config, ConfigError, Panel, cell_config, parse_demos_id
from dm2core.env.scenario import load_scenario, user_map_sha256
from dm2core.methods import METHODS, split_method, split_run
from dm2core.strict import unknown

T = TypeVar("T")

# The paper's Fig. 3: all data from one co-trained team or not, all agents' data from the same battles or not.
VARIANTS = ("joint-concurrent", "joint-nonconcurrent", "indep-concurrent", "indep-nonconcurrent")


@dataclass(frozen=True)
class Cell:
    """One training run of the figure."""

    map_name: str
    method: str
    demos: str
    seed: int

    @property
    def path(self) -> str:
        """Folder under results/cells; also the cell's name in messages."""
        return f"{self.map_name}/{self.method}/{self.demos}/seed{self.seed}"


def demo_ids(config: Config, map_name: str) -> list[str]:
    """The four demonstration sets of a map, in the figure's order."""
    shown = config.demo_ablation
    team = shown.first_team.get(map_name, 1)
    return [f"{shown.expert}_{variant}" + (f"-t{team}" if team > 1 else "") for variant in VARIANTS]


def cells(config: Config) -> list[Cell]:
    """Every cell of demo_ablation: per map, DM2 on the four sets and IPPO, each with every seed."""
    return [
        Cell(map_name, method, demos, seed)
        for map_name in config.demo_ablation.maps
        for method, demos in [*(("dm2", demos) for demos in demo_ids(config, map_name)), ("ippo", "none")]
        for seed in config.seeds_on(map_name)
    ]


def panel_cells(config: Config, panel: Panel) -> list[Cell]:
    """Every cell of one panel: each curve with each seed."""
    return [cell for run in panel.curves for cell in curve_cells(config, panel, run)]


def curve_cells(config: Config, panel: Panel, run: str) -> list[Cell]:
    """One curve's cells: with each seed of the panel or, if it has none, of its map."""
    seeds = panel.seeds or config.seeds_on(panel.map)
    return [Cell(panel.map, *split_run(run), seed) for seed in seeds]


def figure_cells(config: Config, figure: str) -> list[Cell]:
    """Every cell of one figure, once; ConfigError if the configuration has no such figure or leaves it empty."""
    if figure == "demo_ablation":
        return cells(config)
    if figure not in config.figures:
        raise ConfigError(f"figures: {unknown('figure', figure, ['demo_ablation', *config.figures])}")
    if not config.figures[figure]:
        raise ConfigError(f"figures: {figure} has no panels in this configuration")
    return _unique(cell for panel in config.figures[figure] for cell in panel_cells(config, panel))


def figure_names(config: Config) -> list[str]:
    """The figures that the configuration gives cells to."""
    return ["demo_ablation", *(name for name, panels in config.figures.items() if panels)]


def replayed_cell(config: Config, map_name: str, method: str) -> Cell:
    """Whose battle is drawn on a map, of ippo and dm2: the first seed, and DM2's first condition there.

    That is figure core's if it has one on the map, else demo_ablation's.
    """
    seed = config.seeds_on(map_name)[0]
    if method == "ippo":
        return Cell(map_name, "ippo", "none", seed)
    core = figure_cells(config, "core") if config.figures.get("core") else []
    fallback = Cell(map_name, "dm2", demo_ids(config, map_name)[0], seed)
    return next((c for c in core if (c.map_name, c.method, c.seed) == (map_name, "dm2", seed)), fallback)


def unjudged_cells(config: Config) -> list[Cell]:
    """Cells of panels with seeds of their own, which choose between settings."""
    panels = [panel for panels in config.figures.values() for panel in panels if panel.seeds]
    return _unique(cell for panel in panels for cell in panel_cells(config, panel))


def all_cells(config: Config) -> list[Cell]:
    """Every cell of every figure, once."""
    return _unique(cell for figure in figure_names(config) for cell in figure_cells(config, figure))


def cells_of(config: Config, only: dict[str, Any]) -> list[Cell]:
    """Cells of the figures under `only_figure` (a name, a list, or `all`); without it, demo_ablation's."""
    names = only.get("only_figure", "demo_ablation")
    if names == "all":
        return all_cells(config)
    listed = names if isinstance(names, list | tuple) else [names]
    try:
        return _unique(cell for name in listed for cell in figure_cells(config, str(name)))
    except ConfigError as error:
        raise ConfigError(f"only_figure: {error}") from None


def packed(config: Config, method: str) -> bool:
    """Whether cells of a method are trained in packs."""
    return config.packs.cells > 0 and METHODS[split_method(method)[0]].packs


def packs(config: Config) -> list[list[Cell]]:
    """Cells trained together, at most `packs.cells`: of one figure, map and settings but for the coefficient."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    seen: set[Cell] = set()
    for figure in figure_names(config):
        for cell in figure_cells(config, figure):
            if cell not in seen and packed(config, cell.method):
                changed = config.changed(cell.method, cell.map_name)
                settings = changed.model_dump_json(exclude={"map_params": {"imitation_coef"}})
                groups.setdefault((figure, cell.map_name, settings), []).append(cell)
            seen.add(cell)
    size = config.packs.cells
    return [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]


def select(grid: Sequence[Cell], only: dict[str, Any]) -> list[Cell]:
    """Cells under `only_map`, `only_method`, `only_seed` (a value or a list); no match is a ConfigError."""
    chosen = list(grid)
    for key, field in (("only_map", "map_name"), ("only_method", "method"), ("only_seed", "seed")):
        if key not in only:
            continue
        wanted = only[key] if isinstance(only[key], list | tuple) else [only[key]]
        there = _unique(getattr(cell, field) for cell in grid)
        unknown = [value for value in wanted if value not in there]
        if unknown or not wanted:
            listed = ", ".join(map(str, there))
            raise ConfigError(
                f"{key}: no cell has {', '.join(map(str, unknown)) or 'an empty list'}; there are: {listed}"
            )
        chosen = [cell for cell in chosen if getattr(cell, field) in wanted]
    if grid and not chosen:
        raise ConfigError(f"{', '.join(only)}: no cell has all of these; leave one out")
    return chosen


def demonstrators(config: Config, map_name: str, demos_id: str) -> list[int]:
    """Seeds of the expert teams one set is drawn from: one, or one per agent, or none.

    ConfigError if `expert_seeds` has fewer than the set's id or the map asks for.
    """
    demos, seeds = parse_demos_id(demos_id), config.expert_seeds_on(map_name)
    count = 1 if demos.joint else load_scenario(map_name).n_agents
    if demos.expert == "random":
        return []
    if max(count, demos.first_team) > len(seeds):
        raise ConfigError(
            f"expert_seeds: {demos_id} on {map_name} needs {max(count, demos.first_team)}, got {len(seeds)}"
        )
    return [seeds[(demos.first_team - 1 + i) % len(seeds)] for i in range(count)]


def demo_battles(config: Config, map_name: str, demos_id: str) -> int:
    """Battles it takes to make one set (demos.py): the demonstrations, and two measurements of everyone who plays."""
    demos = parse_demos_id(demos_id)
    plays = 1 if demos.concurrent else load_scenario(map_name).n_agents
    teams = len(demonstrators(config, map_name, demos_id)) or 1  # random play is one, too
    strangers = not demos.joint and demos.concurrent
    return plays * config.demos.episodes + 2 * (teams + strangers) * config.demos.card_episodes


def expert_digest(config: Config, map_name: str, method: str, seed: int) -> str:
    """Digest of everything that decides an expert's numbers."""
    return cell_config(config, map_name=map_name, method=method, seed=seed, expert=True).digest()


def team_digests(config: Config, map_name: str, demos_id: str) -> list[str]:
    """Digests of the expert teams that a set is sampled from, in their order; none for random play."""
    method = parse_demos_id(demos_id).expert
    return [expert_digest(config, map_name, method, s) for s in demonstrators(config, map_name, demos_id)]


def of_other_teams(config: Config, map_name: str, demos_id: str) -> bool:
    """Whether the set that lies there was sampled from other teams than the configuration's; not where no card says."""
    path = Path(config.results) / "demos" / map_name / demos_id / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        named = [team["digest"] for team in card["teams"] if team["digest"] != "random"]
        return named != team_digests(config, map_name, demos_id)
    except (ConfigError, OSError, ValueError, KeyError, TypeError):
        return False


def demos_digest(config: Config, map_name: str, demos_id: str) -> str:
    """Digest of a demonstration set before it exists: its experts, its settings and its id."""
    if parse_demos_id(demos_id).expert == "random":
        played_in: list[str] = [] if config.env == "embedded" else [config.env]
        played_in += [own for own in (user_map_sha256(map_name),) if own]
        return _digest([demos_id, config.demos.model_dump(), config.eval_seed, RESULTS_VERSION, *played_in])
    experts = team_digests(config, map_name, demos_id)
    return _digest([demos_id, experts, config.demos.model_dump(), config.eval_seed, RESULTS_VERSION])


def cell_digest(config: Config, cell: Cell) -> str:
    """Digest of a cell before its demonstrations exist; Snakemake reruns the cell when it changes."""
    own = cell_config(
        config,
        map_name=cell.map_name,
        method=cell.method,
        seed=cell.seed,
        demos=cell.demos,
        packed=packed(config, cell.method),
    ).digest()
    return own if cell.demos == "none" else _digest([own, demos_digest(config, cell.map_name, cell.demos)])


def made_digest(config: Config, cell: Cell) -> str:
    """Digest that a finished cell's manifest carries, with the demonstrations that its set's card names.

    OSError, ValueError or KeyError if the card is not there or damaged.
    """
    sha256 = ""
    if cell.demos != "none":
        card = Path(config.results) / "demos" / cell.map_name / cell.demos / "card.json"
        sha256 = json.loads(card.read_text(encoding="utf-8"))["sha256"]
    return cell_config(
        config,
        map_name=cell.map_name,
        method=cell.method,
        seed=cell.seed,
        demos=cell.demos,
        demos_sha256=sha256,
        packed=packed(config, cell.method),
    ).digest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _unique(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))
