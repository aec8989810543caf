"""Behaviour cloning: each agent's policy learns its own demonstrations by maximum likelihood, before any battle.

The paper's Fig. 5 pretrains so; its code was not released, hence epochs, learning rate and batch are ours. Memory is
treated as in training (D09): hidden states come from running the current policy through the demonstrations, once per
epoch, and no gradient flows through time. Actions of demonstrations carry no availability, so the likelihood is over
all actions; rows of dead agents and the never executed last action are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

from dm2core.adam import Adam
from dm2core.config import Cloning
from dm2core.demonstrations import AgentDemos, Demonstrations
from dm2core.finite import NotFinite
from dm2core.nets import Actor, net_input


def clone(
    actor: Actor,
    demos: Demonstrations,
    cfg: Cloning,
    generator: torch.Generator,
    poll: Callable[[], None] = lambda: None,
) -> list[float]:
    """Train in place; mean negative log-likelihood (nats) of an action in each epoch."""
    inputs, actions, weight = _rows(actor, demos)
    optimizer = Adam(actor.parameters(), lr=cfg.lr)
    losses = []
    for _ in range(cfg.epochs):
        hidden = _hidden_states(actor, demos, inputs)
        order = torch.argsort(torch.rand(weight.shape, generator=generator), dim=1)
        total = torch.zeros(())
        for part in order.split(cfg.batch_rows, dim=1):
            poll()
            scores, _ = actor(_take(inputs, part), _take(hidden, part))
            log_pi = torch.log_softmax(scores, dim=-1)
            likely = log_pi.gather(-1, actions.gather(1, part).unsqueeze(-1)).squeeze(-1)
            counted = weight.gather(1, part)
            # Per agent a mean of its own, so that agents do not weigh on each other.
            loss = -(likely * counted).sum(1) / counted.sum(1).clamp(min=1)
            actor.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimizer.step()
            total = total - (likely.detach() * counted).sum()
        losses.append(float(total / weight.sum()))
        if not np.isfinite(losses[-1]):
            raise NotFinite("behaviour cloning loss", [], float(losses[-1]))
    return losses


def _rows(actor: Actor, demos: Demonstrations) -> tuple[Tensor, Tensor, Tensor]:
    """Every agent's rows end to end, padded to the longest: input [N, R, F], action [N, R], weight [N, R]."""
    longest = max(len(a.obs) for a in demos.agents)
    dtype = actor.head.weight.dtype

    def stack(part: Callable[[AgentDemos], np.ndarray]) -> Tensor:  # type: ignore[type-arg]
        rows = [torch.from_numpy(np.ascontiguousarray(part(a))) for a in demos.agents]
        return torch.stack([torch.cat([r, r.new_zeros(longest - len(r), *r.shape[1:])]) for r in rows])

    obs, actions = stack(lambda a: a.obs), stack(lambda a: a.actions)
    last = fn.one_hot(stack(_last_action) + 1, actor.n_actions + 1)[..., 1:].to(dtype)
    return net_input(obs.to(dtype), last), actions, stack(_counted).to(dtype)


def _last_action(agent: AgentDemos) -> np.ndarray:  # type: ignore[type-arg]
    """[R] action of the row before; -1 at the start of an episode."""
    last = np.concatenate([[-1], agent.actions[:-1]])
    last[agent.start] = -1
    return last


def _counted(agent: AgentDemos) -> np.ndarray:  # type: ignore[type-arg]
    """[R] rows that a living agent acted on."""
    counted = (agent.obs != 0).any(1)
    counted[agent.start + agent.lengths] = False
    return counted


@torch.no_grad()
def _hidden_states(actor: Actor, demos: Demonstrations, inputs: Tensor) -> Tensor:
    """[N, R, H] hidden state before each row, from zero at the start of every episode."""
    n_agents, rows, _ = inputs.shape
    hidden = inputs.new_zeros(n_agents, rows, actor.hidden_size)
    start = torch.from_numpy(np.stack([a.start for a in demos.agents]))
    lengths = torch.from_numpy(np.stack([a.lengths for a in demos.agents]))
    for t in range(int(lengths.max())):
        # Agents of one set have as many episodes, but those may end at different times: the shorter ones idle on
        # their last row.
        at = start + torch.minimum(torch.full_like(lengths, t), lengths)
        running = (lengths > t).any(0)
        at, alive = at[:, running], (lengths > t)[:, running]
        _, h_next = actor(_take(inputs, at), _take(hidden, at))
        following = (at + 1).clamp(max=rows - 1)
        kept = torch.where(alive.unsqueeze(-1), h_next, _take(hidden, following))
        hidden.scatter_(1, following.unsqueeze(-1).expand_as(kept), kept)
    return hidden


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """rows [N, R, K] at index [N, r] -> [N, r, K]."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
