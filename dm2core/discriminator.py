"""Per-agent GAIL discriminators on single observations: logit f_i(o), high for agent i's demonstrations.

One step (gail_learner.py lines 60-110), agent by agent on its own data: 64 expert and 64 policy episodes are drawn,
their time slots paired in order, and
    BCE(f(x_E), 1) + BCE(f(x_P), 0) + 10 mean (|grad_x f(x)| - 1)^2,   x = alpha x_E + (1 - alpha) x_P, alpha ~ U(0,1)
is averaged over all L+1 slots. Slots where both sides are padding are one zero row with a weight (D05).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dm2core.config import Discriminator, Switches
from dm2core.nets import DiscriminatorNet
from dm2core.rollout import Rollout

BLOCK = 4096  # rows computed at once


@dataclass(frozen=True)
class Episodes:
    """Observation rows of K episodes per agent, end to end; the last row is zero and stands for padding."""

    obs: Tensor  # [R+1, O]
    start: NDArray[np.int64]  # [N, K] first row of episode k of agent i
    length: NDArray[np.int64]  # [N, K] rows

    def slots(self, agent: int, episode: NDArray[np.int64], t: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of slots (episode, t); the zero row past an episode's end."""
        rows = self.start[agent, episode] + t
        return np.where(t < self.length[agent, episode], rows, len(self.obs) - 1)


@dataclass(frozen=True)
class Pairs:
    """What one step sees: paired rows per agent, and each row's weight in the three means (weights sum to 1)."""

    expert: Tensor  # [N, R, O]
    policy: Tensor  # [N, R, O]
    alpha: Tensor  # [N, R]
    w_expert: Tensor  # [N, R]
    w_policy: Tensor  # [N, R]
    w_penalty: Tensor  # [N, R]


def policy_episodes(rollout: Rollout, dtype: torch.dtype, *, terminal_row: bool) -> Episodes:
    """The rollout's episodes as the discriminator reads them: rows t < T, and t = T with the terminal row (D30)."""
    slots, battles, n_agents, obs_size = rollout.obs.shape
    flat = rollout.obs.permute(2, 1, 0, 3).reshape(-1, obs_size).to(dtype)
    start = np.arange(n_agents * battles, dtype=np.int64).reshape(n_agents, battles) * slots
    length = np.broadcast_to(rollout.lengths.numpy() + int(terminal_row), (n_agents, battles))
    return Episodes(torch.cat([flat, flat.new_zeros(1, obs_size)]), start, length)


def draw_pairs(
    expert: Episodes,
    policy: Episodes,
    slots: int,
    cfg: Discriminator,
    switches: Switches,
    generator: torch.Generator,
) -> Pairs:
    """Draw episodes of both sides without replacement, agent by agent, and pair their rows."""
    n_agents, n_expert = expert.start.shape
    n_policy = policy.start.shape[1]
    size = min(cfg.episodes_per_step, n_expert, n_policy)
    picks = [
        (
            torch.randperm(n_expert, generator=generator)[:size],
            torch.randperm(n_policy, generator=generator)[:size],
        )
        for _ in range(n_agents)
    ]
    index = []
    for i, (e, p) in enumerate((e.numpy(), p.numpy()) for e, p in picks):
        pair, t = pair_slots(expert, policy, i, e, p)
        index.append((expert.slots(i, e[pair], t), policy.slots(i, p[pair], t)))
    longest = max(len(e) for e, _ in index) + 1
    alpha = torch.rand(n_agents, longest, generator=generator, dtype=expert.obs.dtype)
    return make_pairs(expert, policy, index, alpha, size * slots, switches)


