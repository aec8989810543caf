"""Configuration: one strict, frozen model per component. YAML holds the values, this file holds the rules.

Resolution order, later wins: config/config.yaml, beside it config/scale/{scale}.yaml and config/env/{env}.yaml,
overrides (command line). An env's file may name the scale.
Nothing here imports torch, so that a bad key is reported in a moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from dm2core import RESULTS_VERSION
from dm2core.env.scenario import add_maps, known_maps, load_scenario, user_map_sha256
from dm2core.env.smac.settings import Smac
from dm2core.methods import METHOD_NAME, METHODS, Method, split_method, split_run
from dm2core.qmix.settings import Qmix
from dm2core.rmappo.settings import Rmappo, RmappoMap
from dm2core.strict import ConfigError, Loc, Strict, parse_yaml, read_yaml, unknown, validated

FIGURES = (
    "core",
    "core_extra",
    "bc_pretrain",
    "gail_only",
    "demo_quality",
    "qmix_arch",
    "state_action",
    "switchboard",
    "methods",
    "tuning",
    "ablation_elsewhere",
)
Env = Literal["embedded", "smac"]
Compute = Literal["fused", "torch"]  # compiled kernels, or torch
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _off(value: Any) -> Any:
    """YAML takes the word for false."""
    return "off" if value is False else value


class Switches(Strict):
    """Where the released code differs from the paper's text or its own intent; ids: docs/deviations.md."""

    absorbing_padding: bool  # D05: padded rows up to the limit are trained on and paid
    terminal_row: bool  # D30: the never executed action after the last step is a training row
    t0_last_action_leak: bool  # D04: at t=0 the update feeds the action about to be taken as the last action
    drop_last_episode: bool  # D10: the last episode of a batch never enters a gradient
    freeze_value_head: bool  # D06: the value head keeps its initial weights
    value_norm: Literal["none", "valuenorm"]  # D06: running normalisation of value targets
    value_clip: Annotated[
        Literal["raw", "normalized", "off"], BeforeValidator(_off)
    ]  # D07: value changes are clipped, in units of the critic's output
    huber_one_sided: bool  # D08: value errors below -delta cost nothing
    imitation_reward: Literal["logit", "neglog_agent"]  # D01: f(o), or -log P(agent)


class PPO(Strict):
    """PPO and the networks, the same for every map."""

    gamma: Fraction
    gae_lambda: Fraction
    lr: Positive
    adam_eps: Positive
    entropy_coef: NotNegative
    value_coef: Positive
    huber_delta: Positive
    max_grad_norm: Positive
    hidden_size: Count
    minibatches: Count


class Discriminator(Strict):
    """Per-agent GAIL discriminator."""

    lr: Positive
    hidden_size: Count
    steps: Count  # Adam steps per PPO iteration
    episodes_per_step: Count  # per side, at most
    gp_coef: NotNegative


class Cloning(Strict):
    """Behaviour cloning of demonstrations before training; the released code has none, so the values are ours."""

    lr: Positive
    epochs: Count
    batch_rows: Count  # per agent


class MapParams(Strict):
    """What the authors set per map."""

    episodes_per_update: Annotated[int, Field(gt=1)]
    ppo_epochs: Count
    clip_eps: Annotated[float, Field(gt=0, lt=1)]
    imitation_coef: NotNegative


class MapBudget(Strict):
    """What differs on one map; None: as on all."""

    env_steps: Count | None = None
    expert_env_steps: Count | None = None
    eval_every: Count | None = None
    seeds: Count | None = None  # so many, the first of `seeds`
    # The map's own, where not every team can demonstrate what is asked for. Not dumped if unset: figures hold the hash
    # of their configuration, and most are older than this setting.
    expert_seeds: Annotated[list[Seed], Field(min_length=1)] | None = Field(
        default=None, exclude_if=lambda seeds: seeds is None
    )


class Budget(Strict):
    """How long cells train and how they are evaluated."""

    env_steps: Count
    expert_env_steps: Count
    eval_every: Count  # env steps between evaluations, and between an expert's checkpoints
    eval_episodes: Count
    maps: dict[str, MapBudget]


class DemoSettings(Strict):
    """How demonstrations are drawn."""

    episodes: Count  # per agent
    card_episodes: Count  # battles that measure a win rate for the card


