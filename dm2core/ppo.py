"""One PPO update of all agents from one batch of episodes; agents share nothing, not even a gradient norm.

Clipped surrogate and clipped Huber value loss as in the released code (ippo_learner.py lines 150-260), each network
with its own Adam; one GRU step per row from the hidden state stored in the rollout (D09, no backpropagation through
time). All sums run over the padded grid where the switches say so; see rows.py for how little of it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dm2core.config import PPO, Switches
from dm2core.nets import Actor, Critic
from dm2core.policy import entropy, masked_log_softmax
from dm2core.returns import ValueNorm, gae
from dm2core.rows import Rows

BLOCK = 2048  # rows a network sees at once: activations stay in the cache, the gradient is the same sum


@dataclass
class Learners:
    """What PPO trains."""

    actor: Actor
    critic: Critic
    actor_opt: torch.optim.Adam
    critic_opt: torch.optim.Adam
    value_norm: ValueNorm | None


@dataclass(frozen=True)
class Batch:
    """Grid quantities of one update, agent-major and flat: G = L * B slots, slot t * B + b."""

    row: Tensor  # [G] row of the slot
    old_log_probs: Tensor  # [N, G]
    advantages: Tensor  # [N, G] standardised
    raw_advantages: Tensor  # [N, G]
    value_targets: Tensor  # [N, G] in units of the return
    old_values: Tensor  # [N, G] in units of the critic's output
    policy_mask: Tensor  # [N, G] slots that count in the policy loss
    trained: Tensor  # [T] flat slots that enter gradients


def make_learners(actor: Actor, critic: Critic, cfg: PPO, switches: Switches) -> Learners:
    """Optimisers for given networks; a frozen value head is outside optimiser and gradient norm (D06)."""
    if switches.freeze_value_head:
        critic.head.requires_grad_(False)

    def adam(net: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(_trainable(net), lr=cfg.lr, eps=cfg.adam_eps, fused=True)

    dtype = actor.head.weight.dtype
    norm = ValueNorm(actor.head.weight.shape[0], dtype) if switches.value_norm == "valuenorm" else None
    return Learners(actor, critic, adam(actor), adam(critic), norm)


def make_batch(learners: Learners, rows: Rows, rewards: Tensor, cfg: PPO, switches: Switches) -> Batch:
    """Values, returns, advantages and old log-probabilities of mixed rewards [L, B, N]."""
    with torch.no_grad():
        outputs = torch.cat(
            [learners.critic(rows.x[:, s], rows.h_critic[:, s])[0] for s in _blocks(rows)], dim=1
        )
        log_probs = torch.cat([_log_probs(learners.actor, rows, s)[0] for s in _blocks(rows)], dim=1)
    log_probs[:, ~rows.choice] = (
        0.0  # one legal action, or none on padding: probability 1 as float32 computes it
    )
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

    Raises FloatingPointError if a gradient is not finite; the networks are then as before the step.
    """
    learners.actor_opt.zero_grad(set_to_none=True)
    metrics = _actor_backward(learners.actor, rows, batch, slots, cfg, clip_eps)
    metrics["grad_norm_actor"] = clip_gradients(learners.actor, cfg.max_grad_norm)
    learners.critic_opt.zero_grad(set_to_none=True)
    metrics["value_loss"] = _critic_backward(learners, rows, batch, slots, cfg, switches, clip_eps)
    metrics["grad_norm_critic"] = clip_gradients(learners.critic, cfg.max_grad_norm)
    learners.actor_opt.step()
    learners.critic_opt.step()
    return metrics


def value_loss(
    values: Tensor, old: Tensor, targets: Tensor, cfg: PPO, switches: Switches, clip_eps: float
) -> Tensor:
    """Elementwise max of Huber losses of the value and of the value moved at most clip_eps from the old one."""
    loss = _huber(targets - values, cfg.huber_delta, one_sided=switches.huber_one_sided)
    if switches.value_clip == "off":
        return loss
    clipped = old + (values - old).clamp(-clip_eps, clip_eps)
    return torch.max(loss, _huber(targets - clipped, cfg.huber_delta, one_sided=switches.huber_one_sided))


