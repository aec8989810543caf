"""QMIX's compiled agent computes what the torch one does, to float32 rounding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from dm2core.config import cell_config, load_config
from dm2core.env.vector import make_env
from dm2core.fused.qnet import Episodes, Player
from dm2core.qmix.learner import QmixLearner
from dm2core.qmix.loss import EpisodeBatch, agent_values, inputs
from dm2core.qmix.net import QNet
from dm2core.qmix.play import TorchPlayer
from dm2core.rng import battle_keys
from tests.qmix.test_qmix import CONFIG, PATH, A, E, H, N, O, T, networks, random_batch


def compiled(net: QNet, batch: EpisodeBatch, room: Episodes | None = None) -> tuple[torch.Tensor, Episodes]:
    room = room or Episodes(net, E, T)
    obs, actions = (part.transpose(0, 1).contiguous().transpose(0, 1) for part in (batch.obs, batch.actions))
    return room.values(net, obs, actions, batch.lengths), room  # as they lie in the replay


def single(net: QNet) -> QNet:
    """A float32 copy."""
    out = QNet(N, O + A + N, A, H, extra_layer=net.fc2 is not None)
    out.load_state_dict(net.state_dict())
    return out


@pytest.mark.parametrize("extra_layer", [False, True])
def test_values_and_gradients_are_torchs_in_double_precision(extra_layer: bool) -> None:
    wide, _ = networks(1, extra_layer=extra_layer)
    other, _ = networks(2, extra_layer=extra_layer)
    net, room = single(wide), Episodes(single(wide), E, T)
    for seed in (4, 5):  # twice, lest something be left in the buffers
        batch = random_batch(seed)
        narrow = batch.to(torch.float32)
        compiled(single(other), narrow, room)  # the lagging copy's come first
        values, _ = compiled(net, narrow, room)
        exact = agent_values(wide, inputs(batch), batch)
        torch.testing.assert_close(values.double(), exact, rtol=1e-5, atol=1e-6)
        assert torch.equal(values == 0, exact == 0)  # behind the ends

        d = torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        expected = torch.autograd.grad((exact * d).sum(), list(wide.parameters()))
        room.write_gradients(net, d.float())
        for (name, p), g in zip(net.named_parameters(), expected, strict=True):
            assert p.grad is not None and p.grad.is_contiguous()
            torch.testing.assert_close(p.grad.double(), g, rtol=0, atol=3e-6 * float(g.abs().max()), msg=name)


def test_an_episodes_values_do_not_depend_on_the_others_bit_for_bit() -> None:
    net, batch = single(networks(3, extra_layer=False)[0]), random_batch(6).to(torch.float32)
    values, _ = compiled(net, batch)
    for e in range(E - 1):
        there = slice(e, e + 2)
        two = {f.name: getattr(batch, f.name)[:, there] for f in dataclasses.fields(batch)}
        assert torch.equal(compiled(net, EpisodeBatch(**two))[0], values[:, there])


@pytest.mark.parametrize(("map_name", "epsilon"), [("3m", 0.0), ("3m", 0.3), ("2s3z", 0.3)])
def test_play_is_torchs(map_name: str, epsilon: float) -> None:
    """The same actions, and the same values as whole episodes give afterwards."""
    env, keys = make_env(map_name, 1), battle_keys(5, "test", 0, 1)
    spec = env.spec
    size_in = spec.obs_size + spec.n_actions + spec.n_agents
    net = QNet(spec.n_agents, size_in, spec.n_actions, 64, extra_layer=True)
    net.init(torch.Generator().manual_seed(1))
    env.reset(keys)
    ours, torchs = Player(net), TorchPlayer(net)
    steps = 0
    for t in range(spec.episode_limit):
        actions = ours.act(env.obs[0], env.avail_actions[0], keys, t, epsilon)
        np.testing.assert_array_equal(actions, torchs.act(env.obs[0], env.avail_actions[0], keys, t, epsilon))
        step = env.step(actions[None], np.zeros(1, np.int64))
        steps += 1
        if step.terminated[0] or step.truncated[0]:
            break
    assert steps > 10


@pytest.mark.parametrize("method", ["qmix", "qmix_fc3"])
def test_the_first_update_moves_the_weights_as_torch_does(method: str) -> None:
    """Two learners after the first battles with an update, whole: rollout, loss, clip, RMSprop."""
    learners = []
    for compute in ("fused", "torch"):
        config = load_config(PATH, {"scale": "smoke", "compute": compute, "qmix": {"batch_episodes": 8}})
        learner = QmixLearner(cell_config(config, map_name="3m", method=method, seed=3), "3m")
        assert (learner.compiled is not None) == (compute == "fused")
        before = [p.detach().clone() for p in learner.parameters]
        metrics = learner.iterate()
        learners.append(
            (learner, metrics, [p.detach() - q for p, q in zip(learner.parameters, before, strict=True)])
        )
    (ours, metrics, moved), (torchs, theirs, expected) = learners
    assert torch.equal(ours.replay.actions, torchs.replay.actions)
    assert metrics == pytest.approx(theirs, rel=1e-4)
    # RMSprop's first step is a gradient's sign, which rounding decides where a gradient is next to nothing.
    for mine, other in zip(moved, expected, strict=True):
        assert float((mine - other).abs().mean()) < 1e-3 * float(other.abs().mean())


def test_a_hidden_size_that_the_kernels_do_not_have_takes_torch() -> None:
    config = load_config(PATH, {"scale": "smoke", "qmix": {"hidden_size": 24}})
    cell = cell_config(config, map_name="3m", method="qmix", seed=3)
    assert cell.form == "torch" and QmixLearner(cell, "3m").compiled is None
    assert cell_config(CONFIG, map_name="3m", method="qmix", seed=3).form == "fused"
