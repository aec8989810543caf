"""Configuration, names and helper functions; no rules here.

Snakemake's `config` holds only what the command line says (--config, --configfile); it is laid over
config/config.yaml by the package's own loader, which knows every key.
"""

import copy
import glob
import hashlib
import json
import os
import re
import shlex
import sys

import yaml
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from dm2core.analysis import grid
from dm2core.analysis.calibration import PAPER_BUFFER, calibration_cells
from dm2core.config import DEMOS_ID, FIGURES, ConfigError, dump_config, load_config
from dm2core.env.scenario import load_scenario
from dm2core.errors import DataError, WriteError
from dm2core.methods import METHOD_NAME
from dm2core.qmix.settings import replay_bytes
from dm2core.records.files import write_atomic
from dm2core.records.manifest import read_manifest
from dm2core.strict import unknown

# One thread per cell: the thread count is part of a result, and cells are what runs side by side.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

FILTERS = ("only_figure", "only_map", "only_method", "only_seed")


def typed(value, nested=False):
    """Undo that --config reads everything inside a list or mapping as text; yaml.YAMLError where it is no YAML."""
    if isinstance(value, dict):
        return {key: typed(item, True) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item, True) for item in value]
    return yaml.safe_load(value) if nested and isinstance(value, str) and value else value


def resolve(given):
    """Resolved config, demo_ablation's cells, and the cells under the filters; a bad key is one line."""
    by = [str(path) for path in workflow.overwrite_configfiles]
    by += ["--config"] if workflow.config_settings.config else []
    try:
        given = copy.deepcopy(given)
        # A --configfile's values have their types.
        update_config(given, typed(workflow.config_settings.config or {}))
        overrides = {key: value for key, value in given.items() if key not in FILTERS}
        only = {key: value for key, value in given.items() if key in FILTERS}
        for key in overrides:
            if key.startswith("only_"):
                raise ConfigError(unknown("filter", key, FILTERS))
        resolved = load_config(Path(workflow.basedir) / "config" / "config.yaml", overrides, " or ".join(by))
        return resolved, grid.cells(resolved), grid.select(grid.cells_of(resolved, only), only)
    except yaml.YAMLError as error:
        raise WorkflowError(f"--config: not valid YAML: {' '.join(str(error).split())}") from None
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def write_config(resolved):
    """Path of the resolved config, written under its own hash, again if it was changed: what every cell reads."""
    text = dump_config(resolved)
    path = Path(resolved.results) / "config" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
    try:
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomic(path, text.encode())
    except OSError as error:
        raise WorkflowError(f"results: {path} cannot be read ({error.strerror})") from None
    except WriteError as error:
        raise WorkflowError(f"results: {error}") from None
    return path.as_posix()


CONFIG, GRID, SELECTED = resolve(config)
RESULTS = CONFIG.results.rstrip("/")
CONFIG_FILE = write_config(CONFIG)
SCRIPTS = f"{workflow.basedir}/workflow/scripts"
ANALYSIS = f"{workflow.basedir}/dm2core/analysis"
PAPER_CURVES = sorted(glob.glob(f"{workflow.basedir}/resources/paper_curves/*.csv"))

# Cells find the resolved config and this interpreter in their environment: in a rule's params, a config that
# differs in a key some cell never reads (one more seed) would rerun that cell. Its digest decides instead.
os.environ.update(
    DM2_CONFIG=CONFIG_FILE,
    DM2_SCHEDULER=str(os.getpid()),  # a cell that outlives it keeps its state
    PATH=os.pathsep.join([os.path.dirname(sys.executable), *os.get_exec_path()]),
)


SET = re.sub(r"\?P<\w+>", "?:", DEMOS_ID)  # Snakemake names the groups of a pattern itself
OTHERS = r"(?:demo_ablation|theory|replay_\w+)\."  # in figures/, by rules of their own


