"""Every option of SMAC against a second encoder, written feature by feature from SMAC's description.

The second encoder below shares nothing with observe.py but the option values: plain Python floats, one list per
vector, the maps' sizes and SMAC's constants spelled out again. Everything must agree to the last bit of float32.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dm2core.env import golden, observe
from dm2core.env.observe import Options
from dm2core.env.scenario import known_maps
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys
from tests.env.trajectory import rule

# map: episode limit, allies, enemies ("m" marine, "s" stalker, "z" zealot); max_reward of the default options
MAPS: dict[str, tuple[int, str, str]] = {
    "3m": (60, "mmm", "mmm"),
    "8m": (120, "mmmmmmmm", "mmmmmmmm"),
    "5m_vs_6m": (70, "mmmmm", "mmmmmm"),
    "8m_vs_9m": (120, "mmmmmmmm", "mmmmmmmmm"),
    "3s_vs_3z": (150, "sss", "zzz"),
    "3s_vs_4z": (200, "sss", "zzzz"),
    "3s_vs_5z": (250, "sss", "zzzzz"),
    "2s3z": (120, "sszzz", "sszzz"),
    "3s5z": (150, "ssszzzzz", "ssszzzzz"),
}
HEALTH = {"m": 45.0, "s": 80.0, "z": 100.0}
SHIELD = {"m": 0.0, "s": 80.0, "z": 50.0}
COOLDOWN = {"m": 15.0, "s": 35.0, "z": 22.0}
STOCK_ID = {48: "m", 73: "z", 74: "s"}  # of the enemies; recordings list them in any order
SIDE = 32  # cells

Unit = tuple[float, float, float, float, float]


@dataclasses.dataclass
class Reference:
    """SMAC's outputs for one battle, from unit data; slow."""

    name: str
    opt: dict[str, Any]
    grid: list[list[int]]
    height: list[list[float]]
    extent: tuple[float, float] = (32.0, 32.0)

    def __post_init__(self) -> None:
        self.limit, self.allies, self.enemies = MAPS[self.name]
        self.mixed = len(set(self.enemies)) > 1
        self.protoss = "m" not in self.allies
        self.max_reward = len(self.enemies) * self.opt["reward_death_value"] + self.opt["reward_win"]
        for kind in self.enemies:
            self.max_reward += HEALTH[kind] + SHIELD[kind]
        self.won_before = self.lost_before = False

    def n_actions(self) -> int:
        return 6 + len(self.enemies)

    def one_hot(self, kind: str, ally: bool) -> list[float]:
        if not self.mixed:
            return []
        return [float(kind == other) for other in ("sz" if ally else "zs")]

    def body(self, kind: str, unit: Unit) -> list[float]:
        shield = [unit[3] / SHIELD[kind]] if self.protoss else []
        return [unit[2] / HEALTH[kind], *shield]

    def action_row(self, action: int | None) -> list[float]:
        return [float(action == k) for k in range(self.n_actions())]

    def inside(self, cx: int, cy: int) -> bool:
        return 0 <= cx < SIDE and 0 <= cy < SIDE

    def avail(self, units: list[Unit], i: int) -> list[int]:
        x, y, health, _, _ = units[i]
        if health <= 0:
            return [1] + [0] * (self.n_actions() - 1)
        half = self.opt["move_amount"] / 2
        out = [0, 1]
        for px, py in ((x, y + half), (x, y - half), (x + half, y), (x - half, y)):
            cx, cy = math.trunc(px), math.trunc(py)
            out.append(int(self.inside(cx, cy) and self.grid[cx][cy] == 1))
        for enemy in units[len(self.allies) :]:
            out.append(int(enemy[2] > 0 and math.hypot(enemy[0] - x, enemy[1] - y) <= 6))
        return out

    def obs(self, units: list[Unit], last: list[int] | None, t: int, i: int) -> list[float]:
        opt, avail = self.opt, self.avail(units, i)
        a, n = int(opt["move_amount"]), len(self.allies)
        x, y, health, _, _ = units[i]
        cx, cy = math.trunc(x), math.trunc(y)
        around = [(0, 2 * a), (0, -2 * a), (2 * a, 0), (-2 * a, 0), (a, a), (-a, -a), (a, -a), (-a, a)]
        around = [(cx + dx, cy + dy) for dx, dy in around]
        out = [float(v) for v in avail[2:6]]
        if opt["obs_pathing_grid"]:
            out += [float(self.grid[p][q]) if self.inside(p, q) else 1.0 for p, q in around]
        if opt["obs_terrain_height"]:
            out += [self.height[p][q] if self.inside(p, q) else 1.0 for p, q in [*around, (cx, cy)]]
        others = [j for j in [*range(n, len(units)), *range(n)] if j != i]
        for j in others:
            ally, kind, unit = j < n, (self.allies + self.enemies)[j], units[j]
            d = math.hypot(unit[0] - x, unit[1] - y)
            seen = [1.0 if ally else float(avail[6 + j - n]), d / 9, (unit[0] - x) / 9, (unit[1] - y) / 9]
            if opt["obs_all_health"]:
                seen += self.body(kind, unit)
            seen += self.one_hot(kind, ally)
            if ally and opt["obs_last_action"]:
                seen += self.action_row(last[j] if last else None)
            out += seen if unit[2] > 0 and d < 9 else [0.0] * len(seen)
        if opt["obs_all_health"] or opt["obs_own_health"]:
            out += self.body(self.allies[i], units[i])
        out += self.one_hot(self.allies[i], True)
        if opt["obs_timestep_number"]:
            out.append(0.0)  # declared among the own features, never written
        if health <= 0:
            out = [0.0] * len(out)
        if opt["obs_timestep_number"]:
            out.append(t / self.limit)
        return out

    def state(self, units: list[Unit], last: list[int] | None, t: int) -> list[float]:
        n, out = len(self.allies), []
        if self.opt["obs_instead_of_state"]:
            return [value for i in range(n) for value in self.obs(units, last, t, i)]
        for j, (kind, unit) in enumerate(zip(self.allies + self.enemies, units, strict=True)):
            health, *shield = self.body(kind, unit)
            row = [health]
            if j < n:
                row.append(unit[4] / COOLDOWN[kind])
            row += [(unit[0] - SIDE / 2) / self.extent[0], (unit[1] - SIDE / 2) / self.extent[1]]
            row += [*shield, *self.one_hot(kind, j < n)]
            out += row if unit[2] > 0 else [0.0] * len(row)
        if self.opt["state_last_action"]:
            for i in range(n):
                out += self.action_row(last[i] if last else None)
        if self.opt["state_timestep_number"]:
            out.append(t / self.limit)
        return out

    def judge(self, before: list[Unit], units: list[Unit], t: int) -> tuple[float, bool, bool, bool]:
        """Reward, terminated (a battle's end), truncated, won; remembers that a battle was won or lost."""
        opt, n = self.opt, len(self.allies)
        ally, enemy, deaths = 0.0, 0.0, 0.0
        for j, (old, new) in enumerate(zip(before, units, strict=True)):
            if old[2] <= 0:
                continue
            lost = old[2] + old[3] if new[2] <= 0 else old[2] + old[3] - new[2] - new[3]
            if j >= n:
                enemy += lost
                deaths += opt["reward_death_value"] if new[2] <= 0 else 0.0
            elif not opt["reward_only_positive"]:
                ally += opt["reward_negative_scale"] * lost
                deaths -= opt["reward_death_value"] * opt["reward_negative_scale"] if new[2] <= 0 else 0.0
        reward = abs(enemy + deaths) if opt["reward_only_positive"] else enemy + deaths - ally
        if opt["reward_sparse"]:
            reward = 0.0
        left = [sum(u[2] > 0 for u in units[:n]), sum(u[2] > 0 for u in units[n:])]
        over = 0 in left
        won = left[0] > 0 and left[1] == 0 and not self.won_before
        lost_now = left[0] == 0 and left[1] > 0 and not self.lost_before
        if won:
            reward = 1.0 if opt["reward_sparse"] else reward + opt["reward_win"]
        if lost_now:
            reward = -1.0 if opt["reward_sparse"] else reward + opt["reward_defeat"]
        self.won_before |= won
        self.lost_before |= lost_now
        if opt["reward_scale"]:
            reward /= self.max_reward / opt["reward_scale_rate"]
        return reward, over, not over and t >= self.limit, won


