"""RMAPPO against plain re-derivations: losses and gradients over chunks, returns past ends, states, resuming."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dm2core.config import CellConfig, cell_config, load_config
from dm2core.env.vector import BattleSim
from dm2core.nets import Actor, Critic, RecurrentBody
from dm2core.rmappo.collect import Buffer
from dm2core.rmappo.learner import RmappoLearner
from dm2core.rmappo.settings import Rmappo
from dm2core.rmappo.state import AgentState
from dm2core.rmappo.update import (
    actor_backward,
    actor_chunks,
    buffer_gae,
    critic_backward,
    critic_chunks,
    standardize,
)
from dm2core.rng import battle_keys
from tests.env.trajectory import rule

CONFIG = load_config(
    Path(__file__).parents[2] / "config" / "config.yaml",
    {
        "scale": "smoke",
        "rmappo": {"battles": 3, "steps": 40, "maps": {"3m": {"ppo_epochs": 2, "clip_eps": 0.2}}},
    },
)
T, R, F, S, A, H, L = 6, 4, 5, 7, 3, 16, 3
DOUBLE = {"dtype": torch.float64}


def cell() -> CellConfig:
    return cell_config(CONFIG, map_name="3m", method="rmappo", seed=3)


def random_buffer(seed: int) -> Buffer:
    """Six steps of four rows; row 1 starts a battle at step 2, row 3 is dead from step 1 on, row 2's game fails."""
    g = torch.Generator().manual_seed(seed)
    keep = torch.ones(T + 1, R, dtype=torch.bool)
    keep[0, 0] = keep[2, 1] = keep[4, 2] = False
    alive = torch.ones(T, R, dtype=torch.bool)
    alive[1:, 3] = False
    played = torch.ones(T, R, dtype=torch.bool)
    alive[:2, 2] = played[:2, 2] = False
    avail = torch.rand(T, R, A, generator=g) < 0.7
    avail[..., 0] = True
    h_actor, h_critic = (torch.randn(T, R, H, generator=g, **DOUBLE) * keep[:-1, :, None] for _ in range(2))
    return Buffer(
        x=torch.randn(T, R, F, generator=g, **DOUBLE),
        state=torch.randn(T, R, S, generator=g, **DOUBLE),
        avail_actions=avail,
        actions=(avail * torch.rand(T, R, A, generator=g)).argmax(-1),
        log_probs=-torch.rand(T, R, generator=g, **DOUBLE) - 0.3,
        values=torch.randn(T + 1, R, generator=g, **DOUBLE),
        rewards=torch.randn(T, R, generator=g, **DOUBLE),
        keep=keep,
        alive=alive,
        played=played,
        h_actor=h_actor,
        h_critic=h_critic,
    )


