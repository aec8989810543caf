"""`dm2 replay`: the battle drawn is the battle played, the picture is deterministic, bad input is one line."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from dm2core import replay
from dm2core.cli import main
from dm2core.env import scripted
from dm2core.env.draw import ALLY, ENEMY, LIFE
from dm2core.env.vector import BattleSim
from dm2core.errors import EXIT_DATA, EXIT_USAGE
from dm2core.nets import Actor
from dm2core.records.checkpoint import save_tensors
from dm2core.records.manifest import NO_SEAL, Manifest, read_manifest, seal
from dm2core.rng import battle_keys
from dm2core.rollout import collect


def _policy(path: Path, map_name: str = "3m") -> Actor:
    spec = BattleSim("3m", 1).spec
    actor = Actor(spec.n_agents, spec.obs_size + spec.n_actions + spec.n_agents, spec.n_actions, 16)
    actor.init(torch.Generator().manual_seed(3))
    save_tensors(path, actor.state_dict(), {"map": map_name})
    return actor


@pytest.mark.parametrize("map_name", ["3m", "2s3z"])
def test_a_recording_is_the_battle_as_the_script_plays_it(map_name: str) -> None:
    played = scripted.play(BattleSim(map_name, 4), scripted.focus_fire, battle_keys(7, "evaluation", 0, 4))
    recording = replay.record(map_name, "focus_fire", 7, 2)
    assert len(recording.rewards) == played.lengths[2]
    assert recording.rewards.sum() == played.returns[2]
    assert (recording.outcome == "won") == played.won[2]
    dead = recording.raw[-1, :, 2] <= 0
    assert dead.any()


def test_a_recording_is_the_battle_as_the_policy_plays_it(tmp_path: Path) -> None:
    actor = _policy(tmp_path / "policy.safetensors")
    keys = battle_keys(5, "evaluation", 0, 6)
    for greedy in (True, False):
        played = collect(BattleSim("3m", 6), actor, None, keys, greedy=greedy, compute="fused")
        recording = replay.record("3m", str(tmp_path / "policy.safetensors"), 5, 4, greedy=greedy)
        assert len(recording.rewards) == played.lengths[4]
        np.testing.assert_allclose(recording.rewards.sum(), played.episode_return[4], rtol=1e-6)


def test_shots_are_those_that_did_damage() -> None:
    """On a marine map every loss of life follows a shot at that unit in the same step."""
    recording = replay.record("3m", "focus_fire", 0, 0)
    fired = replay._fired(recording, replay.load_scenario("3m"))
    for t, shots in enumerate(fired):
        hurt = np.flatnonzero(recording.raw[t + 1, :, 2] < recording.raw[t, :, 2])
        alive = {int(u) for u in hurt if recording.raw[t + 1, u, 2] > 0}
        assert alive <= {victim for _, victim, _ in shots} | set(recording.targets[t].tolist())
    assert sum(map(len, fired)) >= 20


def test_gif_strip_and_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        out = tmp_path / f"{name}.gif"
        assert main(["replay", "--who", "focus_fire", "hide", "--map", "3m", "--out", str(out)]) == 0
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as gif, Image.open(tmp_path / "a.png") as strip:
        assert gif.n_frames > 60
        assert gif.width == 760
        shown = np.asarray(gif.convert("RGB")).astype(int)
        for colour in (LIFE, ALLY, ENEMY):  # of few pixels, and what tells the units apart
            assert (np.abs(shown - colour).max(-1) < 10).sum() >= 20
        assert strip.width == 2 * gif.width
    assert "focus fire: won" in capsys.readouterr().out
    assert main(["replay", "--who", "random", "--map", "3m", "--out", str(tmp_path / "r.npz")]) == 0
    again = replay.Recording.load(tmp_path / "r.npz")
    np.testing.assert_array_equal(again.raw, replay.record("3m", "random", 0, 0).raw)
    drawn = {}
    for name, who in (("c", [str(tmp_path / "r.npz")]), ("d", ["random", "--map", "3m"])):
        assert main(["replay", "--who", *who, "--out", str(tmp_path / f"{name}.gif")]) == 0
        with Image.open(tmp_path / f"{name}.gif") as gif:
            drawn[name] = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    np.testing.assert_array_equal(drawn["c"], drawn["d"])


def test_a_drawn_recording_was_computed_where_it_was_recorded(tmp_path: Path) -> None:
    recording, drawn = tmp_path / "r.npz", tmp_path / "d.gif"
    assert main(["replay", "--who", "kite", "--map", "3m", "--out", str(recording)]) == 0
    manifest = recording.with_suffix(".manifest.json")
    text = re.sub(r'"cpu_capability": \[[^]]*\]', '"cpu_capability": ["ELSEWHERE"]', manifest.read_text())
    manifest.write_bytes(seal(re.sub(r'"seal": "\w*"', f'"seal": "{NO_SEAL}"', text).encode()))
    assert main(["replay", "--who", str(recording), "--out", str(drawn)]) == 0
    about = read_manifest(drawn.with_suffix(".manifest.json"))
    assert isinstance(about, Manifest) and about.numerics["cpu_capability"] == ["ELSEWHERE"]
    assert not [why for why in about.not_for_publication if "mixed" in why]


def test_a_policy_of_a_map_that_is_not_known_here_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "policy.safetensors")
    _policy(tmp_path / "policy.safetensors", "3m_vs_4ling")
    for command in (
        ["replay", "--who", path, "--out", str(tmp_path / "x.gif")],
        ["evaluate", "--policy", path],
    ):
        assert main(command) == EXIT_DATA
        line = capsys.readouterr().err
        assert len(line.splitlines()) == 1 and "unknown map '3m_vs_4ling'" in line and "--maps-file" in line


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _policy(tmp_path / "policy.safetensors")
    for name in ("broken.safetensors", "broken.npz"):
        (tmp_path / name).write_bytes(b"no")
    battle = replay.record("3m", "kite", 0, 0)
    battle.save(tmp_path / "r.npz")
    for name, wrong in (
        ("short", {"raw": battle.raw[:-1]}),
        ("odd", {"outcome": "fled"}),
        ("nan", {"raw": battle.raw * np.nan}),
    ):
        dataclasses.replace(battle, **wrong).save(tmp_path / f"{name}.npz")
    shutil.copy(tmp_path / "policy.safetensors", tmp_path / "other.safetensors")
    out = str(tmp_path / "x.gif")
    assert main(["replay", "--who", "kite", "--map", "3m", "--out", str(tmp_path / "k.npz")]) == 0
    (tmp_path / "no policy").mkdir()
    capsys.readouterr()
    for arguments, code in (
        (
            ["--who", str(tmp_path / "k.npz"), "--out", str(tmp_path / "k.gif")],
            EXIT_USAGE,
        ),  # k's manifest is taken
        (["--who", str(tmp_path / "no policy"), "--out", out], EXIT_USAGE),
        (["--who", str(tmp_path / "nobody.npz"), "--out", out], EXIT_USAGE),
        (["--who", "kite", "--map", "3m", "--battle", str(10**22), "--out", out], EXIT_USAGE),
        (["--who", "zerg_rush", "--map", "3m", "--out", out], EXIT_USAGE),
        (["--who", "kite", "--out", out], EXIT_USAGE),
        (["--who", "kite", "--map", "9m", "--out", out], EXIT_USAGE),
        (["--who", "kite", "--map", "3m", "--out", str(tmp_path / "x.mp4")], EXIT_USAGE),
        (["--who", "kite", "kite", "kite", "--map", "3m", "--out", out], EXIT_USAGE),
        (["--who", str(tmp_path / "r.npz"), "--map", "3s_vs_3z", "--out", out], EXIT_USAGE),
        *(
            (["--who", f"{tmp_path}/{bad}.npz", "--out", out], EXIT_DATA)
            for bad in ("broken", "short", "odd", "nan")
        ),
        (["--who", str(tmp_path / "broken.safetensors"), "--map", "3m", "--out", out], EXIT_DATA),
        (["--who", str(tmp_path / "other.safetensors"), "--map", "3s_vs_3z", "--out", out], EXIT_DATA),
    ):
        assert main(["replay", *arguments]) == code, arguments
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "x.gif").exists()
    assert list(read_manifest(tmp_path / "k.manifest.json").outputs) == ["k.npz"]