DEFAULTS = {
    "move_amount": 2, "obs_all_health": True, "obs_own_health": True, "obs_last_action": False,
    "obs_pathing_grid": False, "obs_terrain_height": False, "obs_timestep_number": False,
    "obs_instead_of_state": False, "state_last_action": True, "state_timestep_number": False, "reward_sparse": False,
    "reward_only_positive": True, "reward_death_value": 10, "reward_win": 200, "reward_defeat": 0,
    "reward_negative_scale": 0.5, "reward_scale": True, "reward_scale_rate": 20, "continuing_episode": False,
}  # fmt: skip
# The non-default value of every option; the numbers are no sums of powers of two where rounding can show.
OTHER: dict[str, Any] = {name: not value for name, value in DEFAULTS.items() if isinstance(value, bool)} | {
    "move_amount": 3, "reward_death_value": 12.3, "reward_win": 33.3, "reward_defeat": -7.7,
    "reward_negative_scale": 1.1, "reward_scale_rate": 7.0,
}  # fmt: skip


def combinations() -> list[frozenset[str]]:
    """Sets of options to change, such that any two options meet in all four ways: both, either one, neither."""
    names, rng = sorted(OTHER), np.random.default_rng(5)
    missing = {
        (a, b, p, q) for a in names for b in names if a < b for p in (False, True) for q in (False, True)
    }
    out = [frozenset[str](), frozenset(names)]
    while True:
        for chosen in out[-2:]:
            missing -= {(a, b, a in chosen, b in chosen) for a in names for b in names if a < b}
        if not missing:
            return out
        tries = [frozenset(n for n in names if rng.random() < 0.5) for _ in range(40)]
        out.append(
            max(tries, key=lambda c: sum(((a in c) == p) and ((b in c) == q) for a, b, p, q in missing))
        )


