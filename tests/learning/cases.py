"""Small made-up rollouts with the shape of real ones: early ends, a full-length battle, deaths."""

from __future__ import annotations

import torch

from dm2core import golden_update
from dm2core.config import Switches
from dm2core.nets import Actor, Critic
from dm2core.rollout import Rollout

CFG = golden_update.CFG.model_copy(update={"hidden_size": 16})
AUTHORS = golden_update.AUTHORS.model_copy(update={"freeze_value_head": True})
PAPER = Switches(
    absorbing_padding=False,
    terminal_row=False,
    t0_last_action_leak=False,
    drop_last_episode=False,
    freeze_value_head=False,
    value_norm="valuenorm",
    value_clip="normalized",
    huber_one_sided=False,
    imitation_reward="logit",
)
N_AGENTS, OBS, ACTIONS, LIMIT = 3, 6, 5, 9
LENGTHS = (4, 9, 2, 8, 7)


def rollout(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> Rollout:
    """float64 rollout: agent 0 of battle 0 dies at t = 2; battle 1 uses up the limit."""
    g = torch.Generator().manual_seed(seed)
    battles = len(lengths)
    shape = (LIMIT + 1, battles, N_AGENTS)
    length = torch.tensor(lengths)
    filled = (torch.arange(LIMIT + 1).unsqueeze(-1) <= length).unsqueeze(-1)
    alive = filled.expand(shape).clone()
    alive[2:, 0, 0] = False
    avail = torch.rand(*shape, ACTIONS, generator=g) < 0.6
    avail[..., 0] = False
    avail[..., 1] = True
    avail &= alive.unsqueeze(-1)
    avail[..., 0] |= filled & ~alive
    weights = avail.double() + 1e-12
    actions = torch.multinomial(weights.flatten(0, 2), 1, generator=g).view(shape)
    actions[~filled.expand(shape)] = 0

    def normal(size: int) -> torch.Tensor:
        return torch.randn(*shape, size, generator=g, dtype=torch.float64)

    hidden = filled.unsqueeze(-1)
    return Rollout(
        obs=(normal(OBS) * alive.unsqueeze(-1)).float(),
        avail_actions=avail,
        actions=actions,
        alive=alive,
        rewards=torch.rand(LIMIT, battles, generator=g, dtype=torch.float64) * filled[1:, :, 0],
        log_probs=torch.zeros(shape, dtype=torch.float64),
        values=torch.zeros(shape, dtype=torch.float64),
        h_actor=normal(CFG.hidden_size) * hidden,
        h_critic=normal(CFG.hidden_size) * hidden,
        lengths=length,
        won=length < 5,
        truncated=length == LIMIT,
    )


def networks(seed: int = 0) -> tuple[Actor, Critic]:
    """float64 networks, biases and head made non-trivial."""
    g = torch.Generator().manual_seed(seed)
    size_in = OBS + ACTIONS + N_AGENTS
    actor = Actor(N_AGENTS, size_in, ACTIONS, CFG.hidden_size).init(g).double()
    critic = Critic(N_AGENTS, size_in, CFG.hidden_size).init(g).double()
    with torch.no_grad():
        for p in (*actor.parameters(), *critic.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return actor, critic
