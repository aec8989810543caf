"""Closed forms of advantages and value targets."""

from __future__ import annotations

import torch

from dm2core.returns import ValueNorm, gae


def test_lambda_one_gives_discounted_returns_minus_value() -> None:
    rewards = torch.arange(1.0, 5.0, dtype=torch.float64).view(4, 1, 1)
    values = torch.tensor([0.3, -0.2, 0.5, 0.1, 7.0], dtype=torch.float64).view(5, 1, 1)
    advantages, targets = gae(
        rewards, values, torch.tensor([4]), torch.tensor([False]), gamma=0.9, gae_lambda=1.0
    )
    expected = [sum(0.9 ** (k - t) * (k + 1) for k in range(t, 4)) for t in range(4)]
    torch.testing.assert_close(targets.flatten(), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(advantages, targets - values[:-1])


def test_time_limit_bootstraps_and_a_win_does_not() -> None:
    rewards, values = torch.zeros(3, 2, 1), torch.full((4, 2, 1), 2.0)
    ends = torch.tensor([True, False])
    advantages, _ = gae(rewards, values, torch.tensor([3, 3]), ends, gamma=0.5, gae_lambda=0.0)
    assert advantages[2, 0, 0] == 0.5 * 2.0 - 2.0
    assert advantages[2, 1, 0] == -2.0
    assert torch.equal(advantages[:2, 0], advantages[:2, 1])


def test_rows_after_the_end_are_exactly_zero_and_change_nothing() -> None:
    g = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(6, 1, 2, generator=g), torch.randn(7, 1, 2, generator=g)
    short = gae(rewards[:3], values[:4], torch.tensor([3]), torch.tensor([False]), gamma=0.9, gae_lambda=0.8)
    long = gae(rewards, values, torch.tensor([3]), torch.tensor([False]), gamma=0.9, gae_lambda=0.8)
    for a, b in zip(short, long, strict=True):
        assert torch.equal(a, b[:3])
        assert not b[3:].any()


def test_value_norm_standardises_and_inverts() -> None:
    norm = ValueNorm(2, torch.float64)
    targets = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 5
    norm.update(targets)
    normed = norm.normalize(targets)
    torch.testing.assert_close(normed.mean(-1), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(normed.std(-1), torch.ones(2, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(norm.denormalize(normed), targets)
