"""Snakemake in a copy of this repository, and what its cells did on the cluster."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dm2core.records.progress import read_attempts
from tests.slurm.cluster import ROOT, Cluster

PARTS = (
    "Snakefile",
    "workflow",
    "config",
    "slurm",
    "profiles",
    "claims",
    "resources",
    "dm2core",
    "environment.yml",
)
SOON = "slurm-init-seconds-before-status-checks: 3"  # the first look at a job; 40 by default
SITE = f"""\
jobs: 3
latency-wait: 10
{SOON}
default-resources:
  - mem_mb=2000
  - runtime=60
  - slurm_partition={{partition}}
"""


@dataclass
class Clone:
    """A copy of the repository, or of another clone with its compiled kernels; it has a configuration of its own."""

    folder: Path
    cluster: Cluster
    config: str
    of: Path = ROOT
    partition: str = "main"
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        for name in PARTS:
            copy = shutil.copytree if (self.of / name).is_dir() else shutil.copy
            copy(self.of / name, self.folder / name)
        (self.folder / "small.yaml").write_text(self.config)
        (self.folder / "site").mkdir()
        (self.folder / "site" / "profile.yaml").write_text(SITE.format(partition=self.partition))
        path = os.pathsep.join([str(Path(sys.executable).parent), self.cluster.environment["PATH"]])
        self.environment = {**self.cluster.environment, "PYTHONPATH": str(self.folder), "PATH": path}

    def snakemake(self, target: str, *arguments: str) -> subprocess.Popen[str]:
        """Started, not waited for; it writes to snakemake.log."""
        # Tests that a script started in the background ignore interrupts, and so would what they start.
        command = [
            "env",
            "--default-signal=INT",
            "snakemake",
            target,
            *arguments,
            "--configfile",
            "small.yaml",
        ]
        with open(self.folder / "snakemake.log", "a") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, text=True
            )

    def copy_site_example(self) -> None:
        """Take slurm/site-example as a user does: for a cluster without accounts."""
        shutil.rmtree(self.folder / "site")
        shutil.copytree(self.folder / "slurm" / "site-example", self.folder / "site")
        path = self.folder / "site" / "profile.yaml"
        lines = path.read_text().splitlines()
        kept = [
            line for line in lines if "slurm_account" not in line and "slurm-partition-config" not in line
        ]
        own = [f"slurm-partition-config: {path.with_name('partitions.yaml')}", SOON]
        path.write_text("\n".join([*kept, *own]))

    def on_slurm(self, target: str, *arguments: str) -> subprocess.Popen[str]:
        """`snakemake --profile slurm`, as typed, with the site's profile after it."""
        return self.snakemake(target, "--profile", "slurm", "--profile", "site", *arguments)

    def unlock(self) -> None:
        """As a user does after the main process died."""
        assert self.snakemake("--unlock").wait(60) == 0, self.said()

    def said(self) -> str:
        return (self.folder / "snakemake.log").read_text()[-5000:]

    @property
    def results(self) -> Path:
        return self.folder / "results" / "smoke"

    def hashes(self) -> dict[str, dict[str, str]]:
        """Every finished cell's outputs by SHA-256."""
        return {cell: manifest["outputs"] for cell, manifest in self.manifests().items()}

    def manifests(self) -> dict[str, dict[str, object]]:
        """Every finished cell's manifest, by the cell's path."""
        root = self.results / "cells"
        paths = sorted(root.glob("**/manifest.json"))
        return {path.parent.relative_to(root).as_posix(): json.loads(path.read_text()) for path in paths}

    def attempts(self, cell: str) -> list[str]:
        """Slurm jobs that trained a finished cell."""
        return [one["slurm_job_id"] for one in self.manifests()[cell]["attempts"]]  # type: ignore[attr-defined]

    def running_cells(self) -> dict[str, str]:
        """Cell by Slurm job, of running jobs whose cell has a checkpoint to go on from."""
        alive, found = self.cluster.running(), {}
        root = self.results / "state" / "cells"
        for path in sorted(root.glob("**/attempts.json")):
            try:
                job = str(read_attempts(path.parent)[1][-1].get("slurm_job_id"))
            except OSError:  # the cell ended this moment
                continue
            cell = path.parent.relative_to(root).as_posix()
            if (
                job in alive
                and (path.parent / "checkpoint").exists()
                and Path(f"/proc/{self.holder(cell)}").exists()
            ):
                found[job] = cell
        return found

    def holder(self, cell: str) -> int:
        """The process that trains a cell, or did: a requeued job keeps its number while its process is a new one."""
        try:
            return int((self.results / "state" / "cells" / cell / "lock").read_text().split()[1])
        except (OSError, IndexError):  # ended, or just starting
            return 0

    def jobs_of(self, job: str) -> list[str]:
        """This job and all others for its cell."""
        jobs = self.cluster.jobs()
        return [name for name, other in jobs.items() if other["comment"] == jobs[job]["comment"]]

    def next_job(self, job: str) -> str:
        """The job that Snakemake submits for the same cell when it has noticed that this one failed."""
        found: list[str] = []

        def submitted() -> list[str]:
            found[:] = [other for other in self.jobs_of(job) if int(other) > int(job)]
            return found

        self.cluster.wait(submitted, 90, f"another job for the cell of job {job}")
        return found[0]

    @contextlib.contextmanager
    def held(self, cell: str) -> Iterator[None]:
        """The cell's process stands still."""
        pid = self.holder(cell)
        assert pid, f"{cell} is not running"
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def log_of(self, cell: str) -> str:
        path = self.results / "logs" / "train_cell" / f"{cell}.log"
        return path.read_text() if path.exists() else ""

    def next_cell(self, hit: dict[str, str], seconds: float = 180) -> tuple[str, str]:
        """A running job, and its cell, that was not hit yet."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for job, cell in self.running_cells().items():
                if cell not in hit:
                    return job, cell
            time.sleep(0.2)
        raise AssertionError(f"no running cell that was not hit within {seconds:g} s: {self.said()}")