def plain_body(body: RecurrentBody, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One step of one row, written out."""

    def norm(layer, v: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        e = v - v.mean()
        return e / torch.sqrt((e * e).mean() + 1e-5) * layer.weight[0] + layer.bias[0]

    v = norm(body.norm_in, x)
    for linear, after in ((body.fc1, body.norm1), (body.fc2, body.norm2)):
        v = norm(after, torch.clamp(linear.weight[0] @ v + linear.bias[0], min=0))
    i_r, i_z, i_n = (body.gru.input.weight[0] @ v + body.gru.input.bias[0]).split(H)
    h_r, h_z, h_n = (body.gru.hidden.weight[0] @ h + body.gru.hidden.bias[0]).split(H)
    r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    h = (1 - z) * torch.tanh(i_n + r * h_n) + z * h
    return norm(body.norm_out, h), h


def plain_losses(
    actor: Actor,
    critic: Critic,
    buffer: Buffer,
    advantages: Tensor,
    targets: Tensor,
    *,
    clip: float,
    active_masks: bool,
) -> tuple[Tensor, Tensor]:
    """-(surrogate + 0.01 entropy) and the value loss, chunk by chunk, row by row, step by step."""
    policy, value = [], []
    for first in range(0, T, L):
        for row in range(R):
            h_a, h_c = buffer.h_actor[first, row], buffer.h_critic[first, row]
            for t in range(first, first + L):
                if not buffer.keep[t, row]:
                    h_a, h_c = torch.zeros(H, **DOUBLE), torch.zeros(H, **DOUBLE)
                f_a, h_a = plain_body(actor.body, buffer.x[t, row], h_a)
                f_c, h_c = plain_body(critic.body, buffer.state[t, row], h_c)
                if buffer.alive[t, row]:
                    logits = actor.head.weight[0] @ f_a + actor.head.bias[0]
                    legal = buffer.avail_actions[t, row]
                    p = torch.softmax(logits[legal], 0)
                    taken = p[int(legal[: buffer.actions[t, row]].sum())]
                    ratio = taken / math.exp(float(buffer.log_probs[t, row]))
                    a = advantages[t, row]
                    surrogate = torch.minimum(ratio * a, torch.clamp(ratio, 1 - clip, 1 + clip) * a)
                    policy.append(-surrogate + 0.01 * (p * torch.log(p)).sum())
                if not (buffer.alive if active_masks else buffer.played)[t, row]:
                    continue
                v = (critic.head.weight[0] @ f_c + critic.head.bias[0])[0]
                old = buffer.values[t, row]
                moved = old + torch.clamp(v - old, -clip, clip)
                errors = [targets[t, row] - v, targets[t, row] - moved]
                huber = [
                    e * e / 2 if abs(float(e.detach())) <= 0.5 else 0.5 * (abs(e) - 0.25) for e in errors
                ]
                value.append(torch.maximum(*huber))
    return torch.stack(policy).mean(), torch.stack(value).mean()


@pytest.mark.parametrize("active_masks", [False, True])
def test_losses_and_gradients_agree_with_the_formulas_step_by_step(active_masks: bool) -> None:
    g = torch.Generator().manual_seed(1)
    actor, critic = Actor(1, F, A, H).init(g).double(), Critic(1, S, H).init(g).double()
    with torch.no_grad():
        for p in (*actor.parameters(), *critic.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=g)
    buffer = random_buffer(2)
    advantages, targets = torch.randn(T, R, generator=g, **DOUBLE), torch.randn(T, R, generator=g, **DOUBLE)
    metrics = actor_backward(actor, actor_chunks(buffer, advantages, L), CONFIG.ppo, 0.2)
    chunks = critic_chunks(buffer, targets, L, active_masks=active_masks)
    loss = critic_backward(critic, chunks, chunks.targets, 0.7, 0.5, 0.2)
    parameters = [*actor.parameters(), *critic.parameters()]
    ours = [p.grad.clone() for p in parameters if p.grad is not None]
    for p in parameters:
        p.grad = None
    policy, value = plain_losses(
        actor, critic, buffer, advantages, targets, clip=0.2, active_masks=active_masks
    )
    (policy + 0.7 * value).backward()
    torch.testing.assert_close(
        metrics["policy_loss"] - 0.01 * metrics["entropy"], policy.detach(), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(loss, value.detach(), rtol=1e-9, atol=1e-12)
    assert len(ours) == len(parameters)
    for mine, p in zip(ours, parameters, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(mine, p.grad, rtol=1e-7, atol=1e-10)


def test_the_value_of_being_dead_is_learnt_unless_masked() -> None:
    """Returns go on past a death; an agent dead for a whole chunk is in the critic's chunks alone."""
    buffer = random_buffer(2)
    targets = torch.zeros(T, R, **DOUBLE)
    lived = actor_chunks(buffer, targets, L).weight
    masked, full = (critic_chunks(buffer, targets, L, active_masks=on).weight for on in (True, False))
    assert torch.equal(masked, lived)
    assert (lived > 0).sum() == buffer.alive.sum() == T * R - 7
    assert (full > 0).sum() == T * R - 2  # all but the battle that the game lost
    assert full.shape[1] == lived.shape[1] + 1
    assert [float(weight.sum()) for weight in (lived, full)] == pytest.approx([1, 1])


def test_returns_stop_where_a_battle_ended() -> None:
    """gamma = .5, lambda = .5, by hand: the battle of row 1 ends after step 0."""
    rewards = torch.tensor([[1.0, 1.0], [2.0, 2.0]], **DOUBLE)
    values = torch.tensor([[4.0, 4.0], [8.0, 8.0], [16.0, 16.0]], **DOUBLE)
    keep = torch.tensor([[True, True], [True, False], [True, True]])
    advantages, targets = buffer_gae(rewards, values, keep, 0.5, 0.5)
    later = 2 + 0.5 * 16 - 8
    assert advantages.tolist() == [[1 + 0.5 * 8 - 4 + 0.25 * later, 1 - 4], [later, later]]
    assert torch.equal(targets, advantages + values[:-1])


def test_advantages_are_standardised_over_the_living() -> None:
    advantages = torch.tensor([[1.0, 3.0], [5.0, 100.0]], **DOUBLE)
    alive = torch.tensor([[True, True], [True, False]])
    out = standardize(advantages, alive)[alive]
    assert float(out.mean()) == pytest.approx(0, abs=1e-12)
    assert float((out * out).mean()) == pytest.approx(1, abs=1e-4)


def plain_state(
    env: BattleSim, i: int, last: np.ndarray, sizes: dict[str, tuple[float, float, float]]
) -> list[float]:  # type: ignore[type-arg]
    """One agent's state from the list of features; one kind of unit a side, so no type bits."""
    n, units = env.spec.n_agents, env.raw[0].astype(np.float64)
    (ally, enemy), shields = (sizes["ally"], sizes["enemy"]), sizes["ally"][1] > 0
    me, out = units[i], list[float]()
    number = [float(k == i) for k in range(n)]

    def place(u: np.ndarray) -> list[float]:  # type: ignore[type-arg]
        return [(u[0] - 16) / 32, (u[1] - 16) / 32]

    def life(u: np.ndarray, kind: tuple[float, float, float]) -> list[float]:  # type: ignore[type-arg]
        return [u[2] / kind[0]] + ([u[3] / kind[1]] if shields else [])

    def action(k: int) -> list[float]:
        return [float(last[k] == a) for a in range(env.spec.n_actions)]

    def block(features: list[float], u: np.ndarray) -> list[float]:  # type: ignore[type-arg]
        return features if u[2] > 0 else [0.0] * len(features)

    for k in [k for k in range(n) if k != i]:
        u = units[k]
        d = math.hypot(u[0] - me[0], u[1] - me[1])
        head = [float(d < 9), d / 9, (u[0] - me[0]) / 9, (u[1] - me[1]) / 9, u[4] / ally[2]]
        out += block(head + life(u, ally) + place(u) + action(k), u)
    for k in range(n, len(units)):
        u = units[k]
        d = math.hypot(u[0] - me[0], u[1] - me[1])
        head = [float(d <= 6), d / 9, (u[0] - me[0]) / 9, (u[1] - me[1]) / 9, float(d < 9)]
        out += block(head + life(u, enemy) + place(u), u)
    out += env.avail_actions[0, i, 2:6].astype(float).tolist()
    out += [1.0, 0.0, 0.0, 0.0, *life(me, ally), *place(me), *action(i)]
    return (out if me[2] > 0 else [0.0] * len(out)) + number


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("3m", {"ally": (45.0, 0.0, 15.0), "enemy": (45.0, 0.0, 15.0)}),
        ("3s_vs_3z", {"ally": (80.0, 80.0, 35.0), "enemy": (100.0, 50.0, 22.0)}),
    ],
)
def test_agent_specific_states_are_the_listed_features(
    name: str, sizes: dict[str, tuple[float, float, float]]
) -> None:
    env = BattleSim(name, 1)
    keys, here = battle_keys(5, "state", 0, 1), np.arange(1)
    env.reset(keys)
    states, last = AgentState(env), np.full((1, env.spec.n_agents), -1)
    deaths = 0
    for t in range(60):
        rows = states.rows(last)
        for i in range(env.spec.n_agents):
            np.testing.assert_allclose(rows[i, 0], plain_state(env, i, last[0], sizes), atol=1e-6)
        actions = rule(env, keys, t, here)
        step = env.step(actions, here)
        last = actions
        deaths += int(not env.alive[0].all())
        if step.terminated[0] or step.truncated[0]:
            break
    assert deaths > 0


def test_all_agents_are_one_network() -> None:
    learner = RmappoLearner(cell(), cell().rmappo or Rmappo())
    learner.iterate()
    for p in learner.policy.parameters():
        assert p.shape[0] == 3
        assert torch.equal(p[0], p[1]) and torch.equal(p[0], p[2])


def test_resumed_training_continues_bit_for_bit_in_the_middle_of_battles() -> None:
    def fresh() -> RmappoLearner:
        return RmappoLearner(cell(), cell().rmappo or Rmappo())

    straight = fresh()
    for _ in range(2):
        straight.iterate()
    saved = {key: value.clone() for key, value in straight.tensors().items()}
    resumed = fresh()
    resumed.load_tensors(saved)
    resumed.iteration, resumed.env_steps = straight.iteration, straight.env_steps
    assert straight.env_steps == 2 * 3 * 40
    assert (straight.battles.lengths > 0).any()
    assert [straight.iterate() for _ in range(2)] == [resumed.iterate() for _ in range(2)]
    assert all(torch.equal(value, resumed.tensors()[key]) for key, value in straight.tensors().items())
