"""DM2, Algorithm 1: independent PPO agents paid the task reward plus the logit of their own discriminator.

The same loop without demonstrations is IPPO; methods.py lists what else it is with other parts. The comments give the
algorithm's line numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dm2core.adam import Adam
from dm2core.cloning import clone
from dm2core.config import CellConfig
from dm2core.demonstrations import Demonstrations
from dm2core.discriminator import judged, policy_logits, update_discriminators
from dm2core.env.smac.vector import take_counts
from dm2core.finite import require_finite
from dm2core.methods import METHODS
from dm2core.nets import Actor, Critic, DiscriminatorNet
from dm2core.own_best import OwnBest
from dm2core.pairs import Episodes, policy_episodes
from dm2core.ppo import Batch, make_batch, make_learners, update_policies
from dm2core.returns import ValueNorm, explained_variance
from dm2core.reward import imitation_reward, mix
from dm2core.rng import battle_keys
from dm2core.rollout import Rollout, collect
from dm2core.rows import Rows, training_rows
from dm2core.torch_rng import torch_stream
from dm2core.types import BattleEnv

NORM = ("mean", "mean_sq", "debias")  # what ValueNorm keeps
Part = tuple[str, torch.nn.Module, Adam]


class Dm2:
    """A cell's networks and optimisers. Each kind has its own random stream: IPPO and DM2 start from equal policies."""

    def __init__(self, cell: CellConfig, env: BattleEnv, demos: Demonstrations | None = None) -> None:
        """`demos` for methods that learn from demonstrations; `env` holds the battles of one iteration."""
        self.cell, self.env, self.method = cell, env, METHODS[cell.method]
        self.demos = demos if self.method.cloned else None  # discriminators have their own form of it
        self.iteration, self.env_steps = 0, 0
        dtype = self.dtype = torch.float64 if cell.dtype == "float64" else torch.float32
        spec, size = env.spec, cell.ppo.hidden_size
        size_in = spec.obs_size + spec.n_actions + spec.n_agents
        actor = Actor(spec.n_agents, size_in, spec.n_actions, size).init(torch_stream(cell.seed, "actor"))
        critic = Critic(spec.n_agents, size_in, size).init(torch_stream(cell.seed, "critic"))
        self.learners = make_learners(actor.to(dtype), critic.to(dtype), cell.ppo, cell.switches, cell.form)
        self.disc: DiscriminatorNet | None = None
        self.expert: Episodes | OwnBest | None = None
        if self.method.imitates and cell.discriminator is not None:
            seen = spec.obs_size + int(self.method.sees_actions)
            disc = DiscriminatorNet(spec.n_agents, seen, cell.discriminator.hidden_size)
            self.disc = disc.init(torch_stream(cell.seed, "discriminator")).to(dtype)
            self.disc_opt = Adam(self.disc.parameters(), lr=cell.discriminator.lr)
            self.expert = self._expert(demos)

    def _expert(self, demos: Demonstrations | None) -> Episodes | OwnBest:
        switches = self.cell.switches
        if self.method.learns_from == "self":
            assert self.cell.own_episodes is not None
            return OwnBest(
                self.env.spec,
                self.cell.own_episodes,
                self.dtype,
                terminal_row=switches.terminal_row,
                repeatable=self.cell.smac is None,
            )
        if demos is None:
            raise ValueError(f"method {self.cell.method} learns from demonstrations; none were given")
        return demos.episodes(
            self.dtype, terminal_row=switches.terminal_row, actions=self.method.sees_actions
        )

    @property
    def policy(self) -> Actor:
        return self.learners.actor

    def start(self, poll: Callable[[], None] = lambda: None) -> None:
        """Before the first iteration: behaviour cloning, where the method has it."""
        if self.method.cloned and self.demos is not None and self.cell.cloning is not None:
            draws = torch_stream(self.cell.seed, "cloning")
            clone(self.policy, self.demos, self.cell.cloning, draws, poll)

    def iterate(self, poll: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One iteration, in place: collect, update discriminators, reward, update policies; metrics."""
        cell, battles = self.cell, self.env.num_battles
        draws = torch_stream(cell.seed, "update", self.iteration)
        keys = battle_keys(cell.seed, "rollout", self.iteration * battles, battles)
        rollout = collect(
            self.env, self.policy, self.learners.critic, keys, compute=cell.form, poll=poll
        )  # l. 3-4
        require_finite("obs", rollout.obs, agent_axis=2)
        require_finite("task reward", rollout.rewards, agent_axis=None)
        if isinstance(self.expert, OwnBest):
            self.expert.push(rollout, keys, cell.ppo.gamma)
        imitation, disc_metrics = self._imitate(rollout, draws, poll)
        require_finite("imitation reward", imitation, agent_axis=2)
        reward = mix(rollout.rewards, imitation, cell.map_params.imitation_coef, self.method.reward)  # l. 11
        rows = training_rows(rollout, cell.switches, release=True)
        if cell.form == "fused":
            rows.keep_normalized()
        batch = make_batch(self.learners, rows, reward, cell.ppo, cell.switches)
        ppo_metrics = update_policies(  # l. 12
            self.learners,
            rows,
            batch,
            cell.ppo,
            cell.switches,
            epochs=cell.map_params.ppo_epochs,
            clip_eps=cell.map_params.clip_eps,
            generator=draws,
            poll=poll,
        )
        self.iteration += 1
        self.env_steps += rollout.env_steps
        return (
            _rollout_metrics(rollout, rows, batch)
            | {f"train/{k}": v for k, v in take_counts(self.env).items()}
            | {f"train/{k}": v for k, v in ppo_metrics.items()}
            | disc_metrics
        )

    def _imitate(
        self, rollout: Rollout, draws: torch.Generator, poll: Callable[[], None]
    ) -> tuple[Tensor, dict[str, float]]:
        """Imitation reward [L, B, N] of the updated discriminators; zeros for a method without them."""
        cell, dtype = self.cell, self.dtype
        limit, battles = rollout.rewards.shape
        if self.disc is None or self.expert is None or cell.discriminator is None:
            return torch.zeros(limit, battles, rollout.obs.shape[2], dtype=dtype), {}
        expert = self.expert.episodes() if isinstance(self.expert, OwnBest) else self.expert
        actions, terminal_row = self.method.sees_actions, cell.switches.terminal_row
        metrics = update_discriminators(  # l. 8-9, from the agents' own states and their own demonstrations
            self.disc,
            self.disc_opt,
            expert,
            policy_episodes(rollout, dtype, terminal_row=terminal_row, actions=actions),
            limit + 1,
            cell.discriminator,
            cell.switches,
            generator=draws,
            compute=cell.form,
            poll=poll,
        )
        logits = policy_logits(self.disc, rollout, cell.switches, actions=actions)
        form = cell.switches.imitation_reward
        reward = imitation_reward(logits, form, judged(rollout, cell.switches))  # l. 10
        played = torch.arange(limit).unsqueeze(-1) < rollout.lengths
        metrics["logit_policy"] = float(logits[played].mean())
        out = {f"disc/{key}": value for key, value in metrics.items()}
        return reward, out | {"train/imitation_reward": float(reward[played].mean())}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser moments, value normalisation, and the team's own best episodes."""
        out = saved_parts(self.parts(), self.learners.value_norm)
        if isinstance(self.expert, OwnBest):
            out |= {f"own_best/{key}": value for key, value in self.expert.tensors().items()}
        return out

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; raises KeyError if one is missing."""
        load_parts(self.parts(), self.learners.value_norm, tensors)
        if isinstance(self.expert, OwnBest):
            self.expert.load_tensors(_under(tensors, "own_best/"))

    def parts(self) -> list[Part]:
        """Networks and their optimisers by name."""
        parts: list[Part] = [
            ("actor", self.learners.actor, self.learners.actor_opt),
            ("critic", self.learners.critic, self.learners.critic_opt),
        ]
        if self.disc is not None:
            parts.append(("disc", self.disc, self.disc_opt))
        return parts


def saved_parts(parts: list[Part], norm: ValueNorm | None) -> dict[str, Tensor]:
    """Weights, optimiser moments and value normalisation by flat names; not copies."""
    out: dict[str, Tensor] = {}
    for name, net, opt in parts:
        for key, p in net.named_parameters():
            out[f"{name}/{key}"] = p.detach()
            out.update({f"{name}_opt/{key}/{k}": v for k, v in opt.state.get(p, {}).items()})
    if norm is not None:
        out |= {f"value_norm/{key}": getattr(norm, key) for key in NORM}
    return out


def load_parts(parts: list[Part], norm: ValueNorm | None, tensors: dict[str, Tensor]) -> None:
    """Inverse of `saved_parts`; raises KeyError if one is missing."""
    for name, net, opt in parts:
        for key, p in net.named_parameters():
            with torch.no_grad():
                p.copy_(tensors[f"{name}/{key}"])
            moments = _under(tensors, f"{name}_opt/{key}/")
            if moments:
                opt.state[p] = moments
    if norm is not None:
        for key in NORM:
            setattr(norm, key, tensors[f"value_norm/{key}"].clone())


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value.clone() for key, value in tensors.items() if key.startswith(prefix)}


def _rollout_metrics(rollout: Rollout, rows: Rows, batch: Batch) -> dict[str, float]:
    inside = rows.inside.flatten()
    return {
        "train/episode_return": float(rollout.episode_return.mean()),
        "train/episode_length": float(rollout.lengths.double().mean()),
        "train/win_rate": float(rollout.won.double().mean()),
        "train/explained_variance": explained_variance(
            batch.raw_advantages[:, inside], batch.value_targets[:, inside]
        ),
    }