COMBINATIONS = combinations()


def options(chosen: frozenset[str]) -> dict[str, Any]:
    return DEFAULTS | {name: OTHER[name] for name in chosen}


def field(name: str, opt: dict[str, Any], rng: np.random.Generator) -> tuple[BattleSim, Reference]:
    """One battle on random ground, as the encoder sees it, and the reference for the same ground."""
    env = BattleSim(name, 1, Options(**opt))
    grid, height = rng.random((SIDE, SIDE)) < 0.8, rng.integers(0, 256, (SIDE, SIDE)) / 255
    env.encoding.pathing[...] = grid
    env.encoding.height[...] = height
    return env, Reference(name, opt, grid.astype(int).tolist(), height.tolist())


def unit_list(raw: NDArray[np.float32]) -> list[Unit]:
    return [(x, y, health, shield, cooldown) for x, y, health, shield, cooldown in raw.tolist()]


def compare(env: BattleSim, ref: Reference, last: list[int] | None, t: int) -> None:
    units, agents = unit_list(env.raw[0]), range(len(ref.allies))
    obs = np.array([ref.obs(units, last, t, i) for i in agents], dtype=np.float32)
    state = np.array(ref.state(units, last, t), dtype=np.float32)
    assert (env.spec.obs_size, env.spec.state_size) == (obs.shape[1], state.size)
    np.testing.assert_array_equal(env.obs[0], obs)
    np.testing.assert_array_equal(env.state()[0], state)
    np.testing.assert_array_equal(env.avail_actions[0], np.array([ref.avail(units, i) for i in agents]) == 1)
    np.testing.assert_array_equal(env.alive[0], [u[2] > 0 for u in units[: len(agents)]])


def fight(env: BattleSim, ref: Reference, seed: int, steps: int, after: int) -> tuple[list[str], list[float]]:
    """Play, comparing everything; how the battle ended, if it did, and the rewards."""
    keys, here = battle_keys(seed, "options", 0, 1), np.arange(1)
    env.reset(keys)
    compare(env, ref, None, 0)
    ends, rewards = list[str](), list[float]()
    for t in range(1, steps + 1):
        actions, before = rule(env, keys, t, here), unit_list(env.raw[0])
        step = env.step(actions, here)
        compare(env, ref, actions[0].tolist(), t)
        units, n = unit_list(env.raw[0]), len(ref.allies)
        reward, over, truncated, won = ref.judge(before, units, t)
        assert (step.reward[0], step.terminated[0], step.truncated[0]) == (reward, over, truncated)
        assert step.won[0] == won
        assert step.dead_allies[0] == sum(u[2] <= 0 for u in units[:n])
        assert step.dead_enemies[0] == sum(u[2] <= 0 for u in units[n:])
        rewards.append(reward)
        if over or truncated:
            ends.append("won" if won else "truncated" if truncated else "over")
            if len(ends) > after:
                break
    return ends, rewards


def test_every_option_has_a_default_and_another_value() -> None:
    assert {f.name: f.default for f in dataclasses.fields(Options)} == DEFAULTS
    assert OTHER.keys() == DEFAULTS.keys() and all(OTHER[name] != DEFAULTS[name] for name in OTHER)
    assert sorted(MAPS) == sorted(known_maps())


