"""What jobs ask a scheduler for, in the simulator and in the real game, under the profile for Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT

# The messages of the rules hide what a dry run knows of resources, so its log records are read.
DRY_RUN = """
import json, logging, sys
from snakemake.cli import main

class Asked(logging.Handler):
    group = 0
    def emit(self, record):
        event = getattr(record, "event", None)
        self.group += event == "group_info"
        if event == "job_info":
            asked = {key: record.resources.get(key) for key in ("mem_mb", "runtime")} | {"threads": record.threads}
            asked["group"] = self.group if record.indent else None
            print("asked", json.dumps([record.rule_name, dict(record.wildcards), asked]))

logging.getLogger("snakemake").addHandler(Asked())
sys.exit(main(sys.argv[1:]))
"""
GAMES = 8
Job = dict[str, Any]


def asked(folder: Path, *targets: str, **config: str) -> dict[str, Job]:
    """What each job of a dry run at scale paper asks for, by its map and method or set; cells come before experts."""
    command = [
        sys.executable,
        "-c",
        DRY_RUN,
        "-s",
        str(ROOT / "Snakefile"),
        "-n",
        "--profile",
        str(ROOT / "slurm"),
    ]
    given = [f"{key}={value}" for key, value in {"scale": "paper", "results": "r", **config}.items()]
    done = subprocess.run(
        [*command, "--cores", "99", "--directory", str(folder), "--config", *given, "--", *targets],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / ".cache")},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.removeprefix("asked ") for line in done.stdout.splitlines() if line.startswith("asked ")]
    jobs: dict[str, Job] = {}
    for rule, wildcards, job in map(json.loads, lines):
        name = "expert " * (rule == "train_expert") + f"{wildcards['map']} "
        jobs[name + (wildcards.get("method") or wildcards["demos_id"])] = job
    return jobs


def cells(*names: str) -> list[str]:
    return [f"r/cells/{name}/none/seed1/manifest.json" for name in names]


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    targets = cells("5m_vs_6m/ippo", "5m_vs_6m/qmix", "5m_vs_6m/qmix_fc3", "5m_vs_6m/rmappo")
    return asked(
        tmp_path_factory.mktemp("game"), *targets, "r/experts/5m_vs_6m/qmix/seed1/manifest.json", env="smac"
    )


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    return asked(
        tmp_path_factory.mktemp("simulator"),
        *cells("5m_vs_6m/ippo", "5m_vs_6m/rmappo", "5m_vs_6m/qmix"),
        "r/experts/5m_vs_6m/qmix/seed1/manifest.json",
    )


def test_qmix_asks_for_twice_the_time_of_the_others_in_the_simulator(simulator: dict[str, Job]) -> None:
    assert {name: job["runtime"] for name, job in simulator.items()} == {
        "5m_vs_6m ippo": 30 + 500,
        "5m_vs_6m rmappo": 30 + 500,
        "5m_vs_6m qmix": 30 + 1000,
        "expert 5m_vs_6m qmix": 30 + 1000,
    }
    assert {job["threads"] for job in simulator.values()} == {1}


def test_the_third_attempt_of_every_cell_fits_the_examples_partitions(simulator: dict[str, Job]) -> None:
    limits = yaml.safe_load((ROOT / "slurm" / "site-example" / "partitions.yaml").read_text())["partitions"][
        "cpu"
    ]
    for name, job in simulator.items():
        assert 3 * job["runtime"] <= 1440 * int(limits["max_runtime"].removesuffix("d")), name
        assert 3 * job["mem_mb"] <= limits["max_mem_mb"] and job["threads"] <= limits["max_threads"], name


def test_a_cell_in_the_game_asks_for_the_games_that_its_method_plays_on(game: dict[str, Job]) -> None:
    def minutes(games: int) -> int:
        return 30 + 10_000_000 // (1500 * games)

    seen = {name: (job["threads"], job["runtime"]) for name, job in game.items()}
    assert seen == {
        "5m_vs_6m ippo": (1 + GAMES, minutes(GAMES)),
        "5m_vs_6m rmappo": (1 + GAMES, minutes(GAMES)),
        "5m_vs_6m qmix": (2, minutes(1)),
        "5m_vs_6m qmix_fc3": (2, minutes(1)),
        "expert 5m_vs_6m qmix": (2, minutes(1)),
    }
    assert (
        game["5m_vs_6m rmappo"]["mem_mb"] - game["5m_vs_6m ippo"]["mem_mb"] == 8 * 1500
    )  # of its own battles
    assert game["5m_vs_6m qmix"]["mem_mb"] < game["5m_vs_6m ippo"]["mem_mb"] - 6 * 1500
