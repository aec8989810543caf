"""Masked policies and sampling."""

from __future__ import annotations

import numpy as np
import torch

from dm2core.policy import choose_actions, entropy, masked_log_softmax
from dm2core.rng import battle_keys


def test_unavailable_actions_have_no_probability() -> None:
    avail = torch.tensor([[[True, False, True]]])
    log_pi = masked_log_softmax(torch.tensor([[[1.0, 50.0, 1.0]]]), avail)
    torch.testing.assert_close(log_pi.exp(), torch.tensor([[[0.5, 0.0, 0.5]]]))
    torch.testing.assert_close(entropy(log_pi), torch.tensor([[np.log(2.0)]], dtype=torch.float32))


def test_draws_follow_the_probabilities_and_never_the_unavailable() -> None:
    pi = torch.tensor([0.5, 0.0, 0.3, 0.2])
    battles = 40_000
    log_pi = pi.log().clamp(min=-1e10).expand(2, battles, 4)
    actions = choose_actions(log_pi, battle_keys(1, "test", 0, battles), 3, greedy=False)
    share = torch.stack([(actions == a).double().mean(-1) for a in range(4)], dim=-1)
    np.testing.assert_allclose(share, pi.expand(2, 4), atol=0.01)
    assert not (actions == 1).any()
    assert (actions[0] != actions[1]).any()


def test_a_battles_draw_does_not_depend_on_its_neighbours() -> None:
    log_pi = torch.log_softmax(torch.randn(3, 50, 6, generator=torch.Generator().manual_seed(0)), -1)
    keys = battle_keys(7, "test", 0, 50)
    whole = choose_actions(log_pi, keys, 5, greedy=False)
    some = np.array([40, 3, 17])
    part = choose_actions(log_pi[:, some].contiguous(), keys[some], 5, greedy=False)
    assert torch.equal(part, whole[:, some])


def test_greedy_is_the_mode() -> None:
    log_pi = torch.log_softmax(torch.randn(2, 9, 5), -1)
    assert torch.equal(choose_actions(log_pi, battle_keys(0, "x", 0, 9), 0, greedy=True), log_pi.argmax(-1))
