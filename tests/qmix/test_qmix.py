"""QMIX against plain re-derivations: loss and gradients, the mixer's monotony, the schedule, resuming."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dm2core.config import CellConfig, cell_config, load_config
from dm2core.env.scenario import add_maps
from dm2core.env.vector import map_spec
from dm2core.policies import load_policy
from dm2core.qmix.learner import EPISODES, QmixLearner
from dm2core.qmix.loss import EpisodeBatch, agent_values, inputs, td_loss
from dm2core.qmix.mixer import Mixer
from dm2core.qmix.net import QNet
from dm2core.qmix.replay import Replay
from dm2core.qmix.settings import replay_bytes

PATH = Path(__file__).parents[2] / "config" / "config.yaml"
CONFIG = load_config(
    PATH,
    {"scale": "smoke", "qmix": {"batch_episodes": 4, "replay_episodes": 20, "target_update_episodes": 6}},
)
E, N, A, O, S, T, H = 5, 3, 6, 7, 8, 9, 16  # noqa: E741


def cell(method: str = "qmix") -> CellConfig:
    return cell_config(CONFIG, map_name="3m", method=method, seed=3)


def random_batch(seed: int) -> EpisodeBatch:
    """Episodes of unequal length; the second ends by the time limit, the others by themselves."""
    rng = np.random.default_rng(seed)
    lengths = np.array([3, T, 5, 1, 7])
    row = np.arange(T + 1)[:, None] <= lengths
    avail = (rng.random((T + 1, E, N, A)) < 0.6) & row[..., None, None]
    avail[..., 1] |= row[..., None]
    actions = (avail[:-1] * rng.random((T, E, N, A))).argmax(-1) * row[1:, :, None]
    played = np.arange(T)[:, None] < lengths
    return EpisodeBatch(
        obs=torch.from_numpy(rng.standard_normal((T + 1, E, N, O)) * row[..., None, None]),
        avail_actions=torch.from_numpy(avail),
        actions=torch.from_numpy(actions),
        state=torch.from_numpy(rng.standard_normal((T + 1, E, S)) * row[..., None]),
        rewards=torch.from_numpy(rng.random((T, E)) * played),
        terminated=torch.from_numpy((np.arange(T)[:, None] == lengths - 1) & (np.arange(E) != 1)),
        played=torch.from_numpy(played),
    )


def networks(seed: int, *, extra_layer: bool) -> tuple[QNet, Mixer]:
    g = torch.Generator().manual_seed(seed)
    net = QNet(N, O + A + N, A, H, extra_layer=extra_layer).init(g).double()
    return net, Mixer(N, S, 4, 6).init(g).double()


def loss_of(net: QNet, mixer: Mixer, target_net: QNet, target_mixer: Mixer, batch: EpisodeBatch) -> Tensor:
    with torch.no_grad():
        q_target = agent_values(target_net, inputs(batch), batch)
    return td_loss(agent_values(net, inputs(batch), batch), q_target, mixer, target_mixer, batch, 0.9)[0]


def plain_values(net: QNet, batch: EpisodeBatch, e: int, length: int) -> list[list[Tensor]]:
    """[t][agent] -> values [A], one agent and one step at a time, the GRU written out (Cho et al. 2014)."""
    w_i, w_h = net.gru.weight_ih_l0, net.gru.weight_hh_l0
    b_i, b_h = net.gru.bias_ih_l0, net.gru.bias_hh_l0
    out: list[list[Tensor]] = [[] for _ in range(length + 1)]
    for i in range(N):
        h = torch.zeros(H, dtype=torch.float64)
        for t in range(length + 1):
            last, who = torch.zeros(A, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
            who[i] = 1
            if t:
                last[batch.actions[t - 1, e, i]] = 1
            x = torch.cat([batch.obs[t, e, i], last, who])
            x = torch.clamp(net.fc1.weight[0] @ x + net.fc1.bias[0], min=0)
            if net.fc2 is not None:
                x = torch.clamp(net.fc2.weight[0] @ x + net.fc2.bias[0], min=0)
            (i_r, i_z, i_n), (h_r, h_z, h_n) = (w_i @ x + b_i).split(H), (w_h @ h + b_h).split(H)
            r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
            h = (1 - z) * torch.tanh(i_n + r * h_n) + z * h
            out[t].append(net.head.weight[0] @ h + net.head.bias[0])
    return out


def plain_mix(mixer: Mixer, q: list[Tensor], s: Tensor) -> Tensor:
    def layers(net: torch.nn.Sequential) -> Tensor:
        return net[2].weight @ torch.clamp(net[0].weight @ s + net[0].bias, min=0) + net[2].bias

    w1, w2 = layers(mixer.w1).abs().view(N, 4), layers(mixer.w2).abs()
    hidden = mixer.b1.weight @ s + mixer.b1.bias
    for i in range(N):
        hidden = hidden + q[i] * w1[i]
    elu = torch.where(hidden > 0, hidden, torch.exp(hidden) - 1)
    return (elu * w2).sum() + layers(mixer.value)[0]


def plain_loss(
    net: QNet, mixer: Mixer, target_net: QNet, target_mixer: Mixer, batch: EpisodeBatch, gamma: float
) -> Tensor:
    errors = []
    for e in range(E):
        length = int(batch.played[:, e].sum())
        q, q_target = plain_values(net, batch, e, length), plain_values(target_net, batch, e, length)
        for t in range(length):
            total = plain_mix(mixer, [q[t][i][batch.actions[t, e, i]] for i in range(N)], batch.state[t, e])
            with torch.no_grad():
                following = []
                for i in range(N):
                    legal = batch.avail_actions[t + 1, e, i].nonzero().squeeze(-1).tolist()
                    best = max(legal, key=lambda a: float(q[t + 1][i][a]))
                    following.append(q_target[t + 1][i][best])
                later = plain_mix(target_mixer, following, batch.state[t + 1, e])
                ends = bool(batch.terminated[t, e])
                target = batch.rewards[t, e] + (0.0 if ends else gamma * later)
            errors.append((total - target) ** 2)
    return torch.stack(errors).mean()


@pytest.mark.parametrize("extra_layer", [False, True])
def test_loss_and_gradients_agree_with_the_formula_step_by_step(extra_layer: bool) -> None:
    (net, mixer), (target_net, target_mixer) = (networks(k, extra_layer=extra_layer) for k in (1, 2))
    batch = random_batch(4)
    loss = loss_of(net, mixer, target_net, target_mixer, batch)
    loss.backward()
    parameters = [*net.parameters(), *mixer.parameters()]
    ours = [p.grad.clone() for p in parameters if p.grad is not None]
    for p in parameters:
        p.grad = None
    expected = plain_loss(net, mixer, target_net, target_mixer, batch, 0.9)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert len(ours) == len(parameters)
    for mine, p in zip(ours, parameters, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(mine, p.grad, rtol=1e-9, atol=1e-11)
    assert all(p.grad is None for p in (*target_net.parameters(), *target_mixer.parameters()))


def test_what_lies_behind_an_episodes_end_does_not_matter() -> None:
    (net, mixer), target = networks(1, extra_layer=False), networks(2, extra_layer=False)
    batch = random_batch(5)
    loss = loss_of(net, mixer, *target, batch)
    behind = ~torch.cat([torch.ones(1, E, dtype=torch.bool), batch.played])
    obs, state = batch.obs.clone(), batch.state.clone()
    obs[behind], state[behind] = 7.0, -7.0
    rewards = torch.where(batch.played, batch.rewards, 9.0)
    noisy = dataclasses.replace(batch, obs=obs, state=state, rewards=rewards)
    assert torch.equal(loss_of(net, mixer, *target, noisy), loss)


def test_team_value_rises_with_every_agents_value() -> None:
    _, mixer = networks(3, extra_layer=False)
    q = torch.randn(200, N, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mixer(q, torch.randn(200, S, dtype=torch.float64)).sum(), q)
    assert (slope >= 0).all() and (slope > 0).float().mean() > 0.9


def test_inputs_show_the_last_action_only_after_it_was_taken() -> None:
    batch = random_batch(6)
    x = inputs(batch).view(T + 1, E, N, -1)
    assert torch.equal(x[..., :O], batch.obs)
    assert not x[0, ..., O : O + A].any()
    assert torch.equal(x[1, 0, 2, O : O + A].argmax(), batch.actions[0, 0, 2])
    assert not x[5:, 0, :, O : O + A].any()  # the first episode has 3 steps
    assert torch.equal(x[4, 3, :, O + A :], torch.eye(N, dtype=torch.float64))


def test_share_of_random_actions_falls_linearly_then_stays() -> None:
    learner = QmixLearner(cell(), "3m")
    shares = []
    for learner.env_steps in (0, 12_500, 25_000, 50_000, 900_000):
        shares.append(learner.epsilon())
    assert shares == pytest.approx([1.0, 0.7625, 0.525, 0.05, 0.05])


@pytest.mark.usefixtures("own_maps")
@pytest.mark.parametrize("bootstraps", [False, True])
def test_an_end_by_time_is_an_end_unless_switched(bootstraps: bool, tmp_path: Path) -> None:
    """PyMARL's runner, with SMAC's continuing_episode off: the last step is terminal whatever ended the battle."""
    file = tmp_path / "maps.yaml"
    file.write_text("maps: {brief: {allies: {marine: 3}, enemies: {marine: 3}, limit: 4, terrain: open}}")
    add_maps(file)
    assert cell().qmix is not None and not cell().qmix.bootstrap_at_time_limit  # as the paper's
    more = {
        "maps": {"brief": CONFIG.maps["3m"].model_dump()},
        "qmix": {"bootstrap_at_time_limit": bootstraps},
    }
    config = load_config(PATH, {"scale": "smoke", "maps_file": str(file)} | more)
    learner = QmixLearner(cell_config(config, map_name="brief", method="qmix", seed=3), "brief")
    learner.iterate()
    batch = learner.replay.batch(np.arange(EPISODES))
    assert batch.played.all() and batch.played.shape == (4, EPISODES)  # no battle is over in four steps
    assert not batch.terminated[:-1].any()
    assert bool(batch.terminated[-1].all()) is not bootstraps
    assert bool(batch.terminated[-1].any()) is not bootstraps


GRIDS = ("obs", "avail_actions", "state", "actions", "rewards")


def write(replay: Replay, place: int, steps: int, value: int) -> None:
    """The rows of an episode of so many steps, or of the part that was played of it."""
    for name in GRIDS:
        getattr(replay, name)[place, : steps + (name not in ("actions", "rewards"))] = value


def test_a_place_holds_its_newest_episode_and_zeros_whatever_lay_there_before() -> None:
    replay, rng = Replay(map_spec("3m"), 3), np.random.default_rng(5)
    expected: dict[int, tuple[int, int]] = {}
    for number in range(1, 60):
        steps = int(rng.integers(1, replay.spec.episode_limit + 1))
        while rng.random() < 0.3:  # its game is lost on the way, or on the last step
            place = replay.begin(np.uint64(99))
            write(replay, place, int(rng.integers(0, replay.spec.episode_limit + 1)), 99)
        place = replay.begin(np.uint64(number))
        write(replay, place, steps, number)
        replay.end(place, steps, bootstraps=False)
        expected[place] = (number, steps)
        pure = Replay(replay.spec, 3)
        for at, (value, length) in expected.items():
            write(pure, at, length, value)
        assert all(torch.equal(getattr(replay, name), getattr(pure, name)) for name in GRIDS)


@pytest.mark.parametrize("map_name", ["3m", "5m_vs_6m", "3s_vs_5z"])
def test_a_full_replays_size_is_known_before_there_is_one(map_name: str) -> None:
    replay = Replay(map_spec(map_name), 7)
    assert replay_bytes(replay.spec, 7) == sum(getattr(replay, name).nbytes for name in GRIDS)


def test_short_episodes_take_little_memory() -> None:
    """A full replay would be 130 MB of 8m_vs_9m's; played round twice, read, saved and loaded, it stays short."""
    saved, read = (Replay(map_spec("8m_vs_9m"), 300, repeatable=False) for _ in range(2))
    places = np.arange(300)
    before = psutil.Process().memory_info().rss
    for number in range(600):
        place = saved.begin(np.uint64(number))
        steps = 80 if number == 7 else 5  # one long one, replaced later
        write(saved, place, steps, 1)
        saved.end(place, steps, bootstraps=False)
    for first in range(0, 300, 30):
        assert saved.batch(places[first : first + 30]).obs.all()
    read.load_tensors(saved.tensors())
    assert torch.equal(read.obs, saved.obs)
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