wildcard_constraints:
    map=r"[0-9a-zA-Z_]+",
    method=METHOD_NAME,
    demos=rf"none|{SET}",
    demos_id=SET,
    figure=rf"(?!{OTHERS})[a-z_]+",  # any name: the grid knows the nearest of a wrong one
    seed=r"\d+",


def cell_files(name, chosen):
    """One file of each chosen cell."""
    return [f"{RESULTS}/cells/{cell.path}/{name}" for cell in chosen]


def map_cells(wildcards):
    """Metrics of every cell of one map."""
    return cell_files("metrics.parquet", [cell for cell in GRID if cell.map_name == wildcards.map])


def pack_demos(pack):
    """Demonstration files of the cells of one pack."""
    sets = dict.fromkeys((cell.map_name, cell.demos) for cell in pack if cell.demos != "none")
    return [f"{RESULTS}/demos/{map_name}/{demos}/demos.npz" for map_name, demos in sets]


def pack_options(pack):
    """The cells of one pack as options of `dm2 train-pack`."""
    options = []
    for cell in pack:
        demos = "none" if cell.demos == "none" else f"{RESULTS}/demos/{cell.map_name}/{cell.demos}"
        out, state = f"{RESULTS}/cells/{cell.path}", f"{RESULTS}/state/cells/{cell.path}"
        options += ["--cell", f"{cell.method}:{demos}:{cell.seed}:{out}:{state}"]
    return options


def pack_digest(pack):
    return hashlib.sha256("".join(grid.cell_digest(CONFIG, cell) for cell in pack).encode()).hexdigest()


def replayed_policy(wildcards):
    """The policy whose battle is recorded."""
    return cell_files("policy.safetensors", [grid.replayed_cell(CONFIG, wildcards.map, wildcards.method)])


def map_manifests(wildcards):
    """Manifests of every cell of one map."""
    return cell_files("manifest.json", [cell for cell in GRID if cell.map_name == wildcards.map])


def figure_metrics(wildcards):
    """Metrics of every cell of one figure."""
    return cell_files("metrics.parquet", or_workflow_error(grid.figure_cells, CONFIG, wildcards.figure))


def figure_manifests(wildcards):
    """Manifests of every cell of one figure."""
    return cell_files("manifest.json", or_workflow_error(grid.figure_cells, CONFIG, wildcards.figure))


def figure_cards(wildcards):
    """Cards of the demonstration sets of one figure."""
    chosen = or_workflow_error(grid.figure_cells, CONFIG, wildcards.figure)
    sets = dict.fromkeys((cell.map_name, cell.demos) for cell in chosen if cell.demos != "none")
    return [f"{RESULTS}/demos/{map_name}/{demos}/card.json" for map_name, demos in sets]


def figure_digest(wildcards):
    chosen = or_workflow_error(grid.figure_cells, CONFIG, wildcards.figure)
    return hashlib.sha256("".join(grid.cell_digest(CONFIG, cell) for cell in chosen).encode()).hexdigest()


def files_digest(pattern):
    """Hash of all files of a pattern."""
    parts = [Path(path).read_bytes() for path in sorted(glob.glob(pattern))]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def figure_plan(wildcards):
    """What a figure takes from the configuration beside its cells: panels, names of the paper's curves, notes."""
    panels = CONFIG.figures.get(wildcards.figure, [])
    plan = [CONFIG.scale, CONFIG.env, *(panel.model_dump() for panel in panels)]
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


def finished_digest(wildcards):
    """Hash of the manifests of all finished cells, planned or not."""
    return files_digest(f"{RESULTS}/cells/*/*/*/seed*/manifest.json")


def own_maps():
    """The option of `dm2` that names the user's maps, where there are any."""
    return f"--maps-file {shlex.quote(CONFIG.maps_file)}" if CONFIG.maps_file else ""


