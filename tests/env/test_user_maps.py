"""A file of one's own with a unit type and a map: played everywhere, its faults named; docs/env.md and its examples."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dm2core import cli
from dm2core.analysis.grid import demos_digest
from dm2core.config import cell_config, load_config
from dm2core.env import battle
from dm2core.env.map_file import MapRow, UnitRow
from dm2core.env.pettingzoo import parallel_env
from dm2core.env.scenario import add_maps, known_maps, load_scenario
from dm2core.env.scripted import focus_fire, hide, kite, play
from dm2core.env.vector import BattleSim
from dm2core.rng import battle_keys
from dm2core.strict import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config" / "config.yaml"
PAGE = (ROOT / "docs" / "env.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NAME = "3m_vs_4ling"

pytestmark = pytest.mark.usefixtures("own_maps")


def blocks(kind: str) -> list[str]:
    return [text for language, text in BLOCKS if language == kind]


def changed(*path: str, **values: Any) -> str:
    """The example's file with some keys at `path` set, or taken out where the value is ..."""
    data = yaml.safe_load(blocks("yaml")[0])
    at = data
    for key in path:
        at = at[key]
    for key, value in values.items():
        if value is ...:
            del at[key]
        else:
            at[key] = value
    return str(yaml.safe_dump(data))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_maps.yaml"
    path.write_text(blocks("yaml")[0], encoding="utf-8")
    return path


def test_the_python_examples_of_the_page_run(file: Path) -> None:
    """One after the other, in one process."""
    code = "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(blocks("python")) == 5 and "of 64 won" in done.stdout


def test_the_commands_of_the_page_run(file: Path) -> None:
    """A tiny training on the map, an evaluation and a replay of what it learned."""
    (file.parent / "config").symlink_to(CONFIG.parent)
    dm2 = f'dm2() {{ "{sys.executable}" -m dm2core "$@"; }}; set -e\n'
    command = ["bash", "-c", dm2 + blocks("bash")[0]]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^win_rate +[01]\.\d{4}$", done.stdout, re.MULTILINE) and "kite: " in done.stdout
    assert (file.parent / "battle.gif").read_bytes()[:4] == b"GIF8"


def test_the_page_explains_every_key() -> None:
    rows = " ".join(re.findall(r"^\| (`.+?) \|", PAGE, re.MULTILINE))
    named = set(re.findall(r"`(\w+)`", rows))
    assert {*UnitRow.model_fields, *MapRow.model_fields} <= named
    assert {name for name in vars(BattleSim("3m", 1).encoding.options)} <= named


def test_a_map_of_ones_own_is_played(file: Path) -> None:
    shipped = known_maps()
    own = load_scenario(NAME, file)
    assert known_maps() == [*shipped, NAME]
    assert own.rows == (12, 20) and [u.name for u in own.enemies] == ["ling"] * 4
    env = BattleSim(own, 16)
    assert (env.spec.n_agents, env.spec.n_actions, env.spec.episode_limit) == (3, 10, 60)
    assert env.encoding.max_reward == 4 * 10 + 200 + 4 * 35
    result = play(env, focus_fire, battle_keys(1, "own", 0, 16))
    assert ((env.raw[..., 1] >= 12) & (env.raw[..., 1] <= 20)).all()
    assert result.won.any()
    np.testing.assert_allclose(result.returns[result.won], 20.0, atol=1e-9)
    single = parallel_env(NAME, maps_file=file)
    single.reset(seed=1)
    assert single.action_space("agent_0").n == 10 and single.scenario.sha256() == own.sha256()


def test_another_file_cannot_change_the_map_of_the_first(file: Path) -> None:
    own = load_scenario(NAME, file)
    other = file.with_name("other.yaml")
    other.write_text(
        changed("units", "ling", health=500).replace(f"{NAME}:", "lane_of_mine:"), encoding="utf-8"
    )
    with pytest.raises(
        ConfigError, match=f"a unit or terrain of {NAME}, another file's map, is another here"
    ):
        add_maps(other)
    assert load_scenario(NAME).sha256() == own.sha256() and "lane_of_mine" not in known_maps()
    file.write_text(changed("units", "ling", health=500), encoding="utf-8")
    assert load_scenario(NAME, file).enemies[0].health == 500  # its own file may


