"""PPO of every slice: ppo.py and gradients.py for packs.

Networks see each distinct row once. A row that is not padding stands in at most one slot, so what the slot knows is
moved to the row and the loss is taken there; the padding row's value meets the targets of all its slots. Nothing has
to be added up by scattering, which on a GPU would be slow and in no fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from dm2core.config import PPO, Switches
from dm2core.gradients import value_loss
from dm2core.nets import Actor
from dm2core.pack.rows import PackRows
from dm2core.policy import entropy, masked_log_softmax
from dm2core.ppo import Learners
from dm2core.returns import gae

BLOCK = {"cpu": 16_384, "cuda": 4_000_000}  # rows of all slices together that a network sees at once


@dataclass
class PackBatch:
    """What one update reads; G = L * B slots, slot t * B + b."""

    old_log_probs: Tensor  # [S, R+1]
    old_values: Tensor  # [S, R+1] in units of the critic's output
    advantages: Tensor  # [S, G] standardised
    raw_advantages: Tensor  # [S, G]
    value_targets: Tensor  # [S, G]
    policy_mask: Tensor  # [S, G]
    trained: Tensor  # [C, G] bool
    is_padding: Tensor  # [C, G] bool
    slot: Tensor  # [S, R+1] slot of the row, G for none and for the padding row
    has_padding: bool  # padding slots may be trained on


@torch.no_grad()
def make_pack_batch(
    learners: Learners, rows: PackRows, rewards: Tensor, cfg: PPO, switches: Switches
) -> PackBatch:
    """Values, returns, advantages and old log-probabilities of mixed rewards [L, C, B, N]."""
    limit, cells, battles, n_agents = rewards.shape
    slots, device = limit * battles, rewards.device
    found = [_log_probs(learners.actor, rows, part)[0] for part in _blocks(rows)]
    outputs = torch.cat([learners.critic(rows.x[:, p], rows.h_critic[:, p])[0] for p in _blocks(rows)], dim=1)
    values = learners.value_norm.denormalize(outputs) if learners.value_norm else outputs
    index = rows.index.flatten(1).repeat_interleave(n_agents, 0)  # [S, (L+1) * B]
    grid = values.gather(1, index).view(cells, n_agents, limit + 1, battles)
    advantages, targets = gae(
        rewards.flatten(1, 2),
        grid.permute(2, 0, 3, 1).flatten(1, 2),
        rows.length.flatten(),
        rows.bootstrap.flatten(),
        gamma=cfg.gamma,
        gae_lambda=cfg.gae_lambda,
    )

    def flat(x: Tensor) -> Tensor:
        """[L, C * B, N] -> [S, G]."""
        return x.view(limit, cells, battles, n_agents).permute(1, 3, 0, 2).reshape(-1, slots)

    counted = rows.inside.unsqueeze(-1)
    if not switches.absorbing_padding:
        counted = counted & rows.alive
    mask = counted.expand(-1, -1, -1, n_agents).permute(0, 3, 1, 2).reshape(-1, slots).to(values.dtype)
    trained = rows.inside.clone()
    if switches.drop_last_episode:
        trained[:, :, -1] = False
    at = rows.index[:, :-1].flatten(1)
    slot = torch.full((cells, rows.padding + 1), slots, device=device)
    slot.scatter_(1, at, torch.arange(slots, device=device).expand(cells, -1))
    slot[:, -1] = slots
    raw = flat(advantages)
    return PackBatch(
        old_log_probs=torch.cat(found, dim=1),
        old_values=outputs,
        advantages=_standardize(raw, mask),
        raw_advantages=raw,
        value_targets=flat(targets),
        policy_mask=mask,
        trained=trained.flatten(1),
        is_padding=at == rows.padding,
        slot=slot.repeat_interleave(n_agents, 0),
        has_padding=switches.absorbing_padding,
    )


def update_pack(
    learners: Learners,
    rows: PackRows,
    batch: PackBatch,
    cfg: PPO,
    switches: Switches,
    *,
    epochs: int,
    clip_eps: float,
    generators: list[torch.Generator],
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """`epochs` passes in `cfg.minibatches` parts, every cell's parts from its own generator; metrics' means [S]."""
    totals: dict[str, Tensor] = {}
    n_agents = len(rows.x) // len(generators)
    whole = torch.where(batch.trained, 0, -1)
    trained = [cell.nonzero().squeeze(-1) for cell in batch.trained.cpu()] if cfg.minibatches > 1 else []
    for _ in range(epochs):
        part = whole
        if cfg.minibatches > 1:
            drawn = torch.full(batch.trained.shape, -1)
            for c, (slots, generator) in enumerate(zip(trained, generators, strict=True)):
                shuffled = slots[torch.randperm(len(slots), generator=generator)]
                for k, chosen in enumerate(shuffled.tensor_split(cfg.minibatches)):
                    drawn[c, chosen] = k
            part = drawn.to(whole.device)
        for k in range(cfg.minibatches):
            poll()
            member = (part == k).repeat_interleave(n_agents, 0).to(batch.advantages.dtype)
            for key, value in _step(learners, rows, batch, member, cfg, switches, clip_eps).items():
                totals[key] = totals[key] + value if key in totals else value
    return {key: value / (epochs * cfg.minibatches) for key, value in totals.items()}


def _step(
    learners: Learners,
    rows: PackRows,
    batch: PackBatch,
    member: Tensor,
    cfg: PPO,
    switches: Switches,
    clip_eps: float,
) -> dict[str, Tensor]:
    """One Adam step of every actor and critic on the slots with member [S, G] = 1, else 0; metrics [S]."""
    targets, norm = batch.value_targets, learners.value_norm
    count = member.sum(-1)
    if norm is not None:
        norm.take((targets * member).sum(-1) / count, (targets.square() * member).sum(-1) / count)
        targets = norm.normalize(targets)
    metrics = _actor_backward(learners.actor, rows, batch, member, cfg, clip_eps)
    metrics["grad_norm_actor"] = _clip(learners.actor, cfg.max_grad_norm)
    metrics["value_loss"] = _critic_backward(
        learners.critic, rows, batch, targets, member / count.unsqueeze(-1), cfg, switches, clip_eps
    )
    metrics["grad_norm_critic"] = _clip(learners.critic, cfg.max_grad_norm)
    learners.actor_opt.step()
    learners.critic_opt.step()
    return metrics


def _actor_backward(
    actor: Actor, rows: PackRows, batch: PackBatch, member: Tensor, cfg: PPO, clip_eps: float
) -> dict[str, Tensor]:
    """gradients.py: actor_backward."""
    actor.zero_grad(set_to_none=True)
    mask = batch.policy_mask * member
    weight = mask / mask.sum(-1, keepdim=True).clamp(min=1)
    w_rows, advantages = _of_rows(weight, batch), _of_rows(batch.advantages, batch)
    padded = batch.is_padding.repeat_interleave(len(weight) // len(batch.is_padding), 0)
    loss = -(batch.advantages * weight * padded).sum(-1)  # ratio 1, entropy 0, no gradient
    sums = {key: torch.zeros_like(loss) for key in ("entropy", "approx_kl", "clip_fraction")}
    for part in _blocks(rows):
        log_probs, ent = _log_probs(actor, rows, part)
        w, advantage = w_rows[:, part], advantages[:, part]
        log_ratio = log_probs - batch.old_log_probs[:, part]
        ratio = log_ratio.exp()
        surrogate = torch.min(ratio * advantage, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantage)
        part_loss, part_entropy = -(surrogate * w).sum(-1), (ent * w).sum(-1)
        (part_loss - cfg.entropy_coef * part_entropy).sum().backward()
        with torch.no_grad():
            loss += part_loss
            sums["entropy"] += part_entropy
            sums["approx_kl"] += ((ratio - 1 - log_ratio) * w).sum(-1)
            sums["clip_fraction"] += (((ratio - 1).abs() > clip_eps) * w).sum(-1)
    return {"policy_loss": loss, **sums}


def _critic_backward(
    critic: nn.Module,
    rows: PackRows,
    batch: PackBatch,
    targets: Tensor,
    weight: Tensor,
    cfg: PPO,
    switches: Switches,
    clip_eps: float,
) -> Tensor:
    """gradients.py: critic_backward, for targets and weights [S, G] that sum to 1; the loss [S]."""
    critic.zero_grad(set_to_none=True)
    total = torch.zeros_like(targets[:, 0])
    w_rows, at_rows = _of_rows(weight, batch), _of_rows(targets, batch)
    for part in _blocks(rows):
        values, _ = critic(rows.x[:, part], rows.h_critic[:, part])
        losses = value_loss(values, batch.old_values[:, part], at_rows[:, part], cfg, switches, clip_eps)
        loss = (losses * w_rows[:, part]).sum(-1)
        (cfg.value_coef * loss).sum().backward()
        total += loss.detach()
    if batch.has_padding:
        value, _ = critic(rows.x[:, -1:], rows.h_critic[:, -1:])
        losses = value_loss(
            value.expand_as(targets), batch.old_values[:, -1:], targets, cfg, switches, clip_eps
        )
        padded = batch.is_padding.repeat_interleave(len(targets) // len(batch.is_padding), 0)
        loss = (losses * weight * padded).sum(-1)
        (cfg.value_coef * loss).sum().backward()
        total += loss.detach()
    return total


def _log_probs(actor: Actor, rows: PackRows, part: slice) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the taken actions and entropies [S, r]; zero where there is no choice."""
    log_pi = masked_log_softmax(actor(rows.x[:, part], rows.h_actor[:, part])[0], rows.avail_actions[:, part])
    taken = log_pi.gather(-1, rows.actions[:, part].unsqueeze(-1)).squeeze(-1)
    choice = rows.choice[:, part]
    return torch.where(choice, taken, 0.0), torch.where(choice, entropy(log_pi), 0.0)


def _clip(net: nn.Module, max_norm: float) -> Tensor:
    """ppo.py: clip_gradients, without waiting for the device: what is not finite is seen in the metrics."""
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    norms = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))
    return norms


def _standardize(advantages: Tensor, weight: Tensor) -> Tensor:
    """ppo.py: zero mean and unit deviation per slice over the slots that count."""
    count = weight.sum(-1, keepdim=True)
    mean = (advantages * weight).sum(-1, keepdim=True) / count.clamp(min=1)
    variance = ((advantages - mean).square() * weight).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return (advantages - mean) / (variance.sqrt() + 1e-5) * weight


def _of_rows(grid: Tensor, batch: PackBatch) -> Tensor:
    """What rows' slots hold: [S, G] -> [S, R+1], zero for rows in no slot."""
    return fn.pad(grid, (0, 1)).gather(1, batch.slot)


def _blocks(rows: PackRows) -> Iterator[slice]:
    size = max(1, BLOCK[rows.x.device.type] // len(rows.x))
    for start in range(0, rows.padding + 1, size):
        yield slice(start, min(start + size, rows.padding + 1))