class Ablation(Strict):
    """What figures/demo_ablation shows."""

    maps: Annotated[list[str], Field(min_length=1)]
    expert: Annotated[str, Field(pattern=r"^ippo-(q\d{1,3}|s\d+k)$")]
    # map -> the expert team its four sets start from, counted from 1 in `expert_seeds`; the first where it is not named
    first_team: dict[str, Annotated[int, Field(ge=1)]] = Field(default={}, exclude_if=lambda teams: not teams)


class Panel(Strict):
    """One panel of a figure: a map and its curves, each with the paper's name for it, or "" where it has none."""

    map: str
    curves: Annotated[dict[str, str], Field(min_length=1)]
    # None: the map's. Others are for choosing between settings: such runs are drawn, and no claim is judged by them.
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None


class Changed(Strict):
    """What a method's name can change, one setting at a time: dm2+absorbing_padding=false, bc_ippo+cloning.epochs=9."""

    switches: Switches
    ppo: PPO
    map_params: MapParams
    cloning: Cloning


class Packs(Strict):
    """Training many cells in one process (docs/packs.md)."""

    cells: Annotated[int, Field(ge=0)]  # at most; 0: every cell by itself
    device: Literal["cpu", "cuda"]
    threads: Count  # of the simulator


class Mlflow(Strict):
    """Where `dm2 track` delivers finished cells (docs/mlflow.md)."""

    uri: str  # empty: sqlite in the results folder


class Calibration(Strict):
    """IPPO runs that compare the simulator with the paper's IPPO curves; their budget is the scale's."""

    maps: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]


