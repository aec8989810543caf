"""The compiled hot loops compute what the torch ones do, to float32 rounding."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numba import njit
from numpy.typing import NDArray

from dm2core import discriminator as disc
from dm2core import pairs as pairing
from dm2core.adam import Adam
from dm2core.config import Discriminator, Switches
from dm2core.env.vector import make_env
from dm2core.finite import NotFinite
from dm2core.fused import body, formula, tiles
from dm2core.nets import Actor, Critic, DiscriminatorNet
from dm2core.ppo import Batch, Learners, make_batch, make_learners, minibatch_step
from dm2core.rng import battle_keys
from dm2core.rollout import Rollout, collect
from dm2core.rows import Rows, training_rows
from tests.learning.cases import AUTHORS, CFG, LIMIT, N_AGENTS, OBS, PAPER, networks, rollout

LENGTHS = tuple(2 + (7 * b) % (LIMIT - 1) for b in range(60))  # more rows than one block holds
SWITCHES = [
    AUTHORS,
    PAPER,
    AUTHORS.model_copy(update={"absorbing_padding": False, "value_clip": "off", "huber_one_sided": False}),
    PAPER.model_copy(update={"terminal_row": True, "t0_last_action_leak": True}),
]


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 16), (5, 72, 80), (13, 55, 48), (96, 64, 192), (7, 3, 112)])
def test_products_are_the_products(m: int, k: int, n: int) -> None:
    g = np.random.default_rng(m)
    a, b = (g.standard_normal(size).astype(np.float32) for size in ((m, k), (k, n)))
    bias, c = g.standard_normal(n).astype(np.float32), np.empty((m, n), np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    tiles.affine(tiles.product_address(), c, bias, a, b)
    np.testing.assert_allclose(c, exact + bias, rtol=1e-5, atol=1e-5)
    before = c.copy()
    tiles.accumulate(tiles.product_address(), c, np.ascontiguousarray(a.T).T, b)
    np.testing.assert_allclose(c, exact + before, rtol=1e-5, atol=2e-5)


@njit
def _elementary(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    for i in range(x.size):
        out[0, i], out[1, i], out[2, i] = formula.exp32(x[i]), formula.sigmoid32(x[i]), formula.tanh32(x[i])


def test_elementary_functions() -> None:
    x = np.concatenate([np.linspace(-86, 87, 40_001), np.linspace(-1, 1, 10_001)]).astype(np.float32)
    out = np.empty((3, x.size), np.float32)
    _elementary(x, out)
    wide = x.astype(np.float64)
    assert np.max(np.abs(out[0] / np.exp(wide) - 1)) < 3e-7
    assert np.max(np.abs(out[1] - 1 / (1 + np.exp(-wide)))) < 2e-7
    assert np.max(np.abs(out[2] - np.tanh(wide))) < 3e-7
    ends = np.array([-1e30, 1e30, 0.0], np.float32)
    out = np.empty((3, 3), np.float32)
    _elementary(ends, out)
    assert np.isfinite(out).all()
    assert out[:, 2].tolist() == [1.0, 0.5, 0.0]


_on_rows = formula.on_rows(lambda x: (formula.exp(x), formula.sigmoid(x), formula.tanh(x)))
_mixed = formula.on_rows(
    lambda a, b, s, c: (a - b * c, s + a * 2.0, (-a).at_least(0.5).at_most(1.0), b.where_positive(a))
)


@njit
def _apply(m: int, x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    _on_rows(m, (x,), (), (out[0], out[1], out[2]))


@njit
def _apply_mixed(m: int, a: NDArray[np.float32], b: NDArray[np.float32], s: NDArray[np.float32], c: float,
                 low: NDArray[np.float32], kept: NDArray[np.float32]) -> None:  # fmt: skip
    _mixed(m, (a, b, s), (c,), (a, s, low, kept))


def test_formulas_on_rows_have_the_bits_of_those_on_numbers() -> None:
    x = (np.random.default_rng(0).standard_normal((5, 48)) * 30).astype(np.float32)
    one, rows = np.empty((3, x.size), np.float32), np.zeros((3, 5, 48), np.float32)
    _elementary(x.ravel(), one)
    _apply(5, x, rows)
    assert rows.tobytes() == one.tobytes()
    _apply(3, -x, rows)
    assert (rows[:, 3:] == one.reshape(3, 5, 48)[:, 3:]).all(), "rows past m are left alone"


def test_formulas_read_before_they_write_and_sum_in_the_order_of_rows() -> None:
    g = np.random.default_rng(1)
    wide, b, s = (g.standard_normal(n).astype(np.float32) for n in ((4, 96), 32, 32))
    a = wide[:, 32:64]  # rows 96 apart
    low, kept = np.zeros((2, 4, 32), np.float32)
    wide[2, 40] = np.nan
    before, total = wide.copy(), s.copy()
    with np.errstate(invalid="ignore"):
        for row in before[:3, 32:64]:
            total = total + row * np.float32(2.0)
    _apply_mixed(3, a, b, s, 0.75, low, kept)
    np.testing.assert_array_equal(a[:3], before[:3, 32:64] - b * np.float32(0.75))
    np.testing.assert_array_equal(s, total)
    np.testing.assert_array_equal(low[:3], np.clip(-before[:3, 32:64], np.float32(0.5), np.float32(1.0)))
    np.testing.assert_array_equal(kept[:3], np.where(before[:3, 32:64] > 0, b, np.float32(0.0)))
    before[:3, 32:64] = a[:3]
    np.testing.assert_array_equal(wide, before)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 55, 64])
def test_rows_of_any_length_are_copied(n: int) -> None:
    row, to = np.arange(1, n + 1, dtype=np.float32), np.zeros(n + 2, np.float32)
    body.copy_row(to[1:-1], row)
    assert to.tolist() == [0.0, *row, 0.0]


def test_arrays_of_kernels_begin_on_a_line_of_the_cache() -> None:
    for array in (*body.make_work(80, 64, 12), *body.make_sums(5, 80, 64, 16)):
        if isinstance(array, np.ndarray):
            assert array.ctypes.data % 64 == 0


def _single(data: Rollout) -> Rollout:
    return replace(data, **{k: v.float() for k, v in vars(data).items() if v.dtype == torch.float64})


def _step(
    compute: str, data: Rollout, nets: tuple[Actor, Critic], switches: Switches
) -> tuple[Learners, dict[str, torch.Tensor]]:
    learners = make_learners(*nets, CFG, switches, compute)  # type: ignore[arg-type]
    rows = training_rows(data, switches)
    rewards = data.rewards.unsqueeze(-1).expand(-1, -1, N_AGENTS)
    batch = make_batch(learners, rows, rewards, CFG, switches)
    for _ in range(2):  # the second step has ratios other than 1
        metrics = minibatch_step(learners, rows, batch, batch.trained[::2], CFG, switches, 0.05)
    return learners, metrics


@pytest.mark.parametrize("switches", SWITCHES)
def test_update_is_torchs_in_double_precision(switches: Switches) -> None:
    data = rollout(4, LENGTHS)
    exact, exact_metrics = _step("torch", data, networks(), switches)
    actor, critic = networks()
    fused, metrics = _step("fused", _single(data), (actor.float(), critic.float()), switches)
    for ours, theirs in ((fused.actor, exact.actor), (fused.critic, exact.critic)):
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), name
            if a.grad is not None and b.grad is not None:
                scale = float(b.grad.abs().max())
                assert float((a.grad.double() - b.grad).abs().max()) <= 3e-5 * scale + 1e-7, name
    for key, value in exact_metrics.items():
        torch.testing.assert_close(metrics[key].double(), value, rtol=2e-4, atol=2e-6)


def _critic_gradients(
    learners: Learners, rows: Rows, batch: Batch, slots: torch.Tensor, switches: Switches, value_coef: float
) -> list[torch.Tensor | None]:
    """The critics' gradients of value_coef times the mean value loss over the slots."""
    learners.critic.zero_grad()
    cfg = CFG.model_copy(update={"value_coef": value_coef})
    learners.backend.critic_backward(
        learners.critic, rows, batch, batch.value_targets, slots, cfg, switches, 0.05
    )
    return [p.grad for p in learners.critic.parameters()]


