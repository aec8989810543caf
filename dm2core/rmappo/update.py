"""RMAPPO's update of one actor and one critic for all agents (on-policy r_mappo.py, shared_buffer.py).

The buffer is cut into chunks of L steps; backpropagation through time runs over a chunk, from the hidden state stored
at its first step. All chunks enter every epoch at once (num_mini_batch 1), so nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from dm2core.adam import Adam
from dm2core.config import PPO
from dm2core.finite import require_finite
from dm2core.nets import Actor, Critic, RecurrentBody, StackedLayerNorm, StackedLinear
from dm2core.policy import entropy, masked_log_softmax
from dm2core.ppo import clip_gradients
from dm2core.returns import ValueNorm
from dm2core.rmappo.collect import Buffer


@dataclass
class Shared:
    """What all agents share: networks with one slice, their optimisers, the value's running scale."""

    actor: Actor
    critic: Critic
    actor_opt: Adam
    critic_opt: Adam
    value_norm: ValueNorm

    @staticmethod
    def of(actor: Actor, critic: Critic, lr: float, adam_eps: float) -> Shared:
        """Fresh optimisers for given networks."""

        def adam(net: nn.Module) -> Adam:
            return Adam(net.parameters(), lr=lr, eps=adam_eps)

        return Shared(actor, critic, adam(actor), adam(critic), ValueNorm(1, actor.head.weight.dtype))


@dataclass(frozen=True)
class ActorChunks:
    """The C chunks of L steps in which the agent lives for at least one; the others enter no loss of the actor's."""

    x: Tensor  # [L, C, F]
    avail_actions: Tensor  # [L, C, A] bool
    actions: Tensor  # [L, C] int64
    log_probs: Tensor  # [L, C]
    advantages: Tensor  # [L, C] standardised
    keep: Tensor  # [L, C] bool
    weight: Tensor  # [L, C] 1 / (number of steps lived) where the agent lives, else 0: the losses' mean
    h: Tensor  # [C, H]


@dataclass(frozen=True)
class CriticChunks:
    """The chunks of L steps of which at least one enters the value loss: all, unless dead agents' are left out."""

    state: Tensor  # [L, C, S]
    values: Tensor  # [L, C]
    targets: Tensor  # [L, C] in units of the return
    keep: Tensor  # [L, C] bool
    weight: Tensor  # [L, C] 1 / (number of steps that count) where one counts, else 0
    h: Tensor  # [C, H]


