"""The methods beside DM2 and IPPO: their parts against plain re-derivations, on the real simulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dm2core.cloning import clone
from dm2core.config import CellConfig, Cloning, Switches, cell_config, load_config
from dm2core.demonstrations import Demonstrations, of_rollout
from dm2core.discriminator import policy_logits
from dm2core.dm2 import Dm2
from dm2core.env.vector import make_env
from dm2core.evaluate import evaluate
from dm2core.methods import METHODS
from dm2core.nets import DiscriminatorNet, net_input
from dm2core.own_best import OwnBest
from dm2core.pairs import policy_episodes
from dm2core.policy import choose_actions, masked_log_softmax
from dm2core.recall import replay_battles
from dm2core.reward import mix
from dm2core.rng import battle_keys
from dm2core.rollout import Rollout, collect
from tests.learning.cases import AUTHORS, PAPER

OVERRIDES = {
    "scale": "smoke",
    "maps": {"3m": {"episodes_per_update": 6, "ppo_epochs": 2}},
    "own_episodes": 8,
    "discriminator": {"steps": 3, "episodes_per_step": 4},
    "cloning": {"epochs": 2},
}
CONFIG = load_config(Path(__file__).parents[2] / "config" / "config.yaml", OVERRIDES)
KEYS = battle_keys(4, "test", 0, 30)


def cell(method: str) -> CellConfig:
    demos = "given" if METHODS[method].needs_demos else "none"
    return cell_config(CONFIG, map_name="3m", method=method, seed=5, demos=demos)


def test_an_evaluation_is_the_mean_over_its_own_battles() -> None:
    """Played in two parts, by hand: which battles a seed stands for does not depend on how many are asked for."""
    policy = Dm2(cell("ippo"), make_env("3m", 1)).policy
    found = evaluate(policy, "3m", 16, 7, greedy=False)
    parts = [
        collect(make_env("3m", count), policy, None, battle_keys(7, "evaluation", first, count))
        for first, count in ((0, 5), (5, 11))
    ]
    columns = [
        torch.stack([p.won.double(), p.rewards.double().sum(0), p.lengths.double(), p.truncated.double()])
        for p in parts
    ]
    assert list(found) == ["win_rate", "episode_return", "episode_length", "timeout_rate"]
    assert list(found.values()) == pytest.approx(torch.cat(columns, dim=1).mean(1).tolist(), rel=1e-6)
    assert evaluate(policy, "3m", 16, 7, greedy=False) == found
    assert evaluate(policy, "3m", 16, 8, greedy=False) != found


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    """Thirty battles of 3m, played by an untrained team."""
    return collect(make_env("3m", 30), Dm2(cell("ippo"), make_env("3m", 1)).policy, None, KEYS)


@pytest.fixture(scope="module")
def demos(rollout: Rollout) -> Demonstrations:
    return of_rollout(rollout, "3m")


def test_battles_fought_again_from_their_actions_are_the_same(rollout: Rollout) -> None:
    actions = rollout.actions.permute(1, 0, 2).numpy().astype(np.uint8)
    again = replay_battles(make_env("3m", 30), KEYS, actions, rollout.lengths.numpy())
    assert np.array_equal(again.obs, rollout.obs.transpose(0, 1).numpy())
    assert np.array_equal(again.avail_actions, rollout.avail_actions.transpose(0, 1).numpy())
    assert np.array_equal(again.rewards, rollout.rewards.T.numpy())


def test_the_best_own_episodes_are_kept_and_the_newest_always_enters(rollout: Rollout) -> None:
    best = OwnBest(make_env("3m", 1).spec, 8, torch.float32, terminal_row=True)
    best.push(rollout, KEYS, 0.99)
    discounted = [sum(0.99**t * float(r) for t, r in enumerate(row)) for row in rollout.rewards.T]
    kept: list[int] = []
    for battle in range(30):
        if len(kept) == 8:
            kept.remove(min(kept, key=lambda b: (discounted[b], b)))
        kept.append(battle)
    episodes = best.episodes()
    assert episodes.length.shape == (3, 8)
    found = set()
    for k in range(8):
        rows = [
            episodes.obs[s : s + n] for s, n in zip(episodes.start[:, k], episodes.length[:, k], strict=True)
        ]
        battle = next(
            b for b in kept
            if all(torch.equal(rows[i], rollout.obs[: rollout.lengths[b] + 1, b, i]) for i in range(3))
        )  # fmt: skip
        found.add(battle)
    assert found == set(kept)


@pytest.mark.parametrize("method", ["dm2_sil", "gail_only", "dm2_state_action", "bc_dm2"])
def test_every_variant_resumes_bit_for_bit_on_the_simulator(method: str, demos: Demonstrations) -> None:
    def fresh() -> Dm2:
        return Dm2(cell(method), make_env("3m", 6), demos if METHODS[method].needs_demos else None)

    straight = fresh()
    straight.start()
    first = [straight.iterate() for _ in range(3)]
    saved = {key: value.clone() for key, value in straight.tensors().items()}
    resumed = fresh()
    resumed.load_tensors(saved)
    resumed.iteration, resumed.env_steps = straight.iteration, straight.env_steps
    assert [straight.iterate() for _ in range(2)] == [resumed.iterate() for _ in range(2)]
    assert all(torch.equal(value, resumed.tensors()[key]) for key, value in straight.tensors().items())
    assert all(np.isfinite(list(metrics.values())).all() for metrics in first)


def test_what_each_method_is_paid() -> None:
    task, own = torch.rand(5, 4), torch.randn(5, 4, 3)
    assert torch.equal(mix(task, own, 0.3, "task"), task.unsqueeze(-1).expand(5, 4, 3))
    assert torch.equal(mix(task, own, 0.3, "mixed"), task.unsqueeze(-1) + 0.3 * own)
    assert torch.equal(mix(task, own, 0.3, "imitation"), own)


@pytest.mark.parametrize("switches", [AUTHORS, PAPER])
def test_state_action_discriminators_see_the_actions_number(switches: Switches, rollout: Rollout) -> None:
    size = rollout.obs.shape[-1]
    net = DiscriminatorNet(3, size + 1, 16).init(torch.Generator().manual_seed(1))
    logits = policy_logits(net, rollout, switches, actions=True)
    ours = policy_episodes(rollout, torch.float32, terminal_row=True, actions=True)
    for t, b, i in ((0, 0, 0), (3, 7, 1), (5, 29, 2)):
        x = torch.cat([rollout.obs[t, b, i], rollout.actions[t, b, i].reshape(1).float()])
        assert torch.equal(ours.obs[ours.start[i, b] + t], x)
        if rollout.alive[t, b, i]:
            expected = net(x.expand(3, 1, -1))[i, 0]
            torch.testing.assert_close(logits[t, b, i], expected)


def test_demonstrations_and_rollouts_show_discriminators_the_same_rows(
    rollout: Rollout, demos: Demonstrations
) -> None:
    for actions in (False, True):
        theirs = demos.episodes(torch.float32, terminal_row=True, actions=actions)
        ours = policy_episodes(rollout, torch.float32, terminal_row=True, actions=actions)
        assert np.array_equal(theirs.length, ours.length)
        for i, k in ((0, 0), (2, 11)):
            n = ours.length[i, k]
            assert torch.equal(theirs.obs[theirs.start[i, k] :][:n], ours.obs[ours.start[i, k] :][:n])


def test_cloning_learns_what_the_demonstrator_does(rollout: Rollout) -> None:
    """A demonstrator that always takes its last available action leaves nothing to guess."""
    env = make_env("3m", 30)
    teacher = Dm2(cell("ippo"), make_env("3m", 1)).policy
    with torch.no_grad():
        teacher.head.bias[:] = torch.arange(9.0) * 20
    shown = of_rollout(collect(env, teacher, None, KEYS), "3m")
    student = Dm2(cell("bc_ippo"), make_env("3m", 1), shown).policy
    cfg = Cloning(lr=3e-3, epochs=25, batch_rows=128)
    losses = clone(student, shown, cfg, torch.Generator().manual_seed(0))
    assert losses[-1] < min(0.1, losses[0] / 5)


def test_cloning_sees_the_memory_that_play_would_have(rollout: Rollout, demos: Demonstrations) -> None:
    """Loss of one epoch at learning rate 0, against playing every episode through step by step."""
    student = Dm2(cell("bc_ippo"), make_env("3m", 1), demos).policy
    with torch.no_grad():
        student.head.weight.normal_(generator=torch.Generator().manual_seed(2))
    loss = clone(student, demos, Cloning(lr=1e-12, epochs=1, batch_rows=64), torch.Generator())[0]
    total, count = 0.0, 0
    for b, length in enumerate(rollout.lengths.tolist()):
        h, last = torch.zeros(3, 1, 64), torch.zeros(3, 1, 9)
        for t in range(length):
            with torch.no_grad():
                scores, h = student(net_input(rollout.obs[t, b].unsqueeze(1), last), h)
            log_pi = torch.log_softmax(scores[:, 0], dim=-1)
            for i in range(3):
                if rollout.alive[t, b, i]:
                    total -= float(log_pi[i, rollout.actions[t, b, i]])
                    count += 1
            last = torch.nn.functional.one_hot(rollout.actions[t, b], 9).float().unsqueeze(1)
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_epsilon_is_the_share_of_uniform_draws() -> None:
    """Over many battles: the mode with 1 - eps + eps / legal, every other legal action with eps / legal."""
    battles = 40_000
    log_pi = masked_log_softmax(
        torch.tensor([0.0, 2.0, 1.0, 5.0]).expand(1, battles, 4),
        torch.tensor([True, True, True, False]).expand(1, battles, 4),
    )
    keys = battle_keys(3, "epsilon", 0, battles)
    actions = choose_actions(log_pi, keys, 7, greedy=True, epsilon=0.3)
    share = torch.bincount(actions[0], minlength=4) / battles
    torch.testing.assert_close(share, torch.tensor([0.1, 0.8, 0.1, 0.0]), atol=0.01, rtol=0)
    assert torch.equal(
        actions[:, :50], choose_actions(log_pi[:, :50], keys[:50], 7, greedy=True, epsilon=0.3)
    )
    assert (choose_actions(log_pi, keys, 7, greedy=True) == 1).all()