@pytest.mark.parametrize("switches", SWITCHES)
def test_values_beyond_the_clip_have_no_gradient_and_leave_no_bit(switches: Switches) -> None:
    """Half of the values have moved towards their targets: torch agrees, and without their slots the bits are equal."""
    data = rollout(4, LENGTHS)
    found = []
    for compute, played, real in (("torch", data, torch.float64), ("fused", _single(data), torch.float32)):
        actor, critic = (net.to(real) for net in networks())
        learners = make_learners(actor, critic, CFG, switches, compute)  # type: ignore[arg-type]
        rows = training_rows(played, switches)
        rewards = played.rewards.unsqueeze(-1).expand(-1, -1, N_AGENTS)
        batch = make_batch(learners, rows, rewards, CFG, switches)
        targets = batch.value_targets
        if learners.value_norm is not None:
            learners.value_norm.update(targets)
            targets = learners.value_norm.normalize(targets)
        way = torch.sign(targets - batch.old_values)
        moved = torch.arange(way.shape[1]) % 2 == 0
        old = torch.where(moved, batch.old_values - way, batch.old_values)
        found.append((learners, rows, replace(batch, old_values=old, value_targets=targets), moved))
    every = found[0][2].trained
    exact, ours = (_critic_gradients(*case[:3], every, switches, 1.0) for case in found)
    for theirs, mine in zip(exact, ours, strict=True):
        assert (theirs is None) == (mine is None)
        if theirs is not None and mine is not None:
            assert float((mine.double() - theirs).abs().max()) <= 3e-5 * float(theirs.abs().max()) + 1e-7
    if switches.value_clip == "off":
        return
    learners, rows, batch, moved = found[1]
    padding = batch.row[every] == rows.padding  # one row for all its slots: some of them have a gradient
    rest = every[padding | ~moved[every]]
    assert len(rest) < len(every)
    scaled = _critic_gradients(learners, rows, batch, rest, switches, len(rest) / len(every))
    for a, b in zip(ours, scaled, strict=True):
        assert (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b))