@pytest.mark.parametrize("method", ["qmix", "qmix_fc3"])
def test_resumed_training_continues_bit_for_bit(method: str) -> None:
    straight = QmixLearner(cell(method), "3m")
    for _ in range(3):  # 24 episodes in a replay of 20: the oldest have been replaced
        straight.iterate()
    saved = {key: value.clone() for key, value in straight.tensors().items()}
    resumed = QmixLearner(cell(method), "3m")
    resumed.load_tensors(saved)
    resumed.iteration, resumed.env_steps = straight.iteration, straight.env_steps
    assert straight.replay.inserted == resumed.replay.inserted == 3 * EPISODES
    for name in ("obs", "avail_actions", "state", "rewards"):
        assert torch.equal(getattr(straight.replay, name), getattr(resumed.replay, name)), name
    assert [straight.iterate() for _ in range(2)] == [resumed.iterate() for _ in range(2)]
    assert all(torch.equal(value, resumed.tensors()[key]) for key, value in straight.tensors().items())
    assert straight.target_updated >= 6


def test_a_saved_policy_is_read_back() -> None:
    net, _ = networks(8, extra_layer=True)
    again = load_policy(net.state_dict())
    x, h = torch.randn(N, 4, O + A + N, dtype=torch.float64), torch.randn(N, 4, H, dtype=torch.float64)
    assert (again.n_agents, again.size_in, again.n_actions, again.hidden_size) == (N, O + A + N, A, H)
    assert all(torch.equal(a, b) for a, b in zip(again(x, h), net(x, h), strict=True))


