"""DM2, Algorithm 1: independent PPO agents paid the task reward plus the logit of their own discriminator.

IPPO is the same loop without demonstrations. The comments give the algorithm's line numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dm2core.config import CellConfig
from dm2core.discriminator import policy_logits, update_discriminators
from dm2core.nets import Actor, Critic, DiscriminatorNet
from dm2core.pairs import Episodes, policy_episodes
from dm2core.ppo import Batch, Learners, make_batch, make_learners, update_policies
from dm2core.returns import explained_variance
from dm2core.reward import imitation_reward, mix
from dm2core.rng import battle_keys
from dm2core.rollout import Rollout, collect
from dm2core.rows import training_rows
from dm2core.torch_rng import torch_stream
from dm2core.types import BattleEnv, EnvSpec


@dataclass
class TrainState:
    """Everything that changes while a cell trains. Random draws are functions of the iteration and need no state."""

    learners: Learners
    disc: DiscriminatorNet | None
    disc_opt: torch.optim.Adam | None
    iteration: int = 0
    env_steps: int = 0

    @property
    def actor(self) -> Actor:
        return self.learners.actor

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser moments and value normalisation, by flat names."""
        out: dict[str, Tensor] = {}
        for name, net, opt in self._parts():
            for key, p in net.named_parameters():
                out[f"{name}/{key}"] = p.detach()
                out.update({f"{name}_opt/{key}/{k}": v for k, v in opt.state.get(p, {}).items()})
        norm = self.learners.value_norm
        if norm is not None:
            out |= {
                "value_norm/mean": norm.mean,
                "value_norm/mean_sq": norm.mean_sq,
                "value_norm/debias": norm.debias,
            }
        return out

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; raises KeyError if one is missing."""
        for name, net, opt in self._parts():
            for key, p in net.named_parameters():
                with torch.no_grad():
                    p.copy_(tensors[f"{name}/{key}"])
                prefix = f"{name}_opt/{key}/"
                moments = {k[len(prefix) :]: v.clone() for k, v in tensors.items() if k.startswith(prefix)}
                if moments:
                    opt.state[p] = moments
        norm = self.learners.value_norm
        if norm is not None:
            norm.mean, norm.mean_sq, norm.debias = (
                tensors[f"value_norm/{key}"].clone() for key in ("mean", "mean_sq", "debias")
            )

    def _parts(self) -> list[tuple[str, torch.nn.Module, torch.optim.Adam]]:
        parts: list[tuple[str, torch.nn.Module, torch.optim.Adam]] = [
            ("actor", self.learners.actor, self.learners.actor_opt),
            ("critic", self.learners.critic, self.learners.critic_opt),
        ]
        if self.disc is not None and self.disc_opt is not None:
            parts.append(("disc", self.disc, self.disc_opt))
        return parts


def init_state(cell: CellConfig, spec: EnvSpec) -> TrainState:
    """Fresh networks of a cell, each kind from its own random stream (so IPPO and DM2 start from equal policies)."""
    dtype = torch.float64 if cell.dtype == "float64" else torch.float32
    size, size_in = cell.ppo.hidden_size, spec.obs_size + spec.n_actions + spec.n_agents
    actor = Actor(spec.n_agents, size_in, spec.n_actions, size).init(torch_stream(cell.seed, "actor"))
    critic = Critic(spec.n_agents, size_in, size).init(torch_stream(cell.seed, "critic"))
    learners = make_learners(actor.to(dtype), critic.to(dtype), cell.ppo, cell.switches, cell.compute)
    if cell.discriminator is None:
        return TrainState(learners, None, None)
    disc = DiscriminatorNet(spec.n_agents, spec.obs_size, cell.discriminator.hidden_size)
    disc = disc.init(torch_stream(cell.seed, "discriminator")).to(dtype)
    return TrainState(
        learners, disc, torch.optim.Adam(disc.parameters(), lr=cell.discriminator.lr, fused=True)
    )


def iterate(
    state: TrainState,
    env: BattleEnv,
    expert: Episodes | None,
    cell: CellConfig,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """One iteration, in place: collect, update discriminators, reward, update policies. Returns metrics.

    `poll` is called often and may raise; the state must then be thrown away.
    """
    draws = torch_stream(cell.seed, "update", state.iteration)
    battles = env.num_battles
    keys = battle_keys(cell.seed, "rollout", state.iteration * battles, battles)
    rollout = collect(
        env, state.actor, state.learners.critic, keys, compute=cell.compute, poll=poll
    )  # l. 3-4
    imitation, disc_metrics = _imitate(state, rollout, expert, cell, draws, poll)
    reward = mix(rollout.rewards, imitation, cell.map_params.imitation_coef)  # l. 11
    rows = training_rows(rollout, cell.switches)
    batch = make_batch(state.learners, rows, reward, cell.ppo, cell.switches)
    ppo_metrics = update_policies(  # l. 12
        state.learners,
        rows,
        batch,
        cell.ppo,
        cell.switches,
        epochs=cell.map_params.ppo_epochs,
        clip_eps=cell.map_params.clip_eps,
        generator=draws,
        poll=poll,
    )
    state.iteration += 1
    state.env_steps += rollout.env_steps
    return _rollout_metrics(rollout, batch) | {f"train/{k}": v for k, v in ppo_metrics.items()} | disc_metrics


def _imitate(
    state: TrainState,
    rollout: Rollout,
    expert: Episodes | None,
    cell: CellConfig,
    draws: torch.Generator,
    poll: Callable[[], None],
) -> tuple[Tensor, dict[str, float]]:
    """Imitation reward [L, B, N] of the updated discriminators; zeros for a method without them."""
    limit, battles = rollout.rewards.shape
    dtype = rollout.values.dtype
    if state.disc is None or state.disc_opt is None or cell.discriminator is None or expert is None:
        return torch.zeros(limit, battles, rollout.obs.shape[2], dtype=dtype), {}
    metrics = update_discriminators(  # l. 8-9, from the agents' own states and their own demonstrations
        state.disc,
        state.disc_opt,
        expert,
        policy_episodes(rollout, dtype, terminal_row=cell.switches.terminal_row),
        limit + 1,
        cell.discriminator,
        cell.switches,
        generator=draws,
        compute=cell.compute,
        poll=poll,
    )
    logits = policy_logits(state.disc, rollout, cell.switches)
    reward = imitation_reward(logits, cell.switches.imitation_reward)  # l. 10
    played = torch.arange(limit).unsqueeze(-1) < rollout.lengths
    metrics["logit_policy"] = float(logits[played].mean())
    out = {f"disc/{key}": value for key, value in metrics.items()}
    return reward, out | {"train/imitation_reward": float(reward[played].mean())}


def _rollout_metrics(rollout: Rollout, batch: Batch) -> dict[str, float]:
    return {
        "train/episode_return": float(rollout.episode_return.mean()),
        "train/episode_length": float(rollout.lengths.double().mean()),
        "train/win_rate": float(rollout.won.double().mean()),
        "train/explained_variance": explained_variance(batch.raw_advantages, batch.value_targets),
    }
