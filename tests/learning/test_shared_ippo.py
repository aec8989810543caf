"""The benchmark's recurrent IPPO is the algorithm it is compared with: its gradient is autograd's, and it learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.shared_ippo import Batch, Settings, SharedIppo, Weights, lives, unconnected

SETTINGS = Settings(
    lr=0.004, anneal_lr=False, num_envs=8, num_steps=24, gru_hidden_dim=32, fc_dim_size=32, update_epochs=4,
    num_minibatches=4, gamma=0.99, gae_lambda=0.95, clip_eps=0.05, scale_clip_eps=False, ent_coef=0.01, vf_coef=0.5,
    max_grad_norm=0.25,
)  # fmt: skip


def plain_loss(learner: SharedIppo, w: Weights, actors: np.ndarray) -> Tensor:  # type: ignore[type-arg]
    """JaxMARL's loss, step by step over all rows, the dead too; in double precision."""
    batch, settings, size = learner.batch, learner.settings, learner.h.shape[1]
    steps, n_actions = len(batch.rewards), learner.env.spec.n_actions

    def rows(grid: np.ndarray) -> Tensor:  # type: ignore[type-arg]
        made = torch.from_numpy(grid[:, actors][:steps])
        return made.double() if made.is_floating_point() else made

    obs, avail, alive, begun = (rows(getattr(batch, key)) for key in ("obs", "avail", "alive", "begun"))
    h = torch.from_numpy(batch.h[actors]).double()
    logits, values = [], []
    for t in range(steps):
        h = h * (alive[t] & ~begun[t]).unsqueeze(-1)
        gates = torch.relu(obs[t] @ w.w1 + w.b1) @ w.wx + w.bx
        both = torch.sigmoid(gates[:, : 2 * size] + h @ w.wh[:, : 2 * size])
        new = torch.tanh(gates[:, 2 * size :] + both[:, :size] * (h @ w.wh[:, 2 * size :] + w.bh))
        h = new + both[:, size:] * (h - new)
        out = torch.relu(h @ w.w2 + w.b2) @ w.w3 + w.b3
        logits.append(out[:, :n_actions].masked_fill(~avail[t], -1e10))
        values.append(out[:, n_actions])
    log_pi, value = torch.log_softmax(torch.stack(logits), -1), torch.stack(values)
    log_prob = log_pi.gather(-1, rows(batch.actions).unsqueeze(-1)).squeeze(-1)
    advantages = rows(batch.advantages)
    advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    ratio, eps = torch.exp(log_prob - rows(batch.log_probs)), settings.clip_eps
    policy = -torch.minimum(ratio * advantages, ratio.clamp(1 - eps, 1 + eps) * advantages).mean()
    old, targets = rows(batch.values), rows(batch.targets)
    clipped = old + (value - old).clamp(-eps, eps)
    value_loss = 0.5 * torch.maximum((value - targets) ** 2, (clipped - targets) ** 2).mean()
    entropy = -(log_pi.exp() * log_pi.clamp(min=-1e9)).sum(-1).mean()
    return policy + settings.vf_coef * value_loss - settings.ent_coef * entropy


@pytest.mark.slow  # compiling what only a benchmark runs takes half a minute
def test_the_gradient_is_autograds_over_every_row() -> None:
    learner = SharedIppo("3m", SETTINGS, seed=3)
    for _ in range(5):  # battles end and agents die within a stretch, and one is under way when it begins
        learner.iterate()
    batch, rng = learner.batch, np.random.default_rng(0)
    assert (~batch.alive).any() and batch.begun[1:-1].any() and batch.h.any()
    learner.flat += rng.normal(0.0, 0.02, learner.flat.size).astype(np.float32)  # some ratios are clipped
    unconnected(learner.w.w3, learner.env.spec.n_actions)
    actors = rng.permutation(batch.rewards.shape[1])[:12]
    losses = learner.differentiate(lives(batch), actors)
    weights = Weights(*(torch.from_numpy(part).double().requires_grad_() for part in learner.w))
    loss = plain_loss(learner, weights, actors)
    loss.backward()
    assert losses @ [1.0, SETTINGS.vf_coef, -SETTINGS.ent_coef] == pytest.approx(loss.item(), rel=1e-5)
    for name, ours, theirs in zip(Weights._fields, learner.g, weights, strict=True):
        expected = theirs.grad.numpy()
        if name == "w3":  # what is not connected has no gradient
            expected = np.where(learner.w.w3 != 0.0, expected, 0.0)
            ours = np.where(learner.w.w3 != 0.0, ours, 0.0)
        np.testing.assert_allclose(ours, expected, atol=2e-5 * abs(expected).max(), err_msg=name)


def test_lives_cover_the_steps_lived_once() -> None:
    """Of battles that begin and agents that die at random, under way or lost already when the stretch begins."""
    rng, steps, actors = np.random.default_rng(4), 24, 60
    begun = rng.random((steps + 1, actors)) < 0.15
    alive = np.zeros_like(begun)
    lives_on = rng.random(actors) < 0.5
    for t in range(steps + 1):
        lives_on = begun[t] | (lives_on & (rng.random(actors) < 0.9))
        alive[t] = lives_on
    nothing = np.zeros(0)
    batch = Batch(**{**dict.fromkeys(Batch._fields, nothing), "alive": alive, "begun": begun})
    row, start, length = lives(batch)
    covered = np.zeros((steps, actors), dtype=int)
    for r, t, n in zip(row, start, length, strict=True):
        covered[t : t + n, r] += 1
        assert not begun[t + 1 : t + n, r].any()
    np.testing.assert_array_equal(covered, alive[:-1])
    assert (np.diff(length) <= 0).all() and (length > 0).all()


@pytest.mark.slow
def test_it_learns_3m() -> None:
    sizes = {"num_envs": 128, "num_steps": 128, "gru_hidden_dim": 128, "fc_dim_size": 128}
    faster = {"lr": 0.001, "clip_eps": 0.2}  # theirs are for ten million env steps
    learner = SharedIppo("3m", dataclasses.replace(SETTINGS, **sizes, **faster), seed=1)  # type: ignore[arg-type]
    won = [learner.iterate() for _ in range(36)]
    print(f"3m, {36 * 128 * 128:,} env steps: {' '.join(f'{w:.2f}' for w in won)}")
    assert won[0] < 0.1 and np.mean(won[-5:]) > 0.5
