"""The compiled backend of ppo.py: what gradients.py does in torch."""

from __future__ import annotations

from collections.abc import Iterator

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


def _by_input(row: NDArray[np.int64], rows: Rows, agent: int) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """Positions in row [M]: rows with an input of their own, those of the dead, who share one (True), padding."""
    dead = rows.dead_input[agent].numpy()[row]
    padding = row == rows.padding
    for part, shared in ((~dead & ~padding, False), (dead, True), (padding, False)):
        if part.any():
            yield np.flatnonzero(part), shared


def score(actor: Actor, critic: Critic, rows: Rows) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the taken actions (0 where there is no choice) and critic outputs, [N, R+1] both."""
    log_probs, values = torch.zeros(rows.actions.shape), torch.zeros(rows.actions.shape)
    x, everything = rows.x_normalized.numpy(), np.arange(rows.padding + 1)
    w_actor, w_critic = fold(actor), fold(critic)
    k_actor, k_critic = _buffers(rows, actor)[0], _buffers(rows, critic)[0]
    for i in range(len(x)):
        chosen = np.flatnonzero(rows.choice[i].numpy())
        losses.score_actions(
            i, chosen, x[i], rows.h_actor[i].numpy(), rows.avail_actions[i].numpy(), rows.actions[i].numpy(),
            w_actor, k_actor, log_probs[i].numpy(),
        )  # fmt: skip
        for part, shared in _by_input(everything, rows, i):
            losses.score_values(
                i, part, shared, x[i], rows.h_critic[i].numpy(), w_critic, k_critic, values[i].numpy()
            )
    return log_probs, values


def actor_backward(
    actor: Actor, rows: Rows, batch: Batch, slots: Tensor, cfg: PPO, clip_eps: float
) -> dict[str, Tensor]:
    """Write the gradients of the actors' losses on grid slots [M]; metrics [N]."""
    x, w = rows.x_normalized.numpy(), fold(actor)
    k, s = _buffers(rows, actor)
    out = np.zeros((len(x), 4))
    slot, row = slots.numpy(), batch.row.numpy()
    for i in range(len(x)):
        counted = batch.policy_mask[i].numpy()
        weight = counted / np.float32(max(counted[slot].sum(), 1))
        moving = rows.choice[i].numpy()[row[slot]]
        fixed = slot[~moving]  # ratio 1, entropy 0, no gradient
        out[i, 0] = -np.dot(batch.advantages[i].numpy()[fixed], weight[fixed])
        losses.policy_gradient(
            i, slot[moving], row[slot[moving]], x[i], rows.h_actor[i].numpy(), rows.avail_actions[i].numpy(),
            rows.actions[i].numpy(), batch.old_log_probs[i].numpy(), batch.advantages[i].numpy(),
            weight.astype(np.float32), np.float32(cfg.entropy_coef), np.float32(clip_eps), w, k, s, out[i],
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
    x, w = rows.x_normalized.numpy(), fold(critic)
    k, s = _buffers(rows, critic)
    slot = slots.numpy()
    row = batch.row.numpy()[slot]
    scale, delta = np.float32(cfg.value_coef / len(slot)), np.float32(cfg.huber_delta)
    clip = np.float32(-1.0 if switches.value_clip == "off" else clip_eps)
    total = torch.zeros(len(x), dtype=torch.float64)
    d_gates = np.zeros(3 * rows.h_critic.shape[2], dtype=np.float32)
    for i in range(len(x)):
        h, old, target = (t[i].numpy() for t in (rows.h_critic, batch.old_values, targets))
        for part, shared in _by_input(row, rows, i):
            r = row[part]
            total[i] += losses.value_gradient(
                i, slot[part], r[:1] if r[0] == rows.padding else r, shared, x[i], h, old, target,
                scale, delta, switches.huber_one_sided, clip, w, k, s, d_gates,
            )  # fmt: skip
    unfold(critic, s)
    return total / len(slot)
