"""The systems on the paper's figures, as data: what each is paid, what it learns from, which algorithm moves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

METHOD_NAME = r"[a-z0-9_]+(\+[a-z0-9_.]+=[-a-z0-9_.]+)*"  # a folder's name, a wildcard of the workflow


@dataclass(frozen=True)
class Method:
    """One system. `ppo` is independent PPO per agent (dm2.py), with what the other fields add."""

    family: Literal["ppo", "qmix", "rmappo"] = "ppo"
    reward: Literal["task", "mixed", "imitation"] = "task"  # r, r + c r_i, r_i
    learns_from: Literal["none", "demos", "self"] = "none"  # self: the best of the team's own episodes
    cloned: bool = False  # behaviour cloning of the demonstrations comes first
    sees_actions: bool = False  # the discriminator's input is observation and action

    @property
    def needs_demos(self) -> bool:
        return self.learns_from == "demos"

    @property
    def packs(self) -> bool:
        """Whether packs can train it: independent PPO, with or without demonstrations of observations."""
        return self.family == "ppo" and self.learns_from != "self" and not self.sees_actions

    @property
    def imitates(self) -> bool:
        """Has discriminators."""
        return self.reward != "task"


METHODS: dict[str, Method] = {
    "ippo": Method(),
    "dm2": Method(reward="mixed", learns_from="demos"),
    "dm2_sil": Method(reward="mixed", learns_from="self"),
    "gail_only": Method(reward="imitation", learns_from="demos"),
    "dm2_state_action": Method(reward="mixed", learns_from="demos", sees_actions=True),
    "bc_ippo": Method(learns_from="demos", cloned=True),
    "bc_dm2": Method(reward="mixed", learns_from="demos", cloned=True),
    "qmix": Method(family="qmix"),
    "qmix_fc3": Method(family="qmix"),  # one more layer before the GRU, paper Fig. 8
    "rmappo": Method(family="rmappo"),
}


def split_method(text: str) -> tuple[str, dict[str, str]]:
    """Method and single changes of `dm2+absorbing_padding=false+imitation_coef=0`; neither is checked."""
    base, *changes = text.split("+")
    parts = (change.partition("=") for change in changes)
    return base, {name: value for name, _, value in parts}


def split_run(text: str) -> tuple[str, str]:
    """Method and demonstration set of `dm2@ippo-q50_joint-concurrent`; "none" without a set."""
    method, _, demos = text.partition("@")
    return method, demos or "none"
