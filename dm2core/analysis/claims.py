"""claims/claims.yaml: which contrast speaks for which claim of the paper, and the rule that judges it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dm2core.config import Config, parse_demos_id
from dm2core.env.scenario import known_maps
from dm2core.methods import METHODS, split_method, split_run
from dm2core.strict import ConfigError, Strict, read_yaml, unknown, validated

Steps = Annotated[int, Field(gt=0)]
Metric = Literal["auc", "final", "early", "margin"]
Direction = Literal["above", "below", "equal"]
Source = Literal["text", "figures", "notebook", "ours"]


class Level(Strict):
    """A fixed win rate to compare with, instead of runs."""

    level: float = Field(ge=0.0, le=1.0)


Arm = list[str] | Level


class Paper(Strict):
    """The published curves that give the paper's number: a file of resources/paper_curves and conditions in it."""

    figure: str
    a: Arm
    b: Arm
    figure_b: str = ""  # the file of b's curves, where it is another


class Contrast(Strict):
    """A - B on one map; each arm is a list of `method[@demos]`, averaged, or a level."""

    map: str
    a: list[str] = Field(min_length=1)
    b: Arm
    paper: Paper | None = None

    @property
    def runs(self) -> list[str]:
        """Those of both arms."""
        return [*self.a, *([] if isinstance(self.b, Level) else self.b)]

    @model_validator(mode="after")
    def _runs_exist(self) -> Contrast:
        if self.map not in known_maps():
            raise ConfigError(f"map: {unknown('map', self.map, known_maps())}")
        if not isinstance(self.b, Level) and not self.b:
            raise ConfigError("b: an empty list; give runs or {level: number}")
        for run in self.runs:
            method, demos = split_run(run)
            base = split_method(method)[0]
            if base not in METHODS:
                raise ConfigError(f"{run}: {unknown('method', base, METHODS)}")
            if METHODS[base].needs_demos != (demos != "none"):
                wants = "needs" if METHODS[base].needs_demos else "takes no"
                raise ConfigError(f"{run}: method {base} {wants} demonstrations")
            if demos != "none":
                parse_demos_id(demos)
        return self


class Claim(Strict):
    """One statement, its contrasts (one per map), and what counts as an effect."""

    id: str
    statement: str
    place: str
    source: Source = (
        "text"  # of the paper; its figures alone; the notebook released with it; or nothing of theirs
    )
    metric: Metric
    direction: Direction
    smallest_effect: float = Field(gt=0.0, le=1.0)
    contrasts: list[Contrast] = Field(min_length=1)

    @model_validator(mode="after")
    def _margins_have_demonstrators(self) -> Claim:
        for contrast in self.contrasts:
            bare = [run for run in contrast.runs if split_run(run)[1] == "none"]
            if self.metric == "margin" and bare:
                raise ConfigError(f"claim {self.id}: {bare[0]} has no demonstrators for metric margin")
        return self


class TheoryClaim(Strict):
    """A statement of the theory; `id` is the test that theory.csv names."""

    id: str
    statement: str
    place: str


class Claims(Strict):
    """The whole file."""

    budget: Steps | dict[str, Steps]  # env steps; or per map
    paper_budget: Steps  # of the published curves that give the paper's numbers
    claims: list[Claim] = Field(min_length=1)
    theory: list[TheoryClaim] = Field(default_factory=list)

    def budget_on(self, map_name: str) -> int | None:
        """Env steps that a run of one map must reach; None where nothing is claimed."""
        return self.budget if isinstance(self.budget, int) else self.budget.get(map_name)

    @model_validator(mode="after")
    def _maps_have_budgets(self) -> Claims:
        for claim in self.claims:
            for contrast in claim.contrasts:
                if self.budget_on(contrast.map) is None:
                    raise ConfigError(f"claim {claim.id}: budget has no entry for {contrast.map}")
        return self

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Claims:
        ids = [claim.id for claim in self.claims] + [claim.id for claim in self.theory]
        twice = [name for name in ids if ids.count(name) > 1]
        if twice:
            raise ConfigError(f"claims: id {twice[0]!r} stands twice; every claim needs its own")
        return self


def load_claims(path: Path, config: Config | None = None) -> Claims:
    """The checked file; ConfigError is one line: file, key, what is allowed.

    With a configuration, settings that a run's name changes are checked as there: one that does not exist would
    otherwise look like a run that nobody has made yet.
    """
    claims = validated(Claims, read_yaml(path), str(path))
    if config is not None:
        for claim in claims.claims:
            for contrast in claim.contrasts:
                _check_changes(contrast, config, f"{path}: claim {claim.id}")
    return claims


def _check_changes(contrast: Contrast, config: Config, where: str) -> None:
    methods = (split_run(run)[0] for run in contrast.runs)
    for method in (method for method in methods if split_method(method)[1]):
        try:
            config.changed(method, contrast.map)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None


def file_sha256(path: Path) -> str:
    """Hash of the file as it lies there; the page of verdicts prints it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
