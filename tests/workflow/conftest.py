"""Snakemake as a user calls it, in a folder of its own; every file of tests starts from copies of one finished run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ("--configfile", str(ROOT / "config" / "scale" / "smoke.yaml"))


@dataclass(frozen=True)
class Outcome:
    """What one call of Snakemake said."""

    code: int
    text: str

    @property
    def plan(self) -> dict[str, int]:
        """Jobs per rule, from the first table of job counts."""
        table = re.search(r"^job +count\n[- ]+\n(.*?)\n *\n", self.text, re.DOTALL | re.MULTILINE)
        rows = re.findall(r"^(\w+) +(\d+)$", table[1], re.MULTILINE) if table else []
        return {name: int(count) for name, count in rows if name not in ("total", "all", "cells")}

    @property
    def cells(self) -> set[str]:
        """Cells that ran or would run, by their folder."""
        return set(re.findall(r"--out \S*?/cells/(\S+)", self.text))


def snakemake(folder: Path, *arguments: str) -> Outcome:
    """Call Snakemake on this repository's workflow with `folder` as working directory."""
    command: Sequence[str] = (sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), *arguments)
    where = ("--directory", str(folder), "--nocolor", "--printshellcmds")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / ".cache")}
    done = subprocess.run(
        [*command, *where],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=600,
        check=False,
    )
    return Outcome(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke run with one seed, through the real command line, in a path with a space.

    It is made once for all of pytest's workers: to be copied, not changed.
    """
    everybodys = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        everybodys = everybodys.parent
    folder = everybodys / "smoke run"
    with FileLock(everybodys / "smoke run.lock"):
        if not folder.exists():
            being_made = tmp_path_factory.mktemp("smoke run")
            cores = str(min(2, os.cpu_count() or 1))
            outcome = snakemake(being_made, "--cores", cores, *SMOKE, "--config", "seeds=[112358]")
            assert outcome.code == 0, outcome.text[-6000:]
            assert outcome.plan == {
                "train_expert": 3,
                "sample_demos": 4,
                "train_cell": 5,
                "collect_scores": 1,
                "plot_demo_ablation": 1,
            }
            being_made.rename(folder)
    return folder


@pytest.fixture(scope="session")
def smoke(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished smoke run, which tests may add to."""
    folder = tmp_path_factory.mktemp("copy of the smoke run")
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    return folder
