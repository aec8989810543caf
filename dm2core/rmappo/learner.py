"""RMAPPO: recurrent MAPPO with shared parameters, the paper's baseline (on-policy repository, as its scripts run it).

Yu et al. 2022. One actor and one critic for all agents; the critic sees the agent-specific global state.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dm2core.adam import Adam
from dm2core.config import CellConfig, ConfigError
from dm2core.env.observe import TYPE_BITS
from dm2core.env.smac.vector import SmacEnv, take_counts
from dm2core.env.vector import BattleSim, game_env
from dm2core.nets import Actor, Critic
from dm2core.returns import explained_variance
from dm2core.rmappo.collect import Battles, Ended
from dm2core.rmappo.settings import Rmappo
from dm2core.rmappo.update import Shared, actor_chunks, buffer_gae, critic_chunks, standardize, update_shared
from dm2core.torch_rng import torch_stream


class RmappoLearner:
    """A cell's networks, optimisers and running battles."""

    def __init__(self, cell: CellConfig, settings: Rmappo) -> None:
        """KeyError if `settings` have no entry for the cell's map."""
        self.cell, self.settings = cell, settings
        self.map_settings = settings.maps[cell.map_name]
        self.iteration, self.env_steps = 0, 0
        dtype = torch.float64 if cell.dtype == "float64" else torch.float32
        self.env = _battles(cell, settings.battles)
        spec, size = self.env.spec, cell.ppo.hidden_size
        self.battles = Battles(self.env, cell.seed, size, dtype)
        size_in = spec.obs_size + spec.n_actions + spec.n_agents
        actor = Actor(1, size_in, spec.n_actions, size).init(torch_stream(cell.seed, "actor"))
        critic = Critic(1, self.battles.agent_state.size, size).init(torch_stream(cell.seed, "critic"))
        self.shared = Shared.of(actor.to(dtype), critic.to(dtype), settings.lr, cell.ppo.adam_eps)
        self._policy = Actor(spec.n_agents, size_in, spec.n_actions, size).to(dtype)

    @property
    def policy(self) -> Actor:
        """The shared actor as N equal ones, so that it is played, stored and mixed as any other team."""
        n_agents = self.env.spec.n_agents
        with torch.no_grad():
            for copy, p in zip(self._policy.parameters(), self.shared.actor.parameters(), strict=True):
                copy.copy_(p.expand(n_agents, *p.shape[1:]))
        return self._policy

    def start(self, poll: Callable[[], None] = lambda: None) -> None:
        """Nothing: the battles start with the learner."""

    def iterate(self, poll: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One iteration, in place: play on, returns, update; metrics."""
        cell, settings, shared = self.cell, self.settings, self.shared
        buffer, ended = self.battles.collect(
            shared.actor, shared.critic, settings.steps, self.iteration, poll
        )
        values = shared.value_norm.denormalize(buffer.values.unsqueeze(0)).squeeze(0)
        raw, targets = buffer_gae(buffer.rewards, values, buffer.keep, cell.ppo.gamma, cell.ppo.gae_lambda)
        metrics = update_shared(
            shared,
            actor_chunks(buffer, standardize(raw, buffer.alive), settings.chunk_length),
            critic_chunks(buffer, targets, settings.chunk_length, active_masks=settings.value_active_masks),
            targets[buffer.played],
            cell.ppo,
            epochs=self.map_settings.ppo_epochs,
            clip_eps=self.map_settings.clip_eps,
            value_coef=settings.value_coef,
            poll=poll,
        )
        metrics["explained_variance"] = explained_variance(raw[buffer.alive], targets[buffer.alive])
        faults = take_counts(self.env)
        self.iteration += 1
        self.env_steps += settings.steps * settings.battles
        return {f"train/{key}": value for key, value in (_battle_metrics(ended) | metrics | faults).items()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser moments, value normalisation, and the battles under way."""
        out: dict[str, Tensor] = {}
        for name, net, opt in self._parts():
            for key, p in net.named_parameters():
                out[f"{name}/{key}"] = p.detach()
                out.update({f"{name}_opt/{key}/{k}": v for k, v in opt.state.get(p, {}).items()})
        norm = self.shared.value_norm
        out |= {f"value_norm/{key}": getattr(norm, key) for key in ("mean", "mean_sq", "debias")}
        return out | {f"battles/{key}": value for key, value in self.battles.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; raises KeyError if one is missing."""
        for name, net, opt in self._parts():
            for key, p in net.named_parameters():
                with torch.no_grad():
                    p.copy_(tensors[f"{name}/{key}"])
                moments = _under(tensors, f"{name}_opt/{key}/")
                if moments:
                    opt.state[p] = moments
        for key in ("mean", "mean_sq", "debias"):
            setattr(self.shared.value_norm, key, tensors[f"value_norm/{key}"].clone())
        self.battles.load_tensors(_under(tensors, "battles/"))

    def _parts(self) -> list[tuple[str, torch.nn.Module, Adam]]:
        shared = self.shared
        return [("actor", shared.actor, shared.actor_opt), ("critic", shared.critic, shared.critic_opt)]


def _battles(cell: CellConfig, count: int) -> BattleSim | SmacEnv:
    """`count` battles; in the real game on games of their own, for they go on while others evaluate."""
    if cell.smac is None:
        return BattleSim(cell.map_name, count)
    env = game_env(cell.map_name, count, cell.smac.model_copy(update={"games": count}), own_games=True)
    if env.encoding.sizes[TYPE_BITS]:
        raise ConfigError(
            f"method: rmappo on {cell.map_name} needs the order of the enemies' types, which the game leaves open; "
            "set env: embedded, or take a map with one type of enemy"
        )
    return env


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value.clone() for key, value in tensors.items() if key.startswith(prefix)}


def _battle_metrics(ended: Ended) -> dict[str, float]:
    """Means over the battles that ended; none where none did."""
    if not ended.returns:
        return {}
    return {
        "episode_return": float(np.mean(ended.returns)),
        "episode_length": float(np.mean(ended.lengths)),
        "win_rate": float(np.mean(ended.wins)),
    }