def buffer_gae(
    rewards: Tensor, values: Tensor, keep: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets [T, R] over steps in which battles may end (shared_buffer.py: compute_returns).

    rewards [T, R]; values [T+1, R] in units of the return; keep [T+1, R]. An end is an end: after it nothing counts,
    not even where the time limit was the reason (use_proper_time_limits is off).
    """
    advantages = torch.zeros_like(rewards)
    carry = torch.zeros_like(rewards[0])
    for t in range(len(rewards) - 1, -1, -1):
        goes_on = keep[t + 1].to(rewards.dtype)
        delta = rewards[t] + gamma * values[t + 1] * goes_on - values[t]
        carry = delta + gamma * gae_lambda * goes_on * carry
        advantages[t] = carry
    return advantages, advantages + values[:-1]


def standardize(advantages: Tensor, alive: Tensor) -> Tensor:
    """Zero mean and unit (biased) deviation over the steps lived by all agents together."""
    lived = advantages[alive]
    return (advantages - lived.mean()) / (lived.std(correction=0) + 1e-5)


def actor_chunks(buffer: Buffer, advantages: Tensor, length: int) -> ActorChunks:
    """The buffer in chunks of `length` steps, as the actor learns from it: steps lived."""
    weight, used = _weigh(buffer.alive, length, advantages.dtype)
    return ActorChunks(
        x=_cut(buffer.x, length)[:, used],
        avail_actions=_cut(buffer.avail_actions, length)[:, used],
        actions=_cut(buffer.actions, length)[:, used],
        log_probs=_cut(buffer.log_probs, length)[:, used],
        advantages=_cut(advantages, length)[:, used],
        keep=_cut(buffer.keep[:-1], length)[:, used],
        weight=weight,
        h=_cut(buffer.h_actor, length)[0, used],
    )


def critic_chunks(buffer: Buffer, targets: Tensor, length: int, *, active_masks: bool) -> CriticChunks:
    """The same for the critic: every step that was played or, with `active_masks`, steps lived.

    Returns go on past an agent's death, so the critic is asked for the value of being dead, and learns it only without
    masks. It knows who is dead: of its state nothing but the agent's number is left (`rmappo.state`).
    """
    weight, used = _weigh(buffer.alive if active_masks else buffer.played, length, targets.dtype)
    return CriticChunks(
        state=_cut(buffer.state, length)[:, used],
        values=_cut(buffer.values[:-1], length)[:, used],
        targets=_cut(targets, length)[:, used],
        keep=_cut(buffer.keep[:-1], length)[:, used],
        weight=weight,
        h=_cut(buffer.h_critic, length)[0, used],
    )


def _cut(grid: Tensor, length: int) -> Tensor:
    """[T, R, ...] -> [L, T / L * R, ...]."""
    return grid.unflatten(0, (-1, length)).transpose(0, 1).flatten(1, 2)


def _weigh(counts: Tensor, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights [L, C] of the steps that count [T, R], which sum to 1, and the chunks [T / L * R] that hold any."""
    cut = _cut(counts, length)
    used = cut.any(0)
    return (cut.to(dtype) / cut.sum())[:, used], used


def unroll(body: RecurrentBody, x: Tensor, h: Tensor, keep: Tensor) -> Tensor:
    """Features [L, C, H] of chunks x [L, C, F] from hidden states h [C, H], which start anew where not keep [L, C]."""
    x = _norm(body.norm1, torch.relu(_linear(body.fc1, _norm(body.norm_in, x))))
    x = _norm(body.norm2, torch.relu(_linear(body.fc2, x)))
    sizes = (2 * h.shape[-1], h.shape[-1])
    # Split once and unbound, for the gradient of a slice is a whole array of zeros.
    x_gates, x_new = (part.unbind() for part in _linear(body.gru.input, x).split(sizes, dim=-1))
    kept = keep.to(x.dtype).unsqueeze(-1)
    steps = []
    for t in range(len(x)):
        h = h * kept[t]
        h_gates, h_new = _linear(body.gru.hidden, h).split(sizes, dim=-1)
        reset, update = torch.sigmoid(x_gates[t] + h_gates).chunk(2, dim=-1)
        h = torch.lerp(torch.tanh(torch.addcmul(x_new[t], reset, h_new)), h, update)
        steps.append(h)
    return _norm(body.norm_out, torch.stack(steps))


def actor_backward(actor: Actor, chunks: ActorChunks, cfg: PPO, clip_eps: float) -> dict[str, Tensor]:
    """Gradient of -(clipped surrogate + entropy bonus); metrics."""
    actor.zero_grad(set_to_none=True)
    logits = _linear(actor.head, unroll(actor.body, chunks.x, chunks.h, chunks.keep))
    log_pi = masked_log_softmax(logits, chunks.avail_actions)
    log_ratio = log_pi.gather(-1, chunks.actions.unsqueeze(-1)).squeeze(-1) - chunks.log_probs
    ratio = log_ratio.exp()
    surrogate = torch.min(
        ratio * chunks.advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * chunks.advantages
    )
    loss = -(surrogate * chunks.weight).sum()
    mean_entropy = (entropy(log_pi) * chunks.weight).sum()
    (loss - cfg.entropy_coef * mean_entropy).backward()
    with torch.no_grad():
        return {
            "policy_loss": loss.detach(),
            "entropy": mean_entropy.detach(),
            "approx_kl": ((ratio - 1 - log_ratio) * chunks.weight).sum(),
            "clip_fraction": (((ratio - 1).abs() > clip_eps) * chunks.weight).sum(),
        }


def critic_backward(
    critic: Critic,
    chunks: CriticChunks,
    targets: Tensor,
    value_coef: float,
    huber_delta: float,
    clip_eps: float,
) -> Tensor:
    """Gradient of value_coef * value loss for normalised targets [L, C]; the loss.

    Larger of the Huber losses of the value and of the value moved at most clip_eps from the old one, in units of the
    critic's output.
    """
    critic.zero_grad(set_to_none=True)
    features = unroll(critic.body, chunks.state, chunks.h, chunks.keep)
    values = _linear(critic.head, features).squeeze(-1)
    clipped = chunks.values + (values - chunks.values).clamp(-clip_eps, clip_eps)
    losses = [fn.huber_loss(v, targets, reduction="none", delta=huber_delta) for v in (values, clipped)]
    loss = (torch.max(*losses) * chunks.weight).sum()
    (value_coef * loss).backward()
    return loss.detach()


def update_shared(
    shared: Shared,
    for_actor: ActorChunks,
    for_critic: CriticChunks,
    all_targets: Tensor,
    cfg: PPO,
    *,
    epochs: int,
    clip_eps: float,
    value_coef: float,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """`epochs` Adam steps of both networks; the metrics' means.

    all_targets, of every step played, move the running scale, those of the dead too, as in the reference. Raises
    FloatingPointError if a gradient is not finite.
    """
    totals: dict[str, float] = {}
    for _ in range(epochs):
        poll()
        metrics = actor_backward(shared.actor, for_actor, cfg, clip_eps)
        metrics["grad_norm_actor"] = clip_gradients(shared.actor, cfg.max_grad_norm)
        shared.value_norm.update(all_targets.reshape(1, -1))
        targets = shared.value_norm.normalize(for_critic.targets.unsqueeze(0)).squeeze(0)
        metrics["value_loss"] = critic_backward(
            shared.critic, for_critic, targets, value_coef, cfg.huber_delta, clip_eps
        )
        metrics["grad_norm_critic"] = clip_gradients(shared.critic, cfg.max_grad_norm)
        for key, value in metrics.items():
            require_finite(key, value, agent_axis=None)
        shared.actor_opt.step()
        shared.critic_opt.step()
        for key, value in metrics.items():
            totals[key] = totals.get(key, 0.0) + float(value)
    return {key: value / epochs for key, value in totals.items()}


def _linear(layer: StackedLinear, x: Tensor) -> Tensor:
    """The only slice of a layer; the plain product is faster than a stacked one of height 1."""
    return fn.linear(x, layer.weight[0], layer.bias[0])


def _norm(layer: StackedLayerNorm, x: Tensor) -> Tensor:
    return fn.layer_norm(x, x.shape[-1:], layer.weight[0], layer.bias[0])