def map_cards(wildcards):
    """Cards of the demonstration sets of one map."""
    return [
        f"{RESULTS}/demos/{wildcards.map}/{name}/card.json" for name in grid.demo_ids(CONFIG, wildcards.map)
    ]


def curves_folder(wildcards, input):
    """Folder of the paper's curves."""
    return os.path.dirname(input.paper[0])


def out_folder(wildcards, output):
    """Folder a command writes to."""
    return os.path.dirname(output[0])


def state_folder(wildcards, output):
    """Where an unfinished cell keeps its state: not an output, which Snakemake deletes before a rerun."""
    return f"{RESULTS}/state/{os.path.relpath(os.path.dirname(output[0]), RESULTS)}"


def tables_folder(wildcards, input):
    """Folder of the tables a figure reads."""
    return os.path.dirname(input.tables[0])


def measured_folder(wildcards, input):
    """Folder of the tables the simulator's page reads."""
    return os.path.dirname(input.measured[0])


def expert_policies(wildcards):
    """Checkpoints of the experts one demonstration set is drawn from."""
    method = grid.parse_demos_id(wildcards.demos_id).expert
    seeds = grid.demonstrators(CONFIG, wildcards.map, wildcards.demos_id)
    return [
        f"{RESULTS}/experts/{wildcards.map}/{method}/seed{seed}/checkpoints.safetensors" for seed in seeds
    ]


def expert_folders(wildcards, input):
    """The same experts as folders, in the order of `expert_seeds`."""
    return [os.path.dirname(path) for path in input.experts]


def cell_demos(wildcards):
    """The demonstration file a cell learns from, if it has one."""
    return [] if wildcards.demos == "none" else f"{RESULTS}/demos/{wildcards.map}/{wildcards.demos}/demos.npz"


def demos_option(wildcards):
    """The same as an option of `dm2 train`."""
    if wildcards.demos == "none":
        return ""
    return shlex.join(["--demos", f"{RESULTS}/demos/{wildcards.map}/{wildcards.demos}"])


def or_workflow_error(function, *arguments):
    """Call `function`; a path asked for by hand that names no possible cell is one line."""
    try:
        return function(*arguments)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def expert_digest(wildcards):
    return or_workflow_error(grid.expert_digest, CONFIG, wildcards.map, wildcards.method, int(wildcards.seed))


def demos_digest(wildcards):
    return or_workflow_error(grid.demos_digest, CONFIG, wildcards.map, wildcards.demos_id)


def cell_digest(wildcards):
    cell = grid.Cell(wildcards.map, wildcards.method, wildcards.demos, int(wildcards.seed))
    return or_workflow_error(grid.cell_digest, CONFIG, cell)


def table_digest(wildcards):
    chosen = [cell for cell in GRID if cell.map_name == wildcards.map]
    return hashlib.sha256("".join(grid.cell_digest(CONFIG, cell) for cell in chosen).encode()).hexdigest()


def report_files():
    """Verdict, theory, battles, demo_ablation, and the other figures that were drawn under this configuration."""
    made = [name for name in FIGURES if drawn_under(f"figures/{name}.manifest.json")]
    names = ["demo_ablation", *made, "theory", *(f"replay_{map}" for map in replayed_maps())]
    ends = {name: ".gif" if name.startswith("replay") else ".pdf" for name in names}
    return [f"{RESULTS}/verdict/verdict.html", *(f"figures/{name}{end}" for name, end in ends.items())]


def replayed_maps():
    """Maps with a battle on the report's page: none with the real game, for it is the simulator that fights them."""
    return [] if GAMES else CONFIG.demo_ablation.maps


def drawn_under(manifest):
    """Whether a figure was made under the present configuration; others may need cells that nobody asked for."""
    try:
        return read_manifest(Path(manifest)).config_sha256.startswith(Path(CONFIG_FILE).stem)
    except DataError:
        return False


def calibration_metrics(wildcards):
    """Metrics of the IPPO cells that are compared with the paper's on one map."""
    return cell_files("metrics.parquet", calibration_cells(CONFIG, wildcards.map))