def test_whole_episodes_are_those_of_a_packed_gru() -> None:
    """Values and gradients of `unroll` have the bits of nn.GRU on a packed sequence."""
    net, _ = networks(6, extra_layer=False)
    net, x = net.float(), torch.randn(T + 2, 6, O + A + N)
    lengths = torch.tensor([3, T, 5, 1, T, 7])

    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, _ = net.gru(packed._replace(data=torch.relu(net.fc1(packed.data.unsqueeze(0))).squeeze(0)))
    y = y._replace(data=net.head(y.data.unsqueeze(0)).squeeze(0))
    expected = pad_packed_sequence(y, total_length=len(x))[0]

    values, weight = net.unroll(x, lengths), torch.randn_like(expected)
    assert torch.equal(values, expected)
    gradients = [
        torch.autograd.grad((out * weight).sum(), list(net.parameters())) for out in (values, expected)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.slow
def test_qmix_learns_3m() -> None:
    """Greedy win rate within 200,000 env steps; some minutes."""
    from dm2core.evaluate import evaluate

    config = load_config(PATH, {"scale": "quick"})
    learner = QmixLearner(cell_config(config, map_name="3m", method="qmix", seed=1), "3m")
    best = 0.0
    while learner.env_steps < 200_000 and best < 0.8:
        learner.iterate()
        if learner.iteration % 50 == 0:
            best = max(best, evaluate(learner.policy, "3m", 64, 1, greedy=True)["win_rate"])
    assert best >= 0.8
