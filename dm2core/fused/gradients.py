"""The compiled backend of ppo.py: what gradients.py does in torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dm2core.batch import Batch
from dm2core.config import PPO, Switches
from dm2core.fused import losses
from dm2core.fused.body import Sums, Work, make_sums, make_work, padded
from dm2core.fused.fold import fold, unfold
from dm2core.nets import Actor, Critic
from dm2core.rows import Rows


def _buffers(rows: Rows, net: Actor | Critic) -> tuple[Work, Sums]:
    size_in, (n_agents, n_out, hidden) = rows.x_normalized.shape[2], net.head.weight.shape
    return make_work(size_in, hidden, n_out), make_sums(n_agents, size_in, hidden, padded(n_out))


def score(actor: Actor, critic: Critic, rows: Rows) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the taken actions (0 where there is no choice) and critic outputs, [N, R+1] both."""
    log_probs, values = torch.zeros(rows.actions.shape), torch.zeros(rows.actions.shape)
    losses.score(
        rows.x_normalized.numpy(), rows.h_actor.numpy(), rows.h_critic.numpy(), rows.choice.numpy(),
        rows.dead_input.numpy(), rows.avail_actions.numpy(), rows.actions.numpy(), fold(actor),
        _buffers(rows, actor)[0], fold(critic), _buffers(rows, critic)[0], _lists(4, rows.padding + 1),
        log_probs.numpy(), values.numpy(),
    )  # fmt: skip
    return log_probs, values


def actor_backward(
    actor: Actor, rows: Rows, batch: Batch, slots: Tensor, cfg: PPO, clip_eps: float
) -> dict[str, Tensor]:
    """Write the gradients of the actors' losses on grid slots [M]; metrics [N]."""
    k, s = _buffers(rows, actor)
    out = np.zeros((len(batch.advantages), 4))
    losses.policy_gradients(
        slots.numpy(), batch.row.numpy(), rows.x_normalized.numpy(), rows.h_actor.numpy(), rows.choice.numpy(),
        rows.avail_actions.numpy(), rows.actions.numpy(), batch.old_log_probs.numpy(), batch.advantages.numpy(),
        batch.policy_mask.numpy(), np.float32(cfg.entropy_coef), np.float32(clip_eps), fold(actor), k, s,
        _lists(2, len(slots)), out,
    )  # fmt: skip
    unfold(actor, s)
    names = ("policy_loss", "entropy", "approx_kl", "clip_fraction")
    return {name: torch.from_numpy(out[:, j].copy()) for j, name in enumerate(names)}


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
    """Write the gradients of the critics' losses on grid slots [M] for targets [N, G]; mean losses [N]."""
    k, s = _buffers(rows, critic)
    totals = np.zeros(len(targets))
    losses.value_gradients(
        slots.numpy(), batch.row.numpy(), rows.x_normalized.numpy(), rows.h_critic.numpy(), rows.dead_input.numpy(),
        batch.old_values.numpy(), targets.numpy(), np.float32(cfg.value_coef / len(slots)),
        np.float32(cfg.huber_delta), switches.huber_one_sided,
        np.float32(-1.0 if switches.value_clip == "off" else clip_eps), fold(critic), k, s,
        np.zeros(3 * rows.h_critic.shape[2], np.float32), _lists(4, len(slots)), totals,
    )  # fmt: skip
    unfold(critic, s)
    return torch.from_numpy(totals) / len(slots)


def _lists(count: int, size: int) -> NDArray[np.int64]:
    return np.empty((count, size), np.int64)
