"""Our encoding against recordings of SMAC's own class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dm2core.env import golden
from dm2core.env.observe import Options
from dm2core.env.scenario import known_maps, load_scenario
from dm2core.env.scripted import focus_fire, play
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys

DATA = Path("tests/data/golden_smac")
FILES = sorted(DATA.glob("*.npz"))


def _rewritten(source: Path, target: Path, **changes: np.ndarray) -> Path:
    with np.load(source, allow_pickle=False) as file:
        np.savez(target, **({name: file[name] for name in file.files} | changes))
    return target


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recorded_frame_is_reproduced_exactly(path: Path) -> None:
    report = golden.check_encoding(path)
    assert report.exact and report.frames > 300 and report.map_name == path.stem
    assert (report.obs, report.state, report.reward) == (0.0, 0.0, 0.0)


def test_all_five_recordings_are_there() -> None:
    assert [path.stem for path in FILES] == ["2s3z", "3m", "3s_vs_3z", "3s_vs_4z", "5m_vs_6m"]


@pytest.mark.parametrize(
    "name", ["obs", "state", "reward", "avail", "visibility", "terminated", "dead_enemies"]
)
def test_a_changed_entry_is_found(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(DATA / "3m.npz", allow_pickle=False) as file:
        array = file[name].copy()
    flat = array.reshape(-1)
    flat[-1] = ~flat[-1] if array.dtype == np.bool_ else flat[-1] + 1
    path = _rewritten(DATA / "3m.npz", tmp_path / "changed.npz", **{name: array})
    assert golden.main([path]) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_nan_is_a_difference(tmp_path: Path) -> None:
    with np.load(DATA / "3m.npz", allow_pickle=False) as file:
        obs = file["obs"].copy()
    obs[5, 1, 3] = np.nan
    assert not golden.check_encoding(_rewritten(DATA / "3m.npz", tmp_path / "nan.npz", obs=obs)).exact


def test_a_map_we_do_not_know_replays_from_its_own_numbers(tmp_path: Path) -> None:
    path = _rewritten(DATA / "3m.npz", tmp_path / "other.npz", episode_limit=np.array(61))
    report = golden.check_encoding(path)
    assert report.map_name.startswith("unknown") and report.obs == report.state == report.reward == 0.0


def test_files_that_are_no_recordings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut, text, objects, foreign = (
        tmp_path / name for name in ("cut.npz", "text.npz", "objects.npz", "foreign.npz")
    )
    cut.write_bytes((DATA / "3m.npz").read_bytes()[:5000])
    text.write_text("no archive")
    np.savez(objects, t=np.array([{}], dtype=object))
    np.savez(foreign, t=np.arange(3))
    empty = _rewritten(DATA / "3m.npz", tmp_path / "short.npz", action=np.zeros((3, 3), dtype=np.int16))
    for path in (cut, text, objects, foreign, empty, tmp_path / "missing.npz"):
        assert golden.main([path]) == 65
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["3m", "5m_vs_6m", "3s_vs_3z", "3s_vs_4z", "2s3z"])
def test_the_simulator_has_the_recorded_sizes_and_constants(name: str) -> None:
    env = BattleSim(name, 1)
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as file:
        for key in ("n_agents", "n_enemies", "n_actions", "obs_size", "state_size", "episode_limit"):
            assert getattr(env.spec, key) == int(file[key])
        assert env.encoding.max_reward == file["inst_max_reward"][0]
        np.testing.assert_array_equal(env.encoding.pathing, file["inst_pathing_grid"][0])
        health = np.concatenate([file["ally_health_max"][0], file["enemy_health_max"][0]])
        assert sorted(health) == sorted(
            u.health for u in load_scenario(name).allies + load_scenario(name).enemies
        )


# oxwhirl/smac: get_env_info() and max_reward of every map in the data file
TABLE = {
    "3m": (9, 30, 48, 365),
    "8m": (14, 80, 168, 640),
    "5m_vs_6m": (12, 55, 98, 530),
    "8m_vs_9m": (15, 85, 179, 695),
    "3s_vs_3z": (9, 36, 54, 680),
    "3s_vs_4z": (10, 42, 61, 840),
    "3s_vs_5z": (11, 48, 68, 1000),
    "2s3z": (11, 80, 120, 1020),
    "3s5z": (14, 128, 216, 1510),
}


def test_sizes_of_all_maps() -> None:
    assert known_maps() == list(TABLE)
    for name, expected in TABLE.items():
        env = BattleSim(name, 1)
        spec = env.spec
        assert (spec.n_actions, spec.obs_size, spec.state_size, env.encoding.max_reward) == expected


def test_an_unknown_map_is_named_with_the_nearest_one() -> None:
    with pytest.raises(
        ValueError, match=r"'5m_v_6m' is unknown; did you mean '5m_vs_6m'\? known: 3m, "
    ) as error:
        load_scenario("5m_v_6m")
    assert "\n" not in str(error.value)


def test_options_that_no_recording_has() -> None:
    """Sizes measured on SMAC itself: with obs_timestep_number it returns one element more than it declares."""
    everything = Options(
        obs_last_action=True, obs_pathing_grid=True, obs_terrain_height=True, obs_timestep_number=True,
        state_timestep_number=True, reward_only_positive=False,
    )  # fmt: skip
    assert BattleSim("5m_vs_6m", 1, Options(obs_timestep_number=True)).spec.obs_size == 57
    assert (
        BattleSim("5m_vs_6m", 1, Options(obs_timestep_number=True, obs_instead_of_state=True)).spec.state_size
        == 285
    )
    env = BattleSim("5m_vs_6m", 2, everything)
    env.reset(battle_keys(1, "options", 0, 2))
    step = env.step(np.full((2, 5), 2), np.arange(2))
    assert (env.obs[..., -1] == np.float32(1 / 70)).all() and (env.state()[:, -1] == np.float32(1 / 70)).all()
    obs = env.obs[0, 0]
    x, y = (int(v) for v in env.raw[0, 0, :2])
    grid = env.encoding.pathing
    around = [(0, 4), (0, -4), (4, 0), (-4, 0), (2, 2), (-2, -2), (2, -2), (-2, 2)]
    np.testing.assert_array_equal(obs[4:12], [grid[x + dx, y + dy] for dx, dy in around])
    ally = obs[4 + 17 + 6 * 5 :][: 4 * 17].reshape(4, 17)
    np.testing.assert_array_equal(ally[:, 5:], np.eye(12)[[2, 2, 2, 2]])
    assert (step.reward == 0).all()


def test_sparse_reward_is_scaled_too() -> None:
    result = play(BattleSim("3m", 8, Options(reward_sparse=True)), focus_fire, battle_keys(1, "sparse", 0, 8))
    np.testing.assert_allclose(result.returns, np.where(result.won, 1.0, -1.0) / (365 / 20))


def test_losses_cost_when_the_reward_may_be_negative() -> None:
    """Agents that stand still lose 225 points of life and five lives: half of 225 and of 50, scaled by 530 / 20."""
    env = BattleSim("5m_vs_6m", 4, Options(reward_only_positive=False))
    result = play(env, lambda env, battles: env.alive[battles].astype(np.int64), battle_keys(1, "cost", 0, 4))
    np.testing.assert_allclose(result.returns, -0.5 * (225 + 50) / (530 / 20))
