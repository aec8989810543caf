"""The commands with the game: train, demonstrations, DM2, evaluation, stop and go on, transfer both ways."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.smac.conftest import needs_smac
from tests.smac.tree import ROOT, all_end, environment, game_pids, make_tree, script

pytestmark = [pytest.mark.smac, needs_smac]

SETTINGS = {
    "env": "smac",
    "scale": "smoke",
    "smac.games": 3,
    "smac.start_gap_s": 0.1,
    "budget.env_steps": 1500,
    "budget.expert_env_steps": 1500,
    "demos.card_episodes": 16,
}


class Lab:
    """A folder with the configuration, and the stand-in as its game."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tree = folder, make_tree(folder / "StarCraftII")
        shutil.copytree(ROOT / "config", folder / "config")

    def start(self, command: str, *arguments: str, **changes: Any) -> subprocess.Popen[str]:
        options: list[str] = []
        if command != "evaluate":
            given = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
            options = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
        return subprocess.Popen(
            [sys.executable, "-m", "dm2core", command, *arguments, *options],
            cwd=self.folder,
            env=environment(self.tree),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def dm2(self, command: str, *arguments: str, code: int = 0, **changes: Any) -> str:
        """Run one command; what it said."""
        process = self.start(command, *arguments, **changes)
        out, error = process.communicate(timeout=300)
        assert process.returncode == code, error
        return out if code == 0 else error

    def train(self, method: str, out: str, *more: str, **keywords: Any) -> dict[str, Any]:
        arguments = ("--map", "3m", "--method", method, "--seed", "1", "--out", out, *more)
        self.dm2("train", *arguments, **keywords)
        manifest: dict[str, Any] = json.loads((self.folder / out / "manifest.json").read_text())
        return manifest

    def verify(self, folder: str) -> tuple[int, str]:
        """Exit code of `dm2 verify`, and what it calls damaged."""
        done = subprocess.run(
            [sys.executable, "-m", "dm2core", "verify", folder],
            cwd=self.folder,
            env=environment(self.tree),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, "\n".join(
            line for line in done.stdout.splitlines() if line.startswith("damaged")
        )

    def metrics(self, out: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for row in pq.read_table(self.folder / out / "metrics.parquet").to_pylist():
            found.setdefault(row["key"], []).append(row["value"])
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab with a trained expert."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    lab.train("ippo", "expert", "--expert")
    return lab


def test_an_expert_its_demonstrations_and_dm2_on_them(lab: Lab) -> None:
    told = ("--map", "3m", "--id", "ippo-q50_joint-concurrent", "--experts", "expert", "--out", "demos")
    lab.dm2("demos", *told)
    manifest = lab.train("dm2", "cell", "--demos", "demos")
    assert manifest["config"]["env"] == "smac"
    assert manifest["game"]["game_version"].startswith("4.10.0")
    metrics = lab.metrics("cell")
    assert set(metrics["train/env_restarts"]) == set(metrics["eval/episodes_discarded"]) == {0.0}
    assert metrics["disc/loss"] and all_end(game_pids(lab.tree))


def test_policies_go_both_ways_and_the_result_says_where_they_come_from(lab: Lab) -> None:
    lab.train("ippo", "simulated", env="embedded")
    results = {}
    for trained, played in (("simulated", "smac"), ("expert", "sim")):
        policy = f"{trained}/policy.safetensors"
        games = ("--games", "2") if played == "smac" else ()
        lab.dm2("evaluate", "--policy", policy, "--env", played, "--episodes", "6", *games)
        files = set((lab.folder / "results/transfer").glob("3m-*.json")) - set(results.values())
        (path,) = [file for file in files if ".manifest" not in file.name]
        results[trained] = path
        found = json.loads(path.read_text())
        assert found["policy"]["env"] == ("embedded" if trained == "simulated" else "smac")
        assert found["played"]["env"] == ("smac" if played == "smac" else "embedded")
        assert found["played"]["episodes"] == 6 and 0.0 <= found["result"]["win_rate"] <= 1.0
        assert bool(found["game"]) == (played == "smac")
    assert lab.verify("results/transfer") == (0, "")
    results["expert"].write_text(results["expert"].read_text().replace('"episodes": 6', '"episodes": 7'))
    code, damaged = lab.verify("results/transfer")
    assert code == 65 and results["expert"].name in damaged


def test_failures_are_counted_in_the_metrics_and_hurt_nothing(lab: Lab) -> None:
    numbers = [len(game_pids(lab.tree)) + 1 + k for k in range(2)]
    script(
        lab.tree,
        **{str(n): {"at": "step", "count": 150 * (k + 1), "do": "die"} for k, n in enumerate(numbers)},
    )
    lab.train("ippo", "hurt")
    (lab.tree / "faults.json").unlink()
    metrics = lab.metrics("hurt")
    restarts, discarded = (
        sum(metrics[f"train/{key}"]) + sum(metrics[f"eval/{key}"])
        for key in ("env_restarts", "episodes_discarded")
    )
    assert restarts == 2.0 and discarded <= 2.0


@pytest.mark.parametrize("method", ["qmix", "dm2_sil", "rmappo"])
def test_every_other_way_of_learning_stops_goes_on_and_survives_a_dead_game(lab: Lab, method: str) -> None:
    told = ("--map", "3m", "--method", method, "--seed", "3", "--out", method, "--state", f"{method}.state")
    first = len(game_pids(lab.tree)) + 1
    script(lab.tree, **{str(first): {"at": "step", "count": 40, "do": "die"}})
    more = {"qmix.replay_episodes": 40, "rmappo.steps": 100}
    changes = {"budget__env_steps": 6000, **{key.replace(".", "__"): value for key, value in more.items()}}
    process = lab.start("train", *told, **changes)
    until = time.monotonic() + 200
    while not list((lab.folder / f"{method}.state").glob("checkpoint*")) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    (lab.tree / "faults.json").unlink()
    assert process.returncode == 75, error
    lab.dm2("train", *told, **changes)
    metrics = lab.metrics(method)
    assert sum(metrics["train/env_restarts"] + metrics["eval/env_restarts"]) == 1.0
    assert len(metrics["train/env_restarts"]) >= 2 and all_end(game_pids(lab.tree))


def test_a_game_that_keeps_failing_ends_the_cell_with_69_and_the_log(lab: Lab) -> None:
    script(lab.tree, all={"at": "step", "count": 30, "do": "die"})
    told = ("--map", "3m", "--method", "ippo", "--seed", "1", "--out", "failed")
    error = lab.dm2("train", *told, code=69)
    (lab.tree / "faults.json").unlink()
    last = error.splitlines()[-1]
    assert "failed 6 times" in last and "about to die" in last and "Traceback" not in error
    lab.train("ippo", "failed")  # the same command goes on


def test_a_stopped_cell_ends_its_games_and_goes_on_later(lab: Lab) -> None:
    told = ("--map", "3m", "--method", "ippo", "--seed", "2", "--out", "stopped", "--state", "state")
    process = lab.start("train", *told, budget__env_steps=4000)
    until = time.monotonic() + 120
    while not list((lab.folder / "state").glob("checkpoint*")) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert time.monotonic() - sent < 10
    assert all_end(game_pids(lab.tree))
    assert os.listdir(lab.folder / "state")
    lab.dm2("train", *told, budget__env_steps=4000)
    assert (lab.folder / "stopped" / "manifest.json").exists() and not (lab.folder / "state").exists()