def test_times_and_speeds_are_per_second(file: Path) -> None:
    ling = load_scenario(NAME, file).enemies[0]
    assert (ling.period, ling.speed) == (0.696 * 16, 2.9531 / 16)
    assert (ling.smac_max_shield, ling.hits, ling.armor, ling.bonus) == (0.0, 1, 0.0, {})


@pytest.mark.parametrize("key", ["health", "damage", "speed"])
def test_the_digest_follows_the_users_map_and_no_other(file: Path, key: str) -> None:
    params = {"episodes_per_update": 16, "ppo_epochs": 2, "clip_eps": 0.2, "imitation_coef": 0.02}
    over: dict[str, Any] = {"scale": "smoke", "maps": {NAME: params}, "maps_file": str(file)}

    def digests() -> tuple[str, str]:
        config = load_config(CONFIG, over)
        sets.add(demos_digest(config, NAME, "random_joint-concurrent"))
        own, shipped = (cell_config(config, map_name=name, method="ippo", seed=1) for name in (NAME, "3m"))
        return own.digest(), shipped.digest()

    sets: set[str] = set()
    without = cell_config(load_config(CONFIG, {"scale": "smoke"}), map_name="3m", method="ippo", seed=1)
    first = digests()
    assert first == digests() and first[1] == without.digest()
    file.write_text("# a comment changes nothing\n" + changed(), encoding="utf-8")
    assert digests() == first
    file.write_text(changed("units", "ling", **{key: 3.0}), encoding="utf-8")
    second = digests()
    assert second[0] != first[0] and second[1] == first[1]
    assert len(sets) == 2