class Config(Strict):
    """The whole protocol."""

    scale: Literal["smoke", "quick", "paper", "campaign"]
    env: Env
    maps_file: str  # unit types and maps of one's own; "" for none
    results: str
    profile: str
    profiles: dict[str, Switches]
    switches: dict[str, bool | str]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    expert_seeds: Annotated[list[Seed], Field(min_length=1)]
    eval_seed: Seed
    dtype: Literal["float32", "float64"]
    compute: Literal["auto", "fused", "torch"]
    claims: str  # what the verdict judges; from the repository's root
    budget: Budget
    ppo: PPO
    discriminator: Discriminator
    cloning: Cloning
    qmix: Qmix
    rmappo: Rmappo
    own_episodes: Count  # self-imitation: how many of the best own episodes are kept
    demos: DemoSettings
    maps: dict[str, MapParams]
    demo_ablation: Ablation
    figures: dict[str, list[Panel]]
    calibration: Calibration
    smac: Smac
    packs: Packs
    mlflow: Mlflow

    @model_validator(mode="after")
    def _cross_check(self) -> Config:
        for key, names in (
            ("maps", list(self.maps)),
            ("budget.maps", list(self.budget.maps)),
            ("demo_ablation.maps", self.demo_ablation.maps),
            ("calibration.maps", self.calibration.maps),
        ):
            for name in names:
                if name not in known_maps():
                    raise ConfigError(f"{key}: {unknown('map', name, known_maps())}")
        for name in self.demo_ablation.maps:
            self.map_params(name)
            needed = load_scenario(name).n_agents
            if (distinct := len(set(self.expert_seeds_on(name)))) < needed:
                raise ConfigError(
                    f"expert_seeds: {distinct} distinct seeds, but {name} needs {needed}: "
                    "independent demonstrations take one expert team per agent"
                )
        for name, team in self.demo_ablation.first_team.items():
            if name not in self.demo_ablation.maps:
                raise ConfigError(
                    f"demo_ablation.first_team: {unknown('map', name, self.demo_ablation.maps)}"
                )
            if team > (teams := len(self.expert_seeds_on(name))):
                raise ConfigError(
                    f"demo_ablation.first_team.{name}: {team}, but there are only {teams} teams"
                )
        for name in self.calibration.maps:
            self.map_params(name)
        for key, seeds in (
            ("seeds", self.seeds),
            ("expert_seeds", self.expert_seeds),
            ("calibration.seeds", self.calibration.seeds),
            *((f"budget.maps.{name}.expert_seeds", self.expert_seeds_on(name)) for name in self.budget.maps),
        ):
            if len(set(seeds)) < len(seeds):
                raise ConfigError(f"{key}: {seeds} holds a seed twice; every seed must be different")
        for name, own in self.budget.maps.items():
            if own.seeds is not None and own.seeds > len(self.seeds):
                raise ConfigError(f"budget.maps.{name}.seeds: {own.seeds}, but seeds holds {len(self.seeds)}")
        if self.profile not in self.profiles:
            raise ConfigError(f"profile: {unknown('profile', self.profile, list(self.profiles))}")
        self.resolved_switches()
        for figure, panels in self.figures.items():
            if figure not in FIGURES:
                raise ConfigError(f"figures: {unknown('figure', figure, FIGURES)}")
            for panel in panels:
                for run in panel.curves:
                    self._check_run(f"figures.{figure}", panel.map, run)
                both = set(panel.seeds or []) & {*self.seeds, *self.expert_seeds_on(panel.map)}
                if both:
                    raise ConfigError(
                        f"figures.{figure}: {panel.map}: seed {min(both)} is also in seeds or expert_seeds; "
                        "a panel's own seeds are for runs that are not judged"
                    )
        self.resolved_compute()
        if self.env == "smac" and self.packs.cells:
            raise ConfigError(
                "packs.cells: packs fight in the simulator only; set packs.cells=0 for env smac"
            )
        return self

    @property
    def games(self) -> Smac | None:
        """How the real game is run, None for the simulator: what `make_env` takes."""
        return self.smac if self.env == "smac" else None

    def games_of(self, method: str) -> Smac | None:
        """The same for a cell of one method: QMIX fights one battle at a time, so a single game is enough for it."""
        one = METHODS[split_method(method)[0]].family == "qmix"
        return self.games.model_copy(update={"games": 1}) if self.games and one else self.games

    def _check_run(self, where: str, map_name: str, run: str) -> None:
        method, demos = split_run(run)
        try:
            if map_name not in known_maps():
                raise ConfigError(f"map: {unknown('map', map_name, known_maps())}")
            _check_method(method, demos)
            self.changed(method, map_name)
            teams = len(self.expert_seeds_on(map_name))
            if demos != "none" and not parse_demos_id(demos).joint:
                needed = load_scenario(map_name).n_agents
                if teams < needed:
                    raise ConfigError(
                        f"expert_seeds: {map_name} has {needed} agents and needs as many different experts, got {teams}"
                    )
            if demos != "none" and parse_demos_id(demos).first_team > teams:
                raise ConfigError(f"expert_seeds: there are only {teams} teams")
        except ConfigError as error:
            raise ConfigError(f"{where}: {run}: {error}") from None

    def changed(self, method: str, map_name: str) -> Changed:
        """Switches and settings on a map, under the single changes of a method's name."""
        if not re.fullmatch(METHOD_NAME, method):
            raise ConfigError(
                f"method: {method}: changes are written +name=value, in lower-case letters, digits, -_."
            )
        base, texts = split_method(method)
        there: dict[str, dict[str, Any]] = {
            "switches": self.resolved_switches().model_dump(),
            "ppo": self.ppo.model_dump(),
            "map_params": self.map_params(map_name).model_dump(),
            "cloning": self.cloning.model_dump(),
        }
        if METHODS[base].reward != "mixed":
            there["map_params"]["imitation_coef"] = 0.0
        known = {
            f"{part}.{key}" if part == "cloning" else key: (part, key)  # ppo has an lr, too
            for part, settings in there.items()
            for key in settings
        }
        for name, text in texts.items():
            if name not in known:
                raise ConfigError(f"method: {method}: {unknown('setting', name, list(known))}")
            part, key = known[name]
            if not _reads(METHODS[base], part, key):
                raise ConfigError(f"method: {method}: {base} does not read {name}")
            there[part][key] = parse_yaml(text)
        return validated(Changed, there, f"method: {method}")

    def budget_on(self, map_name: str) -> Budget:
        """The budget of one map's cells."""
        own = self.budget.maps.get(map_name, MapBudget())
        changes = own.model_dump(exclude={"seeds", "expert_seeds"}, exclude_none=True)
        return self.budget.model_copy(update=changes)

    def seeds_on(self, map_name: str) -> list[int]:
        """The seeds of one map's cells."""
        own = self.budget.maps.get(map_name, MapBudget())
        return self.seeds[: own.seeds or len(self.seeds)]

    def expert_seeds_on(self, map_name: str) -> list[int]:
        """The seeds of one map's expert teams, in the order in which demonstration sets count them."""
        own = self.budget.maps.get(map_name, MapBudget())
        return self.expert_seeds if own.expert_seeds is None else own.expert_seeds

    def map_params(self, map_name: str) -> MapParams:
        """Settings of one map; ConfigError if the map has none, or if there is no such map."""
        if map_name not in known_maps():
            raise ConfigError(f"map: {unknown('map', map_name, known_maps())}")
        if map_name not in self.maps:
            needed = ", ".join(f"{name}: ..." for name in MapParams.model_fields)
            raise ConfigError(
                f"maps: {map_name} has no hyper-parameters; give them: --set 'maps.{map_name}={{{needed}}}'"
            )
        return self.maps[map_name]

    def resolved_compute(self, ppo: PPO | None = None) -> Compute:
        """The form of the hot loops: `auto` is the compiled one wherever it can be built.

        `ppo`: a cell's own, where its method's name changes it.
        """
        obstacles = []
        if self.dtype != "float32":
            obstacles.append(f"dtype float32, got {self.dtype}")
        actors = (self.ppo if ppo is None else ppo).hidden_size
        if any(size % 16 for size in (actors, self.discriminator.hidden_size)):
            sizes = f"{actors} and {self.discriminator.hidden_size}"
            obstacles.append(f"hidden_size that 16 divides, got {sizes}")
        if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
            obstacles.append("numba's compiler, which NUMBA_DISABLE_JIT switches off")
        if self.compute == "fused" and obstacles:
            raise ConfigError(f"compute: fused needs {obstacles[0]}; set compute: torch")
        return "torch" if self.compute == "torch" or obstacles else "fused"

    def resolved_switches(self) -> Switches:
        """The chosen profile with single flips applied."""
        merged = self.profiles[self.profile].model_dump() | self.switches
        return validated(Switches, merged, "switches")


