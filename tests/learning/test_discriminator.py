"""Discriminator: written-out gradient, padding as one weighted row, learning to tell, agents apart."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch.nn import functional as fn

from dm2core import discriminator as disc
from dm2core import pairs as pairing
from dm2core.adam import Adam
from dm2core.config import Discriminator
from dm2core.nets import DiscriminatorNet
from dm2core.reward import imitation_reward
from tests.learning.cases import AUTHORS, LIMIT, N_AGENTS, OBS, PAPER, rollout

CFG = Discriminator(lr=1e-3, hidden_size=16, steps=1, episodes_per_step=4, gp_coef=10.0)


def net(seed: int = 3) -> DiscriminatorNet:
    return DiscriminatorNet(N_AGENTS, OBS, 16).init(torch.Generator().manual_seed(seed)).double()


def test_written_out_input_gradient_is_autograds() -> None:
    d, x = net(), torch.randn(N_AGENTS, 7, OBS, dtype=torch.float64, requires_grad=True)
    f, gradient = d.input_gradient(x)
    torch.testing.assert_close(f, d(x))
    torch.testing.assert_close(gradient, torch.autograd.grad(d(x).sum(), x)[0])


@pytest.mark.parametrize("block", [5, 4096])
def test_step_has_the_gradient_of_the_whole_padded_grid(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agent by agent, against the released form: all L+1 slots of every pair, zero padding included."""
    monkeypatch.setattr(disc, "BLOCK", block)
    data, other = rollout(1), rollout(2, (9, 3, 5, 5, 2))
    policy = pairing.policy_episodes(data, torch.float64, terminal_row=True)
    expert = pairing.policy_episodes(other, torch.float64, terminal_row=True)
    slots = LIMIT + 1
    g = torch.Generator().manual_seed(5)
    e, p = (np.stack([torch.randperm(5, generator=g)[:4].numpy() for _ in range(3)]) for _ in range(2))
    alpha = torch.rand(N_AGENTS, 4, slots, generator=g, dtype=torch.float64)
    alphas = []
    for i in range(N_AGENTS):
        pair, t = pairing.pair_slots(expert, policy, e, p, i)
        alphas.append(alpha[i][torch.from_numpy(pair), torch.from_numpy(t)])
    width = max(map(len, alphas)) + 1
    padded = torch.stack([fn.pad(a, (0, width - len(a))) for a in alphas])
    pairs = pairing.make_pairs(expert, policy, e, p, padded, 4 * slots, AUTHORS)
    compact = net()
    disc.step(compact, Adam(compact.parameters(), lr=1e-3), pairs, 10.0)

    plain = net()
    for i in range(N_AGENTS):
        x_e = other.obs[:, e[i], i].transpose(0, 1).flatten(0, 1).double()
        x_p = data.obs[:, p[i], i].transpose(0, 1).flatten(0, 1).double()
        a = alpha[i].reshape(-1, 1)
        x = (a * x_e + (1 - a) * x_p).requires_grad_(True)

        def f(rows: torch.Tensor, agent: int = i) -> torch.Tensor:
            return plain(rows.unsqueeze(0).expand(N_AGENTS, -1, -1))[agent]

        gradient = torch.autograd.grad(f(x).sum(), x, create_graph=True)[0]
        ones, zeros = torch.ones(len(x_e), dtype=torch.float64), torch.zeros(len(x_e), dtype=torch.float64)
        loss = fn.binary_cross_entropy_with_logits(f(x_e), ones) + fn.binary_cross_entropy_with_logits(
            f(x_p), zeros
        )
        (loss + 10 * (gradient.norm(dim=1) - 1).square().mean()).backward()
    for a, b in zip(compact.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-11)


def test_compiled_pairs_are_those_of_the_slots() -> None:
    expert, policy = (
        pairing.policy_episodes(rollout(seed, lengths), torch.float64, terminal_row=True)
        for seed, lengths in ((1, (9, 3, 5, 5, 2)), (2, (1, 9, 9, 4, 2)))
    )
    e, p = (
        np.array([[4, 0, 2, 1], [0, 1, 2, 3], [3, 4, 0, 2]]),
        np.array([[1, 3, 0, 4], [4, 2, 1, 3], [0, 1, 4, 2]]),
    )
    slots = [pairing.pair_slots(expert, policy, e, p, i) for i in range(N_AGENTS)]
    width, total = max(len(pair) for pair, _ in slots) + 2, 4 * (LIMIT + 1)
    pairs = pairing.make_pairs(expert, policy, e, p, torch.zeros(N_AGENTS, width), total, AUTHORS)
    for i, (pair, t) in enumerate(slots):
        n = len(pair)
        for rows, side, k in ((pairs.expert_rows[i], expert, e[i]), (pairs.policy_rows[i], policy, p[i])):
            np.testing.assert_array_equal(rows[:n], side.slots(i, k[pair], t))
            assert (rows[:n] == len(side.obs) - 1).any() and (rows[n:] == len(side.obs) - 1).all()
        shares = [1.0] * n + [total - n] + [0.0] * (width - n - 1)
        torch.testing.assert_close(pairs.w_expert[i], torch.tensor(shares) / total)
    with pytest.raises(ValueError, match="more slots than random numbers"):
        pairing.make_pairs(expert, policy, e, p, torch.zeros(N_AGENTS, width - 2), total, AUTHORS)