FAULTS = {
    "unknown key": (changed("units", "ling", helth=35), "unknown key 'helth'; did you mean 'health'?"),
    "missing key": (changed("units", "ling", speed=...), "units.ling.speed: missing"),
    "not positive": (changed("units", "ling", health=0), "units.ling.health: input should be greater than 0"),
    "not a number": (changed("units", "ling", range="far"), "units.ling.range: "),
    "not finite": (changed("units", "ling", speed=float("nan")), "units.ling.speed: "),
    "race": (changed("units", "ling", race="human"), "units.ling.race: "),
    "attribute": (changed("units", "ling", bonus={"soft": 1}), "units.ling.bonus.soft"),
    "shield": (changed("units", "ling", shield=10), "only protoss units have shields"),
    "slow missile": (
        changed("units", "ling", missile_speed=2.0),
        "units.ling.missile_speed: too slow for a period: a missile at a marine that runs flies 0.00 of 1.85 cells",
    ),
    "missile at a runner": (changed("units", "ling", missile_speed=5.0), "flies 1.57 of 1.85 cells"),
    "late second hit": (
        changed("units", "ling", hits=2, hit_gap=0.6),
        "units.ling.hit_gap: too long for the period: the next attack, which takes the second hit's place, comes after "
        "0.571 s",
    ),
    "second hit": (changed("units", "ling", hits=2), "hits: 2 needs missile_speed 0 and a hit_gap"),
    "type taken": (changed("units", "ling", smac_type=48), "48 is marine's"),
    "unit of the map": (changed("maps", NAME, enemies={"lings": 4}), "unknown unit 'lings'; did you mean 'ling'?"),
    "no units": (changed("maps", NAME, allies={}), f"maps.{NAME}.allies: "),
    "terrain": (changed("maps", NAME, terrain="lan"), "unknown terrain 'lan'; did you mean 'lane'?"),
    "rows": (changed("terrains", lane=[20, 12]), "terrains.lane: [20, 12] is no range of rows"),
    "rows of the map": (changed("terrains", lane=[12, 40]), "reach beyond a map of 32 x 32 cells"),
    "start": (changed("maps", NAME, ally_spawn=[9, 2]), "a marine would start at"),
    "two teams in one place": (changed("maps", NAME, ally_spawn=[23, 16]), "inside another unit"),
    "shipped map": (changed("maps", **{"3m": {}}), "maps.3m"),
    "shipped unit": (changed().replace("ling:", "marine:"), "units.marine: this name is taken"),
    "no maps": ("units: {}", "maps: missing"),
    "twice": ("maps: {}\nmaps: {}", "maps: stands twice (line 2)"),
    "no mapping": ("[1, 2]", "expected a mapping"),
    "no YAML": ("maps: {", "not valid YAML"),
    "name": (changed("maps", **{"a/b": yaml.safe_load(changed())["maps"][NAME]}), "maps.a/b"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_changes_nothing(
    fault: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = FAULTS[fault]
    add_maps(file)
    before = load_scenario(NAME)
    file.write_text(text, encoding="utf-8")
    train = ["train", "--config", str(CONFIG), "--set", "scale=smoke", "--set", f"maps_file={file}"]
    train += ["--map", NAME, "--method", "ippo", "--seed", "1", "--out", str(file.with_name("cell"))]
    replay = ["replay", "--who", "kite", "--map", NAME, "--maps-file", str(file), "--out", "a.gif"]
    evaluate = ["evaluate", "--policy", "none", "--maps-file", str(file)]
    for command in (train, replay, evaluate):
        assert cli.main(command) == 2
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1 and expected in error and str(file) in error, error
    assert load_scenario(NAME).sha256() == before.sha256()


def test_the_slowest_missile_that_is_taken_hits_a_runner_and_a_slower_one_is_refused(file: Path) -> None:
    """The rule for missiles is what the kernel needs: every shot at enemies that walk away arrives."""
    shooter = {"damage": 10, "range": 6, "period": 1.0, "speed": 3.0}
    for missile_speed, taken in ((11.3, True), (11.1, False)):  # (speed - 2.25) 14/16 s against 7.75 cells
        text = changed("units", "ling", missile_speed=missile_speed, **shooter)
        file.write_text(text.replace("limit: 60", "enemy_spawn: [15, 16]\n    limit: 60"), encoding="utf-8")
        if not taken:
            with pytest.raises(ConfigError, match=r"flies 7\.74 of 7\.75 cells"):
                add_maps(file)
            continue
        env = BattleSim(load_scenario(NAME, file), 32)
        env.reset(battle_keys(1, "missiles", 0, 32))
        live, shots, damage = np.arange(32), 0, 0.0
        while live.size:
            before = env.save(live)
            step = env.step(hide(env, live), live)
            after = env.save(live)
            cooldown = [saved["_floats"][:, battle.COOLDOWN, 3:] for saved in (before, after)]
            shots += int((cooldown[1] > cooldown[0]).sum())
            damage += float((before["raw"][:, :3, 2] - after["raw"][:, :3, 2]).sum())
            live = live[~(step.terminated | step.truncated)]
        assert shots > 100 and damage == 10 * shots


def test_kiting_on_a_larger_map_is_not_drawn_to_where_the_shipped_maps_have_their_middle(file: Path) -> None:
    """The enemies come from the east, along y = 40."""
    units: dict[str, Any] = {"allies": {"stalker": 3}, "enemies": {"zealot": 3}, "limit": 150}
    text = changed("maps", NAME, **units, size=[64, 64], ally_spawn=[40, 40], enemy_spawn=[54, 40])
    file.write_text(text.replace("- 12", "- 0").replace("- 20", "- 64"), encoding="utf-8")
    env = BattleSim(load_scenario(NAME, file), 8)
    env.reset(battle_keys(1, "large", 0, 8))
    live = np.arange(8)
    for _ in range(60):
        env.step(kite(env, live), live)
    assert env.alive.all() and env.raw[:, :3, 1].min() > 32


def test_a_scenario_changed_by_hand_needs_a_place_for_every_unit() -> None:
    scenario = load_scenario("3m")
    crowd = dataclasses.replace(scenario, enemies=scenario.enemies * 3)
    with pytest.raises(ValueError, match=r"start must have shape \(12, 2\), one place a unit, got \(6, 2\)"):
        BattleSim(crowd, 1)


def test_a_map_without_hyper_parameters_says_how_to_give_them(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--config", str(CONFIG), "--set", "scale=smoke", "--set", f"maps_file={file}"]
    train += ["--map", NAME, "--method", "ippo", "--seed", "1", "--out", str(file.with_name("cell"))]
    assert cli.main(train) == 2
    line = capsys.readouterr().err
    assert f"maps: {NAME} has no hyper-parameters; give them: --set 'maps.{NAME}={{" in line
    assert "unknown" not in line


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.yaml"
    assert cli.main(["replay", "--who", "kite", "--maps-file", str(path), "--out", "a.gif"]) == 2
    assert capsys.readouterr().err == f"dm2: {path}: no such file\n"