@pytest.mark.parametrize("name", MAPS)
def test_battles_are_encoded_as_described_under_any_pair_of_options(name: str) -> None:
    rng = np.random.default_rng(len(name))
    for k, chosen in enumerate(COMBINATIONS):
        env, ref = field(name, options(chosen), rng)
        fight(env, ref, seed=k, steps=26, after=0)


@pytest.mark.parametrize(
    "chosen", [frozenset[str](), frozenset(OTHER), *({name} for name in OTHER)], ids=["none", "all", *OTHER]
)
def test_each_option_alone_and_all_together_to_the_end_of_a_battle(chosen: frozenset[str]) -> None:
    env, ref = field("3m", options(frozenset(chosen)), np.random.default_rng(1))
    ends, _ = fight(env, ref, seed=3, steps=70, after=2)
    assert len(ends) == 3


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_rewards_and_ends_of_unit_data_that_no_battle_shows_often(
    sparse: bool, positive: bool, scale: bool
) -> None:
    """Random life totals with healing, and all ends of a battle, also on the step of the time limit and after it."""
    opt = options(frozenset(OTHER)) | {
        "reward_sparse": sparse, "reward_only_positive": positive, "reward_scale": scale
    }  # fmt: skip
    rng = np.random.default_rng(2)
    env, _ = field("2s3z", opt, rng)
    e, ends = env.encoding, set()
    for case in range(120):
        ref = Reference("2s3z", opt, [], [])
        raw = rng.uniform(0, 50, (1, 10, 5)).astype(np.float32)
        # one side, both or neither may be wiped out in the middle of four steps
        gone = (case % 2 == 0, case % 3 == 0)
        for t in range(118, 122):
            before = raw.copy()
            raw = rng.uniform(0, 50, (1, 10, 5)).astype(np.float32)
            raw[before[..., 2] == 0, 2] = 0
            raw[0, rng.random(10) < 0.1, 2] = 0
            if t == 119 + case // 6 % 2:
                raw[0, :5, 2] *= not gone[0]
                raw[0, 5:, 2] *= not gone[1]
            reward, flags, dead = (
                np.empty(1),
                np.empty((3, 1), dtype=np.bool_),
                np.empty((2, 1), dtype=np.int32),
            )
            steps = np.array([t], dtype=np.int32)
            observe.judge(
                np.zeros(1, dtype=np.int64), before, raw, steps, e.sizes, e.ground, e.reward, reward, flags, dead
            )  # fmt: skip
            expected = ref.judge(unit_list(before[0]), unit_list(raw[0]), t)
            assert (reward[0], *flags[:, 0].tolist()) == expected
            ends.add((*expected[1:], t >= 120))
    over_or_won = {(True, False, won, late) for won in (False, True) for late in (False, True)}
    assert ends == over_or_won | {(False, False, False, False), (False, True, False, True)}


def test_time_runs_out_under_the_same_flags_with_a_continuing_episode() -> None:
    ends = []
    for continuing in (False, True):
        env, ref = field("3m", DEFAULTS | {"continuing_episode": continuing}, np.random.default_rng(1))
        env.encoding.pathing[...] = 0
        ref.grid = [[0] * SIDE] * SIDE
        ends.append(fight(env, ref, seed=0, steps=60, after=0))
    assert ends[0] == ends[1]


