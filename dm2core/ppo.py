"""One PPO update of all agents from one batch of episodes; agents share nothing, not even a gradient norm.

Each network has its own Adam; one GRU step per row from the hidden state stored in the rollout (D09, no
backpropagation through time). All sums run over the padded grid where the switches say so; see rows.py for how little
of it is computed, gradients.py for the losses, fused/ for the compiled form of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from dm2core import gradients
from dm2core.adam import Adam
from dm2core.batch import Batch
from dm2core.config import PPO, Switches
from dm2core.finite import require_finite
from dm2core.fused import gradients as fused_gradients
from dm2core.nets import Actor, Critic
from dm2core.returns import ValueNorm, gae
from dm2core.rows import Rows


class Backend(Protocol):
    """Who computes scores and gradients: gradients.py (torch) or fused/gradients.py (compiled)."""

    def score(self, actor: Actor, critic: Critic, rows: Rows) -> tuple[Tensor, Tensor]: ...

    def actor_backward(
        self, actor: Actor, rows: Rows, batch: Batch, slots: Tensor, cfg: PPO, clip_eps: float
    ) -> dict[str, Tensor]: ...

    def critic_backward(
        self,
        critic: Critic,
        rows: Rows,
        batch: Batch,
        targets: Tensor,
        slots: Tensor,
        cfg: PPO,
        switches: Switches,
        clip_eps: float,
    ) -> Tensor: ...


BACKENDS: dict[str, Backend] = {"torch": gradients, "fused": fused_gradients}


@dataclass
class Learners:
    """What PPO trains."""

    actor: Actor
    critic: Critic
    actor_opt: Adam
    critic_opt: Adam
    value_norm: ValueNorm | None
    backend: Backend


def make_learners(
    actor: Actor,
    critic: Critic,
    cfg: PPO,
    switches: Switches,
    compute: Literal["torch", "fused"] = "torch",
) -> Learners:
    """Optimisers for given networks; a frozen value head is outside optimiser and gradient norm (D06)."""
    if switches.freeze_value_head:
        critic.head.requires_grad_(False)

    def adam(net: nn.Module) -> Adam:
        return Adam(_trainable(net), lr=cfg.lr, eps=cfg.adam_eps)

    dtype = actor.head.weight.dtype
    norm = ValueNorm(actor.head.weight.shape[0], dtype) if switches.value_norm == "valuenorm" else None
    return Learners(actor, critic, adam(actor), adam(critic), norm, BACKENDS[compute])


def make_batch(learners: Learners, rows: Rows, rewards: Tensor, cfg: PPO, switches: Switches) -> Batch:
    """Values, returns, advantages and old log-probabilities of mixed rewards [L, B, N]."""
    log_probs, outputs = learners.backend.score(learners.actor, learners.critic, rows)
    values = learners.value_norm.denormalize(outputs) if learners.value_norm else outputs
    grid_values = values[:, rows.index].permute(1, 2, 0)  # [L+1, B, N]
    advantages, targets = gae(
        rewards, grid_values, rows.length, rows.bootstrap, gamma=cfg.gamma, gae_lambda=cfg.gae_lambda
    )
    row = rows.index[:-1].flatten()
    counted = (
        rows.inside.unsqueeze(-1) if switches.absorbing_padding else rows.inside.unsqueeze(-1) & rows.alive
    )
    policy_mask = _flat(counted.expand_as(advantages))
    trained = rows.inside.clone()
    if switches.drop_last_episode:
        trained[:, -1] = False
    raw = _flat(advantages)
    return Batch(
        row=row,
        old_log_probs=log_probs[:, row],
        advantages=_standardize(raw, policy_mask),
        raw_advantages=raw,
        value_targets=_flat(targets),
        old_values=outputs[:, row],
        policy_mask=policy_mask,
        trained=trained.flatten().nonzero().squeeze(-1),
    )


def update_policies(
    learners: Learners,
    rows: Rows,
    batch: Batch,
    cfg: PPO,
    switches: Switches,
    *,
    epochs: int,
    clip_eps: float,
    generator: torch.Generator,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """`epochs` passes over the batch in `cfg.minibatches` random parts; returns the metrics' means."""
    totals: dict[str, float] = {}
    count = 0
    for _ in range(epochs):
        slots = batch.trained
        if cfg.minibatches > 1:
            slots = slots[torch.randperm(len(slots), generator=generator)]
        for part in slots.tensor_split(cfg.minibatches):
            poll()
            for key, value in minibatch_step(learners, rows, batch, part, cfg, switches, clip_eps).items():
                totals[key] = totals.get(key, 0.0) + float(value.mean())
            count += 1
    return {key: value / count for key, value in totals.items()}


def minibatch_step(
    learners: Learners, rows: Rows, batch: Batch, slots: Tensor, cfg: PPO, switches: Switches, clip_eps: float
) -> dict[str, Tensor]:
    """One Adam step of every actor and every critic on flat grid slots [M]; per-agent metrics [N].

    NotFinite if a gradient or a loss is not finite; the networks are then as before the step.
    """
    backend, targets = learners.backend, batch.value_targets
    if learners.value_norm is not None:
        learners.value_norm.update(targets[:, slots])
        targets = learners.value_norm.normalize(targets)
    metrics = backend.actor_backward(learners.actor, rows, batch, slots, cfg, clip_eps)
    metrics["grad_norm_actor"] = clip_gradients(learners.actor, cfg.max_grad_norm)
    metrics["value_loss"] = backend.critic_backward(
        learners.critic, rows, batch, targets, slots, cfg, switches, clip_eps
    )
    metrics["grad_norm_critic"] = clip_gradients(learners.critic, cfg.max_grad_norm)
    for key, value in metrics.items():
        require_finite(key, value)
    learners.actor_opt.step()
    learners.critic_opt.step()
    return metrics


def clip_gradients(net: nn.Module, max_norm: float) -> Tensor:
    """Scale each agent's gradient to at most max_norm, agents apart; norms before clipping [N]."""
    grads = [p.grad for p in _trainable(net) if p.grad is not None]
    norms = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
    require_finite("gradient norm", norms)
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))
    return norms


def _standardize(advantages: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit (unbiased) deviation per agent over the slots that count."""
    weight = mask.to(advantages.dtype)
    count = weight.sum(-1, keepdim=True)
    mean = (advantages * weight).sum(-1, keepdim=True) / count.clamp(min=1)
    variance = ((advantages - mean).square() * weight).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return (advantages - mean) / (variance.sqrt() + 1e-5) * weight


def _flat(grid: Tensor) -> Tensor:
    """[L, B, N] -> [N, L * B]."""
    return grid.permute(2, 0, 1).flatten(1)


def _trainable(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]
