"""The four demonstration sets are what their names say, and damage or a wrong map is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dm2core import demos, evaluate
from dm2core.analysis.grid import VARIANTS, demo_battles
from dm2core.cli import main
from dm2core.config import CellConfig, Config, ConfigError, parse_demos_id
from dm2core.demonstrations import load_demos
from dm2core.demos import choose_checkpoint, make_demos, recall_demos
from dm2core.env.vector import make_env
from dm2core.errors import DataError
from dm2core.records.manifest import NO_SEAL, Manifest, read_manifest, to_bytes
from dm2core.records.verify import verify
from dm2core.rollout import Rollout, collect
from dm2core.types import BattleEnv

K = 12
Sets = dict[str, Path]


def spans(sets: Sets, name: str) -> list[tuple[int, int]]:
    return [(int(a.battle[0]), int(a.battle[-1])) for a in load_demos(sets[f"ippo-q50_{name}"]).agents]


def test_concurrent_agents_share_battles_and_the_others_do_not(demo_sets: Sets) -> None:
    blocks = [(i * K, i * K + K - 1) for i in range(3)]
    assert spans(demo_sets, "joint-concurrent") == [blocks[0]] * 3
    assert spans(demo_sets, "indep-concurrent") == [blocks[0]] * 3
    assert spans(demo_sets, "joint-nonconcurrent") == blocks
    assert spans(demo_sets, "indep-nonconcurrent") == blocks


def test_concurrent_sets_hold_the_same_battles_row_by_row(demo_sets: Sets) -> None:
    for name in ("joint-concurrent", "indep-concurrent"):
        agents = load_demos(demo_sets[f"ippo-q50_{name}"]).agents
        for other in agents[1:]:
            assert np.array_equal(other.lengths, agents[0].lengths)
            assert np.array_equal(other.won, agents[0].won)
            assert not np.array_equal(other.obs, agents[0].obs)


def test_joint_sets_start_with_the_same_battles_of_one_team(demo_sets: Sets) -> None:
    same = load_demos(demo_sets["ippo-q50_joint-concurrent"]).agents
    apart = load_demos(demo_sets["ippo-q50_joint-nonconcurrent"]).agents
    assert np.array_equal(same[0].obs, apart[0].obs)
    assert not np.array_equal(same[1].lengths, apart[1].lengths)


def test_independent_agents_come_from_their_own_team(
    demo_sets: Sets, config: Config, experts: list[Path], tmp_path: Path
) -> None:
    """Agent 0's own-team episodes are the joint set's of team 0; agent 1's those of a joint set of team 1."""
    own = load_demos(demo_sets["ippo-q50_indep-nonconcurrent"]).agents
    joint = load_demos(demo_sets["ippo-q50_joint-nonconcurrent"]).agents
    assert np.array_equal(own[0].obs, joint[0].obs)
    assert not np.array_equal(own[1].obs, joint[1].obs)
    make_demos(config, "3m", "ippo-q50_joint-nonconcurrent", experts[1:], tmp_path / "second")
    assert np.array_equal(own[1].obs, load_demos(tmp_path / "second").agents[1].obs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_plan_knows_how_many_battles_a_set_takes(
    variant: str, config: Config, experts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []

    def counted(env: BattleEnv, *arguments: Any, **options: Any) -> Rollout:
        played.append(env.num_battles)
        return collect(env, *arguments, **options)

    for module in (demos, evaluate):
        monkeypatch.setattr(module, "collect", counted)
    make_demos(config, "3m", f"ippo-q50_{variant}", experts, tmp_path)
    assert sum(played) == demo_battles(config, "3m", f"ippo-q50_{variant}")


def test_the_card_names_every_team_and_the_strangers(demo_sets: Sets) -> None:
    cards = {name: json.loads((path / "card.json").read_text()) for name, path in demo_sets.items()}
    assert [len(card["teams"]) for card in cards.values()] == [1, 1, 3, 3]
    strangers = [card["strangers"] is not None for card in cards.values()]
    assert strangers == [False, False, True, False]
    for card in cards.values():
        for team in card["teams"]:
            assert 0 <= team["win_rate_sampled"] <= 1
            assert team["env_steps"] <= 1500


def test_sampling_again_gives_the_same_bytes(
    demo_sets: Sets, config: Config, experts: list[Path], tmp_path: Path
) -> None:
    name = "ippo-q50_indep-concurrent"
    make_demos(config, "3m", name, experts, tmp_path)
    for file in ("demos.npz", "card.json"):
        assert (tmp_path / file).read_bytes() == (demo_sets[name] / file).read_bytes()


@pytest.mark.parametrize("terminal_row", [True, False])
def test_discriminators_read_whole_episodes(demo_sets: Sets, terminal_row: bool) -> None:
    demos = load_demos(demo_sets["ippo-q50_joint-nonconcurrent"])
    episodes = demos.episodes(torch.float64, terminal_row=terminal_row)
    for i, agent in enumerate(demos.agents):
        assert episodes.length[i].sum() == len(agent.obs) - (0 if terminal_row else K)
        t = np.arange(int(agent.lengths[3]))
        at = int((agent.lengths[:3] + 1).sum())
        rows = episodes.obs[torch.from_numpy(episodes.slots(i, np.full(len(t), 3), t))]
        assert np.array_equal(rows.numpy(), agent.obs[at : at + len(t)])
    assert not episodes.obs[-1].any()


def test_damage_and_wrong_maps_are_refused(
    demo_sets: Sets, cells: dict[str, tuple[CellConfig, Path]], config: Config, tmp_path: Path
) -> None:
    copy = tmp_path / "set"
    shutil.copytree(demo_sets["ippo-q50_joint-concurrent"], copy)
    with pytest.raises(DataError, match="map, agents, obs size"):
        load_demos(copy, None, make_env("3s_vs_3z", 1).spec)
    longest = max(int(agent.lengths.max()) for agent in load_demos(copy).agents)
    shorter = dataclasses.replace(make_env("3m", 1).spec, episode_limit=longest - 1)
    with pytest.raises(DataError, match=f"an episode of {longest} steps, 3m ends at {longest - 1}"):
        load_demos(copy, None, shorter)
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps(card | {"map_sha256": "0" * 64}))
    with pytest.raises(DataError, match="another version of 3m"):
        load_demos(copy, cells["dm2"][0])
    (copy / "card.json").write_text(json.dumps(card))
    greedy_cell = cells["dm2"][0].model_copy(
        update={"discriminator": config.discriminator.model_copy(update={"episodes_per_step": 99})}
    )
    with pytest.raises(DataError, match="12 episodes per agent, but"):
        load_demos(copy, greedy_cell)
    data = bytearray((copy / "demos.npz").read_bytes())
    data[1000] ^= 4
    (copy / "demos.npz").write_bytes(data)
    with pytest.raises(DataError, match="SHA-256"):
        load_demos(copy)


def test_checkpoints_are_chosen_by_steps_or_by_win_rate() -> None:
    rates = [(0, 0.0), (100_000, 0.3), (200_000, 0.7), (300_000, 0.7), (400_000, 1.0)]

    def chosen(select: str) -> int:
        return choose_checkpoint(rates, parse_demos_id(f"ippo-{select}_joint-concurrent"))

    assert chosen("q50") == 300_000
    assert chosen("q25") == 100_000
    assert chosen("s190k") == 200_000
    assert chosen("s9999k") == 400_000


@pytest.mark.parametrize(
    "bad", ["ippo-q50", "ippo-q50_joint", "qmix-q50_joint-concurrent", "ippo-5m_joint-concurrent"]
)
def test_ids_that_mean_nothing_are_errors(bad: str) -> None:
    with pytest.raises(ConfigError, match="not a demonstration set"):
        parse_demos_id(bad)


def test_random_play_and_shuffled_sets_are_controls(
    config: Config, demo_sets: dict[str, Path], experts: list[Path], tmp_path: Path
) -> None:
    make_demos(config, "3m", "random_joint-concurrent", [], tmp_path / "random")
    card = json.loads((tmp_path / "random" / "card.json").read_text())
    assert [team["digest"] for team in card["teams"]] == ["random"]
    played = load_demos(tmp_path / "random").agents[0].actions
    assert {2, 3, 4, 5} <= set(played.tolist())

    make_demos(config, "3m", "ippo-q50_joint-shuffled", experts, tmp_path / "shuffled")
    ours = load_demos(tmp_path / "shuffled").agents[1]
    theirs = load_demos(demo_sets["ippo-q50_joint-concurrent"]).agents[1]
    assert np.array_equal(ours.actions, theirs.actions) and np.array_equal(ours.lengths, theirs.lengths)
    assert np.array_equal(np.sort(ours.obs, axis=0), np.sort(theirs.obs, axis=0))
    changed = (ours.obs != theirs.obs).mean(axis=0)
    varied = (theirs.obs != theirs.obs[0]).mean(axis=0) > 0.3
    assert (changed[varied] > 0.05).all() and varied.any()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / "manifest.json").write_bytes(to_bytes(manifest.model_copy(update={"seal": NO_SEAL})))


