"""Properties of the update: compact rows are exact, padding is inert when masked, agents are independent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dm2core import gradients as torch_gradients
from dm2core import ppo
from dm2core.config import Switches
from dm2core.ppo import make_batch, make_learners, minibatch_step, update_policies
from dm2core.rows import Rows, training_rows
from tests.learning.cases import AUTHORS, CFG, LENGTHS, LIMIT, N_AGENTS, PAPER, networks, rollout


def one_step(
    rows: Rows, switches: Switches, rewards: torch.Tensor
) -> tuple[ppo.Learners, dict[str, torch.Tensor]]:
    learners = make_learners(*networks(), CFG, switches)
    batch = make_batch(learners, rows, rewards, CFG, switches)
    return learners, minibatch_step(learners, rows, batch, batch.trained, CFG, switches, 0.05)


def gradients(learners: ppo.Learners) -> list[torch.Tensor]:
    nets = (learners.actor, learners.critic)
    return [p.grad for net in nets for p in net.parameters() if p.grad is not None]


def plain(rows: Rows) -> Rows:
    """Every slot of the grid a row of its own, as the released code computes it."""
    slots = rows.index.flatten()
    pad = torch.tensor([rows.padding])
    take = torch.cat([slots, pad])
    return replace(
        rows,
        x=rows.x[:, take],
        h_actor=rows.h_actor[:, take],
        h_critic=rows.h_critic[:, take],
        avail_actions=rows.avail_actions[:, take],
        actions=rows.actions[:, take],
        choice=torch.ones(N_AGENTS, len(take), dtype=torch.bool),
        dead_input=rows.dead_input[:, take],
        index=torch.arange(len(slots)).view_as(rows.index),
    )


@pytest.mark.parametrize("switches", [AUTHORS, PAPER, AUTHORS.model_copy(update={"terminal_row": False})])
@pytest.mark.parametrize("block", [3, 2048])
def test_compact_rows_give_the_gradient_of_the_padded_grid(
    switches: Switches, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_gradients, "BLOCK", block)
    data = rollout()
    rewards = data.rewards.unsqueeze(-1).expand(-1, -1, N_AGENTS)
    rows = training_rows(data, switches)
    compact, metrics = one_step(rows, switches, rewards)
    full, full_metrics = one_step(plain(rows), switches, rewards)
    assert rows.padding < len(LENGTHS) * (LIMIT + 1) * 0.9
    for a, b in zip(gradients(compact), gradients(full), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(metrics["policy_loss"], full_metrics["policy_loss"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(metrics["value_loss"], full_metrics["value_loss"], rtol=1e-9, atol=1e-12)


def test_what_lies_in_the_padding_is_never_read_without_absorbing_padding() -> None:
    data = rollout()
    rewards = data.rewards.unsqueeze(-1).expand(-1, -1, N_AGENTS)
    after = torch.arange(LIMIT + 1).unsqueeze(-1) > data.lengths
    noisy_obs, noisy_rewards = data.obs.clone(), rewards.clone()
    noisy_obs[after] = 99.0
    noisy_rewards[after[:-1]] = 99.0
    clean, _ = one_step(training_rows(data, PAPER), PAPER, rewards)
    noisy, _ = one_step(training_rows(replace(data, obs=noisy_obs), PAPER), PAPER, noisy_rewards)
    for a, b in zip(gradients(clean), gradients(noisy), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("switches", [AUTHORS, PAPER])
def test_no_gradient_crosses_agents(switches: Switches) -> None:
    """Changing agent 1's data leaves every other agent's update bit for bit the same."""
    data = rollout()
    rewards = data.rewards.unsqueeze(-1).expand(-1, -1, N_AGENTS).clone()
    base, _ = one_step(training_rows(data, switches), switches, rewards)
    obs = data.obs.clone()
    obs[..., 1, :] *= 1.5
    rewards[..., 1] += 3.0
    moved, _ = one_step(training_rows(replace(data, obs=obs), switches), switches, rewards)
    for a, b in zip(gradients(base), gradients(moved), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
        assert not torch.equal(a[1], b[1])


def test_update_is_a_function_of_the_generator() -> None:
    data, cfg = rollout(), CFG.model_copy(update={"minibatches": 2})
    rewards = data.rewards.unsqueeze(-1).expand(-1, -1, N_AGENTS)

    def weights(seed: int) -> torch.Tensor:
        rows = training_rows(data, AUTHORS)
        learners = make_learners(*networks(), cfg, AUTHORS)
        batch = make_batch(learners, rows, rewards, cfg, AUTHORS)
        g = torch.Generator().manual_seed(seed)
        update_policies(learners, rows, batch, cfg, AUTHORS, epochs=2, clip_eps=0.2, generator=g)
        return torch.cat([p.detach().flatten() for p in learners.actor.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_frozen_value_head_keeps_its_weights() -> None:
    data = rollout()
    rewards = data.rewards.unsqueeze(-1).expand(-1, -1, N_AGENTS)
    before = networks()[1].head.weight
    frozen, _ = one_step(training_rows(data, AUTHORS), AUTHORS, rewards)
    trained, _ = one_step(training_rows(data, PAPER), PAPER, rewards)
    assert torch.equal(frozen.critic.head.weight, before)
    assert not torch.equal(trained.critic.head.weight, before)


def test_a_gradient_that_is_not_finite_stops_the_update() -> None:
    data = rollout()
    rewards = data.rewards.unsqueeze(-1).expand(-1, -1, N_AGENTS).clone()
    rewards[0, 0, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="gradient norm of agent 2 is nan"):
        one_step(training_rows(data, AUTHORS), AUTHORS, rewards)


def test_gradient_norms_are_clipped_agent_by_agent() -> None:
    actor, _ = networks()
    for p in actor.parameters():
        p.grad = torch.ones_like(p)
        p.grad[0] *= 1e-6
    sizes = sum(p[0].numel() for p in actor.parameters())
    norms = ppo.clip_gradients(actor, 10.0)
    torch.testing.assert_close(norms, torch.tensor([1e-6, 1.0, 1.0], dtype=torch.float64) * sizes**0.5)
    clipped = sum(p.grad.square().flatten(1).sum(1) for p in actor.parameters()).sqrt()
    torch.testing.assert_close(clipped[1:], torch.full((2,), 10.0, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(clipped[0], norms[0])