def test_masked_form_ignores_padding_and_dead_rows() -> None:
    policy = pairing.policy_episodes(rollout(1), torch.float64, terminal_row=False)
    g = torch.Generator().manual_seed(0)
    pairs = pairing.draw_pairs(policy, policy, LIMIT + 1, CFG, PAPER, g)
    dead = torch.from_numpy(policy.empty[pairs.policy_rows])
    assert dead.any()
    assert not pairs.w_policy[dead].any()
    torch.testing.assert_close(pairs.w_policy.sum(-1), torch.ones(N_AGENTS, dtype=torch.float64))


def test_episodes_are_drawn_without_replacement() -> None:
    data = rollout(1)
    policy = pairing.policy_episodes(data, torch.float64, terminal_row=True)
    cfg = CFG.model_copy(update={"episodes_per_step": 99})
    pairs = pairing.draw_pairs(policy, policy, LIMIT + 1, cfg, AUTHORS, torch.Generator().manual_seed(0))
    real = pairs.policy_rows[1][pairs.policy_rows[1] < len(policy.obs) - 1]
    assert len(set(real.tolist())) == len(real) == policy.length[1].sum()


def test_discriminator_learns_which_side_is_which() -> None:
    def blob(shift: float, seed: int) -> pairing.Episodes:
        obs = torch.randn(N_AGENTS * 20 * 5, OBS, generator=torch.Generator().manual_seed(seed)) * 0.3 + shift
        start = np.arange(N_AGENTS * 20).reshape(N_AGENTS, 20) * 5
        return pairing.Episodes(torch.cat([obs, torch.zeros(1, OBS)]), start, np.full((N_AGENTS, 20), 5))

    d = DiscriminatorNet(N_AGENTS, OBS, 16).init(torch.Generator().manual_seed(0))
    opt = Adam(d.parameters(), lr=1e-2)
    cfg = CFG.model_copy(update={"steps": 200, "episodes_per_step": 16})
    g = torch.Generator().manual_seed(1)
    metrics = disc.update_discriminators(d, opt, blob(0.5, 1), blob(-0.5, 2), 5, cfg, AUTHORS, generator=g)
    assert metrics["accuracy_expert"] > 0.95
    assert metrics["accuracy_policy"] > 0.95


def test_reward_is_the_logit_and_never_overflows() -> None:
    f = torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4])
    everywhere = torch.ones_like(f, dtype=torch.bool)
    assert torch.equal(imitation_reward(f, "logit", everywhere), f)
    agent = imitation_reward(f, "neglog_agent", everywhere)
    torch.testing.assert_close(agent[1:4], -torch.log(1 - torch.sigmoid(f[1:4])))
    assert torch.isfinite(agent).all()


def test_padded_slots_are_paid_the_zero_rows_logit_only_with_absorbing_padding() -> None:
    data, d = rollout(1), net()
    with torch.no_grad():
        zero = d(torch.zeros(N_AGENTS, 1, OBS, dtype=torch.float64))[:, 0]
    after = torch.arange(LIMIT).unsqueeze(-1) > data.lengths
    absorbing = disc.policy_logits(d, data, AUTHORS)
    assert torch.equal(absorbing[after], zero.expand(int(after.sum()), -1))
    masked = disc.policy_logits(d, data, PAPER)
    assert not masked[after].any()
    assert not masked[~data.alive[:-1]].any()
    torch.testing.assert_close(masked[data.alive[:-1] & ~after.unsqueeze(-1)][:3], masked[0, 0])


@pytest.mark.parametrize("form", ["logit", "neglog_agent"])
def test_the_dead_are_paid_only_with_absorbing_padding(form: Literal["logit", "neglog_agent"]) -> None:
    """-log P(agent) of the logit 0 is log 2, so that the reward has to be left out, not the logit alone."""
    data, d = rollout(1), net()
    dead = ~data.alive[:-1]
    assert dead.any()
    for switches, paid in ((AUTHORS, True), (PAPER, False)):
        judged = disc.judged(data, switches)
        reward = imitation_reward(disc.policy_logits(d, data, switches), form, judged)
        assert bool(reward[dead].all()) is paid and bool(reward[dead].any()) is paid
        assert reward[
            data.alive[:-1] & (torch.arange(LIMIT).unsqueeze(-1) < data.lengths).unsqueeze(-1)
        ].all()
