"""RMAPPO's own settings; what it shares with PPO (discounts, entropy, clipping of gradients, sizes) is read there."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dm2core.strict import ConfigError, Strict

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RmappoMap(Strict):
    """What its scripts set per map."""

    ppo_epochs: Count
    clip_eps: Annotated[float, Field(gt=0, lt=1)]


SCRIPTS = {
    "5m_vs_6m": RmappoMap(ppo_epochs=10, clip_eps=0.05),
    "8m_vs_9m": RmappoMap(ppo_epochs=15, clip_eps=0.05),
    "3s_vs_3z": RmappoMap(ppo_epochs=15, clip_eps=0.2),
    "3s_vs_4z": RmappoMap(ppo_epochs=15, clip_eps=0.2),  # the script's mappo stacks 4 frames; here recurrent
    "3s_vs_5z": RmappoMap(ppo_epochs=15, clip_eps=0.05),  # likewise
    "3m": RmappoMap(ppo_epochs=15, clip_eps=0.2),
}


class Rmappo(Strict):
    """What the on-policy repository's SMAC scripts set (train_smac_scripts/*.sh, config.py), commit de66d7a4."""

    battles: Count = 8  # n_rollout_threads: battles that go on side by side
    steps: Count = 400  # episode_length: env steps of each of them per iteration
    chunk_length: Count = 10  # data_chunk_length: steps of backpropagation through time
    lr: Positive = 5e-4  # actor and critic alike, no decay
    value_coef: Positive = 1.0  # value_loss_coef
    # Whether dead agents' steps are left out of the value loss. Every script passes --use_value_active_masks, which
    # turns that off (config.py: action="store_false", default True).
    value_active_masks: bool = False
    maps: dict[str, RmappoMap] = Field(default_factory=lambda: dict(SCRIPTS))

    @model_validator(mode="after")
    def _whole_chunks(self) -> Rmappo:
        if self.steps % self.chunk_length:
            raise ConfigError(
                f"rmappo.steps: {self.steps} is no multiple of chunk_length {self.chunk_length}"
            )
        return self

    def on(self, map_name: str, otherwise: RmappoMap) -> Rmappo:
        """The same for one map alone; a map without an entry is trained as `otherwise` says."""
        return self.model_copy(update={"maps": {map_name: self.maps.get(map_name, otherwise)}})