def pair_slots(
    expert: Episodes, policy: Episodes, agent: int, e: NDArray[np.int64], p: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(pair k, slot t) of episode pairs (e[k], p[k]), each to the end of its longer side."""
    longer = np.maximum(expert.length[agent, e], policy.length[agent, p])
    pair = np.repeat(np.arange(len(e)), longer)
    return pair, np.arange(len(pair)) - np.repeat(np.cumsum(longer) - longer, longer)


def make_pairs(
    expert: Episodes,
    policy: Episodes,
    index: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    alpha: Tensor,
    total_slots: int,
    switches: Switches,
) -> Pairs:
    """Gather rows and weights; rows past an agent's own pairs are zero rows, the first of them weighted.

    alpha [N, R], R one more than the longest agent's pairs; total_slots: slots per agent with all padding counted.
    """
    n_agents, width = alpha.shape
    e_rows = np.full((n_agents, width), len(expert.obs) - 1)
    p_rows = np.full((n_agents, width), len(policy.obs) - 1)
    weight = np.zeros((n_agents, width))
    for i, (e, p) in enumerate(index):
        e_rows[i, : len(e)], p_rows[i, : len(p)] = e, p
        weight[i, : len(e)] = 1.0
        weight[i, len(e)] = total_slots - len(e)
    x_expert = expert.obs[torch.from_numpy(e_rows)]
    x_policy = policy.obs[torch.from_numpy(p_rows)]
    if switches.absorbing_padding:
        w = torch.from_numpy(weight / total_slots).to(alpha.dtype)
        return Pairs(x_expert, x_policy, alpha, w, w, w)
    # Only rows of living agents count; SMAC's observation is all zero exactly for dead agents.
    w_expert, w_policy = (x.ne(0).any(-1).to(alpha.dtype) for x in (x_expert, x_policy))
    masks = (w_expert, w_policy, w_expert * w_policy)
    normed = [m / m.sum(-1, keepdim=True).clamp(min=1) for m in masks]
    return Pairs(x_expert, x_policy, alpha, *normed)


def step(
    net: DiscriminatorNet, optimizer: torch.optim.Adam, pairs: Pairs, gp_coef: float
) -> dict[str, Tensor]:
    """One Adam step of every agent's discriminator; per-agent metrics [N], losses before the step."""
    optimizer.zero_grad(set_to_none=True)
    names = ("bce_expert", "bce_policy", "gradient_penalty", "accuracy_expert", "accuracy_policy")
    sums = {name: torch.zeros(len(pairs.alpha), dtype=pairs.alpha.dtype) for name in names}
    for a in range(0, pairs.alpha.shape[1], BLOCK):
        part = slice(a, a + BLOCK)
        x_e, x_p, alpha = pairs.expert[:, part], pairs.policy[:, part], pairs.alpha[:, part, None]
        f_e, f_p = net(x_e), net(x_p)
        _, gradient = net.input_gradient(torch.lerp(x_p, x_e, alpha))
        # Shifted by a tiny number inside the root so that a zero gradient has a derivative.
        norm = (gradient.square().sum(-1) + 1e-30).sqrt()
        bce_e = (fn.softplus(-f_e) * pairs.w_expert[:, part]).sum(-1)
        bce_p = (fn.softplus(f_p) * pairs.w_policy[:, part]).sum(-1)
        penalty = ((norm - 1).square() * pairs.w_penalty[:, part]).sum(-1)
        (bce_e + bce_p + gp_coef * penalty).sum().backward()
        with torch.no_grad():
            right_e = ((f_e > 0) * pairs.w_expert[:, part]).sum(-1)
            right_p = ((f_p < 0) * pairs.w_policy[:, part]).sum(-1)
            for name, value in zip(names, (bce_e, bce_p, penalty, right_e, right_p), strict=True):
                sums[name] += value
    loss = sums["bce_expert"] + sums["bce_policy"] + gp_coef * sums["gradient_penalty"]
    if not bool(torch.isfinite(loss).all()):
        raise FloatingPointError(f"discriminator losses per agent are {loss.tolist()}")
    optimizer.step()
    return {"loss": loss, **sums}


def update_discriminators(
    net: DiscriminatorNet,
    optimizer: torch.optim.Adam,
    expert: Episodes,
    policy: Episodes,
    slots: int,
    cfg: Discriminator,
    switches: Switches,
    *,
    generator: torch.Generator,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """`cfg.steps` Adam steps; metrics of the last step, averaged over agents."""
    metrics: dict[str, Tensor] = {}
    for _ in range(cfg.steps):
        poll()
        pairs = draw_pairs(expert, policy, slots, cfg, switches, generator)
        metrics = step(net, optimizer, pairs, cfg.gp_coef)
    return {key: float(value.mean()) for key, value in metrics.items()}


@torch.no_grad()
def policy_logits(net: DiscriminatorNet, rollout: Rollout, switches: Switches) -> Tensor:
    """f_i(o_t) [L, B, N] on the agents' own observations.

    With absorbing padding (D05) padded and dead slots get f(0); without it they get 0.
    """
    slots, battles, n_agents, obs_size = rollout.obs.shape
    t = torch.arange(slots).unsqueeze(-1)
    real = t < rollout.lengths + int(switches.terminal_row)
    x = rollout.obs[real].transpose(0, 1).to(net.head.weight.dtype)  # [N, R, O]
    f = torch.cat([net(part) for part in x.split(BLOCK, dim=1)], dim=1)
    f_zero = net(x.new_zeros(n_agents, 1, obs_size))[:, 0]
    grid = f_zero.expand(slots, battles, n_agents).clone()
    grid[real] = f.T
    if not switches.absorbing_padding:
        grid = torch.where(real.unsqueeze(-1) & rollout.alive, grid, 0.0)
    return grid[:-1]