def calibration_digest(wildcards):
    chosen = calibration_cells(CONFIG, wildcards.map)
    parts = [or_workflow_error(grid.cell_digest, CONFIG, cell) for cell in chosen]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def buffer_metrics(wildcards):
    """The same with the buffer that the paper names."""
    return cell_files("metrics.parquet", calibration_cells(CONFIG, wildcards.map, PAPER_BUFFER))


def buffer_digest(wildcards):
    chosen = calibration_cells(CONFIG, wildcards.map, PAPER_BUFFER)
    parts = [or_workflow_error(grid.cell_digest, CONFIG, cell) for cell in chosen]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def calibrated_digest(wildcards):
    """Hash of the calibration tables there are."""
    return files_digest("results/reference/simulator/ippo*.csv")


# The real game's share: a step runs some games beside its one thread. Memory and speed of a game are assumed.
GAMES = CONFIG.smac.games if CONFIG.env == "smac" else 0
GAME_MB, GAME_STEPS_PER_MINUTE = 1500, 1_500


def games(wildcards):
    """Real games that play a step's battles, and how many more there are to evaluate; see docs/starcraft.md."""
    method = wildcards.get("method", "") if GAMES else ""
    if method.startswith("qmix"):
        return 1, 0
    return (CONFIG.rmappo.battles, GAMES) if method.startswith("rmappo") else (GAMES, 0)


def battle_threads(wildcards):
    """Of a step that fights battles: a game is idle while the others evaluate."""
    return 1 + max(games(wildcards))


def memory(wildcards, attempt):
    return 2000 * attempt


def cell_memory(wildcards, attempt):
    """Of a cell or an expert: what was measured, and the replay that QMIX has; see docs/slurm.md."""
    most = 2000 + replay_mb(wildcards.map) if wildcards.method.startswith("qmix") else 0
    return max(3000, most) * attempt + GAME_MB * sum(games(wildcards))


def replay_mb(map_name):
    """Of a full replay of QMIX. The game's is saved with all that was seen, by way of two copies."""
    from dm2core.env.vector import map_spec  # takes a second, which other steps need not wait

    size = replay_bytes(map_spec(map_name), CONFIG.qmix.replay_episodes)
    return (3 if GAMES else 1) * size // 1_000_000


def demos_memory(wildcards, attempt):
    """Of a demonstration set."""
    return 2000 * attempt + GAME_MB * sum(games(wildcards))


def pack_memory(pack):
    """A cell of the largest map and buffer (8m_vs_9m, 1024 episodes) adds 1,020 MB to a pack; see docs/slurm.md."""
    return lambda wildcards, attempt: (1000 + 1100 * len(pack)) * attempt


def steps_a_minute(wildcards):
    """Env steps that a minute is asked for. QMIX in its torch form took four seconds for a thousand."""
    if GAMES:
        return GAME_STEPS_PER_MINUTE * games(wildcards)[0]
    return 10_000 if wildcards.get("method", "").startswith("qmix") else 20_000


def minutes_for(env_steps):
    """Time limit to ask a scheduler for: generous, and more with every attempt; cells resume."""
    return lambda wildcards, attempt: attempt * (30 + env_steps // steps_a_minute(wildcards))


def demos_minutes(wildcards, attempt):
    """Of a demonstration set: in the real game all its battles, as if every one went on to the time limit."""
    steps = 0
    if GAMES:
        battles = grid.demo_battles(CONFIG, wildcards.map, wildcards.demos_id)
        steps = battles * load_scenario(wildcards.map).episode_limit
    return minutes_for(steps)(wildcards, attempt)


def minutes_on_map(budget):
    """The same for one cell or expert, by its map's budget."""
    return lambda wildcards, attempt: minutes_for(getattr(CONFIG.budget_on(wildcards.map), budget))(
        wildcards, attempt
    )