def _recording(source: Path, target: Path, chosen: frozenset[str], **changes: NDArray[Any]) -> Path:
    """The unit data of a recording, with what the reference says SMAC returns under other options."""
    with np.load(source, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    opt, n, m = options(chosen), int(data["n_agents"]), int(data["n_enemies"])
    keys = ("x", "y", "health", "shield", "cooldown")
    raw = np.concatenate(
        [np.stack([data[f"{side}_{key}"] for key in keys], axis=-1) for side in ("ally", "enemy")], axis=1
    )
    obs, state, avail, reward, ends = [], [], [], [], []
    ref, before = Reference(source.stem, opt, [], []), list[Unit]()
    for row, t in enumerate(data["t"].tolist()):
        k, units = int(data["instance"][row]), unit_list(raw[row])
        if t == 0:
            extent = (float(data["inst_max_distance_x"][k]), float(data["inst_max_distance_y"][k]))
            grid, height = data["inst_pathing_grid"][k].tolist(), data["inst_terrain_height"][k].tolist()
            ref = Reference(source.stem, opt, grid, height, extent)
            ref.enemies = "".join(STOCK_ID[kind] for kind in data["enemy_type"][row].tolist())
        last = data["action"][row].tolist() if t else None
        obs.append([ref.obs(units, last, t, i) for i in range(n)])
        state.append(ref.state(units, last, t))
        avail.append([ref.avail(units, i) for i in range(n)])
        end = ref.judge(before, units, t) if t else (0.0, False, False, False)
        reward.append(end[0])
        ends.append((end[1] or end[2], end[3], end[2] and opt["continuing_episode"]))
        before = units
    assert len(avail[0][0]) == 6 + m
    over = np.array(ends)
    data |= {f"opt_{name}": np.array(float(value)) for name, value in opt.items()}
    data |= {
        "obs": np.array(obs),
        "state": np.array(state, dtype=np.float32),
        "avail": np.array(avail, np.int8),
    }
    data |= {"reward": np.array(reward), "terminated": over[:, 0], "battle_won": over[:, 1]}
    data |= {"info_episode_limit": over[:, 2], "inst_max_reward": np.full(9, ref.max_reward)}
    np.savez(target, **(data | changes))
    return target


RECORDED = Path("tests/data/golden_smac")


@pytest.mark.parametrize("k", range(1, len(COMBINATIONS)))
def test_recordings_with_any_options_replay_exactly(k: int, tmp_path: Path) -> None:
    name = ["3m", "3s_vs_3z", "2s3z", "5m_vs_6m", "3s_vs_4z"][k % 5]
    report = golden.check_encoding(
        _recording(RECORDED / f"{name}.npz", tmp_path / "other.npz", COMBINATIONS[k])
    )
    assert report.exact and report.map_name == name, report.line()
    assert (report.obs, report.state, report.reward) == (0.0, 0.0, 0.0)


def test_a_recording_of_a_continuing_episode_shows_the_limit(tmp_path: Path) -> None:
    path = _recording(RECORDED / "3m.npz", tmp_path / "a.npz", frozenset({"continuing_episode"}))
    with np.load(path, allow_pickle=False) as file:
        limit = file["info_episode_limit"]
    assert limit.any() and golden.check_encoding(path).exact
    path = _recording(
        RECORDED / "3m.npz", tmp_path / "b.npz", frozenset({"continuing_episode"}),
        info_episode_limit=np.zeros_like(limit),
    )  # fmt: skip
    assert golden.check_encoding(path).flags == limit.sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"opt_obs_agent_id": np.array(1.0)},
            "opt_obs_agent_id is no option of SMAC; known are move_amount, ",
        ),
        ({"opt_reward_sparse": np.array(2.0)}, "opt_reward_sparse must be 0 or 1, it is 2"),
        ({"opt_reward_win": np.array(np.nan)}, "opt_reward_win must be finite, it is nan"),
        ({"opt_reward_win": np.zeros(2)}, r"opt_reward_win must be one number, it is float64 \(2,\)"),
        ({"opt_reward_scale_rate": np.array(0.0)}, "reward_scale_rate must be above 0, it is 0.0"),
        ({"inst_terrain_height": np.zeros((5, 32, 31))}, r"heights of size \(32, 31\)"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(
    changes: dict[str, NDArray[Any]], message: str, tmp_path: Path
) -> None:
    path = _recording(RECORDED / "3m.npz", tmp_path / "bad.npz", frozenset({"obs_terrain_height"}), **changes)
    with pytest.raises(golden.TraceError, match=message) as error:
        golden.check_encoding(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reward_scale", "no", "reward_scale must be True or False, it is 'no'"),
        ("obs_last_action", 1, "obs_last_action must be True or False, it is 1"),
        ("move_amount", -2.0, "move_amount must be above 0, it is -2.0"),
        ("reward_scale_rate", 0, "reward_scale_rate must be above 0, it is 0"),
        ("reward_win", True, "reward_win must be a finite number, it is True"),
        ("reward_defeat", math.nan, "reward_defeat must be a finite number, it is nan"),
        ("reward_death_value", "10", "reward_death_value must be a finite number, it is '10'"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_one_line(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Options(**{name: value})
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["obs", "action", "inst_pathing_grid", "visibility", "enemy_shield"])
def test_a_missing_array_is_named(name: str, tmp_path: Path) -> None:
    with np.load(RECORDED / "3m.npz", allow_pickle=False) as file:
        np.savez(tmp_path / "less.npz", **{key: file[key] for key in file.files if key != name})
    with pytest.raises(golden.TraceError, match=f"array '{name}' is missing"):
        golden.check_encoding(tmp_path / "less.npz")
