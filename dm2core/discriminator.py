"""Per-agent GAIL discriminators on single observations: logit f_i(o), high for agent i's demonstrations.

In the state-action variant o is followed by the action's number, as the released code has it.

One step (gail_learner.py lines 60-110), agent by agent on its own pairs of rows (pairs.py):
    BCE(f(x_E), 1) + BCE(f(x_P), 0) + 10 mean (|grad_x f(x)| - 1)^2,   x = alpha x_E + (1 - alpha) x_P, alpha ~ U(0,1)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as fn

from dm2core.adam import Adam
from dm2core.config import Discriminator, Switches
from dm2core.finite import require_finite
from dm2core.fused import discriminator as fused
from dm2core.nets import DiscriminatorNet
from dm2core.pairs import Episodes, Pairs, draw_pairs
from dm2core.rollout import Rollout

BLOCK = 4096  # rows computed at once
METRICS = ("bce_expert", "bce_policy", "gradient_penalty", "accuracy_expert", "accuracy_policy")


def backward(net: DiscriminatorNet, pairs: Pairs, gp_coef: float, report: bool = True) -> Tensor:
    """Gradient of the loss by autograd; METRICS [5, N]. Its compiled twin, fused/discriminator.py, reads `report`."""
    net.zero_grad(set_to_none=True)
    sums = pairs.alpha.new_zeros(len(METRICS), len(pairs.alpha))
    e_rows, p_rows = (torch.as_tensor(rows) for rows in (pairs.expert_rows, pairs.policy_rows))
    for a in range(0, pairs.alpha.shape[1], BLOCK):
        part = slice(a, a + BLOCK)
        x_e, x_p = pairs.expert.obs[e_rows[:, part]], pairs.policy.obs[p_rows[:, part]]
        f_e, f_p = net(x_e), net(x_p)
        _, gradient = net.input_gradient(torch.lerp(x_p, x_e, pairs.alpha[:, part, None]))
        # Shifted by a tiny number inside the root so that a zero gradient has a derivative.
        norm = (gradient.square().sum(-1) + 1e-30).sqrt()
        bce_e = (fn.softplus(-f_e) * pairs.w_expert[:, part]).sum(-1)
        bce_p = (fn.softplus(f_p) * pairs.w_policy[:, part]).sum(-1)
        penalty = ((norm - 1).square() * pairs.w_penalty[:, part]).sum(-1)
        (bce_e + bce_p + gp_coef * penalty).sum().backward()
        with torch.no_grad():
            right_e = ((f_e > 0) * pairs.w_expert[:, part]).sum(-1)
            right_p = ((f_p < 0) * pairs.w_policy[:, part]).sum(-1)
            sums += torch.stack([bce_e, bce_p, penalty, right_e, right_p])
    return sums


BACKENDS: dict[str, Callable[[DiscriminatorNet, Pairs, float, bool], Tensor]] = {
    "torch": backward,
    "fused": fused.backward,
}


def step(
    net: DiscriminatorNet,
    optimizer: Adam,
    pairs: Pairs,
    gp_coef: float,
    compute: str = "torch",
    report: bool = True,
) -> dict[str, Tensor]:
    """One Adam step of every agent's discriminator; per-agent metrics [N], losses before the step.

    Without `report` the losses need not be computed, only be finite where they are.
    """
    sums = dict(zip(METRICS, BACKENDS[compute](net, pairs, gp_coef, report), strict=True))
    loss = sums["bce_expert"] + sums["bce_policy"] + gp_coef * sums["gradient_penalty"]
    require_finite("discriminator loss", loss)
    optimizer.step()
    return {"loss": loss, **sums}


def update_discriminators(
    net: DiscriminatorNet,
    optimizer: Adam,
    expert: Episodes,
    policy: Episodes,
    slots: int,
    cfg: Discriminator,
    switches: Switches,
    *,
    generator: torch.Generator,
    compute: str = "torch",
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """`cfg.steps` Adam steps; metrics of the last step, averaged over agents."""
    metrics: dict[str, Tensor] = {}
    for number in range(cfg.steps):
        poll()
        pairs = draw_pairs(expert, policy, slots, cfg, switches, generator)
        metrics = step(net, optimizer, pairs, cfg.gp_coef, compute, report=number == cfg.steps - 1)
    return {key: float(value.mean()) for key, value in metrics.items()}


@torch.no_grad()
def policy_logits(
    net: DiscriminatorNet, rollout: Rollout, switches: Switches, *, actions: bool = False
) -> Tensor:
    """f_i(o_t) [L, B, N] on the agents' own observations, with `actions` f_i(o_t, a_t).

    With absorbing padding (D05) padded and dead slots get f(0); without it they get 0.
    """
    slots, battles, n_agents, _ = rollout.obs.shape
    real = _real(rollout, switches)
    dtype = net.head.weight.dtype
    f_zero = net(torch.zeros(n_agents, 1, net.fc1.weight.shape[2], dtype=dtype))[:, 0]
    grid = f_zero.expand(slots, battles, n_agents).clone()
    for part in real.nonzero().split(BLOCK):
        at, battle = part.unbind(1)
        x = rollout.obs[at, battle].transpose(0, 1).to(dtype)  # [N, r, O]
        if actions:
            x = torch.cat([x, rollout.actions[at, battle].T.unsqueeze(-1).to(dtype)], dim=-1)
        grid[at, battle] = net(x).T
    return torch.where(judged(rollout, switches), grid[:-1], 0.0)


def judged(rollout: Rollout, switches: Switches) -> Tensor:
    """Slots [L, B, N] that have an imitation reward: without absorbing padding (D05) those of the living alone."""
    living = _real(rollout, switches).unsqueeze(-1) & rollout.alive
    return (living | switches.absorbing_padding)[:-1]


def _real(rollout: Rollout, switches: Switches) -> Tensor:
    """Slots [L + 1, B] with an observation that is not padding."""
    t = torch.arange(len(rollout.obs)).unsqueeze(-1)
    return t < rollout.lengths + int(switches.terminal_row)