class CellConfig(Strict):
    """Everything that decides one cell's numbers, resolved; its digest decides reruns."""

    map_name: str
    map_sha256: str = ""  # of the data of a map of one's own, "" for a shipped map
    env: Env
    method: str
    demos: str  # id of the demonstration set, "none" for methods without one
    demos_sha256: str  # of the demonstration file, "" without one
    seed: Seed
    eval_seed: Seed
    env_steps: Count
    eval_every: Count
    eval_episodes: Count
    keep_checkpoints: bool  # experts keep the policy at every evaluation
    dtype: Literal["float32", "float64"]
    compute: Literal["fused", "torch", "pack"]  # pack: trained beside other cells (dm2core/pack)
    switches: Switches
    ppo: PPO
    map_params: MapParams
    # None where the method has no such part, so that its settings rerun no such cell.
    discriminator: Discriminator | None
    cloning: Cloning | None = None
    own_episodes: int | None = None
    qmix: Qmix | None = None
    rmappo: Rmappo | None = None
    results_version: int
    smac: Smac | None = None  # how the real game is run, None in the simulator; decides no number

    @property
    def form(self) -> Compute:
        """The form of what the cell computes alone: a packed one's evaluations, for example."""
        if self.qmix is not None and self.qmix.hidden_size % 16:
            return "torch"
        return "torch" if self.compute == "pack" else self.compute

    def digest(self) -> str:
        """SHA-256 (hex) over the canonical JSON of every field that holds something."""
        fields = self.model_dump()
        for name in _LATER:
            if not fields[name]:
                del fields[name]
        for name in _UNREAD[METHODS[self.method].family]:
            del fields[name]
        del fields["smac"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _check_method(method: str, demos: str) -> str:
    """The method without its single changes; ConfigError if there is none, or if demonstrations do not fit it."""
    base = split_method(method)[0]
    if base not in METHODS:
        raise ConfigError(f"method: {unknown('method', base, METHODS)}")
    if METHODS[base].needs_demos and demos == "none":
        raise ConfigError(f"demos: method {base} learns from demonstrations; give a demonstration file")
    if not METHODS[base].needs_demos and demos != "none":
        raise ConfigError(f"demos: method {base} takes no demonstrations, got {demos!r}")
    return base


def _reads(method: Method, part: str, key: str) -> bool:
    """Whether any number of a method's cells depends on the setting."""
    if part == "cloning":
        return method.cloned
    if key == "imitation_coef":
        return method.reward == "mixed"
    if key == "imitation_reward":
        return method.imitates
    if method.family == "rmappo" and part == "ppo":
        return key not in ("lr", "value_coef", "minibatches")  # the first two are its own, in `rmappo`
    return part not in _UNREAD[method.family]


def _rmappo(settings: Rmappo, map_name: str, params: dict[str, Any]) -> dict[str, Any]:
    """Settings for one map; a map without its own takes IPPO's."""
    ours = RmappoMap(ppo_epochs=params["ppo_epochs"], clip_eps=params["clip_eps"])
    return settings.on(map_name, ours).model_dump()


# Parts that cells of a family never read, and so must rerun none of them. QMIX reads `compute` since it has a compiled
# form, which rounds differently: that stands in the numerics key (`form`), because the digests of earlier cells are
# without.
_UNREAD: dict[str, tuple[str, ...]] = {
    "ppo": (),
    "qmix": ("switches", "ppo", "map_params", "compute"),
    "rmappo": ("switches", "map_params", "compute"),
}
# Fields that most cells leave empty; an empty one leaves the digest as it was before there were such fields.
_LATER = ("map_sha256", "cloning", "own_episodes", "qmix", "rmappo")


def cell_config(
    config: Config,
    *,
    map_name: str,
    method: str,
    seed: int,
    demos: str = "none",
    demos_sha256: str = "",
    expert: bool = False,
    packed: bool = False,
) -> CellConfig:
    """Resolve one cell, `packed` if it is trained in a pack; experts train `expert_env_steps` and keep checkpoints."""
    if map_name not in known_maps():
        raise ConfigError(f"map: {unknown('map', map_name, known_maps())}")
    base = _check_method(method, demos)
    kind = METHODS[base]
    changed = config.changed(method, map_name)
    budget = config.budget_on(map_name)
    params = changed.map_params.model_dump()
    games = config.games_of(base)
    fields = {
        "map_name": map_name,
        "map_sha256": user_map_sha256(map_name),
        "env": config.env,
        "method": base,
        "demos": demos,
        "demos_sha256": demos_sha256,
        "seed": seed,
        "eval_seed": config.eval_seed,
        "env_steps": budget.expert_env_steps if expert else budget.env_steps,
        "eval_every": budget.eval_every,
        "eval_episodes": budget.eval_episodes,
        "keep_checkpoints": expert,
        "dtype": config.dtype,
        "compute": "pack" if packed else config.resolved_compute(changed.ppo),
        "switches": changed.switches.model_dump(),
        "ppo": changed.ppo.model_dump(),
        "map_params": params,
        "discriminator": config.discriminator.model_dump() if kind.imitates else None,
        "cloning": changed.cloning.model_dump() if kind.cloned else None,
        "qmix": config.qmix.model_dump() if kind.family == "qmix" else None,
        "rmappo": _rmappo(config.rmappo, map_name, params) if kind.family == "rmappo" else None,
        "own_episodes": config.own_episodes if kind.learns_from == "self" else None,
        "results_version": RESULTS_VERSION,
        "smac": None if games is None else games.model_dump(),
    }
    return validated(CellConfig, fields, "cell")


class DemoSet(Strict):
    """One demonstration set, as its id says.

    `{expert}-{select}_{joint|indep}-{concurrent|nonconcurrent|shuffled}`, then `-t{k}` if it is not from the first
    expert team on but from the k-th.
    """

    expert: str  # method of the expert runs; random: nobody's, uniform over the available actions
    select: str  # q50: checkpoint nearest to win rate .50; s500k: nearest to 500,000 env steps; e10: last, epsilon .10
    joint: bool  # all agents' data from one co-trained team, else agent i from expert team i
    concurrent: bool  # all agents' data from the same battles
    shuffled: bool  # a control: every number of the observations drawn from another row
    first_team: int  # counted from 1 in `expert_seeds`, round and round

    @property
    def target_win_rate(self) -> float | None:
        return int(self.select[1:]) / 100 if self.select.startswith("q") else None

    @property
    def target_env_steps(self) -> int | None:
        return int(self.select[1:-1]) * 1000 if self.select.startswith("s") else None

    @property
    def epsilon(self) -> float:
        """Share of uniformly random actions among the demonstrators'."""
        return int(self.select[1:]) / 100 if self.select.startswith("e") else 0.0


# QMIX has no stochastic policy to sample from: its last checkpoint plays, with or without noise.
DEMOS_ID = (
    r"(?:(?P<expert>ippo|rmappo)-(?P<select>q\d{1,3}|s\d+k)|(?P<greedy>qmix)-(?P<noise>e\d{1,2})|random)"
    r"_(?:(?P<team>joint|indep)-(?P<conc>concurrent|nonconcurrent)|joint-(?P<shuffled>shuffled))"
    r"(?:-t(?P<first>[2-9]|[1-9]\d))?"
)


def of_any_team(demos_id: str) -> str:
    """A set's id without its first team: sets that differ only in that are one condition, of several teams."""
    return re.sub(r"-t\d+$", "", demos_id)


def parse_demos_id(demos_id: str) -> DemoSet:
    """Read a demonstration set's id; ConfigError with the pattern if it is not one."""
    match = re.fullmatch(DEMOS_ID, demos_id)
    if match is None:
        raise ConfigError(
            f"demos: {demos_id!r} is not a demonstration set; ids look like ippo-q50_joint-concurrent "
            "(expert-select_{joint|indep}-{concurrent|nonconcurrent}; select is q<percent>, s<thousands>k, or, "
            "for qmix, e<percent of random actions>; -t2 at the end: from the second expert team on)"
        )
    select = match["select"] or match["noise"] or ""
    if match["greedy"] and match["team"] == "indep":
        raise ConfigError(f"demos: {demos_id!r}: QMIX agents share one network; only joint sets can be made")
    if demos_id.startswith("random") and (match["team"] == "indep" or match["first"]):
        raise ConfigError(f"demos: {demos_id!r}: random play is of no team; only joint sets can be made")
    return DemoSet(
        expert=match["expert"] or match["greedy"] or "random",
        select=select,
        joint=match["team"] != "indep",
        concurrent=match["conc"] != "nonconcurrent",
        shuffled=match["shuffled"] is not None,
        first_team=int(match["first"] or 1),
    )


def load_config(
    path: str | Path, overrides: Mapping[str, Any] | None = None, overrides_from: str = ""
) -> Config:
    """Read, merge and validate; raises ConfigError with one line.

    It names the file that a wrong value is from, or `overrides_from` if it is from the overrides.
    """
    path = Path(path)
    overrides = dict(overrides or {})
    base = read_yaml(path, "; run this from the repository's root, or give a configuration with --config")
    sources: list[tuple[str, Mapping[str, Any]]] = [(str(path), base)]
    env_file = path.parent / "env" / f"{overrides.get('env', base.get('env'))}.yaml"
    of_env = read_yaml(env_file) if env_file.is_file() else {}
    scale = overrides.get("scale", of_env.get("scale", base.get("scale")))
    folder = path.parent / "scale"
    if folder.is_dir() and "scale" in base:
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        if scale not in known:
            raise ConfigError(f"scale: {unknown('scale', str(scale), known)}")
        scale_file = folder / f"{scale}.yaml"
        sources.append((str(scale_file), read_yaml(scale_file)))
    sources += [(name, over) for name, over in ((str(env_file), of_env), (overrides_from, overrides)) if over]
    merged: dict[str, Any] = {}
    for _, over in sources:
        merged = _merge(merged, over)
    maps_file = merged.get("maps_file")
    if isinstance(maps_file, str) and maps_file:
        try:
            add_maps(maps_file)
        except ConfigError as error:
            raise ConfigError(f"maps_file: {error}") from None
    return validated(Config, merged, lambda loc: _source(sources, loc))


def _source(sources: Sequence[tuple[str, Mapping[Any, Any]]], loc: Loc) -> str:
    """Who gave what stands at `loc`, of sources of which later ones win; "" if it is of several."""
    there = list(sources)
    for part in loc:
        found = [(name, values[part]) for name, values in there if part in values]
        if not found:  # a key that is missing: the first source had to have it
            return there[0][0]
        there = []
        for name, value in found:
            there = [*there, (name, value)] if isinstance(value, Mapping) else []
        if not there:
            return found[-1][0]
    return there[0][0] if len(there) == 1 else ""


def dump_config(config: Config) -> str:
    """YAML text of a resolved config; `load_config` of it gives the same config, unless scales lie beside it."""
    return yaml.safe_dump(config.model_dump(), sort_keys=True)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out