def clip_gradients(net: nn.Module, max_norm: float) -> Tensor:
    """Scale each agent's gradient to at most max_norm, agents apart; norms before clipping [N]."""
    grads = [p.grad for p in _trainable(net) if p.grad is not None]
    norms = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
    if not bool(torch.isfinite(norms).all()):
        raise FloatingPointError(f"gradient norms per agent are {norms.tolist()}")
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))
    return norms


def _actor_backward(
    actor: Actor, rows: Rows, batch: Batch, slots: Tensor, cfg: PPO, clip_eps: float
) -> dict[str, Tensor]:
    """Accumulate the gradient of -(surrogate + entropy bonus), averaged over the slots that count."""
    mask = batch.policy_mask[:, slots]
    weight = 1.0 / mask.sum(-1, keepdim=True).clamp(min=1).to(batch.advantages.dtype)
    fixed = slots[~rows.choice[batch.row[slots]]]  # ratio 1, entropy 0, no gradient
    moving = slots[rows.choice[batch.row[slots]]]
    loss = -(batch.advantages[:, fixed] * batch.policy_mask[:, fixed] * weight).sum(-1)
    sums = {key: torch.zeros_like(loss) for key in ("entropy", "approx_kl", "clip_fraction")}
    for part in moving.split(BLOCK):
        log_probs, ent = _log_probs(actor, rows, batch.row[part])
        w = batch.policy_mask[:, part] * weight
        log_ratio = log_probs - batch.old_log_probs[:, part]
        ratio = log_ratio.exp()
        advantage = batch.advantages[:, part]
        surrogate = torch.min(ratio * advantage, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantage)
        part_loss = -(surrogate * w).sum(-1)
        part_entropy = (ent * w).sum(-1)
        (part_loss - cfg.entropy_coef * part_entropy).sum().backward()
        with torch.no_grad():
            loss += part_loss
            sums["entropy"] += part_entropy
            sums["approx_kl"] += ((ratio - 1 - log_ratio) * w).sum(-1)
            sums["clip_fraction"] += (((ratio - 1).abs() > clip_eps) * w).sum(-1)
    return {"policy_loss": loss, **sums}


def _critic_backward(
    learners: Learners, rows: Rows, batch: Batch, slots: Tensor, cfg: PPO, switches: Switches, clip_eps: float
) -> Tensor:
    """Accumulate the gradient of value_coef * mean value loss; the mean loss [N]."""
    targets = batch.value_targets
    if learners.value_norm is not None:
        learners.value_norm.update(targets[:, slots])
        targets = learners.value_norm.normalize(targets)
    is_padding = batch.row[slots] == rows.padding
    total = torch.zeros(len(targets), dtype=targets.dtype)
    for part in (*slots[~is_padding].split(BLOCK), slots[is_padding]):
        if len(part) == 0:
            continue
        row = batch.row[part]
        seen = (
            row[:1] if row[0] == rows.padding else row
        )  # the padding row is computed once for all its slots
        values, _ = learners.critic(rows.x[:, seen], rows.h_critic[:, seen])
        losses = value_loss(values, batch.old_values[:, part], targets[:, part], cfg, switches, clip_eps)
        part_loss = losses.sum(-1) / len(slots)
        (cfg.value_coef * part_loss).sum().backward()
        total += part_loss.detach()
    return total


def _log_probs(actor: Actor, rows: Rows, row: Tensor | slice) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the taken actions and entropies [N, r]."""
    log_pi = masked_log_softmax(actor(rows.x[:, row], rows.h_actor[:, row])[0], rows.avail_actions[:, row])
    return log_pi.gather(-1, rows.actions[:, row].unsqueeze(-1)).squeeze(-1), entropy(log_pi)


def _huber(error: Tensor, delta: float, *, one_sided: bool) -> Tensor:
    """Quadratic to delta, then linear; one-sided (D08): nothing at all below -delta."""
    size = error.abs()
    above = error > delta if one_sided else size > delta
    return torch.where(
        size <= delta, 0.5 * error.square(), torch.where(above, delta * (size - 0.5 * delta), 0.0)
    )


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


def _blocks(rows: Rows) -> Iterator[slice]:
    for start in range(0, rows.padding + 1, BLOCK):
        yield slice(start, min(start + BLOCK, rows.padding + 1))


def _trainable(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]