@pytest.mark.parametrize("switches", [AUTHORS, PAPER])
def test_discriminator_gradient_is_torchs_in_double_precision(switches: Switches) -> None:
    cfg = Discriminator(lr=1e-3, hidden_size=16, steps=1, episodes_per_step=50, gp_coef=10.0)
    exact = DiscriminatorNet(N_AGENTS, OBS, 16).init(torch.Generator().manual_seed(3)).double()
    fused = DiscriminatorNet(N_AGENTS, OBS, 16).init(torch.Generator().manual_seed(3))
    out = []
    for net, dtype, compute in ((exact, torch.float64, "torch"), (fused, torch.float32, "fused")):
        policy = pairing.policy_episodes(rollout(1, LENGTHS), dtype, terminal_row=True)
        expert = pairing.policy_episodes(rollout(2, LENGTHS[::-1]), dtype, terminal_row=True)
        g = torch.Generator().manual_seed(7)
        pairs = pairing.draw_pairs(expert, policy, LIMIT + 1, cfg, switches, g)
        alpha = torch.rand(pairs.alpha.shape, generator=torch.Generator().manual_seed(8)).to(dtype)
        out.append(disc.BACKENDS[compute](net, replace(pairs, alpha=alpha), 10.0).double())
    torch.testing.assert_close(out[0], out[1], rtol=1e-5, atol=1e-6)
    for (name, a), b in zip(fused.named_parameters(), exact.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        scale = float(b.grad.abs().max())
        assert float((a.grad.double() - b.grad).abs().max()) <= 2e-5 * scale, name


def test_discriminator_learns_the_same_whether_its_losses_are_read_or_not() -> None:
    cfg = Discriminator(lr=1e-3, hidden_size=16, steps=1, episodes_per_step=50, gp_coef=10.0)
    sides = [pairing.policy_episodes(rollout(s, LENGTHS), torch.float32, terminal_row=True) for s in (1, 2)]
    pairs = pairing.draw_pairs(*sides, LIMIT + 1, cfg, AUTHORS, torch.Generator().manual_seed(7))
    found = []
    for report in (True, False):
        net = DiscriminatorNet(N_AGENTS, OBS, 16).init(torch.Generator().manual_seed(3))
        sums = dict(zip(disc.METRICS, disc.BACKENDS["fused"](net, pairs, 10.0, report), strict=True))
        found.append((sums, [p.grad for p in net.parameters()]))
    (read, gradients), (unread, same) = found
    for a, b in zip(gradients, same, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)
    for name in ("gradient_penalty", "accuracy_expert", "accuracy_policy"):
        assert torch.equal(read[name], unread[name])
    assert torch.isfinite(unread["bce_expert"]).all() and not torch.equal(
        read["bce_expert"], unread["bce_expert"]
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_logit_that_is_not_finite_ends_the_step_whether_losses_are_read_or_not(value: float) -> None:
    cfg = Discriminator(lr=1e-3, hidden_size=16, steps=1, episodes_per_step=50, gp_coef=10.0)
    sides = [pairing.policy_episodes(rollout(s, LENGTHS), torch.float32, terminal_row=True) for s in (1, 2)]
    pairs = pairing.draw_pairs(*sides, LIMIT + 1, cfg, AUTHORS, torch.Generator().manual_seed(7))
    for report in (True, False):
        net = DiscriminatorNet(N_AGENTS, OBS, 16).init(torch.Generator().manual_seed(3))
        with torch.no_grad():
            net.head.bias[1] = value
        with pytest.raises(NotFinite, match="discriminator loss of agent 1"):
            disc.step(net, Adam(net.parameters(), lr=1e-3), pairs, 10.0, "fused", report)


def _players() -> tuple[Actor, Critic]:
    spec = make_env("3m", 1).spec
    size_in, g = spec.obs_size + spec.n_actions + spec.n_agents, torch.Generator().manual_seed(0)
    actor = Actor(spec.n_agents, size_in, spec.n_actions, 32).init(g)
    critic = Critic(spec.n_agents, size_in, 32).init(g)
    with torch.no_grad():
        for p in (*actor.parameters(), *critic.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=g)
    return actor, critic


@pytest.mark.parametrize("greedy", [False, True])
def test_play_is_torchs(greedy: bool) -> None:
    """Whole battles: the same actions where rounding does not decide, and the same numbers while it does not."""
    actor, critic = _players()
    keys = battle_keys(1, "test", 0, 150)
    a, b = (
        collect(make_env("3m", 150), actor, critic, keys, greedy=greedy, compute=compute)
        for compute in ("torch", "fused")
    )
    same = (a.actions == b.actions).flatten(2).all(-1).all(0)
    assert same.double().mean() > 0.97
    alive = a.alive[:, same]
    for name in ("obs", "avail_actions", "rewards"):
        assert torch.equal(getattr(a, name)[:, same], getattr(b, name)[:, same]), name
    for name in ("values", "h_critic", "log_probs"):
        torch.testing.assert_close(getattr(a, name)[:, same], getattr(b, name)[:, same], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.h_actor[:, same][alive], b.h_actor[:, same][alive], rtol=1e-4, atol=1e-5)


def test_compiled_play_does_not_depend_on_the_neighbours_bit_for_bit() -> None:
    actor, critic = _players()
    keys = battle_keys(2, "test", 0, 130)
    whole = collect(make_env("3m", 130), actor, critic, keys, compute="fused")
    part = collect(make_env("3m", 7), actor, critic, keys[100:107], compute="fused")
    for name in ("actions", "log_probs", "values", "h_actor", "h_critic"):
        assert torch.equal(getattr(whole, name)[:, 100:107], getattr(part, name)), name


def test_log_probs_sum_to_one_over_the_available() -> None:
    actor, _ = _players()
    data = collect(make_env("3m", 40), actor, None, battle_keys(3, "test", 0, 40), compute="fused")
    one = data.avail_actions.sum(-1) == 1
    assert not data.log_probs[one].any()
    played = data.alive & ~one
    assert (data.log_probs[played] < 0).all()
    assert data.log_probs[played].min() > -math.log(1e6)