def without_demos(folder: Path, to: Path) -> Path:
    """A copy of a set as it is published: its battles, not its observations."""
    shutil.copytree(folder, to)
    (to / "demos.npz").unlink()
    return to


def test_battles_fought_again_give_the_same_file(
    demo_sets: Sets, config: Config, experts: list[Path], tmp_path: Path
) -> None:
    made = dict(demo_sets)
    for name in ("random_joint-nonconcurrent", "ippo-q50_joint-shuffled"):
        made[name] = tmp_path / "made" / name
        make_demos(config, "3m", name, experts, made[name])
    for name, folder in made.items():
        copy = without_demos(folder, tmp_path / name)
        os.utime(copy / "card.json", (10**9, 10**9))
        assert recall_demos(copy)
        assert (copy / "demos.npz").read_bytes() == (folder / "demos.npz").read_bytes()
        assert (copy / "demos.npz").stat().st_mtime == 10**9  # cells made from it are not outdated
        assert not recall_demos(copy)
        assert (copy / "battles.npz").stat().st_size < (copy / "demos.npz").stat().st_size / 5
        assert not {path for path in verify([copy]).damaged if path.parent == copy}


def test_battles_are_fought_in_blocks_whose_size_does_not_show(
    demo_sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dm2core.played.BATTLES", 5)
    copy = without_demos(demo_sets["ippo-q50_indep-nonconcurrent"], tmp_path / "set")
    assert recall_demos(copy)


def test_battles_that_are_not_the_cards_are_refused(
    demo_sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped bit, or arrays that somebody changed and sealed again: one line, exit code 65, and no file."""

    def refused(folder: Path) -> str:
        capsys.readouterr()
        assert main(["recall-demos", str(folder)]) == 65
        assert not (folder / "demos.npz").exists()
        return capsys.readouterr().err

    source = demo_sets["ippo-q50_joint-concurrent"]
    folder = without_demos(source, tmp_path / "flipped")
    data = bytearray((folder / "battles.npz").read_bytes())
    data[len(data) // 2] ^= 4
    (folder / "battles.npz").write_bytes(data)
    assert "SHA-256" in refused(folder)

    folder = without_demos(source, tmp_path / "none")
    manifest = read_manifest(folder / "manifest.json")
    assert isinstance(manifest, Manifest)
    outputs = {name: sha256 for name, sha256 in manifest.outputs.items() if name != "battles.npz"}
    write_manifest(folder, manifest.model_copy(update={"outputs": outputs}))
    assert "keeps no battles" in refused(folder)

    def change(name: str, value: object, said: str) -> None:
        folder = without_demos(source, tmp_path / f"changed {len(list(tmp_path.iterdir()))}")
        with np.load(folder / "battles.npz") as file:
            arrays = {key: file[key] for key in file.files}
        arrays[f"play0/{name}"] = np.asarray(value).astype(arrays[f"play0/{name}"].dtype)
        np.savez_compressed(folder / "battles.npz", **arrays)
        sha256 = hashlib.sha256((folder / "battles.npz").read_bytes()).hexdigest()
        outputs = manifest.outputs | {"battles.npz": sha256}
        write_manifest(folder, manifest.model_copy(update={"outputs": outputs}))
        assert said in refused(folder)

    with np.load(source / "battles.npz") as file:
        keys, lengths, actions = (file[f"play0/{name}"] for name in ("keys", "lengths", "actions"))
    change("actions", np.zeros_like(actions), "cannot be fought")  # the living may not do nothing
    change("actions", actions[1:], "cannot be fought")
    change("lengths", np.zeros_like(lengths), "cannot be fought")
    change("keys", keys[1:], "cannot be fought")
    change("keys", keys[:0], "cannot be fought")
    change("agents", [0, 1, 7], "cannot be fought")
    change("agents", [0, 1], "not the card's")
    change("first", 3, "not the card's")
