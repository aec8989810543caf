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
# The demonstrations' battles, and 2 x 512 that measure each team and, among strangers, the team that they make.
BATTLES = {
    "ippo-s5000k_joint-concurrent": 1000 + 1024,
    "ippo-s5000k_joint-nonconcurrent": 5 * 1000 + 1024,
    "ippo-s5000k_indep-concurrent": 1000 + 6 * 1024,
    "ippo-s5000k_indep-nonconcurrent": 5 * 1000 + 5 * 1024,
}
SETS = [f"r/demos/5m_vs_6m/{name}/card.json" for name in BATTLES]
Job = dict[str, Any]


def asked(folder: Path, *targets: str, **config: str) -> dict[str, Job]:
    """What each job of a dry run at scale paper asks for, by its map and its method or set."""
    command = [sys.executable, "-c", DRY_RUN, "-s", str(ROOT / "Snakefile"), "-n", "--cores", "99"]
    where = ("--profile", str(ROOT / "slurm"), "--directory", str(folder))
    given = [f"{key}={value}" for key, value in {"scale": "paper", "results": "r", **config}.items()]
    done = subprocess.run(
        [*command, *where, "--config", *given, "--", *targets],
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
    targets = [*cells("5m_vs_6m/ippo", "5m_vs_6m/qmix", "5m_vs_6m/qmix_fc3", "5m_vs_6m/rmappo"), *SETS]
    return asked(
        tmp_path_factory.mktemp("game"), *targets, "r/experts/5m_vs_6m/qmix/seed1/manifest.json", env="smac"
    )


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    return asked(
        tmp_path_factory.mktemp("simulator"),
        *cells("5m_vs_6m/ippo", "5m_vs_6m/rmappo", "5m_vs_6m/qmix", "3s_vs_5z/qmix", "8m_vs_9m/qmix"),
        "r/experts/5m_vs_6m/qmix/seed1/manifest.json",
        *SETS,
    )


def test_qmix_asks_for_twice_the_time_of_the_others_in_the_simulator(simulator: dict[str, Job]) -> None:
    assert {name: job["runtime"] for name, job in simulator.items() if "concurrent" not in name} == {
        "5m_vs_6m ippo": 30 + 500,
        "5m_vs_6m rmappo": 30 + 500,
        **dict.fromkeys(("5m_vs_6m qmix", "3s_vs_5z qmix", "8m_vs_9m qmix"), 30 + 1000),
        "expert 5m_vs_6m ippo": 30 + 500,
        "expert 5m_vs_6m qmix": 30 + 1000,
    }
    assert {job["threads"] for job in simulator.values()} == {1}


def test_a_cell_asks_for_three_gigabytes_and_qmix_for_a_full_replay(
    simulator: dict[str, Job], game: dict[str, Job]
) -> None:
    assert {name: job["mem_mb"] for name, job in simulator.items() if "concurrent" not in name} == {
        **dict.fromkeys(("5m_vs_6m ippo", "5m_vs_6m rmappo", "5m_vs_6m qmix"), 3000),
        **dict.fromkeys(("expert 5m_vs_6m ippo", "expert 5m_vs_6m qmix"), 3000),
        "3s_vs_5z qmix": 3114,
        "8m_vs_9m qmix": 4158,
    }
    page = (ROOT / "docs" / "slurm.md").read_text()
    assert "| 3,000 MB × attempt |" in page and "3,114 MB on 3s_vs_5z, 4,158 MB on 8m_vs_9m" in page
    assert {name: job["mem_mb"] for name, job in game.items() if "concurrent" not in name} == {
        **dict.fromkeys(("5m_vs_6m ippo", "expert 5m_vs_6m ippo"), 3000 + GAMES * 1500),
        "5m_vs_6m rmappo": 3000 + 2 * GAMES * 1500,
        **dict.fromkeys(("5m_vs_6m qmix", "5m_vs_6m qmix_fc3", "expert 5m_vs_6m qmix"), 2000 + 1662 + 1500),
    }


def test_four_demonstration_sets_share_a_job_in_the_simulator(simulator: dict[str, Job]) -> None:
    sets = {name.split()[1]: job for name, job in simulator.items() if "concurrent" in name}
    (group,) = {job.pop("group") for job in sets.values()}
    assert set(sets) == set(BATTLES) and group is not None
    assert all(job == {"mem_mb": 2000, "runtime": 30, "threads": 1} for job in sets.values())


def test_each_demonstration_set_has_a_job_and_time_for_its_battles_in_the_game(game: dict[str, Job]) -> None:
    sets = {name.split()[1]: job for name, job in game.items() if "concurrent" in name}
    assert len({job.pop("group") for job in sets.values()}) == len(BATTLES)
    assert sets == {
        name: {
            "mem_mb": 2000 + GAMES * 1500,
            "runtime": 30 + 70 * battles // (1500 * GAMES),
            "threads": 1 + GAMES,
        }
        for name, battles in BATTLES.items()
    }


def test_third_attempts_fit_the_examples_partition_without_gpus(
    simulator: dict[str, Job], game: dict[str, Job]
) -> None:
    file = ROOT / "slurm" / "site-example" / "partitions.yaml"
    limits = yaml.safe_load(file.read_text())["partitions"]["cpu"]
    more = max(job["mem_mb"] for job in simulator.values())  # with every attempt; games take no more
    short = {name: job for name, job in game.items() if "qmix" not in name}  # see docs/starcraft.md
    for name, job in [*simulator.items(), *short.items()]:
        assert 3 * job["runtime"] <= 1440 * int(limits["max_runtime"].removesuffix("d")), name
        assert job["mem_mb"] + 2 * more <= limits["max_mem_mb"], name
        assert job["threads"] <= limits["max_threads"], name


def test_a_cell_in_the_game_asks_for_the_games_that_its_method_plays_on(game: dict[str, Job]) -> None:
    def minutes(games: int) -> int:
        return 30 + 10_000_000 // (1500 * games)

    seen = {name: (job["threads"], job["runtime"]) for name, job in game.items() if "concurrent" not in name}
    assert seen == {
        "5m_vs_6m ippo": (1 + GAMES, minutes(GAMES)),
        "5m_vs_6m rmappo": (1 + GAMES, minutes(GAMES)),
        "5m_vs_6m qmix": (2, minutes(1)),
        "5m_vs_6m qmix_fc3": (2, minutes(1)),
        "expert 5m_vs_6m ippo": (1 + GAMES, minutes(GAMES)),
        "expert 5m_vs_6m qmix": (2, minutes(1)),
    }
