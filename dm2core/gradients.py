"""Gradients of PPO's two losses by torch's autograd, and the scores an update starts from.

Clipped surrogate and clipped Huber value loss as in the released code (ippo_learner.py lines 150-260). The twin of
fused/gradients.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dm2core.batch import Batch
from dm2core.config import PPO, Switches
from dm2core.nets import Actor, Critic
from dm2core.policy import entropy, masked_log_softmax
from dm2core.rows import Rows

BLOCK = 2048  # rows a network sees at once: activations stay in the cache, the gradient is the same sum


def value_loss(
    values: Tensor, old: Tensor, targets: Tensor, cfg: PPO, switches: Switches, clip_eps: float
) -> Tensor:
    """Elementwise max of Huber losses of the value and of the value moved at most clip_eps from the old one."""
    loss = _huber(targets - values, cfg.huber_delta, one_sided=switches.huber_one_sided)
    if switches.value_clip == "off":
        return loss
    clipped = old + (values - old).clamp(-clip_eps, clip_eps)
    return torch.max(loss, _huber(targets - clipped, cfg.huber_delta, one_sided=switches.huber_one_sided))


@torch.no_grad()
def score(actor: Actor, critic: Critic, rows: Rows) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the taken actions (0 where there is no choice) and critic outputs, [N, R+1] both."""
    outputs = torch.cat([critic(rows.x[:, s], rows.h_critic[:, s])[0] for s in _blocks(rows)], dim=1)
    log_probs = torch.cat([_log_probs(actor, rows, s)[0] for s in _blocks(rows)], dim=1)
    # One legal action, or none on padding: probability 1 as float32 computes it.
    return log_probs.masked_fill(~rows.choice, 0.0), outputs


def actor_backward(
    actor: Actor, rows: Rows, batch: Batch, slots: Tensor, cfg: PPO, clip_eps: float
) -> dict[str, Tensor]:
    """Gradient of -(surrogate + entropy bonus), averaged over the slots [M] that count; metrics [N]."""
    actor.zero_grad(set_to_none=True)
    mask = batch.policy_mask[:, slots]
    weight = 1.0 / mask.sum(-1, keepdim=True).clamp(min=1).to(batch.advantages.dtype)
    choice = rows.choice.any(0)[batch.row[slots]]
    fixed, moving = slots[~choice], slots[choice]  # fixed: ratio 1, entropy 0, no gradient
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


def critic_backward(
    critic: Critic,
    rows: Rows,
    batch: Batch,
    targets: Tensor,
    slots: Tensor,
    cfg: PPO,
    switches: Switches,
    clip_eps: float,
) -> Tensor:
    """Gradient of value_coef * mean value loss over the slots [M], for targets [N, G]; the mean loss [N]."""
    critic.zero_grad(set_to_none=True)
    is_padding = batch.row[slots] == rows.padding
    total = torch.zeros(len(targets), dtype=targets.dtype)
    for part in (*slots[~is_padding].split(BLOCK), slots[is_padding]):
        if len(part) == 0:
            continue
        row = batch.row[part]
        seen = (
            row[:1] if row[0] == rows.padding else row
        )  # the padding row is computed once for all its slots
        values, _ = critic(rows.x[:, seen], rows.h_critic[:, seen])
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
    """Quadratic to delta, then linear; one-sided (D08): nothing at all below -delta. NaN where the error is NaN."""
    size = error.abs()
    linear = delta * (size - 0.5 * delta)
    if one_sided:
        linear = torch.where(error < -delta, 0.0, linear)
    return torch.where(size <= delta, 0.5 * error.square(), linear)


def _blocks(rows: Rows) -> Iterator[slice]:
    for start in range(0, rows.padding + 1, BLOCK):
        yield slice(start, min(start + BLOCK, rows.padding + 1))
